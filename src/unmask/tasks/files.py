"""Problems in files as they are published: a path and a split -> rows of columns."""

__all__ = ["ProblemFiles"]

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from unmask.data.hub import parquet_rows
from unmask.disk.json import NotJson, json_lines, parse_json
from unmask.errors import DataError
from unmask.tasks.base import SPLITS, check_split

_LAYOUTS = ("{}.jsonl", "{}-*.parquet", "main/{}-*.parquet", "data/{}-*.parquet", "{}/*/*.json")
"""Where a folder has the rows of a split: repositories of programs, those of data sets on the hub, one file a row."""


@dataclass(frozen=True, slots=True)
class ProblemFiles:
    """A file of rows (.jsonl or .parquet), or a folder with files for each split.

    A file is divided by the hash of each problem: 80 % are for training, 10 % for validation, 10 % for test. In a
    folder each split has its own files; without those of `valid`, 10 % of `train` are for validation and not for
    training.
    """

    path: Path
    text: str
    """The column by whose hash rows are divided: the problem."""

    @property
    def files(self) -> list[Path]:
        """All files that there are."""
        if self.path.is_dir():
            return [file for split in SPLITS for file in self._own(split)]
        return [self.path] if self.path.is_file() else []

    @property
    def fingerprint(self) -> str:
        """The sha256 of all files, in hexadecimal."""
        return hashlib.sha256(b"\n".join(hashlib.sha256(_bytes(file)).digest() for file in self.files)).hexdigest()

    def rows(self, split: str, name: str) -> Iterator[tuple[str, Mapping[str, Any] | NotJson]]:
        """A split and the name of the task -> (place, row) of each row; NotJson for a line that cannot be read.

        Raises DataError where a file cannot be read, and where the split has no rows.
        """
        number, files, shares = check_split(split), [self.path], (8, 1, 1)
        if self.path.is_dir():
            shared = split != "test" and not self._own("valid")
            files, shares = (self._own("train"), (9, 1, 0)) if shared else (self._own(split), None)
            missing = self.path / ("train.jsonl" if shared else f"{split}.jsonl")
            if not files:
                raise DataError(f"There is no {missing}, so that {name} has no problems for the split '{split}'.")
        first, last = (sum(shares[:number]), sum(shares[: number + 1])) if shares else (0, 10)
        count = 0
        for where, row in (pair for file in files for pair in _read(file)):
            text = row.get(self.text) if isinstance(row, Mapping) else None
            if not isinstance(text, str) or first <= _tenth(text) < last:
                count += 1
                yield where, row
        if not count:
            place = files[0] if len(files) == 1 else self.path
            raise DataError(f"{place} has no problems for the split '{split}'; give a file with more rows.")

    def _own(self, split: str) -> list[Path]:
        """The files of a split in the first layout that the folder has; none without one."""
        layouts = (sorted(self.path.glob(layout.format(split))) for layout in _LAYOUTS)
        return next((files for files in layouts if files), [])


def _tenth(text: str) -> int:
    """The text of a problem -> a number from 0 to 9 from its sha256."""
    return int(hashlib.sha256(text.strip().encode("utf-8", "replace")).hexdigest(), 16) % 10


def _read(file: Path) -> Iterator[tuple[str, Mapping[str, Any] | NotJson]]:
    """A file -> the place and the content of each row."""
    if file.suffix == ".parquet":
        yield from ((f"{file}, row {number}", row) for number, row in enumerate(parquet_rows(file), start=1))
    elif file.suffix == ".json":
        try:
            yield f"{file}", parse_json(_bytes(file).decode("utf-8", "replace"), dict[str, Any])
        except NotJson as error:
            yield f"{file}", error
    else:
        for number, row in json_lines(BytesIO(_bytes(file)), dict[str, Any]):
            yield f"{file}, line {number}", row


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from error
