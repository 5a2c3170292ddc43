"""Random maskings for the bound, by name. All have the same expectation; docs/math.md has their measured variances."""

__all__ = ["ESTIMATORS", "Draw", "Estimator", "draw"]

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from unmask.errors import ConfigError, did_you_mean
from unmask.objective.masked import hide_bernoulli, hide_by_count, hide_by_time, stratified
from unmask.process import MaskedDiffusion

Estimator = Literal["uniform", "stratified", "count", "bernoulli"]
ESTIMATORS: dict[str, str] = {
    "uniform": "one uniform time a sequence, weight -alpha'/(1 - alpha) (MDLM eq. 10)",
    "stratified": "the same with times spread evenly over the global batch (MDLM D.3, MD4)",
    "count": "a uniform subset of l of the n tokens, weight n/l, l spread evenly over the global batch",
    "bernoulli": "each token hidden with probability t, weight (n + 1)/l for the l that fell, t spread evenly",
}
assert set(ESTIMATORS) == set(get_args(Estimator))


class Draw(NamedTuple):
    """What to hide (B, L) bool, the weight of each row (B,), and the time (B,) that a time-conditioned model is told.

    That time is the share of hidden tokens, 1 - alpha(t), whatever the schedule: estimators and samplers agree on it.
    """

    hide: Tensor
    weight: Tensor
    time: Tensor

    def rows(self, part: slice) -> "Draw":
        """Some of the rows: a process's share of the global batch, or a micro-batch."""
        return Draw(self.hide[part], self.weight[part], self.time[part])


def draw(name: str, process: MaskedDiffusion, maskable: Tensor, generator: torch.Generator) -> Draw:
    """One random masking of the whole global batch: maskable (B, L) bool.

    Every process draws all of it and keeps its own rows, so that the strata span the global batch however it is shared.
    Raises ConfigError for a name that is not an estimator.
    """
    u = torch.rand(maskable.shape, generator=generator)
    if name == "uniform":
        r = 1 - torch.rand(len(maskable), generator=generator, dtype=torch.float64)
    else:
        r = stratified(torch.rand((), generator=generator, dtype=torch.float64), len(maskable))
    if name in ("uniform", "stratified"):
        return Draw(*hide_by_time(process, r, u, maskable), 1 - process.schedule.alpha(r))
    if name == "count":
        hide, weight = hide_by_count(r, u, maskable)
        return Draw(hide, weight, (1 / weight.double()).clamp(max=1))  # l/n; 1 where there was nothing to hide
    if name == "bernoulli":
        return Draw(*hide_bernoulli(r, u, maskable), r)
    raise ConfigError(f"There is no estimator named '{name}'; {did_you_mean(name, ESTIMATORS)}")
