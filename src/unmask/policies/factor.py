"""Factor decoding: reveal as many positions as a bound on the joint mode permits (Fast-dLLM, arXiv:2505.22618)."""

__all__ = ["Factor"]

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from unmask.policies.base import Decision, Needs, State, View, take_prefix
from unmask.ranges import check_numbers, real


@dataclass(frozen=True, slots=True)
class Factor:
    """Reveals the n positions of highest confidence, n maximal with (n + 1)(1 - c_n) < `factor`; at least one.

    c_n is the lowest confidence of the n. For factor 1 the n most probable tokens are jointly the most probable, if the
    marginals are exact (Theorem 1). A smaller factor is stricter. Does not sample the joint law.
    """

    factor: Annotated[float, real(0, above=True)] = 1.0

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def looks(self) -> bool:
        return True

    @property
    def needs(self) -> Needs:
        return Needs(noise=False)

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        return Decision(take_prefix(view.confidence, view.eligible, self._accepts, view.confidence)), None

    def _accepts(self, confidence: Tensor) -> Tensor:
        count = torch.arange(1, confidence.shape[-1] + 1, device=confidence.device)
        return (count + 1) * (1 - confidence) < self.factor
