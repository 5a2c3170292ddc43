"""How far something is: a bar on stderr, or a line every ten seconds where stderr is no terminal.

A training run as it goes, in the terminal.
"""

__all__ = ["Meter", "Progress"]

import math
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from unmask.cli.show import duration
from unmask.objective.bound import Bound
from unmask.train.loop import StepReport
from unmask.train.session import Session

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


_SMOOTH = 0.95


class Progress(Meter):
    """The listener of a run in the terminal; silent unless `visible`."""

    def __init__(self, session: Session, *, visible: bool) -> None:
        super().__init__("training", "step", session.plan.steps, session.trainer.step, visible=visible)
        self._best = session.trainer.best
        self._loss, self._weight = 0.0, 0.0

    def stepped(self, report: StepReport) -> None:
        """Figures are running means."""
        self._loss = _SMOOTH * self._loss + (1 - _SMOOTH) * report.loss
        self._weight = _SMOOTH * self._weight + (1 - _SMOOTH)
        best = f"bound {self._best:.4f}  " if math.isfinite(self._best) else ""
        self.moved(report.step, f"loss {self._loss / self._weight:.4f}  {best}{report.tokens_per_second:,.0f} tokens/s")

    def validated(self, step: int, found: Bound, best: bool) -> None:
        """Say a better bound."""
        if best:
            self._best = found.nats_per_token
        error = "" if found.stderr is None else f" ± {found.stderr:.4f}"
        mark = "best so far" if best else f"best was {self._best:.4f}"
        self.line(f"step {step:,}: bound {found.nats_per_token:.4f}{error} nats/token ({mark})")

    def saved(self, folder: Path) -> None:
        """Checkpoints are written often; they go without a word."""
