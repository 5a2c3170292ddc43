"""How many of a block's n positions are revealed after pass i of k: a pace, for whatever order they come in.

A pace is a function (total, step, steps) -> (B,) int64, each argument (B,) int64: the count it wants to have revealed
after `step` of `steps` passes. `quota` makes it a law in integers that holds for every n and k: k' = min(k, n) passes,
none of them empty, and nothing left after the last.
"""

__all__ = ["PACES", "Pace", "Power", "cosine", "linear", "quota", "round_up", "sizes_of"]

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.errors import ConfigError

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
