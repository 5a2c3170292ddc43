"""Fast functions of the decoding loop against plain twins, bit for bit."""

import pytest
import torch

from unmask.decode.propose import two_best
from unmask.model.soft import best_tokens
from unmask.noise import POLICY, TOKENS, uniform


@pytest.mark.parametrize("size", [3, 1000, 1024, 1100, 8191, 8192])
@pytest.mark.parametrize("case", ["random", "ties", "constant", "last"])
def test_two_best_is_argmax_and_topk(size: int, case: str) -> None:
    """Of equal values the left is taken, also across chunks; the last position is taken where it is the highest."""
    values = torch.randn(33, size, generator=torch.Generator().manual_seed(size))
    if case == "ties":
        values = (2 * values).round()
    if case == "constant":
        values = torch.full_like(values, -1.0)
    if case == "last":
        values[:, :-1] = -torch.inf
    index, best = two_best(values)
    assert torch.equal(index, values.argmax(-1))
    assert torch.equal(best, values.topk(2).values)
    if case == "ties":
        assert not torch.equal(index, size - 1 - values.flip(-1).argmax(-1))  # the control: not the right one


@pytest.mark.parametrize("size", [3, 1000, 1024, 1100, 8191])
@pytest.mark.parametrize("count", [3, 4, 9])
def test_best_values_are_those_of_topk(size: int, count: int) -> None:
    values = torch.randn(33, size, generator=torch.Generator().manual_seed(size))
    values[:11] = (2 * values[:11]).round()  # ties, within chunks and across them
    values[11:22, count:] = -torch.inf
    values[22] = values[22].sort().values  # all of them in the last chunk
    assert torch.equal(best_tokens(values, count)[0], values.topk(min(count, size)).values)


@pytest.mark.parametrize("stream", [TOKENS, POLICY])
def test_few_rows_have_the_noise_of_many(stream: int) -> None:
    """Row by row in Python integers, or as a tensor: equal numbers, also for seeds at both ends of int64."""
    seed = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), *range(100, 140)])[:, None]
    step, position = torch.arange(len(seed))[:, None] * 977, torch.arange(20)[None]
    many = uniform(seed, step, position, stream)
    for row in range(len(seed)):
        part = slice(row, row + 1)
        assert torch.equal(uniform(seed[part], step[part], position, stream), many[part])
    assert not torch.equal(uniform(seed[:1], step[1:2], position, stream), many[:1])
