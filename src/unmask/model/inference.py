"""The blocks of a DiT without gradients: the function of their `forward`, in fewer operations.

The residual stream keeps the format of the embedding and is written in place; in float32 the product that ends a branch
adds to it. Nothing after the attention of the last block mixes positions, so that it runs only where hidden states are
needed. Products in bfloat16 on a processor use weights that were packed once.

A row of a product has the same bits in any batch where the number of rows is a multiple of 16 (`unmask.batch`) and, on
Intel's matrix units, no bfloat16 sum is longer than `LONGEST_SUM`: longer ones are divided differently for different
numbers of rows. So they are divided here. Shapes: B rows, A positions, D width, N picked positions.
"""

__all__ = ["LONGEST_SUM", "Kept", "LowPrecision", "PackedWeights", "Run", "computing_in", "run_blocks"]

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.denoiser import Denoiser, Trainable, Wrapper
from unmask.limits import available_bytes
from unmask.model.layers import Tables, over_heads, pick, turn

LONGEST_SUM = 384
"""Terms of one bfloat16 sum on a processor: with 384 rows were equal in every batch, with 512 they were not."""
_ROWS = 32  # for which oneDNN chooses its layout; no other number was faster


@dataclass(slots=True)
class Kept:
    """Keys and values before and after a pass: a tensor (B, L, 2, H, head) for each block, rotated, keys first.

    With `at`, the positions of its A tokens as flat indices (B * A,) into (B, L), a pass computes these positions only,
    and takes the others from `before`, whose tensors it does not change.
    """

    at: Tensor | None = None
    before: tuple[Tensor, ...] = ()
    after: list[Tensor] = field(default_factory=list[Tensor])

    def renew(self, fresh: Tensor) -> Tensor:
        """New keys and values (B, A, 2, H, head) of the next block -> those of all positions, (B, L, 2, H, head)."""
        if self.at is not None:
            old = self.before[len(self.after)]
            fresh = old.flatten(0, 1).index_copy(0, self.at, fresh.flatten(0, 1)).view_as(old)
        self.after.append(fresh)
        return fresh


class _Packed(NamedTuple):
    weight: Tensor  # the Parameter that was packed, its version and its address then
    version: int
    address: int
    parts: tuple[Tensor, ...] | None  # None where there was no memory for them


class PackedWeights:
    """bfloat16 weights in the layout in which oneDNN multiplies, made at their first use.

    They are made anew where the Parameter is another, lies elsewhere, or was written since, by autograd's count of
    writes. What is written around that count (`weight.data`) is seen after `DiT.lowered` was called again.
    """

    def __init__(self) -> None:
        self._packed: dict[int, _Packed] = {}

    def __deepcopy__(self, memo: Any) -> "PackedWeights":
        return PackedWeights()

    def __reduce__(self) -> tuple[type["PackedWeights"], tuple[()]]:
        return PackedWeights, ()

    def of(self, layer: nn.Linear) -> tuple[Tensor, ...] | None:
        """A layer -> its weight in parts of `LONGEST_SUM` inputs, packed; None where it cannot be packed."""
        weight = layer.weight
        if weight.dtype != torch.bfloat16 or weight.device.type != "cpu" or weight.is_inference():
            return None
        packed = self._packed.get(id(layer))
        if (
            packed is None
            or packed.weight is not weight
            or packed.version != weight._version
            or packed.address != weight.data_ptr()
        ):
            packed = _Packed(weight, weight._version, weight.data_ptr(), _pack(weight.detach()))
            self._packed[id(layer)] = packed
        return packed.parts


def _pack(weight: Tensor) -> tuple[Tensor, ...] | None:
    """A bfloat16 weight -> its packed parts; None without oneDNN's bfloat16 products, or without memory for a copy."""
    ops = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available() or not ops._is_mkldnn_bf16_supported():  # pyright: ignore
        return None
    if available_bytes() < 4 * weight.nbytes:
        return None
    return tuple(ops._reorder_linear_weight(part.contiguous(), _ROWS) for part in weight.split(LONGEST_SUM, 1))


