"""(passes, accuracy) of K settings -> the Pareto front, the area under it, and the envelope of random mixtures.

The hypervolume is the area under the step curve "the best accuracy with at most this many passes", over log2 of the
passes from 1 to L, both axes scaled to [0, 1]. The mixture envelope is the best accuracy of a random choice between two
settings for each prompt; a point above it is better than every such mixture.
"""

__all__ = ["Floats", "envelope_at", "hypervolume", "mixture_hypervolume", "pareto"]

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def pareto(passes: Floats, accuracy: Floats) -> list[int]:
    """(K,) passes and accuracies -> the indices of the settings that no other dominates, the fastest first."""
    best: list[int] = []
    for index in sorted(range(len(passes)), key=lambda n: (passes[n], -accuracy[n])):
        if not best or accuracy[index] > accuracy[best[-1]]:
            best.append(index)
    return best


def hypervolume(passes: Floats, accuracy: Floats, length: int) -> float:
    """(K,) passes and accuracies -> the area under the step curve, over log2 passes from 1 to `length`, in [0, 1]."""
    if length < 2:
        return float(accuracy.max(initial=0.0))
    order = np.argsort(passes, -1, "stable")
    edges = np.clip(np.log2(np.maximum(passes[order], 1)) / np.log2(length), 0, 1)
    best = np.maximum.accumulate(accuracy[order])
    return float((best * np.diff(np.append(edges, 1.0))).sum())


def _hull(passes: Floats, accuracy: Floats) -> tuple[Floats, Floats]:
    """The corners of the rising part of the upper concave envelope of the points (passes, accuracy)."""
    corners: list[tuple[float, float]] = []
    for index in pareto(passes, accuracy):
        point = (float(passes[index]), float(accuracy[index]))
        while len(corners) > 1 and _slope(corners[-2], corners[-1]) <= _slope(corners[-1], point):
            corners.pop()
        corners.append(point)
    xs, ys = zip(*corners, strict=True)
    return np.array(xs), np.array(ys)


def _slope(left: tuple[float, float], right: tuple[float, float]) -> float:
    return (right[1] - left[1]) / (right[0] - left[0])


def envelope_at(passes: Floats, accuracy: Floats, at: Floats) -> Floats:
    """The best accuracy of a mixture of settings with `at` passes on average; 0 below the fastest setting."""
    xs, ys = _hull(passes, accuracy)
    return np.where(at < xs[0] - 1e-12, 0.0, np.interp(at, xs, ys))


def mixture_hypervolume(passes: Floats, accuracy: Floats, length: int) -> float:
    """(K,) passes and accuracies -> the area under the mixture envelope, over the same axes as `hypervolume`."""
    grid = np.linspace(0, 1, 2001)
    return float(envelope_at(passes, accuracy, 2.0 ** (grid * np.log2(length))).mean())
