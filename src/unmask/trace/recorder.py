"""Snapshots of the decoding loop -> events. Protocols describe the snapshot, so that `decode` is not imported."""

__all__ = ["Recorder", "Turn"]

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from unmask import __version__
from unmask.trace.events import Change, Event, Header, Row, Trace

if TYPE_CHECKING:
    from torch import Tensor

_UNSEEN = -1  # in place of a token of a prompt that begins before the window
_Rows = TypeVar("_Rows")
_Snapshot = TypeVar("_Snapshot", bound="Turn")


class _Canvas(Protocol):
    """The fields of `decode.Canvas` that are read; (B, L) or (B,)."""

    @property
    def tokens(self) -> "Tensor": ...
    @property
    def log_prob(self) -> "Tensor": ...
    @property
    def passes(self) -> "Tensor": ...
    @property
    def turn(self) -> "Tensor": ...
    @property
    def block(self) -> "Tensor": ...


class _View(Protocol):
    """The fields of `policies.View` that are read; (b, L)."""

    @property
    def masked(self) -> "Tensor": ...
    @property
    def proposal(self) -> "Tensor": ...
    @property
    def confidence(self) -> "Tensor": ...


class _Step(Protocol):
    """The fields of `decode.Step` that are read."""

    @property
    def rows(self) -> "Tensor": ...
    @property
    def view(self) -> _View: ...
    @property
    def revealed(self) -> "Tensor": ...
    @property
    def remasked(self) -> "Tensor": ...
    @property
    def rescued(self) -> "Tensor": ...
    @property
    def candidates(self) -> "Tensor | None": ...
    @property
    def candidate_log_probs(self) -> "Tensor | None": ...


class Turn(Protocol):
    """One turn of the decoding loop: `decode.rows.Snapshot`, also built from a canvas and a step of `Decoder.steps`."""

    @property
    def rows(self) -> tuple[int, ...]: ...
    @property
    def starts(self) -> tuple[int, ...]: ...
    @property
    def lengths(self) -> tuple[int, ...]: ...
    @property
    def canvas(self) -> _Canvas: ...
    @property
    def step(self) -> _Step: ...
    def typed(self, line: int) -> Mapping[int, str]: ...


@dataclass(slots=True)
class _RowState:
    """The state of a row after the turns recorded so far; the counts of earlier windows are in `before`."""

    start: list[int]
    held: dict[int, int]
    typed: dict[int, str]
    before: tuple[int, int, int] = (0, 0, 0)  # turns, passes, blocks
    now: tuple[int, int, int] = (0, 0, 0)


