"""Training with soft masks (arXiv:2510.17206): most steps have two passes, of which the second gets the feedback."""

__all__ = ["SoftMasked", "soft_masked"]

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.denoiser import Denoiser
from unmask.errors import ConfigError
from unmask.model.soft import TwoPass, two_pass
from unmask.noise import uniform
from unmask.objective.base import Draw, Loss, Objective, Rows, Turn
from unmask.objective.masked import Masked, cross_entropy

_STREAM = 17  # of the seed: which steps have two passes


@dataclass(frozen=True, slots=True)
class SoftMasked:
    """An Objective for a network with soft masks: a step has two passes with probability `share`, else one.

    The first pass has no gradients, and the same dropout. The bound is that of `inner` for the model in two passes,
    p(x_0 | x_t) = f(x_t, feedback of f(x_t)): a denoiser as any other, so that it is a bound, but not of the model that
    decodes with the feedback of an earlier canvas.
    """

    inner: Masked
    share: float = 0.8

    def draw(self, seed: int, step: int, rows: Tensor, total: int, maskable: Tensor) -> Draw:
        """The masking of some rows; in a step with two passes a fourth tensor (B,) says so."""
        drawn = self.inner.draw(seed, step, rows, total, maskable)
        number = uniform(torch.tensor(seed), torch.tensor(step), torch.tensor(0), _STREAM)
        return (*drawn, torch.ones_like(rows, dtype=torch.bool)) if float(number) < self.share else drawn

    def loss(self, model: Denoiser, rows: Rows, draw: Draw) -> Loss:
        """One draw of the bound of the model in one or two passes."""
        return self.inner.loss(TwoPass(model) if len(draw) > 3 else model, rows, draw[:3])

    def bound(self, model: Denoiser, rows: Rows, turn: Turn) -> Loss:
        """That of `inner` for the model in two passes."""
        return self.inner.bound(two_pass(model), rows, turn)


def soft_masked(objective: Objective, share: float) -> SoftMasked:
    """The objective of a network without soft masks -> that with them. Raises ConfigError if it is not MDLM's."""
    if not isinstance(objective, Masked) or objective.cost is not cross_entropy:
        raise ConfigError(
            "Soft masks are trained by the bound of MDLM in continuous time: leave train.grid and adapt.anneal out, "
            "and start from a checkpoint of MDLM (model.parameterization subs)."
        )
    return SoftMasked(objective, share)
