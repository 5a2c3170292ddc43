r"""Word problems in the format of GSM8K (arXiv:2110.14168): rows of `question` and `answer`, which ends in `#### 42`.

The verifier reads the final number of a completion (`tasks.numbers`) and compares it exactly.
"""

__all__ = ["Gsm8k"]

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

from unmask.config import to_path
from unmask.disk.json import NotJson, json_lines
from unmask.errors import DataError, RequestError
from unmask.noise import derive
from unmask.ranges import Count, check_numbers
from unmask.tasks.base import SPLITS, Example, Verdict, check_split, escaped
from unmask.tasks.numbers import final_number, reference_number

_STREAM = 0x65A8


@dataclass(frozen=True, slots=True)
class Gsm8k:
    """Word problems in GSM8K's format, from a .jsonl file or a folder with train.jsonl and test.jsonl.

    A file is divided by the hash of each question: 80 % are for training, 10 % for validation, 10 % for test. In a
    folder each split has its own file; without a valid.jsonl, 10 % of train.jsonl are for validation and not for
    training. `length` is the tokens of the hole for the worked answer.
    """

    path: str
    length: Count = 256

    def __post_init__(self) -> None:
        check_numbers(self, error=RequestError)
        if not self._files():
            raise RequestError(
                f"There is no file or folder with problems at '{self.path}'; give a .jsonl file with question and "
                "answer in each row, or a folder that holds train.jsonl or test.jsonl."
            )

    @property
    def name(self) -> str:
        return f"gsm8k:path={self.path},length={self.length}"

    @property
    def fingerprint(self) -> str:
        """The sha256 of all files, in hexadecimal."""
        return hashlib.sha256(b"\n".join(hashlib.sha256(_bytes(file)).digest() for file in self._files())).hexdigest()

    def examples(self, split: str, count: int, seed: int = 0) -> Sequence[Example]:
        """Problems in an order that depends on the seed; `facts` holds the right "number" as text, such as 3/4.

        Raises:
            DataError: if a file cannot be read, a row is not a problem, or the split has no rows.
        """
        rows = self._rows(split)
        Random(derive(seed, _STREAM, check_split(split))).shuffle(rows)
        return [
            Example(escaped(_prompt(question)) + f"[{self.length}]", answer, {"number": str(number)})
            for question, answer, number in rows[:count]
        ]

    def verify(self, example: Example, completion: str) -> Verdict:
        """Right if the final number of the completion equals that of the reference."""
        number, expected = final_number(completion), Fraction(example.facts["number"])
        if number is None:
            return Verdict(0.0, "there is no number in the place of the answer")
        return Verdict(1.0) if number == expected else Verdict(0.0, f"the answer is {number}, not {expected}")

    def pairs(self, split: str, count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
        """The question, and the worked answer as in the file."""
        rows = self._rows(split)
        Random(derive(seed, _STREAM, check_split(split))).shuffle(rows)
        return ((_prompt(question), answer) for question, answer, _ in rows[:count])

    def _files(self) -> list[Path]:
        path = to_path(self.path)
        if path.is_dir():
            return [file for split in SPLITS if (file := path / f"{split}.jsonl").is_file()]
        return [path] if path.is_file() else []

    def _rows(self, split: str) -> list[tuple[str, str, Fraction]]:
        """The rows of a split: question, answer, and the answer's number."""
        number, folder = check_split(split), to_path(self.path)
        file, shares = folder, (8, 1, 1)
        if folder.is_dir():
            own = folder / f"{split}.jsonl"
            shared = split != "test" and not (folder / "valid.jsonl").is_file()
            file, shares = (folder / "train.jsonl", (9, 1, 0)) if shared else (own, None)
        if not file.is_file():
            raise DataError(f"There is no {file}, so that {self.name} has no problems for the split '{split}'.")
        rows = list(_read(file))
        if shares is not None:
            first, last = sum(shares[:number]), sum(shares[: number + 1])
            rows = [row for row in rows if first <= _tenth(row[0]) < last]
        if not rows:
            raise DataError(f"{file} has no problems for the split '{split}'; give a file with more rows.")
        return rows


def _prompt(question: str) -> str:
    return f"Question: {question.strip()}\nAnswer:\n"


def _tenth(question: str) -> int:
    """A question -> a number from 0 to 9 from its sha256."""
    return int(hashlib.sha256(question.strip().encode("utf-8", "replace")).hexdigest(), 16) % 10


def _end(answer: str, most: int = 60) -> str:
    """The last line of an answer, at most `most` characters of it."""
    line = (answer.strip().splitlines() or [""])[-1]
    return line if len(line) <= most else f"...{line[-most:]}"


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from error


def _read(file: Path) -> Iterator[tuple[str, str, Fraction]]:
    """Question, answer and number of each row of a file."""
    for number, row in json_lines(BytesIO(_bytes(file)), dict[str, Any]):
        where = f"{file}, line {number}"
        if isinstance(row, NotJson) and row.cut:
            raise DataError(f"{where} is not JSON in UTF-8 ({row.detail or row}); write one object on each line.")
        if isinstance(row, NotJson) and row.reason != "is not a JSON object":
            raise DataError(f"{where} {row}; write one object on each line.")
        question, answer = (None if isinstance(row, NotJson) else row.get(key) for key in ("question", "answer"))
        if not isinstance(question, str) or not isinstance(answer, str):
            raise DataError(
                f'{where} is no problem; write rows such as {{"question": "...", "answer": "... #### 42"}}.'
            )
        value = reference_number(answer)
        if value is None:
            raise DataError(
                f"{where} has an answer whose final number cannot be read whole ({_end(answer)!r}); end it with a line "
                "such as #### 42."
            )
        yield question, answer.strip(), value
