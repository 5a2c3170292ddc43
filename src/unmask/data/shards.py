"""Files of packed rows (shards): their layout, their checks, and a table of the rows of several of them.

A shard is a sequence of records of one size without a header, a record for each row of L positions:

    first   int32             positions before it may not be masked
    last    int32             positions from it on are PAD
    ids     L uint16/uint32   token ids

All numbers are little-endian. A file is mapped and not read: its pages belong to the cache of the system, which all
processes of a machine share and which is freed when memory is needed. What is asked for is copied.
"""

__all__ = ["Filled", "Shard", "Table", "ends_sha256", "joined", "map_shards", "problems", "row_type", "token_type"]

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unmask.disk.files import file_sha256, reason_of
from unmask.errors import DataError
from unmask.ranges import Count

_END = 4096  # bytes


@dataclass(frozen=True, slots=True)
class Shard:
    """A file of rows."""

    file: str
    """Its name in the folder."""
    rows: Count
    sha256: str
    """That of its content, in hexadecimal."""
    ends: str
    """That of its first and its last 4 KiB together: at each start it tells a file of other data of the same size."""


def token_type(vocab_size: int) -> np.dtype[Any]:
    """The size of a vocabulary -> the type of its ids in files: uint16 if every id fits, else uint32."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def row_type(length: int, ids: np.dtype[Any]) -> np.dtype[Any]:
    """The positions of a row and the type of its ids -> the type of a record."""
    return np.dtype([("first", "<i4"), ("last", "<i4"), ("ids", ids, (length,))])


class Table:
    """The rows of several arrays of one type, one after another; its first axis is indexed as that of an array.

    A part of it, `table[start:stop]`, copies nothing; rows by their numbers, and `numpy.asarray(table)`, are copied.
    """

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        """`parts`: at least one array; all have the same type, and the same shape but for the first axis."""
        self._parts = [part for part in parts if len(part)] or list(parts[:1])
        self._starts = np.cumsum([0, *map(len, self._parts)])
        self.shape = (int(self._starts[-1]), *self._parts[0].shape[1:])
        self.dtype = self._parts[0].dtype

    def __len__(self) -> int:
        """The number of rows."""
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        """Each row, as of an array."""
        for part in self._parts:
            yield from part

    def __getitem__(self, index: Any) -> Any:
        """A slice, the number of a row, numbers of rows, or a bool for each row -> as of an array.

        Raises IndexError for a row that does not exist.
        """
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return self._rows(np.arange(start, stop, step))
            spans = zip(self._parts, self._starts, strict=False)
            return joined([part[max(start - at, 0) : max(stop - at, 0)] for part, at in spans])
        numbers = np.asarray(index)
        if numbers.dtype == np.bool_:
            numbers = np.flatnonzero(numbers)
        rows = self._rows(np.atleast_1d(numbers))
        return rows if numbers.ndim else rows[0]

    def _rows(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers of rows, (B,) -> a copy of these rows."""
        rows = np.where(numbers < 0, numbers + len(self), numbers)
        if rows.size and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"there are {len(self)} rows")
        result = np.empty((len(rows), *self.shape[1:]), self.dtype)
        places = np.searchsorted(self._starts, rows, "right") - 1
        for place in np.unique(places):
            here = places == place
            result[here] = self._parts[place][rows[here] - self._starts[place]]
        return result

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All rows as one array in memory."""
        return np.concatenate(self._parts).astype(dtype or self.dtype, copy=False)


class Filled(Table):
    """Rows of ids in which another id stands in place of PAD; it is put there in the rows that are asked for."""

    def __init__(self, ids: np.ndarray | Table, last: np.ndarray | Table, fill: int) -> None:
        """`ids`: (N, L); `last`: (N,), positions from it on get the id `fill`."""
        self._ids, self._last, self._fill = ids, last, fill
        self.shape, self.dtype = tuple(ids.shape), np.dtype(ids.dtype)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        ids, last = self._ids[index], self._last[index]
        if isinstance(index, slice):
            return Filled(ids, last, self._fill)
        return np.where(np.arange(self.shape[1]) < np.asarray(last)[..., None], ids, self.dtype.type(self._fill))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[np.arange(len(self))].astype(dtype or self.dtype, copy=False)


def joined(parts: Sequence[np.ndarray]) -> np.ndarray | Table:
    """Arrays, at least one -> their rows one after another, not copied: the array itself where there is only one."""
    filled = [part for part in parts if len(part)] or list(parts[:1])
    return filled[0] if len(filled) == 1 else Table(filled)


def problems(folder: Path, shards: Sequence[Shard], record: int, *, whole: bool) -> Iterator[tuple[Shard, str]]:
    """Shards, of `record` bytes a row -> each of them with what is wrong: NAME is missing, has changed; "" for nothing.

    Its size and both its ends are compared with what was written; with `whole` all of its content, a gigabyte in one or
    two seconds.
    """
    for shard in shards:
        path, expected = folder / shard.file, shard.rows * record
        try:
            size = path.stat().st_size
            same = ends_sha256(path) == shard.ends and not (whole and file_sha256(path) != shard.sha256)
        except FileNotFoundError:
            yield shard, f"{shard.file} is missing"
        except OSError as error:
            yield shard, f"{shard.file} cannot be read, {reason_of(error)}"
        else:
            wrong = f"{shard.file} has {size:,} bytes, not {expected:,}"
            yield shard, wrong if size != expected else "" if same else f"{shard.file} has changed"


def ends_sha256(path: Path) -> str:
    """A file -> the sha256 of its first and its last 4 KiB, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        start = file.read(_END)
        file.seek(max(file.seek(0, os.SEEK_END) - _END, 0))
        return hashlib.sha256(start + file.read(_END)).hexdigest()


def map_shards(folder: Path, shards: Sequence[Shard], record: np.dtype[Any]) -> list[np.ndarray]:
    """Shards, whose sizes are right -> their records, mapped and read only.

    Raises:
        DataError: for a file that cannot be read.
    """
    maps: list[np.ndarray] = []
    for shard in shards:
        path = folder / shard.file
        try:
            maps.append(np.memmap(path, dtype=record, mode="r", shape=(shard.rows,)))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error}): copy the folder again.") from error
    return maps
