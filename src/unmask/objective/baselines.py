"""The objectives that MDLM is compared with, on the same network: autoregressive, BERT's, D3PM, SEDD's score entropy.

A network says by its setting `parameterization` what its logits are; `objective_of` chooses the objective that goes
with it. All bounds are in nats and have no epsilon: times lie in (0, 1], and alpha(1) = 0.
"""

__all__ = ["GRID", "Autoregressive", "DiscreteTime", "MaskedLM", "score_entropy"]

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unmask.denoiser import Denoiser
from unmask.noise import generator, uniform
from unmask.objective.base import Draw, Loss, Rows, Turn, head_values
from unmask.objective.masked import (
    Masked,
    cross_entropy,
    hide_by_count,
    nelbo,
    spread,
    stratified,
    summed_cost,
)
from unmask.process import MaskedDiffusion

GRID = 1000
"""Steps of the reverse process of D3PM by default, as in MDLM's Table 8."""
_STREAM = 1  # of the seed: training's maskings
_BOUND = 5  # uniforms of a bound
_ROWS = 8  # a training step reconstructs one row in so many


# ---- autoregressive --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Autoregressive:
    """-log p of a causal network, exactly: the sum over positions of -log p(token | those before it).

    The token at the first position is predicted by a pass that sees MASK there, as decoding does.
    """

    mask_id: int

    def draw(self, seed: int, step: int, rows: Tensor, total: int, maskable: Tensor) -> Draw:
        """Nothing is random."""
        return ()

    def loss(self, model: Denoiser, rows: Rows, draw: Draw) -> Loss:
        """The chain rule over the maskable positions; the others are known."""
        rest, first = rows.maskable.clone(), rows.maskable[:, :1]
        rest[:, 0] = False
        nats = summed_cost(model, rows.ids, torch.zeros_like(rest), rest, valid=rows.valid)
        nats = nats + summed_cost(model, rows.ids[:, :1], torch.ones_like(first), first)
        return Loss(nats, rows.maskable.sum(-1))

    @torch.no_grad()
    def bound(self, model: Denoiser, rows: Rows, turn: Turn) -> Loss:
        """The value itself."""
        return self.loss(model, rows, ())


# ---- masked language modelling ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MaskedLM:
    """Masked language modelling (BERT, arXiv:1810.04805): a fixed share of the tokens of a row is hidden.

    The loss is the mean of -log p over the hidden tokens, which is no bound: it is that of MDLM at one noise level,
    without its weight. Reported is MDLM's bound. BERT shows a fifth of the hidden tokens as themselves or as random
    ones; here all of them are MASK.
    """

    process: MaskedDiffusion
    share: float = 0.15

    def draw(self, seed: int, step: int, rows: Tensor, total: int, maskable: Tensor) -> Draw:
        """As `Masked`: what to hide (B, L), the weight n / l that makes a sum over l of n tokens a mean, the time."""
        u = torch.rand((total, maskable.shape[1]), generator=generator(seed, _STREAM, step))[rows]
        hide, weight = hide_by_count(torch.full((len(u),), self.share), u, maskable)
        return hide, weight, (1 / weight).clamp(max=1)

    def loss(self, model: Denoiser, rows: Rows, draw: Draw) -> Loss:
        """The mean cost of the hidden tokens times the number of tokens."""
        return Masked(self.process).loss(model, rows, draw)

    def bound(self, model: Denoiser, rows: Rows, turn: Turn) -> Loss:
        """As that of `Masked`."""
        return Masked(self.process).bound(model, rows, turn)


# ---- SEDD ------------------------------------------------------------------------------------------------------------


