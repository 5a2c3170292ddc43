"""The requests that write or compare texts: a checked body -> its rows in the engine -> an answer or a stream."""

__all__ = ["chat", "complete", "denoise", "score"]

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, TypeVar

from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from unmask.errors import RequestError
from unmask.serve import answers
from unmask.serve.bodies import ChatBody, CompletionBody, DenoiseBody, ResponseFormat, ScoreBody
from unmask.serve.denoise import Denoising
from unmask.serve.request import Drafting, Event, Request, Row, constraint_of, with_hole
from unmask.serve.server import Server
from unmask.text.chat import chat_ids, message_end
from unmask.text.tokenizer import Tokenizer

AnyRequest = TypeVar("AnyRequest", bound=Request)

_MOST_ORDERED = 8192  # tokens of a choice times orders, each a row of a pass: other rows wait for it
_CHAT_TOKENS, _TOKENS = 128, 16  # of a request that says no number


async def _request(
    request_class: type[AnyRequest],
    server: Server,
    name: str,
    body: CompletionBody | ChatBody | DenoiseBody,
    *,
    alternatives: int,
    ends: bool = True,
    form: ResponseFormat | None = None,
) -> AnyRequest:
    """A body -> its request, without rows. Raises RequestError for options, a schema or a pattern that cannot be."""
    return request_class(
        server.engine,
        server.settings,
        name,
        body.unmask,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
        alternatives=alternatives,
        ends=ends,
        constraint=await constraint_of(server.engine.models[name], body.unmask, form, server.compiling()),
    )


async def _answer(
    server: Server,
    request: Request,
    http: HttpRequest,
    chunks: AsyncIterator[dict[str, Any]] | None,
    whole: Callable[[], dict[str, Any]],
) -> Response:
    """Send the rows of a request -> the stream of `chunks`, or `whole` once all rows are finished."""
    request.send(stream=chunks is not None)
    if chunks is not None:
        return server.stream(request, chunks)
    await server.gathered(request, http, request.events())
    return JSONResponse(whole())


