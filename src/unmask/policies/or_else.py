"""Two policies: in rows where the first reveals nothing, the second decides."""

__all__ = ["OrElse"]

from dataclasses import dataclass

import torch

from unmask.policies.base import Decision, Needs, State, UnmaskingPolicy, View, needs_of, plain_pair_of


@dataclass(frozen=True, slots=True)
class OrElse:
    """Reveals as `first` does, and as `second` in rows where `first` reveals nothing. Both only reveal."""

    first: UnmaskingPolicy
    second: UnmaskingPolicy

    @property
    def looks(self) -> bool:
        return getattr(self.first, "looks", True) or getattr(self.second, "looks", True)

    @property
    def needs(self) -> Needs:
        return needs_of(self.first) | needs_of(self.second)

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        before = (None, None) if state is None else state
        first, after_first = plain_pair_of("or", self.first, view, before[0])
        second, after_second = plain_pair_of("or", self.second, view, before[1])
        acts = first.reveal.any(-1)
        time = None
        if first.time is not None and second.time is not None:
            time = torch.where(acts, first.time, second.time)
        return Decision(torch.where(acts[:, None], first.reveal, second.reveal), time), (after_first, after_second)
