"""The blocks of a DiT without gradients: the function of their `forward`, in fewer operations.

The residual stream keeps the format of the embedding and is written in place; in float32 the product that ends a branch
adds to it. Nothing after the attention of the last block mixes positions, so that it runs only where hidden states are
needed. Products on a processor use weights that were packed once.

A row of a product has the same bits in any batch, and with packed weights or plain ones, where the number of rows is a
multiple of 16 (`unmask.batch`) and no sum is longer than `LONGEST_SUM`: MKL and oneDNN divide longer ones differently
for different numbers of rows. So they are divided here. Shapes: B rows, A positions, D width, N picked positions.
"""

__all__ = ["LONGEST_SUM", "Kept", "LowPrecision", "PackedWeights", "Run", "computing_in", "product", "run_blocks"]

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.denoiser import Denoiser, Trainable, Wrapper
from unmask.limits import available_bytes
from unmask.model.layers import Tables, over_heads, pick, turn

LONGEST_SUM = {torch.bfloat16: 384, torch.float32: 768}
"""Terms of one sum on a processor: with so many rows were equal in every batch, with 512 and 1,024 they were not."""
_ROWS = 32  # for which oneDNN chooses its layout; no other number was faster
_USES, _SIZES = 3, 3  # MKL packs for one number of rows: at its third use, for three numbers at most
_SHARE = 4  # packed weights take at most this part of the memory that is available


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


Parts = tuple[Tensor, ...]


@dataclass(slots=True)
class _Packed:
    weight: Tensor  # the Parameter that is packed, its version and its address when it was
    version: int
    address: int
    uses: dict[int, int] = field(default_factory=dict[int, int])  # by number of rows
    parts: dict[int, Parts | None] = field(default_factory=dict[int, Parts | None])  # the latest used last

    @property
    def bytes(self) -> int:
        return self.weight.nbytes * sum(part is not None for part in self.parts.values())


class PackedWeights:
    """Weights in the layouts in which oneDNN (bfloat16) and MKL (float32) multiply, in parts of `LONGEST_SUM` inputs.

    They are made anew where the Parameter is another, lies elsewhere, or was written since, by autograd's count of
    writes. What is written around that count (`weight.data`) is seen after `DiT.lowered` was called again.
    """

    def __init__(self) -> None:
        self._packed: dict[int, _Packed] = {}
        self.bytes = 0

    def __deepcopy__(self, memo: Any) -> "PackedWeights":
        return PackedWeights()

    def __reduce__(self) -> tuple[type["PackedWeights"], tuple[()]]:
        return PackedWeights, ()

    def of(self, layer: nn.Linear, rows: int) -> Parts | None:
        """A layer and the number of rows of its input -> its packed weight; None where the plain one is to be used."""
        weight = layer.weight
        if weight.dtype not in LONGEST_SUM or weight.device.type != "cpu" or weight.is_inference():
            return None
        packed = self._packed.get(id(layer))
        if (
            packed is None
            or packed.weight is not weight
            or packed.version != weight._version
            or packed.address != weight.data_ptr()
        ):
            self.bytes -= 0 if packed is None else packed.bytes
            packed = self._packed[id(layer)] = _Packed(weight, weight._version, weight.data_ptr())
        if weight.dtype == torch.bfloat16:
            rows = _ROWS  # for any number
        if rows in packed.parts:
            packed.parts[rows] = packed.parts.pop(rows)
            return packed.parts[rows]
        return self._pack(packed, rows)

    def _pack(self, packed: _Packed, rows: int) -> Parts | None:
        """Count a use for that number of rows -> the packed weight, made now if it is used often."""
        packed.uses[rows] = packed.uses.get(rows, 0) + 1
        weight = packed.weight.detach()
        if weight.dtype == torch.float32 and packed.uses[rows] < _USES:
            return None
        if len(packed.parts) >= _SIZES:
            oldest = next(iter(packed.parts))
            packed.uses[oldest] = 0
            if packed.parts.pop(oldest) is not None:
                self.bytes -= weight.nbytes
        pack = _packer(weight, rows)
        if pack is None or self.bytes + weight.nbytes > available_bytes() / _SHARE:
            packed.parts[rows] = None
        else:
            self.bytes += weight.nbytes
            packed.parts[rows] = tuple(pack(part.contiguous()) for part in weight.split(LONGEST_SUM[weight.dtype], 1))
        return packed.parts[rows]


