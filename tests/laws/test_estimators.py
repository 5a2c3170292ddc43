"""The four estimators of the bound have the same expectation, -log p(x), and differ in variance only."""

import math
from collections.abc import Sequence
from functools import cache
from typing import get_args

import pytest
import torch
from torch import Tensor

from unmask.data.packed import Packed
from unmask.denoiser import Denoiser
from unmask.errors import ConfigError
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.noise import generator
from unmask.objective.base import Loss, Rows, Turn
from unmask.objective.bound import Bound, bound, validate
from unmask.objective.masked import ESTIMATORS, Estimator, Masked, masking, nelbo, spread, stratified
from unmask.process import SCHEDULES, MaskedDiffusion, make_schedule
from unmask.testing import TableDenoiser, random_language

V, L = 3, 4
JOINT = random_language(V, L, seed=3)
MODEL = TableDenoiser(JOINT)
TIMED = TableDenoiser(JOINT, time_conditioned=True)
X = (0, 2, 1, 2)
BATCHES, ROWS = 50, 2000  # 1e5 draws

# maskable, valid, and the probability whose -log is the bound
CASES: dict[str, tuple[list[int], list[int], Tensor]] = {
    "whole": ([1, 1, 1, 1], [1, 1, 1, 1], JOINT[X]),
    "prompt": ([0, 1, 1, 0], [1, 1, 1, 1], JOINT[X] / JOINT.sum((1, 2))[0, 2]),
    "padding": ([1, 1, 0, 0], [1, 1, 0, 0], JOINT.sum((2, 3))[0, 2]),
    "prompt and padding": ([0, 1, 1, 0], [1, 1, 1, 0], JOINT.sum(3)[0, 2, 1] / JOINT.sum((1, 2, 3))[0]),
}


@cache
def measure(name: str, schedule: str, case: str, scale: float = 1.0) -> tuple[float, float]:
    """Mean and standard error over batches, because the draws within a batch are stratified and not independent."""
    maskable, valid, _ = CASES[case]
    process, random = MaskedDiffusion(V, make_schedule(schedule)), generator(9)
    may, on = (torch.tensor(part, dtype=torch.bool).expand(ROWS, L) for part in (maskable, valid))
    x, means = torch.tensor(X).expand(ROWS, L), []
    for _ in range(BATCHES):
        hide, weight, _ = masking(name, process, may, random)
        assert not (hide & ~may).any()
        means.append(nelbo(MODEL, x, hide, weight * scale, valid=on).double().mean())
    values = torch.stack(means)
    return float(values.mean()), float(values.std()) / math.sqrt(BATCHES)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_agree_with_the_likelihood(name: str, case: str) -> None:
    p = CASES[case][2]
    mean, error = measure(name, "linear", case)
    assert abs(mean + math.log(float(p))) < 4 * error + 1e-6
    assert error < 0.04


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "linear"])
@pytest.mark.parametrize("name", ["uniform", "stratified"])
def test_time_based_estimators_agree_for_every_schedule(name: str, schedule: str) -> None:
    p = CASES["whole"][2]
    mean, error = measure(name, schedule, "whole")
    assert abs(mean + math.log(float(p))) < 4 * error + 1e-6


@pytest.mark.parametrize("name", ESTIMATORS)
def test_control_a_weight_that_is_five_percent_off(name: str) -> None:
    p = CASES["whole"][2]
    mean, error = measure(name, "linear", "whole", scale=1.05)
    assert abs(mean + math.log(float(p))) > 4 * error + 1e-6


def test_stratified_draws_have_the_smaller_variance() -> None:
    errors = {name: measure(name, "linear", "whole")[1] for name in ESTIMATORS}
    assert errors["count"] < errors["bernoulli"] < errors["uniform"]
    assert errors["count"] < errors["stratified"]


