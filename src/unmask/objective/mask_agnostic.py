"""The mask-agnostic loss: predictions that do not depend on how many MASKs stand behind a text (arXiv:2511.21338).

A denoiser that writes sees MASK at every position to be filled, and their number changes what it predicts at the first
of them. The loss looks at two copies of a row that differ in the number of MASKs behind it:

    p ~ U(shares), each maskable token hidden with probability p, n of them; l_1 and l_2 MASKs behind the two copies
    L = a / (2 p n) sum over copies and hidden tokens of -log p_i(x)  +  b p / n sum over hidden tokens of |p_1 - p_2|

(equations 1 and 2, algorithm 1 and appendix B), where |p_1 - p_2| is the sum over the vocabulary of absolute
differences: twice the total variation. Only tokens of the row are predicted, never the MASKs behind it.
"""

__all__ = ["MaskAgnostic", "appended", "pair_values"]

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from unmask.batch import padded_size
from unmask.denoiser import Denoiser, clean_log_probs, selection
from unmask.noise import generator
from unmask.objective.base import BUDGET, Draw, Loss, Rows, Turn, head_values
from unmask.objective.masked import Masked, stratified

_STREAM = 15  # of the seed: the maskings and the numbers of MASKs


@dataclass(frozen=True, slots=True)
class MaskAgnostic:
    """The mask-agnostic loss as an Objective; the bound that it reports is that of `inner`.

    `masks` is the largest number of MASKs behind a row; it rises from 1 in the first step to this in `rise` steps. The
    weight of a row in a batch is its number of maskable tokens, as that of the bound; in the paper it is 1.
    """

    inner: Masked
    masks: int
    rise: int = 0
    cross_entropy: float = 0.1
    variation: float = 1.0
    shares: tuple[float, float] = (0.2, 0.8)

    def draw(self, seed: int, step: int, rows: Tensor, total: int, maskable: Tensor) -> Draw:
        """(hide (B, L) bool, p (B,), most (B,) int64, two numbers in [0, 1) that choose the MASKs (B,) each).

        p is stratified over the batch; `most` is the largest number of MASKs at this step.
        """
        source = generator(seed, _STREAM, step)
        r = stratified(torch.rand((), generator=source, dtype=torch.float64), total)[rows]
        u = torch.rand((total, maskable.shape[1]), generator=source)[rows]
        first, second = torch.rand((2, total), generator=source, dtype=torch.float64)[:, rows]
        low, high = self.shares
        share = low + (high - low) * r
        most = self.masks if step >= self.rise else max(1, self.masks * (step + 1) // self.rise)
        return (u < share[:, None]) & maskable, share, torch.full_like(rows, most), first, second

    def loss(self, model: Denoiser, rows: Rows, draw: Draw) -> Loss:
        """The loss of each row times its number of maskable tokens; 0 where no token is hidden."""
        hide, share, most, *places = draw
        tokens, lengths = torch.where(hide, model.mask_id, rows.ids), _lengths(rows)
        space = most if model.max_length is None else most.minimum(model.max_length - lengths)
        n, states = rows.maskable.sum(-1), list[Tensor]()
        for count in _numbers(space, *places):
            time = ((share * n + count) / (n + count).clamp(min=1)).float() if model.time_conditioned else None
            states.append(_states(model, tokens, lengths, hide, count, time))
        of_pair = partial(pair_values, mask_id=model.mask_id)
        values = head_values(model, torch.stack(states, 1), rows.ids[hide], of_pair, BUDGET // 2)
        table = values.new_zeros((*hide.shape, 2)).masked_scatter(hide[..., None], values).sum(1)
        hidden = hide.sum(-1).clamp(min=1)
        parts = self.cross_entropy / share * table[:, 0], self.variation * share * table[:, 1]
        return Loss(((parts[0] + parts[1]) * n / hidden).to(values.dtype), n)

    @torch.no_grad()
    def bound(self, model: Denoiser, rows: Rows, turn: Turn) -> Loss:
        """As that of `inner`: no MASK is appended."""
        return self.inner.bound(model, rows, turn)


def pair_values(logits: Tensor, targets: Tensor, mask_id: int) -> Tensor:
    """Logits (N, 2, V) of two predictions of a token, ids (N,) -> (N, 2): mean of -log p, sum of |p - q|."""
    log_p = clean_log_probs(logits, mask_id)
    first, second = log_p.exp().unbind(1)
    picked = log_p.gather(-1, targets[:, None, None].expand(-1, 2, 1)).squeeze(-1)
    return torch.stack([-picked.mean(1), (first - second).abs().sum(-1)], -1)


def appended(tokens: Tensor, lengths: Tensor, counts: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
    """Rows (B, L), of which the first `lengths` (B,) count, and numbers (B,) -> the rows with so many MASKs behind.

    Tokens (B, M) and valid (B, M), M the length of the longest row, padded.
    """
    ends = lengths + counts
    at = torch.arange(padded_size(int(ends.max())), device=tokens.device)
    tokens = F.pad(tokens, (0, max(0, len(at) - tokens.shape[1])))[:, : len(at)]
    return tokens.where(at < lengths[:, None], mask_id), at < ends[:, None]


def _lengths(rows: Rows) -> Tensor:
    """The number of tokens of each row (B,)."""
    if rows.valid is None:
        return torch.full_like(rows.ids[:, 0], rows.ids.shape[1])
    return rows.valid.sum(-1)


def _numbers(space: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The most MASKs (B,), two numbers in [0, 1) -> two different numbers of MASKs from 0 to the most, all pairs alike.

    Both are 0 where there is no space.
    """
    a, b = (first * (space + 1)).long(), (second * space).long()
    return a.minimum(space), torch.where(space > 0, b + (b >= a), 0)


def _states(
    model: Denoiser, tokens: Tensor, lengths: Tensor, hide: Tensor, counts: Tensor, time: Tensor | None
) -> Tensor:
    """Rows with MASKs in them, and the number of those behind (B,) -> hidden states (N, D) where `hide` (B, L) is."""
    tokens, valid = appended(tokens, lengths, counts, model.mask_id)
    where = F.pad(hide, (0, max(0, tokens.shape[1] - hide.shape[1])))[:, : tokens.shape[1]]
    return model.hidden(tokens, valid=valid, time=time, **selection(model, where))[where]
