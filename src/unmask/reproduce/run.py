"""The cells of a plan, done side by side in processes, each on disk once it is done; the report follows every step."""

__all__ = ["reproduce"]

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from unmask.disk.files import explained
from unmask.errors import ConfigError
from unmask.reproduce.plan import Blocked, Cell, Question, Timed, needs
from unmask.reproduce.report import write_report
from unmask.reproduce.results import Record, Results, log_path, read, write
from unmask.reproduce.work import main
from unmask.run.loop import Interrupt
from unmask.run.workers import Answer, Workers

_OPEN = ("not run", "running", "stopped", "failed", "impossible")


def reproduce(plan: Question, folder: Path, *, workers: int, note: Callable[[str], None]) -> Results:
    """Do what is not done yet, and give what is; an interrupt stops the cells politely and leaves a whole report.

    What failed before, or could not be, is tried again; what is done is not. Raises ConfigError where the folder has
    cells of these names that were made with other settings.
    """
    with explained(folder):
        (folder / "cells").mkdir(parents=True, exist_ok=True)
    with _Lock(folder), Interrupt() as interrupt:
        results = Results(plan)
        for cell in plan.cells:
            record = Record("blocked", cell.reason) if isinstance(cell, Blocked) else read(folder, cell)
            results.set(cell.name, replace(record, state="not run") if record.state in _OPEN else record)
        write_report(results, folder)
        with Workers[int](workers, interrupt=interrupt) as pool:
            _Queue(results, folder, note, pool).work(interrupt)
        results.interrupted = interrupt.requested
        return results


class _Queue:
    """The cells of a plan, each begun in a process of its own once what it needs is done."""

    def __init__(self, results: Results, folder: Path, note: Callable[[str], None], workers: Workers[int]) -> None:
        self.results, self.folder, self.note, self.workers = results, folder, note, workers
        self.cells = {cell.name: cell for cell in results.plan.cells}

    def work(self, interrupt: Interrupt) -> None:
        """Until nothing can be begun any more, or an interrupt."""
        announced = False
        try:
            while True:
                while not interrupt.requested and (cell := self._next()) is not None:
                    self._begin(cell)
                if interrupt.requested and not announced:
                    announced = True
                    self.note(f"Stopping: {len(self.workers.at_work)} cells save what they have.")
                if not self.workers.at_work:
                    break
                for answer in self.workers.collect():
                    self._end(answer, interrupt.requested)
        finally:
            for name in self.workers.kill():  # only after a second Ctrl-C, or an error here
                self._note(name, replace(self.results.records[name], state="stopped"))
            write_report(self.results, self.folder)

    def _next(self) -> Cell | None:
        """The first cell that has what it needs; those with a clock come last, and alone."""
        if len(self.workers.at_work) >= self.workers.count:
            return None
        ready = [cell for cell in self.cells.values() if self._ready(cell)]
        timed = [cell for cell in ready if isinstance(cell, Timed)]
        rest = [cell for cell in ready if not isinstance(cell, Timed)]
        if rest:
            return rest[0]
        return timed[0] if timed and not self.workers.at_work else None

    def _ready(self, cell: Cell) -> bool:
        return self.results.records[cell.name].state == "not run" and all(self.results.done(n) for n in needs(cell))

    def _begin(self, cell: Cell) -> None:
        record = replace(read(self.folder, cell), state="running", reason="", result={})
        write(self.folder, cell, record)
        self.workers.give(cell.name, partial(main, str(self.folder), cell.name), log_path(self.folder, cell.name))
        self.results.set(cell.name, record)
        write_report(self.results, self.folder)

    def _end(self, answer: Answer[int], stopping: bool) -> None:
        """Note what has ended."""
        name = answer.name
        record = read(self.folder, self.cells[name])
        if record.state == "running":  # it could not write an end
            ended = answer.error or f"its process ended with code {answer.code}"
            why = f"{ended}; see {log_path(self.folder, name)}"
            record = replace(record, state="stopped") if stopping else replace(record, state="failed", reason=why)
        self._note(name, record)
        write_report(self.results, self.folder)

    def _note(self, name: str, record: Record) -> None:
        write(self.folder, self.cells[name], record)
        self.results.set(name, record)
        ended = sum(one.state in ("done", "failed", "impossible") for one in self.results.records.values())
        why = f": {record.reason}" if record.reason else ""
        spent = f" in {record.seconds:.0f} s" if record.state == "done" else ""
        self.note(f"[{ended} of {len(self.cells)}] {name}: {record.state}{spent}{why}")


class _Lock:
    """Keeps a second command out of a folder, where the system can (not on Windows)."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "cells" / ".lock"

    def __enter__(self) -> None:
        self.file = self.path.open("w")
        try:
            import fcntl

            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            return
        except OSError:
            self.file.close()
            raise ConfigError(
                f"Another unmask reproduce is at work in {self.path.parent.parent}; wait for it, or choose another "
                "folder with --out."
            ) from None

    def __exit__(self, *_: object) -> None:
        self.file.close()
