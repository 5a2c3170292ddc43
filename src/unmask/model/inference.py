"""The blocks of a DiT without gradients: the function of their `forward`, in fewer operations.

The residual stream keeps the format of the embedding and is written in place; in float32 the product that ends a branch
adds to it. Nothing after the attention of the last block mixes positions, so that it runs only where hidden states are
needed. Shapes: B rows, A positions, D width, N picked positions.
"""

__all__ = ["Kept", "LowPrecision", "Run", "compile_passes", "computing_in", "run_blocks"]

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from unmask.denoiser import Denoiser, Trainable, Wrapper
from unmask.model.layers import Tables, over_heads, pick, turn
from unmask.model.products import PackedWeights, product, terms_of


@dataclass(slots=True)
class Kept:
    """Keys and values before and after a pass: a tensor (B, L, 2, H, head) for each block, rotated, keys first.

    With `at`, the positions of its A tokens as flat indices (B * A,) into (B, L), a pass computes these positions only,
    and takes the others from `before`, whose tensors it does not change; zeros where `before` is empty.
    """

    after: list[Tensor]
    at: Tensor | None = None
    before: tuple[Tensor, ...] = ()
    length: int = 0
    """L, where `at` is present."""

    def renew(self, fresh: Tensor) -> Tensor:
        """New keys and values (B, A, 2, H, head) of the next block -> those of all positions, (B, L, 2, H, head)."""
        if self.at is not None:
            shape = (len(fresh), self.length, *fresh.shape[2:])
            old = self.before[len(self.after)] if self.before else fresh.new_zeros(shape)
            fresh = old.flatten(0, 1).index_copy(0, self.at, fresh.flatten(0, 1)).view_as(old)
        self.after.append(fresh)
        return fresh


