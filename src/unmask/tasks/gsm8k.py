r"""Word problems in the format of GSM8K (arXiv:2110.14168): rows of `question` and `answer`, which ends in `#### 42`.

The verifier reads the final number of a completion (`tasks.numbers`) and compares it exactly. The files are those of
the repository openai/grade-school-math (train.jsonl, test.jsonl) or of openai/gsm8k on the hub (main/train-*.parquet).
"""

__all__ = ["BEGINNING", "PROMPTS", "Gsm8k", "check_prompt", "request"]

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

from unmask.config import cache_folder, to_path
from unmask.disk.json import NotJson
from unmask.errors import DataError, RequestError
from unmask.noise import derive
from unmask.ranges import Count, check_numbers
from unmask.tasks.base import Example, Verdict, check_split, escaped
from unmask.tasks.files import ProblemFiles
from unmask.tasks.numbers import final_number, reference_number

_STREAM = 0x65A8
_TEXT = "gsm8k-100"
PROMPTS = ("plain", "chat")
"""How a problem is put: as a text to continue, or as a message of a conversation (see `request`)."""
_REQUEST = (
    "You are a math expert. You will be given a question to solve. Solve it step by step. Wrap the final answer in a "
    "\\boxed{}.\nRespond in the following format:\n<reasoning>\nYour reasoning here\n</reasoning>\n<answer>\n"
    "\\boxed{...}\n</answer>"
)
BEGINNING = "<reasoning>"
"""With what the answer to `request` begins: it is not written by the model."""


def request(problem: str) -> str:
    """A problem -> the message of arXiv:2512.09106's evaluation on GSM8K and MATH-500, without examples.

    It is that of d1 (arXiv:2504.12216, Apache-2.0). The program of the paper trains with another message, which asks
    for no box on GSM8K; here training and evaluation have the same.
    """
    return f"{_REQUEST}\n\n{problem.strip()}"


def check_prompt(prompt: str) -> None:
    """Raise RequestError for a prompt that is none of PROMPTS."""
    if prompt not in PROMPTS:
        raise RequestError(f"prompt is '{prompt}'; give plain (a text to continue) or chat (a conversation).")


@dataclass(frozen=True, slots=True)
class Gsm8k:
    """Word problems in GSM8K's format, from a file of rows or a folder with train.jsonl and test.jsonl.

    A file is divided by the hash of each question: 80 % are for training, 10 % for validation, 10 % for test. In a
    folder each split has its own file; without a valid.jsonl, 10 % of train.jsonl are for validation and not for
    training. The default are 100 problems of the test split (`unmask fetch gsm8k-100`). `length` is the tokens of the
    hole for the worked answer; with prompt=chat a problem is a message of a conversation.
    """

    path: str = ""
    length: Count = 256
    prompt: str = "plain"

    def __post_init__(self) -> None:
        check_numbers(self, error=RequestError)
        check_prompt(self.prompt)
        if not self._files.files:
            if not self.path:
                raise RequestError(
                    f"The 100 problems of GSM8K are not in the cache: unmask fetch {_TEXT}; or name your own with "
                    "gsm8k:path=FOLDER."
                )
            raise RequestError(
                f"There is no file or folder with problems at '{self.path}'; give a .jsonl file with question and "
                "answer in each row, or a folder that holds train.jsonl or test.jsonl."
            )

    @property
    def name(self) -> str:
        return f"gsm8k:path={self.path},length={self.length}" + (",prompt=chat" if self.prompt == "chat" else "")

    @property
    def fingerprint(self) -> str:
        """The sha256 of all files, in hexadecimal."""
        return self._files.fingerprint

    @property
    def _files(self) -> ProblemFiles:
        return ProblemFiles(to_path(self.path) if self.path else cache_folder() / "texts" / _TEXT, "question")

    def examples(self, split: str, count: int, seed: int = 0) -> Sequence[Example]:
        """Problems in an order that depends on the seed; `facts` holds the right "number" as text, such as 3/4.

        Raises:
            DataError: if a file cannot be read, a row is not a problem, or the split has no rows.
        """
        return [self._example(*row) for row in self._rows(split, seed)[:count]]

    def verify(self, example: Example, completion: str) -> Verdict:
        """Right if the final number of the completion equals that of the reference."""
        number, expected = final_number(completion), Fraction(example.facts["number"])
        if number is None:
            return Verdict(0.0, "there is no number in the place of the answer")
        return Verdict(1.0) if number == expected else Verdict(0.0, f"the answer is {number}, not {expected}")

    def pairs(self, split: str, count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
        """The question, and the worked answer as in the file."""
        return ((_plain(question), answer) for question, answer, _ in self._rows(split, seed)[:count])

    @staticmethod
    def write_sample(folder: Path) -> None:
        """Write a few problems of our own in the published layout into an empty folder, for a dry run."""
        for split, first in (("train", 2), ("test", 80)):
            rows = (
                {
                    "question": f"A box has {n} pens. How many pens are in {n + 1} boxes?",
                    "answer": f"There are {n} * {n + 1} = <<{n}*{n + 1}={n * n + n}>>{n * n + n}.\n#### {n * n + n:,}",
                }
                for n in range(first, first + 60)
            )
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def _example(self, question: str, answer: str, number: Fraction) -> Example:
        facts = {"number": str(number)}
        if self.prompt == "chat":
            return Example(f"{BEGINNING}[{self.length}]", answer, facts, request(question))
        return Example(escaped(_plain(question)) + f"[{self.length}]", answer, facts)

    def _rows(self, split: str, seed: int) -> list[tuple[str, str, Fraction]]:
        """The rows of a split in the order of a seed: question, answer, and the answer's number."""
        rows = [_row(where, row) for where, row in self._files.rows(split, self.name)]
        Random(derive(seed, _STREAM, check_split(split))).shuffle(rows)
        return rows


def _plain(question: str) -> str:
    return f"Question: {question.strip()}\nAnswer:\n"


def _end(answer: str, most: int = 60) -> str:
    """The last line of an answer, at most `most` characters of it."""
    line = (answer.strip().splitlines() or [""])[-1]
    return line if len(line) <= most else f"...{line[-most:]}"


def _row(where: str, row: Mapping[str, Any] | NotJson) -> tuple[str, str, Fraction]:
    """The place of a row and its content -> question, answer and number. Raises DataError for no problem."""
    if isinstance(row, NotJson) and row.cut:
        raise DataError(f"{where} is not JSON in UTF-8 ({row.detail or row}); write one object on each line.")
    if isinstance(row, NotJson) and row.reason != "is not a JSON object":
        raise DataError(f"{where} {row}; write one object on each line.")
    question, answer = (None if isinstance(row, NotJson) else row.get(key) for key in ("question", "answer"))
    if not isinstance(question, str) or not isinstance(answer, str):
        raise DataError(f'{where} is no problem; write rows such as {{"question": "...", "answer": "... #### 42"}}.')
    value = reference_number(answer)
    if value is None:
        raise DataError(
            f"{where} has an answer whose final number cannot be read whole ({_end(answer)!r}); end it with a line "
            "such as #### 42."
        )
    return question, answer.strip(), value
