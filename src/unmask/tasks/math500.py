r"""Mathematical problems of MATH (arXiv:2103.03874) and MATH-500: rows of `problem`, `solution` and `answer`.

The verifier compares the final answer of a completion with that of the row (`tasks.latex`).
"""

__all__ = ["Math500"]

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from unmask.config import to_path
from unmask.disk.json import NotJson
from unmask.errors import DataError, RequestError
from unmask.noise import derive
from unmask.ranges import Count, check_numbers
from unmask.tasks.base import Example, Verdict, check_split, escaped
from unmask.tasks.files import ProblemFiles
from unmask.tasks.gsm8k import BEGINNING, check_prompt, request
from unmask.tasks.latex import answer_in, same_answer

_STREAM = 0x3A7B


class _Row(NamedTuple):
    """A problem with its worked solution and its answer."""

    problem: str
    solution: str
    answer: str
    subject: str
    level: str


@dataclass(frozen=True, slots=True)
class Math500:
    """Mathematical problems with answers in LaTeX, from the files of MATH-500 or MATH.

    `path` is a folder with test.jsonl (HuggingFaceH4/MATH-500) or with the folders train and test (MATH), or a file of
    rows, which is divided as one of GSM8K. A row has a problem, and an answer or a solution with a box. `length` is the
    tokens of the hole for the solution; with prompt=chat a problem is a message of a conversation.
    """

    path: str
    length: Count = 256
    prompt: str = "plain"

    def __post_init__(self) -> None:
        check_numbers(self, error=RequestError)
        check_prompt(self.prompt)
        if not self._files.files:
            raise RequestError(
                f"There is no file or folder with problems at '{self.path}'; give a folder that holds test.jsonl of "
                "MATH-500, or the folders train and test of MATH."
            )

    @property
    def name(self) -> str:
        return f"math-500:path={self.path},length={self.length}" + (",prompt=chat" if self.prompt == "chat" else "")

    @property
    def fingerprint(self) -> str:
        """The sha256 of all files, in hexadecimal."""
        return self._files.fingerprint

    @property
    def _files(self) -> ProblemFiles:
        return ProblemFiles(to_path(self.path), "problem")

    def examples(self, split: str, count: int, seed: int = 0) -> Sequence[Example]:
        """Problems in an order that depends on the seed; `facts` holds the right "answer", and subject and level.

        Raises:
            DataError: if a file cannot be read, a row is not a problem, or the split has no rows.
        """
        return [self._example(row) for row in self._rows(split, seed)[:count]]

    def verify(self, example: Example, completion: str) -> Verdict:
        """Right if the final answer of the completion is the same as that of the row."""
        answer, expected = answer_in(completion), example.facts["answer"]
        if answer is None:
            return Verdict(0.0, "there is no answer in a box")
        return Verdict(1.0) if same_answer(answer, expected) else Verdict(0.0, f"the answer is not {expected}")

    def pairs(self, split: str, count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
        """The problem, and the worked solution as in the file."""
        return ((_plain(row.problem), row.solution) for row in self._rows(split, seed)[:count])

    @staticmethod
    def write_sample(folder: Path) -> None:
        """Write a few problems of our own in the published layout into an empty folder, for a dry run."""
        for split, first in (("train", 2), ("test", 80)):
            rows = (
                {
                    "problem": f"Solve ${n}x = {n + 1}$ for $x$.",
                    "solution": f"Divide by {n}: $x = \\boxed{{\\frac{{{n + 1}}}{{{n}}}}}$.",
                    "answer": f"\\frac{{{n + 1}}}{{{n}}}",
                    "subject": "Algebra",
                    "level": 1,
                    "unique_id": f"{split}/{n}",
                }
                for n in range(first, first + 60)
            )
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def _example(self, row: _Row) -> Example:
        facts = {"answer": row.answer, "subject": row.subject, "level": row.level}
        if self.prompt == "chat":
            return Example(f"{BEGINNING}[{self.length}]", row.solution, facts, request(row.problem))
        return Example(escaped(_plain(row.problem)) + f"[{self.length}]", row.solution, facts)

    def _rows(self, split: str, seed: int) -> list[_Row]:
        """The rows of a split in the order of a seed."""
        rows = [_row(where, row) for where, row in self._files.rows(split, self.name)]
        Random(derive(seed, _STREAM, check_split(split))).shuffle(rows)
        return rows


def _plain(problem: str) -> str:
    return f"Problem: {problem.strip()}\nSolution:\n"


def _row(where: str, row: Mapping[str, Any] | NotJson) -> _Row:
    """The place of a row and its content -> the problem. Raises DataError for none, and for one without an answer."""
    if isinstance(row, NotJson):
        raise DataError(f"{where} {row}; write one object on each line.")
    problem, solution, answer = (row.get(key) for key in ("problem", "solution", "answer"))
    if not isinstance(problem, str) or not any(isinstance(part, str) for part in (solution, answer)):
        raise DataError(
            f'{where} is no problem; write rows such as {{"problem": "...", "solution": "...", "answer": "1/2"}}.'
        )
    if not isinstance(answer, str):
        answer = answer_in(str(solution))
        if answer is None:
            raise DataError(f'{where} has no answer: write it as "answer", or in a \\boxed{{...}} of the solution.')
    solved = solution if isinstance(solution, str) else f"\\boxed{{{answer}}}"
    subject = row.get("subject") or row.get("type") or ""
    return _Row(problem, solved.strip(), answer, str(subject), str(row.get("level") or ""))
