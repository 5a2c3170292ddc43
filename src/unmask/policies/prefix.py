"""Reveal the leading run of confident positions: the best untrained rule of our trials on whole canvases."""

__all__ = ["Prefix"]

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from unmask.policies.base import Decision, Needs, State, View, take_prefix
from unmask.policies.top_k import left_to_right
from unmask.ranges import check_numbers, real


@dataclass(frozen=True, slots=True)
class Prefix:
    """Reveals the longest run of eligible positions from the left with confidence above `threshold`; at least one.

    Every position before a written one is written, so that no end of text is written too early. On one View a stricter
    threshold reveals a subset. Samples the joint law at threshold 1: one position a pass, from left to right.
    """

    threshold: Annotated[float, real(0, 1)] = 0.9

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def looks(self) -> bool:
        return True

    @property
    def needs(self) -> Needs:
        return Needs(noise=False)

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        return Decision(take_prefix(left_to_right(view), view.eligible, self._confident, view.confidence)), None

    def _confident(self, confidence: Tensor) -> Tensor:
        return confidence > self.threshold
