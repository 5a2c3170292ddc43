"""A transformer as in Llama and Qwen, bidirectional: partly masked tokens -> hidden states -> logits.

Pre-norm blocks of RMSNorm, grouped-query attention with rotary positions, and a SwiGLU feed-forward. Numerics follow
the published programs: RMSNorm is computed in float32, cast back and then scaled; the residual stream has the format
of the embedding. Shapes: B batch, L positions, D width, H heads of queries, K heads of keys, V vocabulary.
"""

__all__ = ["Transformer"]

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.batch import pad_rows
from unmask.model.inference import Kept
from unmask.model.layers import Rotary, Tables, over_heads, pick, rotated
from unmask.model.network import Network
from unmask.model.products import PackedWeights, Products, lower, plain_product
from unmask.model.settings import ExpertSettings, RotaryScaling, TransformerSettings

_HEAD_ROWS = 8192  # rows of the head that are converted to float32 at a time


class _Norm(nn.Module):
    """RMSNorm (arXiv:1910.07467): in float32, cast back to the format of the input, then scaled."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


class _Pass(NamedTuple):
    """What the blocks of a pass share."""

    tables: Tables
    seen: Tensor | None  # keys that queries attend to
    kept: Kept | None
    products: Products


class _FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, products: Products) -> Tensor:
        return products(self.down, F.silu(products(self.gate, x)) * products(self.up, x))


class _Experts(nn.Module):
    """A mixture of feed-forwards: those that a router chooses for each position (LLaDA-MoE and LLaDA2).

    A product of an expert has as many rows as positions chose it, rounded up to a multiple of 16.
    """

    def __init__(self, settings: TransformerSettings, experts: ExpertSettings) -> None:
        super().__init__()
        self.settings = experts
        self.router = nn.Linear(settings.width, experts.count, bias=False)
        self.bias = nn.Parameter(torch.zeros(experts.count)) if experts.bias else None
        self.members = nn.ModuleList(_FeedForward(settings.width, experts.inner) for _ in range(experts.count))
        self.shared = _FeedForward(settings.width, experts.shared) if experts.shared else None

    def chosen(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (N, D) -> the weights and the numbers of the chosen experts of each, (N, k), in float32."""
        facts = self.settings
        with torch.autocast(x.device.type, enabled=False):
            logits = plain_product(x.float(), self.router.weight.float())
        bias = 0.0 if self.bias is None else self.bias.float()
        if facts.rule == "softmax":
            weights, numbers = (logits.softmax(-1) + bias).topk(facts.chosen, -1)
            return weights * facts.scale, numbers
        scores = logits.sigmoid()
        grouped = (scores + bias).unflatten(-1, (facts.groups, -1))
        best = grouped.topk(2, -1).values.sum(-1).topk(facts.groups_chosen, -1).indices
        closed = torch.ones_like(grouped[..., 0], dtype=torch.bool).scatter(-1, best, False)
        numbers = grouped.masked_fill(closed[..., None], -torch.inf).flatten(-2).topk(facts.chosen, -1).indices
        weights = scores.gather(-1, numbers)
        return weights / (weights.sum(-1, keepdim=True) + 1e-20) * facts.scale, numbers

    def forward(self, x: Tensor, products: Products) -> Tensor:
        flat = x.flatten(0, -2)
        weights, numbers = self.chosen(flat)
        out = torch.zeros_like(flat) if self.shared is None else self.shared(flat, products)
        plain = products._replace(packed=None)  # MKL would pack for each number of rows
        for number in numbers.unique().tolist():
            rows, places = (numbers == number).nonzero(as_tuple=True)
            part = self.members[number](pad_rows(flat[rows]), plain)[: len(rows)]
            out = out.index_add(0, rows, (part * weights[rows, places, None].to(flat.dtype)).to(out.dtype))
        return out.view_as(x)


