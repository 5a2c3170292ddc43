"""Log-likelihoods at chosen positions, with the vocabulary head run a slice at a time.

Only the picked positions reach the head. When even those make more than `BUDGET` logits they are cut into slices whose
logits are thrown away and computed again in the backward pass: the peak stays the same however long the batch is.
"""

__all__ = ["BUDGET", "log_likelihoods"]

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from unmask.denoiser import Denoiser

BUDGET = 2**24  # logits alive at a time; 64 MiB in float32


def log_likelihoods(denoiser: Denoiser, hidden: Tensor, targets: Tensor, budget: int = BUDGET) -> Tensor:
    """log p(target | x_t) for picked positions: (N, D) and (N,) int64 -> (N,) float32, MASK having probability zero."""

    def at(rows: Tensor, wanted: Tensor) -> Tensor:
        logits = denoiser.logits(rows).float()
        logits = logits.index_fill(-1, torch.tensor(denoiser.mask_id, device=logits.device), -torch.inf)
        return -F.cross_entropy(logits, wanted, reduction="none")

    size = max(1, budget // denoiser.vocab_size)
    if len(targets) <= size:
        return at(hidden, targets)
    parts = zip(hidden.split(size), targets.split(size), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(at, rows, wanted, use_reentrant=False) for rows, wanted in parts])
    return torch.cat([at(rows, wanted) for rows, wanted in parts])
