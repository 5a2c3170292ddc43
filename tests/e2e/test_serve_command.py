"""`unmask serve` as a process: its address, its page's headers, and how signals end it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

import httpx2
import pytest


def _hear_signals() -> None:
    """In a child: hear the signals that a shell in the background, or nohup, began the tests without."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@contextmanager
def served(*words: str) -> Generator[tuple[subprocess.Popen[str], str]]:
    """Words of the command line -> the process of a server on a free port, and its address; killed at the end."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "unmask", "serve", *words, "--port", str(port)]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_hear_signals,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert line.startswith("Serving "), line + process.stderr.read()
            address = re.findall(r"http://[^/ ]+", line)[0]
            assert address == f"http://127.0.0.1:{port}"
            yield process, address
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_stops_the_server_with_one_true_sentence(name: str, code: int) -> None:
    """The exit code is that of a command that a signal ended; a server saves nothing, and says nothing of that."""
    with served("automaton") as (process, address):
        assert "<title>" in httpx2.get(f"{address}/").text
        process.send_signal(getattr(signal, name))
        assert process.wait(60) == code
        assert process.stderr is not None
        lines = [line for line in process.stderr.read().splitlines() if "'/'" not in line]
        assert lines == ["unmask: interrupted: the server has stopped."]
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{address}/health")
