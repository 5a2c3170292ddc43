"""Accuracy against passes: what a set of settings can do, with intervals over the prompts.

All settings met the same S problems, so a resample of the problems moves them together and differences are paired.
Shapes: K settings, N problems, R resamples. "Hypervolume" is the area under the best accuracy at no more than so many
passes, over log2 of the passes from 1 to L, both axes scaled to [0, 1]. It may rest on a setting chosen on these very
problems: for the best of many it is an upper view. The mixture envelope lets a caller toss a coin for each prompt
between two settings; a point above it is better than any such mixture.
"""

__all__ = ["Frontier", "envelope_at", "frontier", "hypervolume", "mixture_hypervolume", "pareto", "resample"]

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unmask.sweep import Outcome

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Frontier:
    """K settings over N problems."""

    outcomes: list[Outcome]
    passes: Floats
    """(K,) mean passes."""
    accuracy: Floats
    """(K,) mean score."""
    interval: Floats
    """(K, 2) of the accuracy: 95 % bootstrap over problems."""
    best: list[int]
    """The settings that no other beats in both, the fastest first."""
    hypervolume: float
    hypervolume_interval: tuple[float, float]
    mixture: float
    """The area under the mixture envelope."""
    resampled: Floats
    """(R,) the hypervolume of each resample: subtract those of two frontiers over the same problems, and seed."""


def frontier(outcomes: Sequence[Outcome], length: int, *, resamples: int = 400, seed: int = 0) -> Frontier:
    """The frontier of some settings; `length` is L, the number of passes where the axis ends."""
    scores = np.array([outcome.scores for outcome in outcomes], np.float64)
    passes = np.array([outcome.passes for outcome in outcomes], np.float64)
    draws = resample(scores.shape[1], resamples, seed)
    accuracies, spent = draws @ scores.T, draws @ passes.T
    volumes = np.array([hypervolume(p, a, length) for p, a in zip(spent, accuracies, strict=True)])
    mean_passes, mean_scores = passes.mean(1), scores.mean(1)
    low, high = np.quantile(volumes, [0.025, 0.975])
    return Frontier(
        list(outcomes),
        mean_passes,
        mean_scores,
        np.quantile(accuracies, [0.025, 0.975], axis=0).T,
        pareto(mean_passes, mean_scores),
        hypervolume(mean_passes, mean_scores, length),
        (float(low), float(high)),
        mixture_hypervolume(mean_passes, mean_scores, length),
        volumes,
    )


def resample(count: int, resamples: int, seed: int) -> Floats:
    """(R, N) the weight of each of `count` problems in each resample: the same for the same count and seed."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples) / count


def pareto(passes: Floats, accuracy: Floats) -> list[int]:
    """The settings with more accuracy than any that is as fast, the fastest first."""
    best: list[int] = []
    for one in sorted(range(len(passes)), key=lambda n: (passes[n], -accuracy[n])):
        if not best or accuracy[one] > accuracy[best[-1]]:
            best.append(one)
    return best


def hypervolume(passes: Floats, accuracy: Floats, length: int) -> float:
    """The area under the step curve of the best accuracy, over log2 passes from 1 to `length`, in [0, 1]."""
    if length < 2:
        return float(accuracy.max(initial=0.0))
    order = np.argsort(passes, kind="stable")
    edges = np.clip(np.log2(np.maximum(passes[order], 1)) / np.log2(length), 0, 1)
    best = np.maximum.accumulate(accuracy[order])
    return float((best * np.diff(np.append(edges, 1.0))).sum())


def _hull(passes: Floats, accuracy: Floats) -> tuple[Floats, Floats]:
    """The corners of the upper concave envelope in (passes, accuracy), as far as it rises."""
    corners: list[tuple[float, float]] = []
    for one in pareto(passes, accuracy):
        point = (float(passes[one]), float(accuracy[one]))
        while len(corners) > 1 and _slope(corners[-2], corners[-1]) <= _slope(corners[-1], point):
            corners.pop()
        corners.append(point)
    xs, ys = zip(*corners, strict=True)
    return np.array(xs), np.array(ys)


def _slope(one: tuple[float, float], other: tuple[float, float]) -> float:
    return (other[1] - one[1]) / (other[0] - one[0])


def envelope_at(passes: Floats, accuracy: Floats, at: Floats) -> Floats:
    """The accuracy of the best mixture of settings that spends `at` passes on average; 0 below the fastest."""
    xs, ys = _hull(passes, accuracy)
    return np.where(at < xs[0] - 1e-12, 0.0, np.interp(at, xs, ys))


def mixture_hypervolume(passes: Floats, accuracy: Floats, length: int) -> float:
    """The area under the mixture envelope, over log2 passes as `hypervolume`."""
    grid = np.linspace(0, 1, 2001)
    return float(envelope_at(passes, accuracy, 2.0 ** (grid * np.log2(length))).mean())
