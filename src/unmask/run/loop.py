"""A `LongRun` -> its result: the loop of steps, validations, checkpoints and interrupts of `train` and `rl`.

`drive` takes steps until the last one, until validations no longer improve, or until an interrupt. Several processes
leave the loop at the same step, because each decision is reduced over all of them.
"""

__all__ = ["Cadence", "Interrupt", "Listener", "LongRun", "Report", "RunResult", "Standing", "Validation", "drive"]

import math
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, Self, TypeVar

from unmask.disk.folders import latest, step_folder
from unmask.errors import Interrupted

if TYPE_CHECKING:
    import torch

    from unmask.run.metrics import Metrics
    from unmask.run.parallel import Group
    from unmask.run.saving import Saver

Figure = TypeVar("Figure")
FigureIn = TypeVar("FigureIn", contravariant=True)
ReportIn = TypeVar("ReportIn", contravariant=True)


@dataclass(slots=True)
class Standing:
    """The best validation so far and the number of later ones; stored in checkpoints, so that a run can resume."""

    merit: float = -math.inf
    best_step: int = 0
    stale: int = 0
    """Validations since the best."""
    validated_at: int = 0
    """Step of the last validation; -1 lets a run be validated before its first step."""


@dataclass(frozen=True, slots=True)
class Cadence:
    """When to validate, to save and to end."""

    steps: int
    validate_every: int
    """The last step is validated too."""
    save_every: int
    patience: int
    """The run ends after this number of validations without a better one; 0 never ends it."""
    expired: Callable[[], bool] = lambda: False
    """Whether the time for steps is over, too; it changes only in `take` and `begin`, in all processes together."""


class Report(Protocol):
    """The measurements of a step."""

    def values(self) -> Mapping[str, float | str | None]:
        """The values for metrics.jsonl."""
        ...


class Validation(NamedTuple, Generic[Figure]):
    """The result of a validation."""

    figure: Figure
    merit: float
    """The figure as one number; greater is better."""
    values: Mapping[str, float | str | None]
    """The values for metrics.jsonl."""


ReportOut = TypeVar("ReportOut", bound=Report, covariant=True)


class Listener(Protocol[ReportIn, FigureIn]):
    """The listener of a run's events, for the terminal or a test. Methods do nothing unless a subclass defines them."""

    def message(self, text: str) -> None:
        """A sentence for the terminal."""

    def stepped(self, report: ReportIn) -> None:
        """A step was reported."""

    def validated(self, step: int, figure: FigureIn, best: bool) -> None:
        """A validation ended, in the first process."""

    def saved(self, folder: Path) -> None:
        """A checkpoint is whole and has its name, in the first process."""

    def stopping(self, folder: Path) -> None:
        """A signal asked the run in `folder` to stop: it saves after the step. Called at once, in another thread."""


