"""Models and settings -> a running server: the engine in its thread, uvicorn in the main one."""

__all__ = ["http_server", "serve"]

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from unmask.api import Model
from unmask.errors import ConfigError, Interrupted
from unmask.serve.engine import Engine
from unmask.serve.settings import ServeSettings

if TYPE_CHECKING:
    import uvicorn

_ANSWER_SECONDS = 5  # for the answers of requests that the end of the server interrupts


def serve(models: Mapping[str, Model], settings: ServeSettings, note: Callable[[str], None]) -> NoReturn:
    """Serve until SIGINT, SIGTERM or SIGHUP, then finish what runs within `settings.patience`.

    Raises Interrupted or KeyboardInterrupt at the end, and ConfigError where the address is taken or cannot be, and
    without the libraries of unmask[serve].
    """
    engine = Engine(models, queue=settings.queue, positions=settings.positions)
    server = http_server(engine, settings)
    listening = _listen(settings)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    engine.start()
    note(f"Serving {', '.join(models)} at http://{host}:{settings.port}/ (the page) and /v1 (OpenAI's clients).")
    number = int(signal.SIGINT)

    def hang_up(signaled: int, frame: object) -> None:
        nonlocal number
        number, server.should_exit = signaled, True

    try:
        with _on_hangup(hang_up):
            server.run(sockets=[listening])
    finally:
        engine.stop()
    raise Interrupted(number=number)  # for SIGINT and SIGTERM uvicorn has raised them again, unless they are ignored


def http_server(engine: Engine, settings: ServeSettings) -> "uvicorn.Server":
    """An engine and settings -> the HTTP server, not yet listening. Raises ConfigError without unmask[serve]."""
    try:
        import uvicorn

        from unmask.serve.app import create_app
        from unmask.serve.guard import Guard
        from unmask.serve.protocol import Protocol
    except ImportError as error:
        raise ConfigError(f"unmask serve needs {error.name}, which is missing: pip install 'unmask[serve]'.") from error
    config = uvicorn.Config(
        Guard(create_app(engine, settings), settings, log=True),
        log_level="warning",
        access_log=False,
        http=Protocol,
        ws="none",
        lifespan="off",
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(settings.patience) + _ANSWER_SECONDS,
        h11_max_incomplete_event_size=65536,
    )

    class Server(uvicorn.Server):
        """The engine ends with it: running requests have `patience`, and then an error of ours."""

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            ends = asyncio.ensure_future(asyncio.to_thread(engine.stop, settings.patience))
            await super().shutdown(sockets)
            if self.force_exit:
                await asyncio.to_thread(engine.stop, 0.0)
            await ends

    return Server(config)


@contextmanager
def _on_hangup(handler: Callable[[int, object], None]) -> Generator[None]:
    """Context in which SIGHUP calls `handler`, unless it is ignored, as under nohup: uvicorn does not handle it, and an
    exception in the midst of its loop does not end the process."""
    number = getattr(signal, "SIGHUP", None)
    main = threading.current_thread() is threading.main_thread()
    if number is None or not main or (former := signal.getsignal(number)) is signal.SIG_IGN:
        yield
        return
    signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, former)


def _listen(settings: ServeSettings) -> socket.socket:
    """Settings -> the socket that listens. Raises ConfigError where the address is taken or cannot be."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"The server cannot listen at {settings.host}:{settings.port} ({error.strerror}); "
            "choose another --port or --host."
        ) from None
    return listening