@dataclass(frozen=True)
class LowPrecision(Wrapper):
    """A denoiser whose `hidden` runs under autocast in `dtype`; the head is unchanged."""

    dtype: torch.dtype

    def hidden(self, tokens: Tensor, **options: Tensor | None) -> Tensor:
        with torch.autocast(tokens.device.type, self.dtype):
            return super().hidden(tokens, **options)

    def hidden_at(
        self, tokens: Tensor, at: Tensor | None = None, kept: tuple[Tensor, ...] = (), **options: Any
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        with torch.autocast(tokens.device.type, self.dtype):
            return super().hidden_at(tokens, at, kept, **options)


def computing_in(network: Trainable, dtype: torch.dtype) -> Denoiser:
    """A network -> a denoiser whose hidden states are computed in `dtype`.

    Its weights are converted in place. With float32 it is the network itself; else `LowPrecision` wraps it.
    """
    network = network.lowered(dtype)
    return network if dtype == torch.float32 else LowPrecision(network, dtype)


class Run(NamedTuple):
    """What the blocks of a pass share."""

    tables: Tables
    seen: Tensor | None  # keys that queries attend to
    kept: Kept | None
    packed: PackedWeights | None
    dtype: torch.dtype  # of the products
    maps: list[Tensor] | None = None  # gets the attention of each block (B, L, L), the mean over heads


def run_blocks(
    blocks: Collection[Any], modulations: Sequence[tuple[Tensor, ...] | None], x: Tensor, run: Run, rows: Tensor | None
) -> Tensor:
    """The embedding x (B, A, D), which is overwritten -> the residual stream after the blocks, (B, A, D).

    With `rows`, indices into B * A, only these rows (N, D). `modulations` has the six vectors (B or 1, 1, D) of each
    block, or None.
    """
    cos, sin = (table.transpose(1, 2)[:, :, :, None] for table in run.tables[:2])  # for (B, A, 3, H, head)
    run = run._replace(tables=Tables(cos, sin))
    with torch.autocast(x.device.type, enabled=False):
        for number, (block, six) in enumerate(zip(blocks, modulations, strict=True)):
            x = _run_block(block, six, x, run, rows if number == len(blocks) - 1 else None)
    return x


def _run_block(block: Any, six: tuple[Tensor, ...] | None, x: Tensor, run: Run, rows: Tensor | None) -> Tensor:
    """A block; with `rows` the part after its attention for these alone."""
    batch, length, width = x.shape
    normal = _shifted(block.norm_1(x), six, 0).view(-1, width)
    qkv = product(block.qkv, normal.to(run.dtype), run.packed).view(batch, length, 3, block.heads, width // block.heads)
    branch = _attention(qkv, run)
    if rows is not None:
        shape = x.shape[:2]
        x, branch = pick(x, rows, shape), pick(branch, rows, shape)
        six = None if six is None else tuple(pick(vector, rows, shape) for vector in six)
    x = _join(block.out, x, branch, None if six is None else six[2], run)
    normal = _shifted(block.norm_2(x), six, 3).view(-1, width)
    inner = product(block.up, normal.to(run.dtype), run.packed, block.gelu)
    return _join(block.down, x, inner, None if six is None else six[5], run)


def _shifted(x: Tensor, six: tuple[Tensor, ...] | None, first: int) -> Tensor:
    return x if six is None else torch.addcmul(six[first], x, 1 + six[first + 1])


def _join(layer: nn.Linear, x: Tensor, branch: Tensor, gate: Tensor | None, run: Run) -> Tensor:
    """x + gate * layer(branch), written into x; `branch` is (..., E) or its rows side by side."""
    flat, branch = x.view(-1, x.shape[-1]), branch.view(-1, branch.shape[-1]).to(run.dtype)
    if gate is not None:
        return x.addcmul_(product(layer, branch, run.packed).view_as(x), gate)
    for term in terms_of(layer, branch, run.packed)[0]:
        flat.add_(term)
    return x


def _attention(qkv: Tensor, run: Run) -> Tensor:
    """qkv (B, A, 3, H, head) -> attention (B, A, H * head) over its keys and values, or over those of `run.kept`."""
    batch, length, _, heads, head = qkv.shape
    cos, sin, _ = run.tables
    if run.kept is None:  # the heads before the positions: for several rows the products need it, and would copy
        turned = qkv.new_empty(2, batch, heads, length, head)
        turn(qkv[:, :, :2], cos, sin, turned.permute(1, 3, 0, 2, 4), 1)
        (q, k), v = turned.unbind(), qkv[:, :, 2].transpose(1, 2)
    else:
        turned = torch.empty_like(qkv)
        turn(qkv[:, :, :2], cos, sin, turned[:, :, :2], 1)
        turned[:, :, 2] = qkv[:, :, 2]
        both = run.kept.renew(turned[:, :, 1:])
        q, k, v = (part.transpose(1, 2) for part in (turned[:, :, 0], both[:, :, 0], both[:, :, 1]))
    mask = None if run.seen is None else over_heads(run.seen)
    if run.maps is not None:
        scores = q.float() @ k.float().transpose(-2, -1)
        scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
        run.maps.append(scores.softmax(-1).mean(1))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
    return out.transpose(1, 2).reshape(batch, length, heads * head)


def compile_passes(network: Trainable, *, decoding: bool = False) -> None:
    """Compile the passes of training, or of `decoding`, with torch.compile, in place.

    Decoding on a GPU replays CUDA graphs, one for each shape of a batch: with a cache that of a block and that of whole
    rows. The tensors of a graph are overwritten by its next replay, so that results are copied out of them.
    """
    for name in ("hidden", "hidden_at") if decoding else ("hidden",):
        if hasattr(network, name):
            function = getattr(network, name)
            setattr(network, name, _replayed(function) if decoding else torch.compile(function))


def _replayed(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(function, dynamic=False, mode="reduce-overhead" if torch.cuda.is_available() else None)

    def replay(*args: Any, **options: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return tree_map(torch.clone, compiled(*args, **options))

    return replay
