"""The threshold rule on confidence, margin or entropy (Fast-dLLM, arXiv:2505.22618, Algorithm 1)."""

__all__ = ["Threshold"]

from dataclasses import dataclass
from typing import Literal

import torch

from unmask.errors import ConfigError
from unmask.policies.base import Decision, State, View
from unmask.policies.top_k import take_best

Feature = Literal["confidence", "margin", "entropy"]


@dataclass(frozen=True, slots=True)
class Threshold:
    """Reveals all eligible positions with confidence or margin above `threshold`, or entropy in nats below it.

    The best position is always revealed. On one View a stricter threshold reveals a subset. Does not sample the joint
    law: tokens revealed in one pass are drawn independently.
    """

    threshold: float = 0.9
    feature: Feature = "confidence"

    def __post_init__(self) -> None:
        if self.threshold < 0 or (self.feature != "entropy" and self.threshold > 1):
            most = "" if self.feature == "entropy" else " to 1"
            raise ConfigError(f"threshold is {self.threshold}; give a number from 0{most} for {self.feature}.")

    @property
    def looks(self) -> bool:
        return True

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        score = -view.entropy if self.feature == "entropy" else getattr(view, self.feature)
        least = -self.threshold if self.feature == "entropy" else self.threshold
        best = take_best(score, view.eligible, torch.ones_like(view.step))
        return Decision(((score > least) & view.eligible) | best), None
