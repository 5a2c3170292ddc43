"""Units of text to rows in files: encoding in threads, packing in order."""

__all__ = ["Dropped", "Encoded", "Packer", "encode_units"]

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from unmask.data.corpus import PartFacts
from unmask.data.split import Unit, utf8_size
from unmask.text.tokenizer import Tokenizer

_BATCH_CHARACTERS = 1 << 17
_CHUNK_ROWS = 1 << 16


class Encoded(NamedTuple):
    """A unit and its ids."""

    unit: Unit
    prompt: list[int]
    ids: list[int]


def encode_units(units: Iterable[Unit], tokenizer: Tokenizer, workers: int) -> Iterator[Encoded]:
    """The units in their order with their ids, encoded by `workers` threads, a few batches ahead."""

    def encode(batch: list[Unit]) -> list[Encoded]:
        return [Encoded(u, tokenizer.encode(u.prompt) if u.prompt else [], tokenizer.encode(u.text)) for u in batch]

    for batch in _ordered_map(encode, _batches(units), workers):
        yield from batch


def _batches(units: Iterable[Unit]) -> Iterator[list[Unit]]:
    """Units in lists that are long enough to be worth a thread's while."""
    batch, size = list[Unit](), 0
    for unit in units:
        batch.append(unit)
        size += len(unit.text) + len(unit.prompt or "")
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _ordered_map(
    function: Callable[[list[Unit]], list[Encoded]], batches: Iterable[list[Unit]], workers: int
) -> Iterator[list[Encoded]]:
    """`map` in threads, at most two batches a thread ahead, in the order of `batches`."""
    if workers == 1:
        yield from map(function, batches)
        return
    waiting: deque[Future[list[Encoded]]] = deque()
    with ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            for batch in batches:
                waiting.append(pool.submit(function, batch))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


@dataclass(slots=True)
class Dropped:
    """Pairs that could not become rows."""

    too_long: int = 0
    no_answer: int = 0


class Packer:
    """Writes the rows of one part (train or valid) to NAME.ids, NAME.first and NAME.last in a folder.

    Text is one stream of tokens, cut every `length`; the remainder becomes a last row that is padded. A pair is a row
    of its own, padded. To be used as a context manager; `finish` before its end.
    """

    def __init__(
        self, folder: Path, name: str, tokenizer: Tokenizer, length: int, dtype: np.dtype[Any], eos: bool
    ) -> None:
        """Open the files of the part `name` in `folder`; `eos`: whether EOS ends each document."""
        self.folder, self.name, self.length, self.dtype = folder, name, length, dtype
        self.pad_id = tokenizer.pad_id
        self.end = [tokenizer.eos_id] if eos and tokenizer.eos_id is not None else []
        self.dropped = Dropped()
        self.documents = self.bytes = self.tokens = self.rows = 0
        self.ids, self.first, self.last = (self._open(kind) for kind in ("ids", "first", "last"))

    def _open(self, kind: str) -> BinaryIO:
        return (self.folder / f"{self.name}.{kind}").open("wb")

    def __enter__(self) -> "Packer":
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self.ids, self.first, self.last):
            file.close()

    def add(self, encoded: Encoded) -> None:
        """Take the next unit of this part."""
        unit = encoded.unit
        ids = encoded.ids + self.end if unit.ends else encoded.ids
        if unit.prompt is not None:
            self._add_pair(encoded.prompt, encoded.ids, ids, utf8_size(unit.text))
            return
        self._write(ids)
        self.documents += unit.starts
        self.bytes += utf8_size(unit.text)
        self.tokens += len(ids)

    def _add_pair(self, prompt: list[int], answer: list[int], ids: list[int], size: int) -> None:
        """One row of prompt and answer, or one more that was dropped."""
        total = len(prompt) + len(ids)
        if not answer:
            self.dropped.no_answer += 1
        elif total > self.length:
            self.dropped.too_long += 1
        else:
            self._write(prompt + ids + [self.pad_id] * (self.length - total))
            self.first.write(np.int32(len(prompt)).tobytes())
            self.last.write(np.int32(total).tobytes())
            self.documents += 1
            self.rows += 1
            self.bytes += size
            self.tokens += len(ids)

    def _write(self, ids: list[int]) -> None:
        self.ids.write(np.array(ids, dtype=self.dtype).tobytes())

    def finish(self, paired: bool) -> PartFacts:
        """Write what is left, flush all to the disk, and give the sizes."""
        if not paired:
            self.rows = -(-self.tokens // self.length)
            self._write([self.pad_id] * (self.rows * self.length - self.tokens))
            for start in range(0, self.rows, _CHUNK_ROWS):
                ends = np.full(min(_CHUNK_ROWS, self.rows - start), self.length, dtype=np.int32)
                if start + len(ends) == self.rows:
                    ends[-1] = self.tokens - (self.rows - 1) * self.length
                self.first.write(np.zeros_like(ends).tobytes())
                self.last.write(ends.tobytes())
        for file in (self.ids, self.first, self.last):
            file.flush()
            os.fsync(file.fileno())
        return PartFacts(self.documents, self.bytes, self.tokens, self.rows)
