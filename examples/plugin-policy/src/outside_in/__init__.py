"""A policy of one's own: reveal what is sure, and else from both ends towards the middle."""

__all__ = ["OutsideIn"]

from dataclasses import dataclass

import torch

from unmask.policies.base import Decision, State, View, take_best


@dataclass(frozen=True, slots=True)
class OutsideIn:
    """All eligible positions with a confidence above `threshold`; where there are none, the one nearest to an end."""

    threshold: float = 0.9

    @classmethod
    def of(cls, threshold: str = "0.9") -> "OutsideIn":
        """From the texts of `--policy outside-in:threshold=0.9`."""
        return cls(float(threshold))

    @property
    def looks(self) -> bool:
        """The decision depends on what the model says."""
        return True

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        """Decide one pass; rows are on their own, and nothing is kept between passes."""
        sure = view.eligible & (view.confidence > self.threshold)
        places = torch.arange(view.eligible.shape[-1], device=view.eligible.device)
        distance = torch.minimum(places, places.flip(0)).double().expand_as(view.confidence)
        nearest = take_best(-distance, view.eligible, (~sure.any(-1)).long())
        return Decision(sure | nearest), None
