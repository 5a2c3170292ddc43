"""For every test: a cache of its own, two threads, a processor that is safe to compute on, and golden files."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

from unmask.run.machine import prepare

prepare()  # before anything is computed: see unmask/run/machine.py
if "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(min(2, os.cpu_count() or 1))

# A busy machine is no failure: nothing here is timed.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--golden` rewrites the golden files instead of comparing with them; with `--no-skips` a skip is a failure."""
    parser.addoption("--golden", action="store_true", help="rewrite tests/golden/*.json from what the code does now")
    parser.addoption("--no-skips", action="store_true", help="a test that is skipped has failed")


def _counted(config: pytest.Config, report: Any) -> Any:
    """A report of a test or of a module -> the same; with `--no-skips` a failure instead of a skip."""
    if report.skipped and config.getoption("--no-skips") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"--no-skips: {report.longrepr[2]}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """After each part of a test."""
    return _counted(item.config, (yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    """After a module is imported, which can be skipped as a whole."""
    return _counted(collector.config, (yield))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or fills the user's cache."""
    os.environ["UNMASK_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`golden(name, value, tolerance=0.0)`: compare plain data with tests/golden/NAME.json.

    Numbers may differ by tolerance * max(1, |stored|); everything else must be equal.
    """

    def check(name: str, value: Any, tolerance: float = 0.0) -> None:
        path = GOLDEN / f"{name}.json"
        if request.config.getoption("--golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(value, indent=1) + "\n")
            return
        assert path.exists(), f"{path} is missing: run 'make golden' and read what it wrote"
        difference = golden_difference(json.loads(path.read_text()), json.loads(json.dumps(value)), tolerance)
        assert difference is None, f"{path.name}: {difference}; if that is meant, run 'make golden' and read the diff"

    return check


def golden_difference(stored: Any, value: Any, tolerance: float, where: str = "value") -> str | None:
    """The first difference in words, or None."""
    if isinstance(stored, dict) and isinstance(value, dict):
        if stored.keys() != value.keys():
            return f"{where} has the keys {sorted(value)}, stored are {sorted(stored)}"
        pairs = [(stored[key], value[key], f"{where}.{key}") for key in stored]
    elif isinstance(stored, list) and isinstance(value, list):
        if len(stored) != len(value):
            return f"{where} has {len(value)} items, stored are {len(stored)}"
        pairs = [(old, new, f"{where}[{index}]") for index, (old, new) in enumerate(zip(stored, value, strict=True))]
    elif isinstance(stored, float) and isinstance(value, int | float):
        close = math.isclose(stored, value, rel_tol=0.0, abs_tol=tolerance * max(1.0, abs(stored)))
        return None if close else f"{where} is {value}, stored is {stored}"
    else:
        return None if stored == value else f"{where} is {value!r}, stored is {stored!r}"
    return next((text for pair in pairs if (text := golden_difference(*pair[:2], tolerance, pair[2]))), None)
