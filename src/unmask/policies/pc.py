"""PC-Sampler: early positions first, and what is sure beyond its frequency (arXiv:2508.13021, eq. 6 to 8)."""

__all__ = ["PositionCalibrated"]

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.errors import ConfigError
from unmask.policies.base import View


@dataclass(frozen=True, slots=True, eq=False)
class PositionCalibrated:
    """A score for TopK: exp(-`decay` i) min(-c log f, `cap`).

    i counts from the first position that the block lets us write, c is the confidence, f the frequency of the proposed
    token in text: `unigram` (V,). Frequent tokens, such as full stops and the end of the text, have to wait. Does not
    sample the joint law: the order peeks at the sample.
    """

    unigram: Tensor
    decay: float = 0.25
    cap: float = 10.0

    def __post_init__(self) -> None:
        if self.decay < 0 or self.cap <= 0:
            raise ConfigError(f"decay is {self.decay} and cap {self.cap}; give a decay from 0 and a cap above 0.")

    def __call__(self, view: View) -> Tensor:
        places = torch.arange(view.eligible.shape[-1], device=view.eligible.device)
        ours = view.eligible | view.erasable
        first = torch.where(ours, places, places.numel()).amin(-1, keepdim=True)
        rarity = -self.unigram.to(view.confidence.device).clamp(min=1e-12).log()[view.proposal]
        return (-self.decay * (places - first).double()).exp() * (view.confidence * rarity).clamp(max=self.cap)
