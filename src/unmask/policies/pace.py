"""Paces that are computed: from an information curve, for laws of small correlation, and from a file.

`unmask pace --out FILE.json` writes a pace to a file; a policy reads it with the option `pace=FILE.json`. See
`policies.top_k` for the definition of a pace.

Paces from an information curve: f(j), j = 0 .. n-1, is the mean cross-entropy in nats of a hidden token where a
uniformly random j of n are revealed; z(j) = f(0) - f(j). Sizes s_1 .. s_k with N_i = s_1 + .. + s_i have exactly the
cost sum s_i f(N_{i-1}): the area under the left-endpoint step function of f (Chen, Cong & Li, arXiv:2511.04647; with
cross-entropies it holds for a model that is not exact).

Paces for any law whose total correlation (TC) or dual total correlation (DTC) is small: sizes that shrink, or grow,
geometrically (the same paper). A pass that raises the number of revealed positions from a to b has an error of at most
(b - a) (z(b - 1) - z(a)), and none if b = a + 1. TC = sum_i H(X_i) - H(X) is the area under z, and
DTC = H(X) - sum_i H(X_i | the others) the area above it. So sizes of at most delta times the number revealed before
lose at most delta * DTC in all, and sizes of at most delta times the number left after lose at most delta * TC. Both
take about 1/delta + log(n delta)/log(1 + delta) passes.
"""

__all__ = [
    "RULES",
    "Rule",
    "SavedPace",
    "Sizes",
    "cost",
    "dtc_sizes",
    "fit_delta",
    "optimal",
    "read_pace",
    "square_root",
    "tc_sizes",
]

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from unmask.disk.files import reason_of
from unmask.disk.json import NotJson, parse_json, read_text
from unmask.errors import ConfigError, RequestError
from unmask.policies.top_k import cosine, linear, round_up, sizes_of
from unmask.ranges import LARGEST, Count, check_numbers, shown


@dataclass(frozen=True, slots=True)
class SavedPace:
    """A pace by its sizes: exact for as many positions and passes as it has, interpolated for other numbers."""

    sizes: tuple[Count, ...]

    def __post_init__(self) -> None:
        check_numbers(self)
        if not self.sizes or sum(self.sizes) > LARGEST:
            raise ConfigError(f"The sizes of a pace are {shown(list(self.sizes))}; give at least one, each 1 or more.")

    def __call__(self, total: Tensor, step: Tensor, steps: Tensor) -> Tensor:
        done = torch.tensor([0, *accumulate(self.sizes)], dtype=torch.float64, device=total.device)
        index = (step.double() * len(self.sizes) / steps).clamp(max=len(self.sizes))
        below = index.floor().long().clamp(max=len(self.sizes) - 1)
        share = torch.lerp(done[below], done[below + 1], index - below)
        return round_up(share * total / sum(self.sizes))


_FILE = "file that unmask pace --out wrote"


@dataclass(frozen=True, slots=True)
class _Paces:
    """The part of a file of `unmask pace --out` that is read here: number of passes -> sizes."""

    paces: dict[str, list[Count]]


def read_pace(path: str, steps: int | None = None) -> SavedPace:
    """Path of a file such as {"paces": {"2": [1, 3]}} -> the pace of `steps` passes, or with None its only pace.

    Raises RequestError for a file that is missing, has no paces, or none of so many passes.
    """
    try:
        stored = parse_json(read_text(path), _Paces).paces
        paces = {int(passes): _checked(int(passes), sizes) for passes, sizes in stored.items()}
    except OSError as error:
        raise RequestError(f"The pace {path} cannot be read ({reason_of(error)}); give a {_FILE}.") from None
    except NotJson as error:
        raise RequestError(f"{path} holds no pace: it {error.reason}; give a {_FILE}.") from None
    except ValueError:
        raise RequestError(f"{path} holds no pace; give a {_FILE}.") from None
    if steps is None and len(paces) == 1:
        return next(iter(paces.values()))
    if steps not in paces:
        known = ", ".join(map(str, sorted(paces)))
        reason = "and steps was not given" if steps is None else f"not of {steps}"
        raise RequestError(f"{path} has paces of {known} passes, {reason}; set steps to one of these.")
    return paces[steps]


def _checked(steps: int, sizes: list[int]) -> SavedPace:
    """Sizes -> a pace. Raises ValueError unless there are `steps` sizes."""
    if len(sizes) != steps:
        raise ValueError(sizes)
    return SavedPace(tuple(sizes))


def dtc_sizes(total: int, delta: float) -> tuple[int, ...]:
    """Each pass reveals delta times the number revealed before, at least 1: the error is at most delta * DTC."""
    sizes, done = list[int](), 0
    while done < total:
        sizes.append(min(total - done, max(1, int(delta * done))))
        done += sizes[-1]
    return tuple(sizes)


def tc_sizes(total: int, delta: float) -> tuple[int, ...]:
    """Each pass reveals delta times the number left after it, at least 1: the error is at most delta * TC."""
    return dtc_sizes(total, delta)[::-1]


def fit_delta(rule: Callable[[int, float], tuple[int, ...]], total: int, steps: int) -> tuple[int, ...]:
    """The sizes of `rule` at the least delta with at most `steps` passes; if they are fewer, the largest are halved.

    Halving never raises the cost: the curve falls, and the second half starts from a later point of it.
    """
    if steps < 2:  # a rule's first or last pass has one position, so that no delta gives a single pass
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
    """Curve (n,) and sizes -> sum s_i f(N_{i-1}) in nats: the k-step bound of a whole sequence."""
    starts = accumulate((0, *sizes[:-1]))
    return sum(size * value for size, value in zip(sizes, curve.double()[list(starts)].tolist(), strict=True))


def optimal(curve: Tensor, steps: int) -> Sizes:
    """Curve (n,) -> the sizes of least cost in exactly min(steps, n) passes.

    Dynamic programming: D_i(b) = min over a < b of D_{i-1}(a) + (b - a) f(a).
    """
    n = len(curve)
    a, b = torch.arange(n), torch.arange(n + 1)[:, None]
    costs = torch.where(b > a, (b - a) * curve.double(), torch.inf)  # (n + 1, n) of a pass from a to b
    best, origins = torch.full((n + 1,), torch.inf, dtype=torch.float64), list[Tensor]()
    best[0] = 0
    for _ in range(min(steps, n)):
        best, origin = (best[:n] + costs).min(-1)
        origins.append(origin)
    cuts = [n]
    for origin in reversed(origins):
        cuts.append(int(origin[cuts[-1]]))
    return tuple(high - low for low, high in zip(reversed(cuts[1:]), reversed(cuts[:-1]), strict=True))


def square_root(curve: Tensor, steps: int) -> Sizes:
    """Curve (n,) -> sizes with equal parts of the integral of sqrt(z'): the optimum where k and n/k are large."""
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
