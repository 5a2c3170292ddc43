"""Paired differences against a direct computation; intervals that cover zero where nothing differs, and not else."""

import numpy as np
import pytest

from unmask.errors import RequestError
from unmask.eval.frontier import BLIND, BLIND_ANY, LEARNED, REFERENCES, compare, grouped, one_pass, reversals
from unmask.solve.pareto import envelope_at, hypervolume
from unmask.solve.settings import Setting
from unmask.solve.sweep import Outcome

LENGTH, COUNT = 16, 80


def drawn(chance: np.random.Generator, accuracy: float, passes: float, name: str = "random") -> Outcome:
    """A setting of that accuracy and about so many passes, on problems that differ in length."""
    spent = np.maximum(1, np.round(passes * chance.uniform(0.7, 1.3, COUNT))).astype(int).tolist()
    return Outcome(Setting(name), (chance.random(COUNT) < accuracy).astype(float).tolist(), spent, 1.0)


def sets(seed: int, gain: float = 0.0) -> tuple[list[Outcome], list[Outcome]]:
    chance = np.random.default_rng(seed)
    points = [(0.3, 3.0), (0.5, 6.0), (0.7, 10.0)]
    return [drawn(chance, a + gain, p) for a, p in points], [drawn(chance, a, p) for a, p in points]


def test_the_difference_equals_a_direct_computation() -> None:
    """Problems drawn one by one with their indices, both sets with the same; the control draws them apart."""
    first, second = sets(0, 0.1)
    point = Outcome(Setting("confidence:steps=1"), [0.0] * (COUNT - 8) + [1.0] * 8, [1] * COUNT, 1.0)
    found = compare(first, second, LENGTH, point=point, resamples=300, seed=4)

    def volume(outcomes: list[Outcome], at: np.ndarray) -> float:
        passes = np.array([float(np.mean(np.array(one.passes)[at])) for one in [*outcomes, point]])
        scores = np.array([float(np.mean(np.array(one.scores)[at])) for one in [*outcomes, point]])
        return hypervolume(passes, scores, LENGTH)

    weights = np.random.default_rng(4).multinomial(COUNT, np.full(COUNT, 1 / COUNT), 300)
    picked = [np.repeat(np.arange(COUNT), row) for row in weights]
    paired = [volume(first, at) - volume(second, at) for at in picked]
    apart = [volume(first, at) - volume(second, other) for at, other in zip(picked, picked[::-1], strict=True)]
    everyone = np.arange(COUNT)
    assert found.difference == pytest.approx(volume(first, everyone) - volume(second, everyone))
    np.testing.assert_allclose(found.difference_95, np.quantile(paired, [0.025, 0.975]), atol=1e-9)
    assert np.abs(np.array(found.difference_95) - np.quantile(apart, [0.025, 0.975])).max() > 1e-3


def test_the_point_of_one_pass_is_in_both_sets() -> None:
    """A set of slow settings gains what the fast end is worth; a set compared with itself differs by nothing."""
    chance = np.random.default_rng(1)
    fast = Outcome(Setting("confidence:steps=1"), (chance.random(COUNT) < 0.4).astype(float).tolist(), [1] * COUNT, 1.0)
    slow = [drawn(chance, 0.9, 12.0)]
    assert one_pass([*slow, fast]) is fast
    assert one_pass(slow) is None
    alone = compare(slow, [fast, *slow], LENGTH)
    both = compare(slow, [fast, *slow], LENGTH, point=fast)
    assert alone.difference < -0.2
    assert both.difference == both.difference_95[0] == both.difference_95[1] == 0
    assert (both.points, both.above, both.beyond) == (1, 0, 0)


def test_intervals_clear_zero_where_something_differs_and_cover_it_where_nothing_does() -> None:
    clear = {0.0: 0, 0.25: 0}
    for seed in range(40):
        for gain in clear:
            first, second = sets(seed, gain)
            low, high = compare(first, second, LENGTH, resamples=100, seed=seed).difference_95
            clear[gain] += low > 0 or high < 0
    assert clear[0.0] <= 7  # about 2 of 40
    assert clear[0.25] >= 36


def test_mixtures_do_not_count_settings() -> None:
    """A setting on the line between two others adds area under the steps, and nothing under the envelope."""
    second = [
        Outcome(Setting("a"), [0.0] * COUNT, [2] * COUNT, 1.0),
        Outcome(Setting("b"), [1.0] * COUNT, [10] * COUNT, 1.0),
    ]
    half = Outcome(Setting("half"), [1.0, 0.0] * (COUNT // 2), [10, 2] * (COUNT // 2), 1.0)
    found = compare([*second, half], second, LENGTH)
    assert found.difference > 0.05
    assert found.mixture == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(found.mixture_95, 0, atol=1e-9)
    better = Outcome(Setting("better"), [1.0] * COUNT, [6] * COUNT, 1.0)
    assert compare([*second, better], second, LENGTH).mixture_95[0] > 0.05  # the control


def test_points_above_the_mixture_envelope() -> None:
    """Halfway between two settings stands their mixture: what is just above counts, but not beyond two errors."""
    half = [1.0, 0.0] * (COUNT // 2)
    second = [
        Outcome(Setting("a"), [0.0] * COUNT, [2] * COUNT, 1.0),
        Outcome(Setting("b"), [1.0] * COUNT, [10] * COUNT, 1.0),
    ]
    just = Outcome(Setting("just"), [1.0, *half[1:-1], 1.0], [6] * COUNT, 1.0)
    far = Outcome(Setting("far"), [1.0] * (COUNT - 2) + [0.0] * 2, [6] * COUNT, 1.0)
    below = Outcome(Setting("below"), [0.0, 0.0, *half[2:]], [6] * COUNT, 1.0)
    passes, scores = np.array([2.0, 10.0]), np.array([0.0, 1.0])
    assert envelope_at(passes, scores, np.array([6.0])) == pytest.approx(0.5)
    found = compare([just, far, below], second, LENGTH)
    assert (found.points, found.above, found.beyond) == (3, 2, 1)
    control = compare([just, far, below], [*second, Outcome(Setting("c"), [1.0] * COUNT, [2] * COUNT, 1.0)], LENGTH)
    assert (control.above, control.beyond) == (0, 0)


def test_groups_and_reversals() -> None:
    def one(name: str, block: int | None = None, passes: int = 3) -> Outcome:
        return Outcome(Setting(name, block), [1.0], [passes], 1.0)

    outcomes = [one("threshold"), one("threshold", 6), one("prefix:threshold=0.9"), one("learned:from=x,dial=0.1")]
    found = {name: [o.setting.key for o in some] for name, some in grouped(outcomes).items()}
    assert found == {
        BLIND: ["threshold @ full"],
        BLIND_ANY: ["threshold @ full", "threshold @ 6"],
        REFERENCES: ["prefix:threshold=0.9 @ full"],
        LEARNED: ["learned:from=x,dial=0.1 @ full"],
    }
    assert LEARNED not in grouped(outcomes[:3])
    dials = [one("a", passes=9), one("b", passes=7), one("c", passes=8), one("d", passes=2)]
    assert reversals(dials) == 1
    assert reversals(dials, tolerance=1.5) == 0


def test_what_cannot_be_compared() -> None:
    first, second = sets(2)
    with pytest.raises(RequestError, match="no settings"):
        compare(first, [], LENGTH)
    short = Outcome(Setting("short"), [1.0], [1], 1.0)
    with pytest.raises(RequestError, match="different numbers of problems"):
        compare(first, [*second, short], LENGTH)
