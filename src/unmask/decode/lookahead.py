"""Candidate canvases: rows beside the canvas in a pass, so that a policy sees what its choices lead to.

A decision names sets of positions (`Decision.candidates`). The canvas with one set filled, by the proposals of the View
that the policy had, is a candidate. The next pass runs all candidates of a row as rows of their own. The policy gets a
View of each, and may make one of them the canvas. Shapes: B rows, C candidates a row, L positions, N rows of the pass.
"""

__all__ = ["Pending", "Taken", "take_turn"]

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unmask.batch import Checks
from unmask.decode.canvas import Canvas
from unmask.decode.turn import Ahead, Seen
from unmask.errors import RequestError
from unmask.policies.base import Decided, State, UnmaskingPolicy, View, decide, needs_of


class Pending(NamedTuple):
    """What the loop keeps of a decision until the next pass, with the rows first as in the memory of a cache."""

    sets: Tensor  # (B, C, L) bool, `Decision.candidates`
    tokens: Tensor  # (B, L) the proposals, and likewise what the canvas has of a written token:
    log_prob: Tensor
    margin: Tensor
    entropy: Tensor
    known: Tensor  # (B,) bool: the canvas itself was run in the last pass


def _current(pending: Pending, ahead: Ahead) -> Pending:
    """The candidates as they can still be: none in a row that begins a block, and nothing behind the end of a row."""
    still = ahead.view.eligible[:, None] & (ahead.canvas.step > 0)[:, None, None]
    return pending._replace(sets=pending.sets & still)


def _stack(ahead: Ahead, pending: Pending | None, written: bool) -> tuple[Ahead, Tensor]:
    """Rows before a pass -> the rows of the pass, each a canvas or a candidate; and which these are, (B, C + 1) bool.

    `written`: whether the head also runs at written positions.
    """
    canvas, view = ahead.canvas, ahead.view
    run = torch.ones_like(canvas.step, dtype=torch.bool)[:, None]
    if pending is None:
        return ahead, run
    live = pending.sets.any(-1)
    run = torch.cat([~(pending.known & live.any(-1))[:, None], live], 1)
    row, slot = run.nonzero(as_tuple=True)
    filled = torch.cat([torch.zeros_like(pending.sets[:, :1]), pending.sets], 1)[row, slot]
    rows = _filled(canvas.keep(row), pending, row, filled)
    seen = replace(
        view.keep(row),
        eligible=view.eligible[row] & ~filled,
        masked=view.masked[row] & ~filled,
        written=rows.written,
        erasable=view.erasable[row] | filled,
        proposal=rows.tokens,
        confidence=rows.log_prob.exp(),
        margin=rows.margin,
        entropy=rows.entropy,
    )
    where = seen.eligible | seen.erasable if written else seen.eligible
    index = row.tolist()
    return ahead._replace(
        canvas=rows,
        view=seen,
        where=where,
        counts=[int(count) for count in where.sum(-1).tolist()],
        temperature=[ahead.temperature[i] for i in index],
        top_p=[ahead.top_p[i] for i in index],
        constraint=[ahead.constraint[i] for i in index],
    ), run


def _filled(canvas: Canvas, pending: Pending, rows: Tensor, filled: Tensor) -> Canvas:
    """The canvas with the proposals of `pending` of some `rows` at the positions `filled` (N, L)."""

    def merged(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(filled, new[rows], old)

    return replace(
        canvas,
        tokens=merged(pending.tokens, canvas.tokens),
        written=canvas.written | filled,
        log_prob=merged(pending.log_prob, canvas.log_prob),
        margin=merged(pending.margin, canvas.margin),
        entropy=merged(pending.entropy, canvas.entropy),
    )


def _split(view: View, seen: Seen, run: Tensor, before: View) -> tuple[View, Tensor]:
    """The View of the N rows of a pass -> that of the B canvases, with `ahead`; and log-probabilities (C + 1, B, L).

    `before` is the View of the canvases before the pass, which fills what was not run.
    """
    row, slot = run.nonzero(as_tuple=True)

    def scattered(values: Tensor, base: Tensor, number: int) -> Tensor:
        out = base.clone()
        out[row[slot == number]] = values[slot == number]
        return out

    def at(number: int) -> View:
        parts: dict[str, Any] = {}
        for field in fields(view):
            value, base = getattr(view, field.name), getattr(before, field.name)
            if isinstance(value, Tensor):
                base = value.new_zeros((len(run), *value.shape[1:])) if base is None else base
                if number and field.name == "eligible":
                    base = torch.zeros_like(base)
                parts[field.name] = scattered(value, base, number)
        return View(**parts)

    count = run.shape[1]
    empty = before.confidence.log()
    log_probs = torch.stack([scattered(seen.log_prob, empty, number) for number in range(count)])
    return replace(at(0), ahead=tuple(at(number) for number in range(1, count))), log_probs


class Taken(NamedTuple):
    """A pass over canvases and candidates, and what the policy decided."""

    canvas: Canvas  # with the candidates that the policy picked
    view: View  # of these
    seen: Seen
    decided: Decided
    memory: State  # for the next pass: a `Pending` in the place of a cache
    accepted: Tensor  # (B, L) bool: what the picked candidates filled
    runs: Tensor  # (B,) canvases and candidates that went through the network


Look = Callable[[Ahead, State, Checks], tuple[View, Seen, State]]
"""The pass of `Decoder`: rows -> their View, log-probabilities, and the memory of a cache."""


def take_turn(look: Look, policy: UnmaskingPolicy, ahead: Ahead, before: State, memory: State, checks: Checks) -> Taken:
    """Rows, the state of the policy and (a `Pending` or None, None) -> the pass, and the decision about it.

    Raises RequestError for a policy with `greedy` and a row with a temperature above 0.
    """
    _check_greedy(policy, ahead.temperature)
    pending = None if memory[0] is None else _current(Pending(*memory[0]), ahead)
    rows, run = _stack(ahead, pending, needs_of(policy).written)
    view, seen, _ = look(rows, (None, None), checks)
    view, log_probs = _split(view, seen, run, ahead.view)
    decided = decide(policy, view, before, view.confidence, checks)
    decision, _, revealed, _ = decided
    canvas, accepted = ahead.canvas, torch.zeros_like(revealed)
    every = torch.arange(len(revealed), device=revealed.device)
    picked = torch.zeros_like(every) if decision.picked is None else decision.picked
    if pending is not None:
        accepted = torch.cat([accepted[:, None], pending.sets], 1)[every, picked]
        canvas = _filled(canvas, pending, every, accepted)
    view, log_prob = view.pick(picked), log_probs[picked, every]
    after = None
    if decision.candidates is not None:
        known = ~revealed.any(-1)
        known = known if decision.remask is None else known & ~decision.remask.any(-1)
        after = Pending(decision.candidates, view.proposal, log_prob, view.margin, view.entropy, known)
    return Taken(canvas, view, Seen(log_prob), decided, (after, None), accepted, run.sum(-1))


def _check_greedy(policy: object, temperatures: list[float]) -> None:
    """Raise RequestError for a policy whose result is that of another rule at temperature 0 alone, and rows above 0."""
    if getattr(policy, "greedy", False) and any(temperatures):
        raise RequestError(
            f"{policy!r} compares drafts with the most probable tokens, so that its text is that of the rule at "
            "temperature 0 alone; set the temperature to 0, or use the rule without it."
        )
