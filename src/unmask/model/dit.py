"""MDLM's backbone: partly masked tokens -> logits, by a bidirectional transformer with rotary positions.

Pre-norm blocks of attention and GELU MLP, weight-only LayerNorm, untied embedding and head. With `modulation="time"`
the branches are shifted, scaled and gated by adaLN-zero from an embedding of sigma(t) (Peebles and Xie,
arXiv:2212.09748), as published; with "constant" by learned constants (what adaLN comes to when a published model is
run without time); with "none", our default, there is no modulation. Shapes: B batch, L positions, D width, H heads,
V vocabulary.
"""

__all__ = ["DiT", "freeze_time"]

import math
from dataclasses import replace
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.errors import RequestError
from unmask.model.inference import Kept, Run, run_blocks
from unmask.model.layers import Rotary, Tables, add_branch, attention, mlp, pick, site_keys
from unmask.model.network import Network
from unmask.model.products import PackedWeights, lower, product
from unmask.model.settings import DiTSettings


class _TimeEmbedding(nn.Module):
    """t (B,) -> (B, cond): 256 sinusoids of sigma = -log(1 - (1 - 1e-3) t), then an MLP (MDLM's constants)."""

    def __init__(self, cond: int, sinusoids: int = 256) -> None:
        super().__init__()
        self.sinusoids = sinusoids
        self.mlp = nn.Sequential(nn.Linear(sinusoids, cond), nn.SiLU(), nn.Linear(cond, cond))

    def forward(self, time: Tensor) -> Tensor:
        sigma = -torch.log1p(-(1 - 1e-3) * time.float())
        half = self.sinusoids // 2
        steps = torch.arange(half, dtype=torch.float32, device=time.device) / half
        angle = sigma[:, None] * torch.exp(-math.log(10_000.0) * steps)
        return F.silu(self.mlp(torch.cat([angle.cos(), angle.sin()], -1)))


class _Norm(nn.Module):
    """LayerNorm with a weight and no bias, always in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), x.shape[-1:], self.weight.float())


def _modulation(settings: DiTSettings, parts: int) -> nn.Linear | nn.Parameter | None:
    """The source of `parts` vectors of the width: adaLN-zero's linear map of the time, constants, or None."""
    match settings.modulation:
        case "time":
            layer = nn.Linear(settings.cond, parts * settings.width)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
            return layer
        case "constant":
            return nn.Parameter(torch.zeros(parts * settings.width))
        case "none":
            return None


def _vectors(source: nn.Linear | nn.Parameter | None, cond: Tensor | None, parts: int) -> tuple[Tensor, ...] | None:
    """A source of modulation -> `parts` vectors, each (B or 1, 1, D); None without modulation."""
    if source is None:
        return None
    flat = source(cond) if isinstance(source, nn.Linear) else source[None]
    return flat[:, None].chunk(parts, -1)


def _shifted(x: Tensor, vectors: tuple[Tensor, ...] | None, first: int) -> Tensor:
    """x * (1 + scale) + shift, which are two of the vectors of a modulation; x where there is none."""
    return x if vectors is None else torch.addcmul(vectors[first], x, 1 + vectors[first + 1])


class _Block(nn.Module):
    """Attention, then MLP; the output of each is added to the residual stream."""

    def __init__(self, settings: DiTSettings) -> None:
        super().__init__()
        width = settings.width
        self.heads, self.dropout = settings.heads, settings.dropout
        self.gelu = "tanh" if settings.gelu == "tanh" else "none"
        self.norm_1, self.norm_2 = _Norm(width), _Norm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for layer in (self.qkv, self.up):  # unit variance in and out: leaves the unigram plateau in half the steps
            nn.init.normal_(layer.weight, std=width**-0.5)
        self.modulation = _modulation(settings, 6)
        if settings.modulation == "none":  # as adaLN-zero: a block starts as the identity
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.down.weight)
            nn.init.zeros_(self.down.bias)

    def attend(self, x: Tensor, tables: Tables, valid: Tensor | None) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        return attention(qkv, tables, valid).reshape(batch, length, width)

    def forward(
        self,
        x: Tensor,
        tables: Tables,
        valid: Tensor | None,
        cond: Tensor | None,
        keys: tuple[Tensor | None, Tensor | None],
        picked: Tensor | None = None,
    ) -> Tensor:
        """With `picked`, flat indices (N,) into (B, L), all that follows attention runs at these positions: (N, D)."""
        six = _vectors(self.modulation, cond, 6)
        heads = self.attend(_shifted(self.norm_1(x), six, 0), tables, valid)
        if picked is not None:
            shape = x.shape[:2]
            x, heads = pick(x, picked, shape), pick(heads, picked, shape)
            six = None if six is None else tuple(pick(vector, picked, shape) for vector in six)
            first, second = (None if site is None else site.flatten(1)[:, picked] for site in keys)
            keys = (first, second)
        x = add_branch(x, self.out(heads), None if six is None else six[2], self.dropout, keys[0])
        branch = mlp(_shifted(self.norm_2(x), six, 3), self.up, self.down, self.gelu)
        return add_branch(x, branch, None if six is None else six[5], self.dropout, keys[1])


