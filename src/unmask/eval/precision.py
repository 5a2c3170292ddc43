"""Ancestral sampling as published programs do it: a maximum over noisy weights, in float32 or float64.

At a step from time t to s a masked position takes the v of the largest w_v / E_v, where w is p(v) (alpha_s - alpha_t)
for tokens, 1 - alpha_s for MASK, and E_v = -log u_v. That is the Gumbel maximum: v has probability w_v / sum(w). In
float32 uniforms are multiples of 2^-24, so that E has a least value of 2^-24 and a rare token cannot win against MASK
as often as it should (arXiv:2409.02908). The loop of `unmask.decode` draws in float64, and whether to reveal apart from
what.
Shapes: N positions, V vocabulary, B rows, L positions of a row.
"""

__all__ = ["ancestral_by_race", "race", "truncation"]

import math
from itertools import pairwise

import torch
from torch import Tensor

from unmask.denoiser import Denoiser, clean_log_probs
from unmask.errors import RequestError
from unmask.noise import generator
from unmask.process import Schedule

_LEAST = 1e-10  # added twice by the published programs, so that no logarithm is infinite


def race(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Weights (N, V) and uniforms (N, V) of the same format -> the index of the largest w / E, (N,)."""
    return (weights / (_LEAST - (uniforms + _LEAST).log())).argmax(-1)


def truncation(odds: float, bits: int = 24) -> float:
    """The odds of a token against MASK -> how often it wins with uniforms of `bits` bits, divided by the odds.

    The token wins with E = k 2^-bits where MASK has E > k 2^-bits / odds, so that its probability is the sum over k > 0
    of 2^-bits exp(-k / a) with a = 2^bits odds. The ratio is 1 / (a (exp(1 / a) - 1)), for small odds.
    """
    a = 2.0**bits * odds
    return 1 / (a * math.expm1(min(1 / a, 700.0)))


@torch.no_grad()
def ancestral_by_race(
    denoiser: Denoiser, schedule: Schedule, tokens: Tensor, steps: int, dtype: torch.dtype, seed: int
) -> Tensor:
    """Tokens (B, L) with MASK -> the tokens after `steps` steps in which every masked position races.

    The network runs for rows that have changed. Raises RequestError for one that reads the time, and so would have to
    run at every step.
    """
    if denoiser.time_conditioned:
        raise RequestError("This network reads the time; compare formats of noise on one that does not.")
    source, tokens = generator(seed), tokens.clone()
    grid = schedule.alpha(torch.linspace(1, 0, steps + 1, dtype=torch.float64)).tolist()
    shape = (*tokens.shape, denoiser.vocab_size)
    p, stale = torch.zeros(shape), torch.ones(len(tokens), dtype=torch.bool)
    for now, then in pairwise(grid):
        masked = tokens == denoiser.mask_id
        run = stale & masked.any(-1)
        if bool(run.any()):
            p[run] = clean_log_probs(denoiser.logits(denoiser.hidden(tokens[run])), denoiser.mask_id).exp()
        weights = p[masked].to(dtype) * (then - now)
        weights[:, denoiser.mask_id] = 1 - then
        drawn = race(weights, torch.rand(weights.shape, dtype=dtype, generator=source))
        fresh = tokens.masked_scatter(masked, drawn)
        stale = (fresh != tokens).any(-1)
        tokens = fresh
    return tokens
