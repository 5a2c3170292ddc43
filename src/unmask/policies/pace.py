"""How many of a block's n positions are revealed after pass i of k: a pace, for whatever order they come in.

A pace is a function (total, step, steps) -> (B,) int64, each argument (B,) int64: the count it wants to have revealed
after `step` of `steps` passes. `quota` makes it a law in integers that holds for every n and k: k' = min(k, n) passes,
none of them empty, and nothing left after the last.

A schedule in a file, as `unmask schedule --out FILE.json` writes it, and as a pace: `random:pace=FILE.json`.
"""

__all__ = ["PACES", "Pace", "Power", "Saved", "cosine", "linear", "quota", "read_schedule", "round_up", "sizes_of"]

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from unmask.errors import ConfigError, RequestError

Pace = Callable[[Tensor, Tensor, Tensor], Tensor]


def linear(total: Tensor, step: Tensor, steps: Tensor) -> Tensor:
    """n i/k, rounded up: equal steps (LLaDA, arXiv:2502.09992)."""
    return (total * step + steps - 1) // steps


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
class Saved:
    """The sizes of a schedule: exact for as many positions and passes as it has, for others in proportion."""

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise ConfigError(f"The sizes of a schedule are {list(self.sizes)}; give at least one, each 1 or more.")

    def __call__(self, total: Tensor, step: Tensor, steps: Tensor) -> Tensor:
        done = torch.tensor([0, *accumulate(self.sizes)], dtype=torch.float64, device=total.device)
        place = (step.double() * len(self.sizes) / steps).clamp(max=len(self.sizes))
        below = place.floor().long().clamp(max=len(self.sizes) - 1)
        share = torch.lerp(done[below], done[below + 1], place - below)
        return round_up(share * total / sum(self.sizes))


def read_schedule(path: str, steps: int | None = None) -> Saved:
    """The schedule of `steps` passes in a file, or its only one: {"schedules": {"2": [1, 3]}}, sizes by passes.

    Raises RequestError for a file that is missing or holds no such thing, or not one of so many passes.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))["schedules"]
        schedules = {int(k): _checked(int(k), sizes) for k, sizes in found.items()}
    except OSError:
        raise RequestError(f"The pace {path} cannot be read; give a file that unmask schedule --out wrote.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RequestError(f"{path} holds no schedule; give a file that unmask schedule --out wrote.") from None
    if steps is None and len(schedules) == 1:
        return next(iter(schedules.values()))
    if steps not in schedules:
        known = ", ".join(map(str, sorted(schedules)))
        asked = "and steps was not given" if steps is None else f"not of {steps}"
        raise RequestError(f"{path} has schedules of {known} passes, {asked}; set steps to one of these.")
    return schedules[steps]


def _checked(steps: int, sizes: list[int]) -> Saved:
    """ValueError unless these are sizes of so many passes."""
    if len(sizes) != steps or not all(type(size) is int for size in sizes):
        raise ValueError(sizes)
    return Saved(tuple(sizes))
