"""Texts -> arrays of their ids, in this process or in worker processes of which each has the tokenizer."""

__all__ = ["Texts", "encode_batches"]

import functools
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from unmask.run.workers import Workers
from unmask.text.tokenizer import Tokenizer, is_plain_bytes

Texts = list[str]
_AHEAD = 3  # batches for each process that may wait for one that is slow


class _Ids(NamedTuple):
    """The ids of some texts, one after another, and the number of each text."""

    ids: np.ndarray
    counts: np.ndarray

    def split(self) -> list[np.ndarray]:
        """The ids of each text."""
        return np.split(self.ids, np.cumsum(self.counts)[:-1])


def encode_batches(
    batches: Iterable[Texts], tokenizer: Tokenizer, dtype: np.dtype[Any], workers: int
) -> Iterator[list[np.ndarray]]:
    """Batches of texts -> the ids of each text, (n,) of `dtype`, in order, whatever the number of `workers`.

    With several workers each is a process; it is begun when there is a batch for it. Errors of a text are raised here.
    """
    setup = functools.partial(_encoder, tokenizer.to_json(), dtype.str)
    if workers == 1:
        encode = _with(tokenizer, is_plain_bytes(json.loads(tokenizer.to_json())), dtype)
        for batch in batches:
            yield encode(batch).split()
        return
    waiting, answers = iter(batches), dict[str, _Ids]()
    sent = taken = 0
    with Workers[_Ids](workers, setup=setup) as pool:
        while True:
            while len(pool.at_work) < workers and sent < taken + _AHEAD * workers:
                batch = next(waiting, None)
                if batch is None:
                    break
                pool.give(str(sent), batch)
                sent += 1
            if taken == sent:
                return
            for answer in pool.collect() if str(taken) not in answers else ():
                answers[answer.name] = answer.result()
            if str(taken) in answers:
                yield answers.pop(str(taken)).split()
                taken += 1


def _encoder(text: str, dtype: str) -> Callable[[Texts], _Ids]:
    """The content of a tokenizer.json and the name of a type -> what a worker process does."""
    return _with(Tokenizer.from_json(text), is_plain_bytes(json.loads(text)), np.dtype(dtype))


def _with(tokenizer: Tokenizer, plain: bool, dtype: np.dtype[Any]) -> Callable[[Texts], _Ids]:
    """A tokenizer, and whether its ids are bytes -> the function that encodes a batch."""

    def encode(text: str) -> np.ndarray:
        if plain:
            with suppress(UnicodeEncodeError):  # which the tokenizer reports
                return np.frombuffer(text.encode("utf-8"), np.uint8).astype(dtype)
        return np.array(tokenizer.encode(text), dtype)

    def encode_all(texts: Texts) -> _Ids:
        parts = [encode(text) for text in texts]
        return _Ids(np.concatenate(parts), np.array([len(part) for part in parts]))

    return encode_all
