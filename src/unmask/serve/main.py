"""Models and settings -> a running server: the engine in its thread, uvicorn in the main one."""

__all__ = ["serve"]

import socket
from collections.abc import Callable, Mapping

from unmask.api import Model
from unmask.errors import ConfigError
from unmask.serve.engine import Engine
from unmask.serve.settings import ServeSettings


def serve(models: Mapping[str, Model], settings: ServeSettings, note: Callable[[str], None]) -> int:
    """Serve until SIGINT or SIGTERM, then finish what runs within `settings.patience` -> exit code 0.

    Raises ConfigError where the address is taken or cannot be, and without the libraries of unmask[serve].
    """
    try:
        import uvicorn

        from unmask.serve.app import create_app
        from unmask.serve.guard import Guard
    except ImportError as error:
        raise ConfigError(f"unmask serve needs {error.name}, which is missing: pip install 'unmask[serve]'.") from error
    listening = _listen(settings)
    engine = Engine(models, queue=settings.queue, positions=settings.positions)
    application = Guard(create_app(engine, settings), settings, log=True)
    config = uvicorn.Config(
        application,
        log_level="warning",
        access_log=False,
        http="h11",
        ws="none",
        lifespan="off",
        server_header=False,
        limit_concurrency=4 * settings.queue,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(settings.patience),
        h11_max_incomplete_event_size=65536,
    )
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    engine.start()
    note(f"Serving {', '.join(models)} at http://{host}:{settings.port}/ (the page) and /v1 (OpenAI's clients).")
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        engine.stop(settings.patience)
    return 0


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
