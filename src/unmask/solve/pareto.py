"""Points of passes and accuracy: those that none beats, the area under them, and what mixing two of them gives.

"Hypervolume" is the area under the best accuracy at no more than so many passes, over log2 of the passes from 1 to L,
both axes scaled to [0, 1]. The mixture envelope lets a caller toss a coin for each prompt between two settings; a point
above it is better than any such mixture. Shapes: K settings.
"""

__all__ = ["Floats", "envelope_at", "hypervolume", "mixture_hypervolume", "pareto"]

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


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
    order = np.argsort(passes, -1, "stable")
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
