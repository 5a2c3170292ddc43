"""The information curve of a model: the mean cross-entropy f(j) of a masked token if j of n tokens are revealed.

The revealed tokens are a uniformly random subset. f(j) falls from f(0), no context, to f(n - 1), all but one revealed;
its sum is the any-order bound on -log p. It determines the optimal pace for k passes (arXiv:2511.04647;
unmask.policies.pace). `two_sets` chooses the held-out sequences: one set to measure the curve, another to check paces.
Shapes: B rows, S sequences, L positions, G counts on the grid, n maskable tokens in each sequence.
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
from unmask.noise import generator, uniform
from unmask.objective.base import BUDGET, Rows
from unmask.policies.pace import Sizes

_STREAM = 5  # the stream of random numbers, see unmask.noise


def two_sets(
    data: Packed, sequences: int, *, prompt: float = 0.0, batch: int = 16, seed: int = 0, device: str = "cpu"
) -> tuple[list[Rows], list[Rows]]:
    """Packed data -> two disjoint sets of random rows, in batches: `sequences` rows each, or half of all there are.

    All rows have the most frequent number of maskable tokens; the first `prompt` share of these is never masked.

    Raises:
        DataError: if there are fewer than four such rows.
    """
    lengths = np.asarray(data.last) - np.asarray(data.first)
    length = int(np.bincount(lengths).argmax()) if len(lengths) else 0
    rows = np.flatnonzero(lengths == length)
    size = min(sequences, len(rows) // 2)
    if size < 2 or length < 2:
        raise DataError(
            f"The text has {len(rows)} sequences of {length} tokens; the curve needs at least 4 of at least 2 tokens: "
            "give a longer text, or shorter sequences with --data.length."
        )
    chosen = rows[torch.randperm(len(rows), generator=generator(seed, _STREAM))[: 2 * size].numpy()]
    sets: list[list[Rows]] = []
    for part in (chosen[:size], chosen[size:]):
        sets.append([])
        for at in range(0, size, batch):
            ids, maskable, valid = (torch.from_numpy(x).to(device) for x in data.batch(part[at : at + batch]))
            visible = maskable & (maskable.cumsum(-1) <= int(prompt * length))
            sets[-1].append(Rows(ids, maskable & ~visible, valid))
    return sets[0], sets[1]


Progress = Callable[[int], None]
"""Called with the number of sequences that were measured since the last call."""


class Revealed(NamedTuple):
    """The predictions for the masked positions after the first `start` positions of an order were revealed."""

    start: int
    cross_entropy: Tensor  # (B, n - start) nats, of the positions start, start + 1, .. of the order
    entropy: Tensor  # (B, n - start) nats, of the predictive distribution


@dataclass(frozen=True, slots=True)
class Curve:
    """The measured curve: for each sequence and count an unbiased estimate of the mean over masked positions."""

    total: int
    """n, the maskable tokens of a sequence."""
    counts: tuple[int, ...]
    """Numbers of revealed tokens, rising from 0 to n - 1."""
    cross_entropy: Tensor
    """(S, G) float64 nats."""
    entropy: Tensor
    """(S, G) float64 nats; its mean equals that of the cross-entropy if the model is calibrated."""

    def fitted(self) -> Tensor:
        """f(j) for j = 0 .. n - 1, (n,): the non-increasing fit to the means, linearly interpolated.

        The weight of a mean is the number of masked tokens, n - j.
        """
        hidden = self.total - torch.tensor(self.counts, dtype=torch.float64)
        return self._interpolated(isotonic(self.cross_entropy.mean(0), hidden)[None])[0]

    def error_of(self, sizes: Sizes) -> float:
        """A pace -> the standard error, over sequences, of its bound as predicted by the curve, in nats."""
        starts = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        costs = self._interpolated(self.cross_entropy)[:, starts] @ torch.tensor(sizes).double()
        return float(costs.std() / len(costs) ** 0.5)

    def stderr(self) -> Tensor:
        """(G,) the standard errors of the mean cross-entropies, over sequences."""
        return self.cross_entropy.std(0) / len(self.cross_entropy) ** 0.5

    def _interpolated(self, values: Tensor) -> Tensor:
        """(.., G) on the grid -> (.., n), linearly interpolated."""
        counts = torch.tensor(self.counts, dtype=torch.float64)
        at = torch.arange(self.total, dtype=torch.float64)
        above = torch.searchsorted(counts, at).clamp(min=min(1, len(counts) - 1))
        below = (above - 1).clamp(min=0)
        share = (at - counts[below]) / (counts[above] - counts[below]).clamp(min=1)
        return torch.lerp(values[..., below], values[..., above], share)


def grid(total: int, dense: int = 16, sparse: int = 40) -> tuple[int, ...]:
    """n -> the counts to measure at: all up to `dense`, and about `sparse` more to n - 1, evenly in the logarithm."""
    top = total - 1
    near, far = range(min(dense, top) + 1), torch.linspace(math.log(dense), math.log(max(top, dense)), sparse).exp()
    return tuple(sorted({*near, *(j for j in far.round().int().tolist() if j <= top), top}))


def isotonic(values: Tensor, weights: Tensor) -> Tensor:
    """(G,) values and weights -> the nearest non-increasing sequence in weighted squares, by pooling neighbours."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, number of values
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, mass, count = value, weight, 1
        while pools and pools[-1][0] < mean:
            last_mean, last_mass, last_count = pools.pop()
            mean = (last_mean * last_mass + mean * mass) / (last_mass + mass)
            mass, count = last_mass + mass, last_count + count
        pools.append((mean, mass, count))
    return torch.tensor([mean for mean, _, count in pools for _ in range(count)], dtype=torch.float64)


