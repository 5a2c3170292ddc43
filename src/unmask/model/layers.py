"""The layers of a block that stock modules compute slowly on a CPU: attention with rotary positions, gated dropout.

Each is one autograd function whose backward is written out: no slice is padded with zeros, no tensor copied twice. The
slow twins are in tests/parity, the measurements in docs/log.md.
"""

__all__ = ["Rotary", "Tables", "add_branch", "attention", "mlp", "over_heads", "pick", "rotated", "site_keys", "turn"]

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.noise import fold

_LANE = 2**16
PLAIN_SCORES = 2**26  # with more attention scores the fused kernel is used, which needs less memory
_CACHED = 2**18  # elements of a tensor that the first caches hold together with what is computed from it
_LONGEST_TURNS = 1024


class Tables(NamedTuple):
    """Cosines and sines of rotary positions, each (1 or B, 1, L, head/2), or the rotations as matrices.

    `turns` (L, head, head), where it is present, maps a row of each position to the rotated one.
    """

    cos: Tensor
    sin: Tensor
    turns: Tensor | None = None


class Rotary:
    """Tables of rotary positions (RoFormer, arXiv:2104.09864): halves as in GPT-NeoX, by default with base 10 000.

    The tables include the factor 1/sqrt(head) of attention, its square root for queries and for keys, so that the
    scaling takes no time. With `frequencies` (head/2,), the angles of one position, they do not; those of a published
    model are then rotated as its own program rotates them.
    """

    def __init__(self, head: int, frequencies: tuple[float, ...] = ()) -> None:
        self.head, self.frequencies = head, frequencies
        self._tables: dict[tuple[int, torch.device, torch.dtype, bool], Tables] = {}

    def tables(self, positions: Tensor | int, device: torch.device, dtype: torch.dtype) -> Tables:
        """Length, or positions (B, L) -> cosines and sines.

        With gradients in bfloat16 on a CPU, whose matrix units do these few products in a fifth of the time of the
        elementwise rotation (its rows are short), it is matrices too.
        """
        if isinstance(positions, Tensor):
            return self._angles(positions.to(device), dtype)
        multiply = torch.is_grad_enabled() and dtype == torch.bfloat16 and device.type == "cpu"
        multiply = multiply and positions <= _LONGEST_TURNS and not torch.compiler.is_compiling()
        multiply = multiply and not self.frequencies
        key = (positions, device, dtype, multiply)
        if key not in self._tables:
            if len(self._tables) > 8:
                self._tables.clear()
            cos, sin, _ = self._angles(torch.arange(positions, device=device)[None], dtype)
            self._tables[key] = Tables(cos, sin, _matrices(cos[0, 0], sin[0, 0]) if multiply else None)
        return self._tables[key]

    def some(self, at: Tensor, length: int, device: torch.device, dtype: torch.dtype) -> Tables:
        """Positions `at` (B, A), below `length` -> cosines and sines, each (B, 1, A, head/2)."""
        cos, sin, _ = self.tables(length, device, dtype)
        return Tables(cos[0, 0][at][:, None], sin[0, 0][at][:, None])

    def _angles(self, positions: Tensor, dtype: torch.dtype) -> Tables:
        turns = torch.tensor(self.frequencies, dtype=torch.float64, device=positions.device)
        if not self.frequencies:
            half = torch.arange(0, self.head, 2, dtype=torch.float64, device=positions.device)
            turns = 10_000.0 ** (-half / self.head)
        angle = (positions.double()[..., None] * turns)[:, None]
        root = 1.0 if self.frequencies else self.head**-0.25
        return Tables((angle.cos() * root).to(dtype), (angle.sin() * root).to(dtype))


def _matrices(cos: Tensor, sin: Tensor) -> Tensor:
    """Cosines and sines (L, head/2) -> matrices (L, head, head) that rotate a row by multiplication from the right."""
    cos, sin = cos.diag_embed(), sin.diag_embed()
    return torch.cat([torch.cat([cos, sin], -1), torch.cat([-sin, cos], -1)], -2)


def turn(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor, sign: int) -> None:
    """Rotate the halves of the last axis of `x` by the angles times `sign` (1 or -1), into `out`."""
    first, second = x.chunk(2, -1)
    left, right = out.chunk(2, -1)
    if torch.compiler.is_compiling():  # which knows no `out` that is a part of a tensor
        left.copy_(torch.addcmul(first * cos, second, sin, value=-sign))
        right.copy_(torch.addcmul(second * cos, first, sin, value=sign))
        return
    torch.mul(first, cos, out=left).addcmul_(second, sin, value=-sign)
    torch.mul(second, cos, out=right).addcmul_(first, sin, value=sign)


