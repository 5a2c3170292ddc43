"""What every network of the library shares: the methods of a Trainable denoiser around one pass over its blocks.

A subclass defines `embedding`, `_pass`, from embedded tokens and positions to hidden states, and `logits`. This class
defines which keys a query attends to, passes at some positions, passes that end at some positions, soft masks, and the
shift of models whose hidden state at position i predicts token i + 1. Shapes: B batch, L positions, A of them computed,
N picked, D width.
"""

__all__ = ["Network"]

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.batch import rounded_size
from unmask.errors import RequestError
from unmask.model.inference import Kept
from unmask.model.soft import Feedback, SoftMask


class Network(nn.Module, ABC):
    """Base class of the networks; `settings` has vocab_size, mask_id, max_length, width and causal_block."""

    embedding: nn.Embedding
    sharded = False
    """Whether the parameters are divided among processes (`unmask.run.shard`): a pass then calls whole blocks, which
    gather theirs."""

    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.settings = settings
        self.dropout_keys: Tensor | None = None
        self.soft_mask = SoftMask() if self.soft else None
        self.later: Tensor | None = None
        """(L, L) bool while a causal network is made bidirectional: whether a query attends to a later key; None: to
        all of them. It applies to passes over whole rows."""

    @property
    def vocab_size(self) -> int:
        return self.settings.vocab_size

    @property
    def mask_id(self) -> int:
        return self.settings.mask_id

    @property
    def max_length(self) -> int:
        return self.settings.max_length

    @property
    def width(self) -> int:
        return self.settings.width

    @property
    def time_conditioned(self) -> bool:
        return False

    @property
    def selects(self) -> bool:
        return True

    @property
    def soft(self) -> int:
        """See `unmask.denoiser.Denoiser`."""
        return getattr(self.settings, "soft", 0)

    @property
    def causal_block(self) -> int:
        """See `unmask.denoiser.Denoiser`."""
        return self.settings.causal_block

    @property
    def shifted(self) -> bool:
        """See `unmask.denoiser.Denoiser`."""
        return getattr(self.settings, "shift", False)

    @property
    def parameterization(self) -> str:
        """See `unmask.denoiser.Denoiser`."""
        return getattr(self.settings, "parameterization", "subs")

    @abstractmethod
    def _pass(
        self,
        x: Tensor,
        at: Tensor | int,
        seen: Tensor | None,
        time: Tensor | None,
        kept: Kept | None,
        *,
        picked: Tensor | None = None,
    ) -> Tensor:
        """Embedded tokens (B, A, D), at positions 0 .. `at` - 1, or at `at` (B, A) -> the output of all blocks there.

        It may overwrite them.

        `seen` is what `_seen` returns. With `picked` (N,), flat indices into (B, A), the output there, (N, D).
        """

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """See `unmask.denoiser.Denoiser`."""

    def _fits(self, tokens: Tensor, valid: Tensor | None) -> None:
        """Raise RequestError for tokens after the last position that the network can represent."""

    def hidden(
        self,
        tokens: Tensor,
        *,
        valid: Tensor | None = None,
        time: Tensor | None = None,
        positions: Tensor | None = None,
        prompt: Tensor | None = None,
        where: Tensor | None = None,
        feedback: Feedback | None = None,
    ) -> Tensor:
        """See `unmask.denoiser.Denoiser` and `Selecting`; `feedback` is for a network with soft masks."""
        self._fits(tokens, valid)
        at = tokens.shape[1] if positions is None else positions
        before = _before(tokens) if self.shifted else None
        x, seen = self._embedded(tokens, feedback), self._seen(valid, at, tokens)
        return _moved(self._pass_where(_earlier(where, before), x, at, seen, time, None), before)

    @torch.no_grad()
    def hidden_at(
        self,
        tokens: Tensor,
        at: Tensor | None = None,
        kept: tuple[Tensor, ...] = (),
        *,
        valid: Tensor | None = None,
        time: Tensor | None = None,
        where: Tensor | None = None,
        feedback: Feedback | None = None,
        length: int = 0,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `unmask.denoiser.Attending`; the memory is a tensor (B, L, 2, heads, head) a block: rotated keys, values.

        Where the network is shifted, a position gets the right hidden state if its predecessor is in `at` too.
        """
        length = kept[0].shape[1] if kept else length
        before = _before(tokens, at, length) if self.shifted else None
        where, x = _earlier(where, before), self._embedded(tokens, feedback)
        if at is None:
            self._fits(tokens, valid)
            memory = Kept([])
            seen = self._seen(valid, tokens.shape[1], tokens)
            x = self._pass_where(where, x, tokens.shape[1], seen, time, memory)
        else:
            flat = (at + length * torch.arange(len(at), device=at.device)[:, None]).flatten()
            memory = Kept([], flat, kept, length)
            x = self._pass_where(where, x, at, self._seen(valid, at, tokens, length), time, memory)
        return _moved(x, before), tuple(memory.after)

    def _embedded(self, tokens: Tensor, feedback: Feedback | None) -> Tensor:
        """Tokens (B, A) and the feedback there -> the input of the blocks (B, A, D), a new tensor.

        Raises RequestError for feedback to a network that was not trained with it.
        """
        x = self.embedding(tokens)
        if feedback is None:
            return x
        if self.soft_mask is None:
            raise RequestError("Feedback is for a network that was trained with soft masks, and this one was not.")
        return self.soft_mask(x, tokens == self.mask_id, feedback, self.embedding)

    def _seen(self, valid: Tensor | None, at: Tensor | int, tokens: Tensor, length: int | None = None) -> Tensor | None:
        """The keys that a query attends to: (B, L) for all queries, (B or 1, A, L) if block-causal, None for all keys.

        `at` are the positions of the queries (B, A), or their number. The positions of the keys are 0 .. `length` - 1,
        or, without `length`, those of the queries.
        """
        later = self.later if isinstance(at, int) else None
        if not self.causal_block and later is None:
            return valid
        own = torch.arange(at, device=tokens.device)[None] if isinstance(at, int) else at
        keys = own if length is None else torch.arange(length, device=tokens.device)[None]
        size = 1 if later is not None else self.causal_block
        seen = (keys // size)[:, None] <= (own // size)[..., None]
        if later is not None:
            seen = seen | later[: seen.shape[1], : seen.shape[2]]
        return seen if valid is None else seen & valid[:, None]

    def _pass_where(self, where: Tensor | None, x: Tensor, *rest: Any) -> Tensor:
        """As `_pass`; with `where` (B, A) bool only these positions are computed to the end, the others are zero."""
        known = torch.is_grad_enabled() or x.device.type == "cpu"  # else their number would be waited for
        if where is None or not known or torch.compiler.is_compiling():
            return self._pass(x, *rest)
        picked = where.flatten().nonzero().squeeze(-1)
        size = rounded_size(len(picked))
        if size >= where.numel():
            return self._pass(x, *rest)
        x = self._pass(x, *rest, picked=F.pad(picked, (0, size - len(picked))))[: len(picked)]
        out = x.new_zeros(where.numel(), x.shape[-1])
        return out.index_copy_(0, picked, x).view(*where.shape, -1)

    def forward(self, tokens: Tensor, valid: Tensor | None = None, time: Tensor | None = None) -> Tensor:
        """All logits (B, L, V) at once: for export and for tests; the library itself calls the two halves."""
        return self.logits(self.hidden(tokens, valid=valid, time=time))


# ---- the shift: the prediction for position i is read at position i - 1, that for position 0 at position 0 ----


def _before(tokens: Tensor, at: Tensor | None = None, length: int = 0) -> Tensor:
    """Positions `at` (B, A) below `length`, None for 0 .. A - 1 -> the index among them (B, A) of each predecessor.

    The index of the position itself where its predecessor is not among them.
    """
    rows, count = tokens.shape
    own = torch.arange(count, device=tokens.device).expand(rows, count)
    if at is None:
        return (own - 1).clamp(min=0)
    index = own.new_full((rows, length), -1).scatter_(1, at, own)
    before = index.gather(1, (at - 1).clamp(min=0))
    return torch.where(before < 0, own, before)


def _earlier(where: Tensor | None, before: Tensor | None) -> Tensor | None:
    """Positions whose prediction is needed (B, A) -> those at which it is read."""
    if where is None or before is None:
        return where
    return torch.zeros_like(where, dtype=torch.uint8).scatter_reduce_(1, before, where.byte(), "amax").bool()


def _moved(x: Tensor, before: Tensor | None) -> Tensor:
    """Hidden states (B, A, D) -> those of the predecessors."""
    return x if before is None else x.gather(1, before[..., None].expand_as(x))
