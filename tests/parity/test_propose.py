"""Fast twins of the decoding loop against plain ones, bit for bit."""

import pytest
import torch

from unmask.decode.propose import two_best
from unmask.noise import POLICY, TOKENS, uniform


@pytest.mark.parametrize("size", [3, 1000, 1024, 1100, 8191, 8192])
@pytest.mark.parametrize("kind", ["any", "ties", "flat", "one"])
def test_two_best_is_argmax_and_topk(size: int, kind: str) -> None:
    """Ties go left, wherever the chunks end; the last place wins where it is the highest."""
    values = torch.randn(33, size, generator=torch.Generator().manual_seed(size))
    if kind == "ties":
        values = (2 * values).round()
    if kind == "flat":
        values = torch.full_like(values, -1.0)
    if kind == "one":
        values[:, :-1] = -torch.inf
    place, best = two_best(values)
    assert torch.equal(place, values.argmax(-1))
    assert torch.equal(best, values.topk(2).values)
    if kind == "ties":
        assert not torch.equal(place, size - 1 - values.flip(-1).argmax(-1))  # the control: they do not go right


@pytest.mark.parametrize("stream", [TOKENS, POLICY])
def test_few_rows_are_hashed_as_many_are(stream: int) -> None:
    """Row by row in plain integers, or as a tensor: the same numbers, of seeds at both ends of int64 too."""
    seed = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), *range(100, 140)])[:, None]
    step, place = torch.arange(len(seed))[:, None] * 977, torch.arange(20)[None]
    many = uniform(seed, step, place, stream)
    for row in range(len(seed)):
        one = slice(row, row + 1)
        assert torch.equal(uniform(seed[one], step[one], place, stream), many[one])
    assert not torch.equal(uniform(seed[:1], step[1:2], place, stream), many[:1])
