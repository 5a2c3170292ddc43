"""A policy in a package: reveal confident positions, else from both ends towards the middle."""

__all__ = ["OutsideIn"]

from dataclasses import dataclass

import torch

from unmask.policies.base import Decision, State, View
from unmask.policies.top_k import take_best


@dataclass(frozen=True, slots=True)
class OutsideIn:
    """Reveals all eligible positions with a confidence above `threshold`; if there are none, the nearest to an end."""

    threshold: float = 0.9

    @classmethod
    def of(cls, threshold: str = "0.9") -> "OutsideIn":
        """The options of `--policy outside-in:threshold=0.9` as texts -> the policy."""
        return cls(float(threshold))

    @property
    def looks(self) -> bool:
        """Whether decisions depend on the predictions of the model."""
        return True

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        """The view of one pass -> the decision; rows are independent, and there is no state between passes."""
        confident = view.eligible & (view.confidence > self.threshold)
        positions = torch.arange(view.eligible.shape[-1], device=view.eligible.device)
        distance = torch.minimum(positions, positions.flip(0)).double().expand_as(view.confidence)
        nearest = take_best(-distance, view.eligible, (~confident.any(-1)).long())
        return Decision(confident | nearest), None
