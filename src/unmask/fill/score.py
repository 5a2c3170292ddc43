"""Denoiser and rows -> bounds on -log p of a text or of a part of it, by which candidates are compared.

A masked diffusion model gives one probability for each order of revealing; the mean of -log p over orders is a bound
(MDLM eq. 10 in its any-order form; ARDM, arXiv:2110.02037). All candidates use the same random numbers, so that the
differences between them have less error than the bounds. Everything is in nats; shapes: B rows, L positions.
"""

__all__ = ["Conditional", "conditional_nats", "drawn_nats", "whole_nats"]

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.denoiser import Denoiser
from unmask.errors import RequestError
from unmask.noise import uniform
from unmask.objective.base import Objective, Rows, Turn, log_likelihoods
from unmask.objective.baselines import Autoregressive
from unmask.objective.masked import Masked, cross_entropy, hide_by_count, nelbo, stratified

_ORDERS, _SUBSETS = 2, 3  # streams of noise


class Conditional(NamedTuple):
    """The bound on -log p(chosen | rest) of each row, as `conditional_nats` returns it."""

    nats: Tensor  # (B,) float64
    stderr: Tensor  # (B,) float64: of the mean over what was drawn; 0 where nothing was
    exact: Tensor  # (B,) bool: nothing was drawn: all orders were counted, or the model has one


@torch.no_grad()
def conditional_nats(
    denoiser: Denoiser,
    tokens: Tensor,
    chosen: Tensor,
    *,
    valid: Tensor | None = None,
    orders: int = 32,
    seed: int = 0,
    batch: int = 32,
    objective: Objective | None = None,
) -> Conditional:
    """Rows and chosen positions -> the bound on -log p(chosen | rest) of each row.

    It is the mean, over orders of revealing, of the sum over chosen i of -log p(x_i | rest and the positions revealed
    before i). With the exact posterior every order gives -log p(chosen | rest).

    tokens (B, L) int64; chosen (B, L) bool, at least one a row; valid as in Denoiser.hidden. MASKs in the rest stay
    hidden, and the model sums over their values. For n chosen tokens all n! orders are counted, over the
    2**n - 1 sets that can be hidden, if that needs no more passes than `orders` drawn orders. Drawn orders are the same
    for all rows with the same number of chosen tokens. `batch` rows go through the network at once. With the objective
    of an autoregressive model it is the exact -log p of the first chosen token and all after it, given those before it;
    that of the chosen given the rest differs from it by what all choices share. Raises RequestError for fewer than 2
    orders.
    """
    if orders < 2:
        raise RequestError(f"orders is {orders}; give at least 2 random orders, whose spread gives the error.")
    if isinstance(objective, Autoregressive):
        after = (chosen.cumsum(-1) > 0) & (torch.ones_like(chosen) if valid is None else valid)
        return drawn_nats(denoiser, objective, tokens, after, valid=valid, batch=batch)
    nats: list[Tensor] = []
    stderr: list[Tensor] = []
    exact: list[bool] = []
    for row, where in zip(tokens, chosen, strict=True):
        line = len(nats)
        n = int(where.sum())
        exact.append(2**n - 1 <= orders * n)
        sets, weights = _all_sets(n) if exact[-1] else _drawn_sets(n, orders, seed)
        known = None if valid is None else valid[line]
        each = _over_orders(denoiser, row, where, known, batch, sets, weights, 1 if exact[-1] else orders)
        nats.append(each.mean())
        stderr.append(each.new_zeros(()) if exact[-1] else each.std() / math.sqrt(orders))
    return Conditional(torch.stack(nats), torch.stack(stderr), torch.tensor(exact))


