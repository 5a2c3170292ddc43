"""A training of a policy as it goes: a bar on stderr, or a line every ten seconds where stderr is no terminal."""

__all__ = ["Progress"]

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from unmask.cli.show import duration, size
from unmask.rl.learner import RoundReport
from unmask.rl.measure import Found
from unmask.rl.settings import LearnSettings

_SMOOTH = 0.9
_EVERY = 10.0  # seconds between lines


class Progress:
    """The listener of a run in the terminal; silent unless `visible`."""

    def __init__(self, settings: LearnSettings, begun: int, *, visible: bool, name: str = "") -> None:
        """`begun` rounds were done before; one of several runs has a `name`, and lines instead of a bar."""
        self._name = f"{name}: " if name else ""
        self._settings, self._begun = settings, begun
        self._console = Console(stderr=True, quiet=not visible)
        self._mean: RoundReport | None = None
        self._started = self._said_at = time.monotonic()
        self._seconds = [0.0, 0.0, 0.0]
        self._bar = Bar(
            TextColumn("learning"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            refresh_per_second=4,
            disable=bool(name) or not (visible and self._console.is_terminal),
        )
        self._task = self._bar.add_task("", total=settings.rounds, completed=begun, figures="")

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bar as it stands, and say where the time went."""
        self._bar.stop()
        if sum(self._seconds):
            roll, judge, update = self._seconds
            self._line(f"seconds: rollouts {roll:.0f}, verifier {judge:.1f}, updates {update:.0f}")
        if self._mean is not None:
            held = f"a round's tape {size(self._mean.tape_bytes)}, at most {size(self._mean.peak_bytes)} in all"
            self._line(f"memory: {held}")

    def said(self, sentence: str) -> None:
        """A sentence."""
        self._line(sentence)

    def rounded(self, report: RoundReport) -> None:
        """Move the bar; without one, a line now and then. Figures are running means."""
        before = self._mean or report
        mixed = [_SMOOTH * old + (1 - _SMOOTH) * new for old, new in zip(before[1:], report[1:], strict=True)]
        self._mean = RoundReport(report.round, *mixed)._replace(peak_bytes=report.peak_bytes)
        for n, spent in enumerate((report.roll_seconds, report.judge_seconds, report.update_seconds)):
            self._seconds[n] += spent
        m = self._mean
        figures = (
            f"reward {m.reward:.3f}  accuracy {m.accuracy:.3f}  passes {m.passes:.2f}  "
            f"entropy {m.entropy:.3f}  without signal {m.silent:.0%}"
        )
        if not self._bar.disable:
            self._bar.update(self._task, completed=report.round, figures=figures)
        elif (now := time.monotonic()) - self._said_at >= _EVERY or report.round == self._settings.rounds:
            each = (now - self._started) / max(report.round - self._begun, 1)
            left = duration(each * (self._settings.rounds - report.round))
            self._line(f"round {report.round:,} of {self._settings.rounds:,}  {figures}  {left} left")
            self._said_at = now

    def validated(self, round_: int, found: Found, best: bool) -> None:
        """Accuracy and passes at each alpha; and what looks wrong."""
        points = zip(self._settings.alphas, found.accuracy.tolist(), found.passes.tolist(), strict=True)
        told = "  ".join(f"{alpha:g}: {accuracy:.2f}@{passes:.1f}" for alpha, accuracy, passes in points)
        self._line(f"round {round_:,}: reward {found.value:.4f}{' (best so far)' if best else ''}  {told}")
        if round_ and float(found.passes.max()) < 1.05:
            self._line("The policy reveals everything in one pass at every alpha: give it a warm start (learn.warm).")

    def _line(self, text: str) -> None:
        self._console.print(self._name + text, highlight=False, markup=False, soft_wrap=True)
