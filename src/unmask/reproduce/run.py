"""The cells of a plan, done side by side in processes, each on disk once it is done; the report follows every step."""

__all__ = ["Listener", "reproduce"]

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from unmask.disk.files import explained
from unmask.errors import ConfigError
from unmask.reproduce.plan import Blocked, Cell, Plan, Timed, needs
from unmask.reproduce.report import write_report
from unmask.reproduce.results import Record, Results, log_path, read, write
from unmask.run.loop import Interrupt

Listener = Callable[[str], None]
_OPEN = ("not run", "running", "stopped", "failed", "impossible")


def reproduce(plan: Plan, folder: Path, *, workers: int, said: Listener) -> Results:
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
        _Crew(results, folder, workers, said).work(interrupt)
        results.interrupted = interrupt.requested
        return results


class _Crew:
    """The processes at work."""

    def __init__(self, results: Results, folder: Path, workers: int, said: Listener) -> None:
        self.results, self.folder, self.workers, self.said = results, folder, workers, said
        self.cells = {cell.name: cell for cell in results.plan.cells}
        self.at_work: dict[str, subprocess.Popen[bytes]] = {}

    def work(self, interrupt: Interrupt) -> None:
        """Until nothing can be begun any more, or an interrupt."""
        told = False
        try:
            while True:
                self._collect(interrupt.requested)
                if interrupt.requested and not told:
                    told = True
                    self.said(f"Stopping: {len(self.at_work)} cells save what they have.")
                    for process in self.at_work.values():
                        process.send_signal(signal.SIGINT)
                while not interrupt.requested and (cell := self._next()) is not None:
                    self._begin(cell)
                if not self.at_work:
                    break
                time.sleep(0.05)
        finally:
            for name, process in self.at_work.items():  # only after a second Ctrl-C, or an error here
                process.kill()
                process.wait()
                self._note(name, replace(self.results.records[name], state="stopped"))
            write_report(self.results, self.folder)

    def _next(self) -> Cell | None:
        """The first cell that has what it needs; those with a clock come last, and alone."""
        if len(self.at_work) >= self.workers:
            return None
        ready = [cell for cell in self.cells.values() if self._ready(cell)]
        timed = [cell for cell in ready if isinstance(cell, Timed)]
        rest = [cell for cell in ready if not isinstance(cell, Timed)]
        if rest:
            return rest[0]
        return timed[0] if timed and not self.at_work else None

    def _ready(self, cell: Cell) -> bool:
        return self.results.records[cell.name].state == "not run" and all(self.results.done(n) for n in needs(cell))

    def _begin(self, cell: Cell) -> None:
        record = replace(read(self.folder, cell), state="running", reason="", result={})
        write(self.folder, cell, record)
        command = [sys.executable, "-m", "unmask.reproduce.work", str(self.folder), cell.name]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with log_path(self.folder, cell.name).open("ab") as log:
            # a session of its own: Ctrl-C reaches it once, from here
            self.at_work[cell.name] = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | threads, start_new_session=True
            )
        self.results.set(cell.name, record)
        write_report(self.results, self.folder)

    def _collect(self, stopping: bool) -> None:
        """Note what has ended."""
        for name, process in list(self.at_work.items()):
            code = process.poll()
            if code is None:
                continue
            del self.at_work[name]
            record = read(self.folder, self.cells[name])
            if record.state == "running":  # it could not write an end
                why = f"its process ended with code {code}; see {log_path(self.folder, name)}"
                record = replace(record, state="stopped") if stopping else replace(record, state="failed", reason=why)
            self._note(name, record)
            write_report(self.results, self.folder)

    def _note(self, name: str, record: Record) -> None:
        write(self.folder, self.cells[name], record)
        self.results.set(name, record)
        ended = sum(one.state in ("done", "failed", "impossible") for one in self.results.records.values())
        why = f": {record.reason}" if record.reason else ""
        spent = f" in {record.seconds:.0f} s" if record.state == "done" else ""
        self.said(f"[{ended} of {len(self.cells)}] {name}: {record.state}{spent}{why}")


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
