"""Trace -> JSON lines (the header, then one event a line) or a self-contained HTML page; JSON lines -> trace."""

__all__ = ["FORMAT", "from_jsonl", "read", "to_html", "to_jsonl"]

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from unmask.errors import DataError
from unmask.trace.events import FILE_KEYS, Event, Header, Trace

FORMAT = 1
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
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise DataError(f"{os.fspath(path)} cannot be read ({reason}); give a file that --trace wrote.") from None
    return from_jsonl(text, os.fspath(path))


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
        try:
            json.loads(line)
        except ValueError:
            if number == len(lines) + 1:
                return Trace(header, tuple(events), cut=True)
        events.append(_checked_event(line, header, f"line {number} of {name}"))
    return Trace(header, tuple(events))


def _records(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Events -> JSON objects; `alternatives` is left out where it is empty."""
    return [{FILE_KEYS.get(key, key): value for key, value in asdict(event).items() if value != ()} for event in events]


@cache
def _adapter(record: type[Any]) -> Any:
    """pydantic's reader of a dataclass; costly to make, so made once."""
    from pydantic import TypeAdapter

    return TypeAdapter(record)


def _header(line: str, name: str) -> Header:
    wrong = DataError(f"{name} is not a trace; give a .jsonl file that --trace wrote (a page opens in a web browser).")
    try:
        record = json.loads(line)
    except ValueError:
        raise wrong from None
    number = record.get(_MARK) if isinstance(record, dict) else None
    if not isinstance(number, int):
        raise wrong
    if number > FORMAT:
        raise DataError(f"{name} has trace format {number} and this unmask reads up to {FORMAT}: upgrade unmask.")
    try:
        header: Header = _adapter(Header).validate_json(line, strict=True)
    except ValueError as error:
        raise DataError(f"The first line of {name} is damaged ({_where(error)}); write the trace again.") from None
    return header


def _checked_event(line: str, header: Header, where: str) -> Event:
    try:
        event: Event = _adapter(Event).validate_json(line, strict=True)
    except ValueError as error:
        raise DataError(f"{where} is damaged ({_where(error)}); write the trace again.") from None
    rows = header.rows
    if not 0 <= event.row < len(rows) or not 0 <= event.position < len(rows[event.row].start):
        raise DataError(f"{where} is about row {event.row}, position {event.position}, which the header does not have.")
    return event


def _where(error: ValueError) -> str:
    """The first field that pydantic refuses, and its reason."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    problem = error.errors()[0]
    field = ".".join(map(str, problem["loc"]))
    return f"{field}: {problem['msg']}" if field else problem["msg"]
