"""The policy network (features of positions -> one logit a position), and the two laws of a set given its logits.

The logit of a masked position is that of revealing it; that of a written one, where the settings allow it, of hiding it
again. So one Bernoulli draw a position covers both.

The network is one transformer block over the positions of a view, conditioned on the state of each position, the time
and the cost of a pass: adaptive norms per position, rotary positions (arXiv:2512.09106, section 4). In a view the
condition depends on the state of a position alone, so it is computed once a state and then looked up. A set of
positions is drawn by independent Bernoulli draws, or as a ranking (Plackett-Luce, appendix E). Shapes: N views, A
positions, F features, D width, S states.
"""

__all__ = [
    "STATES",
    "WRITTEN",
    "FilterNetwork",
    "Observation",
    "PolicyNetwork",
    "bernoulli_entropy",
    "bernoulli_log_prob",
    "make_network",
    "plackett_luce_log_prob",
    "plackett_luce_rank",
]

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.batch import pad_rows
from unmask.errors import RequestError
from unmask.limits import require_memory
from unmask.policies.learned.settings import LEAST_ALPHA, PolicySettings


def bernoulli_log_prob(logits: Tensor, eligible: Tensor, reveal: Tensor) -> Tensor:
    """Logits (N, A) and the set `reveal` (N, A) -> log-probability (N,) of independent Bernoulli draws, in float32.

    Only eligible positions are drawn. The empty set has a probability too.
    """
    each = F.logsigmoid(torch.where(reveal, logits, -logits).float())
    return each.masked_fill(~eligible, 0).sum(-1)


def bernoulli_entropy(logits: Tensor, eligible: Tensor) -> Tensor:
    """Logits (N, A) -> joint entropy (N,) in nats of the Bernoulli draws of a view."""
    p = logits.float().sigmoid()
    each = -(p * F.logsigmoid(logits) + (1 - p) * F.logsigmoid(-logits))
    return each.masked_fill(~eligible, 0).sum(-1)


