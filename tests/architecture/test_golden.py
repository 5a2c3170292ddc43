"""The comparison with golden files: it accepts what is equal, and nothing else."""

from typing import Any

import pytest
from tests.conftest import golden_difference

STORED = {"losses": [1.0, 200.0], "ids": [3, 4], "text": "a", "none": None}


def test_equal_data_and_small_differences_pass() -> None:
    assert golden_difference(STORED, STORED, 0.0) is None
    assert golden_difference(STORED, STORED | {"losses": [1.0009, 200.1]}, 1e-3) is None


@pytest.mark.parametrize(
    "change",
    [
        {"losses": [1.002, 200.0]},
        {"losses": [1.0, 200.3]},
        {"losses": [1.0]},
        {"losses": [1.0, float("nan")]},
        {"ids": [3, 5]},
        {"text": "b"},
        {"none": 0},
        {"more": 1},
    ],
)
def test_every_other_difference_is_told(change: dict[str, Any]) -> None:
    assert golden_difference(STORED, STORED | change, 1e-3) is not None
