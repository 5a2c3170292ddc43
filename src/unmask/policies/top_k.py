"""Reveal a set number of positions each pass, best score first (MaskGIT, LLaDA, Dream)."""

__all__ = ["TopK"]

from dataclasses import dataclass

from torch import Tensor

from unmask.errors import ConfigError
from unmask.policies.base import Decision, Needs, State, View, take_best
from unmask.policies.scores import BLIND, NEEDS, Score, random


@dataclass(frozen=True, slots=True)
class TopK:
    """`steps` passes a block, evenly paced; None is a pass for every position, which no other pace can beat.

    With the score `random` and steps=None each sample has the law of the model's any-order factorisation.
    """

    score: Score = random
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"steps is {self.steps}; a policy needs at least 1.")

    @property
    def looks(self) -> bool:
        return self.score not in BLIND

    @property
    def needs(self) -> Needs:
        return NEEDS.get(self.score, Needs())

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        return Decision(take_best(self.score(view), view.eligible, self._quota(view))), None

    def _quota(self, view: View) -> Tensor:
        """How many to reveal now: what brings the count of the revealed to total * (step + 1) / steps, rounded up.

        In integers: of n positions in k <= n passes none is empty, and none is left after the last.
        """
        steps = view.total.clamp(min=1) if self.steps is None else view.total.clamp(min=1, max=self.steps)
        target = (view.total * (view.step + 1) + steps - 1) // steps
        return (target - (view.total - view.eligible.sum(-1))).clamp(min=1)
