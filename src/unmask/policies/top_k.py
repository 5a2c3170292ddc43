"""Reveal a set number of positions each pass, best score first (MaskGIT, LLaDA, Dream)."""

__all__ = ["TopK"]

from dataclasses import dataclass

from unmask.errors import ConfigError
from unmask.policies.base import Decision, Needs, State, View, take_best
from unmask.policies.pace import Pace, linear, quota
from unmask.policies.scores import BLIND, NEEDS, Score, random


@dataclass(frozen=True, slots=True)
class TopK:
    """`steps` passes a block at a `pace`; None is a pass for every position, which no pace can beat or change.

    With the score `random` and steps=None each sample has the law of the model's any-order factorisation.
    """

    score: Score = random
    steps: int | None = None
    pace: Pace = linear

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
        steps = view.total.clamp(min=1) if self.steps is None else view.total.clamp(min=1, max=self.steps)
        count = quota(self.pace, view.total, view.eligible.sum(-1), view.step, steps)
        return Decision(take_best(self.score(view), view.eligible, count)), None
