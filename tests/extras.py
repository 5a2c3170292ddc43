"""Libraries of an extra in tests, which are marked `extras`: without them a test is skipped with a sentence.

`make extras` runs these tests in an environment that has all of them, where a skip is a failure (`--no-skips`).
"""

from typing import Any

import pytest


def library(name: str, extra: str) -> Any:
    """Name of a module and of its extra -> the module; skips the test, or the module of tests, without it."""
    return pytest.importorskip(name, reason=f"{name} is not installed: pip install 'unmask[{extra}]', or make extras")
