"""Rows of a request -> the answers and chunks that OpenAI's clients read, with our own field `unmask`."""

__all__ = [
    "LogProbs",
    "chat_answer",
    "chat_chunk",
    "chat_logprobs",
    "completion_answer",
    "completion_chunk",
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


class LogProbs:
    """The log-probabilities of a row for a completion, one part after the other; None where they were not asked for."""

    def __init__(self, row: Row, tokenizer: Tokenizer, count: int | None, *, echo: bool) -> None:
        """`count`: of the most probable tokens of each pass. `echo`: the first part has the prompt, with nulls."""
        self.row, self.tokenizer, self.count = row, tokenizer, count
        self.echo, self.begin, self.offset = echo, 0, 0

    def up_to(self, end: int) -> dict[str, Any] | None:
        """Those of the written tokens before `end` that no earlier part had."""
        if self.count is None:
            return None
        ids = list(self.row.text.prompt) if self.echo else []
        values: list[float | None] = [None] * len(ids)
        best: list[dict[str, float] | None] = [None] * len(ids)
        for fact in _facts(self.row, self.begin, end):
            ids.append(fact.token)
            values.append(_finite(fact.log_prob))
            pairs = fact.best[: self.count]
            best.append({_name(self.tokenizer, token): _finite(value) for token, value in pairs})
        self.echo, self.begin = False, max(self.begin, end)
        names, offsets = [_name(self.tokenizer, token) for token in ids], list[int]()
        for token in ids:
            offsets.append(self.offset)
            self.offset += len(self.tokenizer.piece(token))
        return {"tokens": names, "token_logprobs": values, "top_logprobs": best, "text_offset": offsets}


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
    part = tokenizer.part(token)
    values = list(tokenizer.piece(token).encode() if part is None else part)
    return {"token": _name(tokenizer, token), "logprob": _finite(log_prob), "bytes": values}


def _name(tokenizer: Tokenizer, token: int) -> str:
    """A token -> its text; of a part of a character its bytes, as OpenAI writes them."""
    part = tokenizer.part(token)
    return tokenizer.piece(token) if part is None else "bytes:" + "".join(f"\\x{value:02x}" for value in part)


def _facts(row: Row, begin: int, end: int) -> Sequence[TokenFact]:
    """The facts of the written tokens from `begin` to `end`, without those that a text in place of tokens has."""
    facts, first = row.text.facts or {}, len(row.text.prompt)
    return [facts[first + n] for n in range(begin, end) if first + n in facts]


def _finite(value: float) -> float:
    return value if math.isfinite(value) else _LEAST


def _head(request: Request, identity: str, name: str) -> dict[str, Any]:
    return {"id": identity, "object": name, "created": int(time.time()), "model": request.name}
