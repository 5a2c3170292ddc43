"""Caches of keys and values: most positions are not run again in most passes.

Attention that goes everywhere makes every key and value depend on every token, so that a kept one is stale as soon as
anything was written: what a cache answers is near, and exact only where every pass is a full one (`refresh=1`), or, for
the prefix and the dual cache, under block-causal attention (`DiTSettings.causal_block`) where the lengths of prompt
and blocks are multiples of its blocks. `unmask bench decode` measures how near.

A cache is the outermost wrapper: `DualCache(LowPrecision(network))`. Its memory of a row is the keys and values of all
positions, the tokens they were made of, the block they were made for, and their age in passes. A row runs in full
where it remembers nothing of this block; else the positions that the cache calls stale run, with as many of the others
(which does no harm) as bring their number to a multiple of 16. Rows with equal numbers run together, so that a row
meets the same shapes, and gets the same bits, whatever stands beside it. Shapes: B rows, L positions, A of them run.
"""

__all__ = ["CACHES", "Cache", "DelayedCache", "DualCache", "PrefixCache", "cached"]

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor

from unmask.batch import GRAIN, join_rows, keep_rows, padded_size
from unmask.denoiser import Attending, Denoiser, Place, Wrapper, attending
from unmask.errors import RequestError, did_you_mean


class _Memory(NamedTuple):
    kept: tuple[Tensor, ...]  # keys and values, (B, L, ...) each
    tokens: Tensor  # (B, L) what they were made of
    block: Tensor  # (B, L) bool: Place.block when they were
    age: Tensor  # (B,) passes since the last full one, that one included


@dataclass(frozen=True)
class Cache(Wrapper, ABC):
    """What the three have in common. `refresh`: a full pass every so many passes; None: only on entering a block."""

    refresh: int | None = None
    needs_blocks: ClassVar[bool] = True  # whether it saves nothing where the whole window is one block

    def __post_init__(self) -> None:
        super().__post_init__()
        attending(self.inner)
        if self.refresh is not None and self.refresh < 1:
            raise RequestError(
                f"refresh is {self.refresh}; give the passes from one full pass to the next, at least 1."
            )

    @abstractmethod
    def stale(self, tokens: Tensor, place: Place, before: Tensor) -> Tensor:
        """(B, L) bool: what has to run again, where keys and values were made of the tokens `before` (B, L)."""

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
        """See `unmask.denoiser.Caching`."""
        whole = tokens.shape[1]
        if memory is None:
            return self._run(whole, None, tokens, place, None, valid, time)
        before = _Memory(*memory)
        stale = self.stale(tokens, place, before.tokens)
        sizes = self._sizes(stale, place, before)
        if len(set(sizes)) == 1:
            return self._run(sizes[0], stale, tokens, place, before, valid, time)
        order: list[Tensor] = []
        parts: list[Any] = []
        for size in sorted(set(sizes)):
            rows = torch.tensor([row for row, one in enumerate(sizes) if one == size], device=tokens.device)
            some = keep_rows((stale, tokens, place, before, valid, time), rows)
            order.append(rows)
            parts.append(self._run(size, some[0], some[1], Place(*some[2]), _Memory(*some[3]), *some[4:]))
        return keep_rows(join_rows(parts, [len(rows) for rows in order]), torch.cat(order).argsort())

    def _sizes(self, stale: Tensor, place: Place, before: _Memory) -> list[int]:
        """How many positions of each row run: all of them where the row remembers too little."""
        due = (place.step == 0) | (place.block != before.block).any(-1)
        if self.refresh is not None:
            due |= before.age >= self.refresh
        whole = stale.shape[1]
        grains = padded_size(stale.sum(-1)).clamp(min=GRAIN)
        return torch.where(due, whole, grains.clamp(max=whole)).tolist()

    def _run(
        self,
        size: int,
        stale: Tensor | None,
        tokens: Tensor,
        place: Place,
        before: _Memory | None,
        valid: Tensor | None,
        time: Tensor | None,
    ) -> tuple[Tensor, Any]:
        """A pass over `size` positions of each row: (B, L, D), zero where none ran, and the memory."""
        inner = cast(Attending, self.inner)  # made sure of in the beginning: protocols are slow to check
        if stale is None or before is None or size == tokens.shape[1]:
            hidden, kept = inner.hidden_at(tokens, valid=valid, time=time)
            return hidden, _Memory(kept, tokens, place.block, torch.ones_like(place.step))
        at = stale.byte().argsort(dim=-1, descending=True, stable=True)[:, :size]
        found, kept = inner.hidden_at(tokens.gather(-1, at), at, before.kept, valid=valid, time=time)
        hidden = found.new_zeros((*tokens.shape, found.shape[-1]))
        hidden.scatter_(1, at[..., None].expand_as(found), found)
        return hidden, _Memory(kept, tokens, place.block, before.age + 1)


class PrefixCache(Cache):
    """Keeps what stands before the block; the block and all behind it run (Fast-dLLM, arXiv:2505.22618, 3.2)."""

    def stale(self, tokens: Tensor, place: Place, before: Tensor) -> Tensor:
        return place.block.cumsum(-1) > 0


class DualCache(Cache):
    """Keeps what stands before the block and behind it; the block alone runs (Fast-dLLM, arXiv:2505.22618, 3.2)."""

    def stale(self, tokens: Tensor, place: Place, before: Tensor) -> Tensor:
        return (place.block.cumsum(-1) > 0) & (place.block.flip(-1).cumsum(-1) > 0).flip(-1)


@dataclass(frozen=True)
class DelayedCache(Cache):
    """Keeps a token from the pass after the one that wrote it; every MASK runs (dKV-Cache, arXiv:2505.15781, 3.2)."""

    refresh: int | None = 8
    needs_blocks: ClassVar[bool] = False

    def stale(self, tokens: Tensor, place: Place, before: Tensor) -> Tensor:
        return place.masked | (tokens != before)


CACHES: dict[str, type[Cache]] = {"delayed": DelayedCache, "dual": DualCache, "prefix": PrefixCache}


def cached(denoiser: Denoiser, text: str) -> Cache:
    """The cache that `text` names around `denoiser`: "dual", or "dual:refresh=8" ("none": only on entering a block).

    Raises RequestError for an unknown name or option, a value that cannot be, or a denoiser that keeps nothing.
    """
    name, _, rest = text.partition(":")
    if name not in CACHES:
        raise RequestError(f"There is no cache named '{name}'; {did_you_mean(name, CACHES)}")
    if not rest:
        return CACHES[name](denoiser)
    key, _, value = rest.partition("=")
    if key != "refresh" or not (value == "none" or value.isdecimal()):
        raise RequestError(
            f"The cache '{text}' cannot be read; its one option is refresh, a whole number or none: {name}:refresh=8."
        )
    return CACHES[name](denoiser, None if value == "none" else int(value))
