"""Traces as files: JSON lines, the header first and then a line an event; and a page that needs nothing else."""

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
from unmask.trace.events import Event, Header, Trace

FORMAT = 1
_MARK = "unmask_trace"  # the key of a header that holds the format number


def to_jsonl(trace: Trace) -> str:
    """The content of a trace file, in ASCII."""
    lines = [json.dumps({_MARK: FORMAT} | asdict(trace.header)), *map(json.dumps, _plain(trace.events))]
    return "\n".join(lines) + "\n"


def to_html(trace: Trace) -> str:
    """A page that plays the trace: one file that needs neither the network nor this library."""
    data = {"header": asdict(trace.header), "events": _plain(trace.events)}
    template = (resources.files("unmask.assets") / "player.html").read_text(encoding="utf-8")
    # A "<" inside the text could end the element that holds the data; as an escape it is the same JSON.
    return template.replace("__TRACE__", json.dumps(data).replace("<", "\\u003c"))


def read(path: str | os.PathLike[str]) -> Trace:
    """The trace in a .jsonl file. Raises DataError where there is none, or a newer one than this library knows."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise DataError(f"{os.fspath(path)} cannot be read ({reason}); give a file that --trace wrote.") from None
    return from_jsonl(text, os.fspath(path))


def from_jsonl(text: str, name: str = "the text") -> Trace:
    """The trace that `to_jsonl` wrote; a last line that was cut off is left out and said in `cut`.

    Raises DataError, which calls the text `name`, for what is no trace, for a newer format, and for a damaged line.
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


def _plain(events: Sequence[Event]) -> list[dict[str, Any]]:
    """As what JSON knows; no alternatives where there are none."""
    return [{key: value for key, value in asdict(one).items() if value != ()} for one in events]


@cache
def _adapter(kind: type[Any]) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


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
        raise DataError(f"{where} tells of row {event.row}, position {event.position}, which the header does not have.")
    return event


def _where(error: ValueError) -> str:
    """Which field pydantic complains of first, and why."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    one = error.errors()[0]
    place = ".".join(map(str, one["loc"]))
    return f"{place}: {one['msg']}" if place else one["msg"]
