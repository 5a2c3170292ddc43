"""Trace -> JSON lines (the header, then one event a line) or a self-contained HTML page; JSON lines -> trace."""

__all__ = ["FORMAT", "from_jsonl", "read", "to_html", "to_jsonl"]

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from typing import Any

from unmask.disk.files import reason_of
from unmask.disk.json import LINES_BYTES, NotJson, parse_json, read_text
from unmask.errors import DataError
from unmask.trace.events import FILE_KEYS, Event, Header, Trace

FORMAT = 1
_GIVE = "give a .jsonl file that --trace wrote (a page opens in a web browser)"
_MARK = "unmask_trace"  # the key of a header that holds the format number


def to_jsonl(trace: Trace) -> str:
    """Trace -> the content of a trace file, in ASCII."""
    lines = [json.dumps({_MARK: FORMAT} | asdict(trace.header)), *map(json.dumps, _records(trace.events))]
    return "\n".join(lines) + "\n"


def to_html(trace: Trace) -> str:
    """Trace -> an HTML page that plays it: one file, which needs neither the network nor this library."""
    data = {"header": asdict(trace.header), "events": _records(trace.events)}
    template = (resources.files("unmask.assets") / "player.html").read_text(encoding="utf-8")
    # A "<" inside the text could end the element that holds the data; as an escape it is the same JSON.
    return template.replace("__TRACE__", json.dumps(data).replace("<", "\\u003c"))


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
            raise DataError(f"{where} is damaged ({error.detail or error.reason}); write the trace again.") from None
        _check_place(event, header, where)
        events.append(event)
    return Trace(header, tuple(events))


def _records(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Events -> JSON objects; `alternatives` is left out where it is empty."""
    return [{FILE_KEYS.get(key, key): value for key, value in asdict(event).items() if value != ()} for event in events]


def _header(line: str, name: str) -> Header:
    try:
        number = parse_json(line, dict[str, Any]).get(_MARK)
    except NotJson:
        number = None
    if type(number) is not int:
        raise DataError(f"{name} is not a trace; {_GIVE}.")
    if number > FORMAT:
        raise DataError(f"{name} has trace format {number} and this unmask reads up to {FORMAT}: upgrade unmask.")
    try:
        return parse_json(line, Header)
    except NotJson as error:
        raise DataError(f"The first line of {name} is damaged ({error.detail}); write the trace again.") from None


def _check_place(event: Event, header: Header, where: str) -> None:
    """DataError for an event at a row or position that the header does not have."""
    rows = header.rows
    if not 0 <= event.row < len(rows) or not 0 <= event.position < len(rows[event.row].start):
        raise DataError(f"{where} is about row {event.row}, position {event.position}, which the header does not have.")
