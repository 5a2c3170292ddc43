"""Rows of a request -> the answers and chunks that OpenAI's clients read, with our own field `unmask`."""

__all__ = [
    "chat_answer",
    "chat_chunk",
    "chat_logprobs",
    "completion_answer",
    "completion_chunk",
    "completion_logprobs",
    "model_card",
    "own_facts",
    "totals",
]

import math
import time
from collections.abc import Sequence
from typing import Any

from unmask.api import Model
from unmask.policies.registry import names
from unmask.serve.request import Request, Row
from unmask.serve.text import TokenFact
from unmask.text.tokenizer import Tokenizer

_LEAST = -9999.0  # in place of minus infinity, which JSON does not have


def model_card(name: str, model: Model, created: int) -> dict[str, Any]:
    """A model -> its entry in the list of models."""
    policy = model.decoder().policy
    own = {
        "window": model.window,
        "dial": hasattr(policy, "dial"),
        "chat": model.defaults.chat is not None,
        "policy": model.defaults.policy,
        "policies": list(names()),
    }
    return {"id": name, "object": "model", "created": created, "owned_by": "unmask", "unmask": own}


def _usage(request: Request, prompt_tokens: int) -> dict[str, int]:
    """The tokens of a request: of its prompts, each once, and written ones."""
    written = sum(len(row.text.tokens) for row in request.rows)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": written,
        "total_tokens": prompt_tokens + written,
    }


def totals(request: Request, prompt_tokens: int) -> dict[str, Any]:
    """What an answer and the last chunk of a stream have of the whole request."""
    return {"usage": _usage(request, prompt_tokens), "unmask": own_facts(request)}


def own_facts(request: Request) -> dict[str, Any]:
    """How a request was decoded: its options, its seed, passes of each row, seconds."""
    return {
        "policy": request.options.policy or request.model.defaults.policy,
        "seed": request.seed,
        "passes": [row.text.passes for row in request.rows],
        "seconds": round(time.monotonic() - request.began, 4),
        "seconds_to_first_pass": None if request.first is None else round(request.first, 4),
        **{
            name: value
            for name, value in request.options.model_dump().items()
            if value is not None and name != "policy"
        },
    }


# ---- completions -----------------------------------------------------------------------------------------------------


def completion_answer(request: Request, identity: str, choices: list[dict[str, Any]], prompt: int) -> dict[str, Any]:
    """The finished rows -> the body of an answer."""
    return _head(request, identity, "text_completion") | {"choices": choices} | totals(request, prompt)


def completion_chunk(
    request: Request,
    identity: str,
    row: Row | None,
    text: str,
    logprobs: dict[str, Any] | None = None,
    *,
    over: bool = False,
) -> dict[str, Any]:
    """What a row has more -> a chunk of a stream; without a row, the one of the usage has no choices."""
    choices: list[dict[str, Any]] = []
    if row is not None:
        finish = row.finish if over else None  # the row may have finished before this chunk of it is sent
        choices = [{"index": row.index, "text": text, "logprobs": logprobs, "finish_reason": finish}]
    return _head(request, identity, "text_completion") | {"choices": choices}


def completion_logprobs(
    row: Row, tokenizer: Tokenizer, count: int, begin: int, end: int, *, echo: bool = False, offset: int = 0
) -> dict[str, Any]:
    """The written tokens of a row from `begin` to `end` -> their log-probabilities; those of the prompt are null."""
    tokens: list[str] = []
    values: list[float | None] = []
    best: list[dict[str, float] | None] = []
    if echo:
        tokens = [tokenizer.piece(token) for token in row.text.prompt]
        values, best = [None] * len(tokens), [None] * len(tokens)
    for fact in _facts(row, begin, end):
        tokens.append(tokenizer.piece(fact.token))
        values.append(_finite(fact.log_prob))
        best.append({tokenizer.piece(token): _finite(value) for token, value in fact.best[:count]})
    offsets: list[int] = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": best, "text_offset": offsets}


# ---- chat ------------------------------------------------------------------------------------------------------------


def chat_answer(request: Request, identity: str, prompt: int, top: int | None, tokenizer: Tokenizer) -> dict[str, Any]:
    """The finished rows -> the body of an answer."""
    choices = [
        {
            "index": row.index,
            "message": {"role": "assistant", "content": row.text.text, "refusal": None},
            "logprobs": None
            if top is None
            else {"content": chat_logprobs(row, tokenizer, top, 0, len(row.text.tokens)), "refusal": None},
            "finish_reason": row.finish,
        }
        for row in request.rows
    ]
    return _head(request, identity, "chat.completion") | {"choices": choices} | totals(request, prompt)


def chat_chunk(
    request: Request,
    identity: str,
    row: Row | None,
    delta: dict[str, Any],
    logprobs: dict[str, Any] | None = None,
    *,
    over: bool = False,
) -> dict[str, Any]:
    """What a row has more -> a chunk of a stream; without a row, the one of the usage has no choices."""
    choices: list[dict[str, Any]] = []
    if row is not None:
        finish = row.finish if over else None
        choices = [{"index": row.index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]
    return _head(request, identity, "chat.completion.chunk") | {"choices": choices}


def chat_logprobs(row: Row, tokenizer: Tokenizer, count: int, begin: int, end: int) -> list[dict[str, Any]]:
    """The written tokens of a row from `begin` to `end` -> their log-probabilities."""
    return [
        _chat_token(tokenizer, fact.token, fact.log_prob)
        | {"top_logprobs": [_chat_token(tokenizer, token, value) for token, value in fact.best[:count]]}
        for fact in _facts(row, begin, end)
    ]


def _chat_token(tokenizer: Tokenizer, token: int, log_prob: float) -> dict[str, Any]:
    text = tokenizer.piece(token)
    return {"token": text, "logprob": _finite(log_prob), "bytes": list(text.encode())}


def _facts(row: Row, begin: int, end: int) -> Sequence[TokenFact]:
    """The facts of the written tokens from `begin` to `end`, without those that a text in place of tokens has."""
    facts, first = row.text.facts or {}, len(row.text.prompt)
    return [facts[first + n] for n in range(begin, end) if first + n in facts]


def _finite(value: float) -> float:
    return value if math.isfinite(value) else _LEAST


def _head(request: Request, identity: str, name: str) -> dict[str, Any]:
    return {"id": identity, "object": name, "created": int(time.time()), "model": request.name}
