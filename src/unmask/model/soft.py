"""Soft masks (arXiv:2510.17206): MASK's embedding is mixed with those of the best tokens of the last pass.

    e = (1 - s) E[MASK] + s * sum over the k best tokens v of pi_v E[v],   s = strength * sigmoid(slope * (-H - offset))

p is the prediction of the last pass at this position, H its entropy in nats over the whole vocabulary, and pi is p
renormalised over the k best tokens. Strength, slope and offset are learned. A position without feedback, and a visible
token, have s = 0. The published strength is a sigmoid that begins at 1e-6; ours is a tanh that begins at 0, so that an
untrained mixture is the plain network in every bit and still has a gradient. Shapes: B rows, L positions, D width, V
vocabulary, N picked positions.
"""

__all__ = [
    "Feedback",
    "PlainMasks",
    "Scalars",
    "SoftMask",
    "TwoPass",
    "best_tokens",
    "feedback_at",
    "runs_twice",
    "scalars_of",
    "stored_scalars",
    "two_pass",
]

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.batch import pad_rows
from unmask.denoiser import Denoiser, Wrapper, clean_log_probs, selection
from unmask.disk.checkpoint import Checkpoint
from unmask.disk.tensors import iterate_layout
from unmask.errors import CheckpointError, RequestError

_SLOPE, _OFFSET = 6.66, -0.75  # where the published scalars begin
_FASTER = 10.0  # AdamW moves a parameter by the rate, whatever its size: so the scalars move so many times as far
_LOGITS = 2**23  # logits of a first pass alive at a time
_CHUNK = 64
_LARGEST = 50.0  # of an exponent


class Feedback(NamedTuple):
    """What a pass predicted, for the input of the next; rows of zeros are no feedback."""

    ids: Tensor  # (B, L, k) int64, the most probable tokens
    weights: Tensor  # (B, L, k) float32, their probabilities divided by their sum; all zero where there is no feedback
    entropy: Tensor  # (B, L) float32, of the whole prediction, in nats

    def at(self, places: Tensor) -> "Feedback":
        """The feedback at positions (B, A)."""
        deep = places[..., None].expand(*places.shape, self.ids.shape[-1])
        return Feedback(self.ids.gather(1, deep), self.weights.gather(1, deep), self.entropy.gather(1, places))


class Scalars(NamedTuple):
    """What a network learns for the mixture."""

    strength: Tensor  # in (-1, 1), 0 at the start
    slope: Tensor  # > 0
    offset: Tensor  # < 0, in nats


def scalars_of(raw: Tensor) -> Scalars:
    """The parameter of a `SoftMask` (3,), as checkpoints store it -> its scalars."""
    strength, slope, offset = (raw.float() * _FASTER).unbind()
    return Scalars(strength.tanh(), F.softplus(slope), -F.softplus(offset))


def stored_scalars(checkpoint: Checkpoint) -> dict[str, float]:
    """A checkpoint with soft masks -> their scalars by name. Raises CheckpointError where it stores none."""
    name = "soft_mask.raw"
    stored = {path: {name: names[name]} for path, names in checkpoint.layout.items() if name in names}
    for _, raw in iterate_layout(stored):
        return {scalar: float(value) for scalar, value in scalars_of(raw)._asdict().items()}
    raise CheckpointError(f"{checkpoint.folder} has no tensor '{name}', which its config.json asks for: copy it again.")


class SoftMask(nn.Module):
    """The three learned scalars, and the mixture."""

    def __init__(self) -> None:
        super().__init__()
        raw = (0.0, math.log(math.expm1(_SLOPE)), math.log(math.expm1(-_OFFSET)))
        self.raw = nn.Parameter(torch.tensor(raw) / _FASTER)

    def scalars(self) -> Scalars:
        """The three learned scalars, with gradients."""
        return scalars_of(self.raw)

    def forward(self, x: Tensor, masked: Tensor, feedback: Feedback, embedding: nn.Embedding) -> Tensor:
        """Embedded tokens (B, A, D), where they are MASK (B, A), and the feedback there -> the input of the blocks."""
        strength, slope, offset = self.scalars()
        # torch.sigmoid has other bits in a batch
        odds = (slope * (feedback.entropy + offset)).clamp(max=_LARGEST).exp()
        share = strength / (1 + odds)
        share = torch.where(masked & (feedback.weights[..., 0] > 0), share, 0.0)[..., None]
        best = feedback.ids.shape[-1]
        weights = feedback.weights.to(embedding.weight.dtype).view(-1, best)
        mixed = F.embedding_bag(feedback.ids.view(-1, best), embedding.weight, per_sample_weights=weights, mode="sum")
        return x + (share * (mixed.view_as(x) - x)).to(x.dtype)


