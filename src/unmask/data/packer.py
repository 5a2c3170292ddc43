"""Texts -> arrays of their ids, and these -> the shards of packed rows of one part, one after another.

Texts are encoded in this process or in worker processes of which each has the tokenizer. A `Packer` goes on with work
that was interrupted.
"""

__all__ = ["Encoded", "Layout", "Packer", "PartState", "Texts", "encode_batches"]

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from unmask.data.packed import PartFacts
from unmask.data.shards import Shard, ends_sha256, row_type, token_type
from unmask.data.split import Unit, utf8_size
from unmask.errors import DataError
from unmask.ranges import Natural
from unmask.run.workers import Workers
from unmask.text.tokenizer import Tokenizer, is_plain_bytes

Texts = list[str]
_AHEAD = 3  # batches for each process that may wait for one that is slow
_NAME = "batch {} of the text"  # what a process encodes, for the sentence about one that was killed
_PENDING, _OPEN = 1 << 20, 32  # ids that wait to be written, at least; rows that are not full


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
                pool.give(_NAME.format(sent + 1), batch)
                sent += 1
            if taken == sent:
                return
            name = _NAME.format(taken + 1)
            for answer in pool.collect() if name not in answers else ():
                answers[answer.name] = answer.result()
            if name in answers:
                yield answers.pop(name).split()
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


class Encoded(NamedTuple):
    """A unit with the ids of its prompt and of its text, (n,) of the type in files."""

    unit: Unit
    prompt: np.ndarray
    ids: np.ndarray


@dataclass(frozen=True, slots=True)
class Layout:
    """How documents become rows, and rows become files."""

    tokenizer: Tokenizer
    length: int
    """Positions in a row."""
    eos: bool
    """Whether each document ends with EOS, if the tokenizer has one."""
    whole: bool
    """Whether each document is in one row, and rows are padded; else documents are one stream, cut every `length`."""
    shard_rows: int
    """Rows in a shard; the last has fewer."""


@dataclass(slots=True)
class PartState:
    """What a part has so far, as plain values: a Packer goes on from it."""

    documents: Natural = 0
    bytes: Natural = 0
    tokens: Natural = 0
    too_long: Natural = 0
    """Pairs that were left out because they do not fit into a row."""
    no_answer: Natural = 0
    """Pairs that were left out because their answer is empty."""
    shards: tuple[Shard, ...] = ()
    rows: Natural = 0
    """Rows in the shard that is not full."""
    open: tuple[tuple[Natural, ...], ...] = ()
    """The ids of rows that are not full; of a stream at most one."""


