"""Scores, paces, and the TopK rule: a set number of positions each pass, best score first (MaskGIT, LLaDA, Dream).

A score is a function View -> (B, L); the position with the higher score is revealed first. A pace is a function
(total, step, steps) -> (B,) int64, each argument (B,) int64: the target number of revealed positions after `step` of
`steps` passes over a block of `total`. `quota` turns it into the size of each pass, for every n and k: min(k, n)
passes, none of them empty, and no position left after the last. `policies.pace` has paces that are computed.
"""

__all__ = [
    "MODEL_FREE",
    "NEEDS",
    "PACES",
    "SCORES",
    "Pace",
    "Power",
    "Score",
    "TopK",
    "best_confidence",
    "confidence",
    "cosine",
    "entropy",
    "front",
    "left_to_right",
    "linear",
    "margin",
    "quota",
    "random",
    "round_up",
    "sizes_of",
]

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from unmask.batch import ceil_div
from unmask.policies.base import Decision, Needs, State, View, take_best
from unmask.ranges import Count, check_numbers, real

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
    return -torch.arange(view.eligible.shape[-1], device=view.eligible.device).double().expand_as(view.eligible)


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
_LOOK = Needs(noise=False)
NEEDS: dict[Score, Needs] = {
    best_confidence: Needs(top=1, noise=False),
    confidence: _LOOK,
    margin: _LOOK,
    entropy: _LOOK,
    left_to_right: _LOOK,
}


Pace = Callable[[Tensor, Tensor, Tensor], Tensor]


def linear(total: Tensor, step: Tensor, steps: Tensor) -> Tensor:
    """n i/k, rounded up: equal sizes (LLaDA, arXiv:2502.09992)."""
    return ceil_div(total * step, steps)


def front(total: Tensor, step: Tensor, steps: Tensor) -> Tensor:
    """n // k each, and one more in the first n % k passes (LLaDA's own program)."""
    return total // steps * step + torch.minimum(step, total % steps)


def cosine(total: Tensor, step: Tensor, steps: Tensor) -> Tensor:
    """n (1 - cos(pi/2 i/k)), rounded up: small sizes first (MaskGIT, arXiv:2202.04200)."""
    return round_up(total * (1 - (step.double() / steps * (math.pi / 2)).cos()))


@dataclass(frozen=True, slots=True)
class Power:
    """n (i/k)^power, rounded up: above 1 small sizes first, below 1 large ones."""

    power: Annotated[float, real(0, above=True)] = 2.0

    def __post_init__(self) -> None:
        check_numbers(self)

    def __call__(self, total: Tensor, step: Tensor, steps: Tensor) -> Tensor:
        return round_up(total * (step.double() / steps) ** self.power)


PACES: dict[str, Pace] = {"cosine": cosine, "front": front, "linear": linear}


def quota(pace: Pace, total: Tensor, left: Tensor, step: Tensor, steps: Tensor) -> Tensor:
    """Pace -> the number of the `left` (B,) positions to reveal in pass `step` (B,), from 0, of `steps` <= `total`."""
    size = pace(total, step + 1, steps) - (total - left)
    return torch.minimum(size, left - (steps - step - 1)).clamp(min=1)  # leaves one for each later pass


def sizes_of(pace: Pace, total: int, steps: int) -> tuple[int, ...]:
    """Pace -> the sizes of its min(steps, total) passes over a block of `total` positions."""
    n, k, sizes = torch.tensor(total), torch.tensor(min(steps, total)), list[int]()
    while (left := total - sum(sizes)) > 0:
        sizes.append(int(quota(pace, n, torch.tensor(left), torch.tensor(len(sizes)), k)))
    return tuple(sizes)


def round_up(x: Tensor) -> Tensor:
    """x -> ceil(x - 1e-6), int64; the tolerance absorbs rounding errors, so that every processor has the same sizes."""
    return (x - 1e-6).ceil().long()


@dataclass(frozen=True, slots=True)
class TopK:
    """Reveals the best-scored positions, as many in each of `steps` passes a block as `pace` sets.

    With steps=None each pass reveals one position, and the pace has no effect. With the score `random` and steps=None
    each sample has the law of the model's any-order factorisation.
    """

    score: Score = random
    steps: Count | None = None
    pace: Pace = linear

    def __post_init__(self) -> None:
        check_numbers(self)

    def __repr__(self) -> str:
        """As of any dataclass, but with the names of functions, for messages."""
        score, pace = (getattr(part, "__name__", repr(part)) for part in (self.score, self.pace))
        return f"TopK(score={score}, steps={self.steps}, pace={pace})"

    @property
    def looks(self) -> bool:
        return self.score not in MODEL_FREE

    @property
    def needs(self) -> Needs:
        return NEEDS.get(self.score, getattr(self.score, "needs", Needs()))

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        steps = view.total.clamp(min=1) if self.steps is None else view.total.clamp(min=1, max=self.steps)
        count = quota(self.pace, view.total, view.eligible.sum(-1), view.step, steps)
        return Decision(take_best(self.score(view), view.eligible, count)), None
