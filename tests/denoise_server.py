"""A small server that answers as `unmask serve` does at /, /v1/models and /v1/denoise, for tests of the page.

It has no model: the token at a position is a function of seed and position, and the policy says how many are written
in a pass. `gate`, if it is set, is acquired before each pass, so that a test decides when a pass happens.
"""

import json
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from unmask.trace.events import Event, Header, Row, records
from unmask.trace.page import live_page

EVIL = "</script><img src=x onerror=alert(1)>&amp;"
WORDS = ("", " a", " river", " of", " extraordinarily", " light", "\n", " I", " wide", ",", " unquestionable", EVIL)
MASK = 99


class Server(ThreadingHTTPServer):
    """What a test sets and reads."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.key: str | None = None
        self.gate: threading.Semaphore | None = None
        self.failure: str | None = None
        """Sent in place of the second pass."""
        self.asked: list[dict[str, Any]] = []
        """The bodies of /v1/denoise."""
        self.words: dict[str, int] = {}
        """The ids of the words of prompts and templates."""
        self.gone = threading.Event()
        """Set when a client went away in mid-stream."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving() -> Generator[Server]:
    """A server in a thread, which is stopped at the end."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def start_of(server: Server, request: dict[str, Any]) -> list[int]:
    """A request -> the token ids of its canvas, MASK where something is to be written."""
    if "tokens" in request:
        return [MASK if token is None else token for token in request["tokens"]]
    parts = re.findall(r"\[\d+\]| ?[^ \[]+", request.get("template", request.get("prompt", "")))
    tokens: list[int] = []
    for part in parts:
        if part.startswith("[") and "template" in request:
            tokens += [MASK] * int(part[1:-1])
        else:
            tokens.append(server.words.setdefault(part, 100 + len(server.words)))
    return tokens + [MASK] * request.get("max_tokens", 0)


def size_of(request: dict[str, Any]) -> int:
    """A request -> how many tokens a pass of it writes."""
    if request["unmask"]["policy"] == "left-to-right":
        return 1
    dial = request["unmask"]["dial"]
    return 3 if dial is None else 1 + round(4 * dial)


def events_of(start: list[int], request: dict[str, Any]) -> list[list[Event]]:
    """A canvas and a request -> the events of each pass; the policy `restless` hides one token again."""
    seed, size, policy = request["seed"], size_of(request), request["unmask"]["policy"]
    todo = [at for at, token in enumerate(start) if token == MASK]
    if policy != "left-to-right":
        todo.sort(key=lambda at: (at * 7919 + seed * 104729) % 101)

    def write(at: int, step: int, change: Any = "committed") -> Event:
        token = 1 + (seed + 5 * at) % (len(WORDS) - 1)
        others = ((token, 0.625), (1 + token % (len(WORDS) - 1), 0.25))
        return Event(step, 0, at, token, 0.625, change, 0, step, others[: request["alternatives"]])

    passes = [[write(at, n // size + 1) for at in todo[n : n + size]] for n in range(0, len(todo), size)]
    if policy == "restless" and len(passes) > 1:
        first = passes[0][0]
        step = len(passes) + 1
        passes.append([Event(step, 0, first.position, first.token, 0.5, "remasked", 0, step)])
        passes.append([write(first.position, step + 1, "rescued")])
    return passes


class _Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class has this name)
        """Print nothing."""

    def do_GET(self) -> None:
        if self.path == "/":
            self._answer(200, "text/html; charset=utf-8", live_page().encode())
        elif self.path == "/v1/models" and self._allowed():
            about = {"window": 128, "dial": True, "chat": False, "policies": ["confidence", "left-to-right", "random"]}
            plain = about | {"dial": False}
            models = [{"id": name, "unmask": each} for name, each in (("tiny", about), ("plain", plain))]
            self._json(200, {"object": "list", "data": models})
        elif self.path != "/v1/models":
            self._json(404, {"error": {"message": f"There is no {self.path} here."}})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._allowed():
            return
        self.server.asked.append(request)
        if request["unmask"]["policy"] == "none":
            self._json(400, {"error": {"message": "There is no policy 'none'; unmask list policies has all."}})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            self._stream(request)
        except OSError:
            self.server.gone.set()

    def _stream(self, request: dict[str, Any]) -> None:
        start, names = start_of(self.server, request), {number: word for word, number in self.server.words.items()}
        known = {token: names.get(token) or WORDS[token] for token in {*start} - {MASK}}
        policy = request["unmask"]["policy"] or "confidence"
        header = Header(MASK, (Row(tuple(start), 0),), known, policy=policy, seed=request["seed"], checkpoint="tiny")
        self._send({"type": "start", "header": asdict(header)})
        tokens, passes = list(start), events_of(start, request)
        for number, events in enumerate(passes, start=1):
            while self.server.gate is not None and not self.server.gate.acquire(timeout=0.1):
                self.wfile.write(b": ping\n\n")  # fails where the client went away
            if number == 2 and self.server.failure is not None:
                self._send({"error": {"message": self.server.failure}})
                return
            for event in events:
                tokens[event.position] = MASK if event.change == "remasked" else event.token
            met = {token for event in events for token in (event.token, *(each for each, _ in event.alternatives))}
            pieces = {token: WORDS[token] for token in sorted(met) if token < MASK and token not in known}
            known |= pieces
            message: dict[str, Any] = {
                "type": "pass",
                "row": 0,
                "passes": number,
                "pieces": pieces,
                "raw": {},
                "events": records(events),
            }
            if request["provisional"]:
                message["provisional"] = [[at, 2, 0.5] for at, token in enumerate(tokens) if token == MASK]
                message["pieces"] = {2: WORDS[2]} | pieces
            self._send(message)
        text = "".join(known[token] for token in tokens)
        row = {"text": text, "passes": len(passes), "end": len(start)}
        self._send({"type": "done", "rows": [row], "best": 0, "unmask": {"seconds": 0.25}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _send(self, message: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(message)}\n\n".encode())

    def _allowed(self) -> bool:
        """Whether the request has the key; answers it where it has not."""
        if self.server.key in (None, self.headers.get("Authorization", "").removeprefix("Bearer ")):
            return True
        self._json(401, {"error": {"message": "The key is missing or wrong."}})
        return False

    def _json(self, status: int, value: dict[str, Any]) -> None:
        self._answer(status, "application/json", json.dumps(value).encode())

    def _answer(self, status: int, content: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