class LongRun(Protocol[ReportOut, Figure]):
    """The protocol of a run for `drive`. With several processes each method is called in all of them together."""

    @property
    def step(self) -> int:
        """Number of finished steps."""
        ...

    @property
    def standing(self) -> Standing: ...
    @property
    def folder(self) -> Path: ...
    @property
    def group(self) -> "Group": ...
    @property
    def device(self) -> "torch.device": ...
    @property
    def saver(self) -> "Saver | None":
        """What writes checkpoints while the run goes on; None where `save` and `save_best` write at once."""

    def begin(self, stopping: Callable[[], bool]) -> bool:
        """Do the work before the first step; False if `stopping` ended it: what is done of it is then saved."""
        ...

    def take(self) -> ReportOut | None:
        """Take one step, which adds 1 to `step` -> its report, or None between reports."""
        ...

    def evaluate(self) -> Validation[Figure] | None:
        """Validate -> the result; None in other processes than the first."""
        ...

    def save(self) -> Path | None:
        """Write the checkpoint of this step, from which a run can resume -> its folder; None where `saver` has it."""
        ...

    def save_best(self, figure: Figure | None) -> Path | None:
        """Write the best result, as `save` does; `figure` is that of this step, None except in the first process."""
        ...


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended."""

    step: int
    reason: str
    """"finished", "interrupted", or the reason `exhausted` of `drive`."""
    merit: float
    best_step: int
    folder: Path
    exit_code: int = 0
    """128 plus the number of the signal that interrupted the run."""


def drive(
    target: LongRun[ReportOut, Figure],
    listener: Listener[ReportOut, Figure],
    cadence: Cadence,
    *,
    exhausted: str,
    track: tuple[str, ...] = (),
    settings: Mapping[str, object] | None = None,
) -> RunResult:
    """Steps to the last one, to the end of patience (reason `exhausted`) or to an interrupt -> how the run ended.

    The checkpoint of the last step is always written. A step whose validation an interrupt prevented is validated
    first. `track` names trackers, which show `settings`; see `Metrics`.
    """
    from unmask.run.metrics import Metrics  # with torch, which those that only name these types do without

    opened = nullcontext()
    if target.group.first:
        opened = Metrics(target.folder, resumed_at=target.step or None, track=track, settings=settings)
    ending = nullcontext() if target.saver is None else closing(target.saver)
    with opened as metrics, Interrupt(lambda: listener.stopping(target.folder)) as interrupt, ending:
        loop = _Loop(target, listener, cadence, metrics, interrupt)
        if target.begin(loop.stopping):
            over, stopped = loop.run()
        else:
            loop.changed, over, stopped = True, False, True
        loop.save()
        loop.settle(0)
    return loop.result("interrupted" if stopped else exhausted if over else "finished")


class _Loop(Generic[ReportOut, Figure]):
    """The state of `drive`."""

    def __init__(
        self,
        target: LongRun[ReportOut, Figure],
        listener: Listener[ReportOut, Figure],
        cadence: Cadence,
        metrics: "Metrics | None",
        interrupt: "Interrupt",
    ) -> None:
        self.target, self.listener, self.cadence, self.metrics = target, listener, cadence, metrics
        self.interrupt = interrupt
        saved = latest(target.folder) == step_folder(target.folder, target.step)
        self.changed = self._agreed(target.group.first and not saved)

    def run(self) -> tuple[bool, bool]:
        """Take steps and validate -> whether patience is over, and whether an interrupt ended the loop."""
        target = self.target
        over = self._due() and self._validate()  # an interrupt came between a step and its validation
        while not over and not self._last():
            report = target.take()
            self.changed = True
            if report is not None:
                self._log(report.values())
                self.listener.stepped(report)
            if self.stopping():
                return False, True
            self.settle(0, wait=False)
            over = self._due() and self._validate()
            if not over and target.step % self.cadence.save_every == 0:
                self.save()
        return over, False

    def save(self) -> None:
        """Write the checkpoint of this step, unless nothing has changed since the newest one."""
        if self.changed:
            self.settle(1)
            self._saved(self.target.save())
            self.changed = False
        self.target.group.barrier()

    def settle(self, most: int, *, wait: bool = True) -> None:
        """Name checkpoints until at most `most` are unfinished; without `wait` those that every process has written."""
        saver = self.target.saver
        while saver is not None and saver.pending > most and (wait or not self._agreed(not saver.written())):
            self._saved(saver.publish())

    def stopping(self) -> bool:
        """Whether an interrupt reached any process."""
        return self._agreed(self.interrupt.requested)

    def result(self, reason: str) -> RunResult:
        """The result of the run."""
        standing, code = self.target.standing, self.interrupt.exit_code if reason == "interrupted" else 0
        return RunResult(self.target.step, reason, standing.merit, standing.best_step, self.target.folder, code)

    def _due(self) -> bool:
        """Whether this step has to be validated and has not been yet."""
        step, cadence = self.target.step, self.cadence
        scheduled = step % cadence.validate_every == 0 or self._last()
        return scheduled and step > self.target.standing.validated_at

    def _last(self) -> bool:
        """Whether no step follows this one, patience aside."""
        return self.target.step >= self.cadence.steps or self.cadence.expired()

    def _validate(self) -> bool:
        """Validate and keep the best -> whether patience is over."""
        target, standing = self.target, self.target.standing
        validation = target.evaluate()
        better = self._agreed(validation is not None and validation.merit > standing.merit)
        self.changed, standing.validated_at = True, target.step
        if better:
            standing.best_step, standing.stale = target.step, 0
        else:
            standing.stale += 1
        if validation is not None:
            standing.merit = validation.merit if better else standing.merit
            self._log(validation.values)
            self.listener.validated(target.step, validation.figure, better)
        if better:
            self.settle(1)
            self._saved(target.save_best(None if validation is None else validation.figure))
        return 0 < self.cadence.patience <= standing.stale

    def _log(self, values: Mapping[str, float | str | None]) -> None:
        if self.metrics is not None:
            self.metrics.log(self.target.step, values)

    def _saved(self, folder: Path | None) -> None:
        if folder is not None and self.target.group.first:
            self.listener.saved(folder)

    def _agreed(self, value: bool) -> bool:
        return self.target.group.any(value, self.target.device)


class Interrupt:
    """Inside the `with` block SIGINT, SIGTERM and SIGHUP only set `requested`; a second SIGINT raises Interrupted.

    At the first signal `announce` is called, in another thread, while the step goes on. SIGHUP stays ignored where it
    was (nohup), and so does SIGINT in a worker process. The former handlers are put back at the end. Outside of the
    main thread, where Python allows no handlers, it does nothing and `requested` stays False.
    """

    def __init__(self, announce: Callable[[], None] | None = None) -> None:
        """Nothing is installed before the block is entered."""
        self.requested = False
        self.number = int(signal.SIGINT)
        self._announce, self._signalled = announce, threading.Event()
        self._thread: threading.Thread | None = None
        self._former: dict[int, object] = {}

    @property
    def exit_code(self) -> int:
        """128 plus the number of the first signal; that of SIGINT where another process was signalled."""
        return 128 + self.number

    def __enter__(self) -> Self:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            if self._announce is not None:  # begun now: a signal handler may not start threads
                self._thread = threading.Thread(target=self._speak, daemon=True)
                self._thread.start()
            self._former = {number: signal.signal(number, self._note) for number in _handled()}
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the former handlers back; one that was not set from Python (None) becomes the default."""
        for number, former in self._former.items():
            signal.signal(number, signal.SIG_DFL if former is None else former)  # pyright: ignore[reportArgumentType]
        self._former = {}
        self._signalled.set()
        if self._thread is not None:
            self._thread.join(1.0)  # so that what follows is printed after the announcement

    def _note(self, number: int, frame: FrameType | None) -> None:
        """The handler of the signals."""
        if self.requested and number == signal.SIGINT:
            raise Interrupted(number=number)
        if not self.requested:
            self.requested, self.number = True, number
            self._signalled.set()

    def _speak(self) -> None:
        """Wait for the first signal, or the end of the block, then announce the signal."""
        self._signalled.wait()
        if self.requested and self._announce is not None:
            with suppress(OSError):  # the terminal has gone
                self._announce()


def _handled() -> list[int]:
    """The signals that ask for an end."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if parent_process() is not None and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        numbers.remove(signal.SIGINT)  # its parent passes an interrupt on as SIGTERM
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return [int(number) for number in numbers]
