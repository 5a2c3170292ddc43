"""In what order positions are revealed: higher goes first. Each is (View) -> (B, L).

Reveal a set number of positions each pass, best score first (MaskGIT, LLaDA, Dream).
"""

__all__ = [
    "BLIND",
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
    """Clean probability of the most probable token, whatever was drawn (MaskGIT's order without its peek)."""
    assert view.top is not None
    return view.top[..., 0]


def margin(view: View) -> Tensor:
    """Best probability minus the second best (arXiv:2502.06768)."""
    return view.margin


def entropy(view: View) -> Tensor:
    """Negative entropy (Dream, arXiv:2508.15487)."""
    return -view.entropy


def random(view: View) -> Tensor:
    """A uniform random order: with one reveal a pass the sample has the model's any-order law."""
    return view.noise


def left_to_right(view: View) -> Tensor:
    """The order of reading."""
    return -torch.arange(view.eligible.shape[-1], device=view.eligible.device).double().expand_as(view.noise)


SCORES: dict[str, Score] = {
    "best-confidence": best_confidence,
    "confidence": confidence,
    "entropy": entropy,
    "left-to-right": left_to_right,
    "margin": margin,
    "random": random,
}
BLIND: frozenset[Score] = frozenset({random, left_to_right})
NEEDS: dict[Score, Needs] = {best_confidence: Needs(top=1)}


@dataclass(frozen=True, slots=True)
class TopK:
    """`steps` passes a block at a `pace`; None is a pass for every position, which no pace can beat or change.

    With the score `random` and steps=None each sample has the law of the model's any-order factorisation.
    """

    score: Score = random
    steps: int | None = None
    pace: Pace = linear

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"steps is {self.steps}; a policy needs at least 1.")

    @property
    def looks(self) -> bool:
        return self.score not in BLIND

    @property
    def needs(self) -> Needs:
        return NEEDS.get(self.score, Needs())

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        steps = view.total.clamp(min=1) if self.steps is None else view.total.clamp(min=1, max=self.steps)
        count = quota(self.pace, view.total, view.eligible.sum(-1), view.step, steps)
        return Decision(take_best(self.score(view), view.eligible, count)), None
