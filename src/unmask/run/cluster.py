"""Jobs -> their answers, in processes of a Ray cluster: the pool of several machines, and the only module with ray.

With a setup each process is an actor, which takes a GPU or a processor and is started again where it is lost. Without
one each job is a task of its own. Ray does the work of a process that was lost again, elsewhere, twice at most. What
goes there and back is pickled by Ray, between the machines of one cluster, which run each other's programs anyway. A
program runs on every machine in the folder of the same path, where there is one.
"""

__all__ = ["RayWorkers", "check_address"]

import importlib
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from unmask.config import typed, typed_files
from unmask.errors import ConfigError, RunError, UnmaskError
from unmask.run.loop import Interrupt
from unmask.run.workers import Answer, Pool, Result, attempt, call, write_to

_CONNECT = 10.0  # seconds that the head of a cluster may take to accept a connection
_BEGIN = 120.0  # seconds that a process may take to begin
_SILENT = 6 * 3600.0  # seconds without any answer, after which the cluster is given up
_AGAIN = 2  # times that lost work is done again
_STORE = 128 * 1024 * 1024  # bytes of the object store of a local cluster: an answer is some megabytes
_LOST = 1  # the exit code of a process on a cluster that ended without an answer is not known


def check_address(address: str) -> None:
    """The address of a cluster: auto, local, or HOST:PORT. Raises ConfigError if it cannot be one, or without ray."""
    _library()
    if address in ("auto", "local"):
        return
    parts = re.fullmatch(r"\[?([^\[\]/]+)\]?:(\d{1,5})", address)
    if parts is None or not 0 < int(parts[2]) < 65536:
        raise ConfigError(
            f"'{address}' is no address of a Ray cluster: give HOST:PORT of its head, auto for the cluster of this "
            "machine (`ray start`), or local for one that is started now."
        )
    try:
        socket.create_connection((parts[1], int(parts[2])), timeout=_CONNECT).close()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(_unreachable(address, reason)) from error


def _unreachable(address: str, reason: str) -> str:
    """An address and why it failed -> the sentence."""
    return (
        f"The Ray cluster at '{address}' cannot be reached ({reason}): start it with `ray start --head`, or give "
        "HOST:PORT of its head, or local."
    )


_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # as the next version of Ray has it
}


def _library() -> Any:
    """The package ray. Raises ConfigError without it."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError("--ray needs the package ray: pip install 'unmask[ray]'.") from error
    internals = importlib.import_module("ray._private.worker")
    if hasattr(internals, "print_to_stdstream"):  # it prints what was lost on stdout, where --json has its object
        vars(internals)["print_to_stdstream"] = _nothing
    return ray


def _nothing(*arguments: Any, **options: Any) -> None:
    """Print nothing."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a program runs: what a process on another machine takes over of it."""

    folder: str
    path: tuple[str, ...]
    """Of modules."""
    files: Mapping[str, str] | None
    """The Python files that may be run, see `config.typed_files`."""

    @classmethod
    def here(cls) -> Self:
        """That of this process."""
        return cls(os.getcwd(), tuple(sys.path), None if (files := typed_files()) is None else dict(files))

    @contextmanager
    def entered(self) -> Generator[None]:
        """Context in which a process works there."""
        sys.path.extend(entry for entry in self.path if entry not in sys.path)
        with suppress(OSError):  # another machine may not have it
            os.chdir(self.folder)
        with typed((), self.files):
            yield


