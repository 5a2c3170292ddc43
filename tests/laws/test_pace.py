"""Information curves and paces: the exact theory against enumeration, estimates against the exact theory."""

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.errors import DataError
from unmask.eval.curve import grid, isotonic, measure_curve, orders, reveal
from unmask.eval.pace import compare_rules, measure_costs
from unmask.noise import generator
from unmask.objective.base import Rows
from unmask.policies.pace import RULES, SavedPace, cost, dtc_sizes, fit_delta, optimal, square_root, tc_sizes
from unmask.policies.registry import make
from unmask.policies.top_k import Pace, Power, TopK, cosine, linear, sizes_of
from unmask.testing import TableDenoiser, random_language

Sizes = tuple[int, ...]
PACES: dict[str, Pace] = {
    "linear": linear,
    "cosine": cosine,
    "square": Power(2.0),
    "root": Power(0.5),
    "steep": Power(9.0),
    "saved": SavedPace((1, 1, 30, 1, 3)),
}


def compositions(total: int, parts: int) -> Iterator[Sizes]:
    """Every ordered sum of `parts` positive numbers that equals `total`."""
    for cuts in itertools.combinations(range(1, total), parts - 1):
        yield tuple(b - a for a, b in itertools.pairwise([0, *cuts, total]))


def entropy_of(joint: Tensor, subset: tuple[int, ...]) -> float:
    """H(X_subset) in nats."""
    rest = tuple(i for i in range(joint.ndim) if i not in subset)
    return float(torch.special.entr(joint.sum(rest) if rest else joint).sum())


def exact_curve(joint: Tensor) -> Tensor:
    """f(j): the mean of H(X_i | X_S) over all sets S of j positions and all i outside of S."""
    positions = range(joint.ndim)
    return torch.tensor(
        [
            sum(
                entropy_of(joint, tuple(sorted((*s, i)))) - entropy_of(joint, s)
                for s in itertools.combinations(positions, j)
                for i in positions
                if i not in s
            )
            / (math.comb(joint.ndim, j) * (joint.ndim - j))
            for j in positions
        ],
        dtype=torch.float64,
    )


def partitions(positions: tuple[int, ...], sizes: Sizes) -> Iterator[list[tuple[int, ...]]]:
    """Every ordered partition of the positions into sets of these sizes."""
    if not sizes:
        yield []
        return
    for first in itertools.combinations(positions, sizes[0]):
        for later in partitions(tuple(i for i in positions if i not in first), sizes[1:]):
            yield [first, *later]


def sampler_log_law(model: TableDenoiser, partition: list[tuple[int, ...]]) -> Tensor:
    """log nu(x) (N,) of the sampler that reveals one set per pass, its tokens independently."""
    sequences = model.sequences()
    canvas, total = torch.full_like(sequences, model.mask_id), torch.zeros(len(sequences), dtype=torch.float64)
    for group in partition:
        chosen, posterior = list(group), model.hidden(canvas)
        total += posterior.gather(-1, sequences[..., None]).squeeze(-1)[:, chosen].sum(-1)
        canvas[:, chosen] = sequences[:, chosen]
    return total


def divergence(joint: Tensor, sizes: Sizes, *, first: bool = False) -> float:
    """The mean of KL(mu || nu_order) over all orders with these sizes, or that of the first order only."""
    model, law = TableDenoiser(joint), joint.double().flatten()
    orders = list(itertools.islice(partitions(tuple(range(joint.ndim)), sizes), 1 if first else None))
    return sum(float((law * (law.log() - sampler_log_law(model, order))).sum()) for order in orders) / len(orders)


LANGUAGES = [random_language(2, 5, seed=s, sharpness=2.0) for s in (1, 2)] + [random_language(3, 4, 4, 2.5)]


# ---- paces ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PACES)
def test_every_pass_of_a_pace_reveals_a_token_and_the_last_ends_it(name: str) -> None:
    for n in (*range(1, 20), 33, 40):
        for k in (1, 2, 3, 7, 16, 39, 40, 50):
            sizes = sizes_of(PACES[name], n, k)
            assert len(sizes) == min(k, n), (n, k)
            assert min(sizes) >= 1, (n, k)
            assert sum(sizes) == n, (n, k)


def test_control_rounding_alone_gives_empty_passes() -> None:
    """Without the integer rule the cosine pace has empty passes, and so has a steep power."""
    n, k = torch.tensor(20), torch.tensor(16)
    for pace in (PACES["cosine"], PACES["steep"]):
        counts = [0, *(int(pace(n, torch.tensor(i + 1), k)) for i in range(16))]
        assert min(b - a for a, b in itertools.pairwise(counts)) == 0