@torch.no_grad()
def drawn_nats(
    denoiser: Denoiser,
    objective: Objective,
    tokens: Tensor,
    chosen: Tensor,
    *,
    valid: Tensor | None = None,
    draws: int = 32,
    seed: int = 0,
    batch: int = 32,
    apart: bool = False,
) -> Conditional:
    """Rows and chosen positions -> the bound on -log p(chosen | rest) of each row by the objective of the model.

    tokens (B, L) int64; chosen (B, L) bool; valid as in Denoiser.hidden. Each of the `draws` maskings hides a part of
    the chosen tokens and costs one pass; the shares are spread evenly over the draws. All rows have the same random
    numbers at the same draw and position, so that rows which share their beginning are compared with less error than
    the bounds have; with `apart` each row has its own, so that the errors of rows are independent. Nothing is drawn for
    an autoregressive model, whose value is exact (-log p of the chosen tokens given those before them), nor where a
    masked model has at most `draws` sets of chosen tokens to hide: there all orders are counted. The error is that of
    independent draws, which is above that of evenly spread ones. A row without chosen tokens has 0 nats. Raises
    RequestError for fewer than 2 draws.
    """
    if draws < 2:
        raise RequestError(f"draws is {draws}; give at least 2 random maskings, whose spread gives the error.")
    nats, stderr = torch.zeros(2, len(tokens), dtype=torch.float64)
    count = chosen.sum(-1)
    if isinstance(objective, Autoregressive):
        exact, draws = torch.ones_like(count, dtype=torch.bool), 1
    else:
        counted = isinstance(objective, Masked) and objective.cost is cross_entropy
        exact = (2.0**count - 1 <= draws) & counted
        for line in (exact & (count > 0)).nonzero().squeeze(-1).tolist():
            known = None if valid is None else valid[line]
            sets, weights = _all_sets(int(count[line]))
            (nats[line],) = _over_orders(denoiser, tokens[line], chosen[line], known, batch, sets, weights, 1)
    lines = ((count > 0) if draws == 1 else ~exact).nonzero().squeeze(-1)
    values: list[Tensor] = []
    for part in torch.cartesian_prod(lines.cpu(), torch.arange(draws)).split(batch) if len(lines) else ():
        where, draw = part[:, 0].to(tokens.device), part[:, 1]
        rows = Rows(tokens[where], chosen[where], None if valid is None else valid[where])
        turn = Turn(seed, part[:, 0] * draws + draw, len(tokens) * draws) if apart else Turn(seed, draw, draws)
        values.append(objective.bound(denoiser, rows, turn).nats.double().cpu())
    if values:
        each = torch.cat(values).view(-1, draws)
        nats[lines.cpu()] = each.mean(-1)
        stderr[lines.cpu()] = 0.0 if draws == 1 else each.std(-1) / math.sqrt(draws)
    return Conditional(nats, stderr, exact.cpu())


@torch.no_grad()
def whole_nats(
    denoiser: Denoiser,
    tokens: Tensor,
    keys: Tensor,
    *,
    valid: Tensor,
    draws: int = 32,
    seed: int = 0,
    batch: int = 32,
) -> Tensor:
    """Rows -> the bound on -log p of each whole row, an estimate for each draw: (B, draws) float64, total nats.

    Each draw hides a uniform subset of l of a row's n valid tokens, with weight n / l (`hide_by_count`), l / n
    spread evenly over the draws. tokens (B, L) int64 without MASK, valid (B, L) bool. keys (B, L) int64, at least 0 and
    below 2**32: tokens of equal key are ordered by the same random number in all rows, so that candidates which share
    most of their text hide the same part of it, and the differences between rows, draw by draw, have less spread than
    the bounds. A standard error from the spread of the draws is an upper estimate, because evenly spread shares reduce
    the error of the mean. Raises RequestError for fewer than 2 draws, which have no spread.
    """
    if draws < 2:
        raise RequestError(f"draws is {draws}; give at least 2 random maskings, whose spread gives the error.")
    turns = torch.arange(draws, device=tokens.device)
    start = uniform(torch.tensor(seed), torch.tensor(draws), torch.tensor(-1), _SUBSETS)
    shares = stratified(start.to(tokens.device), draws)
    u = uniform(torch.tensor(seed, device=tokens.device), turns[None, :, None], keys[:, None], _SUBSETS)
    jobs = torch.cartesian_prod(torch.arange(len(tokens), device=tokens.device), turns)
    nats: list[Tensor] = []
    for part in jobs.split(batch):
        row, turn = part.unbind(-1)
        hide, weight = hide_by_count(shares[turn], u[row, turn], valid[row])
        time = hide.sum(-1) / valid[row].sum(-1) if denoiser.time_conditioned else None
        some = None if bool(valid[row].all()) else valid[row]
        nats.append(nelbo(denoiser, tokens[row], hide, weight, valid=some, time=time).double())
    return torch.cat(nats).view(len(tokens), draws)


