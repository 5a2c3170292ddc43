"""The training objective: the negative evidence lower bound of masked diffusion.

    NELBO(x_0) = E_{hide, weight} [ weight * sum over hidden i of -log p(x_0^i | x_t) ]      (MDLM eq. 10, MD4 eq. 5)

Four ways of drawing (hide, weight) have this same expectation; they differ in variance (docs/math.md has it measured).
Each takes uniform numbers and returns `hide` (B, L) bool and `weight` (B,). `Masked` is the objective: it draws by the
estimator that it was made with, and reports the bound by "count", whose variance is the least. All in nats.
"""

__all__ = [
    "ESTIMATORS",
    "Annealed",
    "Cost",
    "Estimator",
    "Masked",
    "Masking",
    "cross_entropy",
    "hide_bernoulli",
    "hide_by_count",
    "hide_by_step",
    "hide_by_time",
    "later_positions",
    "masking",
    "nelbo",
    "objective_of",
    "parameterization",
    "spread",
    "stratified",
    "summed_cost",
]

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from unmask.batch import rounded_size, used_length
from unmask.denoiser import Denoiser, selection
from unmask.errors import ConfigError, did_you_mean
from unmask.noise import derive, generator, uniform
from unmask.objective.base import Draw, Loss, Objective, Rows, Turn, log_likelihoods
from unmask.process import MaskedDiffusion

_STREAM = 1  # of the seed: training's maskings
_BOUND = 3  # those of a bound
_LATER = 5  # the later positions of an annealed attention


def stratified(u: Tensor, batch: int, first: int = 0, count: int | None = None) -> Tensor:
    """Low-discrepancy numbers in (0, 1]: a draw `u` in [0, 1) spread over a `batch`; rows first .. first+count."""
    rows = torch.arange(first, first + (batch if count is None else count), dtype=torch.float64, device=u.device)
    return 1 - (u.double() + rows / batch) % 1


def spread(turn: Turn) -> Tensor:
    """Low-discrepancy numbers (B,) in (0, 1] for an estimate of a measurement.

    Over all rows and draws there is one number in each of `total * draws` equal strata. The draws of a row are 1/draws
    apart. Rows that follow each other get strata far apart (a lattice whose step is near the golden ratio), because
    neighbours in a text are alike: with strata in the order of the rows, the share that is hidden would rise with
    whatever else rises along the text.
    """
    step = round(turn.total * (math.sqrt(5) - 1) / 2)
    while math.gcd(step, turn.total) != 1:
        step += 1
    stratum = (turn.rows * step % turn.total).double()
    start = uniform(torch.tensor(turn.seed), torch.tensor(turn.draws), torch.tensor(turn.total), _BOUND)
    return 1 - (start + stratum / (turn.total * turn.draws) + turn.draw / turn.draws) % 1


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


Cost = Callable[[Denoiser, Tensor, Tensor, Tensor], Tensor]
"""Denoiser, hidden states (N, D), true ids (N,), rows (N,) of the batch -> what each costs in nats (N,)."""