class RayWorkers(Pool[Result]):
    """The pool of a Ray cluster; the connection, and a local cluster, end with the `with` block."""

    redoes = True

    def __init__(
        self,
        address: str,
        count: int | None = None,
        *,
        setup: Callable[[], Callable[[Any], Result]] | None = None,
        interrupt: Interrupt | None = None,
        device: str = "cpu",
    ) -> None:
        """Connect. `count` is by default a process for each GPU, or processor where `device` is "cpu" or none has one.

        Raises ConfigError where the cluster cannot be reached.
        """
        check_address(address)
        self._ray = _library()
        self._address = address
        self._connect(count)
        try:
            resources = self._ray.cluster_resources()
            gpus = 0 if device == "cpu" else int(resources.get("GPU", 0))
            self._needs = {"num_gpus": 1, "num_cpus": 0} if gpus else {"num_cpus": 1}
            super().__init__(count or gpus or max(1, int(resources.get("CPU", 1))), setup=setup, interrupt=interrupt)
        except BaseException:
            self._ray.shutdown()
            raise
        self._idle: list[Any] = []
        self._working: dict[Any, tuple[str, Any]] = {}  # by the reference of an answer: the job, and its actor
        self._waited = 0.0

    def _connect(self, count: int | None) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self._address != "local":  # one try, of half a minute, where something answers that is no cluster
            os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")
        else:
            options |= {"num_cpus": count, "object_store_memory": _STORE, "include_dashboard": False}
        try:
            with _own_signals():
                self._ray.init(address=self._address, **options)
        except (Exception, SystemExit) as error:  # Ray ends the program where no cluster answers
            self._ray.shutdown()
            reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
            advice = "; where it asks for a token, set RAY_AUTH_MODE and RAY_AUTH_TOKEN as at its head"
            raise ConfigError(_unreachable(self._address, (reason or "it does not answer") + advice)) from error

    @property
    def at_work(self) -> list[str]:
        """Names of the jobs that are begun and not answered."""
        return [name for name, _ in self._working.values()]

    def give(self, name: str, job: Any, log: Path | None = None) -> None:
        """Begin a job, when fewer than `count` are at work; a job without a setup writes its output to `log`."""
        place = _Place.here()
        if self._setup is None:
            task = self._ray.remote(**self._needs, max_retries=_AGAIN, max_calls=1)(_once)
            reference = task.remote([self._ray.put(job)], place, None if log is None else str(log))
            self._working[reference] = (name, None)
            return
        actor = self._idle.pop() if self._idle else self._begin(place)
        self._working[actor.work.remote(self._setup, job)] = (name, actor)

    def _begin(self, place: _Place) -> Any:
        """Start an actor. Raises RunError where the cluster has no room for it."""
        actor = self._ray.remote(**self._needs, max_restarts=-1, max_task_retries=_AGAIN)(_Actor).remote(place)
        try:
            self._ray.get(actor.ready.remote(), timeout=_BEGIN)
        except self._ray.exceptions.GetTimeoutError as error:
            self._ray.kill(actor)
            what = "GPU" if "num_gpus" in self._needs else "processor"
            raise RunError(
                f"The Ray cluster at '{self._address}' has no free {what} for process {len(self._working) + 1} of "
                f"{self.count} within {_BEGIN:.0f} s: give fewer with --workers."
            ) from error
        return actor

    def collect(self, timeout: float = 0.2) -> list[Answer[Result]]:
        """Answers that have come; waits for the first one for up to `timeout` seconds.

        Raises RunError where none came for hours.
        """
        if self.interrupted and not self._passed_on:
            self._passed_on = True
            for reference in self._working:
                self._ray.cancel(reference, force=False, recursive=False)
        if not self._working:
            return []
        ready, _ = self._ray.wait(list(self._working), num_returns=1, timeout=timeout)
        self._waited = 0.0 if ready else self._waited + timeout
        if self._waited > _SILENT:
            raise RunError(f"The Ray cluster at '{self._address}' sent no answer for {_SILENT / 3600:.0f} hours.")
        if ready:
            ready, _ = self._ray.wait(list(self._working), num_returns=len(self._working), timeout=0)
        return [self._answer(reference) for reference in ready]

    def _answer(self, reference: Any) -> Answer[Result]:
        """Read an answer, or the end of the process."""
        name, actor = self._working.pop(reference)
        try:
            value, error = self._ray.get(reference, timeout=_BEGIN)
        except self._ray.exceptions.TaskCancelledError:
            return Answer(name, None, None, 130)
        except self._ray.exceptions.RayError as failure:
            if actor is not None:
                self._ray.kill(actor)
            return Answer(name, None, _lost(name, failure), _LOST)
        if actor is not None:
            self._idle.append(actor)
        return Answer(name, value, error, None)

    def kill(self) -> list[str]:
        """End every process at once; the names of the jobs that were at work."""
        names = self.at_work
        with suppress(self._ray.exceptions.RayError):
            for actor in [*self._idle, *(actor for _, actor in self._working.values() if actor is not None)]:
                self._ray.kill(actor)
            for reference, (_, actor) in self._working.items():
                if actor is None:
                    self._ray.cancel(reference, force=True)
        self._idle, self._working = [], {}
        return names

    def __enter__(self) -> Self:
        """The connection is there already."""
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what is left, and the connection."""
        self.kill()
        self._ray.shutdown()


def _lost(name: str, failure: Exception) -> RunError:
    """A job and the error of Ray -> the sentence that its process was lost."""
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()] or [type(failure).__name__]
    reason = lines[-1] if "Traceback" in str(failure) else lines[0]
    return RunError(f"{name}: its process on the Ray cluster ended before it had a result ({reason.rstrip('.')}).")


@contextmanager
def _own_signals() -> Generator[None]:
    """Context after which signals have the handlers of before: Ray sets its own."""
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        with suppress(ValueError):  # in another thread than the main one, where Ray sets none either
            for number, handler in former.items():
                signal.signal(number, handler)


class _Actor:
    """A process of a pool with a setup."""

    def __init__(self, place: _Place) -> None:
        with place.entered():  # before a setup is read, whose module may be found by the path alone
            self._place = place
        self._work: Callable[[Any], Any] | None = None

    def ready(self) -> bool:
        """The process runs."""
        return True

    def work(self, setup: Callable[[], Callable[[Any], Any]], job: Any) -> tuple[Any, UnmaskError | None]:
        """A job -> its value, or what it raised; the setup is called before the first job."""
        with self._place.entered():
            error = None
            if self._work is None:
                self._work, error = attempt(setup)
            return (None, error) if self._work is None else attempt(self._work, job)


def _once(job: list[Any], place: _Place, log: str | None) -> tuple[Any, UnmaskError | None]:
    """The reference of a job without a setup, in a process of its own -> its value, or what it raised.

    The job is read here, and not before: its module may be found by the path alone.
    """
    if log is not None:
        write_to(log)
    with place.entered():
        return attempt(call, _library().get(job[0]))