def test_linear_is_the_rounded_up_share() -> None:
    for n in range(1, 30):
        for k in range(1, 32):
            kept, done, sizes = min(k, n), 0, list[int]()
            for i in range(kept):
                sizes.append((n * (i + 1) + kept - 1) // kept - done)
                done += sizes[-1]
            assert sizes_of(linear, n, k) == tuple(sizes)


def test_paces_follow_their_formulas() -> None:
    n, k = 1000, 10
    for pace, share in ((cosine, lambda x: 1 - math.cos(math.pi / 2 * x)), (Power(3.0), lambda x: x**3)):
        done = list(itertools.accumulate(sizes_of(pace, n, k)))
        assert all(-1e-6 < reached - n * share((i + 1) / k) < 1 for i, reached in enumerate(done))
    assert sizes_of(cosine, n, k) != sizes_of(linear, n, k)


def test_a_saved_pace_is_exact_and_scales() -> None:
    sizes = (1, 2, 5, 12, 20)
    assert sizes_of(SavedPace(sizes), 40, 5) == sizes
    assert sizes_of(SavedPace(sizes), 80, 5) == (2, 4, 10, 24, 40)
    assert sizes_of(SavedPace(sizes), 40, 10) == (
        1,
        1,
        1,
        1,
        2,
        2,
        6,
        6,
        10,
        10,
    )  # two parts of each, at least 1
    assert sizes_of(SavedPace((1, 2, 5, 20, 12)), 40, 5) != sizes


def drive(policy: TopK, length: int, rows: int, block_size: int | None = None) -> tuple[list[Sizes], list[Tensor]]:
    """The numbers of reveals of each pass and row, and the positions (rows, length) revealed by each pass."""
    model = TableDenoiser(random_language(2, length))
    canvas = Canvas.start(torch.full((rows, length), 2), torch.arange(rows))
    steps = [step for _, step in Decoder(model, policy, 1.0, block_size=block_size).steps(canvas)]
    return [tuple(step.revealed.sum(-1).tolist()) for step in steps], [step.revealed for step in steps]


def test_decoding_follows_the_file_and_reveals_a_uniform_subset(tmp_path: Path) -> None:
    path = tmp_path / "pace.json"
    path.write_text(json.dumps({"paces": {"3": [2, 1, 3], "2": [1, 5]}}))
    policy, rows = make(f"random:pace={path},steps=3"), 3000
    assert isinstance(policy, TopK)
    counts, revealed = drive(policy, 6, rows)
    assert counts == [(size,) * rows for size in (2, 1, 3)]
    assert excess(revealed[0], revealed[1]) < 4

    reading = make(f"left-to-right:pace={path},steps=3")  # the controls: another order, another pace
    assert isinstance(reading, TopK)
    assert excess(*drive(reading, 6, rows)[1][:2]) > 100
    assert drive(TopK(steps=3), 6, 1)[0] == [(2,), (2,), (2,)]
    assert drive(policy, 6, 1, block_size=3)[0] == [(1,)] * 6  # the pace starts again in each block


def excess(first: Tensor, second: Tensor) -> float:
    """The chi-square statistic of (set of two, next position) being uniform over all 60, as a z-score."""
    seen = Counter(zip(map(tuple, first.tolist()), map(tuple, second.tolist()), strict=True))
    expected = len(first) / 60
    chi = sum((count - expected) ** 2 / expected for count in seen.values()) + expected * (60 - len(seen))
    return (chi - 59) / math.sqrt(2 * 59)


# ---- the theory, by enumeration ------------------------------------------------------------------------------------


@pytest.mark.parametrize("joint", LANGUAGES, ids=range(len(LANGUAGES)))
def test_the_cost_of_a_pace_is_the_area_under_its_steps(joint: Tensor) -> None:
    curve, total = exact_curve(joint), entropy_of(joint, tuple(range(joint.ndim)))
    assert float(curve.sum()) == pytest.approx(total, abs=1e-9)
    assert bool((curve.diff() < 1e-12).all())
    for parts in range(1, joint.ndim + 1):
        for sizes in compositions(joint.ndim, parts):
            assert cost(curve, sizes) - total == pytest.approx(divergence(joint, sizes), abs=1e-9), sizes


def test_control_the_cost_differs_for_a_fixed_order_and_for_the_ends_of_steps() -> None:
    """A fixed order, and the curve evaluated at the end of each step, give other costs."""
    joint, sizes = LANGUAGES[0], (2, 3)
    curve, total = exact_curve(joint), entropy_of(joint, tuple(range(5)))
    assert abs(cost(curve, sizes) - total - divergence(joint, sizes, first=True)) > 1e-3
    late = torch.cat([curve[1:], curve[-1:]])
    assert abs(cost(late, sizes) - total - divergence(joint, sizes)) > 1e-3


@pytest.mark.parametrize("joint", LANGUAGES, ids=range(len(LANGUAGES)))
def test_the_areas_are_the_correlations(joint: Tensor) -> None:
    positions = tuple(range(joint.ndim))
    curve, total = exact_curve(joint), entropy_of(joint, positions)
    z = curve[0] - curve
    tc = sum(entropy_of(joint, (i,)) for i in positions) - total
    rest = [entropy_of(joint, tuple(j for j in positions if j != i)) for i in positions]
    dtc = total - sum(total - entropy for entropy in rest)
    assert float(z.sum()) == pytest.approx(tc, abs=1e-9)
    assert float((z[-1] - z).sum()) == pytest.approx(dtc, abs=1e-9)
    assert abs(tc - dtc) > 1e-3  # the control: the two correlations differ for these languages


# ---- paces -----------------------------------------------------------------------------------------------------


def random_curve(n: int, seed: int) -> Tensor:
    """A falling curve of n values; its shape varies from early to late drops."""
    random = generator(seed)
    falls = torch.rand(n, generator=random, dtype=torch.float64) ** 4
    shape = torch.linspace(0, 1, n, dtype=torch.float64) if seed % 2 else torch.linspace(1, 0, n, dtype=torch.float64)
    return 8 - (falls * shape**3).cumsum(0) / (falls * shape**3).sum() * 7


@pytest.mark.parametrize("seed", range(6))
def test_the_optimal_pace_has_the_least_cost(seed: int) -> None:
    n = 8
    curve = random_curve(n, seed) if seed < 4 else torch.rand(n, generator=generator(seed), dtype=torch.float64)
    for k in range(1, n + 1):
        best, paces = optimal(curve, k), list(compositions(n, k))
        assert best in paces
        assert cost(curve, best) == pytest.approx(min(cost(curve, sizes) for sizes in paces), abs=1e-12)
    assert optimal(curve, 20) == (1,) * n


def test_control_the_uniform_pace_is_not_optimal() -> None:
    curve = random_curve(8, 0)
    assert cost(curve, sizes_of(linear, 8, 4)) > min(cost(curve, sizes) for sizes in compositions(8, 4)) + 1e-3


def test_the_square_root_rule_is_nearly_optimal_on_smooth_curves() -> None:
    j = torch.arange(512, dtype=torch.float64)
    for curve in (1.5 + 6 * (1 + j / 4) ** -0.5, 6 - 4 * (j / 512) ** 8):
        for k in (16, 32):
            least, near = (cost(curve, rule(curve, k)) - float(curve.sum()) for rule in (optimal, square_root))
            even = cost(curve, sizes_of(linear, 512, k)) - float(curve.sum())
            assert least <= near < 1.03 * least < even / 2


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n", [2, 3, 7, 30])
def test_every_rule_has_the_requested_passes(rule: str, n: int) -> None:
    for curve in (random_curve(n, 0), random_curve(n, 1), torch.full((n,), 2.0)):
        for k in (1, 2, 3, 6, 29, 40):
            sizes = RULES[rule](curve, k)
            assert len(sizes) == min(k, n)
            assert min(sizes) >= 1
            assert sum(sizes) == n


def error_and_areas(curve: Tensor, sizes: Sizes) -> tuple[float, float, float]:
    """The excess cost over one token per pass, TC, and DTC."""
    z = curve[0] - curve
    return cost(curve, sizes) - float(curve.sum()), float(z.sum()), float((z[-1] - z).sum())


@pytest.mark.parametrize("delta", [0.07, 0.3, 1.0, 2.5])
def test_growing_paces_have_an_excess_of_at_most_delta_times_the_correlation(delta: float) -> None:
    for curve in [*(random_curve(40, seed) for seed in range(20)), *map(exact_curve, LANGUAGES)]:
        error, _, dtc = error_and_areas(curve, dtc_sizes(len(curve), delta))
        assert error <= delta * dtc + 1e-12
        error, tc, _ = error_and_areas(curve, tc_sizes(len(curve), delta))
        assert error <= delta * tc + 1e-12


def test_control_equal_steps_have_a_larger_excess() -> None:
    """As many equal steps break both bounds, on curves that drop at the first and at the last token."""
    at_once, at_last = torch.tensor([8.0] + [1.0] * 39).double(), torch.tensor([8.0] * 39 + [1.0]).double()
    delta = 0.3
    even = sizes_of(linear, 40, len(dtc_sizes(40, delta)))
    error, _, dtc = error_and_areas(at_once, even)
    assert error > delta * dtc
    error, tc, _ = error_and_areas(at_last, even)
    assert error > delta * tc


def test_the_fitted_delta_is_the_least_that_gives_the_passes() -> None:
    """Sizes change only where delta times a count is an integer: the least of these deltas, by trial."""
    n, met = 30, 0
    turns = sorted({m / done for done in range(1, n) for m in range(1, n)})
    for k in range(2, n):
        least = next(delta for delta in turns if len(dtc_sizes(n, delta * (1 + 1e-12))) <= k)
        expected = dtc_sizes(n, least * (1 + 1e-12))
        assert len(dtc_sizes(n, least * (1 - 1e-9))) > k
        if len(expected) == k:  # else the largest sizes were halved
            assert fit_delta(dtc_sizes, n, k) == expected
            assert fit_delta(tc_sizes, n, k) == expected[::-1]
            met += 1
    assert met > 10


# ---- estimates -----------------------------------------------------------------------------------------------------


def by_brute_force(values: Tensor, weights: Tensor) -> Tensor:
    """The nearest non-increasing sequence, over all ways of cutting the values into runs with one mean each."""
    best, least = values, math.inf
    for parts in range(1, len(values) + 1):
        for sizes in compositions(len(values), parts):
            means = [
                (v * w).sum() / w.sum()
                for v, w in zip(values.split(list(sizes)), weights.split(list(sizes)), strict=True)
            ]
            sequence = torch.stack(means).repeat_interleave(torch.tensor(sizes))
            loss = float((weights * (values - sequence).square()).sum())
            if bool((sequence.diff() <= 0).all()) and loss < least:
                best, least = sequence, loss
    return best


@pytest.mark.parametrize("seed", range(8))
def test_isotonic_is_the_nearest_falling_sequence(seed: int) -> None:
    random = generator(seed)
    values, weights = torch.rand(2, 6, generator=random, dtype=torch.float64)
    weights = weights + 0.1
    assert torch.allclose(isotonic(values, weights), by_brute_force(values, weights), atol=1e-12)


def test_isotonic_depends_on_the_weights() -> None:
    """The control of the law above: with other weights it is another sequence."""
    values, weights = torch.tensor([1.0, 2.0, 0.0]).double(), torch.tensor([1.0, 3.0, 1.0]).double()
    assert isotonic(values, weights).tolist() == [1.75, 1.75, 0.0]
    assert not torch.allclose(by_brute_force(values, torch.ones(3)), by_brute_force(values, weights))


def test_isotonic_keeps_non_increasing_values() -> None:
    values = torch.tensor([3.0, 2.5, 2.5, 1.0]).double()
    assert torch.equal(isotonic(values, torch.ones(4)), values)


def test_the_grid_is_dense_where_curves_bend() -> None:
    counts = grid(256)
    assert counts[:17] == tuple(range(17))
    assert counts[-1] == 255
    assert list(counts) == sorted(set(counts))
    assert 50 <= len(counts) <= 58
    assert grid(1) == (0,)
    assert grid(5) == (0, 1, 2, 3, 4)


def texts(joint: Tensor, count: int, seed: int) -> list[Rows]:
    """Sequences drawn from a language, in batches."""
    chosen = torch.multinomial(joint.flatten(), count, replacement=True, generator=generator(seed))
    ids = TableDenoiser(joint).sequences()[chosen]
    every = torch.ones_like(ids, dtype=torch.bool)
    return [Rows(*part) for part in zip(ids.split(1000), every.split(1000), every.split(1000), strict=True)]


def test_the_measured_curve_is_the_exact_one() -> None:
    joint = LANGUAGES[0]
    curve = measure_curve(TableDenoiser(joint), texts(joint, 6000, 1), 2)
    exact = exact_curve(joint)
    assert curve.counts == (0, 1, 2, 3, 4)
    for values in (curve.cross_entropy, curve.entropy):  # the exact posterior is calibrated
        error = values.std(0) / math.sqrt(len(values))
        assert bool(((values.mean(0) - exact).abs() < 4 * error + 1e-6).all())
    assert float((curve.fitted() - exact).abs().max()) < 0.05

    other = measure_curve(TableDenoiser(LANGUAGES[1]), texts(joint, 6000, 1), 2)  # the control: a wrong model
    assert bool(((other.cross_entropy.mean(0) - exact).abs() > 4 * other.stderr()).any())
    assert float((other.cross_entropy.mean(0) - other.entropy.mean(0)).abs().max()) > 0.05


@pytest.mark.parametrize("joint", LANGUAGES[1:], ids=range(1, len(LANGUAGES)))
def test_the_measured_costs_are_the_exact_ones(joint: Tensor) -> None:
    n, exact = joint.ndim, exact_curve(joint)
    paces = [sizes for parts in range(1, n + 1) for sizes in compositions(n, parts)]
    costs = measure_costs(TableDenoiser(joint), texts(joint, 6000, 3), paces, 4)
    error = costs.std(0) / math.sqrt(len(costs))
    expected = torch.tensor([cost(exact, sizes) for sizes in paces])
    assert bool(((costs.mean(0) - expected).abs() < 4 * error).all())
    assert bool(((costs.mean(0) - expected.flip(0)).abs() > 4 * error).any())  # the control: the wrong paces


def test_predicted_and_measured_agree_on_other_sequences() -> None:
    joint = LANGUAGES[0]
    steps = [1, 2, 3, 5]
    result = compare_rules(TableDenoiser(joint), texts(joint, 2000, 5), texts(joint, 2000, 6), steps, 7)
    assert [(entry.steps, entry.rule) for entry in result.entries] == [(k, rule) for k in steps for rule in RULES]
    for entry in result.entries:
        error = math.hypot(entry.predicted_stderr, entry.measured_stderr)
        assert abs(entry.predicted - entry.measured) < 4 * error, entry
        assert entry.rule != "optimal" or entry.excess == entry.excess_stderr == 0
        assert entry.excess > -4 * entry.excess_stderr - 1e-9, entry
    coarse, fine = (next(entry for entry in result.entries if entry.steps == k) for k in (1, 5))
    error = math.hypot(coarse.predicted_stderr, fine.measured_stderr)
    assert abs(coarse.predicted - fine.measured) > 4 * error  # the control: these are not the same pace


def test_a_curve_and_its_costs_are_the_same_for_every_size_of_batch() -> None:
    joint = LANGUAGES[0]
    rows = texts(joint, 1000, 5)[0]
    batches = [[rows], [rows.part(index, torch.device("cpu")) for index in torch.arange(1000).split(96)]]
    model = TableDenoiser(joint)
    curves = [measure_curve(model, batch, 2).cross_entropy for batch in batches]
    costs = [measure_costs(model, batch, [(1, 1, 3), (5,)], 2) for batch in batches]
    for whole, parts in (curves, costs):
        assert torch.allclose(whole, parts, atol=1e-9)
    assert not torch.allclose(curves[0], measure_curve(model, batches[0], 3).cross_entropy, atol=1e-3)  # the control


def test_prompts_and_padding_are_never_masked() -> None:
    """Rows with a prompt and padding: the order has the maskable positions only, each equally often first."""
    ids = torch.arange(8).expand(4000, 8) % 2
    position = torch.arange(8).expand(4000, 8)
    maskable, valid = (position >= 2) & (position < 6), position < 7
    order = orders(maskable, 8)
    assert order.sort(-1).values.unique(dim=0).tolist() == [[2, 3, 4, 5]]
    firsts = order[:, 0].bincount(minlength=6)[2:]
    assert float(((firsts - 1000.0) ** 2 / 1000).sum()) < 20

    model = Recording(random_language(2, 8))
    results = list(reveal(model, Rows(ids[:3], maskable[:3], valid[:3]), order[:3], [0, 3]))
    assert [result.cross_entropy.shape for result in results] == [(3, 4), (3, 1)]
    assert [int((tokens == 2).sum()) for tokens in model.inputs] == [12, 3]
    assert all(not bool((tokens == 2)[:, [0, 1, 6, 7]].any()) for tokens in model.inputs)
    assert [time.tolist() for time in model.times] == [pytest.approx([4 / 7] * 3), pytest.approx([1 / 7] * 3)]


class Recording(TableDenoiser):
    """A time-conditioned table that records its inputs."""

    def __init__(self, joint: Tensor) -> None:
        super().__init__(joint, time_conditioned=True)
        self.inputs: list[Tensor] = []

    def hidden(self, tokens: Tensor, **options: Tensor | None) -> Tensor:  # pyright: ignore
        self.inputs.append(tokens.clone())
        return super().hidden(tokens, **options)


def test_uneven_rows_are_refused() -> None:
    maskable = torch.tensor([[True, True, False], [True, True, True]])
    with pytest.raises(DataError, match="the same number of maskable tokens"):
        orders(maskable, 0)
