"""Which held-out sequences a pace is measured on: two sets that share none, all of the same number of tokens.

The information curve of a model: the mean cross-entropy of a hidden token where j of n are revealed at random.

f(j) falls from f(0), no context, to f(n - 1), all but one revealed; its sum is the any-order bound on -log p. Which
pace is best for k passes follows from it alone (arXiv:2511.04647; unmask.policies.pace).
Shapes: S sequences, L positions, G counts on the grid, n maskable tokens in each sequence.
"""

__all__ = ["Curve", "Revealed", "grid", "isotonic", "measure_curve", "orders", "reveal", "two_sets"]

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unmask.data.packed import Packed
from unmask.denoiser import Denoiser, clean_log_probs
from unmask.errors import DataError
from unmask.noise import generator
from unmask.objective.base import Rows
from unmask.objective.cross_entropy import BUDGET
from unmask.policies.pace import Sizes

_STREAM = 5  # of the seed


def two_sets(
    data: Packed, sequences: int, *, prompt: float = 0.0, batch: int = 16, seed: int = 0, device: str = "cpu"
) -> tuple[list[Rows], list[Rows]]:
    """Two lists of batches with `sequences` random rows each, or half of what there are, and never a row in both.

    Rows have the number of maskable tokens that most rows have; the first `prompt` share of these counts as given.
    Raises DataError where there are fewer than four such rows.
    """
    lengths = data.last - data.first
    usual = int(np.bincount(lengths).argmax()) if len(lengths) else 0
    rows = np.flatnonzero(lengths == usual)
    each = min(sequences, len(rows) // 2)
    if each < 2 or usual < 2:
        raise DataError(
            f"The text has {len(rows)} sequences of {usual} tokens; the curve needs at least 4 of at least 2 tokens: "
            "give a longer text, or shorter sequences with --data.length."
        )
    chosen = rows[torch.randperm(len(rows), generator=generator(seed, _STREAM))[: 2 * each].numpy()]
    sets: list[list[Rows]] = []
    for part in (chosen[:each], chosen[each:]):
        sets.append([])
        for at in range(0, each, batch):
            ids, maskable, valid = (torch.from_numpy(x).to(device) for x in data.batch(part[at : at + batch]))
            given = maskable & (maskable.cumsum(-1) <= int(prompt * usual))
            sets[-1].append(Rows(ids, maskable & ~given, valid))
    return sets[0], sets[1]


Tell = Callable[[int], None]


class Revealed(NamedTuple):
    """What a model says of what is hidden where `start` positions are revealed, in the order they would come."""

    start: int
    cross_entropy: Tensor  # (B, n - start) nats, of the positions of rank start, start + 1, ..
    entropy: Tensor  # (B, n - start) nats, of the predictive distribution


@dataclass(frozen=True, slots=True)
class Curve:
    """The curve as measured: for each sequence and count an unbiased estimate of the mean over hidden positions."""

    total: int
    """n, the maskable tokens of a sequence."""
    counts: tuple[int, ...]
    """Numbers of revealed tokens, rising from 0 to n - 1."""
    cross_entropy: Tensor
    """(S, G) float64 nats."""
    entropy: Tensor
    """(S, G) float64 nats: equal to the cross-entropy in the mean where the model is calibrated."""

    def fitted(self) -> Tensor:
        """f(j) for j = 0 .. n - 1, (n,): the non-increasing fit to the means, weighted by the hidden tokens that each
        stands for, with straight lines between."""
        hidden = self.total - torch.tensor(self.counts, dtype=torch.float64)
        return self._everywhere(isotonic(self.cross_entropy.mean(0), hidden)[None])[0]

    def error_of(self, sizes: Sizes) -> float:
        """Standard error, over sequences, of the bound that the curve predicts for a pace, in nats."""
        starts = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        costs = self._everywhere(self.cross_entropy)[:, starts] @ torch.tensor(sizes).double()
        return float(costs.std() / len(costs) ** 0.5)

    def stderr(self) -> Tensor:
        """(G,) standard errors of the mean cross-entropies, over sequences."""
        return self.cross_entropy.std(0) / len(self.cross_entropy) ** 0.5

    def _everywhere(self, values: Tensor) -> Tensor:
        """(.., G) on the grid -> (.., n) by straight lines."""
        counts = torch.tensor(self.counts, dtype=torch.float64)
        at = torch.arange(self.total, dtype=torch.float64)
        above = torch.searchsorted(counts, at).clamp(min=min(1, len(counts) - 1))
        below = (above - 1).clamp(min=0)
        share = (at - counts[below]) / (counts[above] - counts[below]).clamp(min=1)
        return torch.lerp(values[..., below], values[..., above], share)


def grid(total: int, dense: int = 16, sparse: int = 40) -> tuple[int, ...]:
    """Counts to measure at: all up to `dense`, and about `sparse` more, evenly spread in their logarithm, to n - 1."""
    top = total - 1
    near, far = range(min(dense, top) + 1), torch.linspace(math.log(dense), math.log(max(top, dense)), sparse).exp()
    return tuple(sorted({*near, *(j for j in far.round().int().tolist() if j <= top), top}))


def isotonic(values: Tensor, weights: Tensor) -> Tensor:
    """The non-increasing sequence nearest to `values` (G,) in weighted squares: neighbours that rise are pooled."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, mass, count = value, weight, 1
        while pools and pools[-1][0] < mean:
            before, heavy, many = pools.pop()
            mean = (before * heavy + mean * mass) / (heavy + mass)
            mass, count = heavy + mass, many + count
        pools.append((mean, mass, count))
    return torch.tensor([mean for mean, _, count in pools for _ in range(count)], dtype=torch.float64)


def orders(maskable: Tensor, chance: torch.Generator) -> Tensor:
    """A uniformly random order of each row's maskable positions: (B, L) bool -> (B, n) places. Every row has n.

    Raises DataError where the rows differ in how many positions are maskable.
    """
    total = maskable.sum(-1)
    if len(total) == 0 or bool((total != total[0]).any()) or int(total[0]) == 0:
        raise DataError("The curve needs rows with the same number of maskable tokens, at least one each.")
    u = torch.rand(maskable.shape, generator=chance, dtype=torch.float64)
    return torch.where(maskable.cpu(), u, 2.0).argsort(-1)[:, : int(total[0])].to(maskable.device)


@torch.no_grad()
def reveal(denoiser: Denoiser, rows: Rows, order: Tensor, counts: Sequence[int]) -> Iterator[Revealed]:
    """One forward pass for each count: the first so many of `order` (B, n) stand, the others are hidden."""
    valid = torch.ones_like(rows.maskable) if rows.valid is None else rows.valid
    padded = not bool(valid.all())
    for count in counts:
        hidden = order[:, count:]
        tokens = rows.ids.scatter(-1, hidden, denoiser.mask_id)
        time = hidden.shape[1] / valid.sum(-1) if denoiser.time_conditioned else None
        prompt = valid & ~rows.maskable
        states = denoiser.hidden(tokens, valid=valid if padded else None, time=time, prompt=prompt)
        picked = states.gather(1, hidden[..., None].expand(-1, -1, states.shape[-1])).flatten(0, 1)
        targets = rows.ids.gather(1, hidden).flatten()
        size = max(1, BUDGET // denoiser.vocab_size)
        parts = zip(picked.split(size), targets.split(size), strict=True)
        both = torch.cat([_entropies(denoiser, part, wanted) for part, wanted in parts], -1)
        cross, entropy = both.cpu().view(2, *hidden.shape)
        yield Revealed(count, cross, entropy)


def measure_curve(
    denoiser: Denoiser, batches: Sequence[Rows], chance: torch.Generator, tell: Tell = lambda sequences: None
) -> Curve:
    """The curve over all rows, each revealed in one random order; `tell` hears how many sequences are done.

    Raises DataError for rows that differ in how many tokens are maskable.
    """
    cross, entropy, counts, total = list[Tensor](), list[Tensor](), (0,), 1
    for rows in batches:
        order = orders(rows.maskable, chance)
        total = order.shape[1]
        counts = grid(total)
        found = list(reveal(denoiser, rows, order, counts))
        cross.append(_paired([one.cross_entropy for one in found]))
        entropy.append(_paired([one.entropy for one in found]))
        tell(len(rows.ids))
    return Curve(total, counts, torch.cat(cross), torch.cat(entropy))


def _paired(values: Sequence[Tensor]) -> Tensor:
    """(B, hidden) values at rising counts of revealed tokens -> (B, G): the first mean plus the mean changes since.

    A change is that of the tokens which stay hidden: a random hidden token, so the mean is the same as that of all that
    are hidden, without the noise of which tokens these are; where few are left it would drown the shape of the curve.
    """
    changes = [(now - before[:, -now.shape[1] :]).mean(-1) for before, now in pairwise(values)]
    return torch.stack([values[0].mean(-1), *changes], -1).cumsum(-1)


def _entropies(denoiser: Denoiser, states: Tensor, targets: Tensor) -> Tensor:
    """(N, D), (N,) -> (2, N) float64: cross-entropy of the target, and entropy of the prediction."""
    log_probs = clean_log_probs(denoiser.logits(states), denoiser.mask_id)
    cross = -log_probs.gather(-1, targets[:, None]).squeeze(-1)
    return torch.stack([cross, torch.special.entr(log_probs.exp()).sum(-1)]).double()
