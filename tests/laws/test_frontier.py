"""The areas of a frontier against shapes of known area and against slow twins; the coverage of its intervals."""

import math

import numpy as np
import pytest

from unmask.eval.frontier import frontier
from unmask.solve.pareto import envelope_at, hypervolume, mixture_hypervolume, pareto
from unmask.solve.settings import Setting
from unmask.solve.sweep import Outcome


def outcome(passes: list[int], scores: list[float], name: str = "random") -> Outcome:
    return Outcome(Setting(name), scores, passes, 1.0)


def test_the_area_of_a_step() -> None:
    """An accuracy of 0.5 from 4 of 16 passes on has an area of 0.5 * 0.5."""
    assert hypervolume(np.array([4.0]), np.array([0.5]), 16) == pytest.approx(0.25)
    assert hypervolume(np.array([1.0]), np.array([1.0]), 16) == pytest.approx(1.0)
    assert hypervolume(np.array([16.0]), np.array([1.0]), 16) == pytest.approx(0.0)
    both = hypervolume(np.array([16.0, 4.0, 2.0]), np.array([1.0, 0.5, 0.25]), 16)
    assert both == pytest.approx(0.25 * 0.25 + 0.5 * 0.5)


def test_the_area_equals_a_sum_over_a_fine_grid() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        passes, accuracy = generator.uniform(1, 24, 7), generator.random(7)
        grid = 2 ** (np.linspace(0, 1, 20_001)[:-1] * math.log2(24))
        reach = [accuracy[passes <= x].max(initial=0.0) for x in grid]
        assert hypervolume(passes, accuracy, 24) == pytest.approx(np.mean(reach), abs=1e-3)
        even = [accuracy[passes <= x].max(initial=0.0) for x in np.linspace(1, 24, 2_001)]
        assert hypervolume(passes, accuracy, 24) != pytest.approx(np.mean(even), abs=1e-3)  # the control: even passes


def test_the_pareto_front() -> None:
    passes, accuracy = np.array([1.0, 2.0, 2.0, 3.0, 4.0]), np.array([0.1, 0.3, 0.4, 0.4, 0.9])
    assert pareto(passes, accuracy) == [0, 2, 4]


def test_the_envelope_is_the_best_mixture_of_two() -> None:
    generator = np.random.default_rng(1)
    for _ in range(20):
        passes, accuracy = generator.uniform(1, 24, 6), generator.random(6)
        at = generator.uniform(passes.min(), 24, 30)
        slow = []
        for x in at:
            best = max(accuracy[passes <= x])
            for i in range(6):
                for j in range(6):
                    if passes[i] <= x < passes[j]:
                        share = (x - passes[i]) / (passes[j] - passes[i])
                        best = max(best, (1 - share) * accuracy[i] + share * accuracy[j])
            slow.append(best)
        np.testing.assert_allclose(envelope_at(passes, accuracy, at), slow, atol=1e-12)
        assert mixture_hypervolume(passes, accuracy, 24) >= hypervolume(passes, accuracy, 24) - 1e-3


@pytest.mark.slow
def test_intervals_cover_and_shrink() -> None:
    """About 95 % of 200 intervals contain the true accuracy .3; four times as many problems halve their width."""
    generator = np.random.default_rng(2)
    covered, widths = 0, {64: 0.0, 256: 0.0}
    for turn in range(200):
        for count in widths:
            scores = (generator.random(count) < 0.3).astype(float).tolist()
            result = frontier([outcome([4] * count, scores)], 16, resamples=200, seed=turn)
            low, high = result.interval[0]
            widths[count] += (high - low) / 200
            covered += count == 256 and low <= 0.3 <= high
    assert 0.88 < covered / 200 < 0.99
    assert widths[64] / widths[256] == pytest.approx(2, rel=0.1)


def test_resamples_are_paired() -> None:
    """Two frontiers of equal scores are equal in every resample; for other scores they are not."""
    generator = np.random.default_rng(3)
    scores = (generator.random(64) < 0.5).astype(float).tolist()
    first = frontier([outcome([4] * 64, scores)], 16, seed=5)
    equal = frontier([outcome([4] * 64, scores, "margin")], 16, seed=5)
    control = frontier([outcome([4] * 64, scores[::-1])], 16, seed=5)
    assert (first.resampled == equal.resampled).all()
    assert (first.resampled != control.resampled).any()
