"""The threshold rule on confidence, margin or entropy (Fast-dLLM, arXiv:2505.22618, Algorithm 1)."""

__all__ = ["Threshold"]

from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from unmask.policies.base import Decision, Needs, State, View, take_best
from unmask.ranges import check_value, real

Feature = Literal["confidence", "margin", "entropy"]


@dataclass(frozen=True, slots=True)
class Threshold:
    """Reveals all eligible positions with confidence or margin above `threshold`, or entropy in nats below it.

    The best position is always revealed. On one View a stricter threshold reveals a subset. Does not sample the joint
    law: tokens revealed in one pass are drawn independently.
    """

    threshold: Annotated[float, real(0)] = 0.9
    feature: Feature = "confidence"

    def __post_init__(self) -> None:
        check_value("threshold", self.threshold, real(0) if self.feature == "entropy" else real(0, 1))

    @property
    def looks(self) -> bool:
        return True

    @property
    def needs(self) -> Needs:
        return Needs(noise=False)

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        score = -view.entropy if self.feature == "entropy" else getattr(view, self.feature)
        least = -self.threshold if self.feature == "entropy" else self.threshold
        best = take_best(score, view.eligible, torch.ones_like(view.step))
        return Decision(((score > least) & view.eligible) | best), None
