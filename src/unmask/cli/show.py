"""Figures -> text for people, JSON for programs, and a bar or lines of progress. Imports nothing heavy."""

__all__ = ["Meter", "duration", "note", "print_json", "size", "table"]

import json
import math
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

_SECONDS_BETWEEN_LINES = 10.0


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


class Meter:
    """A bar on stderr, or a line every ten seconds where that is no terminal.

    `total` steps, of which `begun` were done before; silent unless `visible`.
    """

    def __init__(self, doing: str, unit: str, total: int, begun: int, *, visible: bool, name: str = "") -> None:
        """`doing` stands before the bar, `unit` in the lines; one of several has a `name`, and lines instead of a bar.

        Nothing is drawn before the block is entered.
        """
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._name = f"{name}: " if name else ""
        self._unit, self._total = unit, total
        self._first: tuple[int, float] | None = None
        self._console = Console(stderr=True, quiet=not visible)
        self._said_at = time.monotonic()
        self._bar = Bar(
            TextColumn(doing),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            refresh_per_second=4,
            speed_estimate_period=120,
            disable=bool(name) or not (visible and self._console.is_terminal),
        )
        self._task = self._bar.add_task("", total=total, completed=begun, figures="")

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bar as it stands."""
        self._bar.stop()

    def moved(self, count: int, figures: str) -> None:
        """So many are done: move the bar; without one, a line now and then."""
        if not self._bar.disable:
            self._bar.update(self._task, completed=count, figures=figures)
            return
        now = time.monotonic()
        if self._first is None:  # what went before it (a warm start, say) tells nothing about the steps to come
            self._first = (count, now)
        if now - self._said_at >= _SECONDS_BETWEEN_LINES or count == self._total:
            self.line(f"{self._unit} {count:,} of {self._total:,}  {figures}{self._left(count, now)}")
            self._said_at = now

    def _left(self, count: int, now: float) -> str:
        """The time that the rest takes, once two steps are known."""
        assert self._first is not None
        done, since = self._first
        return f"  {duration((now - since) / (count - done) * (self._total - count))} left" if count > done else ""

    def line(self, text: str) -> None:
        """A line of its own."""
        self._console.print(self._name + text, highlight=False, markup=False, soft_wrap=True)
