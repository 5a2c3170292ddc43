"""What `unmask serve` does with bad requests, clients that vanish or are slow, and a kill; loopback alone."""

__all__ = ["bench_faults", "fault_lines"]

import http.client
import json
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

from unmask.bench.serving import RunningServer, ask
from unmask.disk.json import NotJson, parse_json
from unmask.errors import RunError

_SLOW = 5  # seconds in which slow clients send a byte each
_GROWTH = 64  # MiB that the memory of a server may grow while clients vanish


def bench_faults(*, quick: bool = False) -> Iterator[dict[str, Any]]:
    """Bad requests, clients that vanish, and a server that is killed -> a cell for each, with what the server did.

    A cell is "right" where the answer was an error with a sentence and the server still answers others.
    """
    server = RunningServer()
    try:
        for name, (path, body, headers) in _BAD.items():
            with closing(server.connect()) as connection:
                try:
                    status, answer = ask(connection, "POST", path, body, **headers)
                except (OSError, http.client.HTTPException) as error:  # it may close while a large body is sent
                    status, answer = 0, type(error).__name__.encode()
            yield _cell(name, server, status, answer, 400 <= status < 500 and _sentence(answer) is not None)
        for name, sent in list(_RAW.items())[: 1 if quick else None]:
            yield _raw_request(name, server, sent)
        yield _slow(server)
        yield _vanish(server, 10 if quick else 200)
        yield _killed(server)
    finally:
        server.close()


def _cell(name: str, server: RunningServer, status: int, answer: bytes, right: bool) -> dict[str, Any]:
    shown = _sentence(answer) or answer[:100].decode(errors="replace")
    return {"fault": name, "status": status, "shown": shown, "right": right and server.healthy()}


def _sentence(answer: bytes) -> str | None:
    """The body of an error -> its sentence."""
    with suppress(NotJson, UnicodeDecodeError, KeyError, TypeError):
        return str(parse_json(answer.decode(), dict[str, Any])["error"]["message"])
    return None


def _own(**fields: Any) -> bytes:
    return json.dumps({"prompt": "dog\n", "max_tokens": 8} | fields).encode()


def _schema(schema: dict[str, Any]) -> bytes:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return json.dumps({"messages": [{"role": "user", "content": "hi"}], "response_format": form}).encode()