def test_counts_are_spread_evenly_over_the_global_batch() -> None:
    """Each number of masked tokens is equally frequent, and each position is masked equally often."""
    result = masking("count", MaskedDiffusion(V), torch.ones(4000, 8, dtype=torch.bool), generator(1))
    assert result.hide.sum(-1).bincount(minlength=9).tolist() == [0] + [500] * 8
    share = result.hide.double().mean(0)
    assert float((share - 4.5 / 8).abs().max()) < 4 * 0.5 / math.sqrt(4000)
    torch.testing.assert_close(result.weight.double(), 8 / result.hide.sum(-1).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", get_args(Estimator))
def test_rows_are_drawn_alike_alone_and_in_their_batch(name: Estimator) -> None:
    """Any rows of a global batch, in any order, have the same draws; the control draws them as another batch."""
    maskable = torch.arange(8) < torch.tensor([8, 8, 5, 8, 0, 3, 8, 1, 8, 8, 8, 7])[:, None]
    objective, every = Masked(MaskedDiffusion(V, make_schedule("cosine")), name), torch.arange(12)
    whole = objective.draw(4, 7, every, 12, maskable)
    parts: list[Sequence[int]] = [range(3), range(3, 12), [11], [5, 0, 8]]
    for rows in parts:
        part = objective.draw(4, 7, torch.tensor(rows), 12, maskable[rows])
        assert all(torch.equal(piece, together[rows]) for piece, together in zip(part, whole, strict=True))
    alone = objective.draw(4, 7, torch.arange(3), 3, maskable[9:])
    assert not all(torch.equal(piece, together[9:]) for piece, together in zip(alone, whole, strict=True))
    hide, _, time = objective.draw(4, 7, every, 12, torch.ones(12, 8, dtype=torch.bool))
    if name in ("stratified", "count"):  # no two rows share a stratum
        assert len((time if name == "stratified" else hide.sum(-1)).unique()) >= 8


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_row_without_maskable_tokens_has_no_loss(name: str) -> None:
    """Its loss is zero, and all gradients are finite, also of a time-conditioned network."""
    maskable = torch.tensor([[True] * 6, [False] * 6])
    model = build(DiTSettings(5, 4, max_length=6, width=8, blocks=1, heads=2, cond=8, modulation="time"))
    for seed in range(5):
        hide, weight, time = masking(name, MaskedDiffusion(4), maskable, generator(seed))
        assert time.isfinite().all()
        assert bool(((time > 0) & (time <= 1)).all())
        result = nelbo(model, torch.zeros(2, 6, dtype=torch.int64), hide, weight, time=time)
        assert result[1].item() == 0
        model.zero_grad()
        result.sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_time_is_the_expected_share_of_masked_tokens(name: str, schedule: str) -> None:
    """For every estimator and schedule, so that a network trained with one schedule can be sampled with another."""
    process = MaskedDiffusion(V, make_schedule(schedule))
    hide, _, time = masking(name, process, torch.ones(20_000, 16, dtype=torch.bool), generator(6))
    gap = hide.double().mean(-1) - time
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / math.sqrt(len(gap)) + 1e-7
    for low in (0.0, 0.25, 0.5, 0.75):
        part = gap[(time > low) & (time <= low + 0.25)]
        assert abs(float(part.mean())) < 4 * float(part.std()) / math.sqrt(len(part)) + 1e-7


@pytest.mark.parametrize("name", get_args(Estimator))
def test_the_time_does_not_count_padding(name: Estimator) -> None:
    """In training and in validation a padded row is told what it is told without padding; the control counts it."""
    on = torch.tensor([True, True, False, False]).expand(ROWS, L)
    rows = Rows(torch.tensor(X).expand(ROWS, L), on, on)
    model, objective = TableDenoiser(JOINT, time_conditioned=True), Masked(MaskedDiffusion(V), name)
    draw = objective.draw(3, 0, torch.arange(ROWS), ROWS, on)
    objective.loss(model, rows, draw)
    gap = draw[0].double().sum(-1) / 2 - model.times[-1]
    error = 4 * float(gap.std()) / math.sqrt(ROWS) + 1e-7
    assert abs(float(gap.mean())) < error
    assert abs(float((draw[0].double().mean(-1) - model.times[-1]).mean())) > error
    objective.bound(model, rows, Turn(1, torch.arange(ROWS), ROWS))
    assert sorted(set(model.times[-1].tolist())) == [0.5, 1.0]  # one or both of two tokens, not of four


# ---- the bound as a figure -----------------------------------------------------------------------------------------


def test_bound_is_a_ratio_of_sums_with_its_error() -> None:
    result = Bound.of(torch.tensor([2.0, 9.0, 4.0]), torch.tensor([1, 3, 2]), 5, text_bytes=10)
    assert result.nats_per_token == pytest.approx(15 / 6)
    residual = [2 - 2.5, 9 - 7.5, 4 - 5]
    assert result.stderr == pytest.approx(math.sqrt(sum(r * r for r in residual) * 3 / 2) / 6)
    assert result.bits_per_byte == pytest.approx(15 / math.log(2) / 10)
    assert (result.tokens, result.sequences, result.draws) == (6, 3, 5)
    assert result.perplexity == pytest.approx(math.exp(2.5))
    assert Bound.of(torch.tensor([2.0]), torch.tensor([1]), 1).stderr is None


def test_the_bound_of_two_parts_is_that_of_their_rows_together() -> None:
    """As `eval --split all` does it, also where a part has a single row; the control: the mean of the two bounds."""
    rows = torch.randint(V, (9, L), generator=generator(2)).tolist()
    objective = Masked(MaskedDiffusion(V))

    def measured(*parts: list[list[int]]) -> Bound:
        packed = [Packed.of(part, L, 0, 3 * len(part)) for part in parts]
        return validate(MODEL, objective, packed, torch.device("cpu"), draws=4, batch=2)

    together = measured(rows)
    assert measured(rows[:8], rows[8:]) == measured(rows[:3], rows[3:]) == together
    assert (together.sequences, together.bits_per_byte is None) == (9, False)
    mean = (measured(rows[:8]).nats_per_token + measured(rows[8:]).nats_per_token) / 2
    assert mean != pytest.approx(together.nats_per_token, rel=1e-4)


def test_bound_of_the_exact_model_is_the_entropy_of_its_language() -> None:
    """Its standard error is right too: the z-scores of 60 runs have mean 0 and standard deviation 1."""
    process, entropy = MaskedDiffusion(V), float(-(JOINT * JOINT.log()).sum()) / L
    scores = []
    for seed in range(60):
        random = generator(seed, 1)
        index = torch.multinomial(JOINT.flatten(), 200, replacement=True, generator=random)
        ids = MODEL.sequences()[index]
        on = torch.ones_like(ids, dtype=torch.bool)
        rows = [Rows(ids[:120], on[:120], on[:120]), Rows(ids[120:], on[120:], on[120:])]
        result = bound(TIMED if seed % 2 else MODEL, Masked(process), rows, 200, seed, draws=2)
        assert result.stderr is not None
        scores.append((result.nats_per_token - entropy) / result.stderr)
    z = torch.tensor(scores)
    assert abs(float(z.mean())) < 4 / math.sqrt(60)
    assert 0.6 < float(z.std()) < 1.4


# ---- the same maskings whatever the batch is -----------------------------------------------------------------------


def in_batches(rows: Rows, size: int) -> list[Rows]:
    return [rows.part(index, torch.device("cpu")) for index in torch.arange(len(rows.ids)).split(size)]


def measured_rows(count: int) -> Rows:
    index = torch.multinomial(JOINT.flatten(), count, replacement=True, generator=generator(4))
    ids = MODEL.sequences()[index]
    valid = torch.arange(L) < 2 + torch.arange(count)[:, None] % 3  # of 2 to 4 tokens
    return Rows(ids, valid, valid)


def by_batch(seed: int) -> Masked:
    """The control: the numbers of a generator, stratified over the rows of a batch."""
    random = generator(seed)

    class ByBatch(Masked):
        def bound(self, model: Denoiser, rows: Rows, turn: Turn) -> Loss:
            return self.loss(model, rows, tuple(masking("count", self.process, rows.maskable, random)))

    return ByBatch(MaskedDiffusion(V))


def test_a_bound_is_the_same_for_every_size_of_batch() -> None:
    rows, objective = measured_rows(29), Masked(MaskedDiffusion(V))
    for model in (MODEL, TIMED):
        results = [bound(model, objective, in_batches(rows, size), 29, 5, draws=3) for size in (1, 3, 8, 29)]
        for result in results[1:]:
            assert result.nats_per_token == pytest.approx(results[0].nats_per_token, rel=1e-6)
            assert result.stderr == pytest.approx(results[0].stderr, rel=1e-5)
    other = bound(MODEL, objective, [rows], 29, 6, draws=3)
    assert other.nats_per_token != pytest.approx(results[0].nats_per_token, rel=1e-4)
    old = [bound(MODEL, by_batch(5), in_batches(rows, size), 29, 5, draws=3) for size in (1, 3, 8)]
    assert max(r.nats_per_token for r in old) - min(r.nats_per_token for r in old) > 0.01


@pytest.mark.parametrize("total, draws", [(1, 4), (2, 1), (7, 3), (64, 2), (100, 1)])
def test_strata_span_all_rows_and_draws(total: int, draws: int) -> None:
    rows = torch.arange(total)
    shares = torch.stack([spread(Turn(3, rows, total, draw, draws)) for draw in range(draws)], -1)
    assert sorted(((shares.flatten() - shares.min()) * total * draws).round().int().tolist()) == list(
        range(total * draws)
    )
    assert 0 < float(shares.min()) < float(shares.max()) <= 1 or shares.numel() < 2
    own = (shares.sort(-1).values.diff(dim=-1) * draws - 1).abs()  # the draws of a row are evenly spread, too
    assert own.numel() == 0 or float(own.max()) < 1e-9
    assert torch.equal(spread(Turn(3, rows[5:], total, 0, draws)), shares[5:, 0])
    independent = torch.rand(total * draws, generator=generator(1)).sort().values * total * draws
    assert total * draws < 3 or independent.int().unique().numel() < total * draws  # the control


def test_the_variance_is_not_above_that_of_strata_in_a_batch() -> None:
    """A text that becomes harder, whose nats rise with the share that is hidden; the control: strata in its order."""
    total, draws, batch = 320, 2, 32
    rows = torch.arange(total)
    hardness, seeds = 1 + 2 * rows / total, range(200)

    def deviation(shares: list[Tensor]) -> float:
        return float(torch.stack([(hardness * (s + s**3 * (1 + (rows % 7) / 7))).mean() for s in shares]).std())

    def mean(parts: list[Tensor]) -> Tensor:
        return torch.stack(parts).mean(0)

    def by_batch(seed: int) -> Tensor:
        u = torch.rand(total // batch, generator=generator(seed), dtype=torch.float64)
        return torch.cat([stratified(start, batch) for start in u])

    lattice = deviation([spread(Turn(seed, rows, total, 0, 1)) for seed in seeds])
    old = deviation([by_batch(seed) for seed in seeds])
    ordered = deviation([stratified(torch.rand((), generator=generator(seed)), total) for seed in seeds])
    assert lattice < old < ordered / 3
    # with two draws, the two estimates of a row balance each other
    pairs = [[spread(Turn(seed, rows, total, draw, draws)) for draw in range(draws)] for seed in seeds]
    assert deviation([mean(pair) for pair in pairs]) < old / math.sqrt(2)


def test_unknown_estimator_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        masking("counts", MaskedDiffusion(V), torch.ones(2, 2, dtype=torch.bool), generator(0))
    assert str(caught.value) == "There is no estimator named 'counts'; did you mean 'count'?"
