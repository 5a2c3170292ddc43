"""How well a model knows a text: the bound on its negative log-likelihood, with the error of the estimate."""

__all__ = ["Bound", "Draws", "Rows", "bound", "validate"]

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from unmask.data.packed import Packed
from unmask.denoiser import Denoiser
from unmask.noise import generator
from unmask.objective.masked import draw as draw_masking
from unmask.objective.masked import nelbo
from unmask.process import MaskedDiffusion


class Rows(NamedTuple):
    """Some sequences: ids (B, L) int64; maskable and valid (B, L) bool."""

    ids: Tensor
    maskable: Tensor
    valid: Tensor


class Draws(Protocol):
    """What to hide in some rows: maskable (B, L) -> hide (B, L), weight (B,), time (B,)."""

    def __call__(self, maskable: Tensor, turn: int) -> tuple[Tensor, Tensor, Tensor]: ...


@dataclass(frozen=True, slots=True)
class Bound:
    """An upper bound on -log p, as an estimate over `sequences` with `draws` random maskings each."""

    nats_per_token: float
    stderr: float | None
    """Standard error of `nats_per_token`, over sequences (None for a single one): it holds the spread of the texts and
    that of the draws."""
    tokens: int
    sequences: int
    draws: int
    bits_per_byte: float | None = None

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.nats_per_token, 700.0))

    @classmethod
    def of(cls, nats: Tensor, tokens: Tensor, draws: int, text_bytes: int | None = None) -> "Bound":
        """From the bound (N,) and the number of tokens (N,) of each sequence: the ratio of sums and its error."""
        nats, tokens = nats.double(), tokens.double()
        total = float(tokens.sum())
        rate = float(nats.sum()) / total
        count = len(nats)
        spread = float((nats - rate * tokens).square().sum()) * count / max(count - 1, 1)
        stderr = math.sqrt(spread) / total if count > 1 else None
        bits = None if not text_bytes else float(nats.sum()) / math.log(2) / text_bytes
        return cls(rate, stderr, int(total), count, draws, bits)


@torch.no_grad()
def bound(
    denoiser: Denoiser, rows: Iterable[Rows], draw: Draws, *, draws: int = 1, text_bytes: int | None = None
) -> Bound:
    """The bound on `rows`, each sequence masked `draws` times; `text_bytes` (of all rows) adds bits per byte.

    The caller owns the state of the denoiser (eval mode, autocast) and the randomness.
    """
    nats: list[Tensor] = []
    tokens: list[Tensor] = []
    for part in rows:
        valid = None if bool(part.valid.all()) else part.valid
        total = torch.zeros(len(part.ids), dtype=torch.float64)
        for turn in range(draws):
            hide, weight, time = draw(part.maskable, turn)
            given = time if denoiser.time_conditioned else None
            total += nelbo(denoiser, part.ids, hide, weight, valid=valid, time=given).nats.double().cpu()
        nats.append(total / draws)
        tokens.append(part.maskable.sum(-1).cpu())
    return Bound.of(torch.cat(nats), torch.cat(tokens), draws, text_bytes)


_STREAM = 3  # of the seed: validation maskings never meet those of training


def validate(
    denoiser: Denoiser,
    process: MaskedDiffusion,
    data: Packed,
    device: torch.device,
    *,
    limit: int | None = None,
    draws: int = 1,
    batch: int = 32,
    seed: int = 0,
) -> Bound:
    """The bound on the rows of `data`, all or the first `limit`, each masked `draws` times; the same for the same seed.

    Bits per byte are given where all rows are measured. The caller has put the denoiser in eval mode.
    """
    count = len(data) if limit is None else min(limit, len(data))
    chance = generator(seed, _STREAM)

    def masking(maskable: Tensor, turn: int) -> tuple[Tensor, Tensor, Tensor]:
        found = draw_masking("count", process, maskable.cpu(), chance)
        return found.hide.to(device), found.weight.to(device), found.time.to(device)

    size = data.bytes if count == len(data) else None
    return bound(denoiser, _batches(data, count, batch, device), masking, draws=draws, text_bytes=size)


def _batches(data: Packed, count: int, size: int, device: torch.device) -> Iterator[Rows]:
    for at in range(0, count, size):
        part = data.batch(range(at, min(at + size, count)))
        yield Rows(*(torch.from_numpy(x).to(device) for x in part))
