"""The decoding loop. There is one: generation, filling, sweeps and reinforcement learning all use it.

`step` is one turn of some rows: a forward pass of the denoiser, and a decision of the policy. If a policy reveals
nothing in a row, the loop reveals one eligible position there (`Step.rescued`), so that decoding always ends; the
decision that is recorded stays the policy's. Tokens of a pass that break a constraint together are left out, the less
probable ones (`constraint.settle`). A policy that hides tokens again returns `done` itself. A network with soft masks
gets at its next pass what this one predicted, at the positions where the head ran. Rows are independent: noise is a
function of (seed, turn, position), states never mix, and a finished row leaves the batch. A turn has two halves:
`_prepare`, at whose end the program reads from the device what it has to know, in one transfer, and `_turn`, which
reads nothing (of rows without a pattern), so that the program does not wait for a GPU. Shapes: B rows, L positions, V
vocabulary, N picked positions.
"""

__all__ = ["Decoder", "Step"]

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from unmask.batch import Checks, keep_rows, pad_rows, placed, put_rows
from unmask.decode.canvas import Canvas
from unmask.decode.constraint import Constraint, allowed_tokens, is_joint, settle
from unmask.decode.propose import Proposal, propose, two_best
from unmask.decode.turn import Ahead, Seen, place_of, scattered, watched
from unmask.denoiser import Caching, Denoiser, clean_mass, selection
from unmask.errors import RequestError
from unmask.model.soft import Feedback, best_tokens, feedback_at
from unmask.noise import POLICY, TOKENS, uniform
from unmask.policies.base import Decision, State, UnmaskingPolicy, View, decide, needs_of, refuse_pairs
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
    first block begins at the first position to fill, or, with block-causal attention, at position 0. A row also ends at
    a written `end_id` with no MASK before it; what is behind it stays MASK.

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
    end_id: Natural | None = None

    def __post_init__(self) -> None:
        check_numbers(self, error=RequestError)
        joint = any(rule is not None and is_joint(rule) for rule in self.constraints)
        refuse_pairs(self.denoiser, self.policy, joint=joint)

    def decode(self, canvas: Canvas) -> Canvas:
        """Fill the canvas: every valid MASK becomes a token, up to the end of each row."""
        for canvas, _ in self.steps(canvas):  # noqa: B007  (only the last canvas is returned)
            pass
        return canvas

    def steps(self, canvas: Canvas) -> Iterator[tuple[Canvas, Step]]:
        """The canvas after each pass and what the pass did; rows leave as they are finished."""
        state, checks = None, Checks()
        rows = self.unfinished(canvas).nonzero().squeeze(-1)
        while len(rows):
            every = len(rows) == len(canvas.seed)
            ahead = self._prepare(canvas if every else canvas.keep(rows), state, checks)
            left = ahead.left if all(ahead.open) else ahead.open
            if all(ahead.open) and (ahead.decided is not None or all(left)):
                part, state, step = self._turn(ahead, state, checks)
                canvas = part if every else canvas.put(rows, part)
                yield canvas, step._replace(rows=rows)
            if not all(left):
                stay = placed([row for row, more in enumerate(left) if more], rows.device)
                rows, state = rows[stay], keep_rows(state, stay)
        checks.read()

    def unfinished(self, canvas: Canvas) -> Tensor:
        """(B,) bool: rows with a MASK left before their end, or whose policy is not done."""
        return canvas.masked(self.denoiser.mask_id, self.end_id).any(-1) | canvas.open

    @torch.no_grad()
    def step(self, canvas: Canvas, state: State = None) -> tuple[Canvas, State, Step]:
        """One turn of rows that are all unfinished. `state`: the policy's, and (a cache's, the feedback)."""
        checks = Checks()
        after = self._turn(self._prepare(canvas, state, checks), state, checks)
        checks.read()
        return after

    @torch.no_grad()
    def _prepare(self, canvas: Canvas, state: State, checks: Checks) -> Ahead:
        """What a turn does before its pass, and the transfer of what the program has to know of it."""
        before, memory = _NOTHING if state is None else state
        grid = bool(getattr(self.denoiser, "causal_block", 0))
        canvas, masked, eligible, erasable = canvas.enter(self.denoiser.mask_id, self.block_size, self.end_id, grid)
        view = self._view_before(canvas, masked, eligible, erasable)
        open_ = masked.any(-1) | canvas.open
        decided, where, left = None, eligible | erasable if needs_of(self.policy).written else eligible, open_
        if not getattr(self.policy, "looks", True):
            decided = decision, _, where, _ = decide(self.policy, view, before, view.noise, checks)
            left = (masked & ~where).any(-1)
            if decision.done is not None:
                left |= ~decision.done
            if getattr(self.denoiser, "soft", 0):  # feedback for all that may be revealed by the next pass
                where = eligible & where.any(-1, keepdim=True)
        known = [open_, left, where.sum(-1), canvas.valid.all(-1), canvas.temperature, canvas.top_p, canvas.constraint]
        if hasattr(self.denoiser, "recall"):  # what isinstance would find, in a hundredth of the time
            known.append(cast(Caching, self.denoiser).sizes(canvas.tokens, place_of(canvas, view), memory[0]))
        open_, left, counts, whole, temperature, top_p, constraint, *sizes = checks.read(*known)
        joint = {number for number, rule in enumerate(self.constraints) if rule is not None and is_joint(rule)}
        if decided is not None and joint:  # what is written there is known after the pass alone
            left = [more or number in joint for more, number in zip(left, constraint, strict=True)]
        return Ahead(
            canvas,
            view,
            decided,
            where,
            open_,
            left,
            [int(count) for count in counts],
            all(whole),
            [self.temperature if math.isnan(value) else value for value in temperature],
            [self.top_p if math.isnan(value) else value for value in top_p],
            [int(number) for number in constraint],
            [int(size) for size in sizes[0]] if sizes else None,
        )

    @torch.no_grad()
    def _turn(self, ahead: Ahead, state: State, checks: Checks) -> tuple[Canvas, State, Step]:
        """The pass and what it changes."""
        before, memory = _NOTHING if state is None else state
        canvas = ahead.canvas
        accepted, runs = None, None
        if ahead.decided is None and needs_of(self.policy).ahead:
            from unmask.decode.lookahead import take_turn  # most policies do without

            taken = take_turn(self._look, self.policy, ahead, before, memory, checks)
            canvas, view, seen, (decision, after, revealed, rescued), memory, accepted, runs = taken
            proposal, passes = view.proposal, canvas.passes + 1
        elif ahead.decided is None:
            view, seen, memory = self._look(ahead, memory, checks)
            decision, after, revealed, rescued = decide(self.policy, view, before, view.confidence, checks)
            proposal, passes = view.proposal, canvas.passes + 1
        else:
            view, (decision, after, revealed, rescued) = ahead.view, ahead.decided
            proposal, seen, memory = self._write(ahead, decision.time, memory, checks)
            passes = canvas.passes + revealed.any(-1)
        remasked, done = decision.remask, decision.done
        if self.constraints != (None,):
            chosen = (proposal, seen.log_prob, revealed, decision)
            revealed, remasked, done = settle(self.constraints, ahead.constraint, canvas.tokens, *chosen)
        tokens = torch.where(revealed, proposal, canvas.tokens)
        canvas = replace(
            canvas,
            tokens=tokens,
            written=canvas.written | revealed,
            log_prob=torch.where(revealed, seen.log_prob, canvas.log_prob),
            margin=torch.where(revealed, view.margin, canvas.margin),
            entropy=torch.where(revealed, view.entropy, canvas.entropy),
            passes=passes,
            row_passes=canvas.row_passes + (passes - canvas.passes if runs is None else runs),
            turn=canvas.turn + 1,
            step=canvas.step + 1,
            open=torch.zeros_like(canvas.open) if done is None else ~done,
        )
        if remasked is None:
            remasked = torch.zeros_like(revealed)
        else:
            canvas = canvas.hide(remasked, self.denoiser.mask_id)
        if accepted is not None:
            revealed, remasked = revealed | (accepted & ~remasked), remasked & ~accepted
        every = torch.arange(len(tokens), device=tokens.device)
        step = Step(every, view, decision, revealed, remasked, rescued, seen.candidates, seen.candidate_log_probs)
        return canvas, (after, memory), step

    # ---- before the pass ------------------------------------------------------------------------------------------

    def _time(self, canvas: Canvas, masked: Tensor, decided: Tensor | None) -> Tensor | None:
        """The time (B,) for a time-conditioned denoiser: what the policy decided, or the share that is masked."""
        if not self.denoiser.time_conditioned:
            return None
        return masked.sum(-1) / canvas.valid.sum(-1) if decided is None else decided.float()

    def _hidden(self, ahead: Ahead, time: Tensor | None, memory: State) -> tuple[Tensor, State]:
        """(B, L, D), and what a caching denoiser wants back at the next pass."""
        canvas, view = ahead.canvas, ahead.view
        cached, soft = memory
        feedback = None if soft is None else Feedback(*soft)
        valid, prompt = None if ahead.whole else canvas.valid, canvas.valid & ~view.masked & ~view.written
        options: dict[str, Any] = {"valid": valid, "time": time, "prompt": prompt}
        if ahead.sizes is None:
            where = None if needs_of(self.policy).hidden else ahead.where
            return self.denoiser.hidden(canvas.tokens, **options, **selection(self.denoiser, where, feedback)), None
        place, options = place_of(canvas, view), options | selection(self.denoiser, None, feedback)
        return cast(Caching, self.denoiser).recall(canvas.tokens, place, cached, sizes=ahead.sizes, **options)

    def _feedback(self, where: Tensor, proposed: Proposal, entropy: Tensor | None = None) -> Feedback | None:
        """What the next pass of a network with soft masks gets, where the head ran."""
        count = getattr(self.denoiser, "soft", 0)
        return feedback_at(where, proposed.log_probs, count, entropy) if count else None

    def _noise(self, canvas: Canvas, stream: int) -> Tensor:
        positions = torch.arange(canvas.tokens.shape[-1], device=canvas.tokens.device)
        return uniform(canvas.seed[:, None], canvas.turn[:, None], positions[None], stream)

    def _view_before(self, canvas: Canvas, masked: Tensor, eligible: Tensor, erasable: Tensor) -> View:
        """The View before the pass: the features of written positions, as they were at the pass that wrote them."""
        drawn = needs_of(self.policy).noise or not getattr(self.policy, "looks", True)
        return View(
            eligible=eligible,
            masked=masked,
            written=canvas.written,
            erasable=erasable,
            proposal=canvas.tokens,
            confidence=canvas.log_prob.exp(),
            margin=canvas.margin,
            entropy=canvas.entropy,
            hidings=canvas.hidings,
            step=canvas.step,
            total=canvas.total,
            noise=self._noise(canvas, POLICY) if drawn else torch.full_like(canvas.log_prob, torch.nan).double(),
            dial=canvas.dial,
        )

    # ---- a policy that looks --------------------------------------------------------------------------------------

    def _look(self, ahead: Ahead, memory: State, checks: Checks) -> tuple[View, Seen, State]:
        """Run the pass; the head, and everything else that is V wide, at eligible positions alone."""
        canvas, view = ahead.canvas, ahead.view
        eligible = view.eligible
        needs, time = needs_of(self.policy), self._time(canvas, view.masked, None)
        attention, run = None, partial(self._hidden, ahead, time, memory)
        if needs.attention:
            (hidden, cached), attention = watched(self.denoiser, needs.attention, canvas.valid, run)
        else:
            hidden, cached = run()
        proposed, mass = self._propose(ahead, hidden, checks, needs.mass)
        fresh = None
        if needs.written:
            fresh = torch.zeros_like(canvas.log_prob).masked_scatter(ahead.where, proposed.log_prob.exp())
            inside = eligible[ahead.where]
            proposed, mass = proposed.keep(inside), None if mass is None else mass[inside]
        best, values = self._best(proposed, needs.top)
        values = values.exp()
        spread = -proposed.log_probs.exp().mul_(proposed.log_probs).nansum(-1)  # nan: tokens of probability 0
        memory = cached, self._feedback(eligible, proposed, spread)
        log_prob = canvas.log_prob.masked_scatter(eligible, proposed.log_prob)
        view = replace(
            view,
            proposal=canvas.tokens.masked_scatter(eligible, proposed.tokens),
            confidence=log_prob.exp(),
            margin=canvas.margin.masked_scatter(eligible, values[:, 0] - values[:, 1]),
            entropy=canvas.entropy.masked_scatter(eligible, spread),
            top=scattered(eligible, values[:, : needs.top]) if needs.top else None,
            log_probs=scattered(eligible, proposed.log_probs) if needs.log_probs else None,
            hidden=hidden if needs.hidden else None,
            fresh=fresh,
            attention=attention,
            mass=None if mass is None else torch.zeros_like(log_prob, dtype=mass.dtype).masked_scatter(eligible, mass),
        )
        return view, self._seen(log_prob, eligible, best), memory

    def _best(self, proposed: Proposal, top: int) -> tuple[torch.return_types.topk | None, Tensor]:
        """The highest log-probabilities, as many as the policy wants, and at least two (N, k); with ids for a trace."""
        if top <= 2 and not self.alternatives:
            return None, two_best(proposed.log_probs)[1] if proposed.best is None else proposed.best
        if not self.alternatives:
            return None, best_tokens(proposed.log_probs, top)[0]
        best = proposed.log_probs.topk(min(max(2, top, self.alternatives), proposed.log_probs.shape[-1]), -1)
        return best, best.values

    def _propose(
        self, ahead: Ahead, hidden: Tensor, checks: Checks, mass: bool = False
    ) -> tuple[Proposal, Tensor | None]:
        """Tokens and distributions where the head runs, by each row's temperature, top-p and constraint; the `mass`."""
        canvas, temperature, top_p = ahead.canvas, ahead.temperature, ahead.top_p
        places = ahead.where.flatten().nonzero_static(size=sum(ahead.counts)).squeeze(-1)
        logits = self.denoiser.logits(pad_rows(hidden.flatten(0, 1)[places]))[: len(places)]
        noise = self._noise(canvas, TOKENS).flatten()[places] if any(temperature) else None
        allowed = None  # where no row has a constraint
        if any(ahead.constraint) or self.constraints != (None,):
            allowed = allowed_tokens(self.constraints, ahead.constraint, canvas.tokens, ahead.where, logits.shape[-1])
            if allowed is not None and needs_of(self.policy).written:  # what is written may stay, whatever is allowed
                allowed = allowed | one_hot(canvas.tokens.flatten()[places], logits.shape[-1]).bool()
        mask_id, refuse = self.denoiser.mask_id, checks.refuse
        name = getattr(self.denoiser, "parameterization", "subs")
        total = clean_mass(logits, mask_id, name) if mass else None  # before the logit of MASK is overwritten
        if len(set(zip(temperature, top_p, strict=True))) == 1:
            return propose(logits, mask_id, noise, temperature[0], top_p[0], allowed, refuse), total
        line = places // canvas.tokens.shape[1]
        pairs = torch.tensor([temperature, top_p], dtype=torch.double, device=line.device)[:, line]
        return propose(logits, mask_id, noise, pairs[0], pairs[1], allowed, refuse), total

    def _seen(self, log_prob: Tensor, where: Tensor, best: torch.return_types.topk | None) -> Seen:
        if not self.alternatives or best is None:
            return Seen(log_prob)
        ids, values = best.indices[:, : self.alternatives], best.values[:, : self.alternatives]
        return Seen(log_prob, scattered(where, ids), scattered(where, values, torch.nan))

    # ---- a policy that decides before the pass --------------------------------------------------------------------

    def _write(self, ahead: Ahead, decided: Tensor | None, memory: State, checks: Checks) -> tuple[Tensor, Seen, State]:
        """Positions first, then tokens: run the pass for the rows that reveal something, and the head at `where`."""
        canvas, where = ahead.canvas, ahead.where
        busy = where.any(-1)
        if not any(ahead.counts):
            return canvas.tokens, Seen(canvas.log_prob), put_rows(memory, None, busy, canvas.step == 0)
        time = self._time(canvas, ahead.view.masked, decided)
        if all(ahead.counts):
            hidden, cached = self._hidden(ahead, time, memory)
            proposed, _ = self._propose(ahead, hidden, checks)
            memory = cached, self._feedback(where, proposed)
        else:
            kept = keep_rows(memory, busy)
            values, cached = self._hidden(ahead.keep(busy), None if time is None else time[busy], kept)
            proposed, _ = self._propose(ahead, put_rows(None, values, busy, ~busy), checks)
            after = cached, self._feedback(where[busy], proposed)
            memory = put_rows(memory, after, busy, canvas.step == 0)
        log_prob = canvas.log_prob.masked_scatter(where, proposed.log_prob)
        best = self._best(proposed, 0)[0] if self.alternatives else None
        return canvas.tokens.masked_scatter(where, proposed.tokens), self._seen(log_prob, where, best), memory


_NOTHING: State = (None, (None, None))
