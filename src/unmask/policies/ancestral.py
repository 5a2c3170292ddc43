"""Ancestral sampling of the reverse process, without the steps that reveal nothing.

Backwards in time from t = 1 to 0 on a grid of T steps, a masked token becomes visible between t and s with probability
(alpha_s - alpha_t)/(1 - alpha_t), independently (MDLM eq. 7). So the time at which each position is revealed can be
drawn once, in advance: it is the time at which alpha equals a uniform number. Each pass takes the next such time of its
row, and no pass runs on an unchanged canvas. T = infinity is the first-hitting sampler (arXiv:2409.02908): one position
a pass.
"""

__all__ = ["Ancestral"]

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.policies.base import Decision, State, View
from unmask.process import Linear, Schedule
from unmask.ranges import Count, check_numbers


@dataclass(frozen=True, slots=True)
class Ancestral:
    """Reveals the positions of the next reveal time; exact in law for `steps` = T, or None for T = infinity.

    `schedule` is the model's alpha(t).
    """

    steps: Count | None = None
    schedule: Schedule = Linear()

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def looks(self) -> bool:
        return False

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        drawn = self._times(view.noise)
        fresh = (view.step == 0)[:, None]
        times = drawn if state is None else torch.where(fresh, drawn, state)
        now = times.masked_fill(~view.eligible, -1.0).amax(-1)
        time = 1 - self.schedule.alpha(now.clamp(min=0))
        return Decision(view.eligible & (times == now[:, None]), time), times

    def _times(self, uniforms: Tensor) -> Tensor:
        """Uniforms u -> reveal times: the t at which alpha(t) = u, rounded up to the grid."""
        t = self.schedule.time_of(uniforms)
        if self.steps is None:
            return t
        return (t * self.steps).ceil().clamp(min=1, max=self.steps) / self.steps
