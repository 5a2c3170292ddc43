"""A training run as it goes, in the terminal."""

__all__ = ["Progress"]

import math
from pathlib import Path

from unmask.cli.meter import Meter
from unmask.objective.bound import Bound
from unmask.train.loop import StepReport
from unmask.train.session import Session

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
