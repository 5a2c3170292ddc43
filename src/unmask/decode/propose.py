"""From logits to a proposed token, exactly.

One float64 uniform a position goes through the inverse of the distribution, whose cumulative sum is kept in float64: a
token of probability 1e-7 is drawn once in ten million times. (Racing Gumbel noise in float32, as the published samplers
do, loses the rare tokens: arXiv:2409.02908.) Shapes: N positions, V vocabulary.
"""

__all__ = ["Proposal", "at_once", "check_sampling", "propose", "two_best"]

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.denoiser import clean_log_probs
from unmask.errors import RequestError, RunError
from unmask.ranges import Temperature, TopP, check_value

_CHUNK = 64  # a maximum is a fast reduction, its place a slow one: so look for the place in one chunk only


def at_once(flag: Tensor, error: Callable[[], Exception]) -> None:
    """Raise `error()` if the `flag` () bool is True."""
    if bool(flag):
        raise error()


class Proposal(NamedTuple):
    """What would be written, and what the model thinks of it. Only `tokens` depends on temperature and top-p."""

    tokens: Tensor  # (N,) int64
    log_probs: Tensor  # (N, V) float32, clean: MASK and what is not allowed at -inf, neither tempered nor filtered
    best: Tensor | None = None  # (N, 2) the two highest of them, where they were found on the way

    @property
    def log_prob(self) -> Tensor:
        """(N,) clean log-probability of the proposed token."""
        return self.log_probs.gather(-1, self.tokens[:, None]).squeeze(-1)

    def keep(self, rows: Tensor) -> "Proposal":
        """Those of some positions, by index or mask."""
        best = None if self.best is None else self.best[rows]
        return Proposal(self.tokens[rows], self.log_probs[rows], best)


def check_sampling(temperatures: Iterable[float], top_ps: Iterable[float]) -> None:
    """Raises RequestError for the first temperature or top-p that cannot be."""
    for value in temperatures:
        check_value("temperature", value, Temperature, RequestError)
    for value in top_ps:
        check_value("top_p", value, TopP, RequestError)


def propose(
    logits: Tensor,
    mask_id: int,
    u: Tensor | None,
    temperature: float | Tensor,
    top_p: float | Tensor,
    allowed: Tensor | None = None,
    refuse: Callable[[Tensor, Callable[[], Exception]], None] = at_once,
) -> Proposal:
    """Draw a token for each of N positions: logits (N, V), overwritten, and `u` (N,) float64 uniforms in (0, 1).

    Temperature 0 takes the most probable token and needs no `u`. `top_p` keeps the smallest set of most probable tokens
    whose joint probability, after tempering, reaches it. Both are one number, or both one a position, (N,) float64.
    `allowed` (N, V) or (1, V) bool leaves only these tokens. Raises RequestError where it leaves none but MASK,
    RunError for logits that are NaN or infinite; `refuse` (see `Checks.refuse`) may do it later.
    """
    if allowed is not None:
        logits = torch.where(allowed, logits, -torch.inf)
    clean = clean_log_probs(logits, mask_id, keep=False)
    refuse(clean[:, 0].isnan().any(), lambda: _not_a_law(allowed, mask_id))  # then its whole row is
    if not isinstance(temperature, Tensor) and not isinstance(top_p, Tensor):
        tokens, best = _choose(clean, u, temperature, top_p)
        return Proposal(tokens, clean, best)
    pairs = torch.stack([torch.as_tensor(temperature), torch.as_tensor(top_p)], -1)
    tokens = torch.empty_like(clean[:, 0], dtype=torch.int64)
    values, group = pairs.unique(dim=0, return_inverse=True)
    for number, pair in enumerate(values.tolist()):  # by the same operations as alone, so that bits are equal
        rows = (group == number).nonzero().squeeze(-1)
        tokens[rows], _ = _choose(clean[rows], None if u is None else u[rows], *pair)
    return Proposal(tokens, clean)


def _not_a_law(allowed: Tensor | None, mask_id: int) -> RequestError | RunError:
    """Why a row has no distribution: nothing is allowed there, or the network computes no numbers."""
    if allowed is not None:
        real = torch.arange(allowed.shape[-1], device=allowed.device) != mask_id
        if not bool((allowed & real).any(-1).all()):
            return RequestError("The constraint leaves no token for a hole; allow at least one that is not MASK.")
    return RunError(
        "The network computes logits that are NaN or infinite, so nothing can be written with it; use an earlier "
        "checkpoint, or --dtype float32."
    )


def _choose(clean: Tensor, u: Tensor | None, temperature: float, top_p: float) -> tuple[Tensor, Tensor | None]:
    """A token for each position (N,), and the two highest of its log-probabilities (N, 2) where they were found."""
    if temperature == 0:
        return two_best(clean)
    assert u is not None
    weights = (clean if temperature == 1 else (clean / temperature).log_softmax(-1)).exp()
    if top_p >= 1:
        return _inverse(weights, u), None
    ordered, ids = weights.sort(dim=-1, descending=True, stable=True)
    total = ordered.double().cumsum(-1)
    ordered = ordered.masked_fill(total - ordered >= top_p, 0.0)
    return ids.gather(-1, _inverse(ordered, u)[:, None]).squeeze(-1), None


def two_best(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values (N, V) -> the index of the maximum (N,), the left of equal values, and the two highest values (N, 2)."""
    rows, size = values.shape
    if size < 16 * _CHUNK:
        return values.argmax(-1), values.topk(min(2, size), -1).values
    whole = size - size % _CHUNK
    highest = values[:, :whole].unflatten(-1, (-1, _CHUNK)).amax(-1)
    if whole < size:
        highest = torch.cat([highest, values[:, whole:].amax(-1, keepdim=True)], -1)
    chunk = highest.argmax(-1, keepdim=True)
    first = (chunk * _CHUNK).clamp(max=size - _CHUNK)  # the last chunk may begin early
    inside = values.gather(-1, first + torch.arange(_CHUNK, device=values.device))
    place = inside.argmax(-1, keepdim=True)
    best = inside.gather(-1, place)
    inside = inside.scatter_(-1, place, -torch.inf).amax(-1, keepdim=True)
    others = highest.scatter_(-1, chunk, -torch.inf).amax(-1, keepdim=True)
    return (first + place).view(rows), torch.cat([best, torch.maximum(inside, others)], -1)


def _inverse(weights: Tensor, u: Tensor) -> Tensor:
    """The index at which the cumulative weight passes u times the total: (N, V), (N,) -> (N,).

    A weight of zero is never chosen: u lies strictly inside (0, 1), and `right=True` steps over flat stretches. Weights
    that are NaN give the last index: with one past the end a GPU stops the process before `refuse` can raise.
    """
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    target = (u[:, None] * total).clamp(max=torch.nextafter(total, total * 0))
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp(max=weights.shape[-1] - 1)
