"""What every request passes before it is read: its Host and Origin, its key, and the size and pace of its body.

A page of another site can make a browser send requests to this machine, also under a name of its own that it lets point
here (DNS rebinding). So the Host has to be one of the server's own, exactly, and an Origin, if there is one, too.
"""

__all__ = ["Guard", "error_body", "hosts_of"]

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from unmask.output import note
from unmask.serve.settings import ServeSettings

_Scope = MutableMapping[str, Any]
_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]

_HEADERS = 32_768  # bytes of all headers
_BODY_SECONDS = 30.0  # for a body to arrive
_OPEN = ("/", "/health")  # served without a key: the page asks for it
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
}


def error_body(status: int, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """A status and a sentence -> the body of an error, as OpenAI's clients read it; half pairs of UTF-16 are "?"."""
    message = message.encode("utf-8", "replace").decode()
    error = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": error, "param": param, "code": code}}


def hosts_of(settings: ServeSettings) -> frozenset[str]:
    """The values of Host under which the server answers: NAME:PORT of its own address, and those that are allowed."""
    own = {"127.0.0.1", "localhost", "[::1]", f"[{settings.host}]" if ":" in settings.host else settings.host}
    hosts = {f"{name}:{settings.port}" for name in own} | {name.lower() for name in settings.allow_host}
    return frozenset(hosts | (own if settings.port == 80 else set()))


class _Refused(Exception):
    """A request that is not let through: its status, and a sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Guard:
    """An ASGI application around another one."""

    def __init__(self, app: App, settings: ServeSettings, *, log: bool = False) -> None:
        """`log`: write a line for each request, without its text."""
        self.app, self.settings, self.log = app, settings, log
        self.hosts = hosts_of(settings)
        self.origins = {f"http://{host}" for host in self.hosts} | {f"https://{host}" for host in self.hosts}
        self.foreign = {origin.rstrip("/").lower() for origin in settings.allow_origin}
        self.most, self.running = 4 * settings.queue, 0  # requests at once

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 0
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get("origin", "").lower()

        async def sending(message: _Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                asked = headers.get("access-control-request-headers", "")
                message["headers"] = [*message.get("headers", []), *self._headers(origin, asked)]
            await send(message)

        self.running += 1
        try:
            self._check(scope, headers, origin)
            if scope["method"] == "OPTIONS" and origin in self.foreign:
                await _answer(sending, 204, None)
            else:
                body = await self._read(headers, receive)
                await self.app(scope, _replayed(body, receive), sending)
        except _Refused as error:
            await _answer(sending, error.status, str(error))
        finally:
            self.running -= 1
            if self.log:
                note(f"{scope['method']} {scope['path'][:100]!r} {status} {(time.monotonic() - began) * 1000:.0f} ms")

    def _check(self, scope: _Scope, headers: dict[str, str], origin: str) -> None:
        """Raise _Refused for a request too many, one of a wrong Host or Origin, or without the key."""
        if self.running > self.most and scope["path"] != "/health":
            raise _Refused(429, f"The server answers {self.most:,} requests at once; send this one again later.")
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if size > _HEADERS:
            raise _Refused(431, f"The request has {size:,} bytes of headers; send at most {_HEADERS:,}.")
        host = headers.get("host", "").lower()
        if host not in self.hosts:
            raise _Refused(403, f"The server does not answer under the name '{host[:100]}'; --allow-host lets it.")
        if origin and origin not in self.origins | self.foreign:
            raise _Refused(403, f"Pages of {origin[:100]} may not send requests here; --allow-origin lets them.")
        key = self.settings.api_key
        if key is None or scope["path"] in _OPEN or scope["method"] == "OPTIONS":
            return
        scheme, _, sent = headers.get("authorization", "").partition(" ")
        sent = sent if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not secrets.compare_digest(sent.strip().encode(), key.encode()):
            raise _Refused(401, "The request carries no key, or a wrong one; send it as Authorization: Bearer KEY.")

    def _headers(self, origin: str, asked: str) -> list[tuple[bytes, bytes]]:
        """Headers of every answer. A page that is let through may send all the headers that it asks for."""
        headers = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
        if origin in self.foreign:
            headers += [
                (b"access-control-allow-origin", origin.encode("latin-1")),
                (b"access-control-allow-headers", asked.encode("latin-1") or b"authorization, content-type"),
                (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
                (b"vary", b"origin"),
            ]
        return headers

    async def _read(self, headers: dict[str, str], receive: _Receive) -> bytes:
        """The body of a request. Raises _Refused where it is too large or too slow, or the client has gone."""
        most, parts, size = self.settings.max_body, list[bytes](), 0
        end = time.monotonic() + _BODY_SECONDS
        large = f"The body of the request has more than {most:,} bytes, and at most so many are read; send less."
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > most:
            raise _Refused(413, large)
        while True:
            try:
                message = await asyncio.wait_for(receive(), max(0.0, end - time.monotonic()))
            except TimeoutError:
                raise _Refused(408, f"The body did not arrive within {_BODY_SECONDS:.0f} seconds.") from None
            if message["type"] != "http.request":
                raise _Refused(400, "The client has gone.")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most:
                raise _Refused(413, large)
            if not message.get("more_body", False):
                return b"".join(parts)


def _replayed(body: bytes, receive: _Receive) -> _Receive:
    """A body that was read -> what gives it to the application; later messages are those of the server."""
    sent = False

    async def receiving() -> _Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receiving


async def _answer(send: _Send, status: int, message: str | None) -> None:
    """Send an error, or nothing."""
    body = b"" if message is None else json.dumps(error_body(status, message)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    # a client sends 408 and 5xx again otherwise
    headers += [(b"retry-after", b"1")] if status == 429 else [(b"x-should-retry", b"false")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
