"""ReMDM: written tokens may be masked again, so that errors can be corrected (arXiv:2503.00307, section 4)."""

__all__ = ["ReMDM"]

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from unmask.policies.base import Decision, State, View
from unmask.process import Linear, Schedule
from unmask.ranges import Count, check_numbers, real

_ON, _OFF, _LEVEL = 0.55, 0.05, 0.9  # loop: its first and last time, and alpha in between


@dataclass(frozen=True, slots=True)
class ReMDM:
    """Reverse process on `steps` grid steps that also hides written tokens, for any masked diffusion model.

    At each step a written token is hidden with probability sigma, at most sigma_max = (1 - alpha_s)/alpha_t, and a
    masked one is revealed with the probability that keeps the visible share at alpha (eq. 6). `variant` sets sigma:
    cap (eta, at most sigma_max); rescale (eta times sigma_max); conf (sigma_max, divided among the positions by a
    softmax of minus the probability that a token had when it was written); loop (the schedule of appendix D: fill, hold
    alpha constant with sigma = eta, finish). Steps that reveal nothing need no pass. Keeps the marginals, not the joint
    law, at finite T.
    """

    steps: Count = 128
    variant: Literal["cap", "rescale", "conf", "loop"] = "cap"
    eta: Annotated[float, real(0, 1)] = 0.02
    schedule: Schedule = Linear()

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def looks(self) -> bool:
        return False

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        t, s = 1 - view.step.double() / self.steps, 1 - (view.step + 1).double() / self.steps
        now, then = self._alpha(t)[:, None], self._alpha(s.clamp(min=0))[:, None]
        most = ((1 - then) / now.clamp(min=1e-12)).clamp(max=1)
        sigma = self._sigma(view, t, s, most)
        shown = (
            sigma if self.variant != "conf" else torch.zeros_like(most)
        )  # conf does not compensate for what it hides
        probability = (then - (1 - shown) * now) / (1 - now).clamp(min=1e-12)
        done = view.step + 1 >= self.steps
        reveal = view.eligible & ((view.noise < probability) | done[:, None])
        remask = view.erasable & (view.noise < sigma) & ~done[:, None]
        return Decision(reveal, (1 - now[:, 0]).clamp(min=1e-6), remask, done), None

    def _alpha(self, t: Tensor) -> Tensor:
        """(B,) times -> alpha (B,), the visible share."""
        if self.variant != "loop":
            return self.schedule.alpha(t)
        filling, finishing = (1 - t) * _LEVEL / (1 - _ON), 1 - t * (1 - _LEVEL) / _OFF
        return torch.where(t > _ON, filling, torch.where(t > _OFF, torch.full_like(t, _LEVEL), finishing))

    def _sigma(self, view: View, t: Tensor, s: Tensor, most: Tensor) -> Tensor:
        """The probability of hiding a written token, (B, 1) or (B, L); `most` is sigma_max."""
        match self.variant:
            case "cap":
                return most.clamp(max=self.eta)
            case "rescale":
                return self.eta * most
            case "conf":
                scores = (-view.confidence.double()).masked_fill(~view.erasable, -torch.inf)
                return (most * scores.softmax(-1)).nan_to_num(0)  # nan where nothing is written yet
            case "loop":
                inside = ((t <= _ON) & (s >= _OFF))[:, None]
                return torch.where(inside, most.clamp(max=self.eta), 0)
