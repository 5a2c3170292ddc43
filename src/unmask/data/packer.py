"""Encoded documents -> the files of packed rows."""

__all__ = ["Dropped", "Encoded", "Packer"]

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from unmask.batch import ceil_div
from unmask.data.packed import PartFacts
from unmask.data.split import Unit, utf8_size
from unmask.text.tokenizer import Tokenizer

_CHUNK_ROWS, _OPEN = 1 << 16, 32


class Encoded(NamedTuple):
    """A unit with the ids of its prompt and of its text."""

    unit: Unit
    prompt: list[int]
    ids: list[int]


@dataclass(slots=True)
class Dropped:
    """The numbers of pairs that were left out, by reason."""

    too_long: int = 0
    no_answer: int = 0


class Packer:
    """A writer of the rows of one part (train or valid) into the files NAME.ids, NAME.first and NAME.last of a folder.

    Documents are one stream of tokens, cut every `length`; the last row is padded. With `whole`, each document is in
    one row, and rows are padded. Each pair is one padded row. It is a context manager; call `finish` before its end.
    """

    def __init__(
        self, folder: Path, name: str, tokenizer: Tokenizer, length: int, dtype: np.dtype[Any], eos: bool, whole: bool
    ) -> None:
        """Open the files of the part `name` in `folder`; `eos`: whether each document ends with EOS."""
        self.whole, self.open = whole, list[list[int]]()
        self.folder, self.name, self.length, self.dtype = folder, name, length, dtype
        self.pad_id = tokenizer.pad_id
        self.end = [tokenizer.eos_id] if eos and tokenizer.eos_id is not None else []
        self.dropped = Dropped()
        self.documents = self.bytes = self.tokens = self.rows = 0
        self.ids, self.first, self.last = (self._open(suffix) for suffix in ("ids", "first", "last"))

    def _open(self, suffix: str) -> BinaryIO:
        return (self.folder / f"{self.name}.{suffix}").open("wb")

    def __enter__(self) -> "Packer":
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self.ids, self.first, self.last):
            file.close()

    def add(self, encoded: Encoded) -> None:
        """Write the next unit of this part."""
        unit = encoded.unit
        ids = encoded.ids + self.end if unit.ends else encoded.ids
        if unit.prompt is not None:
            self._add_pair(encoded.prompt, encoded.ids, ids, utf8_size(unit.text))
            return
        if self.whole:
            self._place(ids)
        else:
            self._write(ids)
        self.documents += unit.starts
        self.bytes += utf8_size(unit.text)
        self.tokens += len(ids)

    def _add_pair(self, prompt: list[int], answer: list[int], ids: list[int], size: int) -> None:
        """Write a pair as one row, or count it in `dropped`."""
        total = len(prompt) + len(ids)
        if not answer:
            self.dropped.no_answer += 1
        elif total > self.length:
            self.dropped.too_long += 1
        else:
            self._write_row(prompt + ids, len(prompt))
            self.documents += 1
            self.bytes += size
            self.tokens += len(ids)

    def _place(self, ids: list[int]) -> None:
        """Put a document, or a piece of it, into the fullest open row that has room for it, else into rows of its own.

        At most `_OPEN` rows are open; the fullest is written when another is needed.
        """
        for start in range(0, len(ids), self.length):
            part = ids[start : start + self.length]
            fitting = [row for row in self.open if len(row) + len(part) <= self.length]
            if fitting:
                max(fitting, key=len).extend(part)
                continue
            if len(self.open) == _OPEN:
                self._close(max(self.open, key=len))
            self.open.append(part)

    def _close(self, row: list[int]) -> None:
        """Write an open row."""
        self.open = [other for other in self.open if other is not row]
        self._write_row(row, 0)

    def _write_row(self, ids: list[int], first: int) -> None:
        """Write a padded row whose maskable tokens begin at `first`."""
        self._write(ids + [self.pad_id] * (self.length - len(ids)))
        self.first.write(np.int32(first).tobytes())
        self.last.write(np.int32(len(ids)).tobytes())
        self.rows += 1

    def _write(self, ids: list[int]) -> None:
        self.ids.write(np.array(ids, dtype=self.dtype).tobytes())

    def finish(self, paired: bool) -> PartFacts:
        """Write the rest, flush all files to the disk, and return the sizes."""
        for row in self.open:
            self._write_row(row, 0)
        if not paired and not self.whole:
            self.rows = ceil_div(self.tokens, self.length)
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
