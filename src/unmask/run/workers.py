"""Jobs -> their answers, in worker processes of one thread each, here or on a Ray cluster.

`Pool` is what both have in common; `open_pool` chooses. The processes of a cluster are in `run.cluster`.

Processes are spawned, never forked: torch and its thread pools do not survive a fork. A worker process ignores Ctrl-C
at the terminal: its parent passes an interrupt on as SIGTERM, once, and where the parent is gone it sends SIGTERM to
itself. Inside `Interrupt` that lets a run save; elsewhere it raises KeyboardInterrupt.
"""

__all__ = ["Answer", "Pool", "Workers", "attempt", "call", "open_pool", "write_to"]

import os
import signal
import sys
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, Pipe, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

from unmask.config import typed, typed_files
from unmask.errors import RunError, UnmaskError
from unmask.limits import failure_of
from unmask.output import standard_streams
from unmask.run.loop import Interrupt

Result = TypeVar("Result")

_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_HELD_BACK = {getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)}
_POLL = 0.2  # seconds between looks at the interrupt
_LEAVE = 10.0  # seconds that a process may take to end after its last answer


class Answer(NamedTuple, Generic[Result]):
    """What became of a job."""

    name: str
    value: Result | None
    error: UnmaskError | None
    """What the job raised."""
    code: int | None
    """Exit code of a process that ended without an answer; minus the number of the signal that killed it."""

    @property
    def lost(self) -> bool:
        """Whether the process of the job ended without an answer, so that the job can be done again."""
        return self.code is not None

    def result(self) -> Result:
        """The value; raises what the job raised, or RunError where its process ended without an answer."""
        if self.error is not None:
            raise self.error
        if self.code is not None:
            raise RunError(f"{self.name}: its process ended with code {self.code} before it had a result.")
        return self.value  # pyright: ignore[reportReturnType]


@dataclass(slots=True, eq=False)
class _Worker:
    """A process, the connection to it, and the name of the job it is at, if any."""

    process: SpawnProcess
    connection: Connection
    name: str | None = None


