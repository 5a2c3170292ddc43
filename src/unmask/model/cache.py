"""Caches of keys and values, so that most passes compute only a part of the positions.

With bidirectional attention every key and value depends on every token, so that cached ones are stale once a token was
written. The output with a cache is an approximation. It is exact only where every pass is a full one (`refresh=1`), or,
for the prefix and the dual cache, under block-causal attention (`DiTSettings.causal_block`) where blocks are multiples
of its blocks. The causal cache, for such attention alone, is always exact and computes least. `unmask bench decode`
measures the difference.

A cache is the outermost wrapper: `DualCache(LowPrecision(network))`. Its memory of a row is the keys and values of all
positions, the tokens and the block at the pass that computed them, and their age in passes. A row without a memory of
its block is computed in full, but for the causal cache. In other rows the stale positions, as each cache defines them,
are computed, and as many of the others as bring their number to a multiple of 16, which is harmless. Rows with equal
numbers are computed together, so that a row has the same shapes, and the same bits, in any batch. Shapes: B rows, L
positions, A of them computed, D width.
"""

__all__ = ["CACHES", "Cache", "CausalCache", "DelayedCache", "DualCache", "PrefixCache", "cached"]

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from unmask.batch import GRAIN, join_rows, keep_rows, padded_size, placed
from unmask.denoiser import Attending, Denoiser, Place, Wrapper, attending, selection
from unmask.errors import RequestError, did_you_mean
from unmask.model.soft import Feedback
from unmask.ranges import Count, check_value, number_of


class _Memory(NamedTuple):
    kept: tuple[Tensor, ...]  # keys and values, (B, L, ...) each
    tokens: Tensor  # (B, L) at the pass that computed them
    block: Tensor  # (B, L) bool: Place.block at that pass
    age: Tensor  # (B,) passes since the last full one, which counts as 1


@dataclass(frozen=True)
class Cache(Wrapper, ABC):
    """Base class of the caches. `refresh`: a full pass every so many passes; None: only at the start of a block."""

    refresh: int | None = None
    exact: ClassVar[bool] = False  # whether it records of each position the token that its keys and values are of
    needs_blocks: ClassVar[bool] = True  # whether nothing is saved where the whole window is one block

    def __post_init__(self) -> None:
        super().__post_init__()
        attending(self.inner)
        if self.refresh is not None:
            check_value("refresh", self.refresh, Count, RequestError)

    @abstractmethod
    def stale(self, tokens: Tensor, place: Place, before: Tensor) -> Tensor:
        """Tokens now and those that the keys and values are of (`before`) -> positions to compute, (B, L) bool."""

    def recall(
        self,
        tokens: Tensor,
        place: Place,
        memory: Any,
        *,
        valid: Tensor | None = None,
        time: Tensor | None = None,
        prompt: Tensor | None = None,
        sizes: list[int] | None = None,
        feedback: Feedback | None = None,
    ) -> tuple[Tensor, Any]:
        """See `unmask.denoiser.Caching`. Feedback is at positions of the block alone, which every cache computes."""
        if (before := self._before(tokens, place, memory)) is None:
            return self._run(tokens.shape[1], None, tokens, place, None, valid, time, feedback)
        stale = self._stale(tokens, place, before)
        sizes = self._sizes(stale, place, before).tolist() if sizes is None else sizes
        if len(set(sizes)) == 1:
            return self._run(sizes[0], stale, tokens, place, before, valid, time, feedback)
        order: list[Tensor] = []
        parts: list[Any] = []
        for size in sorted(set(sizes)):
            rows = placed([row for row, count in enumerate(sizes) if count == size], tokens.device)
            group = keep_rows((stale, tokens, place, before, valid, time, feedback), rows)
            soft = None if group[6] is None else Feedback(*group[6])
            order.append(rows)
            parts.append(
                self._run(size, group[0], group[1], Place(*group[2]), _Memory(*group[3]), group[4], group[5], soft)
            )
        return keep_rows(join_rows(parts, [len(rows) for rows in order]), torch.cat(order).argsort())

    def sizes(self, tokens: Tensor, place: Place, memory: Any) -> Tensor:
        """See `unmask.denoiser.Caching`."""
        if (before := self._before(tokens, place, memory)) is None:
            return torch.full_like(place.step, tokens.shape[1])
        return self._sizes(self._stale(tokens, place, before), place, before)

    def _before(self, tokens: Tensor, place: Place, memory: Any) -> _Memory | None:
        """The memory of the last pass; None where every row is computed in full."""
        return None if memory is None else _Memory(*memory)

    def _stale(self, tokens: Tensor, place: Place, before: _Memory) -> Tensor:
        """As `stale`, and of a shifted denoiser also the position before each that can be asked for."""
        stale = self.stale(tokens, place, before.tokens)
        if not self.shifted:
            return stale
        asked = place.block & place.masked
        return stale | F.pad(asked[:, 1:], (0, 1))

    def _sizes(self, stale: Tensor, place: Place, before: _Memory) -> Tensor:
        """The number of positions to compute in each row: all where the memory is of another block or too old."""
        due = self._due(place, before)
        if self.refresh is not None:
            due |= before.age >= self.refresh
        whole = stale.shape[1]
        grains = padded_size(stale.sum(-1)).clamp(min=GRAIN)
        return torch.where(due, whole, grains.clamp(max=whole))

    def _due(self, place: Place, before: _Memory) -> Tensor:
        """(B,) bool: rows whose memory is of another block than that of this pass."""
        return (place.step == 0) | (place.block != before.block).any(-1)

    def _run(
        self,
        size: int,
        stale: Tensor | None,
        tokens: Tensor,
        place: Place,
        before: _Memory | None,
        valid: Tensor | None,
        time: Tensor | None,
        feedback: Feedback | None,
    ) -> tuple[Tensor, Any]:
        """A pass over `size` positions of each row -> hidden states (B, L, D), zero at the others, and the memory."""
        inner = cast(Attending, self.inner)  # checked in __post_init__; protocols are slow to check
        where = place.block & place.masked
        if stale is None or before is None or size == tokens.shape[1]:
            hidden, kept = inner.hidden_at(tokens, valid=valid, time=time, **selection(inner, where, feedback))
            return hidden, _Memory(kept, tokens, place.block, torch.ones_like(place.step))
        at = stale.byte().argsort(dim=-1, descending=True, stable=True)[:, :size]
        only = selection(inner, where.gather(-1, at), None if feedback is None else feedback.at(at))
        length = tokens.shape[1]
        computed, kept = inner.hidden_at(
            tokens.gather(-1, at), at, before.kept, valid=valid, time=time, length=length, **only
        )
        hidden = computed.new_zeros((*tokens.shape, computed.shape[-1]))
        hidden.scatter_(1, at[..., None].expand_as(computed), computed)
        after = before.tokens.scatter(1, at, tokens.gather(-1, at)) if self.exact else tokens
        return hidden, _Memory(kept, after, place.block, before.age + 1)


