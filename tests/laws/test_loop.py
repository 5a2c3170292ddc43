"""The loop of long runs on a run that computes nothing: patience, the best and the last checkpoint, interrupts."""

import json
import math
import signal
import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from unmask.cli import measure
from unmask.cli.main import main
from unmask.disk.checkpoint import load_state, write_checkpoint
from unmask.disk.folders import best_folder, latest, step_folder
from unmask.errors import Interrupted
from unmask.run.loop import Cadence, Listener, RunResult, Standing, Validation, drive
from unmask.run.parallel import Group

CADENCE = Cadence(steps=12, validate_every=2, save_every=3, patience=0)
RISING = {step: float(step) for step in range(13)}


@dataclass(frozen=True)
class Taken:
    """The report of a step."""

    step: int

    def values(self) -> Mapping[str, float]:
        return {"taken": float(self.step)}


class Others(Group):
    """A process beside others: what they wish is known in advance, one answer a question."""

    def __init__(self, rank: int, wishes: Callable[[int], bool]) -> None:
        super().__init__(rank, 2, rank)
        object.__setattr__(self, "wishes", wishes)
        object.__setattr__(self, "asked", [])

    def any(self, wish: bool, device: torch.device) -> bool:
        asked: list[bool] = self.asked  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]
        asked.append(wish)
        return wish or self.wishes(len(asked) - 1)  # pyright: ignore[reportAttributeAccessIssue]

    def barrier(self) -> None: ...


class Fake:
    """A run whose merits are given; it notes what the loop asked of it."""

    device = torch.device("cpu")
    saver = None

    def __init__(self, folder: Path, merits: Mapping[int, float], group: Group | None = None) -> None:
        self.folder, self.merits, self.group = folder, merits, group or Group()
        self.begins: Callable[[Callable[[], bool]], bool] = lambda stopping: not stopping()
        self.step, self.standing = 0, Standing()
        self.events: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)
        if (newest := latest(folder)) is not None:
            facts = load_state(newest)[1]
            self.step, self.standing = facts["step"], Standing(**facts["standing"])

    def begin(self, stopping: Callable[[], bool]) -> bool:
        return self.begins(stopping)

    def take(self) -> Taken:
        self.step += 1
        self.events.append(f"step {self.step}")
        return Taken(self.step)

    def evaluate(self) -> Validation[float] | None:
        self.events.append(f"validate {self.step}")
        merit = self.merits[self.step]
        return Validation(merit, merit, {"merit": merit}) if self.group.first else None

    def save(self) -> Path:
        self.events.append(f"save {self.step}")
        standing = self.standing
        facts = {name: getattr(standing, name) for name in ("best_step", "stale", "validated_at")}
        facts |= {"merit": standing.merit if math.isfinite(standing.merit) else -1e9}
        folder, state = step_folder(self.folder, self.step), {"step": self.step, "standing": facts}
        write_checkpoint(folder, {"x": torch.zeros(1)}, {}, state={}, state_facts=state)
        return folder

    def save_best(self, figure: float | None) -> Path:
        self.events.append(f"best {self.step}")
        return best_folder(self.folder, self.step)


