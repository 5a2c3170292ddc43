"""For tests of `unmask serve`: the application without a socket, and over a real one."""

import asyncio
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from socket import socket
from typing import Any

from starlette.testclient import TestClient

from unmask.serve.app import create_app
from unmask.serve.engine import Engine
from unmask.serve.guard import Guard
from unmask.serve.main import http_server
from unmask.serve.settings import ServeSettings


def client_of(engine: Engine, **settings: Any) -> TestClient:
    """An engine and settings -> a client that calls the application."""
    chosen = ServeSettings(**settings)
    guard: Any = Guard(create_app(engine, chosen), chosen)
    return TestClient(guard, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)


def post(client: TestClient, path: str, **body: Any) -> Any:
    """The answer of a request that has to succeed."""
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def events(client: TestClient, path: str, **body: Any) -> list[Any]:
    """The events of a stream, whose last is [DONE]."""
    with client.stream("POST", path, json=body | {"stream": True}) as response:
        assert response.status_code == 200, response.read()
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@contextmanager
def over_http(engine: Engine, **settings: Any) -> Generator[str]:
    """Context with an HTTP server in a thread, on a free port of this machine -> its address."""
    with socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        port = listening.getsockname()[1]
        server = http_server(engine, ServeSettings(port=port, patience=5, **settings))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join()


def scope_of(path: str) -> dict[str, Any]:
    """The path of a POST request -> what an ASGI server says of it."""
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1:8000"), (b"content-type", b"application/json")],
        "http_version": "1.1",
        "scheme": "http",
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 8000),
    }


def read_late(engine: Engine, path: str, body: dict[str, Any]) -> list[Any]:
    """A request, of which nothing is read before all of its passes are over -> the events of its stream.

    The engine is one whose turns nobody takes.
    """
    settings = ServeSettings()
    app: Any = Guard(create_app(engine, settings), settings)
    messages, sent = [{"type": "http.request", "body": json.dumps(body | {"stream": True}).encode()}], list[bytes]()

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await asyncio.sleep(600)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    async def read() -> None:
        answering = asyncio.ensure_future(app(scope_of(path), receive, send))
        while not engine.waiting:
            await asyncio.sleep(0)
        while engine.waiting or engine.active:
            engine.turn()
        await answering

    asyncio.run(read())
    lines = [line for line in b"".join(sent).decode().split("\n\n") if line.startswith("data: {")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]