_COMPLETIONS, _CHAT = "/v1/completions", "/v1/chat/completions"
_BAD: dict[str, tuple[str, bytes, dict[str, str]]] = {
    "no JSON": (_COMPLETIONS, b"{", {}),
    "bytes that are no UTF-8": (_COMPLETIONS, b'{"prompt": "\xff\xfe"}', {}),
    "half of a pair of UTF-16": (_COMPLETIONS, b'{"prompt": "\\ud800"}', {}),
    "20,000 nested lists": (_COMPLETIONS, b"[" * 20_000, {}),
    "20,000 nested lists in a field": (_COMPLETIONS, b'{"prompt": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", {}),
    "a body of 2 MiB": (_COMPLETIONS, _own(prompt="a" * 2**21), {}),
    "n = 1,000,000": (_COMPLETIONS, _own(n=10**6), {}),
    "max_tokens = 10**30": (_COMPLETIONS, _own(max_tokens=10**30), {}),
    "a seed of 10**30": (_COMPLETIONS, _own(seed=10**30), {}),
    "a temperature that is NaN": (_COMPLETIONS, b'{"prompt": "a", "temperature": NaN}', {}),
    "the id of MASK in the prompt": (_COMPLETIONS, _own(prompt=[8189]), {}),
    "a header of 100 kB": (_COMPLETIONS, _own(), {"x-long": "a" * 100_000}),
    "a foreign Host": (_COMPLETIONS, _own(), {"host": "example.org"}),
    "a foreign Origin": (_COMPLETIONS, _own(), {"origin": "https://example.org"}),
    "a pattern that explodes": (_COMPLETIONS, _own(unmask={"regex": "(a|b)*a(a|b){60}"}), {}),
    "a pattern that cannot end": (_COMPLETIONS, _own(unmask={"regex": "a{100}"}), {}),
    "a schema of 10 MB": (_CHAT, _schema({"enum": ["a" * 100] * 100_000}), {}),
    "10,000 choices": (_COMPLETIONS, _own(unmask={"choices": [f"{n:05}" for n in range(10_000)]}), {}),
    "a chat with a model that has no template": (_CHAT, _schema({"type": "integer"}), {}),
    "a policy that is a file": (_COMPLETIONS, _own(unmask={"policy": "learned:from=/etc/passwd"}), {}),
}
"""Name -> path, body and headers of a request that is refused."""


_RAW = {
    "no HTTP": b"\x16\x03\x01 no HTTP\r\n\r\n",
    "a head that does not end": b"GET / HTTP/1.1\r\n",
}
"""Name -> bytes that are no request."""


def _raw_request(name: str, server: RunningServer, sent: bytes) -> dict[str, Any]:
    """Send bytes on a connection of their own, and read until it is closed."""
    with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
        connection.sendall(sent)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        body = answer.read()
    return _cell(name, server, answer.status, body, 400 <= answer.status < 500 and _sentence(body) is not None)


def _slow(server: RunningServer) -> dict[str, Any]:
    """Clients that send a byte a second; others are answered meanwhile, none of them in more than ten seconds."""
    usual = statistics.median(_answer_seconds(server) for _ in range(5))
    with ExitStack() as held:
        clients = [held.enter_context(socket.create_connection(("127.0.0.1", server.port), 10)) for _ in range(20)]
        for slow in clients:
            slow.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n".encode())
            slow.sendall(b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
        seconds = list[float]()
        for _ in range(_SLOW):
            for slow in clients:
                slow.sendall(b" ")
            end = time.monotonic() + 1
            while time.monotonic() < end:
                seconds.append(_answer_seconds(server))
        shown = f"beside 20 clients of a byte a second {statistics.median(seconds):.3f} s an answer, alone {usual:.3f}"
    return _cell("slow clients", server, 200, shown.encode(), max(seconds) < 10)


def _answer_seconds(server: RunningServer) -> float:
    with closing(server.connect()) as connection:
        began = time.perf_counter()
        status, answer = ask(connection, "POST", _COMPLETIONS, _own(seed=1))
        if status != 200:
            raise RunError(f"The server answered {status}: {_sentence(answer)}")
        return time.perf_counter() - began


def _vanish(server: RunningServer, count: int) -> dict[str, Any]:
    """Clients that go in the middle of a stream: their rows are freed, and memory does not grow."""
    memory, before, late = list[int | None](), server.metrics(), 0
    for number in range(count):
        _begin_and_go(server, number)
        if number % 5 == 4:
            late += not _freed(server, 5.0)
            memory.append(server.memory())
    after = server.metrics()
    known = [value / 2**20 for value in memory if value is not None]
    aborted = int(after["unmask_rows_aborted_total"] - before["unmask_rows_aborted_total"])
    shown = f"{count} clients went, {aborted} rows were dropped, {'some' if late else 'none'} left after 5 s"
    shown += f", memory {known[0]:,.0f} MiB after the first five, {known[-1]:,.0f} at the end" if known else ""
    right = not late and aborted > 0 and (not known or known[-1] < known[0] + _GROWTH)
    return _cell("clients that vanish", server, 200, shown.encode(), right)


def _begin_and_go(server: RunningServer, number: int) -> None:
    """Begin a stream of a long text and close the connection after its first event."""
    body = _own(prompt="dog\n", max_tokens=512, n=2, seed=number, stream=True, unmask={"policy": "left-to-right"})
    with closing(server.connect()) as connection:
        connection.request("POST", _COMPLETIONS, body, {"content-type": "application/json"})
        connection.getresponse().readline()


def _freed(server: RunningServer, seconds: float) -> bool:
    """Whether no row is left after some seconds at most."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        counts = server.metrics()
        if not counts["unmask_rows_active"] + counts["unmask_rows_waiting"]:
            return True
        time.sleep(0.02)
    return False


def _killed(server: RunningServer) -> dict[str, Any]:
    """kill -9 in the middle of a stream: the client sees that the connection was closed, and a new server begins."""
    with closing(server.connect()) as connection:
        body = _own(max_tokens=512, stream=True, unmask={"policy": "left-to-right"})
        connection.request("POST", _COMPLETIONS, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.readline()
        server.process.kill()
        server.process.wait()
        shown = "the stream ended as if it were whole"
        try:
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            shown = f"the client sees {type(error).__name__}"
    server.start()
    return _cell("kill -9 in the middle of a stream, then a new start", server, 200, shown.encode(), "sees" in shown)


def fault_lines(cell: dict[str, Any]) -> list[str]:
    """A cell -> the line to print."""
    status = f"{cell['status']}: " if cell["status"] != 200 else ""
    return [f"{'right' if cell['right'] else 'WRONG'}  {cell['fault']}: {status}{cell['shown']}"]