class DiT(Network):
    """A Trainable denoiser (see `unmask.denoiser`)."""

    settings: DiTSettings

    def __init__(self, settings: DiTSettings) -> None:
        super().__init__(settings)
        self.embedding = nn.Embedding(settings.vocab_size, settings.width)
        nn.init.normal_(self.embedding.weight)
        # "places" is the name of learned positions in checkpoints
        self.places = nn.Embedding(settings.max_length, settings.width) if settings.absolute else None
        self.time = _TimeEmbedding(settings.cond) if settings.modulation == "time" else None
        self.blocks = nn.ModuleList(_Block(settings) for _ in range(settings.blocks))
        self.norm = _Norm(settings.width)
        self.modulation = _modulation(settings, 2)
        self.head = nn.Linear(settings.width, settings.vocab_size)
        with torch.no_grad():  # so that what attention copies from a position has the logits of its token
            self.head.weight.copy_(self.embedding.weight).mul_(settings.width**-0.5)
        nn.init.zeros_(self.head.bias)
        self.rotary = Rotary(settings.width // settings.heads)
        self.packed: PackedWeights | None = None  # made by `lowered`
        self.maps: list[Tensor] | None = None  # a list while somebody reads the attention; see `decode.turn.watched`

    @property
    def time_conditioned(self) -> bool:
        return self.time is not None

    @property
    def begins(self) -> bool:
        """See `unmask.denoiser.Denoiser`."""
        return True

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
        if self.places is not None:
            x = x + self._learned(self.places, at)
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        if kept is None or isinstance(at, int):
            tables = self.rotary.tables(at, x.device, dtype)
        else:
            tables = self.rotary.some(at, kept.length, x.device, dtype)
        if self.time is not None and time is None:
            raise ValueError("This denoiser is time-conditioned: pass time (B,).")
        cond = None if self.time is None or time is None else self.time(time)
        shape, dropout, last = x.shape[:2], self._dropout(x.shape[1]), len(self.blocks) - 1
        compiling = torch.compiler.is_compiling() and kept is None
        if torch.is_grad_enabled() or self.sharded or compiling or dropout[0][0] is not None:
            for place, (block, keys) in enumerate(zip(self.blocks, dropout, strict=True)):
                x = block(x, tables, seen, cond, keys, picked if place == last else None)
        else:
            six = [_vectors(cast(_Block, block).modulation, cond, 6) for block in self.blocks]
            x = run_blocks(list(self.blocks), six, x, Run(tables, seen, kept, self.packed, dtype, self.maps), picked)
        vectors = _vectors(self.modulation, cond, 2)
        if picked is not None and vectors is not None:
            vectors = tuple(pick(vector, picked, shape) for vector in vectors)
        return _shifted(self.norm(x), vectors, 0)

    def _dropout(self, length: int) -> list[tuple[Tensor | None, Tensor | None]]:
        """The keys of each block's two sites of dropout, None where nothing is dropped."""
        if not self.training or self.dropout_keys is None or not self.settings.dropout:
            return [(None, None)] * len(self.blocks)
        positions = torch.arange(length, device=self.dropout_keys.device)
        sites = site_keys(self.dropout_keys, 2 * len(self.blocks), positions).unbind()
        return list(zip(sites[::2], sites[1::2], strict=True))

    def _fits(self, tokens: Tensor, valid: Tensor | None) -> None:
        """Raise RequestError for tokens after the last learned position."""
        last = self.settings.max_length
        if self.places is None or tokens.shape[1] <= last:
            return
        if valid is None or bool(valid[:, last:].any()):
            raise RequestError(f"{tokens.shape[1]} tokens are too many for {last} learned positions; cut the sequence.")

    @staticmethod
    def _learned(embedding: nn.Embedding, at: Tensor | int) -> Tensor:
        """The learned positions (A, D) or (B, A, D); arbitrary after the last one, where only padding may be."""
        last = embedding.num_embeddings - 1
        if isinstance(at, int):
            return embedding.weight[:at] if at <= last + 1 else F.pad(embedding.weight, (0, 0, 0, at - last - 1))
        return embedding(at.clamp(max=last))

    def logits(self, hidden: Tensor) -> Tensor:
        """In training the head follows autocast; else it runs in float32: bfloat16 logits are off by up to 1/16."""
        if self.training:
            return self.head(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            packed = None if torch.is_grad_enabled() or torch.compiler.is_compiling() else self.packed
            flat = hidden.float().flatten(0, -2)
            return product(self.head, flat, packed).unflatten(0, hidden.shape[:-1])

    def lowered(self, dtype: torch.dtype) -> Self:
        """Convert the matrices of the blocks to `dtype`, in place, so that autocast has nothing to do -> itself.

        On a processor passes without gradients use packed copies of them, where there is memory.
        """
        self.packed = lower(self.blocks, dtype)
        return self


def freeze_time(model: DiT, time: float = 0.0) -> DiT:
    """A network -> the same function at one fixed time, with adaLN replaced by constants (modulation "constant").

    Published MDLM checkpoints without time conditioning have adaLN with the input sigma = 0.
    """
    if model.time is None:
        return model
    device = next(model.parameters()).device
    with torch.device("meta"):
        frozen = DiT(replace(model.settings, modulation="constant"))
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("time.")}
    with torch.no_grad():
        cond = model.time(torch.tensor([time], device=device))
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and name.endswith("modulation"):
                state[name] = module(cond)[0]
                del state[f"{name}.weight"], state[f"{name}.bias"]
    frozen.load_state_dict(state, assign=True)
    return frozen.train(model.training)
