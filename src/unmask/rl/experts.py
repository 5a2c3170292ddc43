"""Heuristics as teachers: they warm a policy up, or join its groups (arXiv:2512.09106, appendix F)."""

__all__ = ["Expert", "Leftmost", "experts"]

from dataclasses import dataclass, replace

import torch

from unmask.policies.base import Decision, Needs, State, UnmaskingPolicy, View, needs_of
from unmask.policies.prefix import Prefix
from unmask.policies.threshold import Threshold

_BARS = (0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.998, 0.9995)


@dataclass(frozen=True, slots=True)
class Leftmost:
    """`inner` within the leftmost unfinished run of `size` positions to fill, while the canvas stays open as a whole.

    What blocks do, seen from a policy that looks at everything: so it can be imitated where there are no blocks.
    """

    inner: UnmaskingPolicy
    size: int

    @property
    def looks(self) -> bool:
        return True

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        mine = view.masked | view.written
        block = (mine.long().cumsum(-1) - 1).div(self.size, rounding_mode="floor")
        first = torch.where(view.eligible, block, block.shape[-1]).amin(-1, keepdim=True)
        return self.inner(replace(view, eligible=view.eligible & (block == first)), state)


@dataclass(frozen=True, slots=True)
class Expert:
    """`inner`, with a View that has what a learner wants to see too."""

    inner: UnmaskingPolicy
    also: Needs

    @property
    def looks(self) -> bool:
        return True

    @property
    def needs(self) -> Needs:
        return needs_of(self.inner) | self.also

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        return self.inner(view, state)


def experts(length: int) -> list[UnmaskingPolicy]:
    """Thresholds on confidence over the whole canvas, over its leftmost quarter and eighth, and over a prefix."""
    sizes = sorted({max(1, round(length / share)) for share in (4, 8)} - {length}, reverse=True)
    rules = [Threshold(bar) for bar in _BARS]
    blocks = [Leftmost(rule, size) for size in sizes for rule in rules]
    return [*rules, *blocks, *(Prefix(bar) for bar in _BARS)]
