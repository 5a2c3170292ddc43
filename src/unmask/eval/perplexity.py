"""Rows of a text -> the rows that a perplexity is measured on: by windows that slide, or some of all rows.

A perplexity depends on what is counted: how documents become rows, whether the end of a document counts as a token, and
how much context a token has. `Policy` says it in words beside each figure. Bits per byte are per byte of the raw text,
so that models with different tokenizers can be compared.
"""

__all__ = ["Policy", "estimator", "first_rows", "sliding", "some_rows"]

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import decoders

from unmask.data.packed import Facts, Packed
from unmask.data.settings import DataSettings
from unmask.errors import RequestError
from unmask.objective.base import Objective
from unmask.objective.baselines import Autoregressive, DiscreteTime, MaskedLM, score_entropy
from unmask.objective.masked import Masked
from unmask.text.tokenizer import Tokenizer

_ROWS = 1 << 12  # looked at together


@dataclass(frozen=True, slots=True)
class Policy:
    """How a text is cut, and what is counted."""

    rows: str
    """stream, whole, pairs or sliding."""
    length: int
    """Tokens of a row or window."""
    stride: int | None
    """Tokens that each later window adds; None where rows share nothing."""
    eos: bool
    """Whether EOS follows each document, and counts as a token of no bytes."""

    @classmethod
    def of(cls, settings: DataSettings, facts: Facts, stride: int | None) -> "Policy":
        """The settings and facts of a corpus, and the stride -> the policy. Raises RequestError for a stride that
        cannot be, and for one of rows that are no stream."""
        rows = "pairs" if facts.paired else settings.rows
        if stride is None:
            return cls(rows, facts.length, None, facts.eos == "append")
        if rows != "stream":
            raise RequestError(f"--stride is for --data.rows stream, and these rows are {rows}: leave it out.")
        if not 0 < stride <= facts.length:
            raise RequestError(f"stride is {stride}; give 1 to {facts.length} tokens, the length of a window.")
        return cls("sliding", facts.length, stride, facts.eos == "append")

    def check(self, tokens: int, source: str, split: str) -> None:
        """Raise RequestError for a text that does not fill a row: its tokens would have less context than is stated."""
        if self.rows not in ("stream", "sliding") or tokens >= self.length:
            return
        name, hint = _named(source, split)
        raise RequestError(
            f"There are {tokens} tokens in {name}, fewer than a row, which has {self.length}: give more text{hint}, or "
            f"--data.length {max(2, tokens)} or less."
        )

    @staticmethod
    def check_sequences(count: int, source: str, split: str, limit: int | None) -> None:
        """Raise RequestError for a single sequence, from which no interval is known."""
        if count > 1:
            return
        if limit == 1:
            raise RequestError("An interval needs at least 2 sequences, and --limit is 1: give 2 or more.")
        name, hint = _named(source, split)
        raise RequestError(
            f"An interval needs at least 2 sequences, and {name} has {count}: give more text{hint}, or a shorter "
            "--data.length."
        )

    def lines(self) -> dict[str, str]:
        """The policy as text, by label."""
        counted = "after each document, counted as a token of no bytes" if self.eos else "none"
        cut = {
            "stream": f"of {self.length} tokens without context, documents one after another, cut where a row ends",
            "whole": f"of {self.length} tokens, each document in one row",
            "pairs": f"of at most {self.length} tokens, a prompt, which is known, and its answer",
        }
        if self.stride is None:
            return {"rows": cut[self.rows], "EOS": counted}
        context = self.length - self.stride
        windows = f"of {self.length} tokens that slide by {self.stride} in each document"
        return {"windows": f"{windows}; after the first, at least {context} tokens of context", "EOS": counted}


def _named(source: str, split: str) -> tuple[str, str]:
    """A text and which part of it is measured -> its name in a sentence, and what else to try than more text."""
    return (source, "") if split == "all" else (f"the {split} part of {source}", ", --split all")


