"""Log-likelihoods at chosen positions, with the vocabulary head run a slice at a time.

Only the picked positions reach the head. When even those make more than `BUDGET` logits they are cut into slices whose
logits are thrown away and computed again in the backward pass: the peak stays the same however long the batch is. In
a slice one buffer of the size of the logits is kept, the exponentials, and the gradient is written over it.
"""

__all__ = ["BUDGET", "log_likelihoods"]

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from unmask.denoiser import Denoiser

BUDGET = 2**23  # logits alive at a time; 32 MiB in float32


class _LogLikelihood(torch.autograd.Function):
    """log softmax(logits)[target], MASK left out of the softmax: (N, V), (N,) -> (N,) float32."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, mask_id: int) -> Tensor:
        sides = [
            part.amax(-1, keepdim=True) for part in (logits[:, :mask_id], logits[:, mask_id + 1 :]) if part.shape[1]
        ]
        top = torch.stack(sides).amax(0).float()
        weights = (logits - top).exp_() if logits.dtype == torch.float32 else (logits.float() - top).exp_()
        weights[:, mask_id] = 0
        total = weights.sum(-1, keepdim=True)
        ctx.save_for_backward(weights, total, targets)
        ctx.dtype = logits.dtype
        picked = logits.gather(-1, targets[:, None]).float() - top
        return (picked - total.log()).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        weights, total, targets = ctx.saved_tensors
        (grad,) = grads
        slope = weights.mul_(-grad[:, None] / total)
        slope.scatter_add_(-1, targets[:, None], grad[:, None].to(slope.dtype))
        return slope.to(ctx.dtype), None, None


def log_likelihoods(denoiser: Denoiser, hidden: Tensor, targets: Tensor, budget: int = BUDGET) -> Tensor:
    """log p(target | x_t) for picked positions: (N, D) and (N,) int64 -> (N,) float32, MASK having probability zero.

    A target is never MASK. Differentiable once: the exponentials are overwritten by the gradient.
    """

    def at(rows: Tensor, wanted: Tensor) -> Tensor:
        found = _LogLikelihood.apply(denoiser.logits(rows), wanted, denoiser.mask_id)
        assert isinstance(found, Tensor)
        return found

    size = max(1, budget // denoiser.vocab_size)
    if len(targets) <= size:
        return at(hidden, targets)
    parts = zip(hidden.split(size), targets.split(size), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(at, rows, wanted, use_reentrant=False) for rows, wanted in parts])
    return torch.cat([at(rows, wanted) for rows, wanted in parts])
