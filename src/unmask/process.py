"""The forward process: what masking does to a sequence, and how fast.

Symbols follow MDLM (arXiv:2406.07524) and MD4 (arXiv:2406.04329): x_0 clean tokens, x_t corrupted tokens,
t in [0, 1], alpha(t) = P(a token is still visible at time t). Every schedule here starts at alpha(0) = 1 and ends at
alpha(1) = 0, exactly: no epsilon is left at either end, so that the bound needs no prior and no reconstruction term.
"""

__all__ = [
    "SCHEDULES",
    "Cosine",
    "CosineSquared",
    "Geometric",
    "Linear",
    "MaskedDiffusion",
    "Polynomial",
    "Schedule",
    "make_schedule",
]

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from unmask.errors import ConfigError, did_you_mean

_QUARTER = math.pi / 2


class Schedule(Protocol):
    """How visibility falls with time. All three act elementwise and keep shape and dtype."""

    def alpha(self, t: Tensor) -> Tensor:
        """P(token visible at t); alpha(0) = 1, alpha(1) = 0."""
        ...

    def dalpha(self, t: Tensor) -> Tensor:
        """d alpha / dt, never positive."""
        ...

    def time_of(self, alpha: Tensor) -> Tensor:
        """The inverse: the time at which a token is visible with probability `alpha`."""
        ...


@dataclass(frozen=True, slots=True)
class Linear:
    """alpha = 1 - t: sigma = -log(1 - t), which the papers call log-linear. The weight is 1/t."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def dalpha(self, t: Tensor) -> Tensor:
        return torch.full_like(t, -1.0)

    def time_of(self, alpha: Tensor) -> Tensor:
        return 1 - alpha


@dataclass(frozen=True, slots=True)
class Cosine:
    """alpha = cos(pi t / 2) (MDLM E.1, in the orientation of its code: the paper prints it reversed)."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(_QUARTER * (1 - t))  # the same, and exactly 0 at t = 1

    def dalpha(self, t: Tensor) -> Tensor:
        return -_QUARTER * torch.sin(_QUARTER * t)

    def time_of(self, alpha: Tensor) -> Tensor:
        return torch.acos(alpha) / _QUARTER


@dataclass(frozen=True, slots=True)
class CosineSquared:
    """alpha = cos(pi t / 2)^2 (MDLM E.1)."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(_QUARTER * (1 - t)).square()

    def dalpha(self, t: Tensor) -> Tensor:
        return -_QUARTER * torch.sin(math.pi * t)

    def time_of(self, alpha: Tensor) -> Tensor:
        return torch.acos(alpha.sqrt()) / _QUARTER


@dataclass(frozen=True, slots=True)
class Geometric:
    """sigma = low^(1-t) high^t and alpha = exp(-sigma), stretched to run from 1 to 0 (SEDD, MDLM's code)."""

    low: float = 1e-3
    high: float = 20.0

    def _ends(self) -> tuple[float, float]:
        return math.exp(-self.low), math.exp(-self.high)

    def _sigma(self, t: Tensor) -> Tensor:
        return self.low * torch.exp(t * math.log(self.high / self.low))

    def alpha(self, t: Tensor) -> Tensor:
        first, last = self._ends()
        return (torch.exp(-self._sigma(t)) - last) / (first - last)

    def dalpha(self, t: Tensor) -> Tensor:
        first, last = self._ends()
        sigma = self._sigma(t)
        return -sigma * math.log(self.high / self.low) * torch.exp(-sigma) / (first - last)

    def time_of(self, alpha: Tensor) -> Tensor:
        first, last = self._ends()
        sigma = -torch.log(alpha * (first - last) + last)
        return (torch.log(sigma / self.low) / math.log(self.high / self.low)).clamp(0, 1)


@dataclass(frozen=True, slots=True)
class Polynomial:
    """alpha = 1 - t^power (MD4)."""

    power: float = 2.0

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t**self.power

    def dalpha(self, t: Tensor) -> Tensor:
        return -self.power * t ** (self.power - 1)

    def time_of(self, alpha: Tensor) -> Tensor:
        return (1 - alpha) ** (1 / self.power)


SCHEDULES: dict[str, type[Schedule]] = {
    "cosine": Cosine,
    "cosine-squared": CosineSquared,
    "geometric": Geometric,
    "linear": Linear,
    "polynomial": Polynomial,
}


def make_schedule(name: str) -> Schedule:
    """The schedule of that name with its default constants. Raises ConfigError for a name that is not one."""
    if name not in SCHEDULES:
        raise ConfigError(f"There is no schedule named '{name}'; {did_you_mean(name, SCHEDULES)}")
    return SCHEDULES[name]()


@dataclass(frozen=True, slots=True)
class MaskedDiffusion:
    """The absorbing process: each token is replaced by MASK on its own, and stays so (MDLM eq. 6).

    Times are (B,), tokens (B, L). Everything about time is computed in float64: 1 - alpha is a difference that
    cancels near t = 0, and the numbers are few.
    """

    mask_id: int
    schedule: Schedule = Linear()

    def hide(self, t: Tensor, u: Tensor) -> Tensor:
        """Which positions are MASK: (B,) times and (B, L) uniforms -> (B, L) bool, each with P = 1 - alpha(t)."""
        return u.double() < (1 - self.schedule.alpha(t.double()))[:, None]

    def corrupt(self, x_0: Tensor, t: Tensor, u: Tensor, maskable: Tensor | None = None) -> Tensor:
        """x_t for tokens `x_0` (B, L) at times `t` (B,): MASK where `hide` says so and `maskable` (B, L) allows."""
        hide = self.hide(t, u) if maskable is None else self.hide(t, u) & maskable
        return torch.where(hide, self.mask_id, x_0)

    def weight(self, t: Tensor) -> Tensor:
        """-alpha'(t) / (1 - alpha(t)), the weight of a masked token in the continuous-time bound; 1/t when linear.

        Where 1 - alpha rounds to zero nothing is ever hidden, and the weight is 0: infinity times nothing would be nan.
        """
        t = t.double()
        hidden = 1 - self.schedule.alpha(t)
        return torch.where(hidden > 0, -self.schedule.dalpha(t) / hidden, 0.0)

    def reveal_probability(self, s: Tensor, t: Tensor) -> Tensor:
        """P(a token masked at t is visible at s < t) in the true reverse process: (alpha_s - alpha_t)/(1 - alpha_t)."""
        a_s, a_t = self.schedule.alpha(s.double()), self.schedule.alpha(t.double())
        return (a_s - a_t) / (1 - a_t)
