"""The speed of `unmask serve` beside that of the library; loopback alone.

The server is a process of its own with the bundled text model. Several clients, each a thread of this process, send a
request as soon as the last one is answered.
"""

__all__ = ["RunningServer", "ask", "bench_serving", "serving_lines"]

import http.client
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from typing import Any

from unmask import api
from unmask.disk.folders import DEFAULT_MODEL
from unmask.disk.json import read_text
from unmask.errors import RunError

_WORDS = ("dog", "river", "music", "stone", "king", "bread", "winter", "engine")
_LENGTH = 40  # tokens of a text
_POLICY = "confidence:steps=20"
_PATIENCE = 120.0  # seconds in which a server begins, and in which an answer arrives


class RunningServer:
    """A server in a process of its own, until it is closed."""

    def __init__(self) -> None:
        self.port = _free_port()
        self.start()

    def start(self) -> None:
        """Begin, or begin again at the same port. Raises RunError where it does not answer."""
        command = [sys.executable, "-m", "unmask", "serve", DEFAULT_MODEL, "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + _PATIENCE
        while not self.healthy():
            if self.process.poll() is not None or time.monotonic() > end:
                self.close()
                raise RunError(f"unmask serve did not begin at port {self.port}; call it alone to see why.")
            time.sleep(0.1)

    def connect(self, seconds: float = _PATIENCE) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)

    def healthy(self) -> bool:
        """Whether it answers."""
        with suppress(OSError, http.client.HTTPException), closing(self.connect(10)) as connection:
            return ask(connection, "GET", "/health")[0] == 200
        return False

    def metrics(self) -> dict[str, float]:
        """The counts of /metrics that have no labels."""
        with closing(self.connect()) as connection:
            text = ask(connection, "GET", "/metrics")[1].decode()
        return {name: float(value) for name, value in re.findall(r"^(unmask_\w+) (\S+)$", text, re.MULTILINE)}

    def memory(self) -> int | None:
        """Bytes of memory that are in use; None where the system does not tell."""
        with suppress(OSError):
            return 1024 * int(re.findall(r"VmRSS:\s+(\d+)", read_text(f"/proc/{self.process.pid}/status"))[0])
        return None

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        finally:
            self.process.kill()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes]:
    """A request -> the status and the body of its answer."""
    connection.request(method, path, body, {"content-type": "application/json"} | headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


# ---- load ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Window:
    """What clients saw in some seconds."""

    answers: int = 0
    errors: list[str] = field(default_factory=list[str])
    seconds: list[float] = field(default_factory=list[float])

    def add(self, status: int, seconds: float) -> None:
        self.answers += status == 200
        self.seconds.append(seconds)
        if status != 200:
            self.errors.append(f"status {status}")


def bench_serving(rounds: int, seconds: float, clients: int, *, quick: bool = False) -> Iterator[dict[str, Any]]:
    """Rounds, the seconds of each with the server, and a number of clients -> a cell for them and one for one client.

    In each round the library decodes as many rows in one batch, again and again, for a quarter of the time: before or
    after, in turn. The share is the server's texts/s divided by the library's.
    """
    model = api.load(DEFAULT_MODEL, device="cpu")
    seconds = min(seconds, 2.0) if quick else seconds
    with ExitStack() as held:
        server = RunningServer()
        held.callback(server.close)
        _load(server, clients, 1.0)
        _library(model, clients, 1.0)
        for count in dict.fromkeys((clients, 1)):
            yield _compare(server, model, count, rounds, seconds)
        yield _first_event(server, clients, 5 if quick else 40)


def _compare(server: RunningServer, model: api.Model, clients: int, rounds: int, seconds: float) -> dict[str, Any]:
    """The server and the library in turn."""
    window, shares, own, rates = _Window(), list[float](), list[float](), list[float]()
    memory = list[int | None]()
    before, busy = server.metrics(), 0.0
    for n in range(rounds):
        turns = ("server", "library") if n % 2 else ("library", "server")
        for turn in turns:
            if turn == "library":
                rates.append(_library(model, clients, seconds / 4))
                continue
            answers, began = window.answers, time.perf_counter()
            _load(server, clients, seconds, window)
            took = time.perf_counter() - began
            own.append((window.answers - answers) / took)
            busy += took
        shares.append(own[-1] / rates[-1])
        memory.append(server.memory())
    after = server.metrics()
    known = [value for value in memory if value is not None]
    return {
        "served": clients,
        "rounds": rounds,
        "seconds": busy,
        "answers": window.answers,
        "errors": dict(Counter(window.errors)),
        "tokens_per_second": _LENGTH * statistics.median(own),
        "library_tokens_per_second": _LENGTH * statistics.median(rates),
        "share": statistics.median(shares),
        "least_share": min(shares),
        "largest_share": max(shares),
        "passes_per_second": (after["unmask_passes_total"] - before["unmask_passes_total"]) / busy,
        "seconds_of_an_answer": statistics.median(window.seconds),
        "memory": known,
        "load": os.getloadavg()[0],
    }


def _body(client: int, number: int, **more: Any) -> bytes:
    own = {"policy": _POLICY}
    body = {"prompt": f"{_WORDS[client % len(_WORDS)]}\n", "max_tokens": _LENGTH, "temperature": 1.0}
    return json.dumps(body | {"seed": 1000 * client + number, "unmask": own} | more).encode()


def _load(server: RunningServer, clients: int, seconds: float, window: _Window | None = None) -> None:
    """Let clients send requests for some seconds, each waiting for its answers."""
    window, end = window or _Window(), time.monotonic() + seconds

    def client(place: int) -> None:
        number = 0
        with closing(server.connect()) as connection:
            while time.monotonic() < end:
                began, number = time.perf_counter(), number + 1
                try:
                    status, _ = ask(connection, "POST", "/v1/completions", _body(place, number))
                    window.add(status, time.perf_counter() - began)
                except (OSError, http.client.HTTPException) as error:
                    window.errors.append(type(error).__name__)
                    connection.close()

    threads = [threading.Thread(target=client, args=(place,)) for place in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _library(model: api.Model, rows: int, seconds: float) -> float:
    """Decode the rows of as many clients in one batch, again and again -> texts/s."""
    prompts = [f"{_WORDS[place % len(_WORDS)]}\n" for place in range(rows)]
    began, batches = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        model.generate(prompts, length=_LENGTH, temperature=1.0, seed=batches, policy=_POLICY)
        batches += 1
    return rows * batches / (time.perf_counter() - began)


def _first_event(server: RunningServer, clients: int, count: int) -> dict[str, Any]:
    """While the other clients keep the server busy: the time to the first tokens of a stream, in passes."""
    window, passes = _Window(), list[float]()
    loading = threading.Thread(target=_load, args=(server, clients - 1, 0.5 * count, window))
    loading.start()
    time.sleep(0.5)
    while loading.is_alive() and len(passes) < count:
        with closing(server.connect()) as connection:
            before, began = server.metrics(), time.perf_counter()
            body = _body(0, len(passes), stream=True)
            connection.request("POST", "/v1/denoise", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            while b'"type": "pass"' not in answer.readline():
                pass
            first = time.perf_counter() - began
            answer.read()
            took, after = time.perf_counter() - began, server.metrics()
        done = after["unmask_passes_total"] - before["unmask_passes_total"]
        passes.append(first * done / took)
        time.sleep(0.05)
    loading.join()
    ordered = sorted(passes)
    return {
        "served": clients,
        "streams": len(ordered),
        "passes_to_first_tokens": statistics.median(ordered),
        "largest": ordered[-1],
        "errors": dict(Counter(window.errors)),
    }


def serving_lines(cell: dict[str, Any]) -> list[str]:
    """A cell -> the lines to print."""
    named = ", ".join(f"{count} {name}" for name, count in cell["errors"].items())
    errors = f"errors ({named})" if named else "no error"
    if "streams" in cell:
        line = f"first tokens of a stream beside {cell['served'] - 1} clients: after "
        line += f"{cell['passes_to_first_tokens']:.2f} passes (largest {cell['largest']:.2f} of {cell['streams']} "
        return [f"{line}streams); {errors}"]
    memory = [value / 2**20 for value in cell["memory"]]
    grown = f", memory {memory[0]:,.0f} MiB after the first round, {memory[-1]:,.0f} after the last" if memory else ""
    line = (
        f"{cell['served']} client{'s' if cell['served'] > 1 else ''}, {cell['seconds']:.0f} s: {cell['answers']} "
        f"answers, {errors}, {cell['tokens_per_second']:,.0f} tokens/s, {cell['share']:.2f} of the library's "
        f"{cell['library_tokens_per_second']:,.0f} in one batch ({cell['least_share']:.2f} to "
        f"{cell['largest_share']:.2f} in {cell['rounds']} rounds), {cell['passes_per_second']:.0f} passes/s, "
        f"{cell['seconds_of_an_answer']:.3f} s an answer{grown}; machine load {cell['load']:.1f}"
    )
    return [line]