class _Block(nn.Module):
    """Attention, then the feed-forward; the output of each is added to the residual stream."""

    def __init__(self, settings: TransformerSettings, number: int) -> None:
        super().__init__()
        width, head, bias = settings.width, settings.head, settings.qkv_bias
        self.head = head
        self.norm_1, self.norm_2 = _Norm(width, settings.eps), _Norm(width, settings.eps)
        self.query = nn.Linear(width, settings.heads * head, bias=bias)
        self.key = nn.Linear(width, settings.kv_heads * head, bias=bias)
        self.value = nn.Linear(width, settings.kv_heads * head, bias=bias)
        self.out = nn.Linear(settings.heads * head, width, bias=False)
        self.query_norm = _Norm(head, settings.eps) if settings.qk_norm else nn.Identity()
        self.key_norm = _Norm(head, settings.eps) if settings.qk_norm else nn.Identity()
        experts = settings.experts
        if experts is None or number < experts.dense:
            self.feed: nn.Module = _FeedForward(width, settings.inner)
        else:
            self.feed = _Experts(settings, experts)

    def attend(self, x: Tensor, shared: _Pass) -> Tensor:
        """Normalised input (B, A, D) -> the heads side by side (B, A, H * head)."""
        parts = (shared.products(layer, x) for layer in (self.query, self.key, self.value))
        q, k, v = (part.unflatten(-1, (-1, self.head)).transpose(1, 2) for part in parts)
        q, k = self._rotated(self.query_norm(q), shared.tables), self._rotated(self.key_norm(k), shared.tables)
        k, v = k.to(v.dtype), v  # products may be in a lower format than the norms
        if shared.kept is not None:
            both = shared.kept.renew(torch.stack([k, v], 2).transpose(1, 3))  # (B, L, 2, K, head)
            k, v = (part.transpose(1, 2) for part in both.unbind(2))
        mask = None if shared.seen is None else over_heads(shared.seen)
        out = F.scaled_dot_product_attention(q.to(v.dtype), k, v, attn_mask=mask, enable_gqa=True)
        return out.transpose(1, 2).flatten(2)

    def _rotated(self, x: Tensor, tables: Tables) -> Tensor:
        size = 2 * tables.cos.shape[-1]
        turned = rotated(x[..., :size].to(tables.cos.dtype), *tables[:2]).to(x.dtype)
        return turned if size == self.head else torch.cat([turned, x[..., size:]], -1)

    def forward(self, x: Tensor, shared: _Pass, picked: Tensor | None) -> Tensor:
        """With `picked`, flat indices (N,) into (B, A), all that follows attention runs at these positions: (N, D)."""
        heads = self.attend(self.norm_1(x), shared)
        if picked is not None:
            shape = x.shape[:2]
            x, heads = pick(x, picked, shape), pick(heads, picked, shape)
        x = x + shared.products(self.out, heads)
        return x + self.feed(self.norm_2(x), shared.products)


class Transformer(Network):
    """A Trainable denoiser (see `unmask.denoiser`)."""

    settings: TransformerSettings

    def __init__(self, settings: TransformerSettings) -> None:
        super().__init__(settings)
        self.embedding = nn.Embedding(settings.vocab_size, settings.width)
        self.blocks = nn.ModuleList(_Block(settings, number) for number in range(settings.blocks))
        self.norm = _Norm(settings.width, settings.eps)
        self.head = nn.Linear(settings.width, settings.vocab_size, bias=False)
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Embedding):
                nn.init.normal_(layer.weight, std=0.02)  # as in the published programs
        if settings.tied:
            self.head.weight = self.embedding.weight
        turned = settings.rotary or settings.head
        self.rotary = Rotary(turned, _frequencies(turned, settings.base, settings.scaling))
        self.packed: PackedWeights | None = None  # made by `lowered`

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
        low = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        dtype = torch.float32 if self.settings.rotation == "float32" else low
        if kept is None or isinstance(at, int):
            tables = self.rotary.tables(at, x.device, dtype)
        else:
            tables = self.rotary.some(at, kept.length, x.device, dtype)
        shared, last = _Pass(tables, seen, kept, Products(self.packed, low)), len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            x = block(x, shared, picked if number == last else None)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """In training the head follows autocast; else it runs in float32: bfloat16 logits are off by up to 1/16.

        One that is stored in a lower format is converted a part at a time, so that no second copy is in memory.
        """
        if self.training:
            return self.head(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            if self.head.weight.dtype == torch.float32:
                return Products(self.packed, torch.float32)(self.head, hidden.float())
            flat = hidden.float().flatten(0, -2)
            parts = [plain_product(flat, part) for part in self.head.weight.split(_HEAD_ROWS)]
            return torch.cat(parts, -1).unflatten(0, hidden.shape[:-1])

    def lowered(self, dtype: torch.dtype) -> Self:
        """Convert the matrices of the blocks to `dtype`, in place, so that autocast has nothing to do -> itself.

        On a processor passes without gradients use packed copies of them, where there is memory.
        """
        self.packed = lower(self.blocks, dtype)
        return self


def _frequencies(head: int, base: float, scaling: RotaryScaling | None) -> tuple[float, ...]:
    """Size of a head, base and scaling -> the angle of one position for each pair of its channels, (head/2,)."""
    plain = [base ** (-channel / head) for channel in range(0, head, 2)]
    if scaling is None:
        return tuple(plain)
    if scaling.rule == "linear":
        return tuple(value / scaling.factor for value in plain)
    if scaling.rule == "llama3":
        shares = [_share(scaling.original * value / (2 * math.pi), scaling.slow, scaling.fast) for value in plain]
    else:
        low, high = (_channel(turns, head, base, scaling.original) for turns in (scaling.fast, scaling.slow))
        first, last = max(math.floor(low), 0), min(math.ceil(high), head - 1)
        shares = [1 - _share(index, first, max(last, first + 1e-3)) for index in range(head // 2)]
    pairs = zip(plain, shares, strict=True)
    return tuple(value * share + value / scaling.factor * (1 - share) for value, share in pairs)


def _share(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high` on, linear between."""
    return min(max((value - low) / (high - low), 0.0), 1.0)


def _channel(turns: float, head: int, base: float, original: int) -> float:
    """The pair of channels (not a whole number) that turns so many times over `original` positions (YaRN, eq. 19)."""
    return head * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))
