"""The areas of a frontier against shapes of known area and against slow twins; the coverage of its intervals."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unmask.eval import report
from unmask.eval.frontier import Frontiers, frontier, frontiers
from unmask.plots import distinct_colors
from unmask.solve.pareto import aup, envelope_at, hypervolume, mixture_hypervolume, pareto
from unmask.solve.settings import Setting, settings_of
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


@pytest.mark.slow
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


def slow_aup(points: list[tuple[float, float]], best: float) -> float:
    """d3LLM's figure from (tokens a pass, percent), point by point."""
    points = sorted(points)
    points = [(rho, y) for rho, y in points if y >= points[0][1] - 5]
    weigh = [min(1.0, math.exp(-3 * (1 - y / best))) for _, y in points]
    area = points[0][0] * points[0][1]
    for i in range(1, len(points)):
        width = points[i][0] - points[i - 1][0]
        area += 0.5 * width * (points[i][1] * weigh[i] + points[i - 1][1] * weigh[i - 1])
    return area


def test_the_aup_equals_its_slow_twin() -> None:
    """On points that no other dominates; a higher best accuracy of all methods lowers it; dominated points are left."""
    passes, accuracy = np.array([2.0, 4.0, 8.0, 24.0]), np.array([0.5, 0.86, 0.88, 0.9])
    points = [(24 / p, 100 * a) for p, a in zip(passes, accuracy, strict=True)]
    for best in (0.9, 0.95):
        assert aup(passes, accuracy, 24, best) == pytest.approx(slow_aup(points, 100 * best))
    assert aup(passes, accuracy, 24, 0.95) < aup(passes, accuracy, 24, 0.9)
    more = aup(np.append(passes, 5.0), np.append(accuracy, 0.7), 24, 0.9)
    assert more == aup(passes, accuracy, 24, 0.9)
    assert aup(passes, np.array([0.86, 0.86, 0.88, 0.9]), 24, 0.9) > more  # the control: a fast point within 5 %
    assert aup(np.array([24.0]), np.array([0.9]), 24, 0.9) == pytest.approx(90)


def test_the_aup_of_a_group_counts_the_best_of_all_settings() -> None:
    weak, strong = outcome([4] * 8, [1.0, 0.0] * 4), outcome([24] * 8, [1.0] * 8, "margin")
    both = frontiers([weak, outcome([8] * 8, [1.0, 0.0] * 3 + [1.0, 1.0]), strong], 24)
    alone = frontiers([weak, outcome([8] * 8, [1.0, 0.0] * 3 + [1.0, 1.0])], 24)
    assert both.policies["random"].aup <= alone.policies["random"].aup
    low, high = both.policies["random"].aup_interval
    assert low <= both.policies["random"].aup <= high


@pytest.mark.slow
@pytest.mark.long
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


# ---- what is shown of it ---------------------------------------------------------------------------------------------


def measured(policies: list[str], blocks: list[int | None]) -> Frontiers:
    """Policies and block sizes -> their frontiers, from made-up outcomes on five problems of 24 positions."""
    generator = np.random.default_rng(0)
    settings = {name: settings_of([name], blocks, 24) for name in policies}
    outcomes = [
        Outcome(setting, generator.integers(0, 2, 5).tolist(), generator.integers(1, 24, 5).tolist(), 1.0)
        for rows in settings.values()
        for setting in rows
    ]
    keys = {name: [setting.key for setting in rows] for name, rows in settings.items()}
    return frontiers(outcomes, 24, policies=keys)


POLICIES = ["threshold", "klass or confidence:steps=4", "left-to-right:steps=8", "prefix"]


def test_each_policy_that_was_asked_for_has_a_row() -> None:
    rows = report.policy_lines(measured(POLICIES, [None, 6]))
    assert all(sum(row.startswith(f"  {name} ") for row in rows) == 1 for name in POLICIES)
    assert len(rows) == 1 + len(POLICIES)


def test_no_group_is_shown_twice() -> None:
    """With one block size two groups have the same settings; with two they differ (the control)."""
    cases: list[tuple[list[int | None], int]] = [([None], 1), ([None, 6], 2)]
    for blocks, count in cases:
        result = measured(["threshold", "factor"], blocks)
        shown = [frozenset(o.setting.key for o in group.outcomes) for group in result.groups.values()]
        assert len(shown) == len(set(shown)) == count, blocks


def drawn(result: Frontiers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """Frontiers -> the panels of their picture."""
    figures: list[Any] = []
    monkeypatch.setattr(report, "save_figure", lambda _, figure: figures.append(figure))
    report.plot_frontier(result, "title", tmp_path / "frontier.png")
    return figures[0].axes


def test_a_picture_has_a_panel_for_different_sets_of_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cases: list[tuple[list[int | None], list[str]]] = [
        ([None], ["the whole canvas"]),
        ([6], ["blocks of 6"]),
        ([None, 6], ["the whole canvas", "any block size"]),
    ]
    for blocks, titles in cases:
        panels = drawn(measured(["threshold", "prefix"], blocks), monkeypatch, tmp_path)
        assert [panel.get_title() for panel in panels] == titles


def test_lines_are_steps_and_have_their_own_colours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A slanted line would suggest settings between two points; the mixture envelope is reached, and is the control."""
    (panel,) = drawn(measured(POLICIES, [None]), monkeypatch, tmp_path)
    lines = {line.get_label(): line for line in panel.lines}
    steps = {label for label, line in lines.items() if line.get_drawstyle() == "steps-post"}
    assert steps == {*POLICIES, "frontier"}
    assert set(lines) - steps == {"mixture envelope"}
    assert len({lines[name].get_color() for name in POLICIES}) == len(POLICIES)
    assert len(panel.collections) == len(POLICIES)  # the intervals


@pytest.mark.parametrize("count", [1, 2, 11, 20, 40])
def test_colours_differ(count: int) -> None:
    colors = distinct_colors(count)
    assert len(colors) == count
    assert all(math.dist(a, b) > 0.04 for n, a in enumerate(colors) for b in colors[:n])
