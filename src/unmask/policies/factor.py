"""Reveal as many positions as a bound on the joint mode permits: factor decoding and the Fréchet selector."""

__all__ = ["Factor", "Frechet"]

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from unmask.policies.base import Decision, Needs, State, View, take_prefix
from unmask.ranges import check_numbers, real


@dataclass(frozen=True, slots=True)
class Factor:
    """Reveals the n positions of highest confidence, n maximal with (n + 1)(1 - c_n) < `factor`; at least one.

    Fast-dLLM, arXiv:2505.22618.

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


@dataclass(frozen=True, slots=True)
class Frechet:
    """Reveals the n positions of highest confidence, n maximal with L_n - U_n > `delta`; at least one.

    Fast-dLLM++, arXiv:2606.02955. L_n = c_1 + ... + c_n - (n - 1) is the Fréchet lower bound of the probability that
    the n tokens are jointly right, U_n = 1 - c_n an upper bound of that of any n tokens that differ from them. The gap
    falls with n, so that a longest run decides. For equal confidences the rule is `Factor` with factor 1 - delta. A
    larger delta is stricter; the published tables have 0.25, the program 0. Values below 0, where the bounds prove
    nothing, are ours: with them the rule is as fast as others are. Does not sample the joint law.
    """

    delta: Annotated[float, real(below=True, high=1)] = 0.25

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
        confidence = confidence.double()  # of long rows, whose sum is near n
        before = torch.arange(confidence.shape[-1], device=confidence.device)  # n - 1
        return confidence.cumsum(-1) - before - (1 - confidence) > self.delta