class Stopping(Listener[Taken, float]):
    """Sends an interrupt after a step."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop
        self.best: list[int] = []

    def stepped(self, report: Taken) -> None:
        if report.step == self.stop:
            signal.raise_signal(signal.SIGINT)

    def validated(self, step: int, figure: float, best: bool) -> None:
        self.best += [step] if best else []


def go(fake: Fake, cadence: Cadence = CADENCE, stop: int | None = None) -> RunResult:
    return drive(fake, Stopping(stop), cadence, exhausted="no better")


def test_patience_counts_validations_since_the_best(tmp_path: Path) -> None:
    """Best at step 4, then three worse or equal ones: a patience of three ends it at step 10, of four or none not."""
    merits = {2: 1.0, 4: 3.0, 6: 3.0, 8: 2.0, 10: 1.0, 12: 9.0}
    ended = go(Fake(tmp_path / "a", merits), replace(CADENCE, patience=3))
    assert (ended.reason, ended.step, ended.merit, ended.best_step) == ("no better", 10, 3.0, 4)
    for patience in (4, 0):
        fake = Fake(tmp_path / str(patience), merits)
        ended = go(fake, replace(CADENCE, patience=patience))
        assert (ended.reason, ended.step, ended.merit, ended.best_step) == ("finished", 12, 9.0, 12)
        assert [event for event in fake.events if event.startswith("best")] == ["best 2", "best 4", "best 12"]


def test_the_order_of_a_step_and_each_save_once(tmp_path: Path) -> None:
    fake = Fake(tmp_path, RISING)
    go(fake, replace(CADENCE, steps=6))
    assert fake.events[:4] == ["step 1", "step 2", "validate 2", "best 2"]
    assert fake.events[-4:] == ["step 6", "validate 6", "best 6", "save 6"]  # due, and the last: saved once
    assert [event for event in fake.events if event.startswith("save")] == ["save 3", "save 6"]
    again = Fake(tmp_path, RISING)
    assert go(again, replace(CADENCE, steps=6)).reason == "finished"
    assert again.events == []  # a finished run has nothing to do, and is not written again
    off = Fake(tmp_path / "off", RISING)
    go(off, replace(CADENCE, steps=5))  # the control: a last step that is not due for a save is saved all the same
    assert [event for event in off.events if event.startswith("save")] == ["save 3", "save 5"]


@pytest.mark.parametrize("stop", [2, 3, 5, 6, 12])
def test_an_interrupt_between_step_and_validation_is_made_up_for(stop: int, tmp_path: Path) -> None:
    """Together both parts do what one run does, in its order; steps 2, 6 and 12 lack a validation, 3 and 5 do not."""
    merits = {2: 1.0, 4: 3.0, 6: 5.0, 8: 2.0, 10: 1.0, 12: 0.0}
    whole = Fake(tmp_path / "whole", merits)
    go(whole)
    first = Fake(tmp_path / "parts", merits)
    assert go(first, stop=stop).reason == "interrupted"
    assert first.events[-2:] == [f"step {stop}", f"save {stop}"]
    second = Fake(tmp_path / "parts", merits)
    assert go(second).reason == "finished"
    assert second.standing == whole.standing
    unsaved = [[e for e in fake.events if not e.startswith("save")] for fake in (first, second, whole)]
    assert unsaved[0] + unsaved[1] == unsaved[2]
    assert second.events[0].startswith("validate" if stop % 2 == 0 else "step")
    lines = [
        [json.loads(x) for x in (tmp_path / n / "metrics.jsonl").read_text().splitlines()] for n in ("parts", "whole")
    ]
    assert lines[0] == lines[1]


def test_control_a_run_that_forgets_its_validation_is_seen(tmp_path: Path) -> None:
    merits = {2: 1.0, 4: 3.0, 6: 5.0, 8: 2.0, 10: 1.0, 12: 0.0}
    go(Fake(tmp_path, merits), stop=2)
    second = Fake(tmp_path, merits)
    second.standing.validated_at = 2  # as if it had been done
    go(second)
    assert "validate 2" not in second.events


def test_all_processes_leave_at_the_same_step(tmp_path: Path) -> None:
    """The other process was interrupted after step 3; the control is a group in which nobody was."""
    # question 0 is whether the step is saved, 1 comes before the steps; then steps 1 and 2, the validation, and step 3
    ended = go(Fake(tmp_path / "a", RISING, Others(0, lambda question: question == 5)))
    assert (ended.reason, ended.step) == ("interrupted", 3)
    assert go(Fake(tmp_path / "b", RISING, Others(0, lambda question: False))).reason == "finished"


def test_the_verdict_of_the_first_process_is_everybodys(tmp_path: Path) -> None:
    """A process without a figure counts patience by what the first one says: better at the first validation only."""
    second = Fake(tmp_path, RISING, Others(1, lambda question: question == 4))
    ended = go(second, replace(CADENCE, patience=2))
    assert (ended.reason, ended.step, ended.best_step) == ("no better", 6, 2)
    assert not (tmp_path / "metrics.jsonl").exists()


# ---- signals -------------------------------------------------------------------------------------------------------


class Signalled(Listener[Taken, float]):
    """Sends a signal after a step, and notes in which order the run is stopped and saved."""

    def __init__(self, step: int, number: int) -> None:
        self.step, self.number = step, number
        self.events = list[str]()
        self.announced = threading.Event()

    def stepped(self, report: Taken) -> None:
        if report.step == self.step:
            signal.raise_signal(self.number)
            assert self.announced.wait(10)  # at once: the step has not ended

    def stopping(self, folder: Path) -> None:
        self.events.append(f"stopping {folder.name}")
        self.announced.set()

    def saved(self, folder: Path) -> None:
        self.events.append(folder.name)


@pytest.fixture
def hangup() -> Generator[None]:
    """SIGHUP as in a terminal, though the tests may run under nohup."""
    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, former)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_each_signal_saves_after_it_is_announced(tmp_path: Path, hangup: None, name: str, code: int) -> None:
    listener, number = Signalled(4, getattr(signal, name)), getattr(signal, name)
    former = signal.getsignal(number)
    ended = drive(Fake(tmp_path / "run", RISING), listener, CADENCE, exhausted="no better")
    assert (ended.reason, ended.step, ended.exit_code) == ("interrupted", 4, code)
    assert listener.events[-2:] == ["stopping run", "step-00000004"]
    assert listener.events.count("stopping run") == 1
    assert signal.getsignal(number) is former
    over = drive(Fake(tmp_path / "whole", RISING), Stopping(), CADENCE, exhausted="no better")
    assert (over.reason, over.exit_code) == ("finished", 0)  # the control


def test_a_hangup_that_is_ignored_stays_ignored(tmp_path: Path, hangup: None) -> None:
    """As under nohup; the other signals end the run there too."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    class Once(Stopping):
        def stepped(self, report: Taken) -> None:
            if report.step == 4:
                signal.raise_signal(signal.SIGHUP)

    fake = Fake(tmp_path / "run", RISING)
    assert drive(fake, Once(), CADENCE, exhausted="no better").reason == "finished"
    assert drive(Fake(tmp_path / "b", RISING), Stopping(4), CADENCE, exhausted="no better").reason == "interrupted"