def orders(maskable: Tensor, seed: int, first: int = 0) -> Tensor:
    """(B, L) bool -> (B, n): a uniformly random order of the n maskable positions of each row.

    The order of a row depends on the seed and on its index in the measurement, `first` for the first row, and so not
    on the size of a batch.

    Raises:
        DataError: if the rows differ in the number of maskable positions.
    """
    total = maskable.sum(-1)
    if len(total) == 0 or bool((total != total[0]).any()) or int(total[0]) == 0:
        raise DataError("The curve needs rows with the same number of maskable tokens, at least one each.")
    rows, positions = torch.arange(first, first + len(maskable))[:, None], torch.arange(maskable.shape[1])
    u = uniform(torch.tensor(seed), rows, positions, _STREAM)
    return torch.where(maskable.cpu(), u, 2.0).argsort(-1)[:, : int(total[0])].to(maskable.device)


@torch.no_grad()
def reveal(denoiser: Denoiser, rows: Rows, order: Tensor, counts: Sequence[int]) -> Iterator[Revealed]:
    """For each count, one forward pass with that many positions of `order` (B, n) revealed and the others masked."""
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
        values = torch.cat([_entropies(denoiser, part, target) for part, target in parts], -1)
        cross, entropy = values.view(2, *hidden.shape)
        yield Revealed(count, cross, entropy)


def measure_curve(
    denoiser: Denoiser,
    batches: Sequence[Rows],
    seed: int,
    progress: Progress = lambda sequences: None,
) -> Curve:
    """Rows with n maskable tokens each -> the curve over all rows, each revealed in one random order.

    Raises:
        DataError: if the rows differ in the number of maskable tokens.
    """
    cross, entropy, counts, total = list[Tensor](), list[Tensor](), (0,), 1
    first = 0
    for rows in batches:
        order = orders(rows.maskable, seed, first)
        first += len(order)
        total = order.shape[1]
        counts = grid(total)
        results = list(reveal(denoiser, rows, order, counts))
        cross.append(_paired([result.cross_entropy for result in results]))
        entropy.append(_paired([result.entropy for result in results]))
        progress(len(rows.ids))
    return Curve(total, counts, torch.cat(cross), torch.cat(entropy))


def _paired(values: Sequence[Tensor]) -> Tensor:
    """(B, masked) values at rising counts of revealed tokens -> (B, G): the first mean plus the mean changes since.

    A change is the mean over the tokens that stay masked. These are a random subset of the masked tokens, so that the
    expectation is that of all masked tokens. The variance is smaller, because the choice of tokens cancels; for few
    masked tokens this noise would be larger than the changes of the curve.
    """
    changes = [(now - before[:, -now.shape[1] :]).mean(-1) for before, now in pairwise(values)]
    return torch.stack([values[0].mean(-1), *changes], -1).cumsum(-1)


def _entropies(denoiser: Denoiser, states: Tensor, targets: Tensor) -> Tensor:
    """(N, D), (N,) -> (2, N) float64 on the CPU: cross-entropy of the target, and entropy of the prediction."""
    log_probs = clean_log_probs(denoiser.logits(states), denoiser.mask_id)
    cross = -log_probs.gather(-1, targets[:, None]).squeeze(-1)
    return torch.stack([cross, torch.special.entr(log_probs.exp()).sum(-1)]).cpu().double()
