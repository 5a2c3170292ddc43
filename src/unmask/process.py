"""The forward process: clean tokens and a time -> tokens with MASK; and its schedules alpha(t).

Symbols follow MDLM (arXiv:2406.07524) and MD4 (arXiv:2406.04329): x_0 clean tokens, x_t corrupted tokens,
t in [0, 1], alpha(t) = P(a token is visible at time t). For every schedule alpha(0) = 1 and alpha(1) = 0, without an
epsilon, so that the bound has no prior and no reconstruction term.
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
    """alpha(t), its derivative and its inverse. All three act elementwise and keep shape and dtype."""

    def alpha(self, t: Tensor) -> Tensor:
        """P(token visible at t); alpha(0) = 1, alpha(1) = 0."""
        ...

    def dalpha(self, t: Tensor) -> Tensor:
        """d alpha / dt, at most 0."""
        ...

    def time_of(self, alpha: Tensor) -> Tensor:
        """The inverse of `alpha`: the time at which a token is visible with that probability."""
        ...


@dataclass(frozen=True, slots=True)
class Linear:
    """alpha = 1 - t, hence sigma = -log(1 - t), called log-linear in the papers; the weight is 1/t."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def dalpha(self, t: Tensor) -> Tensor:
        return torch.full_like(t, -1.0)

    def time_of(self, alpha: Tensor) -> Tensor:
        return 1 - alpha


@dataclass(frozen=True, slots=True)
class Cosine:
    """alpha = cos(pi t / 2) (MDLM E.1, with t as in its code; in the paper t is reversed)."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(_QUARTER * (1 - t))  # equal to the cosine, and exactly 0 at t = 1

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
    """sigma = low^(1-t) high^t, alpha = exp(-sigma), rescaled to alpha(0) = 1 and alpha(1) = 0 (SEDD, MDLM's code)."""

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
    """Name -> the schedule with its default constants. Raises ConfigError for an unknown name."""
    if name not in SCHEDULES:
        raise ConfigError(f"There is no schedule named '{name}'; {did_you_mean(name, SCHEDULES)}")
    return SCHEDULES[name]()


@dataclass(frozen=True, slots=True)
class MaskedDiffusion:
    """The absorbing process: each token is replaced by MASK independently, and remains MASK (MDLM eq. 6).

    Times are (B,), tokens (B, L). Functions of time are computed in float64, because 1 - alpha is a difference that
    cancels near t = 0; the cost is small, a few numbers a row.
    """

    mask_id: int
    schedule: Schedule = Linear()

    def hide(self, t: Tensor, u: Tensor) -> Tensor:
        """Times (B,) and uniforms (B, L) -> the positions that are MASK, (B, L) bool, each with P = 1 - alpha(t)."""
        return u.double() < (1 - self.schedule.alpha(t.double()))[:, None]

    def corrupt(self, x_0: Tensor, t: Tensor, u: Tensor, maskable: Tensor | None = None) -> Tensor:
        """Tokens `x_0` (B, L), times (B,), uniforms (B, L) -> x_t: MASK where `hide` and `maskable` (B, L) are True."""
        hide = self.hide(t, u) if maskable is None else self.hide(t, u) & maskable
        return torch.where(hide, self.mask_id, x_0)

    def weight(self, t: Tensor) -> Tensor:
        """-alpha'(t) / (1 - alpha(t)), the weight of a masked token in the continuous-time bound; 1/t if linear.

        Where 1 - alpha rounds to zero no token is hidden, and the weight is 0: an infinite weight times 0 would be nan.
        """
        t = t.double()
        hidden = 1 - self.schedule.alpha(t)
        return torch.where(hidden > 0, -self.schedule.dalpha(t) / hidden, 0.0)

    def reveal_probability(self, s: Tensor, t: Tensor) -> Tensor:
        """P(a token masked at t is visible at s < t) in the true reverse process: (alpha_s - alpha_t)/(1 - alpha_t)."""
        a_s, a_t = self.schedule.alpha(s.double()), self.schedule.alpha(t.double())
        return (a_s - a_t) / (1 - a_t)
