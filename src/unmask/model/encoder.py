"""An encoder as BERT (arXiv:1810.04805) and RoBERTa (arXiv:1907.11692): masked tokens -> hidden states -> logits.

The published models saw a start token before each text and an end token after it. The network adds both itself, so that
they are always visible, are no part of a canvas and are never predicted. Post-norm blocks, learned positions, a head
with a layer of its own before the embedding. Shapes: B batch, L positions, D width, H heads, V vocabulary.
"""

__all__ = ["Encoder", "framed"]

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.batch import padded_size
from unmask.errors import RequestError
from unmask.model.layers import over_heads
from unmask.model.products import PackedWeights, Products, lower, plain_product
from unmask.model.settings import EncoderSettings


def framed(tokens: Tensor, valid: Tensor | None, start: int, end: int) -> tuple[Tensor, Tensor]:
    """Tokens (B, L) -> the same between `start` and `end`, padded to a multiple of 16 (B, M), and what is valid of it.

    The end token follows the last valid token of each row; token i is at position i + 1.
    """
    rows, length = tokens.shape
    total = padded_size(length + 2)
    ids = F.pad(tokens, (1, total - length - 1), value=end)
    ids[:, 0] = start
    if valid is None:
        seen = torch.arange(total, device=tokens.device).expand(rows, total) < length + 2
        return ids, seen
    places = torch.arange(1, length + 1, device=tokens.device)
    last = (places * valid).amax(-1, keepdim=True) + 1
    seen = F.pad(valid, (1, total - length - 1), value=False).scatter(1, last, True)
    seen[:, 0] = True
    return ids.scatter(1, last, end), seen


class _Block(nn.Module):
    """Attention, then the feed-forward; the output of each is added to its input and normalised."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        width = settings.width
        self.heads = settings.heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, settings.inner), nn.Linear(settings.inner, width)
        self.norm_1, self.norm_2 = (nn.LayerNorm(width, settings.eps) for _ in range(2))

    def forward(self, x: Tensor, seen: Tensor, products: Products) -> Tensor:
        parts = (products(layer, x) for layer in (self.query, self.key, self.value))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=over_heads(seen))
        x = self.norm_1(x + products(self.out, heads.transpose(1, 2).flatten(2)))
        return self.norm_2(x + products(self.down, products(self.up, x, "none")))


class Encoder(nn.Module):
    """A Trainable denoiser (see `unmask.denoiser`)."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        self.settings = settings
        self.dropout_keys: Tensor | None = None  # it has no dropout
        self.packed: PackedWeights | None = None  # made by `lowered`
        self.embedding = nn.Embedding(settings.vocab_size, settings.width)
        self.places = nn.Embedding(settings.positions, settings.width)
        self.types = nn.Embedding(settings.types, settings.width) if settings.types else None
        self.norm = nn.LayerNorm(settings.width, settings.eps)
        self.blocks = nn.ModuleList(_Block(settings) for _ in range(settings.blocks))
        self.transform = nn.Linear(settings.width, settings.width)
        self.head_norm = nn.LayerNorm(settings.width, settings.eps)
        self.head_bias = nn.Parameter(torch.zeros(settings.vocab_size))
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Embedding):
                nn.init.normal_(layer.weight, std=0.02)  # as in the published programs

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
    def frame(self) -> tuple[int, int]:
        """The ids of the start and the end token, which are around every text and never in one."""
        return self.settings.start_id, self.settings.end_id

    def hidden(
        self,
        tokens: Tensor,
        *,
        valid: Tensor | None = None,
        time: Tensor | None = None,
        positions: Tensor | None = None,
        prompt: Tensor | None = None,
    ) -> Tensor:
        """See `unmask.denoiser.Denoiser`. Raises RequestError for tokens after the last learned position."""
        length, last = tokens.shape[1], self.max_length
        if length > last and (valid is None or bool(valid[:, last:].any())):
            raise RequestError(f"{length} tokens are too many for {last} learned positions; cut the sequence.")
        ids, seen = framed(tokens, valid, *self.frame)
        at = torch.arange(ids.shape[1], device=tokens.device)
        if positions is not None:
            at = F.pad(positions + 1, (1, ids.shape[1] - length - 1))
        x = self.embedding(ids) + self.places((at + self.settings.first).clamp(max=self.settings.positions - 1))
        x = self.norm(x if self.types is None else x + self.types.weight[0])
        low = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        for block in self.blocks:
            x = block(x, seen, Products(self.packed, low))
        return x[:, 1 : length + 1]

    def logits(self, hidden: Tensor) -> Tensor:
        """In training the head follows autocast; else it runs in float32, as that of the DiT."""
        if self.training:
            hidden = self.head_norm(F.gelu(self.transform(hidden)))
            return F.linear(hidden, self.embedding.weight, self.head_bias)
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = self.head_norm(Products(self.packed, torch.float32)(self.transform, hidden.float(), "none"))
            logits = plain_product(hidden.flatten(0, -2), self.embedding.weight, self.head_bias)
            return logits.unflatten(0, hidden.shape[:-1])

    def lowered(self, dtype: torch.dtype) -> Self:
        """Convert the matrices of the blocks to `dtype`, in place, so that autocast has nothing to do -> itself.

        On a processor passes without gradients use packed copies of them, where there is memory.
        """
        self.packed = lower(self.blocks, dtype)
        return self

    def forward(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        """All logits (B, L, V) at once: for tests; the library itself calls the two halves."""
        return self.logits(self.hidden(tokens, valid=valid))
