"""The training objective: the negative evidence lower bound of masked diffusion.

    NELBO(x_0) = E_{hide, weight} [ weight * sum over hidden i of -log p(x_0^i | x_t) ]      (MDLM eq. 10, MD4 eq. 5)

Four ways of drawing (hide, weight) have this same expectation; they differ in variance (docs/math.md). Each takes
uniform numbers and returns `hide` (B, L) bool and `weight` (B,). Nothing here draws, and nothing is reduced: the caller
owns the randomness and the denominator. All in nats.
"""

__all__ = ["Nelbo", "hide_bernoulli", "hide_by_count", "hide_by_step", "hide_by_time", "nelbo", "stratified"]

from typing import NamedTuple

import torch
from torch import Tensor

from unmask.denoiser import Denoiser
from unmask.objective.cross_entropy import log_likelihoods
from unmask.process import MaskedDiffusion


class Nelbo(NamedTuple):
    """One draw of the bound, unreduced."""

    nats: Tensor  # (B,) one-sample estimate of the bound of each sequence
    tokens: Tensor  # (B,) how many tokens were hidden in this draw


def stratified(u: Tensor, batch: int, first: int = 0, count: int | None = None) -> Tensor:
    """Low-discrepancy numbers in (0, 1]: a draw `u` in [0, 1) spread over a `batch`; rows first .. first+count."""
    rows = torch.arange(first, first + (batch if count is None else count), dtype=torch.float64, device=u.device)
    return 1 - (u.double() + rows / batch) % 1


def hide_by_time(process: MaskedDiffusion, t: Tensor, u: Tensor, maskable: Tensor) -> tuple[Tensor, Tensor]:
    """Continuous time: P(hidden) = 1 - alpha(t), weight -alpha'(t)/(1 - alpha(t)), t in (0, 1] (MDLM eq. 10)."""
    return process.hide(t, u) & maskable, process.weight(t)


def hide_by_step(process: MaskedDiffusion, r: Tensor, u: Tensor, maskable: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The bound of a model that samples in `steps` steps (MDLM eq. 8): step ceil(r * steps) is drawn by r in (0, 1]."""
    t = (r.double() * steps).ceil().clamp(1, steps) / steps
    return process.hide(t, u) & maskable, steps * process.reveal_probability(t - 1 / steps, t)


def hide_by_count(r: Tensor, u: Tensor, maskable: Tensor) -> tuple[Tensor, Tensor]:
    """A uniform subset of l of the n maskable positions, l = ceil(r n) ~ U{1..n}, weight n/l (any-order form)."""
    n = maskable.sum(-1)
    count = (r.double() * n).ceil().long().clamp(min=1)
    rank = torch.where(maskable, u, 2.0).argsort(-1).argsort(-1)
    return (rank < count[:, None]) & maskable, n / count


def hide_bernoulli(r: Tensor, u: Tensor, maskable: Tensor) -> tuple[Tensor, Tensor]:
    """Each maskable position with P = r, then weight (n + 1)/l for the l that fell; 0 where none did.

    l is uniform on {0..n} whatever the schedule, so l = 0 costs one draw in n + 1; not for time-conditioned models.
    """
    hide = (u < r[:, None]) & maskable
    n, count = maskable.sum(-1), hide.sum(-1)
    return hide, torch.where(count > 0, (n + 1) / count.clamp(min=1), 0.0)


def nelbo(
    denoiser: Denoiser,
    x_0: Tensor,
    hide: Tensor,
    weight: Tensor,
    *,
    valid: Tensor | None = None,
    time: Tensor | None = None,
) -> Nelbo:
    """One draw of the bound: x_0 (B, L) int64, hide (B, L) bool, weight (B,); the rest as in Denoiser.hidden."""
    hidden = denoiser.hidden(torch.where(hide, denoiser.mask_id, x_0), valid=valid, time=time)
    log_p = log_likelihoods(denoiser, hidden[hide], x_0[hide])
    nats = torch.zeros_like(x_0, dtype=log_p.dtype).masked_scatter(hide, -log_p).sum(-1)
    return Nelbo(nats * weight.to(nats.dtype), hide.sum(-1))
