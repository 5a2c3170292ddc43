"""The bounds by which candidates are compared: exact for an exact model, and different with a wrong weight."""

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import unmask.fill.score
from unmask.fill.score import conditional_nats, whole_nats
from unmask.noise import uniform
from unmask.testing import TableDenoiser, random_language

V, L = 2, 6
JOINT = random_language(V, L, seed=5, sharpness=2.0)
TABLE = TableDenoiser(JOINT)
ROW = [0, 1, 1, 0, 1, 0]


class Unsure(TableDenoiser):
    """An inconsistent model: its temperature depends on the number of visible tokens, so that orders disagree."""

    def hidden(self, tokens: Tensor, **options: Tensor | None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        seen = (tokens != self.mask_id).sum(-1)[:, None, None]
        return (super().hidden(tokens, **options) * (0.4 + 0.2 * seen)).log_softmax(-1)


@dataclass
class Recording:
    """A denoiser that records the tokens and times of its calls."""

    table: TableDenoiser
    vocab_size: int = V + 1
    mask_id: int = V
    max_length: int = L
    time_conditioned: bool = True

    def __post_init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor | None]] = []

    def hidden(
        self,
        tokens: Tensor,
        *,
        valid: Tensor | None = None,
        time: Tensor | None = None,
        positions: Tensor | None = None,
        prompt: Tensor | None = None,
    ) -> Tensor:
        self.calls.append((tokens, time))
        return self.table.hidden(tokens, valid=valid)

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden


def exact(context: dict[int, int], more: dict[int, int]) -> float:
    """-log p(more | context), by summing the joint."""

    def mass(known: dict[int, int]) -> float:
        fits = [all(row[at] == token for at, token in known.items()) for row in TABLE.sequences().tolist()]
        return float(JOINT.flatten()[torch.tensor(fits)].sum())

    return math.log(mass(context)) - math.log(mass(context | more))


def question(chosen: list[int], hidden: list[int]) -> tuple[Tensor, Tensor, float]:
    """(ROW with MASK at `hidden`, the chosen positions, the exact -log p of the chosen tokens)."""
    tokens = torch.tensor([ROW]).index_fill(1, torch.tensor(hidden, dtype=torch.int64), V)
    where = torch.zeros_like(tokens, dtype=torch.bool)
    where[0, chosen] = True
    context = {at: ROW[at] for at in range(L) if at not in chosen and at not in hidden}
    return tokens, where, exact(context, {at: ROW[at] for at in chosen})


QUESTIONS = [([3], []), ([0, 5], [2]), ([1, 2, 4], []), ([0, 1, 2, 3], [5]), (list(range(L)), [])]


@pytest.mark.parametrize("chosen, hidden", QUESTIONS)
@pytest.mark.parametrize("orders", [2, 32])
def test_of_the_exact_posterior_every_order_gives_the_conditional_law(
    chosen: list[int], hidden: list[int], orders: int
) -> None:
    tokens, where, truth = question(chosen, hidden)
    bound = conditional_nats(TABLE, tokens, where, orders=orders, seed=3, batch=5)
    assert bool(bound.exact) == (2 ** len(chosen) - 1 <= orders * len(chosen))
    assert float(bound.nats) == pytest.approx(truth, abs=1e-5)
    assert float(bound.stderr) < 1e-6


@pytest.mark.parametrize("orders, name", [(2, "_drawn_sets"), (32, "_all_sets")])
def test_a_broken_weight_is_seen(monkeypatch: pytest.MonkeyPatch, orders: int, name: str) -> None:
    right = getattr(unmask.fill.score, name)
    monkeypatch.setattr(
        unmask.fill.score, name, lambda *arguments: (right(*arguments)[0], right(*arguments)[1].clone().fill_(0.25))
    )
    tokens, where, truth = question([0, 1, 2, 3], [5])
    bound = conditional_nats(TABLE, tokens, where, orders=orders, seed=3)
    assert abs(float(bound.nats) - truth) > 0.1


def test_the_mean_over_all_orders_is_that_of_the_permutations() -> None:
    model, chosen = Unsure(JOINT), [0, 2, 3, 5]
    tokens, where, truth = question(chosen, [])
    paths = []
    for order in itertools.permutations(chosen):
        path = 0.0
        for at in range(len(order)):
            seen = tokens.index_fill(1, torch.tensor(order[at:]), V)
            path -= float(model.hidden(seen)[0, order[at], ROW[order[at]]])
        paths.append(path)
    mean = sum(paths) / len(paths)
    assert max(paths) - min(paths) > 0.5  # orders disagree, so that a single order would be noticed
    counted = conditional_nats(model, tokens, where, orders=4)
    assert bool(counted.exact)
    assert float(counted.nats) == pytest.approx(mean, abs=1e-5)
    assert abs(mean - truth) > 0.01  # and this model is not exact
    drawn = [conditional_nats(model, tokens, where, orders=3, seed=seed) for seed in range(60)]
    assert not bool(drawn[0].exact)
    wrong = torch.stack([(bound.nats - mean)[0] for bound in drawn])
    error = torch.stack([bound.stderr[0] for bound in drawn]).square().mean().sqrt()
    assert abs(float(wrong.mean())) < 4 * float(error) / math.sqrt(60)
    assert 0.6 < float(wrong.std() / error) < 1.6


