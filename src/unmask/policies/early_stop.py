"""Prophet: reveal all that is left once the model is certain of it (arXiv:2508.19982, section 4)."""

__all__ = ["EarlyStop"]

from dataclasses import dataclass, replace
from typing import Annotated

import torch

from unmask.policies.base import Decision, Needs, State, UnmaskingPolicy, View, needs_of, plain_pair_of
from unmask.ranges import check_numbers, real


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """Reveals as `inner` does, and all eligible positions once their mean logit gap reaches a bar.

    The gap of a position is its best logit minus the second best. The bar is `early`, `middle` or `late` while less
    than one third, two thirds, or all of the block is written. The paper averages over the span of an answer; here the
    mean is over all eligible positions of the block.
    """

    inner: UnmaskingPolicy
    early: Annotated[float, real(0)] = 7.5
    middle: Annotated[float, real(0)] = 5.0
    late: Annotated[float, real(0)] = 2.5

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def looks(self) -> bool:
        return True

    @property
    def needs(self) -> Needs:
        needs = needs_of(self.inner)
        return replace(needs, top=max(needs.top, 2))

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        assert view.top is not None
        decision, state = plain_pair_of("early-stop", self.inner, view, state)
        left = view.eligible.sum(-1)
        log = view.top.clamp(min=1e-30).log()
        gap = torch.where(view.eligible, log[..., 0] - log[..., 1], 0).sum(-1) / left.clamp(min=1)
        share = 1 - left / view.total.clamp(min=1)
        bars = gap.new_tensor([self.early, self.middle, self.late])
        stop = gap >= bars[(share * 3).long().clamp(max=2)]
        return decision._replace(reveal=decision.reveal | (view.eligible & stop[:, None])), state
