"""How far something is: a bar on stderr, or a line every ten seconds where stderr is no terminal."""

__all__ = ["Meter"]

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from unmask.cli.show import duration

_EVERY = 10.0  # seconds between lines


class Meter:
    """`total` steps, of which `begun` were done before; silent unless `visible`."""

    def __init__(self, doing: str, unit: str, total: int, begun: int, *, visible: bool, name: str = "") -> None:
        """`doing` stands before the bar, `unit` in the lines; one of several has a `name`, and lines instead of a bar.

        Nothing is drawn before the block is entered.
        """
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
        if now - self._said_at >= _EVERY or count == self._total:
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