def estimator(objective: Objective, draws: int, two_pass: bool = False) -> str:
    """The objective of a model and the number of maskings -> what its bound estimates, in words.

    `two_pass`: the bound is of the model in two passes (soft masks).
    """
    drawn = f"{draws} masking{'s' * (draws != 1)} a sequence"
    drawn += ", of the model in two passes (soft masks)" * two_pass
    match objective:
        case Autoregressive():
            return "-log p by the chain rule, exact"
        case Masked(cost=cost) if cost is score_entropy:
            return f"score entropy, an upper bound on -log p, {drawn}"
        case Masked() | MaskedLM():
            return f"NELBO in continuous time, an upper bound on -log p, {drawn}"
        case DiscreteTime(steps=steps):
            return f"NELBO of {steps} steps, an upper bound on -log p, {drawn}"
        case _:
            return f"{type(objective).__name__}, {drawn}"


def sliding(part: Packed, stride: int, tokenizer: Tokenizer, eos: bool) -> Packed:
    """Rows of a stream -> windows of the same length that slide by `stride` in each document.

    With `eos` a document ends with EOS; without, the stream is one document. A window's new tokens are maskable, and
    what is before them is its context. Each token is new in one window, so that bytes and tokens are those of `part`.
    """
    stream = np.concatenate([row[:last] for row, last in zip(part.ids, part.last, strict=True)]).astype(np.int64)
    ends = np.flatnonzero(stream == tokenizer.eos_id) + 1 if eos else np.empty(0, np.int64)
    documents = [piece.tolist() for piece in np.split(stream, ends) if len(piece)]
    return Packed.cut(documents, part.length, tokenizer.pad_id, part.bytes, stride=stride)


def some_rows(part: Packed, tokenizer: Tokenizer, count: int | None = None, skip: int = 0) -> Packed:
    """Packed rows -> `count` of them after the first `skip`, with the bytes of their text; 0 where these are not known.

    They are the sum of the bytes of the tokens, if this sum is right for all rows to one in a thousand: a tokenizer
    that changes or drops characters gives another one. Raises DataError where no row is left.
    """
    rest = part.after(skip) if skip else part
    if count is None or count >= len(rest):
        count = len(rest)
    if count == len(part):
        return part
    sizes = _sizes(tokenizer)
    known = abs(sum(_bytes(part, sizes, tokenizer, 0, len(part))) - part.bytes) <= part.bytes / 1000
    size = sum(_bytes(part, sizes, tokenizer, skip, skip + count)) if known else 0
    first, last = rest.first[:count], rest.last[:count]
    return Packed(rest.ids[:count], first, last, size, int((last - first).sum()))


def first_rows(parts: Sequence[Packed], tokenizer: Tokenizer, count: int | None) -> list[Packed]:
    """Packed parts of a text -> their first `count` rows together, None for all, as parts that are not empty."""
    kept: list[Packed] = []
    for part in parts:
        left = len(part) if count is None else count - sum(map(len, kept))
        if len(part) and left > 0:
            kept.append(some_rows(part, tokenizer, left))
    return kept


def _bytes(part: Packed, sizes: np.ndarray, tokenizer: Tokenizer, first: int, end: int) -> Iterator[int]:
    """Rows and the bytes of each token -> the bytes of the text of the rows from `first` to `end`, some at a time.

    A tokenizer that writes a space before the first word of a text has one byte more there.
    """
    added = tokenizer.decode(tokenizer.encode(" ")) == ""
    begun = first == 0 or bool(part.ids[first - 1][part.last[first - 1] - 1] == tokenizer.eos_id)
    for at in range(first, end, _ROWS):
        batch = part.batch(range(at, min(at + _ROWS, end)))
        stream = batch.ids[batch.maskable]
        yield int(sizes[stream].sum())
        if added and len(stream):
            starts = np.concatenate([[begun], stream[:-1] == tokenizer.eos_id])
            yield -sum(tokenizer.piece(int(token)).startswith(" ") for token in stream[starts])
            begun = bool(stream[-1] == tokenizer.eos_id)


def _sizes(tokenizer: Tokenizer) -> np.ndarray:
    """The UTF-8 bytes of each token, (V,) int64; 0 for special ones."""
    bytewise = isinstance(tokenizer.backend.decoder, decoders.ByteLevel)
    sizes = np.zeros(tokenizer.vocab_size, np.int64)
    for token in set(range(tokenizer.vocab_size)) - {*tokenizer.special_ids}:
        name = tokenizer.backend.id_to_token(token) or ""
        sizes[token] = len(name) if bytewise else len(tokenizer.piece(token).encode())
    return sizes
