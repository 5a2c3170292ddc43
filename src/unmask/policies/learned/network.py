"""The two laws that a policy may draw its sets from, and what a set has for probability under them.

Shapes: N views, A positions.

The network: one transformer block over features of positions, conditioned on mask, time and price.

arXiv:2512.09106, section 4: adaptive norms per position, rotary places, one logit a position. A condition takes as many
values in a row as a position has states, so that it is worked out for these and then looked up. Shapes: N views, A
positions, F features, D width, S states.
"""

__all__ = [
    "STATES",
    "Observation",
    "PolicyNetwork",
    "bernoulli_entropy",
    "bernoulli_log_prob",
    "plackett_luce_log_prob",
    "plackett_luce_rank",
]

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.batch import pad_rows
from unmask.policies.learned.settings import LEAST_ALPHA, PolicySettings


def bernoulli_log_prob(logits: Tensor, eligible: Tensor, reveal: Tensor) -> Tensor:
    """(N,) of a coin for each eligible position, in float32; the empty set has a probability too."""
    each = F.logsigmoid(torch.where(reveal, logits, -logits).float())
    return each.masked_fill(~eligible, 0).sum(-1)


def bernoulli_entropy(logits: Tensor, eligible: Tensor) -> Tensor:
    """(N,) of all coins of a view together, in nats."""
    p = logits.float().sigmoid()
    each = -(p * F.logsigmoid(logits) + (1 - p) * F.logsigmoid(-logits))
    return each.masked_fill(~eligible, 0).sum(-1)


def plackett_luce_rank(logits: Tensor, eligible: Tensor, noise: Tensor | None) -> Tensor:
    """(N, A) int64: 1, 2, ... in the order of choosing, 0 for what was not chosen.

    The first choice is forced, among the eligible positions; then a STOP of logit 0 takes part. `noise` (N, A) uniforms
    race as Gumbel variables, that of STOP drawn below the first choice's, as it was not in that race; without noise the
    order is that of the logits. STOP's own number is the low half of the first position's, which the high half does not
    tell.
    """
    score = logits.masked_fill(~eligible, -torch.inf)
    stop = torch.zeros_like(logits[:, :1])
    if noise is not None:
        scaled = noise * 2.0**26
        low = (scaled[:, :1] - scaled[:, :1].floor()).clamp(1e-12, 1 - 1e-7)
        score = score - (-((scaled.floor() + 0.5) * 2.0**-26).log()).log()
        stop = -((-score.amax(-1, keepdim=True)).exp() - low.log()).log()
    order = score.argsort(dim=-1, descending=True, stable=True)
    rank = (
        torch.empty_like(order).scatter_(-1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order))
        + 1
    )
    return torch.where(eligible & ((score > stop) | (rank == 1)), rank, 0)


def plackett_luce_log_prob(logits: Tensor, eligible: Tensor, rank: Tensor) -> Tensor:
    """(N,) of a ranking: the forced first choice, each further one among what is left and STOP, and STOP at the end."""
    logits = logits.float().masked_fill(~eligible, -torch.inf)
    last = rank.amax(-1, keepdim=True)
    place = torch.where(rank > 0, rank, torch.where(eligible, last + 1, last + 2))
    order = place.argsort(dim=-1, stable=True)
    inside = logits.gather(-1, order)
    rest = inside.flip(-1).logcumsumexp(-1).flip(-1)  # of what is left when each is chosen
    ranked = rank.gather(-1, order)
    first = inside[:, 0] - rest[:, 0]
    later = inside - torch.logaddexp(rest, torch.zeros_like(rest))
    left = torch.where(ranked == 0, inside, -torch.inf).logsumexp(-1)
    end = torch.where(eligible.sum(-1) > rank.gt(0).sum(-1), -F.softplus(left), 0.0)
    return first + torch.where(ranked > 1, later, 0.0).sum(-1) + end


STATES = 3
"""What a position may be: written, eligible, or hidden and not eligible."""
_WAVES = 4
_BIAS = -2.0


