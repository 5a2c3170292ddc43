"""Jobs for the worker processes of test_workers.py, in a module that those can import."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from unmask.errors import ConfigError
from unmask.run.loop import Interrupt
from unmask.run.workers import Workers


def wait_for(path: Path, seconds: float = 60.0) -> str:
    """The text of a file, once it is there and not empty."""
    deadline = time.monotonic() + seconds
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, path
        time.sleep(0.02)
    return path.read_text()


def wait_for_end(process: int, seconds: float = 60.0) -> None:
    """Wait until a process has ended, or is a zombie that nobody has asked for."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if "\nState:\tZ" in Path(f"/proc/{process}/status").read_text():
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        assert time.monotonic() < deadline, process
        time.sleep(0.05)


def counting() -> Callable[[int], tuple[int, int, str | None]]:
    """The setup of a worker: (process, jobs that it has had, threads it was allowed)."""
    had = [0]

    def work(job: int) -> tuple[int, int, str | None]:
        if job < 0:
            raise ConfigError(f"{job} is below zero; give 0 or more.")
        had[0] += 1
        return os.getpid(), had[0], os.environ.get("OMP_NUM_THREADS")

    return work


def impossible() -> Callable[[int], int]:
    """A setup that is refused."""
    raise ConfigError("there is no such model; give another.")


def quick_or_slow(here: Path, quick: bool) -> str:
    """The slow job ends when the quick one's answer has been seen."""
    if not quick:
        wait_for(here / "seen")
    return "quick" if quick else "slow"


def patient(here: Path, name: str) -> int:
    """A run that counts its interrupts, and saves a while after the first."""
    with Interrupt() as interrupt:
        former = signal.getsignal(signal.SIGTERM)
        count = 0

        def heard(number: int, frame: FrameType | None) -> None:
            nonlocal count
            count += 1
            assert callable(former)
            former(number, frame)

        signal.signal(signal.SIGTERM, heard)
        (here / f"{name}.begun").write_text(str(os.getpid()))  # from here on no signal is missed
        while not interrupt.requested:
            time.sleep(0.01)
        time.sleep(0.5)
    (here / f"{name}.saved").write_text(str(count))
    return 130


def stubborn(here: Path) -> None:
    """A job that does not end by itself and ignores interrupts."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (here / "process").write_text(str(os.getpid()))
    time.sleep(600)


def unending(here: Path) -> None:
    (here / "process").write_text(str(os.getpid()))
    time.sleep(600)


def run(jobs: Iterable[tuple[str, Any]]) -> None:
    """A command that runs jobs, politely, and prints their values."""
    with Interrupt() as interrupt, Workers[Any](1, interrupt=interrupt) as pool:
        print([answer.result() for answer in pool.answers(jobs)], flush=True)


if __name__ == "__main__":
    function = {"patient": partial(patient, name="a"), "unending": unending}[sys.argv[1]]
    run([("a", partial(function, Path(sys.argv[2])))])
