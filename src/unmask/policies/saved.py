"""A schedule in a file, as `unmask schedule --out FILE.json` writes it, and as a pace: `random:pace=FILE.json`."""

__all__ = ["Saved", "read_schedule"]

import json
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from unmask.errors import ConfigError, RequestError
from unmask.policies.pace import round_up


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
