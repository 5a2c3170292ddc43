"""Tests of optional libraries: skipped with a sentence without them, and a failure where skips are forbidden."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = """
import sys
import pytest
sys.modules["immunum"] = sys.modules["transformers"] = sys.modules["lm_eval"] = None
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


PLACES = {
    "antibody": "tests/contract/test_antibody.py::test_the_package_itself_finds_the_cdr3_of_a_chain",
    "hf": "tests/parity/test_masked_lm.py",  # a whole module
    "harness": "tests/contract/test_harness.py",
}


@pytest.mark.slow
@pytest.mark.parametrize("options, codes", [(["-m", "extras"], {0}), (["-m", "extras", "--no-skips"], {1, 2})])
def test_without_libraries(options: list[str], codes: set[int]) -> None:
    words = [sys.executable, "-c", RUN, *PLACES.values(), *options, "--continue-on-collection-errors"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    for extra in PLACES:
        assert f"is not installed: pip install 'unmask[{extra}]', or make extras" in done.stdout
    assert done.returncode in codes
