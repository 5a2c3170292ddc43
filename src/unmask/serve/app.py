"""The HTTP interface: OpenAI's requests, /v1/score and /v1/denoise, the page, /health and /metrics."""

__all__ = ["create_app"]

import re
from collections.abc import Callable
from typing import Any, cast

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException as StarletteError

from unmask import __version__
from unmask.errors import UnmaskError
from unmask.limits import failure_of
from unmask.serve import answers, writing
from unmask.serve.bodies import ChatBody, CompletionBody, DenoiseBody, ErrorBody, FimBody, ScoreBody
from unmask.serve.engine import Engine
from unmask.serve.guard import error_body
from unmask.serve.job import Busy
from unmask.serve.server import Gone, Server, status_of
from unmask.serve.settings import ServeSettings
from unmask.trace.page import live_page

_TYPE = re.compile(r"constrained-str|str|int|list\[.*\]")  # of a value, in a place as pydantic says it
_NO_RETRY = {"x-should-retry": "false"}

# What /openapi.json says of answers. Without "4XX" FastAPI would describe a 422, which is rewritten here.
_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request was wrong, or there are too many."},
    "5XX": {"model": ErrorBody, "description": "The request was right, and failed."},
}
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "An answer, or its stream of server-sent events.", "content": {"text/event-stream": {}}}
}


# ---- routes ----------------------------------------------------------------------------------------------------------


def create_app(engine: Engine, settings: ServeSettings) -> FastAPI:
    """An engine and settings -> the application; `serve.guard.Guard` goes around it."""
    server = Server(engine, settings)
    app = FastAPI(title="unmask", version=__version__, docs_url=None, redoc_url=None, responses=_ERRORS)
    _add_errors(app, server)
    _add_facts(app, server)

    @app.post("/v1/completions", responses=_STREAM)
    async def completions(body: CompletionBody, http: HttpRequest) -> Response:  # pyright: ignore[reportUnusedFunction]
        return await writing.complete(server, body, http)

    @app.post("/v1/fim/completions", responses=_STREAM)
    async def fim(body: FimBody, http: HttpRequest) -> Response:  # pyright: ignore[reportUnusedFunction]
        body.suffix, body.seed = body.suffix or "", body.random_seed if body.seed is None else body.seed
        return await writing.complete(server, body, http)

    @app.post("/v1/chat/completions", responses=_STREAM)
    async def chat(body: ChatBody, http: HttpRequest) -> Response:  # pyright: ignore[reportUnusedFunction]
        return await writing.chat(server, body, http)

    @app.post("/v1/score")
    async def score(body: ScoreBody, http: HttpRequest) -> Response:  # pyright: ignore[reportUnusedFunction]
        return await writing.score(server, body, http)

    @app.post("/v1/denoise", responses=_STREAM)
    async def denoise(body: DenoiseBody, http: HttpRequest) -> Response:  # pyright: ignore[reportUnusedFunction]
        return await writing.denoise(server, body, http)

    return app