def _over_orders(
    denoiser: Denoiser,
    row: Tensor,
    where: Tensor,
    valid: Tensor | None,
    batch: int,
    sets: Tensor,
    weights: Tensor,
    orders: int,
) -> Tensor:
    """A row (L,), its chosen positions (L,), the sets of them that are hidden and their weights -> nats (orders,)."""
    positions = where.nonzero().squeeze(-1)
    hide = torch.zeros(len(sets), len(row), dtype=torch.bool, device=row.device)
    hide[:, positions] = sets.to(row.device)
    hidden_nats = _hidden_nats(denoiser, row, hide, valid, batch)[:, positions].cpu()
    return (hidden_nats * weights).view(orders, -1).sum(-1)


def _all_sets(n: int) -> tuple[Tensor, Tensor]:
    """n -> every non-empty set of n tokens (2**n - 1, n) bool, and the weight of each of its tokens (2**n - 1, n).

    The weight is the share of orders in which exactly this set is hidden and this token is revealed next:
    1 / (l C(n, l)) for a set of l tokens.
    """
    sets = torch.cartesian_prod(*[torch.tensor([False, True])] * n).view(-1, n)[1:]
    share = [1 / (size * math.comb(n, size)) for size in sets.sum(-1).tolist()]
    return sets, sets.double() * torch.tensor(share, dtype=torch.float64)[:, None]


def _drawn_sets(n: int, orders: int, seed: int) -> tuple[Tensor, Tensor]:
    """n -> the sets hidden at each step of `orders` random orders of n tokens, (orders * n, n) bool, order by order.

    The second tensor has the weights (orders * n, n): 1 for the token that is revealed next, 0 for the others.
    """
    u = uniform(torch.tensor(seed), torch.arange(orders)[:, None], torch.arange(n)[None], _ORDERS)
    rank = u.argsort(-1).argsort(-1)[:, None]
    turn = torch.arange(n)[None, :, None]
    return (rank >= turn).flatten(0, 1), (rank == turn).flatten(0, 1).double()


def _hidden_nats(denoiser: Denoiser, row: Tensor, hide: Tensor, valid: Tensor | None, batch: int) -> Tensor:
    """Row (L,) and N hidden sets (N, L) -> -log p of every hidden token: (N, L) float64, 0 where not hidden."""
    return torch.cat(list(_parts(denoiser, row, hide, valid, batch)))


def _parts(denoiser: Denoiser, row: Tensor, hide: Tensor, valid: Tensor | None, batch: int) -> Iterator[Tensor]:
    """`_hidden_nats`, `batch` sets at a time."""
    for part in hide.split(batch):
        tokens = row.masked_fill(part, denoiser.mask_id)
        known = None if valid is None or bool(valid.all()) else valid.expand(len(part), -1)
        count = len(row) if valid is None else valid.sum()
        masked = (tokens == denoiser.mask_id) if known is None else (tokens == denoiser.mask_id) & known
        time = masked.sum(-1) / count if denoiser.time_conditioned else None
        hidden = denoiser.hidden(tokens, valid=known, time=time)
        log_probs = log_likelihoods(denoiser, hidden[part], row.expand(len(part), -1)[part])
        yield torch.zeros(part.shape, dtype=torch.float64, device=row.device).masked_scatter(part, -log_probs.double())