@dataclass(frozen=True)
class LowPrecision(Wrapper):
    """A denoiser whose `hidden` runs under autocast in `dtype`; the head is unchanged."""

    dtype: torch.dtype

    def hidden(self, tokens: Tensor, **options: Tensor | None) -> Tensor:
        with torch.autocast(tokens.device.type, self.dtype):
            return super().hidden(tokens, **options)

    def hidden_at(
        self, tokens: Tensor, at: Tensor | None = None, kept: tuple[Tensor, ...] = (), **options: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        with torch.autocast(tokens.device.type, self.dtype):
            return super().hidden_at(tokens, at, kept, **options)


def computing_in(network: Trainable, dtype: torch.dtype) -> Denoiser:
    """A network -> a denoiser whose hidden states are computed in `dtype`.

    With float32 it is the network itself; else its weights are converted in place and `LowPrecision` wraps it.
    """
    return network if dtype == torch.float32 else LowPrecision(network.lowered(dtype), dtype)


class Run(NamedTuple):
    """What the blocks of a pass share."""

    tables: Tables
    seen: Tensor | None  # keys that queries attend to
    kept: Kept | None
    packed: PackedWeights | None
    dtype: torch.dtype  # of the products


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
    qkv = _product(block.qkv, normal, run).view(batch, length, 3, block.heads, width // block.heads)
    branch = _attention(qkv, run)
    if rows is not None:
        shape = x.shape[:2]
        x, branch = pick(x, rows, shape), pick(branch, rows, shape)
        six = None if six is None else tuple(pick(vector, rows, shape) for vector in six)
    x = _join(block.out, x, branch, None if six is None else six[2], run)
    inner = _product(block.up, _shifted(block.norm_2(x), six, 3).view(-1, width), run, block.gelu)
    return _join(block.down, x, inner, None if six is None else six[5], run)


def _shifted(x: Tensor, six: tuple[Tensor, ...] | None, first: int) -> Tensor:
    return x if six is None else torch.addcmul(six[first], x, 1 + six[first + 1])


def _bias(layer: nn.Linear, dtype: torch.dtype) -> Tensor | None:
    bias = cast(Tensor | None, layer.bias)
    return None if bias is None else bias.to(dtype)


def _terms(layer: nn.Linear, x: Tensor, run: Run, gelu: str | None = None) -> tuple[list[Tensor], bool]:
    """Inputs (N, D) -> the terms, (N, E) each, whose sum is layer(x), and whether GELU was applied, if it was asked."""
    x, weight, bias = x.to(run.dtype), layer.weight, _bias(layer, run.dtype)
    if run.dtype != torch.bfloat16 or x.device.type != "cpu":
        return [F.linear(x, weight.to(run.dtype), bias)], False
    inputs = x.split(LONGEST_SUM, 1)
    biases = [bias, *[None] * (len(inputs) - 1)]
    packed = None if run.packed is None else run.packed.of(layer)
    if packed is None:
        pieces = weight.to(run.dtype).split(LONGEST_SUM, 1)
        return [F.linear(*each) for each in zip(inputs, pieces, biases, strict=True)], False
    fused = gelu is not None and len(packed) == 1
    end = ("gelu", [], gelu) if fused else ("none", [], "")
    multiply = torch.ops.mkldnn._linear_pointwise
    return [multiply(*each, *end) for each in zip(inputs, packed, biases, strict=True)], fused


def _product(layer: nn.Linear, x: Tensor, run: Run, gelu: str | None = None) -> Tensor:
    """Inputs (N, D) -> layer(x) (N, E), with GELU of that form if it is named."""
    bias = _bias(layer, run.dtype)
    if run.dtype == torch.float32 and bias is not None:  # the bias within the product costs twice as much
        out, done = F.linear(x, layer.weight).add_(bias), False
    else:
        (out, *rest), done = _terms(layer, x, run, gelu)
        if rest:
            total = out.float()
            for term in rest:
                total.add_(term)
            out = total.to(run.dtype)
    return out if gelu is None or done else torch.ops.aten.gelu_(out, approximate=gelu)


def _join(layer: nn.Linear, x: Tensor, branch: Tensor, gate: Tensor | None, run: Run) -> Tensor:
    """x + gate * layer(branch), written into x; `branch` is (..., E) or its rows side by side."""
    flat, branch = x.view(-1, x.shape[-1]), branch.view(-1, branch.shape[-1])
    if gate is not None:
        return x.addcmul_(_product(layer, branch, run).view_as(x), gate)
    if run.dtype == torch.float32:
        if (bias := _bias(layer, run.dtype)) is not None:
            flat.add_(bias)
        flat.addmm_(branch, layer.weight.t())
    else:
        for term in _terms(layer, branch, run)[0]:
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
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
    return out.transpose(1, 2).reshape(batch, length, heads * head)
