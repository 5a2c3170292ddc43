"""Schedules for any law whose TC or DTC is small: steps that grow, or shrink, geometrically (arXiv:2511.04647).

With z as in `schedule`, a step from a to b errs by at most (b - a) (z(b - 1) - z(a)), and by nothing where it is of
one position. TC = sum_i H(X_i) - H(X) is the area under z, DTC = H(X) - sum_i H(X_i | the others) the area above it: so
steps of at most delta times what stands before them lose at most delta * DTC in all, and of delta times what is left
after them at most delta * TC. Both take about 1/delta + log(n delta)/log(1 + delta) passes.
"""

__all__ = ["dtc_sizes", "fit_delta", "tc_sizes"]

from collections.abc import Callable


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
