"""CreditDecoding: confidence that grows while a position keeps its prediction over passes (arXiv:2510.06133)."""

__all__ = ["Credit"]

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from unmask.policies.base import Decision, Needs, State, View, take_best
from unmask.ranges import check_numbers, real


@dataclass(frozen=True, slots=True)
class Credit:
    """Reveals all eligible positions whose fused probability is above `threshold`; the best one always.

    A token's credit C at a position is multiplied by `decay` at each pass, and the most probable token gets its
    probability to the power `power` on top. The fused distribution is softmax(log p + `weight` log(1 + C)). The state
    has C, V numbers a position; it begins anew in each block. A policy chooses positions and not tokens: what counts is
    the fused probability of the proposed token, and that token is written. The published program writes the most
    probable fused token. At temperature 0 the two differ only where the proposed token has a fused probability below
    1/2. On one View and state a stricter threshold reveals a subset. Does not sample the joint law.
    """

    threshold: Annotated[float, real(0, 1)] = 0.9
    decay: Annotated[float, real(0, 1)] = 0.8
    power: Annotated[float, real(0)] = 0.2
    weight: Annotated[float, real(0)] = 0.7

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def looks(self) -> bool:
        return True

    @property
    def needs(self) -> Needs:
        return Needs(log_probs=True, noise=False)

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        assert view.log_probs is not None
        credit = self._grown(view.log_probs, view.eligible, state, view.step == 0)
        fused = (view.log_probs + self.weight * credit.log1p()).log_softmax(-1).exp()
        score = fused.gather(-1, view.proposal.clamp(max=fused.shape[-1] - 1)[..., None]).squeeze(-1)
        best = take_best(score, view.eligible, torch.ones_like(view.step))
        return Decision(((score > self.threshold) & view.eligible) | best), credit

    def _grown(self, log_probs: Tensor, eligible: Tensor, credit: Tensor | None, fresh: Tensor) -> Tensor:
        """Log-probabilities (B, L, V) and the credit of the last pass -> the credit now; rows of `fresh` have none."""
        before = torch.zeros_like(log_probs) if credit is None else credit.masked_fill(fresh[:, None, None], 0)
        best = log_probs.max(-1, keepdim=True)
        gain = torch.where(eligible[..., None], best.values.exp() ** self.power, 0)
        return (self.decay * before).scatter_add(-1, best.indices, gain)
