"""The example of a plug-in policy: installed as a user would, found by name, and true to the contract."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin-policy"


def call(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that also sees `path`."""
    return subprocess.run(
        [sys.executable, *words],
        env=os.environ | {"PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.long
def test_the_example_is_installed_found_and_used(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(folder),
        str(EXAMPLE),
    ]
    installed = call(tmp_path, *pip)
    assert installed.returncode == 0, installed.stderr
    listed = call(folder, "-m", "unmask.cli.main", "list", "policies")
    assert "outside-in" in listed.stdout
    words = ["generate", "automaton", "aABCDEF", "--length", "6", "--policy", "outside-in:threshold=0.5", "--json"]
    done = call(folder, "-m", "unmask.cli.main", *words)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["texts"][0]) >= 7
    wrong = call(folder, "-m", "unmask.cli.main", *words[:6], "outside-in:speed=2")
    assert wrong.returncode == 2
    assert "does not take these options" in wrong.stderr
    unknown = call(tmp_path, "-m", "unmask.cli.main", *words)  # the control: not installed, not found
    assert unknown.returncode == 2
    assert "no policy named 'outside-in'" in unknown.stderr
    contract = call(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE / "tests"))
    assert contract.returncode == 0, contract.stdout