def _add_facts(app: FastAPI, server: Server) -> None:
    """The page, the models, health and metrics."""

    @app.get("/", include_in_schema=False)
    async def root() -> Response:  # pyright: ignore[reportUnusedFunction]
        # No other page can show this one in a frame; the meta tag of the page cannot say so.
        return HTMLResponse(live_page(), headers={"content-security-policy": "frame-ancestors 'none'"})

    @app.get("/health")
    async def health() -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        return {"status": "ok"}

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:  # pyright: ignore[reportUnusedFunction]
        return PlainTextResponse(_metrics(server), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        cards = [answers.model_card(name, model, server.created) for name, model in server.engine.models.items()]
        return {"object": "list", "data": cards}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return answers.model_card(name, server.engine.models[server.name(name)], server.created)


# ---- errors ----------------------------------------------------------------------------------------------------------


def _add_errors(app: FastAPI, server: Server) -> None:
    """Every error is a sentence in the form of OpenAI's, and a failed run is not sent again by clients."""

    def answer(status: int, message: str, **more: str | None) -> JSONResponse:
        headers = {"retry-after": "1"} if status == 429 else _NO_RETRY
        return JSONResponse(error_body(status, message, **more), status, headers)

    async def known(http: HttpRequest, error: Exception) -> Response:
        return answer(status_of(error), str(error), code="queue_full" if isinstance(error, Busy) else None)

    async def wrong(http: HttpRequest, error: Exception) -> Response:
        first = cast(RequestValidationError, error).errors()[0]
        if first["type"] == "json_invalid":
            return answer(400, f"The body is not JSON: {first.get('ctx', {}).get('error', 'it cannot be read')}.")
        place = ".".join(str(part) for part in first["loc"] if part != "body" and not _TYPE.fullmatch(str(part)))
        message = str(first["msg"]).removeprefix("Value error, ")
        return answer(400, f"{place}: {message}." if place else f"{message}.", param=place or None)

    async def http_error(http: HttpRequest, error: Exception) -> Response:
        status, detail = cast(StarletteError, error).status_code, str(cast(StarletteError, error).detail)
        if status in (404, 405) and detail in ("Not Found", "Method Not Allowed"):
            detail = f"There is no {http.method} {http.url.path[:100]} here; see /openapi.json."
        if detail == "There was an error parsing the body":
            detail = "The body is not JSON in UTF-8, or it is nested too deeply."
        return answer(status, detail, code="model_not_found" if status == 404 and "no model" in detail else None)

    async def unknown(http: HttpRequest, error: Exception) -> Response:
        if isinstance(error, Gone):
            return Response(status_code=499)
        failure = failure_of(error)
        return answer(500, str(failure or f"The server failed with {type(error).__name__}."))

    app.add_exception_handler(UnmaskError, known)
    app.add_exception_handler(RequestValidationError, wrong)
    app.add_exception_handler(StarletteError, http_error)
    app.add_exception_handler(Gone, unknown)
    app.add_exception_handler(Exception, unknown)

    @app.middleware("http")
    async def counted(  # pyright: ignore[reportUnusedFunction]
        http: HttpRequest, call_next: Callable[[HttpRequest], Any]
    ) -> Response:
        response: Response = await call_next(http)
        route = getattr(http.scope.get("route"), "path", "other")
        key = (route, response.status_code)
        server.requests[key] = server.requests.get(key, 0) + 1
        return response


def _metrics(server: Server) -> str:
    """The counts of a server in the text format of Prometheus."""
    engine, counts = server.engine, server.engine.counts
    lines = [
        "# TYPE unmask_rows_waiting gauge",
        f"unmask_rows_waiting {engine.waiting}",
        "# TYPE unmask_rows_active gauge",
        f"unmask_rows_active {engine.active}",
    ]
    totals = {
        "passes": counts.passes,
        "tokens": counts.tokens,
        "rows_finished": counts.finished,
        "rows_failed": counts.failed,
        "rows_aborted": counts.aborted,
    }
    for name, value in totals.items():
        lines += [f"# TYPE unmask_{name}_total counter", f"unmask_{name}_total {value}"]
    lines.append("# TYPE unmask_requests_total counter")
    for (route, status), value in sorted(server.requests.items()):
        lines.append(f'unmask_requests_total{{route="{route}",status="{status}"}} {value}')
    lines.append("# TYPE unmask_seconds_to_first_pass summary")
    ordered = sorted(server.first_passes)
    for share in (0.5, 0.9, 0.99):
        if ordered:
            value = ordered[min(len(ordered) - 1, int(share * len(ordered)))]
            lines.append(f'unmask_seconds_to_first_pass{{quantile="{share}"}} {value:.6f}')
    lines.append(f"unmask_seconds_to_first_pass_sum {server.first_sum:.6f}")
    lines.append(f"unmask_seconds_to_first_pass_count {server.first_count}")
    return "\n".join(lines) + "\n"
