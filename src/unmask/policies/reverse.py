"""The reverse process of models whose predictions do not sum to 1 over the clean tokens: D3PM and SEDD.

Backwards in time on a grid of T steps. Between t and s a masked token becomes visible with a probability that depends
on `View.mass`, the sum Z of what the model predicts for the clean tokens, and on alpha at both times:

    D3PM      (alpha_s - alpha_t) Z / (1 - alpha_t Z)            Z = 1 - p(MASK)        (MDLM eq. 7, arXiv:2406.07524)
    analytic  (alpha_s - alpha_t) Z / (1 - alpha_t)              Z = sum of exp(l)      (SEDD eq. 19, arXiv:2310.16834)
    Euler     (t - s) (-alpha'_t) Z / (1 - alpha_t)              the same               (SEDD eq. 17)

With Z = 1, as in MDLM, the first two are ancestral sampling. So SEDD's sampler runs on MDLM too.
"""

__all__ = ["Reverse"]

from dataclasses import dataclass
from typing import Literal

from unmask.policies.base import Decision, Needs, State, View
from unmask.process import Linear, Schedule
from unmask.ranges import Count, check_numbers


@dataclass(frozen=True, slots=True)
class Reverse:
    """Reveals each masked position independently, with the probability of its step; all that are left in the last.

    A step that reveals nothing costs a pass, as the probabilities are the model's.
    """

    steps: Count = 128
    rule: Literal["d3pm", "analytic", "euler"] = "analytic"
    schedule: Schedule = Linear()

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def looks(self) -> bool:
        return True

    @property
    def needs(self) -> Needs:
        return Needs(mass=True)

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        assert view.mass is not None
        t, s = 1 - view.step.double() / self.steps, 1 - (view.step + 1).double() / self.steps
        now, then = (self.schedule.alpha(time.clamp(min=0))[:, None] for time in (t, s))
        last = view.step + 1 >= self.steps
        match self.rule:
            case "d3pm":
                probability = (then - now) * view.mass / (1 - now * view.mass)
            case "analytic":
                probability = (then - now) / (1 - now) * view.mass
            case "euler":
                slope = -self.schedule.dalpha(t)[:, None]
                probability = (t - s)[:, None] * slope / (1 - now) * view.mass
        reveal = view.eligible & ((view.noise < probability) | last[:, None])
        return Decision(reveal, done=~(view.eligible & ~reveal).any(-1)), None
