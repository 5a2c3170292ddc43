"""The decoding loop. There is one: generation, filling, sweeps and reinforcement learning all use it.

`step` is one turn of some rows: a forward pass of the denoiser, and a decision of the policy. If a policy reveals
nothing in a row, the loop reveals one eligible position there (`Step.rescued`), so that decoding always ends; the
decision that is recorded stays the policy's. A policy that hides tokens again returns `done` itself.
Rows are independent: noise is a function of (seed, turn, position), states never mix, and a finished row leaves the
batch. Shapes: B rows, L positions, V vocabulary, N picked positions.
"""

__all__ = ["Decoder", "Step"]

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import NamedTuple, cast

import torch
from torch import Tensor

from unmask.batch import keep_rows, pad_rows, put_rows
from unmask.decode.canvas import Canvas
from unmask.decode.constraint import Constraint, allowed_tokens
from unmask.decode.propose import Proposal, propose, two_best
from unmask.denoiser import Caching, Denoiser, Place
from unmask.errors import PluginError, RequestError, plugin_failure
from unmask.noise import POLICY, TOKENS, uniform
from unmask.policies.base import Decision, State, UnmaskingPolicy, View, needs_of, pair_of
from unmask.policies.top_k import take_best
from unmask.ranges import BlockSize, Natural, Temperature, TopP, check_numbers


class Step(NamedTuple):
    """What one pass did, to the rows that took part in it."""

    rows: Tensor  # (b,) their places in the canvas
    view: View
    decision: Decision
    revealed: Tensor  # (b, L) bool: what was written, a rescue included
    remasked: Tensor  # (b, L) bool: what was hidden again
    rescued: Tensor  # (b,) bool: the policy revealed nothing, so the loop revealed one position
    candidates: Tensor | None = None  # (b, L, k) token ids, the most probable first, where `alternatives` is k
    candidate_log_probs: Tensor | None = None  # (b, L, k) nan where the pass did not ask the head


