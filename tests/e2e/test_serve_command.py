"""`unmask serve` as a process: its address, its page's headers, and how signals end it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any

import httpx2
import pytest
import uvicorn

from unmask.serve.protocol import Protocol


def _hear_signals() -> None:
    """In a child: hear the signals that a shell in the background, or nohup, began the tests without."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@contextmanager
def spoken(monkeypatch: pytest.MonkeyPatch) -> Generator[int]:
    """The port of a server that gives the head of a request three seconds, and answers each by its method."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["method"].encode()})

    monkeypatch.setattr("unmask.serve.protocol._HEAD_SECONDS", 3.0)
    config = uvicorn.Config(answer, http=Protocol, ws="none", lifespan="off", log_level="error", access_log=False)
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def talk(port: int, *parts: bytes) -> bytes:
    """What is sent, with .2 seconds between the parts -> all that comes until the connection ends."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(0.2)
        with suppress(ConnectionResetError):
            return b"".join(iter(lambda: connection.recv(65536), b""))
    return b""


@pytest.mark.parametrize(
    ("parts", "status", "words"),
    [
        ((b"\x16\x03\x01 no HTTP\r\n\r\n",), 400, "no request of HTTP/1.1"),
        ((b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: many\r\n\r\n",), 400, "no request of HTTP/1.1"),
        ((), 408, "within 3 seconds"),
        ((b"GET / HTTP/1.1\r\n", b"Host: a\r\n", b"Long: a\r\n"), 408, "within 3 seconds"),
        ((b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"", b"GET / HT"), 408, "within 3 seconds"),
    ],
)
def test_what_is_no_request_and_what_is_late_have_a_sentence(
    monkeypatch: pytest.MonkeyPatch, parts: tuple[bytes, ...], status: int, words: str
) -> None:
    """The control: the same head in two parts that arrives in time, with what follows on the same connection."""
    with spoken(monkeypatch) as port:
        answer = talk(port, *parts)
        head, _, body = answer.rpartition(b"\r\n\r\n")
        assert f"HTTP/1.1 {status} ".encode() in head
        assert words in json.loads(body)["error"]["message"]
        close = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        answer = talk(port, b"PUT / HTTP/1.1\r\nHo", b"st: a\r\n\r\n", b"", b"", close)
        assert answer.count(b"HTTP/1.1 200 OK") == 2


def test_a_body_that_is_answered_before_its_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it sends a byte. The control: what is sent before that has its answer."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
    with spoken(monkeypatch) as port:
        assert b"200 OK" in talk(port, head)
        with pytest.raises(OSError, match=r"reset|Broken"):
            talk(port, head, *[b"a"] * 25)


@contextmanager
def served(*words: str) -> Generator[tuple[subprocess.Popen[str], str]]:
    """Words of the command line -> the process of a server on a free port, and its address; killed at the end."""
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
