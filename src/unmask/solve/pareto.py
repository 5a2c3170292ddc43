"""(passes, accuracy) of K settings -> the Pareto front, the area under it, and the envelope of random mixtures.

The hypervolume is the area under the step curve "the best accuracy with at most this many passes", over log2 of the
passes from 1 to L, both axes scaled to [0, 1]. The mixture envelope is the best accuracy of a random choice between two
settings for each prompt; a point above it is better than every such mixture. The AUP (accuracy under parallelism) is an
area over tokens a pass, in which accuracies below the best of all methods count little (d3LLM, arXiv:2601.07568).
"""

__all__ = ["Floats", "aup", "envelope_at", "hypervolume", "mixture_hypervolume", "pareto"]

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


def aup(passes: Floats, accuracy: Floats, length: int, best: float) -> float:
    """(K,) passes and accuracies -> the AUP of the settings that no other dominates, in percent times tokens a pass.

    Sorted by tokens a pass rho = `length` / passes, with accuracies y in percent: rho_1 y_1, and for each next point
    the trapezoid (rho_i - rho_{i-1}) (y_i W(y_i) + y_{i-1} W(y_{i-1})) / 2, W(y) = min(1, exp(-3 (1 - y / y_max))).
    y_max is 100 `best`, the best accuracy of any method on the task; points with y < y_1 - 5 are left out. The
    published program takes all points of a method; a method with several options has points that others dominate, so
    that the undominated ones are taken here. Not limited to [0, 1]: it can be compared on one task only.
    """
    order = pareto(passes, accuracy)[::-1]  # the slowest, which is the most accurate, first
    rho, y = length / np.maximum(passes[order], 1e-12), 100 * accuracy[order]
    rho, y = rho[y >= y[0] - 5], y[y >= y[0] - 5]
    weighted = y * np.minimum(1, np.exp(-3 * (1 - y / max(100 * best, 1e-12))))
    return float(rho[0] * y[0] + (np.diff(rho) * (weighted[1:] + weighted[:-1]) / 2).sum())


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
