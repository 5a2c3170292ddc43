"""The mask-agnostic loss: against a slow twin, by its gradient, and no distance where MASKs behind do nothing."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.laws.test_resume import Watcher, distance, five_steps, same, settings, trainer
from torch import Tensor

from unmask.errors import ConfigError
from unmask.model.dit import DiT
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.noise import generator
from unmask.objective.base import Draw, Rows, Turn
from unmask.objective.mask_agnostic import MaskAgnostic, _numbers, appended
from unmask.objective.masked import Masked
from unmask.process import MaskedDiffusion
from unmask.train.settings import AgnosticSettings, TextRun

V, MASK, WINDOW = 6, 5, 9
PLAIN = Masked(MaskedDiffusion(MASK))
LOSS = MaskAgnostic(PLAIN, masks=4)


def network(**changes: object) -> DiT:
    """A random network over five tokens and MASK."""
    shape = DiTSettings(vocab_size=V, mask_id=MASK, max_length=WINDOW, width=16, blocks=2, heads=2, dropout=0.0)
    model = build(replace(shape, **changes), 3)  # pyright: ignore[reportArgumentType]
    assert isinstance(model, DiT)
    with torch.no_grad():
        for param in model.parameters():
            param += 0.3 * torch.randn(param.shape, generator=generator(param.numel()))
    return model.eval()


def batch() -> Rows:
    """Rows of 6, 4, 6 and 9 tokens, the first token of the second known; the last one fills the window."""
    ids = torch.randint(0, MASK, (4, WINDOW), generator=generator(1))
    valid = torch.arange(WINDOW) < torch.tensor([6, 4, 6, 9])[:, None]
    maskable = valid.clone()
    maskable[1, 0] = False
    return Rows(ids.where(valid, 0), maskable, valid)


def drawn(step: int = 0, loss: MaskAgnostic = LOSS) -> Draw:
    return loss.draw(7, step, torch.arange(4), 4, batch().maskable)


def twin(model: DiT, row: list[int], hidden: list[int], counts: tuple[int, int], p: float, n: int) -> Tensor:
    """The loss of a row as it is written in the paper, times its number of maskable tokens; 1/2 for the mean."""
    predictions: list[Tensor] = []
    for count in counts:
        tokens = torch.tensor([[MASK if at in hidden else token for at, token in enumerate(row)] + [MASK] * count])
        logits = model.logits(model.hidden(tokens))[0]
        predictions.append(logits.index_fill(-1, torch.tensor([MASK]), -torch.inf).softmax(-1))
    cross = sum((-predicted[at, row[at]].log() for predicted in predictions for at in hidden), torch.zeros(()))
    apart = sum(((predictions[0][at] - predictions[1][at]).abs().sum() for at in hidden), torch.zeros(()))
    most = max(len(hidden), 1)
    return n * (LOSS.cross_entropy / (2 * p * most) * cross + LOSS.variation * p / most * apart)


def twins(model: DiT, draw: Draw) -> Tensor:
    """The slow twin of all rows of a draw."""
    rows, (hide, share, most, first, second) = batch(), draw
    assert rows.valid is not None
    losses: list[Tensor] = []
    for row in range(4):
        size = int(rows.valid[row].sum())
        space = min(int(most[row]), WINDOW - size)
        pairs = list(itertools.permutations(range(space + 1), 2)) or [(0, 0)]
        a = int(float(first[row]) * (space + 1))
        counts = [pair for pair in pairs if pair[0] == a][int(float(second[row]) * space)] if space else pairs[0]
        hidden = hide[row].nonzero().squeeze(-1).tolist()
        n = int(rows.maskable[row].sum())
        losses.append(twin(model, rows.ids[row, :size].tolist(), hidden, counts, float(share[row]), n))
    return torch.stack(losses)


@pytest.mark.parametrize("step", range(4))
def test_the_loss_and_its_gradient_are_those_of_the_twin(step: int) -> None:
    model, draw = network(), drawn(step)
    loss = LOSS.loss(model, batch(), draw)
    assert torch.allclose(loss.nats, twins(model, draw).float(), atol=1e-5)
    assert loss.tokens.tolist() == [6, 3, 6, 9]
    params = list(model.parameters())
    ours = torch.autograd.grad(loss.nats.sum(), params)
    theirs = torch.autograd.grad(twins(model, draw).sum(), params)
    assert max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)) < 1e-4
    halved = replace(LOSS, variation=LOSS.variation / 2)  # the control: half of the absolute differences
    assert not torch.allclose(halved.loss(model, batch(), draw).nats, loss.nats, atol=1e-3)


def test_the_gradient_is_the_slope() -> None:
    """Central differences along a random direction; the control is the gradient of the bound."""
    model, draw = network(), drawn()
    params = list(model.parameters())
    gradient = torch.autograd.grad(LOSS.loss(model, batch(), draw).nats.sum(), params)
    hide, share, *_ = draw
    plain = torch.autograd.grad(PLAIN.loss(model, batch(), (hide, 1 / share, share)).nats.sum(), params)
    direction = [torch.randn(param.shape, generator=generator(param.numel() + 1)) for param in params]
    values: list[float] = []
    for size in (1e-3, -2e-3):
        with torch.no_grad():
            for param, way in zip(params, direction, strict=True):
                param += size * way
            values.append(float(LOSS.loss(model, batch(), draw).nats.double().sum()))
    slope = (values[0] - values[1]) / 2e-3
    ours, other = (float(sum((a * b).sum() for a, b in zip(g, direction, strict=True))) for g in (gradient, plain))
    assert abs(ours - slope) < 0.01 * abs(slope) + 1e-3
    assert abs(other - slope) > 0.1 * abs(slope)


def test_the_expectation_is_that_of_the_twin() -> None:
    """Over all maskings of three tokens at p = 1/2 and all pairs of numbers; the control has p inside the sum wrong."""
    model, count, row = network(), 4000, [1, 3, 0]
    loss = replace(LOSS, masks=2, shares=(0.5, 0.5))
    with torch.no_grad():
        subsets = [[at for at in range(3) if code >> at & 1] for code in range(8)]
        pairs = list(itertools.permutations(range(3), 2))
        exact = float(torch.stack([twin(model, row, s, pair, 0.5, 3) for s in subsets for pair in pairs]).mean())
        ids = torch.tensor([row]).repeat(count, 1)
        rows = Rows(ids, torch.ones_like(ids, dtype=torch.bool), None)
        draw = loss.draw(5, 0, torch.arange(count), count, rows.maskable)
        nats = loss.loss(model, rows, draw).nats.double()
    error = float(nats.std()) / count**0.5
    assert abs(float(nats.mean()) - exact) < 4 * error
    assert abs(float(nats.mean()) - exact / 0.875) > 4 * error  # as if no draw hid nothing


def test_a_network_that_ignores_masks_behind_has_no_distance() -> None:
    """A causal network does not see them. The control attends to all positions."""
    only = replace(LOSS, cross_entropy=0.0)
    causal, full = network(causal_block=1), network()
    with torch.no_grad():
        ours, control = (
            sum(float(only.loss(model, batch(), drawn(step)).nats.sum()) for step in range(4))
            for model in (causal, full)
        )
        assert ours < 1e-5
        assert control > 0.1
        assert float(LOSS.loss(causal, batch(), drawn()).nats.sum()) > 0.1


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    model, draw, rows = network(), drawn(), batch()
    whole = LOSS.loss(model, rows, draw).nats
    for row in range(4):
        index = torch.tensor([row])
        part = LOSS.loss(model, rows.part(index, torch.device("cpu")), tuple(x[index] for x in draw)).nats
        assert torch.allclose(part, whole[index], atol=1e-5)
    some = LOSS.draw(7, 0, torch.tensor([2]), 4, rows.maskable[2:3])
    assert all(torch.equal(a, b[2:3]) for a, b in zip(some, draw, strict=True))


def test_two_numbers_differ_and_all_pairs_are_alike() -> None:
    size = 3
    grid = (torch.arange(12, dtype=torch.float64) + 0.5) / 12
    first, second = (x.flatten() for x in torch.meshgrid(grid, grid, indexing="ij"))
    a, b = _numbers(torch.full((144,), size), first, second)
    counts = (a * 10 + b).unique(return_counts=True)[1]
    assert len(counts) == 12  # ordered pairs of 0 .. 3
    assert set(counts.tolist()) == {12}
    assert bool((a != b).all())
    assert [x.tolist() for x in _numbers(torch.zeros(2, dtype=torch.int64), grid[:2], grid[:2])] == [[0, 0], [0, 0]]


def test_masks_stand_behind_the_text() -> None:
    tokens, valid = appended(torch.tensor([[1, 2, 0], [3, 4, 5]]), torch.tensor([2, 3]), torch.tensor([2, 0]), 9)
    assert tokens[:, :4].tolist() == [[1, 2, 9, 9], [3, 4, 5, 9]]
    assert valid[:, :4].tolist() == [[True] * 4, [True, True, True, False]]
    assert not bool(valid[:, 4:].any())


def test_the_number_of_masks_rises_and_the_shares_are_spread() -> None:
    loss = replace(LOSS, masks=10, rise=5, shares=(0.25, 0.75))
    most = [int(drawn(step, loss)[2][0]) for step in range(7)]
    assert most == [2, 4, 6, 8, 10, 10, 10]
    share = loss.draw(0, 0, torch.arange(64), 64, torch.ones(64, 3, dtype=torch.bool))[1]
    assert bool(((share.sort().values - torch.linspace(0.25, 0.75, 64)).abs() < 0.02).all())


def test_a_network_that_reads_the_time_gets_the_share_of_masks() -> None:
    times: list[Tensor] = []

    class Timed(DiT):
        def hidden(self, tokens: Tensor, *, time: Tensor | None = None, **rest: Any) -> Tensor:
            assert time is not None
            times.append(time)
            return super().hidden(tokens, time=time, **rest)

    model = Timed(replace(network().settings, modulation="time")).eval()
    draw = drawn()
    LOSS.loss(model, batch(), draw)
    assert all(bool(((time > 0) & (time <= 1)).all()) for time in times)
    assert float(times[0][3]) == pytest.approx(float(draw[1][3]))  # no space: the share of the row


def test_it_is_judged_by_the_bound() -> None:
    model, turn = network(), Turn(3, torch.arange(4), 4)
    ours, plain = (objective.bound(model, batch(), turn).nats for objective in (LOSS, PLAIN))
    assert torch.equal(ours, plain)


def agnostic(run: TextRun, **changes: object) -> TextRun:
    return replace(run, agnostic=replace(AgnosticSettings(masks=6, rise=4), **changes))  # pyright: ignore


def test_micro_batches_change_nothing(tmp_path: Path) -> None:
    """With dropout, which is equal in both copies; the control is a training by the bound."""
    whole, parts = (five_steps(trainer(agnostic(settings(accumulate=n)), tmp_path / str(n))) for n in (1, 4))
    assert distance(parts, whole) < 1e-5
    assert distance(five_steps(trainer(settings(), tmp_path / "plain")), whole) > 1e-3


def test_a_resumed_run_is_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = trainer(agnostic(settings()), tmp_path / "whole")
    whole.fit(Watcher())
    assert whole.model.max_length == 16 + 6
    part = trainer(agnostic(settings()), tmp_path / "resumed")
    for _ in range(6):
        part.take_step()
    part.save()
    part.saver.publish()
    again = trainer(agnostic(settings()), tmp_path / "resumed")
    assert again.restore()
    again.fit(Watcher())
    assert same(again, whole)


def test_what_does_not_go_with_it_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"agnostic\.shares are 0\.8 and 0\.2; give the smaller one first"):
        AgnosticSettings(shares=(0.8, 0.2))
    with pytest.raises(ConfigError, match="are both 0; nothing would be learned"):
        AgnosticSettings(cross_entropy=0, variation=0)
    with pytest.raises(ConfigError, match=r"agnostic\.masks is -1; give a whole number of at least 0"):
        AgnosticSettings(masks=-1)
