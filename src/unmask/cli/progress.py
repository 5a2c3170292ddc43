"""A training run as it goes: a bar on stderr, or a line every ten seconds where stderr is no terminal."""

__all__ = ["Progress"]

import math
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from unmask.bound import Bound
from unmask.cli.show import duration
from unmask.train.loop import StepReport
from unmask.train.session import Session

_SMOOTH = 0.95
_EVERY = 10.0  # seconds between lines


class Progress:
    """The listener of a run in the terminal; silent unless `visible`."""

    def __init__(self, session: Session, *, visible: bool) -> None:
        """Nothing is drawn before the block is entered."""
        self._steps, self._began_at = session.plan.steps, session.trainer.step
        self._best = session.trainer.best
        self._console = Console(stderr=True, quiet=not visible)
        self._loss, self._weight = 0.0, 0.0
        self._started = self._said = time.monotonic()
        self._bar = Bar(
            TextColumn("training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            refresh_per_second=4,
            speed_estimate_period=120,
            disable=not (visible and self._console.is_terminal),
        )
        self._task = self._bar.add_task("", total=self._steps, completed=self._began_at, figures="")

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bar as it stands."""
        self._bar.stop()

    def stepped(self, report: StepReport) -> None:
        """Move the bar; without one, a line now and then."""
        self._loss = _SMOOTH * self._loss + (1 - _SMOOTH) * report.loss
        self._weight = _SMOOTH * self._weight + (1 - _SMOOTH)
        best = f"bound {self._best:.4f}  " if math.isfinite(self._best) else ""
        figures = f"loss {self._loss / self._weight:.4f}  {best}{report.tokens_per_second:,.0f} tokens/s"
        if not self._bar.disable:
            self._bar.update(self._task, completed=report.step, figures=figures)
        elif (now := time.monotonic()) - self._said >= _EVERY or report.step == self._steps:
            each = (now - self._started) / max(report.step - self._began_at, 1)
            left = duration(each * (self._steps - report.step))
            self._line(f"step {report.step:,} of {self._steps:,}  {figures}  {left} left")
            self._said = now

    def validated(self, step: int, found: Bound, best: bool) -> None:
        """Say a better bound."""
        if best:
            self._best = found.nats_per_token
        error = "" if found.stderr is None else f" ± {found.stderr:.4f}"
        mark = "best so far" if best else f"best was {self._best:.4f}"
        self._line(f"step {step:,}: bound {found.nats_per_token:.4f}{error} nats/token ({mark})")

    def saved(self, folder: Path) -> None:
        """Checkpoints are written often; they go without a word."""

    def _line(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
