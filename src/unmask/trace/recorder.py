"""From what the decoding loop did to events. It asks for the shape of a snapshot, not for the loop itself."""

__all__ = ["Recorder", "Seen"]

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from unmask import __version__
from unmask.trace.events import Event, Header, Kind, Row, Trace

if TYPE_CHECKING:
    from torch import Tensor

_UNSEEN = -1  # a token of a prompt that is longer than the window
_Rows = TypeVar("_Rows")
_Snapshot = TypeVar("_Snapshot", bound="Seen")


class _Canvas(Protocol):
    """The part of `decode.Canvas` that is looked at; (B, L) or (B,)."""

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
    """The part of `policies.View` that is looked at; (b, L)."""

    @property
    def masked(self) -> "Tensor": ...
    @property
    def proposal(self) -> "Tensor": ...
    @property
    def confidence(self) -> "Tensor": ...


class _Step(Protocol):
    """The part of `decode.Step` that is looked at."""

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


class Seen(Protocol):
    """What a recorder takes in: `windows.Snapshot`, or a canvas and a step of `Decoder.steps` put into one."""

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


@dataclass(slots=True)
class _Known:
    """A row as far as it has been seen; the counts of earlier windows are in `before`."""

    start: list[int]
    held: dict[int, int]
    before: tuple[int, int, int] = (0, 0, 0)  # turns, passes, blocks
    now: tuple[int, int, int] = (0, 0, 0)


