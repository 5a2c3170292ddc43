"""A trace, the typed events of decoding -> the canvas after each step, a JSON lines file.

An event is one change of one position. The header of a trace has the canvas of each row at the start and the text of
every token id that occurs, so that a trace is replayed and drawn without the model. A file has the header in its first
line and one event in each further line.
"""

__all__ = [
    "ALTERNATIVES",
    "CHANGES",
    "FILE_KEYS",
    "FORMAT",
    "Change",
    "Event",
    "Header",
    "Row",
    "Trace",
    "from_jsonl",
    "last_events",
    "position_texts",
    "read",
    "records",
    "replay",
    "to_jsonl",
]

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar, Literal, get_args

from unmask.disk.files import reason_of
from unmask.disk.json import LINES_BYTES, NotJson, parse_json, read_text
from unmask.errors import DataError, RequestError
from unmask.ranges import Count, Natural, real

ALTERNATIVES = 5
"""How many of the most probable tokens a trace records at each position."""
Change = Literal["committed", "remasked", "edited", "rescued"]
CHANGES: tuple[Change, ...] = get_args(Change)
FILE_KEYS = {"change": "kind"}
"""Fields of an event whose key in a file is another word."""
_UNKNOWN = "\ufffd"


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one position."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"alias_generator": lambda name: FILE_KEYS.get(name, name)}

    step: Count
    """Turns of the row so far, this one included, from 1. A turn is a pass, or a decision that needed no pass."""
    row: Natural
    position: Natural
    """In the whole text, from 0, also where the text was written in windows that slide."""
    token: Natural
    """The token that was written; for `remasked` the token that was hidden."""
    confidence: Annotated[float | None, real(0, 1)]
    """Clean probability of the token at the pass that wrote it; None where it is unknown."""
    change: Change
    """`committed`: written. `edited`: written, and another token than the previous one of this position. `rescued`:
    written by the loop because the policy revealed nothing, whatever the token before. `remasked`: hidden again."""
    block: Natural
    """From 0; the count continues in a later window."""
    passes: Natural
    """Forward passes of the row so far, this one included."""
    alternatives: tuple[tuple[Natural, Annotated[float, real(0, 1)]], ...] = ()
    """Tokens and their probabilities at that pass, the most probable first; empty unless the decoder was set to
    return them."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row before its first event, and its length at the end."""

    start: tuple[Natural, ...]
    """Tokens of the whole text, MASK at the positions to fill."""
    passes: Natural
    end: Natural | None = None
    """The number of tokens that are the text; EOS and later tokens are not part of it. None: all."""
    held: dict[Natural, Natural] = field(default_factory=dict[int, int])
    """The earlier tokens, by position, where the text was edited in place and `start` has MASK."""
    typed: dict[int, str] = field(default_factory=dict[int, str])
    """By position, text that is shown as it was typed: it has characters outside the alphabet of the model."""


@dataclass(frozen=True, slots=True)
class Header:
    """What is needed to draw the events, and the request that they come from."""

    mask_id: Natural
    rows: tuple[Row, ...]
    pieces: dict[int, str]
    """The text of each token id that occurs."""
    raw: dict[int, str] = field(default_factory=dict[int, str])
    """The bytes, hexadecimal, of the token ids that are a part of a character."""
    policy: str = ""
    seed: int | tuple[int, ...] = 0
    checkpoint: str = ""
    block_size: Count | None = None
    version: str = ""
    """Of the library that wrote the trace."""
    columns: Count | None = None
    """Positions on a line, where the text is drawn as a grid."""
    box: tuple[Count, Count] | None = None
    """Height and width of the boxes that the grid is ruled into."""


@dataclass(frozen=True, slots=True, repr=False)
class Trace:
    """Events in the order in which they happened; those of each row are sorted by step."""

    header: Header
    events: tuple[Event, ...]
    cut: bool = False
    """Whether the file ends in the middle of an event, which is left out."""

    def __repr__(self) -> str:
        """A line: how many rows and events."""
        return f"Trace(rows={len(self.header.rows)}, events={len(self.events):,})"


def replay(trace: Trace, row: int = 0, step: int | None = None) -> list[int]:
    """Trace, row and step (default: the last) -> the canvas of the row after that step, as token ids.

    Up to its `end`, the last canvas is the decoded text. Raises RequestError for a row that the trace does not have.
    """
    events = last_events(trace, row, step)
    tokens = list(trace.header.rows[row].start)
    for position, event in events.items():
        tokens[position] = trace.header.mask_id if event.change == "remasked" else event.token
    return tokens


def last_events(trace: Trace, row: int = 0, step: int | None = None) -> dict[int, Event]:
    """Trace, row and step (default: the last) -> the last event of each position up to that step.

    Raises RequestError for a row that the trace does not have.
    """
    count = len(trace.header.rows)
    if not 0 <= row < count:
        possible = "0, its only one" if count == 1 else f"0 to {count - 1}"
        raise RequestError(f"There is no row {row} in this trace; give {possible}.")
    events = (event for event in trace.events if event.row == row and (step is None or event.step <= step))
    return {event.position: event for event in events}


