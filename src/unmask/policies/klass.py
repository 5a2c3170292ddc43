"""KLASS: reveal positions of high confidence whose distribution no longer changes (arXiv:2511.05664, Algorithm 1)."""

__all__ = ["Klass"]

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from unmask.policies.base import Decision, Needs, State, View
from unmask.ranges import Count, check_numbers, real


@dataclass(frozen=True, slots=True)
class Klass:
    """Reveals positions with confidence above `threshold` and a KL divergence between passes below `kl` nats.

    The divergence of each pass from the pass before has to be below `kl` in each of the last `history` passes. Where no
    position qualifies, none is revealed: the loop then reveals the position of highest confidence, or the second policy
    of `klass or confidence:steps=N` decides. The state has the distributions of the last pass, V numbers a position.
    Does not sample the joint law.
    """

    kl: Annotated[float, real(0, above=True)] = 0.01
    threshold: Annotated[float, real(0, 1)] = 0.9
    history: Count = 2

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
        stable = torch.zeros_like(view.proposal)  # consecutive passes with a divergence below kl
        if state is not None:
            before, streak = state
            close = _divergence(view.log_probs, before) < self.kl
            stable = torch.where(close & (view.step > 0)[:, None], streak + 1, 0)
        ready = view.eligible & (stable >= self.history) & (view.confidence > self.threshold)
        return Decision(ready), (view.log_probs, stable)


def _divergence(now: Tensor, before: Tensor) -> Tensor:
    """Log-probabilities (B, L, V) of two passes -> KL(now, before) in nats, (B, L); probability zero adds nothing."""
    p = now.double().exp()
    return torch.where(p > 0, p * (now.double() - before.double().clamp(min=-1e4)), 0).sum(-1)