@dataclass(frozen=True, slots=True)
class Decoder:
    """A denoiser, a policy, and how tokens are drawn. `block_size` positions are filled before the next begin; the
    first block begins at the first position to fill.

    `temperature` and `top_p` hold for rows without values of their own; each row names one of the `constraints`, by
    default the first, which says which tokens may be written where (None: all). With `alternatives` = k each Step has
    the k most probable tokens of what was looked at, for traces. Raises RequestError for a number that cannot be.
    """

    denoiser: Denoiser
    policy: UnmaskingPolicy
    temperature: Temperature = 0.0
    top_p: TopP = 1.0
    block_size: BlockSize | None = None
    alternatives: Natural = 0
    constraints: tuple[Constraint | None, ...] = (None,)

    def __post_init__(self) -> None:
        check_numbers(self, error=RequestError)

    def decode(self, canvas: Canvas) -> Canvas:
        """Fill the canvas: every valid MASK becomes a token."""
        for canvas, _ in self.steps(canvas):  # noqa: B007  (only the last canvas is returned)
            pass
        return canvas

    def steps(self, canvas: Canvas) -> Iterator[tuple[Canvas, Step]]:
        """The canvas after each pass and what the pass did; rows leave as they are finished."""
        state: State = None
        rows = self.unfinished(canvas).nonzero().squeeze(-1)
        while len(rows):
            every = len(rows) == len(canvas.seed)
            part, state, step = self.step(canvas if every else canvas.keep(rows), state)
            canvas = part if every else canvas.put(rows, part)
            yield canvas, step._replace(rows=rows)
            left = self.unfinished(part)
            if not bool(left.all()):
                rows, state = rows[left], keep_rows(state, left)

    def unfinished(self, canvas: Canvas) -> Tensor:
        """(B,) bool: rows with a MASK left, or whose policy is not done."""
        return ((canvas.tokens == self.denoiser.mask_id) & canvas.valid).any(-1) | canvas.open

    @torch.no_grad()
    def step(self, canvas: Canvas, state: State = None) -> tuple[Canvas, State, Step]:
        """One turn of rows that are all unfinished. `state` is the policy's and, behind it, that of a cache."""
        before, memory = (None, None) if state is None else state
        canvas, masked, eligible, erasable = self._enter(canvas)
        view = self._view_before(canvas, masked, eligible, erasable)
        if getattr(self.policy, "looks", True):
            view, seen, memory = self._look(canvas, view, memory)
            decision, after, revealed, rescued = self._decide(view, before, view.confidence)
            tokens, log_prob = torch.where(revealed, view.proposal, canvas.tokens), seen.log_prob
            passes = canvas.passes + 1
        else:
            decision, after, revealed, rescued = self._decide(view, before, view.noise)
            tokens, seen, memory = self._write(canvas, view, revealed, decision.time, memory)
            log_prob, passes = seen.log_prob, canvas.passes + revealed.any(-1)
        canvas = replace(
            canvas,
            tokens=tokens,
            written=canvas.written | revealed,
            log_prob=torch.where(revealed, log_prob, canvas.log_prob),
            margin=torch.where(revealed, view.margin, canvas.margin),
            entropy=torch.where(revealed, view.entropy, canvas.entropy),
            passes=passes,
            turn=canvas.turn + 1,
            step=canvas.step + 1,
            open=torch.zeros_like(canvas.open) if decision.done is None else ~decision.done,
        )
        remasked = decision.remask
        if remasked is None:
            remasked = torch.zeros_like(revealed)
        else:
            canvas = self._hide(canvas, remasked)
        every = torch.arange(len(tokens), device=tokens.device)
        step = Step(every, view, decision, revealed, remasked, rescued, seen.candidates, seen.candidate_log_probs)
        return canvas, (after, memory), step

    def _hide(self, canvas: Canvas, remasked: Tensor) -> Canvas:
        return replace(
            canvas,
            tokens=canvas.tokens.masked_fill(remasked, self.denoiser.mask_id),
            written=canvas.written & ~remasked,
            log_prob=canvas.log_prob.masked_fill(remasked, torch.nan),
            margin=canvas.margin.masked_fill(remasked, torch.nan),
            entropy=canvas.entropy.masked_fill(remasked, torch.nan),
        )

    # ---- before the pass ------------------------------------------------------------------------------------------

    def _enter(self, canvas: Canvas) -> tuple[Canvas, Tensor, Tensor, Tensor]:
        """Find each row's current block, and in it the positions still to fill and those that may be hidden again."""
        masked = (canvas.tokens == self.denoiser.mask_id) & canvas.valid
        length = masked.shape[-1]
        places = torch.arange(length, device=masked.device)
        first = torch.where(masked, places, length).amin(-1)
        origin = torch.where(canvas.origin < 0, first, canvas.origin)
        block = (places - origin[:, None]).div(self.block_size or length, rounding_mode="floor")
        current = torch.where(canvas.open, canvas.block, torch.where(masked, block, length).amin(-1))
        inside = block == current[:, None]
        eligible = masked & inside
        fresh = current != canvas.block
        step = torch.where(fresh, 0, canvas.step)
        total = torch.where(fresh, eligible.sum(-1), canvas.total)
        canvas = replace(canvas, origin=origin, block=current, step=step, total=total)
        return canvas, masked, eligible, canvas.written & inside

    def _time(self, canvas: Canvas, masked: Tensor, decided: Tensor | None) -> Tensor | None:
        """The time (B,) for a time-conditioned denoiser: what the policy decided, or the share that is masked."""
        if not self.denoiser.time_conditioned:
            return None
        return masked.sum(-1) / canvas.valid.sum(-1) if decided is None else decided.float()

    def _hidden(self, canvas: Canvas, view: View, time: Tensor | None, memory: State) -> tuple[Tensor, State]:
        """(B, L, D), and what a caching denoiser wants back at the next pass."""
        valid = None if bool(canvas.valid.all()) else canvas.valid
        prompt = canvas.valid & ~view.masked & ~view.written
        if hasattr(self.denoiser, "recall"):  # what isinstance would find, in a hundredth of the time
            place = Place(view.eligible | view.erasable, view.masked, canvas.step)
            return cast(Caching, self.denoiser).recall(
                canvas.tokens, place, memory, valid=valid, time=time, prompt=prompt
            )
        return self.denoiser.hidden(canvas.tokens, valid=valid, time=time, prompt=prompt), None

    def _noise(self, canvas: Canvas, stream: int) -> Tensor:
        positions = torch.arange(canvas.tokens.shape[-1], device=canvas.tokens.device)
        return uniform(canvas.seed[:, None], canvas.turn[:, None], positions[None], stream)

    def _view_before(self, canvas: Canvas, masked: Tensor, eligible: Tensor, erasable: Tensor) -> View:
        """The View before the pass: the features of written positions, as they were at the pass that wrote them."""
        return View(
            eligible=eligible,
            masked=masked,
            written=canvas.written,
            erasable=erasable,
            proposal=canvas.tokens,
            confidence=canvas.log_prob.exp(),
            margin=canvas.margin,
            entropy=canvas.entropy,
            step=canvas.step,
            total=canvas.total,
            noise=self._noise(canvas, POLICY),
            dial=canvas.dial,
        )

    # ---- a policy that looks --------------------------------------------------------------------------------------

    def _look(self, canvas: Canvas, view: View, memory: State) -> tuple[View, "_Seen", State]:
        """Run the pass; the head, and everything else that is V wide, at eligible positions alone."""
        eligible = view.eligible
        hidden, memory = self._hidden(canvas, view, self._time(canvas, view.masked, None), memory)
        proposed = self._propose(canvas, hidden, eligible)
        needs = needs_of(self.policy)
        best, values = self._best(proposed, needs.top)
        values = values.exp()
        spread = -proposed.log_probs.exp().mul_(proposed.log_probs.clamp(min=-1e4)).sum(-1)
        log_prob = canvas.log_prob.masked_scatter(eligible, proposed.log_prob)
        view = replace(
            view,
            proposal=canvas.tokens.masked_scatter(eligible, proposed.tokens),
            confidence=log_prob.exp(),
            margin=canvas.margin.masked_scatter(eligible, values[:, 0] - values[:, 1]),
            entropy=canvas.entropy.masked_scatter(eligible, spread),
            top=_scattered(eligible, values[:, : needs.top]) if needs.top else None,
            log_probs=_scattered(eligible, proposed.log_probs) if needs.log_probs else None,
            hidden=hidden if needs.hidden else None,
        )
        return view, self._seen(log_prob, eligible, best), memory

    def _best(self, proposed: Proposal, top: int) -> tuple[torch.return_types.topk | None, Tensor]:
        """The highest log-probabilities, as many as the policy wants, and at least two (N, k); with ids for a trace."""
        if top <= 2 and not self.alternatives:
            return None, two_best(proposed.log_probs)[1] if proposed.best is None else proposed.best
        best = proposed.log_probs.topk(min(max(2, top, self.alternatives), proposed.log_probs.shape[-1]), -1)
        return best, best.values

    def _propose(self, canvas: Canvas, hidden: Tensor, where: Tensor) -> Proposal:
        """Tokens and distributions at the positions `where` (B, L), by each row's temperature, top-p and constraint."""
        picked = hidden[where]
        logits = self.denoiser.logits(pad_rows(picked))[: len(picked)]
        temperature, top_p = _or(canvas.temperature, self.temperature), _or(canvas.top_p, self.top_p)
        noise = self._noise(canvas, TOKENS)[where] if any(temperature) else None
        which = canvas.constraint.tolist()
        allowed = None  # where no row has a constraint
        if any(which) or self.constraints != (None,):
            allowed = allowed_tokens(self.constraints, which, canvas.tokens, where, logits.shape[-1])
        if len(set(zip(temperature, top_p, strict=True))) == 1:
            return propose(logits, self.denoiser.mask_id, noise, temperature[0], top_p[0], allowed)
        line = where.nonzero()[:, 0]
        pairs = torch.tensor([temperature, top_p], dtype=torch.double, device=line.device)[:, line]
        return propose(logits, self.denoiser.mask_id, noise, pairs[0], pairs[1], allowed)

    def _seen(self, log_prob: Tensor, where: Tensor, best: torch.return_types.topk | None) -> "_Seen":
        if not self.alternatives or best is None:
            return _Seen(log_prob)
        ids, values = best.indices[:, : self.alternatives], best.values[:, : self.alternatives]
        return _Seen(log_prob, _scattered(where, ids), _scattered(where, values, torch.nan))

    # ---- a policy that decides before the pass --------------------------------------------------------------------

    def _write(
        self, canvas: Canvas, view: View, revealed: Tensor, decided: Tensor | None, memory: State
    ) -> tuple[Tensor, "_Seen", State]:
        """Positions first, then tokens: run the pass for the rows that reveal something, and the head where they do."""
        busy = revealed.any(-1)
        if not bool(busy.any()):
            return canvas.tokens, _Seen(canvas.log_prob), put_rows(memory, None, busy, canvas.step == 0)
        time = self._time(canvas, view.masked, decided)
        if bool(busy.all()):
            hidden, memory = self._hidden(canvas, view, time, memory)
        else:
            part, some, kept = canvas.keep(busy), view.keep(busy), keep_rows(memory, busy)
            values, after = self._hidden(part, some, None if time is None else time[busy], kept)
            hidden = put_rows(None, values, busy, ~busy)
            memory = put_rows(memory, after, busy, canvas.step == 0)
        proposed = self._propose(canvas, hidden, revealed)
        log_prob = canvas.log_prob.masked_scatter(revealed, proposed.log_prob)
        best = (
            proposed.log_probs.topk(min(self.alternatives, proposed.log_probs.shape[-1]), -1)
            if self.alternatives
            else None
        )
        return canvas.tokens.masked_scatter(revealed, proposed.tokens), self._seen(log_prob, revealed, best), memory

    # ---- after the decision ---------------------------------------------------------------------------------------

    def _decide(self, view: View, before: State, surest: Tensor) -> tuple[Decision, State, Tensor, Tensor]:
        """View and state -> decision and state of the policy, and what `_settle` makes of it.

        Raises PluginError, with the policy and its own message, where a policy of somebody else fails or returns what
        is no decision.
        """
        with plugin_failure(f"The policy {self.policy!r}") if _foreign(self.policy) else nullcontext():
            decision, after = pair_of(self.policy(view, before))
            if decision.reveal.shape != view.eligible.shape or decision.reveal.dtype != torch.bool:
                raise TypeError(f"reveal has to be bool {tuple(view.eligible.shape)}, as view.eligible")
            return decision, after, *self._settle(view, decision, surest)

    def _settle(self, view: View, decision: Decision, surest: Tensor) -> tuple[Tensor, Tensor]:
        """What is really revealed: the decision, and in rows where that is nothing the surest eligible position."""
        if bool((decision.reveal & ~view.eligible).any()):
            raise PluginError(
                f"{self.policy!r} revealed positions that were not eligible; a policy picks among view.eligible."
            )
        if decision.remask is not None and bool((decision.remask & ~view.erasable).any()):
            raise PluginError(
                f"{self.policy!r} hid positions again that it may not; a policy picks among view.erasable."
            )
        if decision.done is None:
            stuck = ~decision.reveal.any(-1)
            if not bool(stuck.any()):
                return decision.reveal, stuck
            score = surest if decision.fallback is None else decision.fallback
            return decision.reveal | take_best(score, view.eligible, stuck.long()), stuck
        left = (view.eligible & ~decision.reveal).any(-1) | (decision.remask is not None and decision.remask.any(-1))
        if bool((decision.done & left).any()):
            raise PluginError(f"{self.policy!r} is done with a block in which a MASK is left; reveal it first.")
        return decision.reveal, torch.zeros_like(decision.done)


def _foreign(policy: object) -> bool:
    """Whether a policy, or one inside it, is not of this library; a fault of our own keeps its traceback."""
    if not type(policy).__module__.startswith("unmask."):
        return True
    parts = [getattr(policy, field.name) for field in fields(policy)] if is_dataclass(policy) else []
    return any(hasattr(part, "looks") and _foreign(part) for part in parts)


class _Seen(NamedTuple):
    """Log-probabilities of the proposals, and for traces the most probable tokens."""

    log_prob: Tensor  # (B, L) of the proposals
    candidates: Tensor | None = None
    candidate_log_probs: Tensor | None = None


def _or(values: Tensor, default: float) -> list[float]:
    """Numbers (B,) with `default` in place of nan."""
    return [default if math.isnan(value) else value for value in values.tolist()]


def _scattered(where: Tensor, rows: Tensor, empty: float = 0) -> Tensor:
    """Rows (N, K) at the N places of `where` (B, L), `empty` elsewhere: (B, L, K)."""
    out = rows.new_full((*where.shape, rows.shape[-1]), empty)
    out[where] = rows
    return out
