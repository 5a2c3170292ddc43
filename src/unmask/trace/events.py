"""What happened while rows were decoded, as typed events, and what can be drawn from them without the model.

The header of a trace has the canvas of each row at the start and the text of every token id that occurs.
"""

__all__ = ["KINDS", "Event", "Header", "Kind", "Row", "Trace", "drawn", "replay", "standing"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from unmask.errors import RequestError

Kind = Literal["committed", "remasked", "edited", "rescued"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_UNKNOWN = "\ufffd"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to one position."""

    step: int
    """Turns of the row so far, this one included: passes, and decisions that needed none. From 1."""
    row: int
    position: int
    """In the whole text, from 0, also where it was written in windows that slide."""
    token: int
    """What was written; for `remasked` what was hidden."""
    confidence: float | None
    """Clean probability of the token at the pass that wrote it; None where it is not known."""
    kind: Kind
    """`edited`: another token than the one that stood here before. `rescued`: written by the loop because the policy
    revealed nothing, whatever stood here."""
    block: int
    """From 0; in a later window the count goes on."""
    passes: int
    """Forward passes of the row so far, this one included."""
    alternatives: tuple[tuple[int, float], ...] = ()
    """Tokens and their probabilities at that pass, the most probable first, where the decoder was asked for them."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row before its first event, and how it ended."""

    start: tuple[int, ...]
    """Tokens of the whole text, MASK where something is wanted."""
    passes: int
    end: int | None = None
    """So many tokens are the text; EOS and what was written after it are not. None: all."""
    held: dict[int, int] = field(default_factory=dict[int, int])
    """What stood, by position, where the text was edited in place and `start` has MASK."""


@dataclass(frozen=True, slots=True)
class Header:
    """All that is needed to draw the events, and what they come from."""

    mask_id: int
    rows: tuple[Row, ...]
    pieces: dict[int, str]
    """The text of each token id that occurs."""
    raw: dict[int, str] = field(default_factory=dict[int, str])
    """Of those that are a part of a character: their bytes, hexadecimal."""
    policy: str = ""
    seed: int | tuple[int, ...] = 0
    checkpoint: str = ""
    block_size: int | None = None
    version: str = ""
    """Of the library that wrote it."""
    columns: int | None = None
    """Draw so many positions on a line, as a grid."""
    box: tuple[int, int] | None = None
    """Height and width of the boxes that the grid is ruled into."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Events in the order in which they happened, those of each row by step."""

    header: Header
    events: tuple[Event, ...]
    cut: bool = False
    """The file it was read from ends in the middle of an event, which is left out."""


def replay(trace: Trace, row: int = 0, step: int | None = None) -> list[int]:
    """The canvas of a row after `step` (default: after its last), as token ids.

    Up to its `end`, the last canvas is what was decoded. Raises RequestError for a row that the trace does not have.
    """
    events = standing(trace, row, step)
    tokens = list(trace.header.rows[row].start)
    for position, event in events.items():
        tokens[position] = trace.header.mask_id if event.kind == "remasked" else event.token
    return tokens


def standing(trace: Trace, row: int = 0, step: int | None = None) -> dict[int, Event]:
    """The last event of each position of a row up to `step`: who wrote what stands there. Errors as for `replay`."""
    count = len(trace.header.rows)
    if not 0 <= row < count:
        possible = "0, its only one" if count == 1 else f"0 to {count - 1}"
        raise RequestError(f"There is no row {row} in this trace; give {possible}.")
    mine = (event for event in trace.events if event.row == row and (step is None or event.step <= step))
    return {event.position: event for event in mine}


def drawn(header: Header, tokens: Sequence[int]) -> list[str]:
    """The text of each position, "" for MASK.

    Where several tokens make up one character the first has it and the others have nothing; what cannot be drawn is
    U+FFFD, so that no text steers a terminal.
    """
    found: list[str] = []
    while len(found) < len(tokens):
        at, count = len(found), 1
        if tokens[at] == header.mask_id:
            text = ""
        elif tokens[at] in header.raw:
            text, count = _character(header.raw, tokens[at : at + 4])
        else:
            text = header.pieces.get(tokens[at], _UNKNOWN).replace("\t", " ")
        found.append("".join(sign if sign == "\n" or sign.isprintable() else _UNKNOWN for sign in text))
        found += [""] * (count - 1)
    return found


def _character(raw: Mapping[int, str], tokens: Sequence[int]) -> tuple[str, int]:
    """The text of the fewest tokens from the first on whose bytes are whole characters, and how many these are."""
    together = b""
    for count, token in enumerate(tokens, start=1):
        if token not in raw:
            break
        together += bytes.fromhex(raw[token])
        text = together.decode("utf-8", "replace")
        if _UNKNOWN not in text:
            return text, count
    return _UNKNOWN, 1