class Recorder:
    """Turns the snapshots of a stream into events and keeps them; needs no model."""

    def __init__(self, mask_id: int, held: Mapping[int, int] | None = None) -> None:
        """`held`: by position, tokens of text that is edited in place, of every row; the canvas has MASK there."""
        self.mask_id, self.events = mask_id, list[Event]()
        self._held = dict(held or {})
        self._rows: dict[int, _Known] = {}

    def record(self, stream: Generator[_Snapshot, None, _Rows]) -> Generator[_Snapshot, None, _Rows]:
        """The same stream; each snapshot is recorded before it is passed on."""
        while True:
            try:
                snapshot = next(stream)
            except StopIteration as end:
                return end.value
            self.events_of(snapshot)
            yield snapshot

    def events_of(self, snapshot: Seen) -> list[Event]:
        """What happened in a turn, by row and position; to be given every snapshot, in order."""
        canvas, step = snapshot.canvas, snapshot.step
        counts = list(zip(canvas.turn.tolist(), canvas.passes.tolist(), canvas.block.tolist(), strict=True))
        for at, line in enumerate(step.rows.tolist()):
            self._meet(snapshot, at, line, counts[line])
        at, place = (step.revealed | step.remasked).nonzero().unbind(-1)
        line = step.rows[at]
        hidden = step.remasked[at, place]
        columns = [
            line,
            place,
            canvas.tokens[line, place].where(~hidden, step.view.proposal[at, place]),
            canvas.log_prob[line, place].exp().where(~hidden, step.view.confidence[at, place]),
            hidden,
            step.rescued[at],
        ]
        some = [_alternatives(step, at, place)]
        found = [
            self._event(snapshot, *values)
            for values in zip(*(column.tolist() for column in columns), *some, strict=True)
        ]
        self.events += found
        return found

    def trace(
        self,
        texts: Sequence[Sequence[int]],
        piece: Callable[[int], str],
        raw: Callable[[int], bytes | None],
        **facts: Any,
    ) -> Trace:
        """What was recorded, with all that is needed to draw it without the model.

        `texts` are the finished rows as token ids, cut at EOS. Where several rows were tried for each text, the trace
        tells of the one that became it. `piece` and `raw` give the text of a token id and, where that is a part of a
        character, its bytes; `facts` are further fields of the `Header`.
        """
        each = max(1, len(self._rows) // max(1, len(texts)))
        chosen = [self._source(range(at * each, (at + 1) * each), text) for at, text in enumerate(texts)]
        rows = tuple(self._row(row, text) for row, text in zip(chosen, texts, strict=True))
        place = {row: at for at, row in enumerate(chosen)}
        events = tuple(replace(event, row=place[event.row]) for event in self.events if event.row in place)
        ids = {token for row in rows for token in (*row.start, *row.held.values())}
        for event in events:
            ids |= {event.token, *(token for token, _ in event.alternatives)}
        parts = {token: data.hex() for token in sorted(ids) if (data := raw(token)) is not None}
        pieces = {token: piece(token) for token in sorted(ids) if token not in parts}
        return Trace(Header(self.mask_id, rows, pieces, parts, version=__version__, **facts), events)

    def _source(self, rows: range, text: Sequence[int]) -> int:
        """Which of some rows ended as this text."""
        ends = {row: list(self._rows[row].start) for row in rows if row in self._rows} if len(rows) > 1 else {}
        for event in self.events:
            if event.row in ends:
                ends[event.row][event.position] = self.mask_id if event.kind == "remasked" else event.token
        return next((row for row, end in ends.items() if end == list(text)), rows[0])

    def _row(self, row: int, text: Sequence[int]) -> Row:
        known = self._rows.get(row)
        if known is None:
            return Row(tuple(text), 0)
        end = None if len(text) == len(known.start) else len(text)
        start = tuple(text[at] if token == _UNSEEN else token for at, token in enumerate(known.start))
        return Row(start, known.before[1] + known.now[1], end, dict(self._held))

    def _meet(self, snapshot: Seen, at: int, line: int, now: tuple[int, int, int]) -> None:
        """Bring the row's counts up to date; at the start of a window, note the canvas as it was."""
        row, start, view = snapshot.rows[line], snapshot.starts[line], snapshot.step.view
        known = self._rows.get(row)
        if known is None:
            known = self._rows[row] = _Known([_UNSEEN] * start, dict(self._held))
        elif now[0] > known.now[0]:
            known.now = now
            return
        else:  # the turns of a new window begin again
            turns, passes, block = known.now
            known.before = (known.before[0] + turns, known.before[1] + passes, known.before[2] + block + 1)
        canvas = view.proposal[at].masked_fill(view.masked[at], self.mask_id).tolist()
        for position in range(len(known.start), start + snapshot.lengths[line]):
            token = canvas[position - start]
            known.start.append(token)
            if token != self.mask_id:
                known.held[position] = token
        known.now = now

    def _event(
        self,
        snapshot: Seen,
        line: int,
        place: int,
        token: int,
        confidence: float,
        hidden: bool,
        rescued: bool,
        alternatives: tuple[tuple[int, float], ...],
    ) -> Event:
        row, position = snapshot.rows[line], snapshot.starts[line] + place
        known = self._rows[row]
        kind: Kind = "remasked" if hidden else "rescued" if rescued else "committed"
        if kind == "committed" and known.held.get(position, token) != token:
            kind = "edited"
        known.held[position] = token
        turns, passes, block = (old + new for old, new in zip(known.before, known.now, strict=True))
        return Event(turns, row, position, token, _figure(confidence), kind, block, passes, alternatives)


def _alternatives(step: _Step, at: "Tensor", place: "Tensor") -> list[tuple[tuple[int, float], ...]]:
    """For each of N positions the candidates that the pass told, without those of probability zero."""
    if step.candidates is None or step.candidate_log_probs is None:
        return [()] * len(at)
    ids, values = step.candidates[at, place].tolist(), step.candidate_log_probs[at, place].exp().tolist()
    return [
        tuple((one, rounded) for one, p in zip(*pair, strict=True) if (rounded := _figure(p)))
        for pair in zip(ids, values, strict=True)
    ]


def _figure(probability: float) -> float | None:
    """Six digits, so that a file reads well and gives back what was written; None for nan."""
    return None if math.isnan(probability) else float(f"{probability:.6g}")
