"""What dropout drops is a function of seed, step, site, global row, position and channel, and of nothing else."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unmask.model.dit import DiT
from unmask.model.layers import add_branch, site_keys
from unmask.model.settings import DiTSettings
from unmask.noise import DROPOUT, row_keys

P, WIDTH = 0.1, 32


def kept(rows: Tensor, length: int, *, seed: int = 1, step: int = 0, sites: int = 2, width: int = WIDTH) -> Tensor:
    """(sites, B, L, width) float64: 1 where a branch of ones is kept, as `add_branch` drops it."""
    every = site_keys(row_keys(seed, step, rows, DROPOUT), sites, torch.arange(length))
    zero, ones = torch.zeros(2, len(rows), length, width, dtype=torch.float64)
    ones += 1
    return torch.stack([add_branch(zero, ones, None, P, keys) > 0 for keys in every]).double()


def score(left: Tensor, right: Tensor) -> float:
    """The correlation of two arrays of kept elements in standard deviations of independent ones."""
    return float(((left - (1 - P)) * (right - (1 - P))).mean()) / (P * (1 - P)) * math.sqrt(left.numel())


def test_a_row_drops_the_same_alone_elsewhere_and_padded() -> None:
    """The control: rows counted from the start of a micro-batch."""
    whole = kept(torch.arange(6), 12)
    assert torch.equal(kept(torch.tensor([4]), 12)[:, 0], whole[:, 4])
    assert torch.equal(kept(torch.tensor([5, 0, 4]), 12), whole[:, [5, 0, 4]])
    assert torch.equal(kept(torch.arange(6), 30)[:, :, :12], whole)
    assert torch.equal(kept(torch.arange(6), 12, width=WIDTH - 1), whole[..., :-1])  # half a word is left over
    assert not torch.equal(kept(torch.arange(3), 12), whole[:, 3:])


@pytest.mark.parametrize("p", [0.02, 0.1, 0.5, 0.9])
def test_rate_and_scale(p: float) -> None:
    """1 - p of the elements stay, and are scaled so that the mean stays; the control: another rate."""
    (keys,) = site_keys(row_keys(3, 5, torch.arange(50), DROPOUT), 1, torch.arange(100))
    ones = torch.ones(50, 100, 64, dtype=torch.float64)
    output = add_branch(torch.zeros_like(ones), ones, None, p, keys)
    met = round(p * 2**16) / 2**16
    assert output.unique().tolist() == [0, pytest.approx(1 / (1 - met), rel=1e-12)]
    deviation = math.sqrt(p * (1 - p) / ones.numel())
    rate = float((output == 0).double().mean())
    assert abs(rate - p) < 4.5 * deviation
    assert abs(rate - p * 1.1) > 4.5 * deviation


def test_what_is_dropped_is_uncorrelated() -> None:
    """Between sites, rows, steps, seeds, positions and channels; the control: the same keys at two sites."""
    rows, length = torch.arange(40), 64
    whole = kept(rows, length, sites=4)
    pairs = {
        "sites": (whole[0], whole[1]),
        "layers": (whole[0], whole[2]),
        "rows": (whole[:, :-1], whole[:, 1:]),
        "steps": (whole, kept(rows, length, step=1, sites=4)),
        "seeds": (whole, kept(rows, length, seed=2, sites=4)),
        "positions": (whole[:, :, :-1], whole[:, :, 1:]),
        "channels": (whole[..., :-1], whole[..., 1:]),
        "halves of a word": (whole[..., ::2], whole[..., 1::2]),
        "rows and positions": (whole[:, :-1, 1:], whole[:, 1:, :-1]),
        "sites and rows": (whole[:-1, 1:], whole[1:, :-1]),
    }
    assert {name: value for name, pair in pairs.items() if abs(value := score(*pair)) > 4.5} == {}
    for axis in range(4):  # no site, row, position or channel is dropped more often than another
        means = whole.transpose(0, axis).flatten(1)
        z = (means.mean(1) - (1 - P)) / math.sqrt(P * (1 - P) / means.shape[1])
        assert float(z.abs().max()) < 4.5
    assert score(whole[0], whole[0]) > 100


def network(**changes: object) -> DiT:
    """A small network whose blocks do something from the start."""
    torch.manual_seed(2)
    model = DiT(DiTSettings(9, 8, 24, 16, 2, 2, dropout=0.3, **changes))  # pyright: ignore[reportArgumentType]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.train()


@pytest.mark.parametrize("changes", [{}, {"modulation": "time", "cond": 8}])
def test_a_network_drops_the_same_in_any_batch(changes: dict[str, object]) -> None:
    """Through all layers, with the padding of another batch; the controls: other rows, another step, no keys."""
    model = network(**changes)
    tokens, rows = torch.arange(60).view(5, 12) % 9, torch.tensor([3, 1, 0, 7, 2])

    def hidden(tokens: Tensor, rows: Tensor | None, step: int = 4, pad: int = 0) -> Tensor:
        model.dropout_keys = None if rows is None else row_keys(1, step, rows, DROPOUT)
        valid = torch.arange(12 + pad).expand(len(tokens), -1) < 12
        time = torch.full((len(tokens),), 0.5) if model.time_conditioned else None
        return model.hidden(torch.nn.functional.pad(tokens, (0, pad)), valid=valid, time=time)[:, :12]

    whole = hidden(tokens, rows)
    torch.testing.assert_close(hidden(tokens[2:4], rows[2:4]), whole[2:4], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(hidden(tokens.flip(0), rows.flip(0), pad=9).flip(0), whole, rtol=1e-4, atol=1e-4)
    for other in (hidden(tokens, rows + 1), hidden(tokens, rows, step=5), hidden(tokens, None)):
        assert bool(((other - whole).abs().amax((1, 2)) > 1e-2).all())
    model.eval()
    assert torch.equal(hidden(tokens, rows), hidden(tokens, None))


def test_nothing_is_drawn_from_the_global_generator() -> None:
    """The control: torch's own dropout draws."""
    model, state = network(), torch.get_rng_state()
    model.dropout_keys = row_keys(1, 0, torch.arange(2), DROPOUT)
    model.hidden(torch.zeros(2, 6, dtype=torch.int64)).sum().backward()
    assert torch.equal(torch.get_rng_state(), state)
    torch.nn.functional.dropout(torch.ones(3))
    assert not torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
