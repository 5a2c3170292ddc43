"""Two sets of texts -> how alike their distributions are: MAUVE (arXiv:2102.01454) from features of each text.

Features of both sets, scaled to length 1 and reduced to the principal components with 90 % of their variance, are
clustered together by k-means; p and q are the shares of each set in the clusters. With r = w p + (1 - w) q the frontier
has the points (exp(-c KL(q, r)), exp(-c KL(p, r))) for w between 0 and 1, and MAUVE is the area below it: 1 for equal
shares, near 0 for sets without a common cluster. It depends on the features, on the number of texts and on k.
Shapes: N texts, D features, k clusters.
"""

__all__ = ["CLUSTERS", "SCALING", "clusters", "frontier_area", "mauve", "reduced"]

import torch
from torch import Tensor

from unmask.errors import RequestError
from unmask.noise import generator

CLUSTERS = 50
"""k; for about 500 texts of each set."""
SCALING = 5.0
"""c, as published."""
_WEIGHTS = 25
_STARTS, _ROUNDS = 5, 500  # of k-means
_VARIANCE = 0.9


def mauve(left: Tensor, right: Tensor, k: int = CLUSTERS, seed: int = 0) -> float:
    """Features (N, D) and (M, D) of two sets of texts -> MAUVE. Raises RequestError for fewer than 2 k texts."""
    if min(len(left), len(right)) < 2 * k:
        count = min(len(left), len(right))
        raise RequestError(f"MAUVE with {k} clusters needs {2 * k} texts of each set, and there are {count}.")
    which = clusters(reduced(torch.cat([left, right])), k, seed)
    p, q = (part.bincount(minlength=k).double() / len(part) for part in (which[: len(left)], which[len(left) :]))
    return frontier_area(p, q)


def reduced(features: Tensor) -> Tensor:
    """Features (N, D) -> rows of length 1, as the principal components with 90 % of the variance, (N, C) float64."""
    rows = torch.nn.functional.normalize(features.double(), dim=-1)
    rows = rows - rows.mean(0)
    _, singular, components = torch.linalg.svd(rows, full_matrices=False)
    share = singular.square().cumsum(0) / singular.square().sum()
    return rows @ components[: int((share < _VARIANCE).sum()) + 1].T


def clusters(rows: Tensor, k: int, seed: int) -> Tensor:
    """Rows (N, C) -> the cluster of each (N,): the best of five starts of k-means, seeded by k-means++."""
    best, least = torch.zeros(len(rows), dtype=torch.int64), torch.inf
    for start in range(_STARTS):
        centres, which = _seeded(rows, k, generator(seed, start)), best
        for turn in range(_ROUNDS):
            distance = torch.cdist(rows, centres).square()
            nearest = distance.argmin(1)
            if turn and torch.equal(nearest, which):
                break
            which = nearest
            count = which.bincount(minlength=k)
            sums = torch.zeros_like(centres).index_add(0, which, rows)
            centres = torch.where(count[:, None] > 0, sums / count.clamp(min=1)[:, None], centres)
        cost = float(torch.cdist(rows, centres).square().amin(1).sum())
        if cost < least:
            best, least = which, cost
    return best


def _seeded(rows: Tensor, k: int, source: torch.Generator) -> Tensor:
    """k rows, each drawn by its squared distance to those before it (Arthur and Vassilvitskii 2007)."""
    chosen = [int(torch.randint(len(rows), (), generator=source))]
    distance = (rows - rows[chosen[0]]).square().sum(1)
    while len(chosen) < k:
        weights = distance if bool(distance.sum() > 0) else torch.ones_like(distance)
        chosen.append(int(weights.multinomial(1, generator=source)))
        distance = torch.minimum(distance, (rows - rows[chosen[-1]]).square().sum(1))
    return rows[chosen]


def frontier_area(p: Tensor, q: Tensor) -> float:
    """Shares p and q (k,) -> the area below the frontier, the mean over both directions of integration."""
    points = [(0.0, 1.0)]
    for weight in torch.linspace(1e-6, 1 - 1e-6, _WEIGHTS, dtype=torch.float64):
        r = weight * p + (1 - weight) * q
        points.append((_similarity(q, r), _similarity(p, r)))
    points.append((1.0, 0.0))
    x, y = torch.tensor(points, dtype=torch.float64).T
    across, upward = x.argsort(), y.argsort()
    return float(torch.trapezoid(y[across], x[across]) + torch.trapezoid(x[upward], y[upward])) / 2


def _similarity(p: Tensor, r: Tensor) -> float:
    """exp(-c KL(p, r))."""
    divergence = torch.where(p > 0, p * (p / r).log(), 0).sum()
    return float((-SCALING * divergence).exp())