def plackett_luce_rank(logits: Tensor, eligible: Tensor, noise: Tensor | None) -> Tensor:
    """Logits (N, A) -> a ranking (N, A) int64: 1, 2, ... in the order of choice, 0 for positions that are not chosen.

    The first choice is always an eligible position; from the second choice on, a STOP of logit 0 is a candidate, and
    the ranking ends where STOP is chosen. With uniforms `noise` (N, A) the ranking is sampled: each logit gets a Gumbel
    variable, and that of STOP is conditioned to be below the first choice, where STOP was no candidate. Without noise
    the order is that of the logits. The uniform of STOP is the low bits of the first position's uniform, which are
    independent of the high bits used there.
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
    """Logits (N, A) and a ranking -> its log-probability (N,).

    It is the product of the first choice among the eligible positions, each later choice among the rest and STOP, and
    the final STOP.
    """
    logits = logits.float().masked_fill(~eligible, -torch.inf)
    last = rank.amax(-1, keepdim=True)
    position = torch.where(rank > 0, rank, torch.where(eligible, last + 1, last + 2))
    order = position.argsort(dim=-1, stable=True)
    inside = logits.gather(-1, order)
    rest = inside.flip(-1).logcumsumexp(-1).flip(-1)  # over the candidates at each choice
    ranked = rank.gather(-1, order)
    first = inside[:, 0] - rest[:, 0]
    later = inside - torch.logaddexp(rest, torch.zeros_like(rest))
    left = torch.where(ranked == 0, inside, -torch.inf).logsumexp(-1)
    end = torch.where(eligible.sum(-1) > rank.gt(0).sum(-1), -F.softplus(left), 0.0)
    return first + torch.where(ranked > 1, later, 0.0).sum(-1) + end


STATES = 3
"""Number of states of a position: written, eligible, or hidden and not eligible."""
WRITTEN = 0
"""The state of a written position."""
_WAVES = 4
_BIAS = -2.0
_LOG_LENGTH = 3.0  # divides log(positions), which is then between 0 and 1.6 for up to 128
_HIDE_BIAS = -4.0  # of hiding a position again


class Observation(NamedTuple):
    """The input of the network, which rollouts record."""

    features: Tensor  # (N, A, F) float32, 0 where a position has none
    state: Tensor  # (N, A) int64 below STATES
    present: Tensor  # (N, A) bool: neither prompt nor padding
    time: Tensor  # (N,) passes so far / positions to fill at the start
    cost: Tensor  # (N,) of a pass
    positions: Tensor  # (N, A) int64: index of each position in its row


class PolicyNetwork(nn.Module):
    """Observation -> logits (N, A): one transformer block, pre-norm."""

    def __init__(self, settings: PolicySettings, seed: int = 0) -> None:
        """Draw the weights from `seed`; at the start each reveal probability is near sigmoid(-2)."""
        super().__init__()
        self.settings = settings
        d = settings.width
        weights = d * (18 * d + settings.inputs)
        require_memory(4 * weights, f"A policy of {weights:,} parameters", "set a smaller --policy.width")
        self.inputs = nn.Linear(settings.inputs, d)
        self.state = nn.Embedding(STATES, d) if settings.mask else None
        self.time = _vector(1 + 2 * _WAVES, d) if settings.time else None
        self.price = _vector(2, d) if settings.priced else None  # of the cost; stored weights have this name
        self.length = _vector(1, d) if settings.length else None
        self.adapt = nn.Linear(d, 6 * d)
        self.norm_1, self.norm_2 = (nn.LayerNorm(d, elementwise_affine=False) for _ in range(2))
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, 1)
        self._draw(torch.Generator().manual_seed(seed))
        self.hide = nn.Linear(d, 1) if settings.hides else None
        if self.hide is not None:
            nn.init.zeros_(self.hide.weight)
            nn.init.constant_(self.hide.bias, _HIDE_BIAS)

    def _draw(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                bound = module.in_features**-0.5
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, generator=generator)
        nn.init.zeros_(self.adapt.weight)
        nn.init.normal_(self.head.weight, std=0.02, generator=generator)
        nn.init.constant_(self.head.bias, _BIAS)

    def forward(self, seen: Observation) -> Tensor:
        """Observation -> logits (N, A) of revealing, at written positions of hiding again if the settings allow it.

        Those of positions where neither is possible have no meaning.
        """
        count = len(seen.time)
        condition = self._condition(seen)
        table = torch.cat([condition, self.adapt(F.silu(condition))], -1)
        first, *six = _by_state(table[:count], seen.state).chunk(7, -1)
        x = self.inputs(seen.features) + first
        x = x + (1 + six[2]) * self._attend(self.norm_1(x) * (1 + six[0]) + six[1], seen)
        x = x + (1 + six[5]) * self.down(F.gelu(self.up(self.norm_2(x) * (1 + six[3]) + six[4])))
        x = self.norm(x)
        logits = self.head(x).squeeze(-1)
        return logits if self.hide is None else torch.where(seen.state == WRITTEN, self.hide(x).squeeze(-1), logits)

    def _condition(self, seen: Observation) -> Tensor:
        """The sum (N, S, D) of the embeddings of state, time, cost and number of positions.

        N is padded (see unmask.batch), so that a view's bits do not depend on the other views.
        """
        time, cost = (pad_rows(x) for x in (seen.time, seen.cost))
        out = seen.features.new_zeros(len(time), STATES, self.settings.width)
        if self.state is not None:
            out = out + self.state.weight
        if self.time is not None:
            waves = time[:, None] * (math.pi / 2 * 2.0 ** torch.arange(_WAVES, device=time.device))
            out = out + self.time(torch.cat([time[:, None], waves.sin(), waves.cos()], -1))[:, None]
        if self.price is not None:
            alpha = cost * self.settings.unit
            inputs = torch.stack([(1 + alpha).log(), (alpha + LEAST_ALPHA).log() / 3], -1)
            out = out + self.price(inputs)[:, None]
        if self.length is not None:
            count = pad_rows(seen.present.sum(-1).float()).clamp(min=1)
            out = out + self.length(count.log()[:, None] / _LOG_LENGTH)[:, None]
        return out

    def _attend(self, x: Tensor, seen: Observation) -> Tensor:
        """Attention over the positions that are present."""
        qk, v = self.qkv(x).split([2 * x.shape[-1], x.shape[-1]], -1)
        if self.settings.positions:
            qk = _rotated(qk, seen.positions, x.shape[-1] // self.settings.heads // 2)
        q, k, v = (part.unflatten(-1, (self.settings.heads, -1)).transpose(1, 2) for part in (*qk.chunk(2, -1), v))
        mask = seen.present[:, None, None]
        if torch.is_grad_enabled():  # on a CPU the fused kernel is five times slower with gradients
            scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
            out = scores.masked_fill(~mask, -1e4).softmax(-1) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(out.transpose(1, 2).flatten(-2))


class FilterNetwork(nn.Module):
    """Observation -> logits (N, A) by two layers over the confidences of all positions (Learn2PD, arXiv:2509.25188).

    Each layer has `settings.unit` channels, one a position to fill, from left to right; a position without a confidence
    has 0. The paper has a block of 32 tokens, and the widths of its layers are known from a reading alone.
    """

    def __init__(self, settings: PolicySettings, seed: int = 0) -> None:
        """Draw the weights from `seed`; at the start each reveal probability is near sigmoid(-2)."""
        super().__init__()
        self.settings = settings
        size = round(settings.unit)
        self.up, self.head = nn.Linear(size, size), nn.Linear(size, size)
        generator = torch.Generator().manual_seed(seed)
        for layer in (self.up, self.head):
            nn.init.uniform_(layer.weight, -(size**-0.5), size**-0.5, generator=generator)
        nn.init.zeros_(self.up.bias)
        nn.init.constant_(self.head.bias, _BIAS)

    def forward(self, seen: Observation) -> Tensor:
        """Observation -> logits (N, A). Raises RequestError for a row with more positions than the network has."""
        confidence, size = seen.features[..., 0], self.up.in_features
        count, width = confidence.shape
        if (most := int(seen.present.sum(-1).max())) > size:
            raise RequestError(
                f"This filter was trained on {size} positions to fill, and a text has {most}; fill fewer at once, or "
                "train a filter for texts of this length."
            )
        x = pad_rows(F.pad(confidence, (0, size - width)))  # so that a view's bits do not depend on the other views
        return F.pad(self.head(self.up(x).relu())[:count], (0, width - size))


def make_network(settings: PolicySettings, seed: int = 0) -> PolicyNetwork | FilterNetwork:
    """Settings -> the network that they name, with weights drawn from `seed`."""
    return FilterNetwork(settings, seed) if settings.network == "mlp" else PolicyNetwork(settings, seed)


def _vector(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width))


def _by_state(table: Tensor, state: Tensor) -> Tensor:
    """Table (N, S, E) and states (N, A) -> the entry of each position, (N, A, E): a product where gradients have to be
    added up, else a look-up."""
    if not torch.is_grad_enabled():
        rows = state + STATES * torch.arange(len(state), device=state.device)[:, None]
        return table.flatten(0, 1).index_select(0, rows.flatten()).view(*state.shape, -1)
    return torch.einsum("nse,nas->nae", table, F.one_hot(state, STATES).to(table.dtype))


def _rotated(x: Tensor, positions: Tensor, half: int) -> Tensor:
    """x (N, A, D), in parts of 2 `half` channels, and positions (N, A) -> each part with its halves rotated.

    Rotary embedding, base 10000. The tables have all channels, since operations on rows of `half` elements are slow.
    """
    angles = positions[..., None] * 10_000.0 ** (-torch.arange(half, device=positions.device) / half)
    parts = x.shape[-1] // half
    cos, sin = angles.cos(), angles.sin()
    swapped = x.unflatten(-1, (-1, 2, half)).flip(-2).flatten(-3)
    return x * cos.repeat(1, 1, parts) + swapped * torch.cat([-sin, sin], -1).repeat(1, 1, parts // 2)