class Packer:
    """A writer of the rows of one part (train or valid) into the files NAME-00000.rows and so on of a folder.

    Documents are one stream of tokens, cut every `length`; the last row is padded. With `whole`, each document is in
    one row, and rows are padded. Each pair is one padded row. A file that is not full has the suffix .open instead. The
    rows do not depend on the size of a shard. It is a context manager; call `finish` before its end.
    """

    def __init__(self, folder: Path, name: str, layout: Layout, state: PartState | None = None) -> None:
        """Begin the part `name` in `folder`, or go on from a state that `checkpoint` returned."""
        self.folder, self.name, self.layout, self.state = folder, name, layout, state or PartState()
        tokenizer = layout.tokenizer
        ids = token_type(tokenizer.vocab_size)
        self._type = row_type(layout.length, ids)
        self._end = np.array([tokenizer.eos_id] if layout.eos and tokenizer.eos_id is not None else [], ids)
        self._stream = [np.array(row, ids) for row in self.state.open] if not layout.whole else []
        self._pending = sum(map(len, self._stream))
        self._rooms = [list(row) for row in self.state.open] if layout.whole else []
        self._padded = list[tuple[list[int], int]]()
        self._hash = hashlib.sha256()
        self._file = self._reopened() if self.state.rows else None

    def __enter__(self) -> "Packer":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, encoded: Encoded) -> None:
        """Take the next unit of this part."""
        unit, state = encoded.unit, self.state
        ids = np.concatenate([encoded.ids, self._end]) if unit.ends and len(self._end) else encoded.ids
        if unit.prompt is not None:
            self._add_pair(encoded, ids)
            return
        if self.layout.whole:
            self._place(ids.tolist())
        else:
            self._stream.append(ids)
            self._pending += len(ids)
            if self._pending >= max(_PENDING, self.layout.length):
                self._write_stream()
        state.documents += unit.starts
        state.bytes += utf8_size(unit.text)
        state.tokens += len(ids)

    def _add_pair(self, encoded: Encoded, ids: np.ndarray) -> None:
        """Take a pair as one row, or count why it is left out."""
        state, prompt = self.state, encoded.prompt
        if not len(encoded.ids):
            state.no_answer += 1
        elif len(prompt) + len(ids) > self.layout.length:
            state.too_long += 1
        else:
            self._add_row([*prompt.tolist(), *ids.tolist()], len(prompt))
            state.documents += 1
            state.bytes += utf8_size(encoded.unit.text)
            state.tokens += len(ids)

    def _place(self, ids: list[int]) -> None:
        """Put a document, or a piece of it, into the fullest open row that has room for it, else into rows of its own.

        At most `_OPEN` rows are open; the fullest is written when another is needed.
        """
        length = self.layout.length
        for start in range(0, len(ids), length):
            part = ids[start : start + length]
            fitting = [row for row in self._rooms if len(row) + len(part) <= length]
            if fitting:
                max(fitting, key=len).extend(part)
                continue
            if len(self._rooms) == _OPEN:
                full = max(self._rooms, key=len)
                self._rooms = [other for other in self._rooms if other is not full]
                self._add_row(full, 0)
            self._rooms.append(part)

    def _add_row(self, ids: list[int], first: int) -> None:
        """Take a row that is padded, whose maskable tokens begin at `first`."""
        self._padded.append((ids, first))
        if len(self._padded) * self.layout.length >= _PENDING:
            self._write_padded()

    def _write_padded(self) -> None:
        """Write the padded rows that wait."""
        rows, self._padded = self._padded, []
        if not rows:
            return
        records = np.zeros(len(rows), self._type)
        records["ids"] = self.layout.tokenizer.pad_id
        for record, (ids, first) in zip(records, rows, strict=True):
            record["ids"][: len(ids)] = ids
            record["first"], record["last"] = first, len(ids)
        self._write(records)

    def _write_stream(self) -> None:
        """Write the full rows of the stream that wait."""
        length = self.layout.length
        ids = np.concatenate(self._stream) if self._stream else np.array([], self._end.dtype)
        count = len(ids) // length
        self._stream = [ids[count * length :].copy()]
        self._pending = len(self._stream[0])
        if count:
            records = np.zeros(count, self._type)
            records["ids"] = ids[: count * length].reshape(count, length)
            records["last"] = length
            self._write(records)

    def _write(self, records: np.ndarray) -> None:
        """Write rows; a shard that is full is ended."""
        at = 0
        while at < len(records):
            if self._file is None:
                self._hash = hashlib.sha256()
                self._file = self._path(".open").open("wb")
            part = records[at : at + self.layout.shard_rows - self.state.rows]
            content = part.tobytes()
            self._file.write(content)
            self._hash.update(content)
            at += len(part)
            self.state.rows += len(part)
            if self.state.rows == self.layout.shard_rows:
                self._end_shard()

    def _path(self, suffix: str) -> Path:
        """The file of the shard that is written now, .rows if it is full or .open."""
        return self.folder / f"{self.name}-{len(self.state.shards):05d}{suffix}"

    def _end_shard(self) -> None:
        """Flush the file to the disk and give it its name."""
        self._flush()
        assert self._file is not None
        self._file.close()
        self._file = None
        path = self._path(".rows")
        os.replace(self._path(".open"), path)
        shard = Shard(path.name, self.state.rows, self._hash.hexdigest(), ends_sha256(path))
        self.state.shards, self.state.rows = (*self.state.shards, shard), 0

    def _flush(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def checkpoint(self) -> PartState:
        """Flush all rows to the disk -> the state from which another Packer goes on."""
        self._write_padded()
        if self._stream:
            self._write_stream()
        self._flush()
        rest = self._rooms if self.layout.whole else [ids.tolist() for ids in self._stream if len(ids)]
        return replace(self.state, open=tuple(tuple(row) for row in rest))

    def _reopened(self) -> BinaryIO:
        """The file that is not full, cut to the rows of the state.

        It may have more rows, and the name of a full one, if the work ended after the state was recorded.
        """
        path, size = self._path(".open"), self.state.rows * self._type.itemsize
        if not path.exists() and self._path(".rows").exists():
            os.replace(self._path(".rows"), path)
        if not path.exists() or path.stat().st_size < size:
            raise DataError(f"{path} is missing or damaged: delete {self.folder}, and prepare the text again.")
        file = path.open("r+b")
        file.truncate(size)
        while block := file.read(1 << 20):
            self._hash.update(block)
        return file

    def finish(self) -> PartFacts:
        """Write the rest, end the last shard, and return the sizes."""
        for row in self._rooms:
            self._add_row(row, 0)
        self._rooms = []
        if self._stream:
            self._write_stream()
            if len(self._stream[0]):
                self._add_row(self._stream[0].tolist(), 0)
        self._stream = []
        self._write_padded()
        if self.state.rows:
            self._end_shard()
        state = self.state
        return PartFacts(state.documents, state.bytes, state.tokens, sum(shard.rows for shard in state.shards))