def best_tokens(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Values (N, V) -> the `count` highest of each row, descending (N, count), and their indices.

    They are in the `count` chunks with the highest maxima, so that little has to be sorted.
    """
    rows, size = values.shape
    if size < 4 * count * _CHUNK:
        return values.topk(min(count, size), -1)
    whole = size - size % _CHUNK
    chunks = values[:, :whole].unflatten(-1, (-1, _CHUNK))
    first = chunks.amax(-1).topk(count, -1, sorted=False).indices[..., None]
    inside = chunks.gather(1, first.expand(-1, -1, _CHUNK)).view(rows, -1)
    places = torch.arange(size, device=values.device)
    ids = torch.cat([(first * _CHUNK + places[:_CHUNK]).view(rows, -1), places[whole:].expand(rows, -1)], -1)
    best = torch.cat([inside, values[:, whole:]], -1).topk(count, -1)
    return best.values, ids.gather(-1, best.indices)


def feedback_at(where: Tensor, log_probs: Tensor, count: int, entropy: Tensor | None = None) -> Feedback:
    """Clean log-probabilities (N, V) at the N places of `where` (B, L) -> the feedback of `count` tokens there.

    `entropy` (N,) where it is known.
    """
    return _placed(where, _predicted(log_probs, count, entropy))


_Flat = tuple[Tensor, Tensor, Tensor]  # the tensors of a Feedback at N places


def _predicted(log_probs: Tensor, count: int, entropy: Tensor | None = None) -> _Flat:
    values, ids = best_tokens(log_probs, count)
    if entropy is None:
        entropy = -log_probs.exp().mul_(log_probs).nansum(-1)  # nan: tokens of probability 0
    return ids, values.softmax(-1), entropy


def _placed(where: Tensor, flat: _Flat) -> Feedback:
    deep, shape = where[..., None], (*where.shape, flat[0].shape[-1])
    ids, weights = (values.new_zeros(shape).masked_scatter(deep, values) for values in flat[:2])
    return Feedback(ids, weights, flat[2].new_zeros(where.shape).masked_scatter(where, flat[2]))


@dataclass(frozen=True)
class TwoPass(Wrapper):
    """A denoiser with soft masks, each prediction in two passes: the first, without gradients, is the feedback of the
    second. Bounds and losses are of this denoiser; one that writes a text has the feedback of its last pass instead."""

    soft = 0
    two_pass = True

    def hidden(self, tokens: Tensor, *, where: Tensor | None = None, **options: Any) -> Tensor:
        feedback = self._first(tokens, options)
        return self.inner.hidden(tokens, **options, **selection(self.inner, where, feedback))

    def hidden_at(self, tokens: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Raises RequestError: a cache keeps one pass."""
        raise RequestError("A cache keeps one pass, and here each prediction has two; leave the cache out.")

    @torch.no_grad()
    def _first(self, tokens: Tensor, options: dict[str, Any]) -> Feedback | None:
        """The feedback at each MASK; None where there is none."""
        valid = options.get("valid")
        masked = tokens == self.mask_id
        masked = masked if valid is None else masked & valid
        hidden = self.inner.hidden(tokens, **options, **selection(self.inner, masked))[masked]
        if not len(hidden):
            return None
        count, size = cast(Any, self.inner).soft, max(1, _LOGITS // self.vocab_size)
        parts: list[_Flat] = []
        for states in hidden.split(size):
            logits = self.inner.logits(pad_rows(states))[: len(states)]
            parts.append(_predicted(clean_log_probs(logits, self.mask_id), count))
        ids, weights, entropy = (torch.cat(columns) for columns in zip(*parts, strict=True))
        return _placed(masked, (ids, weights, entropy))


@dataclass(frozen=True)
class PlainMasks(Wrapper):
    """A denoiser with soft masks that gets none: as in the steps of its training that have one pass."""

    soft = 0


def two_pass(denoiser: Denoiser) -> Denoiser:
    """A denoiser -> the one whose bounds are reported: itself, or with soft masks `TwoPass` around it."""
    return TwoPass(denoiser) if getattr(denoiser, "soft", 0) else denoiser


def runs_twice(denoiser: Denoiser) -> bool:
    """Whether each prediction in the bounds of a denoiser takes two passes, see `two_pass`."""
    return bool(getattr(two_pass(denoiser), "two_pass", False))
