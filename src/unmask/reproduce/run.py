"""A plan -> its results: cells run in parallel processes, each is written when it is done, the report after each."""

__all__ = ["reproduce"]

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from unmask.disk.files import explained, run_lock
from unmask.reproduce.plan import Blocked, Cell, Plan, Timed, needs
from unmask.reproduce.report import write_report
from unmask.reproduce.results import Record, Results, log_path, read, write
from unmask.reproduce.seconds import PassTimed
from unmask.reproduce.text import TextQuestion
from unmask.reproduce.text_report import write_text_report
from unmask.reproduce.work import main
from unmask.run.loop import Interrupt
from unmask.run.workers import Answer, Pool, open_pool

_OPEN = ("not run", "running", "stopped", "failed", "impossible")


def reproduce(
    plan: Plan,
    folder: Path,
    *,
    workers: int | None,
    note: Callable[[str], None],
    again: str = "repeat the command",
    ray: str | None = None,
) -> Results:
    """A plan -> its results, after every cell that is not done was run, in `workers` processes.

    With the address `ray` they are on a Ray cluster, whose machines share the folder; None is one for each processor.
    Cells that failed before are run again. After an interrupt the running cells save and stop, and the report is
    complete. `note` gets sentences for the terminal, `again` is how to go on.
    Raises ConfigError if the folder has cells of these names that were made with other settings.
    """

    def announce() -> None:
        note(f"Stopping: the cells at work save what they have. Ctrl-C again ends them at once. Go on with: {again}")

    with run_lock(folder, note, "cells"), Interrupt(announce) as interrupt:
        with explained(folder):
            (folder / "cells").mkdir(exist_ok=True)
        results = Results(plan)
        for cell in results.cells.values():
            record = Record("blocked", cell.reason) if isinstance(cell, Blocked) else read(folder, cell)
            results.set(cell.name, replace(record, state="not run") if record.state in _OPEN else record)
        _report(results, folder)
        opened: Pool[int] = open_pool(workers, ray, interrupt=interrupt)
        with opened as pool:
            _Queue(results, folder, note, pool).run(interrupt)
        results.exit_code = interrupt.exit_code if interrupt.requested else 0
        return results


def _report(results: Results, folder: Path, changed: str | None = None) -> None:
    """Write the report of the current results; with the name of the only cell that changed, what depends on it."""
    if isinstance(results.plan, TextQuestion):
        write_text_report(results.plan, results.records, folder, changed)
    else:
        write_report(results, folder)


class _Queue:
    """The cells of a plan; each is started in a process of its own when the cells that it needs are done."""

    def __init__(self, results: Results, folder: Path, note: Callable[[str], None], workers: Pool[int]) -> None:
        self.results, self.folder, self.note, self.workers = results, folder, note, workers
        self.cells = results.cells

    def run(self, interrupt: Interrupt) -> None:
        """Start cells until none is ready any more, or until an interrupt."""
        try:
            while True:
                while not interrupt.requested and (cell := self._next()) is not None:
                    self._start(cell)
                if not self.workers.at_work:
                    break
                for answer in self.workers.collect():
                    self._end(answer, interrupt.requested)
        finally:
            for name in self.workers.kill():  # only after a second Ctrl-C, or an error here
                self._record(name, replace(self.results.records[name], state="stopped"))
            _report(self.results, self.folder)

    def _next(self) -> Cell | None:
        """The first cell that is ready; timed cells run last, and alone."""
        if len(self.workers.at_work) >= self.workers.count:
            return None
        ready = [cell for cell in self.cells.values() if self._ready(cell)]
        timed = [cell for cell in ready if isinstance(cell, Timed | PassTimed)]
        rest = [cell for cell in ready if cell not in timed]
        if rest:
            return rest[0]
        return timed[0] if timed and not self.workers.at_work else None

    def _ready(self, cell: Cell) -> bool:
        return self.results.records[cell.name].state == "not run" and all(self.results.done(n) for n in needs(cell))

    def _start(self, cell: Cell) -> None:
        record = replace(read(self.folder, cell), state="running", reason="", result={})
        write(self.folder, cell, record)
        self.workers.give(
            cell.name, partial(main, str(self.folder.absolute()), cell.name), log_path(self.folder, cell.name)
        )
        self.results.set(cell.name, record)
        _report(self.results, self.folder, cell.name)

    def _end(self, answer: Answer[int], stopping: bool) -> None:
        """Record a cell whose process has ended."""
        name = answer.name
        record = read(self.folder, self.cells[name])
        if record.state == "running":  # the process ended without writing a record
            ended = answer.error or f"its process ended with code {answer.code}"
            why = f"{ended}; see {log_path(self.folder, name)}"
            record = replace(record, state="stopped") if stopping else replace(record, state="failed", reason=why)
        self._record(name, record)
        _report(self.results, self.folder, name)

    def _record(self, name: str, record: Record) -> None:
        write(self.folder, self.cells[name], record)
        self.results.set(name, record)
        ended = sum(each.state in ("done", "failed", "impossible") for each in self.results.records.values())
        why = f": {record.reason}" if record.reason else ""
        spent = f" in {record.seconds:.0f} s" if record.state == "done" else ""
        self.note(f"[{ended} of {len(self.cells)}] {name}: {record.state}{spent}{why}")
