"""Accuracy against passes: what a set of settings can do, with intervals over the prompts.

All settings met the same problems, so a resample of the problems moves them together and differences are paired.
Shapes: K settings, N problems, R resamples. An area (see `unmask.solve.pareto`) may rest on a setting chosen on these
very problems: for the best of many it is an upper view.
"""

__all__ = ["Frontier", "frontier", "resample"]

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unmask.solve.pareto import Floats, hypervolume, mixture_hypervolume, pareto
from unmask.solve.sweep import Outcome


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
    remixed: Floats
    """(R,) the same of the mixture envelope."""


def frontier(outcomes: Sequence[Outcome], length: int, *, resamples: int = 400, seed: int = 0) -> Frontier:
    """The frontier of some settings; `length` is L, the number of passes where the axis ends."""
    scores = np.array([outcome.scores for outcome in outcomes], np.float64)
    passes = np.array([outcome.passes for outcome in outcomes], np.float64)
    draws = resample(scores.shape[1], resamples, seed)
    accuracies, spent = draws @ scores.T, draws @ passes.T
    pairs = list(zip(spent, accuracies, strict=True))
    volumes = np.array([hypervolume(p, a, length) for p, a in pairs])
    mixtures = np.array([mixture_hypervolume(p, a, length) for p, a in pairs])
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
        mixtures,
    )


def resample(count: int, resamples: int, seed: int) -> Floats:
    """(R, N) the weight of each of `count` problems in each resample: the same for the same count and seed."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples) / count
