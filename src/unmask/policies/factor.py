"""Reveal as many as the joint choice allows (Fast-dLLM, arXiv:2505.22618, Theorem 1 and factor decoding)."""

__all__ = ["Factor"]

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.errors import ConfigError
from unmask.policies.base import Decision, State, View, take_prefix


@dataclass(frozen=True, slots=True)
class Factor:
    """The n surest positions with (n + 1)(1 - c_n) < `factor`, c_n the least sure of them; at least one.

    For factor 1 the most probable tokens of these n are together the most probable of their joint distribution, if
    their marginals are right. A smaller factor is stricter. Does not sample the joint law.
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        if self.factor <= 0:
            raise ConfigError(f"factor is {self.factor}; give a number above 0, for example 1.")

    @property
    def looks(self) -> bool:
        return True

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        return Decision(take_prefix(view.confidence, view.eligible, self._allows, view.confidence)), None

    def _allows(self, confidence: Tensor) -> Tensor:
        count = torch.arange(1, confidence.shape[-1] + 1, device=confidence.device)
        return (count + 1) * (1 - confidence) < self.factor
