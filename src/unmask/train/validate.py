"""The bound on packed rows: what training watches, and what `eval` reports."""

__all__ = ["validate"]

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from unmask.data.packed import Packed
from unmask.denoiser import Denoiser
from unmask.noise import generator
from unmask.objective.bound import Bound, Rows, bound
from unmask.objective.estimators import draw
from unmask.process import MaskedDiffusion

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
        found = draw("count", process, maskable.cpu(), chance)
        return found.hide.to(device), found.weight.to(device), found.time.to(device)

    size = data.bytes if count == len(data) else None
    return bound(denoiser, _batches(data, count, batch, device), masking, draws=draws, text_bytes=size)


def _batches(data: Packed, count: int, size: int, device: torch.device) -> Iterator[Rows]:
    for at in range(0, count, size):
        part = data.batch(np.arange(at, min(at + size, count)))
        yield Rows(*(torch.from_numpy(x).to(device) for x in part))
