"""The contract of policies, checked by `check_policy`."""

import pytest
from outside_in import OutsideIn

from unmask.testing import check_policy


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("block_size", [None, 4])
def test_the_contract(temperature: float, block_size: int | None) -> None:
    check_policy(OutsideIn, temperature=temperature, block_size=block_size)
