"""Schedules for any law whose TC or DTC is small: steps that grow, or shrink, geometrically (arXiv:2511.04647).

With z as in `schedule`, a step from a to b errs by at most (b - a) (z(b - 1) - z(a)), and by nothing where it is of
one position. TC = sum_i H(X_i) - H(X) is the area under z, DTC = H(X) - sum_i H(X_i | the others) the area above it: so
steps of at most delta times what stands before them lose at most delta * DTC in all, and of delta times what is left
after them at most delta * TC. Both take about 1/delta + log(n delta)/log(1 + delta) passes.

Schedules from an information curve: how many positions to reveal in each of k passes of random order.

f(j), j = 0 .. n-1, is the mean cross-entropy in nats of a hidden token where a uniformly random j of n are revealed;
z(j) = f(0) - f(j). A schedule s_1 .. s_k with N_i = s_1 + .. + s_i costs exactly sum s_i f(N_{i-1}): the area under the
left-endpoint steps of f (Chen, Cong & Li, arXiv:2511.04647; the cross-entropy form holds for a model as it is).
"""

__all__ = ["RULES", "Rule", "Sizes", "cost", "dtc_sizes", "fit_delta", "optimal", "square_root", "tc_sizes"]

from collections.abc import Callable
from itertools import accumulate

import torch
from torch import Tensor

from unmask.policies.pace import cosine, linear, sizes_of


def dtc_sizes(total: int, delta: float) -> tuple[int, ...]:
    """Each pass reveals delta times what stands already, and at least 1: the error is at most delta * DTC."""
    sizes, done = list[int](), 0
    while done < total:
        sizes.append(min(total - done, max(1, int(delta * done))))
        done += sizes[-1]
    return tuple(sizes)


def tc_sizes(total: int, delta: float) -> tuple[int, ...]:
    """Each pass reveals delta times what is left after it, and at least 1: the error is at most delta * TC."""
    return dtc_sizes(total, delta)[::-1]


def fit_delta(rule: Callable[[int, float], tuple[int, ...]], total: int, steps: int) -> tuple[int, ...]:
    """`rule` at the least delta that needs at most `steps` passes; where it needs fewer, the largest are halved.

    Halving never costs more: the curve falls, and the second half then starts from a later point of it.
    """
    if steps < 2:  # the rule begins or ends with a single position, whatever delta
        return (total,)
    low, high = 0.0, float(total)
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if len(rule(total, middle)) <= steps else (middle, high)
    sizes = list(rule(total, high))
    while len(sizes) < min(steps, total):
        at = sizes.index(max(sizes))
        sizes[at : at + 1] = [sizes[at] // 2, sizes[at] - sizes[at] // 2]
    return tuple(sizes)


Sizes = tuple[int, ...]
Rule = Callable[[Tensor, int], Sizes]


def cost(curve: Tensor, sizes: Sizes) -> float:
    """sum s_i f(N_{i-1}) in nats: the k-step bound of a whole sequence; `curve` (n,)."""
    starts = accumulate((0, *sizes[:-1]))
    return sum(size * value for size, value in zip(sizes, curve.double()[list(starts)].tolist(), strict=True))


def optimal(curve: Tensor, steps: int) -> Sizes:
    """The sizes of least cost in exactly min(steps, n) passes: D_i(b) = min over a < b of D_{i-1}(a) + (b - a) f(a)."""
    n = len(curve)
    a, b = torch.arange(n), torch.arange(n + 1)[:, None]
    price = torch.where(b > a, (b - a) * curve.double(), torch.inf)  # (n + 1, n) of a step from a to b
    best, came = torch.full((n + 1,), torch.inf, dtype=torch.float64), list[Tensor]()
    best[0] = 0
    for _ in range(min(steps, n)):
        best, where = (best[:n] + price).min(-1)
        came.append(where)
    cuts = [n]
    for where in reversed(came):
        cuts.append(int(where[cuts[-1]]))
    return tuple(high - low for low, high in zip(reversed(cuts[1:]), reversed(cuts[:-1]), strict=True))


def square_root(curve: Tensor, steps: int) -> Sizes:
    """Cuts at equal parts of the integral of sqrt(z'): the optimum where k and n/k are large."""
    fall = curve.double() - torch.cat([curve[1:], curve[-1:]]).double()
    clock = torch.cat([torch.zeros(1).double(), fall.clamp(min=1e-9).sqrt().cumsum(0)])

    def pace(total: Tensor, step: Tensor, steps: Tensor) -> Tensor:
        return (clock - clock[-1] * step / steps).abs().argmin()

    return sizes_of(pace, len(curve), steps)


RULES: dict[str, Rule] = {
    "optimal": optimal,
    "sqrt": square_root,
    "cosine": lambda curve, steps: sizes_of(cosine, len(curve), steps),
    "uniform": lambda curve, steps: sizes_of(linear, len(curve), steps),
    "tc": lambda curve, steps: fit_delta(tc_sizes, len(curve), steps),
    "dtc": lambda curve, steps: fit_delta(dtc_sizes, len(curve), steps),
}