class Recorder:
    """A stream of snapshots -> events, which are kept in `events`; needs no model."""

    def __init__(self, mask_id: int, held: Mapping[int, int] | None = None) -> None:
        """`held`: position -> earlier token of text edited in place, for every row; the canvas has MASK there."""
        self.mask_id, self.events = mask_id, list[Event]()
        self._held = dict(held or {})
        self._rows: dict[int, _RowState] = {}

    def record(self, stream: Generator[_Snapshot, None, _Rows]) -> Generator[_Snapshot, None, _Rows]:
        """Stream of snapshots -> the same stream; each snapshot is recorded before it is yielded."""
        while True:
            try:
                snapshot = next(stream)
            except StopIteration as end:
                return end.value
            self.record_turn(snapshot)
            yield snapshot

    def record_turn(self, snapshot: Turn) -> list[Event]:
        """Snapshot -> the events of its turn, by row and position; call it with every snapshot, in order."""
        canvas, step = snapshot.canvas, snapshot.step
        counts = list(zip(canvas.turn.tolist(), canvas.passes.tolist(), canvas.block.tolist(), strict=True))
        for at, line in enumerate(step.rows.tolist()):
            self._update_row(snapshot, at, line, counts[line])
        at, column = (step.revealed | step.remasked).nonzero().unbind(-1)
        line = step.rows[at]
        hidden = step.remasked[at, column]
        values = [
            line,
            column,
            canvas.tokens[line, column].where(~hidden, step.view.proposal[at, column]),
            canvas.log_prob[line, column].exp().where(~hidden, step.view.confidence[at, column]),
            hidden,
            step.rescued[at],
        ]
        alternatives = _alternatives(step, at, column)
        events = [
            self._event(snapshot, *fields)
            for fields in zip(*(value.tolist() for value in values), alternatives, strict=True)
        ]
        self.events += events
        return events

    def trace(
        self,
        texts: Sequence[Sequence[int]],
        piece: Callable[[int], str],
        raw: Callable[[int], bytes | None],
        **facts: Any,
    ) -> Trace:
        """Finished texts and functions of token ids -> the recorded events with a header, drawable without the model.

        `texts` are the finished rows as token ids, cut at EOS. Where several rows were decoded for each text, the trace
        has the row that became the text. `piece` maps a token id to its text, `raw` to its bytes where the token is a
        part of a character, else to None; `facts` are further fields of the `Header`.
        """
        each = max(1, len(self._rows) // max(1, len(texts)))
        chosen = [self._source(range(at * each, (at + 1) * each), text) for at, text in enumerate(texts)]
        rows = tuple(self._row(row, text) for row, text in zip(chosen, texts, strict=True))
        index = {row: at for at, row in enumerate(chosen)}
        events = tuple(replace(event, row=index[event.row]) for event in self.events if event.row in index)
        ids = {token for row in rows for token in (*row.start, *row.held.values())}
        for event in events:
            ids |= {event.token, *(token for token, _ in event.alternatives)}
        parts = {token: data.hex() for token in sorted(ids) if (data := raw(token)) is not None}
        pieces = {token: piece(token) for token in sorted(ids) if token not in parts}
        return Trace(Header(self.mask_id, rows, pieces, parts, version=__version__, **facts), events)

    def _source(self, rows: range, text: Sequence[int]) -> int:
        """The row, of some rows, whose last canvas is this text; else the first of them."""
        ends = {row: list(self._rows[row].start) for row in rows if row in self._rows} if len(rows) > 1 else {}
        for event in self.events:
            if event.row in ends:
                ends[event.row][event.position] = self.mask_id if event.change == "remasked" else event.token
        return next((row for row, end in ends.items() if end == list(text)), rows[0])

    def _row(self, row: int, text: Sequence[int]) -> Row:
        state = self._rows.get(row)
        if state is None:
            return Row(tuple(text), 0)
        end = None if len(text) == len(state.start) else len(text)
        start = tuple(text[at] if token == _UNSEEN else token for at, token in enumerate(state.start))
        return Row(start, state.before[1] + state.now[1], end, dict(self._held), state.typed)

    def _update_row(self, snapshot: Turn, at: int, line: int, now: tuple[int, int, int]) -> None:
        """Update the counts of a row; at the start of a window, append the initial canvas to `start`."""
        row, start, view = snapshot.rows[line], snapshot.starts[line], snapshot.step.view
        state = self._rows.get(row)
        if state is None:
            state = self._rows[row] = _RowState([_UNSEEN] * start, dict(self._held), dict(snapshot.typed(line)))
        elif now[0] > state.now[0]:
            state.now = now
            return
        else:  # a new window: its counts start at zero
            turns, passes, block = state.now
            state.before = (state.before[0] + turns, state.before[1] + passes, state.before[2] + block + 1)
        canvas = view.proposal[at].masked_fill(view.masked[at], self.mask_id).tolist()
        for position in range(len(state.start), start + snapshot.lengths[line]):
            token = canvas[position - start]
            state.start.append(token)
            if token != self.mask_id:
                state.held[position] = token
        state.now = now

    def _event(
        self,
        snapshot: Turn,
        line: int,
        column: int,
        token: int,
        confidence: float,
        hidden: bool,
        rescued: bool,
        alternatives: tuple[tuple[int, float], ...],
    ) -> Event:
        row, position = snapshot.rows[line], snapshot.starts[line] + column
        state = self._rows[row]
        change: Change = "remasked" if hidden else "rescued" if rescued else "committed"
        if change == "committed" and state.held.get(position, token) != token:
            change = "edited"
        state.held[position] = token
        turns, passes, block = (old + new for old, new in zip(state.before, state.now, strict=True))
        return Event(turns, row, position, token, _rounded(confidence), change, block, passes, alternatives)


def _alternatives(step: _Step, at: "Tensor", column: "Tensor") -> list[tuple[tuple[int, float], ...]]:
    """For N positions (rows `at`, columns `column`): the candidates of the pass with probabilities above zero."""
    if step.candidates is None or step.candidate_log_probs is None:
        return [()] * len(at)
    ids, values = step.candidates[at, column].tolist(), step.candidate_log_probs[at, column].exp().tolist()
    return [
        tuple((token, rounded) for token, p in zip(*pair, strict=True) if (rounded := _rounded(p)))
        for pair in zip(ids, values, strict=True)
    ]


def _rounded(probability: float) -> float | None:
    """A probability with six significant digits, so that files stay short and read back the same; None for nan."""
    return None if math.isnan(probability) else float(f"{probability:.6g}")
