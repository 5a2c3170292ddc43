"""How figures are written for people, and JSON for programs. Imports nothing heavy."""

__all__ = ["duration", "note", "print_json", "size", "table"]

import json
import math
import sys
from collections.abc import Mapping
from typing import Any


def note(sentence: str) -> None:
    """Something the person who waits should know: a line on stderr."""
    print(sentence, file=sys.stderr, flush=True)


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout; numbers that JSON lacks become null."""
    print(json.dumps(_finite(value), ensure_ascii=False), flush=True)


def table(rows: Mapping[str, str]) -> str:
    """Names and values in two columns."""
    width = max((len(name) for name in rows), default=0)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows.items())


def duration(seconds: float) -> str:
    """1:02:03, or 2.5 s below a minute."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def size(count: float) -> str:
    """A number of bytes: 12.3 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _finite(value: Any) -> Any:
    """The value with null for NaN and infinity, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
