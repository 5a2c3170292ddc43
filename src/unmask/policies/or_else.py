"""Two policies in a row: where the first reveals nothing, the second decides."""

__all__ = ["OrElse"]

from dataclasses import dataclass

import torch

from unmask.policies.base import Decision, Needs, State, UnmaskingPolicy, View, needs_of


@dataclass(frozen=True, slots=True)
class OrElse:
    """`first`, and row by row `second` where that reveals nothing. Neither may hide tokens again."""

    first: UnmaskingPolicy
    second: UnmaskingPolicy

    @property
    def looks(self) -> bool:
        return self.first.looks or self.second.looks

    @property
    def needs(self) -> Needs:
        return needs_of(self.first) | needs_of(self.second)

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        before = (None, None) if state is None else state
        one, after_one = self.first(view, before[0])
        two, after_two = self.second(view, before[1])
        acts = one.reveal.any(-1)
        time = None
        if one.time is not None and two.time is not None:
            time = torch.where(acts, one.time, two.time)
        return Decision(torch.where(acts[:, None], one.reveal, two.reveal), time), (after_one, after_two)
