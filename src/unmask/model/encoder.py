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

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        parts = (layer(x).unflatten(-1, (self.heads, -1)) for layer in (self.query, self.key, self.value))
        q, k, v = (part.transpose(1, 2) for part in parts)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=over_heads(seen))
        x = self.norm_1(x + self.out(heads.transpose(1, 2).flatten(2)))
        return self.norm_2(x + self.down(F.gelu(self.up(x))))


class Encoder(nn.Module):
    """A Trainable denoiser (see `unmask.denoiser`)."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        self.settings = settings
        self.dropout_keys: Tensor | None = None  # it has no dropout
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
        for block in self.blocks:
            x = block(x, seen)
        return x[:, 1 : length + 1]

    def logits(self, hidden: Tensor) -> Tensor:
        """In training the head follows autocast; else it runs in float32, as that of the DiT."""
        with torch.autocast(
            hidden.device.type, enabled=self.training and torch.is_autocast_enabled(hidden.device.type)
        ):
            hidden = hidden if self.training else hidden.float()
            hidden = self.head_norm(F.gelu(self.transform(hidden)))
            return F.linear(hidden, self.embedding.weight, self.head_bias)

    def lowered(self, dtype: torch.dtype) -> Self:
        """Convert the matrices of the blocks to `dtype`, in place, so that autocast has nothing to do -> itself."""
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                module.to(dtype)
        return self

    def forward(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        """All logits (B, L, V) at once: for tests; the library itself calls the two halves."""
        return self.logits(self.hidden(tokens, valid=valid))