def position_texts(header: Header, tokens: Sequence[int], typed: Mapping[int, str] | None = None) -> list[str]:
    """Token ids -> the text of each position, "" for MASK; `typed` replaces it at some positions, see `Row`.

    Where several tokens make up one character the first position has it and the others have "". Characters that cannot
    be printed are U+FFFD, so that no text controls a terminal.
    """
    texts: list[str] = []
    while len(texts) < len(tokens):
        at, count = len(texts), 1
        if typed is not None and at in typed:
            text = typed[at].replace("\t", " ")
        elif tokens[at] == header.mask_id:
            text = ""
        elif tokens[at] in header.raw:
            text, count = _character(header.raw, tokens[at : at + 4])
        else:
            text = header.pieces.get(tokens[at], _UNKNOWN).replace("\t", " ")
        texts.append("".join(sign if sign == "\n" or sign.isprintable() else _UNKNOWN for sign in text))
        texts += [""] * (count - 1)
    return texts


def _character(raw: Mapping[int, str], tokens: Sequence[int]) -> tuple[str, int]:
    """The text of the shortest prefix of `tokens` whose bytes are whole characters, and the length of the prefix."""
    together = b""
    for count, token in enumerate(tokens, start=1):
        if token not in raw:
            break
        together += bytes.fromhex(raw[token])
        text = together.decode("utf-8", "replace")
        if _UNKNOWN not in text:
            return text, count
    return _UNKNOWN, 1


FORMAT = 1
_GIVE = "give a .jsonl file that --trace wrote (a page opens in a web browser)"
_MARK = "unmask_trace"  # the key of a header that holds the format number


def to_jsonl(trace: Trace) -> str:
    """Trace -> the content of a trace file, in ASCII."""
    lines = [json.dumps({_MARK: FORMAT} | asdict(trace.header)), *map(json.dumps, records(trace.events))]
    return "\n".join(lines) + "\n"


def read(path: str | os.PathLike[str]) -> Trace:
    """Path of a .jsonl file -> its trace.

    Raises DataError for a file that cannot be read, is no trace, or has a newer format than this library reads.
    """
    name = os.fspath(path)
    try:
        text = read_text(path, LINES_BYTES)
    except OSError as error:
        raise DataError(f"{name} cannot be read ({reason_of(error)}); give a file that --trace wrote.") from None
    except NotJson as error:
        raise DataError(f"{name} is not a trace: it {error}; {_GIVE}.") from None
    return from_jsonl(text, name)


def from_jsonl(text: str, name: str = "the text") -> Trace:
    """The output of `to_jsonl` -> the trace; an incomplete last line is left out, and then `cut` is True.

    `name` is what errors call the text. Raises DataError for a text that is no trace, a newer format or a damaged line.
    """
    first, *lines = text.split("\n")
    header = _header(first, name)
    while lines and not lines[-1].strip():
        del lines[-1]
    events: list[Event] = []
    for number, line in enumerate(lines, start=2):
        where = f"line {number} of {name}"
        try:
            event = parse_json(line, Event)
        except NotJson as error:
            if number == len(lines) + 1 and error.cut:
                return Trace(header, tuple(events), cut=True)
            raise DataError(f"{where} is damaged: it {error.reason}; write the trace again.") from None
        _check_position(event, header, where)
        events.append(event)
    return Trace(header, tuple(events))


def records(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Events -> JSON objects; `alternatives` is left out where it is empty."""
    return [{FILE_KEYS.get(key, key): value for key, value in asdict(event).items() if value != ()} for event in events]


def _header(line: str, name: str) -> Header:
    try:
        number = parse_json(line, dict[str, Any]).get(_MARK)
    except NotJson:
        number = None
    if type(number) is not int or number < 1:
        raise DataError(f"{name} is not a trace; {_GIVE}.")
    if number > FORMAT:
        raise DataError(f"{name} has trace format {number} and this unmask reads up to {FORMAT}: upgrade unmask.")
    try:
        header = parse_json(line, Header)
        for text in header.raw.values():
            bytes.fromhex(text)
    except ValueError as error:  # NotJson, or what is not hexadecimal
        reason = error.reason if isinstance(error, NotJson) else f"has raw bytes that are not hexadecimal ({error})"
        raise DataError(f"The first line of {name} is damaged: it {reason}; write the trace again.") from None
    if not header.rows:
        raise DataError(f"The first line of {name} is damaged: it has no rows; write the trace again.")
    return header


def _check_position(event: Event, header: Header, where: str) -> None:
    """Raise DataError for an event at a row or position that the header does not have."""
    rows = header.rows
    if not 0 <= event.row < len(rows) or not 0 <= event.position < len(rows[event.row].start):
        raise DataError(f"{where} is about row {event.row}, position {event.position}, which the header does not have.")