def test_rows_with_the_same_number_of_chosen_tokens_use_the_same_orders() -> None:
    model = Unsure(JOINT)
    tokens, where, _ = question([0, 1, 2, 3, 4, 5], [])
    both = conditional_nats(model, tokens.expand(2, -1), where.expand(2, -1), orders=3, seed=1)
    assert bool((both.nats[0] == both.nats[1]) & ~both.exact.any())
    assert float(both.nats[0]) != float(conditional_nats(model, tokens, where, orders=3, seed=2).nats)


def whole(tokens: Tensor, valid: Tensor, draws: int = 1000) -> Tensor:
    keys = torch.arange(L).expand(len(tokens), -1)
    return whole_nats(TABLE, tokens, keys, valid=valid, draws=draws, seed=7, batch=512)


def test_the_bound_of_a_whole_text_is_its_law_and_a_shorter_text_has_the_marginal() -> None:
    tokens = torch.tensor([ROW, [1, 0, 1, 1, 0, 0]])
    valid = torch.ones_like(tokens, dtype=torch.bool)
    valid[1, 4:] = False
    nats = whole(tokens, valid)
    truth = torch.tensor([exact({}, dict(enumerate(ROW))), exact({}, dict(enumerate([1, 0, 1, 1])))])
    error = nats.std(-1) / math.sqrt(nats.shape[-1])
    assert bool(((nats.mean(-1) - truth).abs() < 4 * error).all())
    assert bool((error < 0.2).all())
    assert torch.equal(nats, whole(tokens, valid))


def test_a_broken_weight_of_the_whole_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = unmask.fill.score.hide_by_count
    monkeypatch.setattr(
        unmask.fill.score, "hide_by_count", lambda *arguments: (right(*arguments)[0], right(*arguments)[1].clamp(max=2))
    )
    tokens = torch.tensor([ROW])
    nats = whole(tokens, torch.ones_like(tokens, dtype=torch.bool))
    truth = exact({}, dict(enumerate(ROW)))
    assert abs(float(nats.mean()) - truth) > 4 * float(nats.std()) / math.sqrt(nats.shape[-1])


def test_texts_that_share_tokens_hide_the_same_of_them_and_differ_with_less_spread() -> None:
    tokens = torch.tensor([[0, 1, 1, 0, 1, 0], [0, 1, 1, 0, 1, 1]])
    valid, keys = torch.ones_like(tokens, dtype=torch.bool), torch.arange(L).expand(2, -1)
    joint = torch.ones((), dtype=torch.float64)
    for share in (0.5, 0.9, 0.99, 0.7, 0.95, 0.6):  # independent tokens, some nearly certain
        joint = joint[..., None] * torch.tensor([share, 1 - share], dtype=torch.float64)
    table = TableDenoiser(joint)
    model = Recording(table)
    nats = whole_nats(model, tokens, keys, valid=valid, draws=200, seed=0, batch=400)
    seen, time = model.calls[0]
    hidden = seen.view(2, 200, L) == V
    assert torch.equal(hidden[0], hidden[1])
    assert time is not None
    assert torch.allclose(time, hidden.flatten(0, 1).float().mean(-1))
    apart = whole_nats(table, tokens, keys + torch.tensor([[0], [99]]), valid=valid, draws=200, seed=0)
    assert float((nats[0] - nats[1]).std()) < 0.6 * float((apart[0] - apart[1]).std())


def test_a_time_conditioned_model_gets_the_hidden_share_as_time() -> None:
    model = Recording(TABLE)
    tokens, where, _ = question([0, 1], [4])
    conditional_nats(model, tokens, where)
    ((seen, time),) = model.calls
    assert time is not None
    assert torch.allclose(time, (seen == V).float().mean(-1))
    assert sorted((time * L).round().tolist()) == [2, 2, 3]


def test_orders_are_spread_evenly() -> None:
    sets, weights = unmask.fill.score._drawn_sets(3, 6000, 0)
    first = weights.view(6000, 3, 3)[:, 0].sum(0)
    assert bool((first / 6000 - 1 / 3).abs().max() < 0.02)
    assert bool((sets.view(6000, 3, 3).sum(-1) == torch.tensor([3, 2, 1])).all())
    assert bool((weights.bool() <= sets).all())
    assert float(uniform(torch.tensor(0), torch.tensor(0), torch.tensor(0), 2)) != float(
        uniform(torch.tensor(0), torch.tensor(0), torch.tensor(0), 3)
    )