async def complete(server: Server, body: CompletionBody, http: HttpRequest) -> Response:
    """A prompt, or several, or a prompt and a suffix -> continuations, or what is between."""
    name = server.name(body.model)
    tokenizer, n = server.engine.models[name].tokenizer, body.n or 1
    length = server.length(body.unmask.length, body.max_tokens, default=_TOKENS)
    prompts = body.prompts
    server.check_rows(len(prompts) * n)
    request_class = Drafting if body.diffusing else Request
    options: dict[str, Any] = {"ends": body.suffix is None, "form": body.response_format}
    request = await _request(request_class, server, name, body, alternatives=body.logprobs or 0, **options)
    prompt_tokens = _add_rows(server, request, body, length)
    begun = [prompts[row // n] if body.echo else "" for row in range(len(request.rows))]
    shown = [text if isinstance(text, str) else tokenizer.text(text) for text in begun]
    identity = f"cmpl-{uuid.uuid4().hex}"

    def whole() -> dict[str, Any]:
        choices = [
            {
                "index": row.index,
                "text": shown[row.index] + row.text.text,
                "logprobs": _log_probs(row, tokenizer, body).up_to(len(row.text.tokens)),
                "finish_reason": row.finish,
            }
            for row in request.rows
        ]
        return answers.completion_answer(request, identity, choices, prompt_tokens)

    chunks = _completion_chunks(request, identity, body, shown, prompt_tokens) if body.stream else None
    return await _answer(server, request, http, chunks, whole)


def _add_rows(server: Server, request: Request, body: CompletionBody, length: int) -> int:
    """Add the rows of a completion to its request -> the tokens of its prompts, each counted once."""
    model, n, facts = request.model, body.n or 1, body.logprobs is not None
    if body.suffix is None:
        ids, typed = server.ids_of(model, body.prompts)
        repeated = [row for row in ids for _ in range(n)], [row for row in typed for _ in range(n)]
        request.continue_prompts(*repeated, length, stops=body.stops, facts=facts)
        return sum(map(len, ids))
    if len(body.prompts) != 1 or not isinstance(prompt := body.prompts[0], str):
        raise RequestError("A suffix goes with one prompt, a text; send a request for each.")
    request.fill_between(with_hole(prompt, length, body.suffix), n, stops=body.stops, facts=facts)
    return len(model.tokenizer.encode(prompt + body.suffix))


def _log_probs(row: Row, tokenizer: Tokenizer, body: CompletionBody) -> answers.LogProbs:
    return answers.LogProbs(row, tokenizer, body.logprobs, echo=bool(body.echo))


async def _completion_chunks(
    request: Request, identity: str, body: CompletionBody, shown: list[str], prompt_tokens: int
) -> AsyncIterator[dict[str, Any]]:
    """The events of the rows -> chunks."""
    parts = [_log_probs(row, request.model.tokenizer, body) for row in request.rows]
    for row, text in zip(request.rows, shown, strict=True):
        if text and not body.diffusing:
            yield answers.completion_chunk(request, identity, row, text, parts[row.index].up_to(0))
    async for event in request.events():
        row, over, text, logprobs = event.row, event.what == "done", event.text, None
        if body.diffusing:
            text = shown[row.index] + _draft(event)
        if over or not body.diffusing:
            logprobs = parts[row.index].up_to(event.tokens)
        yield answers.completion_chunk(request, identity, row, text, logprobs, over=over) | _mark(body)
    if body.stream_options and body.stream_options.include_usage:
        yield answers.completion_chunk(request, identity, None, "") | answers.totals(request, prompt_tokens)


def _draft(event: Event) -> str:
    """An event of a `Drafting` -> the text as it stands; at the end the text of the answer."""
    return event.row.text.text if event.what == "done" else event.data


def _mark(body: CompletionBody | ChatBody) -> dict[str, bool]:
    """What a chunk has whose text takes the place of the last one."""
    return {"diffusing": True} if body.diffusing else {}


async def chat(server: Server, body: ChatBody, http: HttpRequest) -> Response:
    """A conversation -> the next message."""
    name = server.name(body.model)
    model, n = server.engine.models[name], body.n or 1
    template = model.defaults.chat
    if template is None:
        raise RequestError(f"The model '{name}' has no template of conversations; send its prompt to /v1/completions.")
    asked = (body.unmask.length, body.max_completion_tokens, body.max_tokens)
    length = server.length(*asked, default=min(_CHAT_TOKENS, model.window))
    server.check_rows(n)
    top = (body.top_logprobs or 0) if body.logprobs else None
    roles = {"developer": "system"}
    messages = [(roles.get(message.role, message.role), message.text) for message in body.messages]
    ids = chat_ids(model.tokenizer, template, messages)
    request_class = Drafting if body.diffusing else Request
    request = await _request(request_class, server, name, body, alternatives=top or 0, form=body.response_format)
    end = message_end(model.tokenizer, template)
    ends = frozenset() if end is None else frozenset({end})
    request.continue_prompts([ids] * n, [{}] * n, length, stops=body.stops, facts=top is not None, ends=ends)
    identity = f"chatcmpl-{uuid.uuid4().hex}"
    chunks = _chat_chunks(request, identity, body, top, len(ids)) if body.stream else None
    whole = partial(answers.chat_answer, request, identity, len(ids), top, model.tokenizer)
    return await _answer(server, request, http, chunks, whole)


async def _chat_chunks(
    request: Request, identity: str, body: ChatBody, top: int | None, prompt_tokens: int
) -> AsyncIterator[dict[str, Any]]:
    """The events of the rows -> chunks."""
    sent = [0] * len(request.rows)
    for row in request.rows:
        yield answers.chat_chunk(request, identity, row, {"role": "assistant", "content": ""})
    async for event in request.events():
        row, over, logprobs = event.row, event.what == "done", None
        if top is not None and (over or not body.diffusing):
            begin, end = sent[row.index], event.tokens
            logprobs = {"content": answers.chat_logprobs(row, request.model.tokenizer, top, begin, end)}
            sent[row.index] = max(begin, end)
        text = _draft(event) if body.diffusing else event.text
        if text or logprobs:
            yield answers.chat_chunk(request, identity, row, {"content": text}, logprobs) | _mark(body)
        if over:
            yield answers.chat_chunk(request, identity, row, {}, over=True)
    if body.stream_options and body.stream_options.include_usage:
        yield answers.chat_chunk(request, identity, None, {}) | answers.totals(request, prompt_tokens)


async def score(server: Server, body: ScoreBody, http: HttpRequest) -> Response:
    """A template with [?] and choices -> how probable each choice is there."""
    name = server.name(body.model)
    model = server.engine.models[name]
    began = time.monotonic()
    longest = max(map(len, model.tokenizer.encode_batch(body.choices)))
    if longest * body.orders > _MOST_ORDERED:
        raise RequestError(
            f"A choice has {longest} tokens, and {body.orders} orders of them are too many to compare here; give at "
            f"most {max(2, _MOST_ORDERED // longest)} orders."
        )
    options: dict[str, Any] = {"orders": body.orders, "seed": body.seed or 0, "batch": 32}
    work = server.in_steps(model.filler.scoring(body.template, body.choices, **options), began)
    choices = await server.unless_gone(asyncio.ensure_future(work), http)
    rows = [
        {
            "text": choice.text,
            "probability": choice.probability,
            "nats": choice.nats,
            "stderr": choice.stderr,
            "tokens": choice.tokens,
            "exact": choice.exact,
        }
        for choice in choices
    ]
    own = {"seconds": round(time.monotonic() - began, 4), "seed": body.seed or 0}
    return JSONResponse({"object": "score", "model": name, "choices": rows, "unmask": own})


async def denoise(server: Server, body: DenoiseBody, http: HttpRequest) -> Response:
    """A canvas -> each change of it, in server-sent events or in one answer."""
    name = server.name(body.model)
    model = server.engine.models[name]
    denoising = await _request(
        Denoising, server, name, body, alternatives=body.alternatives, ends=body.prompt is not None
    )
    denoising.provisional = body.provisional
    length = server.length(body.unmask.length, body.max_tokens, default=_TOKENS)
    if body.template is not None:
        denoising.fill_template(body.template, 1)
    elif body.tokens is not None:
        denoising.go_on(body.tokens)
    else:
        ids, typed = server.ids_of(model, [body.prompt or ""])
        denoising.continue_window(ids[0], typed[0], length)
    server.check_rows(len(denoising.rows))
    denoising.send(stream=True)
    if body.stream:
        return server.stream(denoising, denoising.chunks())
    chunks = await server.gathered(denoising, http, denoising.chunks())
    return JSONResponse({"object": "denoise", "model": name, "events": chunks})
