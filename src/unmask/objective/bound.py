"""How well a model knows a text: the bound on its negative log-likelihood, with the error of the estimate."""

__all__ = ["Bound", "bound", "validate"]

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unmask.data.packed import Packed
from unmask.denoiser import Denoiser
from unmask.errors import RequestError, RunError
from unmask.limits import sentences
from unmask.model.soft import runs_twice, two_pass
from unmask.noise import derive
from unmask.objective.base import Objective, Rows, Turn
from unmask.objective.baselines import Autoregressive
from unmask.run.parallel import Group

_NORMAL = 1.959964  # standard errors on each side of a 95 % interval


@dataclass(frozen=True, slots=True)
class Bound:
    """An upper bound on -log p, as an estimate over `sequences` with `draws` random maskings each."""

    nats_per_token: float
    stderr: float | None
    """Standard error of `nats_per_token`, over sequences (None for a single one): it holds the spread of the texts and
    that of the draws."""
    tokens: int
    sequences: int
    draws: int
    bits_per_byte: float | None = None
    """None where the number of bytes is not known, where characters are outside the model's alphabet, and where tokens
    count as known."""
    known: int = 0
    """Tokens that count as known beside those of prompts: the first of each row of a shifted network, which predicts a
    token at the position before it. The bound is on -log p of the others given these."""
    two_pass: bool = False
    """Whether it is of a model that runs twice for each prediction (soft masks, `model.soft.TwoPass`): no bound of what
    decoding does, where a pass has the feedback of an earlier canvas."""

    def checked(self) -> "Bound":
        """Itself. Raises RunError where it is no number: the network computed NaN or infinity."""
        if not math.isfinite(self.nats_per_token):
            raise RunError(
                f"The bound is {self.nats_per_token}: the network computes numbers that are not finite; use an earlier "
                "checkpoint, or --dtype float32."
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain values, the perplexity and the interval among them."""
        return {**asdict(self), "perplexity": self.perplexity, "interval": self.interval}

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of `nats_per_token`, of a normal distribution; None for a single sequence."""
        if self.stderr is None:
            return None
        return self.nats_per_token - _NORMAL * self.stderr, self.nats_per_token + _NORMAL * self.stderr

    @property
    def perplexity(self) -> float:
        """exp(nats_per_token)."""
        return math.exp(min(self.nats_per_token, 700.0))

    @classmethod
    def of(cls, nats: Tensor, tokens: Tensor, draws: int, text_bytes: int | None = None, known: int = 0) -> "Bound":
        """From the bound (N,) and the number of tokens (N,) of each sequence: the ratio of sums and its error.

        Raises RequestError where no sequence has a token to predict.
        """
        nats, tokens = nats.double(), tokens.double()
        total = float(tokens.sum())
        if not total:
            raise RequestError("No token of the text is predicted: give a text of at least two tokens.")
        rate = float(nats.sum()) / total
        count = len(nats)
        spread = float((nats - rate * tokens).square().sum()) * count / max(count - 1, 1)
        stderr = math.sqrt(spread) / total if count > 1 else None
        bits = None if not text_bytes or known else float(nats.sum()) / math.log(2) / text_bytes
        return cls(rate, stderr, int(total), count, draws, bits, known)


def bound(
    denoiser: Denoiser,
    objective: Objective,
    batches: Iterable[Rows],
    total: int,
    seed: int,
    *,
    draws: int = 1,
    text_bytes: int | None = None,
    group: Group | None = None,
) -> Bound:
    """The bound on `total` rows, each estimated `draws` times; `text_bytes`, of all of them, adds bits per byte.

    With a `group` of processes each takes a part of the rows of every batch, and all get the same figure.

    The maskings of a row depend on the seed, on its index, and on the numbers of rows and draws: how the rows are cut
    into batches changes nothing. An autoregressive model has an exact value, which is computed once; one with soft
    masks runs twice for each prediction. The caller owns the state of the denoiser (eval mode, autocast).
    """
    draws, denoiser = 1 if isinstance(objective, Autoregressive) else draws, two_pass(denoiser)
    group, device = group or Group(), torch.device("cpu")
    table, first, known = torch.zeros(2, total, dtype=torch.float64), 0, 0
    for whole in batches:
        every, device = whole.predicted(denoiser), whole.ids.device
        known += int(whole.maskable.sum() - every.maskable.sum())
        own, counted = group.rows(len(every.ids))
        part, rows = every.part(own, device) if group.size > 1 else every, first + own
        first += len(every.ids)
        results = [objective.bound(denoiser, part, Turn(seed, rows, total, draw, draws)) for draw in range(draws)]
        for place, values in enumerate(([result.nats for result in results], [result.tokens for result in results])):
            table[place, rows[:counted]] = torch.stack([each.double().cpu() for each in values]).mean(0)[:counted]
    table = table[:, :first]
    if group.size > 1:
        table = group.sum(table.to(device)).cpu()
    figure = Bound.of(table[0], table[1], draws, text_bytes, known)
    return replace(figure, two_pass=runs_twice(denoiser))


_STREAM = 3  # of the seed: validation maskings never meet those of training


@sentences()
def validate(
    denoiser: Denoiser,
    objective: Objective,
    data: Packed | Sequence[Packed],
    device: torch.device,
    *,
    limit: int | None = None,
    draws: int = 1,
    batch: int = 32,
    seed: int = 0,
    stand_in: int | None = None,
    group: Group | None = None,
) -> Bound:
    """The bound on the rows of `data`, or of several parts together: all or the first `limit`, `draws` maskings each.

    It is the same for the same seed, whatever `batch` is, and in each process of a `group`, which share the rows.

    Bits per byte are given where all rows are measured, and none has the token `stand_in`, which stands for characters
    without a token of their own: a bound for the tokens is none for the text. The caller has put the denoiser in eval
    mode.
    """
    parts = [data] if isinstance(data, Packed) else data
    every = sum(map(len, parts))
    count = every if limit is None else min(limit, every)
    whole = count == every and all(stand_in is None or not part.has(stand_in) for part in parts)
    size = sum(part.bytes for part in parts) if whole and all(part.bytes for part in parts) else None
    rows = _batches(parts, count, batch, device)
    return bound(denoiser, objective, rows, count, derive(seed, _STREAM), draws=draws, text_bytes=size, group=group)


def _batches(parts: Sequence[Packed], count: int, size: int, device: torch.device) -> Iterator[Rows]:
    """The first `count` rows of the parts, one part after another; each batch has rows of a single part."""
    for data in parts:
        here = min(count, len(data))
        count -= here
        for at in range(0, here, size):
            part = data.batch(range(at, min(at + size, here)))
            yield Rows(*map(torch.from_numpy, part)).part(slice(None), device)
