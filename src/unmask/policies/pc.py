"""PC-Sampler: a score from position, confidence and token frequency (arXiv:2508.13021, eq. 6 to 8)."""

__all__ = ["PositionCalibrated"]

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from unmask.errors import RequestError
from unmask.policies.base import Needs, View
from unmask.ranges import check_numbers, real


@dataclass(frozen=True, slots=True, eq=False)
class PositionCalibrated:
    """The score exp(-`decay` i) min(-c log f, `cap`) for TopK.

    i counts from the first position to fill in the block, c is the confidence, f the frequency of the proposed token in
    text: `unigram` (V,). Frequent tokens, such as full stops and the end of the text, are revealed late. Does not
    sample the joint law: the order depends on the sampled proposal.
    """

    unigram: Tensor
    decay: Annotated[float, real(0)] = 0.25
    cap: Annotated[float, real(0, above=True)] = 10.0

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def needs(self) -> Needs:
        return Needs(noise=False)

    def __call__(self, view: View) -> Tensor:
        if bool((view.proposal >= len(self.unigram)).any()):
            raise RequestError(
                f"The table of frequencies has {len(self.unigram)} numbers, and the model has more tokens; "
                "give one number a token id."
            )
        positions = torch.arange(view.eligible.shape[-1], device=view.eligible.device)
        block = view.eligible | view.erasable
        first = torch.where(block, positions, positions.numel()).amin(-1, keepdim=True)
        rarity = -self.unigram.to(view.confidence.device).clamp(min=1e-12).log()[view.proposal]
        return (-self.decay * (positions - first).double()).exp() * (view.confidence * rarity).clamp(max=self.cap)
