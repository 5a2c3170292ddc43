"""What the rest of the library believes about a model: p(x_0 | x_t), in two halves.

`hidden` runs the network, `logits` the vocabulary head. The split is the library's main speed lever: the head, the
softmax and everything else that is V wide run only at the positions somebody asks about.
"""

__all__ = ["Caching", "Denoiser", "LowPrecision", "Place", "clean_log_probs"]

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Denoiser(Protocol):
    """A bidirectional network that guesses clean tokens from a partly masked sequence.

    `vocab_size` counts every id the head can name, MASK included; `max_length` is the longest sequence it was made
    for (None: no limit); `time_conditioned` says whether `hidden` wants `time`.
    """

    @property
    def vocab_size(self) -> int: ...
    @property
    def mask_id(self) -> int: ...
    @property
    def max_length(self) -> int | None: ...
    @property
    def time_conditioned(self) -> bool: ...

    def hidden(
        self,
        tokens: Tensor,
        *,
        valid: Tensor | None = None,
        time: Tensor | None = None,
        positions: Tensor | None = None,
        prompt: Tensor | None = None,
    ) -> Tensor:
        """(B, L) int64 -> (B, L, D).

        `valid` (B, L) is False on padding, which is never attended to; `time` (B,) in (0, 1] is the share of tokens
        expected to be masked, 1 - alpha(t); `positions` (B, L) are the places of the tokens (default 0 .. L-1);
        `prompt` (B, L) bool is what was given, for wrappers that treat it apart (a network ignores it).
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V), at whatever positions were picked."""
        ...


class Place(NamedTuple):
    """Where decoding stands: all that a cache may go by."""

    block: Tensor  # (B, L) bool: what the policy may reveal or hide in this turn
    masked: Tensor  # (B, L) bool: still MASK
    step: Tensor  # (B,) turns spent in this block; 0 on entering it


@runtime_checkable
class Caching(Denoiser, Protocol):
    """A denoiser that remembers earlier passes. What it remembers is handed in and out, a tensor or a tuple of tensors
    with the rows first, so that rows may leave, join and resume: the decoding loop carries it beside the policy's
    state. A row of it is to be forgotten where `place.step == 0`."""

    def recall(
        self,
        tokens: Tensor,
        place: Place,
        memory: Any,
        *,
        valid: Tensor | None = None,
        time: Tensor | None = None,
        prompt: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """(B, L, D), exact or nearly so within `place.block`, arbitrary elsewhere; and the memory (None at first)."""
        ...


def clean_log_probs(logits: Tensor, mask_id: int) -> Tensor:
    """log p(x_0) (..., V) in float32 with MASK at exactly probability zero (SUBS, MDLM 3.2.3).

    The other half of SUBS, that visible tokens are copied, needs no arithmetic here: nobody asks the head about them.
    """
    logits = logits.float().index_fill(-1, torch.tensor(mask_id, device=logits.device), -torch.inf)
    return logits.log_softmax(-1)


@dataclass(frozen=True, slots=True)
class LowPrecision:
    """A denoiser whose `hidden` runs under autocast in `dtype`; the head stays as the denoiser has it."""

    inner: Denoiser
    dtype: torch.dtype

    @property
    def vocab_size(self) -> int:
        return self.inner.vocab_size

    @property
    def mask_id(self) -> int:
        return self.inner.mask_id

    @property
    def max_length(self) -> int | None:
        return self.inner.max_length

    @property
    def time_conditioned(self) -> bool:
        return self.inner.time_conditioned

    def hidden(
        self,
        tokens: Tensor,
        *,
        valid: Tensor | None = None,
        time: Tensor | None = None,
        positions: Tensor | None = None,
        prompt: Tensor | None = None,
    ) -> Tensor:
        with torch.autocast(tokens.device.type, self.dtype):
            return self.inner.hidden(tokens, valid=valid, time=time, positions=positions, prompt=prompt)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.inner.logits(hidden)