def _packer(weight: Tensor, rows: int) -> Callable[[Tensor], Tensor] | None:
    """A weight -> the function that packs it for a number of rows; None where torch has none for this processor."""
    dnn, mkl = torch.ops.mkldnn, torch.ops.mkl
    if weight.dtype == torch.float32:
        return partial(mkl._mkl_reorder_linear_weight, batch_size=rows) if torch.backends.mkl.is_available() else None
    if not torch.backends.mkldnn.is_available() or not dnn._is_mkldnn_bf16_supported():  # pyright: ignore
        return None
    return partial(dnn._reorder_linear_weight, batch_size=rows)


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


def product(layer: nn.Linear, x: Tensor, packed: PackedWeights | None, gelu: str | None = None) -> Tensor:
    """Inputs (N, D) in the type of the product -> layer(x) (N, E), with GELU of that form if it is named.

    The same bits in any batch, if N is a multiple of 16.
    """
    (out, *rest), done = _terms(layer, x, packed, gelu)
    if rest:
        total = out.float()
        for term in rest:
            total.add_(term)
        out = total.to(x.dtype)
    return out if gelu is None or done else torch.ops.aten.gelu_(out, approximate=gelu)


def _terms(
    layer: nn.Linear, x: Tensor, packed: PackedWeights | None, gelu: str | None = None
) -> tuple[list[Tensor], bool]:
    """Inputs (N, D) -> the terms, (N, E) each, whose sum is layer(x), and whether GELU was applied, if it was asked."""
    weight, bias = layer.weight.to(x.dtype), cast(Tensor | None, layer.bias)
    bias = None if bias is None else bias.to(x.dtype)
    if x.device.type != "cpu" or x.dtype not in LONGEST_SUM:
        return [F.linear(x, weight, bias)], False
    inputs, weights = (each.split(LONGEST_SUM[x.dtype], 1) for each in (x, weight))
    parts = None if packed is None or weight is not layer.weight else packed.of(layer, len(x))
    if x.dtype == torch.float32:  # the bias within the product costs twice as much as after it
        pairs = zip(inputs, weights, strict=True)
        terms = [F.linear(*pair) for pair in pairs] if parts is None else _by_mkl(inputs, parts, weights)
        if bias is not None:
            terms[0].add_(bias)
        return terms, False
    biases = [bias, *[None] * (len(inputs) - 1)]
    if parts is None:
        return [F.linear(*each) for each in zip(inputs, weights, biases, strict=True)], False
    fused = gelu is not None and len(parts) == 1
    end = ("gelu", [], gelu) if fused else ("none", [], "")
    multiply = torch.ops.mkldnn._linear_pointwise
    return [multiply(*each, *end) for each in zip(inputs, parts, biases, strict=True)], fused


def _by_mkl(inputs: Parts, parts: Parts, weights: Parts) -> list[Tensor]:
    """Parts of the inputs (N, I) and of the weight, packed for N rows and plain -> their products (N, E)."""
    rows = len(inputs[0])
    multiply = torch.ops.mkl._mkl_linear
    return [multiply(x, part, weight, None, rows) for x, part, weight in zip(inputs, parts, weights, strict=True)]


def _join(layer: nn.Linear, x: Tensor, branch: Tensor, gate: Tensor | None, run: Run) -> Tensor:
    """x + gate * layer(branch), written into x; `branch` is (..., E) or its rows side by side."""
    flat, branch = x.view(-1, x.shape[-1]), branch.view(-1, branch.shape[-1]).to(run.dtype)
    if gate is not None:
        return x.addcmul_(product(layer, branch, run.packed).view_as(x), gate)
    for term in _terms(layer, branch, run.packed)[0]:
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