def _rotate(x: Tensor, out: Tensor, tables: Tables, sign: int) -> None:
    """Queries and keys `x` (2, B, H, L, head), any strides, into `out`, rotated; sign -1: the transposed map."""
    if tables.turns is None:
        return turn(x, tables.cos, tables.sin, out, sign)
    rows = x.permute(3, 0, 1, 2, 4)
    turns = tables.turns if sign > 0 else tables.turns.transpose(1, 2)
    turned = torch.bmm(rows.reshape(len(rows), -1, x.shape[-1]), turns)
    out.copy_(turned.view(rows.shape).permute(1, 2, 3, 0, 4))
    return None


class _PlainAttention(torch.autograd.Function):
    """qkv (B, L, 3, H, head) -> (B, L, H, head) by two matmuls and a softmax, rotation included."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, tables: Tables, valid: Tensor | None) -> Tensor:
        parts = qkv.permute(2, 0, 3, 1, 4)
        heads = torch.empty(parts.shape, dtype=qkv.dtype)
        _rotate(parts[:2], heads[:2], tables, 1)
        heads[2].copy_(parts[2])
        q, k, v = heads
        scores = q @ k.transpose(-1, -2)
        if valid is not None:
            scores.masked_fill_(~over_heads(valid), torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1)
        ctx.save_for_backward(heads, weights)
        ctx.tables = tables
        return (weights @ v).transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        heads, weights = ctx.saved_tensors
        q, k, v = heads
        grad = grads[0].transpose(1, 2).contiguous()
        out = torch.empty(grads[0].shape[0], grads[0].shape[1], 3, *grads[0].shape[2:], dtype=q.dtype)
        parts = out.permute(2, 0, 3, 1, 4)
        parts[2].copy_(weights.transpose(-1, -2) @ grad)
        scores = torch._softmax_backward_data(grad @ v.transpose(-1, -2), weights, -1, q.dtype)  # pyright: ignore
        turned = torch.empty_like(heads[:2])
        torch.matmul(scores, k, out=turned[0])
        torch.matmul(scores.transpose(-1, -2), q, out=turned[1])
        _rotate(turned, parts[:2], ctx.tables, -1)
        return out, None, None


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries or keys (B, H, L, head) -> the same, the halves of each head rotated by the angles of its position."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def over_heads(valid: Tensor) -> Tensor:
    """`valid` (B, L), equal for all queries, or (B or 1, Q, L) -> a mask for scores (B, H, Q, L)."""
    return valid[:, None, None, :] if valid.ndim == 2 else valid[:, None]


def attention(qkv: Tensor, tables: Tables, valid: Tensor | None) -> Tensor:
    """Attention with rotary positions and gradients: qkv (B, L, 3, H, head) -> (B, L, H, head).

    `valid` (B, L) masks padded keys, `valid` (B or 1, L, L) keys of single queries. On a CPU two matrix products and a
    softmax are faster than the fused kernel in both dtypes, and are used up to `PLAIN_SCORES` scores. Passes without
    gradients (`unmask.model.inference`) use the fused kernel, whose memory grows linearly with the length.
    """
    batch, length, _, heads, _ = qkv.shape
    plain = batch * heads * length**2 <= PLAIN_SCORES and qkv.device.type == "cpu"
    if plain and not torch.compiler.is_compiling():
        return _PlainAttention.apply(qkv, tables, valid)  # pyright: ignore[reportReturnType]
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    mask = None if valid is None else over_heads(valid)
    q, k = rotated(q, *tables[:2]), rotated(k, *tables[:2])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0).transpose(1, 2)


_MIX = (-0x61C88647, 0x7FEB352D)  # odd multipliers of 32-bit words


def site_keys(rows: Tensor, sites: int, positions: Tensor) -> Tensor:
    """Keys of rows (2, B) and positions (L,) or (B, L) -> keys of dropout, (sites, 2, B, L) int32.

    A site is a branch of the network that has dropout. The second key of a pair is odd.
    """
    each = torch.arange(sites, device=rows.device)[:, None, None]
    first, second = (fold(fold(rows[:, None, :, None], each), positions) - 2**31).int()
    return torch.stack([first, second | 1], 1)


def _lanes(keys: Tensor, width: int) -> Tensor:
    """Keys (2, B, L) int32 -> (B, L, width) int16, uniform: the halves of a hash of keys and channel.

    A multiply-shift hash in place: seven passes over half a word an element, as fast on a CPU as torch's generator.
    The arithmetic shift is added and not xored, since xor would clear the sign.
    """
    channels = torch.arange((width + 1) // 2, dtype=torch.int32, device=keys.device)
    # without this `or` torch.compile makes the product an index of int32, which may not overflow in C++
    channels = channels.bitwise_or(0) * _MIX[0]
    words = keys[0, ..., None] ^ channels
    words *= keys[1, ..., None]
    words += words >> 16
    words *= _MIX[1]
    words += words >> 16
    return words.view(torch.int16)[..., :width]


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts of tensors along their first dimension, so small that a CPU does several operations within its caches."""
    first = tensors[0]
    if first.device.type != "cpu" or torch.compiler.is_compiling():
        return iter([tensors])
    size = max(1, _CACHED * len(first) // max(1, first.numel()))
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)


