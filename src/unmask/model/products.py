"""Products with the weights of layers in passes without gradients: inputs (N, D) -> outputs (N, E).

A row of a product has the same bits in any batch, and with packed weights or plain ones, where the number of rows is a
multiple of 16 (`unmask.batch`) and no sum is longer than `LONGEST_SUM`: MKL and oneDNN divide longer ones differently
for different numbers of rows. So they are divided here. Products on a processor use weights that were packed once.
"""

__all__ = ["LONGEST_SUM", "PackedWeights", "Products", "lower", "plain_product", "product", "terms_of"]

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.limits import available_bytes

LONGEST_SUM = {torch.bfloat16: 384, torch.float32: 768}
"""Terms of one sum on a processor: with so many rows were equal in every batch, with 512 and 1,024 they were not."""
_ROWS = 32  # for which oneDNN chooses its layout; no other number was faster
_USES, _SIZES = 3, 3  # MKL packs for one number of rows: at its third use, for three numbers at most
_LARGEST = 1_000_000_000  # parameters of a network whose weights are packed
_SHARE = 4  # packed weights take at most this part of the memory that is available


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


class Products(NamedTuple):
    """How the layers of a pass multiply: the packed weights, and the number format."""

    packed: PackedWeights | None
    dtype: torch.dtype

    def __call__(self, layer: nn.Linear, x: Tensor, gelu: str | None = None) -> Tensor:
        """Inputs (..., D) -> layer(x) (..., E), with GELU of that form if it is named.

        By `product` in passes without gradients; in others by the layer itself, which autocast converts.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            out = layer(x)
            return out if gelu is None else F.gelu(out, approximate=gelu)
        flat = x.to(self.dtype).flatten(0, -2)
        return product(layer, flat, self.packed, gelu).unflatten(0, x.shape[:-1])


def product(layer: nn.Linear, x: Tensor, packed: PackedWeights | None, gelu: str | None = None) -> Tensor:
    """Inputs (N, D) in the type of the product -> layer(x) (N, E), with GELU of that form if it is named.

    The same bits in any batch, if N is a multiple of 16.
    """
    terms, done = terms_of(layer, x, packed, gelu)
    out = _sum(terms)
    return out if gelu is None or done else torch.ops.aten.gelu_(out, approximate=gelu)


def plain_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Inputs (N, D), weight (E, D) and bias (E,), both converted to the type of the inputs -> (N, E); as `product`."""
    return _sum(_plain(x, weight, bias))


def _sum(terms: list[Tensor]) -> Tensor:
    """Terms of one type -> their sum in it, computed in float32."""
    out, *rest = terms
    if not rest:
        return out
    total = out.float()
    for term in rest:
        total.add_(term)
    return total.to(out.dtype)


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> list[Tensor]:
    """As `plain_product`, the terms whose sum it is."""
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    if x.device.type != "cpu" or x.dtype not in LONGEST_SUM:
        return [F.linear(x, weight, bias)]
    pairs = list(zip(*(each.split(LONGEST_SUM[x.dtype], 1) for each in (x, weight)), strict=True))
    if x.dtype == torch.float32:  # the bias within the product costs twice as much as after it
        return _with_bias([F.linear(*pair) for pair in pairs], bias)
    biases = [bias, *[None] * (len(pairs) - 1)]
    return [F.linear(*pair, bias=each) for pair, each in zip(pairs, biases, strict=True)]


def _quantised(layer: nn.Linear) -> bool:
    """Whether the weight is of a class of another library, which multiplies in its own way."""
    return type(layer.weight) not in (Tensor, nn.Parameter)


def _extended(layer: nn.Linear) -> bool:
    """Whether the layer computes more than a product with its weight, see `model.lora`."""
    return type(layer) is not nn.Linear


def lower(blocks: nn.Module, dtype: torch.dtype) -> PackedWeights | None:
    """Convert the matrices of the blocks to `dtype`, in place -> an empty collection of packed ones; None for large
    networks, for which there should be memory for one copy alone."""
    for module in blocks.modules():
        if isinstance(module, nn.Linear) and not _quantised(module):
            module.to(dtype)
    return PackedWeights() if sum(value.numel() for value in blocks.parameters()) < _LARGEST else None


def _with_bias(terms: list[Tensor], bias: Tensor | None) -> list[Tensor]:
    if bias is not None:
        terms[0].add_(bias)
    return terms


def terms_of(
    layer: nn.Linear, x: Tensor, packed: PackedWeights | None, gelu: str | None = None
) -> tuple[list[Tensor], bool]:
    """Inputs (N, D) -> the terms, (N, E) each, whose sum is layer(x), and whether GELU was applied, if it was asked."""
    weight, bias = layer.weight, cast(Tensor | None, layer.bias)
    if _extended(layer):
        return [layer(x)], False
    if _quantised(layer):
        return [F.linear(x, weight, bias)], False
    parts = packed.of(layer, len(x)) if packed is not None and weight.dtype == x.dtype else None
    if parts is None:
        return _plain(x, weight, bias), False
    inputs = x.split(LONGEST_SUM[x.dtype], 1)
    if x.dtype == torch.float32:
        return _with_bias(_by_mkl(inputs, parts, weight.split(LONGEST_SUM[x.dtype], 1)), bias), False
    biases = [None if bias is None else bias.to(x.dtype), *[None] * (len(inputs) - 1)]
    fused = gelu is not None and len(parts) == 1
    end = ("gelu", [], gelu) if fused else ("none", [], "")
    multiply = torch.ops.mkldnn._linear_pointwise
    return [multiply(*each, *end) for each in zip(inputs, parts, biases, strict=True)], fused


def _by_mkl(inputs: Parts, parts: Parts, weights: Parts) -> list[Tensor]:
    """Parts of the inputs (N, I) and of the weight, packed for N rows and plain -> their products (N, E)."""
    rows = len(inputs[0])
    multiply = torch.ops.mkl._mkl_linear
    return [multiply(x, part, weight, None, rows) for x, part, weight in zip(inputs, parts, weights, strict=True)]
