"""Scores and the TopK rule: reveal a fixed number of positions each pass, best score first (MaskGIT, LLaDA, Dream).

A score is a function View -> (B, L); the position with the higher score is revealed first.
"""

__all__ = [
    "MODEL_FREE",
    "NEEDS",
    "SCORES",
    "Score",
    "TopK",
    "best_confidence",
    "confidence",
    "entropy",
    "left_to_right",
    "margin",
    "random",
]

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.errors import ConfigError
from unmask.policies.base import Decision, Needs, State, View, take_best
from unmask.policies.pace import Pace, linear, quota

Score = Callable[[View], Tensor]


def confidence(view: View) -> Tensor:
    """Clean probability of the proposed token (LLaDA, arXiv:2502.09992; MaskGIT, arXiv:2202.04200)."""
    return view.confidence


def best_confidence(view: View) -> Tensor:
    """Clean probability of the most probable token, whatever token was sampled."""
    assert view.top is not None
    return view.top[..., 0]


def margin(view: View) -> Tensor:
    """Best clean probability minus the second best (arXiv:2502.06768)."""
    return view.margin


def entropy(view: View) -> Tensor:
    """Negative entropy (Dream, arXiv:2508.15487)."""
    return -view.entropy


def random(view: View) -> Tensor:
    """Uniform random order; with one reveal a pass the sample has the model's any-order law."""
    return view.noise


def left_to_right(view: View) -> Tensor:
    """From left to right."""
    return -torch.arange(view.eligible.shape[-1], device=view.eligible.device).double().expand_as(view.noise)


SCORES: dict[str, Score] = {
    "best-confidence": best_confidence,
    "confidence": confidence,
    "entropy": entropy,
    "left-to-right": left_to_right,
    "margin": margin,
    "random": random,
}
MODEL_FREE: frozenset[Score] = frozenset({random, left_to_right})
"""Scores that do not depend on the model's output."""
NEEDS: dict[Score, Needs] = {best_confidence: Needs(top=1)}


@dataclass(frozen=True, slots=True)
class TopK:
    """Reveals the best-scored positions, as many in each of `steps` passes a block as `pace` sets.

    With steps=None each pass reveals one position, and the pace has no effect. With the score `random` and steps=None
    each sample has the law of the model's any-order factorisation.
    """

    score: Score = random
    steps: int | None = None
    pace: Pace = linear

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"steps is {self.steps}; a policy needs at least 1.")

    @property
    def looks(self) -> bool:
        return self.score not in MODEL_FREE

    @property
    def needs(self) -> Needs:
        return NEEDS.get(self.score, Needs())

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        steps = view.total.clamp(min=1) if self.steps is None else view.total.clamp(min=1, max=self.steps)
        count = quota(self.pace, view.total, view.eligible.sum(-1), view.step, steps)
        return Decision(take_best(self.score(view), view.eligible, count)), None
