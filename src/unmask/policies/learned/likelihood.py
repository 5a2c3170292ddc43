"""The two laws that a policy may draw its sets from, and what a set has for probability under them.

Shapes: N views, A positions.
"""

__all__ = ["bernoulli_entropy", "bernoulli_log_prob", "plackett_luce_log_prob", "plackett_luce_rank"]

import torch
import torch.nn.functional as F
from torch import Tensor


def bernoulli_log_prob(logits: Tensor, eligible: Tensor, reveal: Tensor) -> Tensor:
    """(N,) of a coin for each eligible position, in float32; the empty set has a probability too."""
    each = F.logsigmoid(torch.where(reveal, logits, -logits).float())
    return each.masked_fill(~eligible, 0).sum(-1)


def bernoulli_entropy(logits: Tensor, eligible: Tensor) -> Tensor:
    """(N,) of all coins of a view together, in nats."""
    p = logits.float().sigmoid()
    each = -(p * F.logsigmoid(logits) + (1 - p) * F.logsigmoid(-logits))
    return each.masked_fill(~eligible, 0).sum(-1)


def plackett_luce_rank(logits: Tensor, eligible: Tensor, noise: Tensor | None) -> Tensor:
    """(N, A) int64: 1, 2, ... in the order of choosing, 0 for what was not chosen.

    The first choice is forced, among the eligible positions; then a STOP of logit 0 takes part. `noise` (N, A) uniforms
    race as Gumbel variables, that of STOP drawn below the first choice's, as it was not in that race; without noise the
    order is that of the logits. STOP's own number is the low half of the first position's, which the high half does not
    tell.
    """
    score = logits.masked_fill(~eligible, -torch.inf)
    stop = torch.zeros_like(logits[:, :1])
    if noise is not None:
        scaled = noise * 2.0**26
        low = (scaled[:, :1] - scaled[:, :1].floor()).clamp(1e-12, 1 - 1e-7)
        score = score - (-((scaled.floor() + 0.5) * 2.0**-26).log()).log()
        stop = -((-score.amax(-1, keepdim=True)).exp() - low.log()).log()
    order = score.argsort(dim=-1, descending=True, stable=True)
    rank = (
        torch.empty_like(order).scatter_(-1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order))
        + 1
    )
    return torch.where(eligible & ((score > stop) | (rank == 1)), rank, 0)


def plackett_luce_log_prob(logits: Tensor, eligible: Tensor, rank: Tensor) -> Tensor:
    """(N,) of a ranking: the forced first choice, each further one among what is left and STOP, and STOP at the end."""
    logits = logits.float().masked_fill(~eligible, -torch.inf)
    last = rank.amax(-1, keepdim=True)
    place = torch.where(rank > 0, rank, torch.where(eligible, last + 1, last + 2))
    order = place.argsort(dim=-1, stable=True)
    inside = logits.gather(-1, order)
    rest = inside.flip(-1).logcumsumexp(-1).flip(-1)  # of what is left when each is chosen
    ranked = rank.gather(-1, order)
    first = inside[:, 0] - rest[:, 0]
    later = inside - torch.logaddexp(rest, torch.zeros_like(rest))
    left = torch.where(ranked == 0, inside, -torch.inf).logsumexp(-1)
    end = torch.where(eligible.sum(-1) > rank.gt(0).sum(-1), -F.softplus(left), 0.0)
    return first + torch.where(ranked > 1, later, 0.0).sum(-1) + end
