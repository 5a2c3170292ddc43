"""Rows being written, and how they join others and leave them. Shapes: B rows, L positions.

Rows are independent: a row may join or leave a batch before any pass, and gets the tokens, log-probabilities and passes
that it gets alone. `Running` has all that this needs: the canvas, and the state of the policy and of a cache.
"""

__all__ = ["Canvas", "Running", "constraints_of", "join", "leave"]

import math
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.batch import join_rows, keep_rows
from unmask.decode.constraint import Constraint, Constraints
from unmask.decode.propose import check_sampling
from unmask.errors import ArgumentError, RequestError
from unmask.policies.base import State
from unmask.ranges import shown


@dataclass(frozen=True, slots=True)
class Canvas:
    """Rows being written. Every field has the rows as its first axis, so that rows can be picked and put back."""

    tokens: Tensor  # (B, L) int64, MASK where nothing is written yet
    valid: Tensor  # (B, L) bool, False on padding
    seed: Tensor  # (B,) int64: all randomness of the row
    written: Tensor  # (B, L) bool, True where decoding wrote the token
    log_prob: Tensor  # (B, L) float32, clean log-probability of a written token at the pass that wrote it, else nan
    margin: Tensor  # (B, L) likewise, nan where the policy did not look
    entropy: Tensor  # (B, L) likewise
    hidings: Tensor  # (B, L) int64, how often a position of the block was hidden again
    passes: Tensor  # (B,) int64 forward passes so far
    row_passes: Tensor  # (B,) int64 canvases that went through the network: with the candidates of look-ahead rules
    turn: Tensor  # (B,) int64 turns so far: passes, and decisions of nothing that needed no pass
    origin: Tensor  # (B,) the first position to fill, where the first block begins; -1 before the first turn
    block: Tensor  # (B,) the block being filled, -1 before the first turn
    step: Tensor  # (B,) turns spent in that block
    total: Tensor  # (B,) positions it had to fill
    open: Tensor  # (B,) bool, the policy is not done with that block, whether or not a MASK is left in it
    dial: Tensor  # (B,) float32 from 0 (accurate) to 1 (fast), for policies that have one; nan leaves it to the policy
    temperature: Tensor  # (B,) float64, as in `propose`; nan leaves it to the decoder
    top_p: Tensor  # (B,) float64, likewise
    constraint: Tensor  # (B,) int64, which of the decoder's constraints the row keeps to

    @classmethod
    def start(
        cls,
        tokens: Tensor,
        seed: Tensor,
        valid: Tensor | None = None,
        *,
        dial: Tensor | None = None,
        temperature: Tensor | None = None,
        top_p: Tensor | None = None,
        constraint: Tensor | None = None,
    ) -> "Canvas":
        """tokens (B, L) with MASK where something is wanted, seed (B,), and valid (B, L) where rows are padded -> rows
        before their first pass.

        dial, temperature and top_p (B,) are the rows' own; nan, or none at all, leaves them to the policy and the
        decoder. constraint (B,) is 0 for all rows by default. Raises RequestError for a temperature or top_p that
        cannot be.
        """
        zero, unknown = torch.zeros_like(seed), torch.full(tokens.shape, torch.nan, device=tokens.device)
        nowhere, unset = (
            torch.zeros_like(tokens, dtype=torch.bool),
            torch.full_like(seed, torch.nan, dtype=torch.double),
        )
        check_sampling(_numbers(temperature), _numbers(top_p))
        return cls(
            tokens=tokens,
            valid=~nowhere if valid is None else valid,
            seed=seed,
            written=nowhere,
            log_prob=unknown,
            margin=unknown,
            entropy=unknown,
            hidings=nowhere.long(),
            passes=zero,
            row_passes=zero,
            turn=zero,
            origin=zero - 1,
            block=zero - 1,
            step=zero,
            total=zero,
            open=zero.bool(),
            dial=(unset if dial is None else dial).float(),
            temperature=unset if temperature is None else temperature.double(),
            top_p=unset if top_p is None else top_p.double(),
            constraint=zero if constraint is None else constraint,
        )

    def keep(self, rows: Tensor) -> "Canvas":
        """Some of the rows, as a canvas of their own."""
        return Canvas(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def put(self, rows: Tensor, part: "Canvas") -> "Canvas":
        """This canvas with `part` in the places `rows`."""
        return Canvas(
            **{f.name: getattr(self, f.name).index_copy(0, rows, getattr(part, f.name)) for f in fields(self)}
        )

    def masked(self, mask_id: int, end_id: int | None = None) -> Tensor:
        """(B, L) bool: the positions that are to be written: MASK, and not behind the end of a row.

        A row ends at a written `end_id` with no MASK before it, since what is behind it is not wanted; it does not
        while its policy is not done, which may hide tokens again.
        """
        masked = (self.tokens == mask_id) & self.valid
        if end_id is None:
            return masked
        ends = self.written & (self.tokens == end_id) & (masked.cumsum(-1) == 0)
        return masked & ~(ends.any(-1) & ~self.open)[:, None]

    def enter(
        self, mask_id: int, block_size: int | None, end_id: int | None = None, grid: bool = False
    ) -> "tuple[Canvas, Tensor, Tensor, Tensor]":
        """The rows in their current block of `block_size` positions (None: all), the positions to be written, of these
        the ones in that block, and the written ones in it: (B, L) bool each. A second call changes nothing.

        The first block begins at the first position to fill; on a `grid` blocks begin at position 0, as those of
        block-causal attention do, so that the first one to fill can be a part of a block."""
        masked = self.masked(mask_id, end_id)
        length = masked.shape[-1]
        places = torch.arange(length, device=masked.device)
        first = torch.zeros_like(self.origin) if grid else torch.where(masked, places, length).amin(-1)
        origin = torch.where(self.origin < 0, first, self.origin)
        block = (places - origin[:, None]).div(block_size or length, rounding_mode="floor")
        current = torch.where(self.open, self.block, torch.where(masked, block, length).amin(-1))
        inside = block == current[:, None]
        eligible = masked & inside
        fresh = current != self.block
        step = torch.where(fresh, 0, self.step)
        total = torch.where(fresh, eligible.sum(-1), self.total)
        hidings = self.hidings.masked_fill(fresh[:, None], 0)
        canvas = replace(self, origin=origin, block=current, step=step, total=total, hidings=hidings)
        return canvas, masked, eligible, self.written & inside

    def hide(self, where: Tensor, mask_id: int) -> "Canvas":
        """This canvas with MASK at the written positions `where` (B, L)."""
        return replace(
            self,
            tokens=self.tokens.masked_fill(where, mask_id),
            written=self.written & ~where,
            hidings=self.hidings + where,
            log_prob=self.log_prob.masked_fill(where, torch.nan),
            margin=self.margin.masked_fill(where, torch.nan),
            entropy=self.entropy.masked_fill(where, torch.nan),
        )


def _numbers(values: Tensor | None) -> list[float]:
    """Numbers (B,) as a list, without those that are nan."""
    return [] if values is None else [value for value in values.tolist() if not math.isnan(value)]


class Running(NamedTuple):
    """Rows between two passes: `canvas, state, step = decoder.step(*running)`."""

    canvas: Canvas
    state: State = None
    """Of the policy and, behind it, of a cache; None before the first pass."""


def join(*parts: Running) -> Running:
    """Rows of several batches, one below the other, as one batch; each batch may be at another pass.

    Raises RequestError for rows of different lengths. They are not padded to the longest here: attention over more
    padding sums in another order, so that a row would not have the bits that it has alone.
    """
    lengths = sorted({part.canvas.tokens.shape[1] for part in parts})
    if len(lengths) > 1:
        raise RequestError(
            f"Rows of {lengths[0]} and {lengths[-1]} positions cannot decode together; join rows that were padded "
            "to the same length before their first pass."
        )
    columns = {f.name: torch.cat([getattr(part.canvas, f.name) for part in parts]) for f in fields(Canvas)}
    return Running(Canvas(**columns), join_rows([part.state for part in parts], [len(p.canvas.seed) for p in parts]))


def leave(running: Running, rows: Tensor) -> tuple[Running, Running]:
    """Part a batch in two: the rows that stay, and the `rows` (B,) bool that leave, each in their order.

    What leaves may wait, and join again. With `decoder.unfinished(canvas)` it tells which rows are finished.
    """
    canvas, state = running
    stay, gone = (Running(canvas.keep(part), keep_rows(state, part)) for part in (~rows, rows))
    return stay, gone


def constraints_of(constraint: Constraints, count: int) -> tuple[tuple[Constraint | None, ...], list[int]]:
    """One constraint, or one a row -> the different ones, for a `Decoder`, and the number of each of `count` rows.

    Raises RequestError where there are not as many as rows.
    """
    if constraint is None or callable(constraint):
        return (constraint,), [0] * count
    if not isinstance(constraint, list | tuple) or not all(rule is None or callable(rule) for rule in constraint):
        raise ArgumentError(
            f"constraint is {shown(constraint)}; give a function (tokens, where), None, or a list of these."
        )
    if len(constraint) != count:
        raise RequestError(f"{len(constraint)} constraints were given for {count} rows; give one, or one a row.")
    different = {id(rule): rule for rule in constraint}
    numbers = {key: number for number, key in enumerate(different)}
    return tuple(different.values()), [numbers[id(rule)] for rule in constraint]
