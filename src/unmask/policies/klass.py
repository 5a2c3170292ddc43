"""KLASS: reveal what is sure and has stopped changing (arXiv:2511.05664, Algorithm 1)."""

__all__ = ["Klass"]

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.errors import ConfigError
from unmask.policies.base import Decision, Needs, State, View


@dataclass(frozen=True, slots=True)
class Klass:
    """Positions with confidence above `threshold` whose distribution moved by less than `kl` nats in each of the last
    `history` passes; where there are none, nothing (the loop reveals the surest, or say: klass or confidence:steps=N).

    Keeps the distributions of the last pass: V numbers a position. Does not sample the joint law.
    """

    kl: float = 0.01
    threshold: float = 0.9
    history: int = 2

    def __post_init__(self) -> None:
        if self.kl <= 0 or self.history < 1 or not 0 <= self.threshold <= 1:
            raise ConfigError(
                f"klass has kl {self.kl}, history {self.history} and threshold {self.threshold}; "
                "give a kl above 0, a history of at least 1 and a threshold from 0 to 1."
            )

    @property
    def looks(self) -> bool:
        return True

    @property
    def needs(self) -> Needs:
        return Needs(log_probs=True)

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        assert view.log_probs is not None
        calm = torch.zeros_like(view.proposal)  # passes in a row in which the distribution hardly moved
        if state is not None:
            before, streak = state
            still = self._moved(view.log_probs, before) < self.kl
            calm = torch.where(still & (view.step > 0)[:, None], streak + 1, 0)
        ready = view.eligible & (calm >= self.history) & (view.confidence > self.threshold)
        return Decision(ready), (view.log_probs, calm)

    def _moved(self, now: Tensor, before: Tensor) -> Tensor:
        """KL(now, before) in nats, (B, L); what has probability zero adds nothing."""
        p = now.double().exp()
        return torch.where(p > 0, p * (now.double() - before.double().clamp(min=-1e4)), 0).sum(-1)
