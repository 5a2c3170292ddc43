"""What a finished row is worth: right, and soon (arXiv:2512.09106, eq. 3.1).

Group-relative policy optimisation over whole decodings (arXiv:2512.09106, eq. 3.3; GRPO, arXiv:2402.03300).

No critic, no KL, one ratio of likelihoods for each pass (the product over its positions, so the clip is wide), the same
advantage for all passes of a rollout. Shapes: P problems, G rollouts of each, K alphas, N passes.
"""

__all__ = ["Advantages", "Update", "advantages", "objective", "rewards", "steered"]

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor


def rewards(
    scores: Tensor, passes: Tensor, length: Tensor, alpha: Tensor, kind: Literal["product", "sum"] = "product"
) -> Tensor:
    """(R,) each: score in [0, 1], passes, positions that were to fill, price of speed.

    product: score * ((L - passes + 1) / L) ** alpha, 1 for a right answer in one pass; at alpha 0 the score alone.
    sum: score - alpha * passes / L, which rewards a fast wrong answer; the paper's ablation.
    """
    if kind == "sum":
        return scores - alpha * passes / length
    return scores * ((length - passes.clamp(max=length) + 1) / length) ** alpha


_DECAY = 0.95
_LEAST = 1e-3


class Advantages(NamedTuple):
    """What each rollout is worth beside the others of its problem."""

    values: Tensor  # (P, G)
    variance: Tensor  # (K,) running variance within groups, nan where none was seen
    silent: float  # share of groups whose rewards are all alike: they teach nothing


class Update(NamedTuple):
    """What an update was like."""

    loss: Tensor
    clipped: Tensor  # share of passes whose ratio was held back


def advantages(
    rewards: Tensor,
    which: Tensor,
    variance: Tensor,
    scale: Literal["alpha", "none", "std"] = "alpha",
    total: Callable[[Tensor], Tensor] = lambda x: x,
) -> Advantages:
    """rewards (P, G), which (P,) the alpha of each problem, variance (K,): centred by group, and scaled.

    "std", as GRPO divides, makes a group that is right throughout a contest of speed alone, whatever alpha says.
    `total` adds up over processes, so that all have the same scales.
    """
    centred = rewards - rewards.mean(-1, keepdim=True)
    within = centred.square().mean(-1)
    silent = float((within < 1e-12).float().mean())
    sums = total(
        variance.new_zeros(2, len(variance)).index_add(1, which, torch.stack([within, torch.ones_like(within)]))
    )
    now = sums[0] / sums[1]  # nan for an alpha that nobody drew
    mixed = torch.where(variance.isnan(), now, _DECAY * variance + (1 - _DECAY) * now)
    variance = torch.where(now.isnan(), variance, mixed)
    if scale == "none":
        return Advantages(centred, variance, silent)
    deviation = within.sqrt() if scale == "std" else variance[which].sqrt()
    return Advantages(centred / (deviation[:, None] + _LEAST), variance, silent)


def objective(new: Tensor, old: Tensor, advantage: Tensor, weight: Tensor, clip: float) -> Update:
    """The clipped objective to be minimised: all (N,), `weight` the share of each pass, 1 in all."""
    ratio = (new - old).exp()
    held = ratio.clamp(1 - clip, 1 + clip)
    gain = torch.minimum(ratio * advantage, held * advantage)
    stopped = ((ratio * advantage) > (held * advantage)).float().mean()
    return Update(-(gain * weight).sum(), stopped)


def steered(log_prob: Tensor, own: int, experts: int) -> Tensor:
    """The likelihood of an expert's pass in a group with `own` rollouts of the policy: log(own pi + experts) - log all.

    An expert's action has probability 1 under the expert, so that the ratio of two of these lies within
    (own + experts) / experts, whatever the policy thinks of the action (appendix F).
    """
    total = own + experts
    return torch.logaddexp(log_prob + math.log(own / total), torch.full_like(log_prob, math.log(experts / total)))