def test_a_second_ctrl_c_ends_at_once_and_saves_nothing(tmp_path: Path) -> None:
    class Twice(Stopping):
        def stepped(self, report: Taken) -> None:
            if report.step == 5:
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGTERM)  # of an impatient service manager: no second Ctrl-C
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted) as error:
        drive(Fake(tmp_path, RISING), Twice(), CADENCE, exhausted="no better")
    assert error.value.exit_code == 130
    assert latest(tmp_path) == step_folder(tmp_path, 3)


def test_work_before_the_first_step_is_saved(tmp_path: Path) -> None:
    """Also where a checkpoint of step 0 is there already; the control begins and takes steps."""
    fake = Fake(tmp_path, RISING)
    for _ in range(2):
        fake.begins = lambda stopping: False
        ended = drive(fake, Stopping(), CADENCE, exhausted="no better")
        assert (ended.reason, ended.step, fake.events) == ("interrupted", 0, ["save 0"])
        fake.events.clear()
    fake.begins = lambda stopping: True
    assert drive(fake, Stopping(), CADENCE, exhausted="no better").reason == "finished"
    assert "save 0" not in fake.events


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_command_without_work_to_save_ends_quietly(
    name: str, code: int, hangup: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(arguments: object) -> int:
        signal.raise_signal(getattr(signal, name))
        return 0

    former = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(measure, "run_eval", work)
    if name == "SIGINT":  # ignored in a process that a shell began in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert main(["eval", "wordnet"]) == code
    assert capsys.readouterr().err == "unmask: interrupted: nothing was saved.\n"
    assert signal.getsignal(signal.SIGTERM) is former
