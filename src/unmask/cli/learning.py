"""A training of a policy as it goes, in the terminal."""

__all__ = ["Progress"]

from types import TracebackType

from unmask.cli.meter import Meter
from unmask.cli.show import size
from unmask.rl.learner import RoundReport
from unmask.rl.measure import Found
from unmask.rl.settings import LearnSettings

_SMOOTH = 0.9


class Progress(Meter):
    """The listener of a run in the terminal; silent unless `visible`."""

    def __init__(self, settings: LearnSettings, begun: int, *, visible: bool, name: str = "") -> None:
        """`begun` rounds were done before; one of several runs has a `name`."""
        super().__init__("learning", "round", settings.rounds, begun, visible=visible, name=name)
        self._alphas = settings.alphas
        self._mean: RoundReport | None = None
        self._seconds = [0.0, 0.0, 0.0]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bar as it stands, and say where time and memory went."""
        super().__exit__(kind, error, trace)
        if self._mean is not None:
            roll, judge, update = self._seconds
            self.line(f"seconds: rollouts {roll:.0f}, verifier {judge:.1f}, updates {update:.0f}")
            self.line(f"memory: {size(self._mean.tape_bytes)} a round's tape, {size(self._mean.peak_bytes)} at most")

    def said(self, sentence: str) -> None:
        """A sentence."""
        self.line(sentence)

    def rounded(self, report: RoundReport) -> None:
        """Figures are running means."""
        before = self._mean or report
        mixed = [_SMOOTH * old + (1 - _SMOOTH) * new for old, new in zip(before[1:], report[1:], strict=True)]
        m = self._mean = RoundReport(report.round, *mixed)._replace(peak_bytes=report.peak_bytes)
        for n, spent in enumerate((report.roll_seconds, report.judge_seconds, report.update_seconds)):
            self._seconds[n] += spent
        self.moved(
            report.round,
            f"reward {m.reward:.3f}  accuracy {m.accuracy:.3f}  passes {m.passes:.2f}  "
            f"entropy {m.entropy:.3f}  without signal {m.silent:.0%}",
        )

    def validated(self, round_: int, found: Found, best: bool) -> None:
        """Accuracy and passes at each alpha; and what looks wrong."""
        points = zip(self._alphas, found.accuracy.tolist(), found.passes.tolist(), strict=True)
        told = "  ".join(f"{alpha:g}: {accuracy:.2f}@{passes:.1f}" for alpha, accuracy, passes in points)
        self.line(f"round {round_:,}: reward {found.value:.4f}{' (best so far)' if best else ''}  {told}")
        if round_ and float(found.passes.max()) < 1.05:
            self.line(_one_pass(float(found.accuracy.mean())))


def _one_pass(accuracy: float) -> str:
    """What a policy that always reveals everything at once means."""
    if accuracy > 0.9:
        return f"One pass is right {accuracy:.0%} of the time: this denoiser leaves a policy nothing to decide here."
    return "The policy reveals everything in one pass at every alpha: give it a warm start (learn.warm)."
