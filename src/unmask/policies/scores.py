"""In what order positions are revealed: higher goes first. Each is (View) -> (B, L)."""

__all__ = [
    "BLIND",
    "NEEDS",
    "SCORES",
    "Score",
    "best_confidence",
    "confidence",
    "entropy",
    "left_to_right",
    "margin",
    "random",
]

from collections.abc import Callable

import torch
from torch import Tensor

from unmask.policies.base import Needs, View

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