def cross_entropy(denoiser: Denoiser, hidden: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
    """The cost of masked diffusion: -log p of the true token."""
    return -log_likelihoods(denoiser, hidden, targets)


def nelbo(
    denoiser: Denoiser,
    x_0: Tensor,
    hide: Tensor,
    weight: Tensor,
    *,
    valid: Tensor | None = None,
    time: Tensor | None = None,
    cost: Cost = cross_entropy,
) -> Tensor:
    """One draw of the bound (B,): x_0 (B, L) int64, hide (B, L) bool, weight (B,); the rest as in Denoiser.hidden.

    `cost` is what a hidden token costs, before it is multiplied by the weight.
    """
    nats = summed_cost(denoiser, x_0, hide, hide, valid=valid, time=time, cost=cost)
    return nats * weight.to(nats.dtype)


def summed_cost(
    denoiser: Denoiser,
    x_0: Tensor,
    hide: Tensor,
    where: Tensor,
    *,
    valid: Tensor | None = None,
    time: Tensor | None = None,
    cost: Cost = cross_entropy,
) -> Tensor:
    """Tokens x_0 (B, L) int64, of which `hide` are shown as MASK, and `where` (B, L) is predicted -> the costs (B,).

    Positions that are padding in every row are left out of the computation, in multiples of `GRAIN`: they are not
    attended to and not predicted, so that the value is the same to rounding.
    """
    if valid is not None:
        length = used_length(valid)
        x_0, hide, where, valid = x_0[:, :length], hide[:, :length], where[:, :length], valid[:, :length]
    tokens, (picked, count) = torch.where(hide, denoiser.mask_id, x_0), _picked(where)
    hidden = denoiser.hidden(tokens, valid=valid, time=time, **selection(denoiser, where)).flatten(0, 1)
    rows = picked.div(x_0.shape[1], rounding_mode="floor")
    costs = cost(denoiser, hidden.index_select(0, picked), x_0.flatten()[picked], rows)[:count]
    return torch.zeros_like(x_0, dtype=costs.dtype).masked_scatter(where, costs).sum(-1)


def _picked(where: Tensor) -> tuple[Tensor, int]:
    """What is predicted, (B, L) bool -> flat indices (M,), and the number N of those that count: the first.

    The others repeat the first index. M is N rounded up (`rounded_size`), since N differs in each step.
    """
    indices = where.flatten().nonzero().squeeze(1)
    count = len(indices)
    more = rounded_size(count) - count if count else 0
    return torch.cat([indices, indices[:1].expand(more)]), count


Estimator = Literal["uniform", "stratified", "count", "bernoulli"]
ESTIMATORS: dict[str, str] = {
    "uniform": "one uniform time a sequence, weight -alpha'/(1 - alpha) (MDLM eq. 10)",
    "stratified": "the same with times spread evenly over the global batch (MDLM D.3, MD4)",
    "count": "a uniform subset of l of the n tokens, weight n/l, l spread evenly over the global batch",
    "bernoulli": "each token hidden with probability t, weight (n + 1)/l for the l that fell, t spread evenly",
}
assert set(ESTIMATORS) == set(get_args(Estimator))


class Masking(NamedTuple):
    """What to hide (B, L) bool, the weight of each row (B,), and the time (B,) for a time-conditioned model.

    That time is the share of hidden tokens, 1 - alpha(t), whatever the schedule: estimators and samplers agree on it.
    """

    hide: Tensor
    weight: Tensor
    time: Tensor


def masking(name: str, process: MaskedDiffusion, maskable: Tensor, generator: torch.Generator) -> Masking:
    """One random masking of a whole batch: maskable (B, L) bool. What a row gets depends on no other row's `maskable`.

    Raises ConfigError for a name that is not an estimator.
    """
    u = torch.rand(maskable.shape, generator=generator)
    if name == "uniform":
        r = 1 - torch.rand(len(maskable), generator=generator, dtype=torch.float64)
    else:
        r = stratified(torch.rand((), generator=generator, dtype=torch.float64), len(maskable))
    if name in ("uniform", "stratified"):
        return Masking(*hide_by_time(process, r, u, maskable), 1 - process.schedule.alpha(r))
    if name == "count":
        return _by_count(r, u, maskable)
    if name == "bernoulli":
        return Masking(*hide_bernoulli(r, u, maskable), r)
    raise ConfigError(f"There is no estimator named '{name}'; {did_you_mean(name, ESTIMATORS)}")


def _by_count(r: Tensor, u: Tensor, maskable: Tensor) -> Masking:
    hide, weight = hide_by_count(r, u, maskable)
    return Masking(hide, weight, (1 / weight.double()).clamp(max=1))  # l/n; 1 where there was nothing to hide


@dataclass(frozen=True, slots=True)
class Masked:
    """The bound of masked diffusion as an Objective: trained by one of the four estimators, reported by "count"."""

    process: MaskedDiffusion
    estimator: Estimator = "count"
    cost: Cost = cross_entropy

    def draw(self, seed: int, step: int, rows: Tensor, total: int, maskable: Tensor) -> Draw:
        """The masking of some rows: (hide, weight, time), as in `Masking`.

        The table of the whole batch is drawn and `rows` are kept of it, whose strata then span the global batch.
        """
        whole = maskable.new_zeros((total, maskable.shape[1]))
        whole[rows] = maskable
        return tuple(x[rows] for x in masking(self.estimator, self.process, whole, generator(seed, _STREAM, step)))

    def loss(self, model: Denoiser, rows: Rows, draw: Draw) -> Loss:
        """One draw of the bound."""
        hide, weight, time = draw
        time = time if model.time_conditioned else None
        nats = nelbo(model, rows.ids, hide, weight, valid=rows.valid, time=time, cost=self.cost)
        return Loss(nats, rows.maskable.sum(-1))

    @torch.no_grad()
    def bound(self, model: Denoiser, rows: Rows, turn: Turn) -> Loss:
        """One draw of the bound by "count", stratified over all rows and draws of the measurement."""
        positions = torch.arange(rows.ids.shape[1])
        seed = torch.tensor(turn.seed)
        u = uniform(seed, turn.rows[:, None] * turn.draws + turn.draw, positions, _BOUND + 1)
        drawn = _by_count(spread(turn), u, rows.maskable.cpu())
        return self.loss(model, rows, tuple(x.to(rows.ids.device) for x in drawn))


@dataclass(frozen=True, slots=True)
class Annealed:
    """An Objective for a network that was causal: in the first `steps` steps it does not attend to all positions.

    At step s a position attends to those up to its own, and to each later one with probability (s + 1) / steps
    (DiffuLLaMA, arXiv:2410.17891); the positions are the same for all rows of a step. The bound is that of full
    attention.
    """

    inner: Masked
    steps: int

    def draw(self, seed: int, step: int, rows: Tensor, total: int, maskable: Tensor) -> Draw:
        """The masking of some rows, and in the first steps the seed (B,) and the share (B,) of later positions."""
        drawn = self.inner.draw(seed, step, rows, total, maskable)
        share = (step + 1) / self.steps
        if share >= 1:
            return drawn
        key = torch.full_like(rows, derive(seed, _LATER, step))
        return (*drawn, key, torch.full(rows.shape, share, dtype=torch.float64))

    def loss(self, model: Any, rows: Rows, draw: Draw) -> Loss:
        """One draw of the bound of the network with this attention."""
        if len(draw) > 3:
            model.later = later_positions(draw[3][0], draw[4][0], rows.ids.shape[1])
        try:
            return self.inner.loss(model, rows, draw[:3])
        finally:
            model.later = None

    def bound(self, model: Any, rows: Rows, turn: Turn) -> Loss:
        """As that of `Masked`."""
        return self.inner.bound(model, rows, turn)


def later_positions(key: Tensor, share: Tensor, length: int) -> Tensor:
    """A seed and a probability (scalars) -> which positions a query may see beside earlier ones, (L, L) bool."""
    at = torch.arange(length, device=key.device)
    return uniform(key, at[:, None], at, _LATER) < share


# ---- by name ---------------------------------------------------------------------------------------------------------


def objective_of(
    name: str, process: MaskedDiffusion, estimator: Estimator = "count", steps: int | None = None
) -> Objective:
    """What a network predicts (see `parameterization`) and its process -> what it is trained by and judged by.

    `estimator` is how maskings are drawn where time is continuous; `steps` is the number of steps of the reverse
    process, None for continuous time, which D3PM does not have: there None is `GRID`.
    """
    if name == "subs" and steps is None:
        return Masked(process, estimator)
    from unmask.objective.baselines import GRID, Autoregressive, DiscreteTime, MaskedLM, score_entropy

    match name:
        case "ar":
            return Autoregressive(process.mask_id)
        case "mlm":
            return MaskedLM(process)
        case "sedd":
            return Masked(process, estimator, score_entropy)
        case _:
            return DiscreteTime(process, steps or GRID, name != "d3pm", name == "subs")


def parameterization(network: Any) -> str:
    """A network, or its settings -> what its logits are: "ar", "subs", "mlm", "zero-masking", "d3pm", "sedd"."""
    shifted = getattr(network, "shifted", False) or getattr(network, "shift", False)
    if shifted and getattr(network, "causal_block", 0) == 1:
        return "ar"
    return getattr(network, "parameterization", "") or "subs"