class PrefixCache(Cache):
    """Caches the positions before the block; computes the block and all after it (Fast-dLLM, arXiv:2505.22618, 3.2)."""

    def stale(self, tokens: Tensor, place: Place, before: Tensor) -> Tensor:
        return place.block.cumsum(-1) > 0


class DualCache(Cache):
    """Caches the positions before and after the block; computes the block (Fast-dLLM, arXiv:2505.22618, 3.2)."""

    def stale(self, tokens: Tensor, place: Place, before: Tensor) -> Tensor:
        return (place.block.cumsum(-1) > 0) & (place.block.flip(-1).cumsum(-1) > 0).flip(-1)


@dataclass(frozen=True)
class DelayedCache(Cache):
    """Caches a token from its second pass on; computes every MASK (dKV-Cache, arXiv:2505.15781, 3.2)."""

    refresh: int | None = 8
    needs_blocks: ClassVar[bool] = False

    def stale(self, tokens: Tensor, place: Place, before: Tensor) -> Tensor:
        return place.masked | (tokens != before)


class CausalCache(Cache):
    """Caches what block-causal attention makes final; computes the block, and before it what has changed. It is exact.

    A block that is entered is computed together with the one before it, whose last tokens have just been written; that
    one is never computed again. What is behind the block is not computed at all. (BD3-LM, arXiv:2503.09573, 4.)
    """

    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.causal_block:
            raise RequestError(
                "The cache 'causal' is for block-causal attention, and this model attends to all positions; use the "
                "cache 'dual' or 'prefix'."
            )

    def stale(self, tokens: Tensor, place: Place, before: Tensor) -> Tensor:
        """From the first block of the attention with a token that has changed, to the end of the block."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        end = torch.where(place.block, places, -1).amax(-1, keepdim=True) // self.causal_block
        changed = place.block | (tokens != before)
        start = torch.where(changed, places, len(places)).amin(-1, keepdim=True) // self.causal_block
        own = places // self.causal_block
        return (own >= start) & (own <= end)

    def _before(self, tokens: Tensor, place: Place, memory: Any) -> _Memory:
        """The memory, with the token -1 where nothing was computed; an age of 0 is that of an empty one."""
        if memory is None:
            return _Memory((), torch.full_like(tokens, -1), place.block, torch.zeros_like(place.step))
        before = _Memory(*memory)
        return before._replace(tokens=before.tokens.masked_fill((before.age == 0)[:, None], -1))

    def _due(self, place: Place, before: _Memory) -> Tensor:
        return torch.zeros_like(place.step, dtype=torch.bool)


CACHES: dict[str, type[Cache]] = {
    "causal": CausalCache,
    "delayed": DelayedCache,
    "dual": DualCache,
    "prefix": PrefixCache,
}


def cached(denoiser: Denoiser, text: str) -> Cache:
    """Denoiser and text such as "dual" or "dual:refresh=8" -> the denoiser with that cache.

    refresh=none is a full pass only at the start of a block. Raises RequestError for an unknown name or option, an
    impossible value, or a denoiser without keys and values.
    """
    name, _, rest = text.partition(":")
    if name not in CACHES:
        raise RequestError(f"There is no cache named '{name}'; {did_you_mean(name, CACHES)}")
    if not rest:
        return CACHES[name](denoiser)
    key, _, value = rest.partition("=")
    if key != "refresh":
        raise RequestError(
            f"The cache '{text}' cannot be read; its one option is refresh, a whole number or none: {name}:refresh=8."
        )
    return CACHES[name](denoiser, None if value == "none" else int(number_of("refresh", value, Count)))
