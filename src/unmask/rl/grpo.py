"""Rewards of decoded rows, and group-relative policy optimisation (GRPO) over whole decodings.

arXiv:2512.09106, eq. 3.1 (reward) and 3.3 (objective); GRPO is from arXiv:2402.03300. There is no critic and no KL
term. Each pass has one ratio of likelihoods, the product over its positions, so the clip is wide; all passes of a
rollout have the same advantage. Shapes: R rows, P problems, G rollouts of each, K alphas, N passes.
"""

__all__ = ["Advantages", "Update", "advantages", "objective", "rewards", "steered"]

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor


def rewards(
    scores: Tensor, passes: Tensor, length: Tensor, alpha: Tensor, form: Literal["product", "sum", "log"] = "product"
) -> Tensor:
    """Scores in [0, 1], passes, lengths L (positions to fill) and alphas, (R,) each -> rewards (R,).

    product: score * ((L - passes + 1) / L) ** alpha, which is 1 for a right answer in one pass; at alpha 0 the score.
    sum: score - alpha * passes / L, the paper's ablation; it also rewards fast wrong answers.
    log: score * passes ** -alpha, in which each halving of the passes is worth the same.
    """
    if form == "log":
        return scores * passes.clamp(min=1) ** -alpha
    if form == "sum":
        return scores - alpha * passes / length
    return scores * ((length - passes.clamp(max=length) + 1) / length) ** alpha


_DECAY = 0.95
_LEAST = 1e-3


class Advantages(NamedTuple):
    """The advantages of rollouts over the others of their problem."""

    values: Tensor  # (P, G)
    variance: Tensor  # (C,) running variance within groups, nan for a class that was never drawn
    silent: float  # share of groups whose rewards are all equal: they have no gradient
    differ: Tensor  # (P,) bool: whether the rewards of a group are not all equal


class Update(NamedTuple):
    """The loss of an update, and the clipped share."""

    loss: Tensor
    clipped: Tensor  # share of passes whose ratio was clipped


def advantages(
    rewards: Tensor,
    which: Tensor,
    variance: Tensor,
    scale: Literal["alpha", "none", "std"] = "alpha",
) -> Advantages:
    """Rewards (P, G) -> advantages: centred by group, and divided by a scale.

    `which` (P,) is the class of each problem, its alpha or its pair and alpha, `variance` (C,) the running variance of
    each class. With the scale "std", that of GRPO, a group with right answers only is scaled up to a comparison of
    speed, even at a small alpha.
    """
    centred = rewards - rewards.mean(-1, keepdim=True)
    within = centred.square().mean(-1)
    differ = within >= 1e-12
    silent = float((~differ).float().mean())
    sums = variance.new_zeros(2, len(variance)).index_add(1, which, torch.stack([within, torch.ones_like(within)]))
    now = sums[0] / sums[1]  # nan for a class that was not drawn
    mixed = torch.where(variance.isnan(), now, _DECAY * variance + (1 - _DECAY) * now)
    variance = torch.where(now.isnan(), variance, mixed)
    if scale == "none":
        return Advantages(centred, variance, silent, differ)
    deviation = within.sqrt() if scale == "std" else variance[which].sqrt()
    return Advantages(centred / (deviation[:, None] + _LEAST), variance, silent, differ)


def objective(new: Tensor, old: Tensor, advantage: Tensor, weight: Tensor, clip: float) -> Update:
    """Log-probabilities and advantages (N,) -> the clipped objective to minimise; `weight` (N,) sums to 1."""
    ratio = (new - old).exp()
    bounded = ratio.clamp(1 - clip, 1 + clip)
    gain = torch.minimum(ratio * advantage, bounded * advantage)
    clipped = ((ratio * advantage) > (bounded * advantage)).float().mean()
    return Update(-(gain * weight).sum(), clipped)


def steered(log_prob: Tensor, own: int, experts: int) -> Tensor:
    """Log-probability of an expert's pass under the policy -> under the mixture of the group's rollouts.

    The group has `own` rollouts of the policy and `experts` of the expert: log((own pi + experts) / (own + experts)).
    An expert's action has probability 1 under the expert, so that the ratio of two of these is at most
    (own + experts) / experts, whatever the policy's probability of the action (appendix F).
    """
    total = own + experts
    return torch.logaddexp(log_prob + math.log(own / total), torch.full_like(log_prob, math.log(experts / total)))