def test_a_compiled_network_drops_the_same() -> None:
    """One implementation: the traced pass and its gradients are the eager ones; the control: another step."""
    model, tokens = network(), torch.arange(24).view(2, 12) % 9
    compiled = torch.compile(model.hidden, backend="aot_eager")  # the graphs, without the C++ compiler

    def gradient(hidden: Callable[[Tensor], Tensor], step: int) -> Tensor:
        model.dropout_keys = row_keys(1, step, torch.arange(2), DROPOUT)
        model.zero_grad()
        hidden(tokens).square().sum().backward()
        assert model.embedding.weight.grad is not None
        return model.embedding.weight.grad.clone()

    for step in (0, 1):
        torch.testing.assert_close(gradient(compiled, step), gradient(model.hidden, step), rtol=1e-4, atol=1e-4)
    assert float((gradient(compiled, 1) - gradient(model.hidden, 0)).abs().max()) > 1e-2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
def test_the_hash_of_some_positions_is_compiled_to_the_same_bits() -> None:
    """Where a product of 32 bits overflowed in C++, the indices of positions were said to be out of bounds."""

    def some(keys: Tensor, picked: Tensor) -> Tensor:
        return add_branch(torch.zeros(208, 64), torch.ones(208, 64), None, P, keys.flatten(1)[:, picked])

    keys, picked = site_keys(row_keys(1, 0, torch.arange(8), DROPOUT), 2, torch.arange(64)), torch.randperm(512)[:208]
    bits = torch.compile(some)(keys[1], picked)
    assert torch.equal(bits, some(keys[1], picked))
    assert not torch.equal(bits, some(keys[0], picked))  # the control
