"""Paired differences against a direct computation; intervals cover zero if and only if the sets do not differ."""

import numpy as np
import pytest

from unmask.errors import RequestError
from unmask.eval.frontier import (
    LEARNED,
    POSITION_FREE,
    POSITION_FREE_ANY,
    REFERENCES,
    compare,
    grouped,
    one_pass,
    reversals,
)
from unmask.solve.pareto import envelope_at, hypervolume
from unmask.solve.settings import Setting
from unmask.solve.sweep import Outcome

LENGTH, COUNT = 16, 80


def drawn(generator: np.random.Generator, accuracy: float, passes: float, name: str = "random") -> Outcome:
    """A setting with this accuracy and mean number of passes, on problems that differ in length."""
    spent = np.maximum(1, np.round(passes * generator.uniform(0.7, 1.3, COUNT))).astype(int).tolist()
    return Outcome(Setting(name), (generator.random(COUNT) < accuracy).astype(float).tolist(), spent, 1.0)


def sets(seed: int, gain: float = 0.0) -> tuple[list[Outcome], list[Outcome]]:
    generator = np.random.default_rng(seed)
    points = [(0.3, 3.0), (0.5, 6.0), (0.7, 10.0)]
    return [drawn(generator, a + gain, p) for a, p in points], [drawn(generator, a, p) for a, p in points]


def test_the_difference_equals_a_direct_computation() -> None:
    """Resampled indices of problems, the same for both sets; the control uses other indices for the second set."""
    first, second = sets(0, 0.1)
    point = Outcome(Setting("confidence:steps=1"), [0.0] * (COUNT - 8) + [1.0] * 8, [1] * COUNT, 1.0)
    result = compare(first, second, LENGTH, point=point, resamples=300, seed=4)

    def volume(outcomes: list[Outcome], at: np.ndarray) -> float:
        passes = np.array([float(np.mean(np.array(outcome.passes)[at])) for outcome in [*outcomes, point]])
        scores = np.array([float(np.mean(np.array(outcome.scores)[at])) for outcome in [*outcomes, point]])
        return hypervolume(passes, scores, LENGTH)

    weights = np.random.default_rng(4).multinomial(COUNT, np.full(COUNT, 1 / COUNT), 300)
    picked = [np.repeat(np.arange(COUNT), row) for row in weights]
    paired = [volume(first, at) - volume(second, at) for at in picked]
    apart = [volume(first, at) - volume(second, other) for at, other in zip(picked, picked[::-1], strict=True)]
    everyone = np.arange(COUNT)
    assert result.difference == pytest.approx(volume(first, everyone) - volume(second, everyone))
    np.testing.assert_allclose(result.difference_95, np.quantile(paired, [0.025, 0.975]), atol=1e-9)
    assert np.abs(np.array(result.difference_95) - np.quantile(apart, [0.025, 0.975])).max() > 1e-3


def test_the_point_of_one_pass_is_in_both_sets() -> None:
    """The point adds the area of few passes to a set of slow settings; the two sets are then equal."""
    generator = np.random.default_rng(1)
    fast = Outcome(
        Setting("confidence:steps=1"), (generator.random(COUNT) < 0.4).astype(float).tolist(), [1] * COUNT, 1.0
    )
    slow = [drawn(generator, 0.9, 12.0)]
    assert one_pass([*slow, fast]) is fast
    assert one_pass(slow) is None
    alone = compare(slow, [fast, *slow], LENGTH)
    both = compare(slow, [fast, *slow], LENGTH, point=fast)
    assert alone.difference < -0.2
    assert both.difference == both.difference_95[0] == both.difference_95[1] == 0
    assert (both.points, both.above, both.beyond) == (1, 0, 0)


@pytest.mark.slow
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
    """A setting on the line between two others adds area under the step curve, but none under the envelope."""
    second = [
        Outcome(Setting("a"), [0.0] * COUNT, [2] * COUNT, 1.0),
        Outcome(Setting("b"), [1.0] * COUNT, [10] * COUNT, 1.0),
    ]
    half = Outcome(Setting("half"), [1.0, 0.0] * (COUNT // 2), [10, 2] * (COUNT // 2), 1.0)
    result = compare([*second, half], second, LENGTH)
    assert result.difference > 0.05
    assert result.mixture == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(result.mixture_95, 0, atol=1e-9)
    better = Outcome(Setting("better"), [1.0] * COUNT, [6] * COUNT, 1.0)
    assert compare([*second, better], second, LENGTH).mixture_95[0] > 0.05  # the control


def test_points_above_the_mixture_envelope() -> None:
    """A setting just above the mixture of two others counts as above, but not as beyond two standard errors."""
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
    result = compare([just, far, below], second, LENGTH)
    assert (result.points, result.above, result.beyond) == (3, 2, 1)
    control = compare([just, far, below], [*second, Outcome(Setting("c"), [1.0] * COUNT, [2] * COUNT, 1.0)], LENGTH)
    assert (control.above, control.beyond) == (0, 0)


def test_groups_and_reversals() -> None:
    def make(name: str, block: int | None = None, passes: int = 3) -> Outcome:
        return Outcome(Setting(name, block), [1.0], [passes], 1.0)

    outcomes = [make("threshold"), make("threshold", 6), make("prefix:threshold=0.9"), make("learned:from=x,dial=0.1")]
    result = {name: [outcome.setting.key for outcome in members] for name, members in grouped(outcomes).items()}
    assert result == {
        POSITION_FREE: ["threshold @ full"],
        POSITION_FREE_ANY: ["threshold @ full", "threshold @ 6"],
        REFERENCES: ["prefix:threshold=0.9 @ full"],
        LEARNED: ["learned:from=x,dial=0.1 @ full"],
    }
    assert LEARNED not in grouped(outcomes[:3])
    compound = {
        REFERENCES: ["freedave over prefix:threshold=0.9", "early-stop:early=1 over pc", "klass or left-to-right"],
        LEARNED: ["early-stop over learned:from=x", "learned:from=x or prefix"],
        POSITION_FREE: ["freedave:drafts=2 over threshold", "klass:kl=1 or confidence:steps=3"],
    }
    groups = grouped([make(name) for names in compound.values() for name in names])
    for group, names in compound.items():
        assert [outcome.setting.policy for outcome in groups[group]] == names
    dials = [make("a", passes=9), make("b", passes=7), make("c", passes=8), make("d", passes=2)]
    assert reversals(dials) == 1
    assert reversals(dials, tolerance=1.5) == 0


def test_what_cannot_be_compared() -> None:
    first, second = sets(2)
    with pytest.raises(RequestError, match="no settings"):
        compare(first, [], LENGTH)
    short = Outcome(Setting("short"), [1.0], [1], 1.0)
    with pytest.raises(RequestError, match="different numbers of problems"):
        compare(first, [*second, short], LENGTH)
