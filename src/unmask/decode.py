"""The decoding loop. There is one; evaluation, reinforcement learning and the server all drive it.

`step` is one forward pass of the denoiser over the rows it is given. A policy may reveal nothing: then the loop reveals
the surest eligible position, so that decoding always ends. That rescue belongs to the environment, not to the policy.
Rows are on their own: noise is a function of (seed, pass, position), states never mix, and a row
without masks leaves the batch. Shapes: B rows, L positions, V vocabulary, N picked positions.
"""

__all__ = ["Canvas", "Decoder", "Step", "keep_rows"]

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.denoiser import Denoiser
from unmask.errors import PluginError, RequestError
from unmask.noise import POLICY, TOKENS, uniform
from unmask.policies.base import Decision, State, UnmaskingPolicy, View, take_best
from unmask.propose import propose

_HEAD_ROWS = (
    16  # a matrix product gives a row the same bits only if the number of rows keeps its remainder (DESIGN 4.5)
)


@dataclass(frozen=True, slots=True)
class Canvas:
    """Rows being written. Every field has the rows as its first axis, so that rows can be picked and put back."""

    tokens: Tensor  # (B, L) int64, MASK where nothing is written yet
    valid: Tensor  # (B, L) bool, False on padding
    seed: Tensor  # (B,) int64: all randomness of the row
    written: Tensor  # (B, L) bool, by us, not by the prompt
    log_prob: Tensor  # (B, L) float32, clean log-probability of a written token at the pass that wrote it, else nan
    margin: Tensor  # (B, L) likewise, nan where the policy did not look
    entropy: Tensor  # (B, L) likewise
    passes: Tensor  # (B,) int64 forward passes so far
    block: Tensor  # (B,) the block being filled, -1 before the first pass
    step: Tensor  # (B,) passes spent in that block
    total: Tensor  # (B,) positions it had to fill

    @classmethod
    def start(cls, tokens: Tensor, seed: Tensor, valid: Tensor | None = None) -> "Canvas":
        """tokens (B, L) with MASK where something is wanted, seed (B,), valid (B, L) where rows are padded."""
        zero, unknown = torch.zeros_like(seed), torch.full(tokens.shape, torch.nan, device=tokens.device)
        everywhere = torch.ones_like(tokens, dtype=torch.bool)
        return cls(
            tokens,
            everywhere if valid is None else valid,
            seed,
            ~everywhere,
            unknown,
            unknown,
            unknown,
            zero,
            zero - 1,
            zero,
            zero,
        )

    def keep(self, rows: Tensor) -> "Canvas":
        """Some of the rows, as a canvas of their own."""
        return Canvas(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def put(self, rows: Tensor, part: "Canvas") -> "Canvas":
        """This canvas with `part` in the places `rows`."""
        return Canvas(
            **{f.name: getattr(self, f.name).index_copy(0, rows, getattr(part, f.name)) for f in fields(self)}
        )


class Step(NamedTuple):
    """What one pass did, to the rows that took part in it."""

    rows: Tensor  # (b,) their places in the canvas
    view: View
    decision: Decision
    revealed: Tensor  # (b, L) bool: what was written, a rescue included
    rescued: Tensor  # (b,) bool: the policy revealed nothing and the loop helped


@dataclass(frozen=True, slots=True)
class Decoder:
    """A denoiser, a policy, and how tokens are drawn. `block_size` positions are filled before the next begin."""

    denoiser: Denoiser
    policy: UnmaskingPolicy
    temperature: float = 0.0
    top_p: float = 1.0
    block_size: int | None = None

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise RequestError(f"temperature is {self.temperature}; give 0 (always the most probable token) or more.")
        if not 0 < self.top_p <= 1:
            raise RequestError(f"top_p is {self.top_p}; give a share above 0 and up to 1 (1 keeps every token).")
        if self.block_size is not None and self.block_size < 1:
            raise RequestError(f"block_size is {self.block_size}; give at least 1, or none for a single block.")

    def decode(self, canvas: Canvas) -> Canvas:
        """Fill the canvas: every valid MASK becomes a token."""
        for canvas, _ in self.steps(canvas):  # noqa: B007  (the last one is what we want)
            pass
        return canvas

    def steps(self, canvas: Canvas) -> Iterator[tuple[Canvas, Step]]:
        """The canvas after each pass and what the pass did; rows leave as they are finished."""
        state: State = None
        rows = self._unfinished(canvas).nonzero().squeeze(-1)
        while len(rows):
            part, state, step = self.step(canvas.keep(rows), state)
            canvas = canvas.put(rows, part)
            yield canvas, step._replace(rows=rows)
            left = self._unfinished(part)
            if not bool(left.all()):
                rows, state = rows[left], keep_rows(state, left)

    @torch.no_grad()
    def step(self, canvas: Canvas, state: State = None) -> tuple[Canvas, State, Step]:
        """One forward pass over rows that all have something to fill."""
        canvas, masked, eligible = self._enter(canvas)
        if self.policy.looks:
            view, log_prob = self._look(canvas, masked, eligible)
            decision, state = self.policy(view, state)
            revealed, rescued = self._settle(view, decision, view.confidence)
            tokens = torch.where(revealed, view.proposal, canvas.tokens)
        else:
            view = self._blindfold(canvas, masked, eligible)
            decision, state = self.policy(view, state)
            revealed, rescued = self._settle(view, decision, view.noise)
            tokens, log_prob = self._write(canvas, revealed, self._time(canvas, masked, decision.time))
        canvas = replace(
            canvas,
            tokens=tokens,
            written=canvas.written | revealed,
            log_prob=torch.where(revealed, log_prob, canvas.log_prob),
            margin=torch.where(revealed, view.margin, canvas.margin),
            entropy=torch.where(revealed, view.entropy, canvas.entropy),
            passes=canvas.passes + 1,
            step=canvas.step + 1,
        )
        return canvas, state, Step(torch.arange(len(tokens)), view, decision, revealed, rescued)

    # ---- before the pass ------------------------------------------------------------------------------------------

    def _unfinished(self, canvas: Canvas) -> Tensor:
        return ((canvas.tokens == self.denoiser.mask_id) & canvas.valid).any(-1)

    def _enter(self, canvas: Canvas) -> tuple[Canvas, Tensor, Tensor]:
        """Find each row's current block, and the positions still to fill in it."""
        masked = (canvas.tokens == self.denoiser.mask_id) & canvas.valid
        length = masked.shape[-1]
        block = torch.arange(length, device=masked.device) // (self.block_size or length)
        current = torch.where(masked, block, length).amin(-1)
        eligible = masked & (block == current[:, None])
        fresh = current != canvas.block
        step = torch.where(fresh, 0, canvas.step)
        total = torch.where(fresh, eligible.sum(-1), canvas.total)
        return replace(canvas, block=current, step=step, total=total), masked, eligible

    def _time(self, canvas: Canvas, masked: Tensor, given: Tensor | None) -> Tensor | None:
        """The time that a time-conditioned denoiser is told: the policy's, or the share of the row that is masked."""
        if not self.denoiser.time_conditioned:
            return None
        return masked.sum(-1) / canvas.valid.sum(-1) if given is None else given.float()

    def _hidden(self, canvas: Canvas, time: Tensor | None) -> Tensor:
        valid = None if bool(canvas.valid.all()) else canvas.valid
        return self.denoiser.hidden(canvas.tokens, valid=valid, time=time)

    def _noise(self, canvas: Canvas, stream: int) -> Tensor:
        positions = torch.arange(canvas.tokens.shape[-1], device=canvas.tokens.device)
        return uniform(canvas.seed[:, None], canvas.passes[:, None], positions[None], stream)

    # ---- a policy that looks --------------------------------------------------------------------------------------

    def _look(self, canvas: Canvas, masked: Tensor, eligible: Tensor) -> tuple[View, Tensor]:
        """Run the pass; the head, and everything else that is V wide, at eligible positions alone."""
        hidden = self._hidden(canvas, self._time(canvas, masked, None))
        logits = self._logits(hidden[eligible])
        found = propose(
            logits, self.denoiser.mask_id, self._noise(canvas, TOKENS)[eligible], self.temperature, self.top_p
        )
        best = found.log_probs.topk(2, -1).values.exp()
        spread = -(found.log_probs.exp() * found.log_probs.clamp(min=-1e4)).sum(-1)
        log_prob = canvas.log_prob.masked_scatter(eligible, found.log_prob)
        view = View(
            eligible=eligible,
            masked=masked,
            written=canvas.written,
            proposal=canvas.tokens.masked_scatter(eligible, found.tokens),
            confidence=log_prob.exp(),
            margin=canvas.margin.masked_scatter(eligible, best[:, 0] - best[:, 1]),
            entropy=canvas.entropy.masked_scatter(eligible, spread),
            step=canvas.step,
            total=canvas.total,
            noise=self._noise(canvas, POLICY),
        )
        return view, log_prob

    def _logits(self, hidden: Tensor) -> Tensor:
        """(N, D) -> (N, V), the rows padded to a multiple of 16."""
        count = len(hidden)
        padded = torch.nn.functional.pad(hidden, (0, 0, 0, -count % _HEAD_ROWS))
        return self.denoiser.logits(padded)[:count]

    # ---- a policy that decides before the pass --------------------------------------------------------------------

    def _blindfold(self, canvas: Canvas, masked: Tensor, eligible: Tensor) -> View:
        return View(
            eligible=eligible,
            masked=masked,
            written=canvas.written,
            proposal=canvas.tokens,
            confidence=torch.full_like(canvas.log_prob, torch.nan),
            margin=canvas.margin,
            entropy=canvas.entropy,
            step=canvas.step,
            total=canvas.total,
            noise=self._noise(canvas, POLICY),
        )

    def _write(self, canvas: Canvas, revealed: Tensor, time: Tensor | None) -> tuple[Tensor, Tensor]:
        """Positions first, then tokens: run the pass, and the head where something is revealed."""
        logits = self._logits(self._hidden(canvas, time)[revealed])
        found = propose(
            logits, self.denoiser.mask_id, self._noise(canvas, TOKENS)[revealed], self.temperature, self.top_p
        )
        return (
            canvas.tokens.masked_scatter(revealed, found.tokens),
            canvas.log_prob.masked_scatter(revealed, found.log_prob),
        )

    # ---- after the decision ---------------------------------------------------------------------------------------

    def _settle(self, view: View, decision: Decision, surest: Tensor) -> tuple[Tensor, Tensor]:
        """What is really revealed: the decision, and in rows where that is nothing the surest eligible position."""
        if bool((decision.reveal & ~view.eligible).any()):
            raise PluginError(
                f"{self.policy!r} revealed positions that were not eligible; a policy picks among view.eligible."
            )
        stuck = ~decision.reveal.any(-1)
        return decision.reveal | take_best(surest, view.eligible, stuck.long()), stuck


def keep_rows(state: State, rows: Tensor) -> State:
    """Some rows of a policy's state: a tensor, or a tuple of tensors, with the rows first; None stays None."""
    if state is None:
        return None
    return state[rows] if isinstance(state, Tensor) else tuple(keep_rows(part, rows) for part in state)