class Observation(NamedTuple):
    """What the network is told; the tape of a rollout is made of these."""

    features: Tensor  # (N, A, F) float32, 0 where nothing is known
    state: Tensor  # (N, A) int64 below STATES
    present: Tensor  # (N, A) bool: no prompt, no padding
    time: Tensor  # (N,) passes spent over the positions that were to fill
    price: Tensor  # (N,) of a pass
    places: Tensor  # (N, A) int64: where in its row each position is


class PolicyNetwork(nn.Module):
    """Features to logits; one block, pre-norm."""

    def __init__(self, settings: PolicySettings, seed: int = 0) -> None:
        """Weights are drawn from `seed`; it begins near revealing with probability sigmoid(-2)."""
        super().__init__()
        self.settings = settings
        d = settings.width
        self.inputs = nn.Linear(settings.inputs, d)
        self.state = nn.Embedding(STATES, d) if settings.mask else None
        self.time = _vector(1 + 2 * _WAVES, d) if settings.time else None
        self.price = _vector(2, d) if settings.priced else None
        self.adapt = nn.Linear(d, 6 * d)
        self.norm_1, self.norm_2 = (nn.LayerNorm(d, elementwise_affine=False) for _ in range(2))
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, 1)
        self._draw(torch.Generator().manual_seed(seed))

    def _draw(self, chance: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                bound = module.in_features**-0.5
                nn.init.uniform_(module.weight, -bound, bound, generator=chance)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, generator=chance)
        nn.init.zeros_(self.adapt.weight)
        nn.init.normal_(self.head.weight, std=0.02, generator=chance)
        nn.init.constant_(self.head.bias, _BIAS)

    def forward(self, seen: Observation) -> Tensor:
        """(N, A) logits; those of positions that are not eligible mean nothing."""
        count = len(seen.time)
        condition = self._condition(seen)
        x = self.inputs(seen.features) + _looked_up(condition[:count], seen.state)
        six = _looked_up(self.adapt(F.silu(condition))[:count], seen.state).chunk(6, -1)
        x = x + (1 + six[2]) * self._attend(self.norm_1(x) * (1 + six[0]) + six[1], seen)
        x = x + (1 + six[5]) * self.down(F.gelu(self.up(self.norm_2(x) * (1 + six[3]) + six[4])))
        return self.head(self.norm(x)).squeeze(-1)

    def _condition(self, seen: Observation) -> Tensor:
        """(N, S, D): mask, time and price, added up; N padded (see unmask.batch), so that neighbours change no bits."""
        time, price = (pad_rows(x) for x in (seen.time, seen.price))
        out = seen.features.new_zeros(len(time), STATES, self.settings.width)
        if self.state is not None:
            out = out + self.state.weight
        if self.time is not None:
            waves = time[:, None] * (math.pi / 2 * 2.0 ** torch.arange(_WAVES, device=time.device))
            out = out + self.time(torch.cat([time[:, None], waves.sin(), waves.cos()], -1))[:, None]
        if self.price is not None:
            alpha = price * self.settings.unit
            told = torch.stack([(1 + alpha).log(), (alpha + LEAST_ALPHA).log() / 3], -1)
            out = out + self.price(told)[:, None]
        return out

    def _attend(self, x: Tensor, seen: Observation) -> Tensor:
        """Attention among the positions that are present."""
        heads = self.settings.heads
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        if self.settings.positions:
            turns = _turns(seen.places, q.shape[-1] // 2)
            q, k = _turned(q, turns), _turned(k, turns)
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        weights = scores.masked_fill(~seen.present[:, None, None], -1e4).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(-2))


def _vector(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width))


def _looked_up(table: Tensor, state: Tensor) -> Tensor:
    """(N, S, E) by (N, A) -> (N, A, E)."""
    return torch.einsum("nse,nas->nae", table, F.one_hot(state, STATES).to(table.dtype))


def _turns(places: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (N, 1, A, half) of the rotary embedding, base 10000."""
    angles = places[:, None, :, None] * 10_000.0 ** (-torch.arange(half, device=places.device) / half)
    return angles.cos(), angles.sin()


def _turned(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """(N, H, A, E), turned."""
    cos, sin = turns
    one, two = x.chunk(2, -1)
    return torch.cat([one * cos - two * sin, two * cos + one * sin], -1)