class Pool(ABC, Generic[Result]):
    """At most `count` processes; none is left at the end of the `with` block.

    With `setup`, which is called once in each process, a process takes one job after the other: `setup()(job)`. Without
    it a job is a callable, and has a process of its own: `job()`. What goes there and back is pickled.
    An `interrupt` that is requested is passed on to each process at work, once; after it no job is begun.
    """

    redoes = False
    """Whether the pool itself does work that was lost with a process again, before it says that it was lost."""

    def __init__(
        self,
        count: int,
        *,
        setup: Callable[[], Callable[[Any], Result]] | None = None,
        interrupt: Interrupt | None = None,
    ) -> None:
        """No process is begun before it has a job."""
        self.count, self._setup, self._interrupt = count, setup, interrupt
        self._passed_on = False

    @property
    @abstractmethod
    def at_work(self) -> list[str]:
        """Names of the jobs that are begun and not answered."""

    @property
    def interrupted(self) -> bool:
        """Whether no further job is to be begun."""
        return self._interrupt is not None and self._interrupt.requested

    @abstractmethod
    def give(self, name: str, job: Any, log: Path | None = None) -> None:
        """Begin a job, when fewer than `count` are at work; a process begun for it writes its output to `log`."""

    @abstractmethod
    def collect(self, timeout: float = _POLL) -> list[Answer[Result]]:
        """Answers that have come; waits for the first one for up to `timeout` seconds."""

    @abstractmethod
    def kill(self) -> list[str]:
        """End every process at once; the names of the jobs that were at work."""

    def answers(self, jobs: Iterable[tuple[str, Any]]) -> Iterator[Answer[Result]]:
        """The answers to named jobs, as they come; after an interrupt only to those that were begun."""
        waiting = list(jobs)
        while self.at_work or (waiting and not self.interrupted):
            while waiting and not self.interrupted and len(self.at_work) < self.count:
                self.give(*waiting.pop(0))
            yield from self.collect()

    def __enter__(self) -> Self:
        """Nothing is begun yet."""
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill what is left: idle processes, or after an error or a second Ctrl-C those at work."""
        self.kill()


def open_pool(
    count: int | None,
    ray: str | None = None,
    *,
    setup: Callable[[], Callable[[Any], Result]] | None = None,
    interrupt: Interrupt | None = None,
    device: str = "cpu",
) -> Pool[Result]:
    """Number of processes, and the address of a Ray cluster or None -> the pool, here or there.

    None is a process for each processor, or on a cluster for each of its GPUs where `device` is not "cpu".
    Raises ConfigError for an address that cannot be reached, or without the package ray.
    """
    if ray is None:
        return Workers(count or os.cpu_count() or 1, setup=setup, interrupt=interrupt)
    from unmask.run.cluster import RayWorkers  # with the package ray, which few have

    return RayWorkers(ray, count, setup=setup, interrupt=interrupt, device=device)


class Workers(Pool[Result]):
    """The pool of this machine."""

    def __init__(
        self,
        count: int,
        *,
        setup: Callable[[], Callable[[Any], Result]] | None = None,
        interrupt: Interrupt | None = None,
    ) -> None:
        """No process is begun before it has a job."""
        super().__init__(count, setup=setup, interrupt=interrupt)
        self._workers: list[_Worker] = []

    @property
    def at_work(self) -> list[str]:
        """Names of the jobs that are begun and not answered."""
        return [worker.name for worker in self._workers if worker.name is not None]

    def give(self, name: str, job: Any, log: Path | None = None) -> None:
        """Begin a job, when fewer than `count` are at work; a process begun for it writes its output to `log`."""
        idle = [worker for worker in self._workers if worker.name is None]
        worker = idle[0] if idle else self._begin(log)
        worker.name = name
        with suppress(OSError):  # it has died: `collect` finds that out
            worker.connection.send(job)

    def collect(self, timeout: float = _POLL) -> list[Answer[Result]]:
        """Answers that have come; waits for the first one for up to `timeout` seconds."""
        if self.interrupted and not self._passed_on:
            self._passed_on = True
            for worker in self._workers:
                worker.process.terminate()
        ready = wait([worker.connection for worker in self._workers if worker.name is not None], timeout)
        return [self._answer(worker) for worker in list(self._workers) if worker.connection in ready]

    def kill(self) -> list[str]:
        """End every process at once; the names of the jobs that were at work."""
        names = self.at_work
        for worker in self._workers:
            worker.process.kill()
            worker.process.join()
            worker.connection.close()
        self._workers = []
        return names

    def _begin(self, log: Path | None) -> _Worker:
        here, there = Pipe()
        arguments = (
            there,
            self._setup,
            None if log is None else str(log),
            None if (files := typed_files()) is None else dict(files),
        )
        process = get_context("spawn").Process(target=_serve, args=arguments, daemon=True)  # it never outlives us
        with _inherited():
            process.start()
        there.close()
        worker = _Worker(process, here)
        self._workers.append(worker)
        return worker

    def _answer(self, worker: _Worker) -> Answer[Result]:
        """Read an answer, or the end of the process."""
        name, worker.name = worker.name, None
        assert name is not None
        try:
            value, error, ended = worker.connection.recv()
            answer = Answer[Result](name, value, error, None)
        except (EOFError, OSError):
            ended, answer = True, None
        if ended:
            self._workers.remove(worker)
            worker.connection.close()
            worker.process.join(_LEAVE)
            worker.process.kill()
            worker.process.join()
        return answer or Answer[Result](name, None, None, worker.process.exitcode)


@contextmanager
def _inherited() -> Generator[None]:
    """A process started inside begins with one thread, and with Ctrl-C held back until it has set it to be ignored."""
    former = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for name, value in former.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(
    connection: Connection,
    setup: Callable[[], Callable[[Any], Any]] | None,
    log: str | None,
    files: Mapping[str, str] | None,
) -> None:
    """The worker process: answer jobs until the connection is closed. Exit code 130 after an interrupt.

    `files` are the Python files that the parent may run.
    """
    try:
        _settle(log)
        with standard_streams(), typed((), files):
            _answer_jobs(connection, setup)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is on its way out


def _answer_jobs(connection: Connection, setup: Callable[[], Callable[[Any], Any]] | None) -> None:
    """Answer jobs until the connection is closed, or until the only job is done.

    What a job prints may be lost, with the reader of the output, but never the job.
    """
    work, error = attempt(setup or (lambda: call))
    while (job := _received(connection)) is not None:
        answer = (None, error) if work is None else attempt(work, job[0])
        last = work is None or setup is None  # no further job comes here
        sys.stdout.flush()
        connection.send((*answer, last))
        if last:
            return


def _settle(log: str | None) -> None:
    """Choose what signals do, and where output goes."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for number in _HELD_BACK:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if log is not None:
        write_to(log)


def write_to(log: str) -> None:
    """From here on this process writes its output to the end of the file `log`."""
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _received(connection: Connection) -> tuple[Any] | None:
    """The next job; None where there will be no more."""
    try:
        return (connection.recv(),)
    except (EOFError, OSError):
        return None


def attempt(function: Callable[..., Any], *arguments: Any) -> tuple[Any, UnmaskError | None]:
    """The value of a call, or what it raised; an error that is not the library's own is also printed."""
    try:
        return function(*arguments), None
    except UnmaskError as error:
        return None, error
    except Exception as error:
        if failure := failure_of(error):
            return None, failure
        traceback.print_exc()
        return None, RunError(f"A worker process failed with {type(error).__name__}: {error}")


def call(job: Callable[[], Any]) -> Any:
    """A job -> its value: the work of a process without a setup."""
    return job()
