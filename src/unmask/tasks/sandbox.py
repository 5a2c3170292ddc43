"""Programs that a model wrote, and their tests -> whether they pass, each in a process that can reach nothing else."""

__all__ = ["STATUSES", "Outcome", "Program", "run_programs"]

import atexit
import json
import os
import selectors
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from unmask.disk.json import parse_json
from unmask.errors import RequestError, RunError

STATUSES = ("passed", "failed", "timeout", "memory")
"""What can become of a program. Where it cannot be isolated it is not run, and RequestError is raised."""
_LIMITS = {"memory": 1 << 29, "file": 1 << 20, "folder": 1 << 23}  # bytes: of memory, of a file and of the folder
_SCRIPT = Path(__file__).with_name("sandbox_server.py")
_OUTPUT = 2000  # characters of the output that are kept


class Program(NamedTuple):
    """A program and its tests, both Python source."""

    source: str
    """The program, of which nothing is trusted."""
    tests: str
    """It is right if these run to their end; they call the program's functions with plain values."""
    names: tuple[str, ...]
    """The names of the program that the tests use."""
    setup: str = ""
    """Source that runs before the tests, in the place of the tests; `names` take precedence over what it defines."""


class Outcome(NamedTuple):
    """What became of a program."""

    status: str
    """One of STATUSES."""
    why: str = ""
    """Why it did not pass, in a line."""
    output: str = ""
    """What it printed, at most 2,000 characters."""


class _Server:
    """A process of `sandbox_server`, which runs one program after the other."""

    def __init__(self) -> None:
        """Raises RequestError where the system does not let it isolate programs."""
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.files: list[int] = []
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-s", "-S", "-P", "-B", str(_SCRIPT), str(theirs.fileno())],
                env={"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def begin(self, program: Program, seconds: int) -> None:
        """Send a program to be run."""
        job = {"tests": program.tests, "names": program.names, "setup": program.setup}
        contents = (program.source.encode("utf-8", "surrogatepass"), json.dumps(job).encode(), b"", b"")
        self.files = [_file(content) for content in contents]
        limits = {**_LIMITS, "seconds": seconds, "elapsed": 3 * seconds}
        with suppress(BrokenPipeError):  # it has ended: `outcome` says so
            socket.send_fds(self.control, [json.dumps(limits).encode()], self.files)

    def outcome(self, seconds: int) -> Outcome:
        """The outcome of the program that was sent; waits for it. Raises RunError where the process has ended."""
        ended = self._answer()
        verdict, output = (os.pread(file, 1 << 16, 0) for file in self.files[2:])
        for file in self.files:
            os.close(file)
        self.files = []
        text = output.decode("utf-8", "replace")[:_OUTPUT]
        if ended["late"]:
            return Outcome("timeout", f"the program took more than {3 * seconds} s", text)
        if not verdict and ended["used"] > seconds - 0.5:
            return Outcome("timeout", f"the tests took more than {seconds} s of processor time", text)
        if not verdict:
            return Outcome("failed", f"the tests ended without a verdict (code {ended['code']})", text)
        read = _unless_refused(verdict)
        return Outcome(read["status"], read["why"], text)

    def close(self) -> None:
        """End the process and all that it began."""
        self.control.close()
        for file in self.files:
            os.close(file)
        self.process.kill()
        self.process.wait()

    def _answer(self) -> dict[str, Any]:
        answer = b""
        with suppress(ConnectionResetError):
            answer = self.control.recv(4096)
        if not answer:
            raise RunError("The process that isolates programs ended, and with it the programs: run the command again.")
        return _unless_refused(answer)


def _unless_refused(answer: bytes) -> dict[str, Any]:
    """JSON -> its object. Raises RequestError where it says why programs cannot be isolated."""
    read = parse_json(answer.decode(), dict[str, Any])
    if "refused" in read:
        raise _refusal(read["refused"])
    return read


def _refusal(reason: str) -> RequestError:
    return RequestError(
        f"Programs cannot be isolated on this system ({reason}), so none is run: use Linux, where user namespaces are "
        "allowed or as root with the right to make namespaces (in a container: the capability SYS_ADMIN)."
    )


def _file(content: bytes) -> int:
    """Bytes -> the descriptor of a file in memory that holds them."""
    file = os.memfd_create("program", os.MFD_CLOEXEC)
    while content:
        content = content[os.write(file, content) :]
    return file


_lock = threading.Lock()
_servers: list[_Server] = []
_owner = [0]  # the process that began them


def run_programs(programs: Sequence[Program], seconds: int = 5) -> list[Outcome]:
    """Programs -> their outcomes, as many at a time as there are processors.

    `seconds` limits the processor time of a program and of its tests, and a third of the time that it may take in all.
    Raises RequestError where programs cannot be isolated: none is run then.
    """
    if sys.platform != "linux":
        raise _refusal(f"it is {sys.platform}")
    with _lock:
        try:
            return _run(programs, seconds, _ready(min(len(programs), len(os.sched_getaffinity(0)))))
        except BaseException:
            _end()  # some are at work on what nobody waits for
            raise


def _run(programs: Sequence[Program], seconds: int, idle: list[_Server]) -> list[Outcome]:
    """Programs and servers that wait for one -> the outcomes in the order of the programs."""
    outcomes: dict[int, Outcome] = {}
    at_work: dict[_Server, int] = {}
    waiting = list(range(len(programs)))[::-1]
    with selectors.DefaultSelector() as selector:
        for server in idle:
            selector.register(server.control, selectors.EVENT_READ, server)
        while waiting or at_work:
            while waiting and idle:
                server = idle.pop()
                at_work[server] = waiting.pop()
                server.begin(programs[at_work[server]], seconds)
            for key, _ in selector.select():
                outcomes[at_work.pop(key.data)] = key.data.outcome(seconds)
                idle.append(key.data)
    return [outcomes[at] for at in range(len(programs))]


def _ready(count: int) -> list[_Server]:
    """`count` servers, of which some may have been begun before."""
    if _owner[0] != os.getpid():  # this process is a fork of the one that began them, and they are the other's
        for server in _servers:
            server.control.close()
            server.process.returncode = 0
        _servers.clear()
        _owner[0] = os.getpid()
    while len(_servers) < count:
        _servers.append(_Server())
    return _servers[:count]


@atexit.register
def _end() -> None:
    if _owner[0] == os.getpid():
        while _servers:
            _servers.pop().close()
