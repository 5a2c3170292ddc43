"""What all requests share: the models by name, limits, streams, clients that go, and what is counted."""

__all__ = ["Gone", "Server", "status_of"]

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

from fastapi import HTTPException
from fastapi import Request as HttpRequest
from fastapi.responses import StreamingResponse

from unmask.api import Model
from unmask.errors import RequestError, RunError, UnmaskError
from unmask.serve.engine import Engine
from unmask.serve.guard import error_body
from unmask.serve.job import Busy, Late
from unmask.serve.request import Request
from unmask.serve.settings import ServeSettings

Result = TypeVar("Result")
_COMPILES = 8  # patterns that may wait to be compiled, or are
_PING = 15.0  # seconds without an event, after which a comment keeps a stream alive


class Gone(Exception):
    """The client has gone, so that nobody reads the answer."""


class Server:
    """The engine, its settings, and what is counted for /metrics."""

    def __init__(self, engine: Engine, settings: ServeSettings) -> None:
        self.engine, self.settings = engine, settings
        self.created = int(time.time())
        self.requests: dict[tuple[str, int], int] = {}
        self.first_passes: list[float] = []
        self.first_count, self.first_sum = 0, 0.0
        self._compiling, self._turn = 0, asyncio.Semaphore(1)

    # ---- what requests share --------------------------------------------------------------------------------------

    def name(self, asked: str | None) -> str:
        """The model of a request, by default the first one."""
        names = list(self.engine.models)
        if asked is not None and asked not in names:
            raise HTTPException(404, f"There is no model '{asked[:200]}' here; give one of {', '.join(names)}.")
        return names[0] if asked is None else asked

    def length(self, *asked: int | None, default: int) -> int:
        """The number of tokens to write."""
        length = next((number for number in asked if number is not None), default)
        if length > self.settings.max_tokens:
            raise RequestError(f"max_tokens is {length}; this server writes at most {self.settings.max_tokens}.")
        return length

    def check_rows(self, count: int) -> None:
        """Raise RequestError for too many texts."""
        if count > self.settings.max_rows:
            raise RequestError(
                f"The request asks for {count} texts, its prompts times n; this server writes at most "
                f"{self.settings.max_rows} for a request."
            )

    def ids_of(self, model: Model, prompts: Sequence[str | list[int]]) -> tuple[list[list[int]], list[dict[int, str]]]:
        """Prompts -> their ids, and what is shown as it was typed. Raises RequestError for ids that cannot be."""
        ids, typed = list[list[int]](), list[dict[int, str]]()
        special = set(model.tokenizer.special_ids) - {model.tokenizer.eos_id, *model.defaults.first(model.network)}
        for prompt in prompts:
            if isinstance(prompt, str):
                ids += model.defaults.prompt_ids(model.tokenizer, model.network, [prompt], chat=False)
                typed.append(model.tokenizer.typed(prompt, ids[-1]))
                continue
            wrong = [token for token in prompt if not 0 <= token < model.tokenizer.vocab_size or token in special]
            if wrong:
                raise RequestError(
                    f"The prompt has the id {wrong[0]}; give ids from 0 to {model.tokenizer.vocab_size - 1} "
                    "that are not MASK or padding."
                )
            ids.append(list(prompt) or model.defaults.first(model.network))
            typed.append({})
        return ids, typed

    async def gathered(self, request: Request, http: HttpRequest, items: AsyncIterator[Result]) -> list[Result]:
        """What a request brings, to the end -> all of it. Raises the first error, and Gone if the client goes before;
        closes the request in any case."""

        async def all_items() -> list[Result]:
            return [item async for item in items]

        try:
            return await self.unless_gone(asyncio.ensure_future(all_items()), http)
        finally:
            request.close()
            self.note_first(request)

    async def unless_gone(self, work: "asyncio.Future[Result]", http: HttpRequest) -> Result:
        """Wait for work. Raises Gone if the client goes before."""
        watch = asyncio.ensure_future(_left(http))
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise Gone
            return work.result()
        finally:
            for task in (work, watch):
                task.cancel()

    @asynccontextmanager
    async def compiling(self) -> AsyncGenerator[None]:
        """Context in which no other request compiles a pattern. Raises Busy where too many wait for that."""
        if self._compiling >= _COMPILES:
            raise Busy(f"{self._compiling} patterns are waiting to be compiled; send the request again later.")
        self._compiling += 1
        try:
            async with self._turn:
                yield
        finally:
            self._compiling -= 1

    async def in_steps(self, steps: Generator[None, None, Result], began: float) -> Result:
        """Work of several steps, between which rows have passes -> its result. Raises Late after `settings.seconds`."""

        def step() -> tuple[Result] | None:
            try:
                next(steps)
            except StopIteration as end:
                return (end.value,)
            return None

        while True:
            if time.monotonic() - began > self.settings.seconds:
                raise Late("The time of the request was over before its choices were compared.")
            future = self.engine.call(step)
            try:
                if done := await asyncio.wrap_future(future):
                    return done[0]
            finally:
                future.cancel()

    def note_first(self, request: Request) -> None:
        """Count the seconds to the first pass."""
        if request.first is not None:
            self.first_count += 1
            self.first_sum += request.first
            self.first_passes.append(request.first)
            del self.first_passes[:-1000]

    def stream(self, request: Request, chunks: AsyncIterator[dict[str, Any]]) -> StreamingResponse:
        """Chunks -> the answer of a stream; what goes wrong on the way is its last event but one."""

        async def lines() -> AsyncIterator[str]:
            try:
                async for chunk in _with_pings(chunks):
                    yield ": ping\n\n" if chunk is None else f"data: {json.dumps(chunk)}\n\n"
            except UnmaskError as error:
                yield f"data: {json.dumps(error_body(status_of(error), str(error)))}\n\n"
            finally:
                request.close()
                self.note_first(request)
            yield "data: [DONE]\n\n"

        headers = {"x-accel-buffering": "no"}
        return StreamingResponse(lines(), media_type="text/event-stream", headers=headers)


def status_of(error: BaseException) -> int:
    """An error -> the status of its answer."""
    if isinstance(error, Busy):
        return 429
    if isinstance(error, Late):
        return 504
    return 500 if isinstance(error, RunError) else 400


async def _left(http: HttpRequest) -> None:
    """Wait until the client goes."""
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _with_pings(chunks: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any] | None]:
    """Chunks -> the same, and None where nothing came for a while."""
    while True:
        pending: asyncio.Future[dict[str, Any]] = asyncio.ensure_future(cast(Any, anext(chunks)))
        try:
            while not (await asyncio.wait({pending}, timeout=_PING))[0]:
                yield None
            try:
                chunk = pending.result()
            except StopAsyncIteration:
                return
        finally:
            pending.cancel()
        yield chunk