def _add_kept(residual: Tensor, kept: Tensor, keep: Tensor, scale: float, out: Tensor) -> None:
    """residual + scale * kept * keep, into `out`; one type at a time, since operations on mixed types are slow."""
    if kept.dtype == out.dtype == keep.dtype:
        torch.addcmul(residual, kept, keep, value=scale, out=out)
    else:
        torch.add(residual, (kept * keep).to(out.dtype), alpha=scale, out=out)


class _Join(torch.autograd.Function):
    """residual + gate * branch * keep / (1 - p), `keep` made of 16 random bits an element."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, branch: Tensor, gate: Tensor | None, p: float, keys: Tensor) -> Tensor:
        dropped = round(p * _LANE)
        ctx.scale = _LANE / (_LANE - dropped)
        keep, out = torch.empty_like(branch), torch.empty_like(residual)
        gated = branch if gate is None else branch * gate
        for kept, some, words, to, total in _pieces(gated, keep, keys.transpose(0, 1), residual, out):
            torch.ge(_lanes(words.transpose(0, 1), branch.shape[-1]), dropped - _LANE // 2, out=some)
            _add_kept(to, kept, some, ctx.scale, total)
        ctx.save_for_backward(keep, gate, None if gate is None else branch)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        (grad,) = grads
        keep, gate, branch = ctx.saved_tensors
        if gate is None:
            kept = torch.empty_like(keep)
            for some, part, out in _pieces(keep, grad, kept):
                torch.mul(part.to(keep.dtype), some, out=out).mul_(ctx.scale)
            return grad, kept, None, None, None
        kept = grad.to(keep.dtype) * keep
        to_gate = (kept * branch).sum_to_size(gate.shape).mul_(ctx.scale)
        return grad, kept.mul_(gate * ctx.scale), to_gate.to(gate.dtype), None, None


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x weight' + bias, (N, I) -> (N, O); in bfloat16 without the copy of the bias that `addmm` begins with."""
    if x.dtype == torch.bfloat16 and torch.backends.mkldnn.is_available():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # pyright: ignore
    return torch.addmm(bias, x, weight.t())


class _Mlp(torch.autograd.Function):
    """down(gelu(up(x))), (N, D) -> (N, D), all in one type."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor, gelu: str) -> Tensor:
        wide = _affine(x, up, up_bias)
        active = torch.ops.aten.gelu(wide, approximate=gelu)
        ctx.save_for_backward(x, wide, active, up, down)
        ctx.gelu = gelu
        return _affine(active, down, down_bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, wide, active, up, down = ctx.saved_tensors
        (grad,) = grads
        slope = grad @ down
        torch.ops.aten.gelu_backward.grad_input(slope, wide, approximate=ctx.gelu, grad_input=slope)
        return slope @ up, slope.t() @ x, slope.sum(0), grad.t() @ active, grad.sum(0), None


def mlp(x: Tensor, up: nn.Linear, down: nn.Linear, gelu: str) -> Tensor:
    """down(gelu(up(x))) with gradients, (..., D) -> (..., D); `gelu` is "none" for the exact one, or "tanh"."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return down(F.gelu(up(x), approximate=gelu))
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    weights = [weight.to(dtype) for weight in (up.weight, up.bias, down.weight, down.bias)]
    out = _Mlp.apply(x.to(dtype).flatten(0, -2), *weights, gelu)
    assert isinstance(out, Tensor)
    return out.view(x.shape)


def pick(x: Tensor, picked: Tensor, shape: torch.Size) -> Tensor:
    """Values of the positions of a batch (B or 1, L or 1, D), and flat indices (N,) into (B, L) -> (N or 1, D)."""
    if x.shape[:2] == shape:
        return x.flatten(0, 1).index_select(0, picked)
    return x[:, 0] if len(x) == 1 else x[:, 0].index_select(0, picked // shape[1])


def add_branch(residual: Tensor, branch: Tensor, gate: Tensor | None, p: float, keys: Tensor | None) -> Tensor:
    """residual + dropout(gate * branch): (B, L, D) or (N, D) each; `gate` (B or 1, 1, D), (N or 1, D), or None for 1.

    Dropped elements are a function of the site's `keys` (2, B, L) or (2, N), see `site_keys`, and the channel; without
    keys there are none. `p` is rounded to a multiple of 2**-16, and the scale is 1 / (1 - p) of the rounded p.
    """
    if keys is not None and round(p * _LANE):
        return _Join.apply(residual, branch, gate, p, keys)  # pyright: ignore[reportReturnType]
    return residual + branch if gate is None else torch.addcmul(residual, branch, gate.to(branch.dtype))
