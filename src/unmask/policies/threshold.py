"""Threshold rules: on confidence, margin or entropy; lower near sure positions (LocalLeap); by segments (dInfer)."""

__all__ = ["Hierarchy", "LocalLeap", "Threshold"]

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from unmask.policies.base import Decision, Needs, State, View, take_best
from unmask.ranges import Count, check_numbers, check_value, real

Feature = Literal["confidence", "margin", "entropy"]


@dataclass(frozen=True, slots=True)
class Threshold:
    """Reveals all eligible positions with confidence or margin above `threshold`, or entropy in nats below it.

    Fast-dLLM, arXiv:2505.22618, Algorithm 1; with entropy and 0.5 nats the decoding of dParallel, arXiv:2509.26488. The
    best position is always revealed. On one View a stricter threshold reveals a subset. Does not sample the joint law:
    tokens revealed in one pass are drawn independently.
    """

    threshold: Annotated[float, real(0)] = 0.9
    feature: Feature = "confidence"

    def __post_init__(self) -> None:
        check_value("threshold", self.threshold, real(0) if self.feature == "entropy" else real(0, 1))

    @property
    def looks(self) -> bool:
        return True

    @property
    def needs(self) -> Needs:
        return Needs(noise=False)

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        score = -view.entropy if self.feature == "entropy" else getattr(view, self.feature)
        least = -self.threshold if self.feature == "entropy" else self.threshold
        best = take_best(score, view.eligible, torch.ones_like(view.step))
        return Decision(((score > least) & view.eligible) | best), None


@dataclass(frozen=True, slots=True)
class LocalLeap:
    """Reveals positions with confidence of at least `threshold`, the anchors, and near an anchor of at least `near`.

    LocalLeap, arXiv:2510.07081. Near means at most `radius` positions away. The best position is always revealed.
    Anchors are eligible positions of this pass: a written neighbour is none. Where `near` exceeds `threshold`, it has
    no effect (our choice, so that the threshold can be swept). Does not sample the joint law.
    """

    threshold: Annotated[float, real(0, 1)] = 0.9
    near: Annotated[float, real(0, 1)] = 0.75
    radius: Count = 4

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def looks(self) -> bool:
        return True

    @property
    def needs(self) -> Needs:
        return Needs(noise=False)

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        anchors = (view.confidence >= self.threshold) & view.eligible
        radius = min(self.radius, anchors.shape[-1])  # a wider window holds no more positions
        close = F.max_pool1d(anchors[:, None].float(), 2 * radius + 1, 1, radius)[:, 0] > 0
        leap = close & (view.confidence >= self.near) & view.eligible
        best = take_best(view.confidence, view.eligible, torch.ones_like(view.step))
        return Decision(anchors | leap | best), None


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Reveals positions with confidence above `threshold`, and in each segment the best one if it is above `low`.

    Hierarchical decoding of dInfer (its program; no paper has the formula). A segment is a longest run of eligible
    positions, so that positions of different segments have written text between them. Where the best confidence of the
    row is not above `low`, only this position is revealed. On one View a stricter threshold reveals a subset. Does not
    sample the joint law.
    """

    threshold: Annotated[float, real(0, 1)] = 0.9
    low: Annotated[float, real(0, 1)] = 0.4

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def looks(self) -> bool:
        return True

    @property
    def needs(self) -> Needs:
        return Needs(noise=False)

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        score = view.confidence.masked_fill(~view.eligible, -torch.inf)
        best = take_best(score, view.eligible, torch.ones_like(view.step))
        sure = (score > self.threshold) | (_best_of_segments(score, view.eligible) & (score > self.low))
        return Decision(best | (sure & (score.amax(-1) > self.low)[:, None])), None


def _best_of_segments(score: Tensor, eligible: Tensor) -> Tensor:
    """Scores (B, L), -inf where not eligible -> the best position of each run of eligible ones, the left of equals."""
    starts = eligible & ~F.pad(eligible, (1, 0))[:, :-1]
    segment = starts.long().cumsum(-1)  # from 1; a position between two segments has the number of the left one
    length = score.shape[-1]
    highest = score.new_full((len(score), length + 1), -torch.inf).scatter_reduce(-1, segment, score, "amax")
    places = torch.arange(length, device=score.device).expand_as(segment)
    top = eligible & (score == highest.gather(-1, segment))
    first = segment.new_full((len(score), length + 1), length).scatter_reduce(
        -1, segment, torch.where(top, places, length), "amin"
    )
    return top & (places == first.gather(-1, segment))
