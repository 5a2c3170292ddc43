"""How many of a block's n positions are revealed in each of k passes: a pace, for whatever order they come in.

A pace is a function (total, step, steps) -> (B,) int64, each argument (B,) int64: the count it wants to have revealed
after `step` of `steps` passes. `quota` makes it a law in integers that holds for every n and k: k' = min(k, n) passes,
none of them empty, and nothing left after the last. A saved pace is a file that `unmask pace --out FILE.json` wrote; a
policy names it as `random:pace=FILE.json`.

Paces from an information curve: f(j), j = 0 .. n-1, is the mean cross-entropy in nats of a hidden token where a
uniformly random j of n are revealed; z(j) = f(0) - f(j). Sizes s_1 .. s_k with N_i = s_1 + .. + s_i cost exactly
sum s_i f(N_{i-1}): the area under the left-endpoint steps of f (Chen, Cong & Li, arXiv:2511.04647; the cross-entropy
form holds for a model as it is).

Paces for any law whose TC or DTC is small: steps that grow, or shrink, geometrically (the same paper). A step from a to
b errs by at most (b - a) (z(b - 1) - z(a)), and by nothing where it is of one position. TC = sum_i H(X_i) - H(X) is the
area under z, DTC = H(X) - sum_i H(X_i | the others) the area above it: so steps of at most delta times what stands
before them lose at most delta * DTC in all, and of delta times what is left after them at most delta * TC. Both take
about 1/delta + log(n delta)/log(1 + delta) passes.
"""

__all__ = [
    "PACES",
    "RULES",
    "Pace",
    "Power",
    "Rule",
    "SavedPace",
    "Sizes",
    "cosine",
    "cost",
    "dtc_sizes",
    "fit_delta",
    "linear",
    "optimal",
    "quota",
    "read_pace",
    "round_up",
    "sizes_of",
    "square_root",
    "tc_sizes",
]

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from unmask.batch import ceil_div
from unmask.errors import ConfigError, RequestError

Pace = Callable[[Tensor, Tensor, Tensor], Tensor]


def linear(total: Tensor, step: Tensor, steps: Tensor) -> Tensor:
    """n i/k, rounded up: equal steps (LLaDA, arXiv:2502.09992)."""
    return ceil_div(total * step, steps)


def cosine(total: Tensor, step: Tensor, steps: Tensor) -> Tensor:
    """n (1 - cos(pi/2 i/k)), rounded up: small steps first (MaskGIT, arXiv:2202.04200)."""
    return round_up(total * (1 - (step.double() / steps * (math.pi / 2)).cos()))


@dataclass(frozen=True, slots=True)
class Power:
    """n (i/k)^power, rounded up: above 1 small steps first, below 1 large ones."""

    power: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.power < math.inf:
            raise ConfigError(f"power is {self.power}; give a number above 0, for example 2.")

    def __call__(self, total: Tensor, step: Tensor, steps: Tensor) -> Tensor:
        return round_up(total * (step.double() / steps) ** self.power)


PACES: dict[str, Pace] = {"cosine": cosine, "linear": linear}


def quota(pace: Pace, total: Tensor, left: Tensor, step: Tensor, steps: Tensor) -> Tensor:
    """How many of the `left` (B,) positions to reveal in pass `step` (B,), from 0, of `steps` <= `total` passes."""
    wanted = pace(total, step + 1, steps) - (total - left)
    return torch.minimum(wanted, left - (steps - step - 1)).clamp(min=1)  # at least one for each pass to come


def sizes_of(pace: Pace, total: int, steps: int) -> tuple[int, ...]:
    """What a pace reveals in each of its min(steps, total) passes over a block of `total` positions."""
    n, k, sizes = torch.tensor(total), torch.tensor(min(steps, total)), list[int]()
    while (left := total - sum(sizes)) > 0:
        sizes.append(int(quota(pace, n, torch.tensor(left), torch.tensor(len(sizes)), k)))
    return tuple(sizes)


def round_up(x: Tensor) -> Tensor:
    """To int64; a number that is whole but for its last bits stays, so that every processor has the same sizes."""
    return (x - 1e-6).ceil().long()


@dataclass(frozen=True, slots=True)
class SavedPace:
    """The sizes of a pace: exact for as many positions and passes as it has, for others in proportion."""

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise ConfigError(f"The sizes of a pace are {list(self.sizes)}; give at least one, each 1 or more.")

    def __call__(self, total: Tensor, step: Tensor, steps: Tensor) -> Tensor:
        done = torch.tensor([0, *accumulate(self.sizes)], dtype=torch.float64, device=total.device)
        place = (step.double() * len(self.sizes) / steps).clamp(max=len(self.sizes))
        below = place.floor().long().clamp(max=len(self.sizes) - 1)
        share = torch.lerp(done[below], done[below + 1], place - below)
        return round_up(share * total / sum(self.sizes))


def read_pace(path: str, steps: int | None = None) -> SavedPace:
    """The pace of `steps` passes in a file, or its only one: {"paces": {"2": [1, 3]}}, sizes by passes.

    Raises RequestError for a file that is missing or holds no such thing, or not one of so many passes.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))["paces"]
        paces = {int(k): _checked(int(k), sizes) for k, sizes in found.items()}
    except OSError:
        raise RequestError(f"The pace {path} cannot be read; give a file that unmask pace --out wrote.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RequestError(f"{path} holds no pace; give a file that unmask pace --out wrote.") from None
    if steps is None and len(paces) == 1:
        return next(iter(paces.values()))
    if steps not in paces:
        known = ", ".join(map(str, sorted(paces)))
        asked = "and steps was not given" if steps is None else f"not of {steps}"
        raise RequestError(f"{path} has paces of {known} passes, {asked}; set steps to one of these.")
    return paces[steps]


def _checked(steps: int, sizes: list[int]) -> SavedPace:
    """ValueError unless these are sizes of so many passes."""
    if len(sizes) != steps or not all(type(size) is int for size in sizes):
        raise ValueError(sizes)
    return SavedPace(tuple(sizes))


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