def score_entropy(denoiser: Denoiser, hidden: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
    """Hidden states (N, D) of masked tokens, true ids (N,) -> SEDD's cost (N,): Z - 1 - l_x (arXiv:2310.16834 eq. 10).

    The scores are s_y = alpha / (1 - alpha) exp(l_y), Z is the sum of exp(l_y). The denoising score entropy of the
    absorbing process is this cost times the weight of MDLM's bound. It is MDLM's cost, -log(exp(l_x) / Z), plus
    Z - 1 - log Z >= 0: equal where Z is 1.
    """
    values = head_values(denoiser, hidden, targets, partial(_score_parts, mask_id=denoiser.mask_id))
    return values[:, 1] - 1 - values[:, 0]


def _score_parts(logits: Tensor, targets: Tensor, mask_id: int) -> Tensor:
    """Logits (N, V), ids (N,) -> l of the ids and Z, (N, 2); l = logits - log(V - 1), so that Z is 1 at logits 0."""
    scores = logits.float() - math.log(logits.shape[-1] - 1)
    total = scores.exp().sum(-1) - scores[:, mask_id].exp()
    return torch.stack([scores.gather(-1, targets[:, None]).squeeze(-1), total], -1)


# ---- D3PM ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DiscreteTime:
    """The bound of a reverse process of `steps` steps (MDLM eq. 9 and appendix A.2.4), for the ablation of Table 8.

    Level j of 0 .. T has alpha at the time (j + 1) / (T + 1). The bound is the sum over j > 0 of the divergence of the
    step from j to j - 1, and the reconstruction at level 0. With `zero_masking` MASK has no probability; with
    `carry_over` visible tokens are copied, else they are predicted at level 0 too. Without both it is the absorbing
    process of D3PM (arXiv:2107.03006); with both it is the bound of `hide_by_step` with T + 1 steps.
    """

    process: MaskedDiffusion
    steps: int = GRID
    zero_masking: bool = False
    carry_over: bool = False

    def draw(self, seed: int, step: int, rows: Tensor, total: int, maskable: Tensor) -> Draw:
        """(hide (B, L), level (B,), hide at level 0 (B, L), factor (B,)).

        The reconstruction is computed for one row in eight and multiplied by the factor, which is 0 in the others.
        """
        source = generator(seed, _STREAM, step)
        u, again = torch.rand((2, total, maskable.shape[1]), generator=source)[:, rows]
        r = stratified(torch.rand((), generator=source, dtype=torch.float64), total)[rows]
        shown = torch.randperm(total, generator=source)[: -(-total // _ROWS)]
        factor = torch.zeros(total).index_fill(0, shown, total / len(shown))[rows]
        return self._drawn(r, u, again, maskable, factor)

    def loss(self, model: Denoiser, rows: Rows, draw: Draw) -> Loss:
        """One draw of the bound."""
        hide, level, again, factor = draw
        time = self._time(model, level)
        cost = partial(self._divergence, level=level)
        weight = torch.full_like(factor, self.steps)
        nats = nelbo(model, rows.ids, hide, weight, valid=rows.valid, time=time, cost=cost)
        which = factor.nonzero().squeeze(-1)
        which = which if len(which) else which.new_zeros(1)  # always two passes: see `Objective`
        with _dropout_of(model, which):
            known = self._reconstruction(model, rows.part(which, factor.device), again[which])
        nats = nats.index_add(0, which, factor[which] * known)
        return Loss(nats, rows.maskable.sum(-1))

    @torch.no_grad()
    def bound(self, model: Denoiser, rows: Rows, turn: Turn) -> Loss:
        """One draw of the level, and of what is hidden at level 0, in every row."""
        positions = torch.arange(rows.ids.shape[1])
        number = turn.rows[:, None] * turn.draws + turn.draw
        u, again = (uniform(torch.tensor(turn.seed), number, positions, _BOUND + each) for each in range(2))
        draw = self._drawn(spread(turn), u, again, rows.maskable.cpu(), torch.ones(len(number)))
        return self.loss(model, rows, tuple(x.to(rows.ids.device) for x in draw))

    def _drawn(self, r: Tensor, u: Tensor, again: Tensor, maskable: Tensor, factor: Tensor) -> Draw:
        """Numbers r (B,) in (0, 1] that choose levels 1 .. T, two tables of uniforms (B, L) -> the draw."""
        level = (r * self.steps).ceil().long().clamp(1, self.steps)
        hide, first = (
            (numbers.double() < 1 - self._alpha(at)[:, None]) & maskable
            for numbers, at in ((u, level), (again, torch.zeros_like(level)))
        )
        return hide, level, first, factor

    def _alpha(self, level: Tensor) -> Tensor:
        return self.process.schedule.alpha((level.double() + 1) / (self.steps + 1))

    def _time(self, model: Denoiser, level: Tensor) -> Tensor | None:
        """The share of MASK at levels (B,), for a time-conditioned network."""
        return (1 - self._alpha(level)).float() if model.time_conditioned else None

    def _divergence(self, model: Denoiser, hidden: Tensor, targets: Tensor, rows: Tensor, *, level: Tensor) -> Tensor:
        """As `Cost`: KL(q(z_s | z_t, x) || p(z_s | z_t)) of a masked token (MDLM eq. 9), for the levels (B,) of t."""
        log_p, mass = self._predicted(model, hidden, targets)
        now, then = self._alpha(level[rows]).to(log_p), self._alpha(level[rows] - 1).to(log_p)
        norm = torch.log1p(-now * (1 - mass)) - torch.log1p(-now)
        shown = (then - now) / (1 - now) * (norm - log_p)
        return shown + (1 - then) / (1 - now) * (norm + torch.log1p(-then) - torch.log1p(-then * (1 - mass)))

    def _reconstruction(self, model: Denoiser, rows: Rows, hide: Tensor) -> Tensor:
        """-log p(x | z) at level 0 (B,): of what is hidden there, and without carry-over of the visible tokens too."""
        time = self._time(model, torch.zeros_like(rows.ids[:, 0]))
        where = hide if self.carry_over else rows.maskable
        cost = cross_entropy if self.zero_masking else self._reconstructed
        return summed_cost(model, rows.ids, hide, where, valid=rows.valid, time=time, cost=cost)

    def _reconstructed(self, model: Denoiser, hidden: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
        return -self._predicted(model, hidden, targets)[0]

    def _predicted(self, model: Denoiser, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """log p of the targets and the probability of MASK, (N,) each."""
        if self.zero_masking:
            log_p = -cross_entropy(model, hidden, targets, targets)
            return log_p, torch.zeros_like(log_p)
        values = head_values(model, hidden, targets, partial(_with_mask, mask_id=model.mask_id))
        return values[:, 0], values[:, 1].exp()


@contextmanager
def _dropout_of(model: Any, rows: Tensor) -> Generator[None]:
    """A pass of some rows (N,) of the batch drops what it would drop in a pass of all."""
    keys = getattr(model, "dropout_keys", None)
    if keys is not None:
        model.dropout_keys = keys[:, rows]
    yield
    if keys is not None:
        model.dropout_keys = keys


def _with_mask(logits: Tensor, targets: Tensor, mask_id: int) -> Tensor:
    """Logits (N, V), ids (N,) -> log p of the ids and of MASK, (N, 2), with MASK in the softmax."""
    log_p = logits.float().log_softmax(-1)
    return torch.stack([log_p.gather(-1, targets[:, None]).squeeze(-1), log_p[:, mask_id]], -1)
