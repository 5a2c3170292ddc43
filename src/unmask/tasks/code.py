"""Programming problems with tests: HumanEval (arXiv:2107.03374) and MBPP (arXiv:2108.07732), as they are published.

Prompts, the reading of an answer and the tests are the same in training and in evaluation. A program runs in
`tasks.sandbox`; it is right if all its tests pass. A conversation (prompt=chat) has the messages of the instruct tasks
of lm-evaluation-harness (MIT), which arXiv:2512.09106 evaluates with too: the answer begins inside a block of code.
"""

__all__ = ["HumanEval", "Mbpp", "program_of"]

import ast
import builtins
import hashlib
import json
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from random import Random
from typing import Annotated, Any, NamedTuple

from unmask.config import cache_folder, to_path
from unmask.data.documents import json_rows
from unmask.data.hub import parquet_rows
from unmask.disk.files import file_sha256
from unmask.errors import DataError, RequestError
from unmask.noise import derive
from unmask.ranges import Count, check_numbers, whole
from unmask.tasks.base import Example, Verdict, check_split, escaped
from unmask.tasks.gsm8k import check_prompt
from unmask.tasks.sandbox import Program, run_programs

_STREAM = 0xC0DE
_REQUEST = "Write a solution to the following problem and make sure that it passes the tests:"  # HumanEval's message
_BEGINNING = "Here is the completed function:"
_FENCE = re.compile(r"```(\w*)[ \t]*\n?")
_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # where HumanEval ends the body of a function
_SHOTS = (2, 3, 4)  # task_id of the problems in MBPP's prompt
_RANGES = {"train": range(601, 975), "valid": range(511, 601), "test": range(11, 511)}  # task_id of MBPP's splits


class _Problem(NamedTuple):
    """A problem as a text to continue and as a conversation."""

    text: str
    answer: str
    message: str
    beginning: str
    """How the answer to the message begins; it is not written by the model."""
    facts: dict[str, Any]


def program_of(completion: str) -> str:
    """The text of an answer -> the program in it.

    That is the first block between lines of three backquotes, or what stands between [BEGIN] and [DONE]. Either may
    have begun before the answer and may be cut at its end. Three backquotes after a text and without the name of a
    language end a block. Without any such mark the whole text is the program.
    """
    text = completion.split("[BEGIN]", 1)[-1].split("[DONE]", 1)[0]
    fence = _FENCE.search(text)
    if fence is not None and (fence[1] or not text[: fence.start()].strip()):
        text = text[fence.end() :]
    return text.split("```", 1)[0]


@dataclass(frozen=True, slots=True)
class _Programs(ABC):
    """What both tasks have in common."""

    path: str = ""
    length: Count = 256
    prompt: str = "plain"
    seconds: Count = 5

    @property
    def name(self) -> str:
        options = ",".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))
        return f"{type(self).__name__.lower()}:{options}"

    @property
    def fingerprint(self) -> str:
        """The sha256 of all files, in hexadecimal."""
        return hashlib.sha256("\n".join(map(file_sha256, _files(self._path()))).encode()).hexdigest()

    def examples(self, split: str, count: int, seed: int = 0) -> Sequence[Example]:
        """Problems in an order that depends on the seed; `facts` holds what the tests need, and the "task_id".

        Raises DataError for a file that cannot be read, and where there are no problems of the split.
        """
        hole = f"[{self.length}]"
        return [
            Example(escaped(problem.beginning) + hole, problem.answer, problem.facts, problem.message)
            if self.prompt == "chat"
            else Example(escaped(problem.text) + hole, problem.answer, problem.facts)
            for problem in self._shuffled(split, seed)[:count]
        ]

    def verify(self, example: Example, completion: str) -> Verdict:
        """Right if the tests pass."""
        return self.verify_all([(example, completion)])[0]

    def verify_all(self, pairs: Sequence[tuple[Example, str]]) -> list[Verdict]:
        """Problems and answers -> verdicts; the programs run side by side."""
        outcomes = run_programs([self._program(example.facts, text) for example, text in pairs], self.seconds)
        return [Verdict(float(status == "passed"), why) for status, why, _ in outcomes]

    def pairs(self, split: str, count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
        """The text of a problem, and its reference answer."""
        return ((problem.text, problem.answer) for problem in self._shuffled(split, seed)[:count])

    def _shuffled(self, split: str, seed: int) -> list[_Problem]:
        number, problems = check_split(split), self._problems(split)
        if not problems:
            raise DataError(f"{self._path()} has no problems of the split '{split}': give a file with more rows.")
        Random(derive(seed, _STREAM, number)).shuffle(problems)
        return problems

    def _path(self) -> Path:
        return to_path(self.path)

    @abstractmethod
    def _problems(self, split: str) -> list[_Problem]:
        """The problems of a split, in the order of the files."""

    @abstractmethod
    def _program(self, facts: Mapping[str, Any], completion: str) -> Program:
        """The facts of a problem and an answer -> the program and its tests."""


# ---- HumanEval -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HumanEval(_Programs):
    """Write the body of a Python function from its head and description, in HumanEval's format; all tests must pass.

    `path` is a file, all of whose problems are for test, or a folder that holds test.jsonl, and train.jsonl and
    valid.jsonl if there is training; by default the 164 problems that `unmask fetch humaneval` brings. `length` is the
    tokens of the hole for the answer, `seconds` the processor time that a program may take; with prompt=chat a problem
    is a message of a conversation.
    """

    def __post_init__(self) -> None:
        check_numbers(self, error=RequestError)
        check_prompt(self.prompt)
        if not _files(self._path()):
            raise RequestError(
                f"There is no file or folder of problems at '{self.path}'; give a .jsonl file in the format of "
                "HumanEval, or a folder that holds test.jsonl."
                if self.path
                else "The task 'humaneval' needs its problems: run unmask fetch humaneval, or give a file of your own "
                "as humaneval:path=FILE."
            )

    @staticmethod
    def write_sample(folder: Path) -> None:
        """Write a few problems of our own in the published layout into an empty folder, for a dry run."""
        for split, first in (("train", 2), ("valid", 40), ("test", 60)):
            rows = (
                {
                    "task_id": f"{split}/{n}",
                    "entry_point": f"plus_{n}",
                    "prompt": f'def plus_{n}(x: int) -> int:\n    """ Add {n} to x.\n    """\n',
                    "canonical_solution": f"    return x + {n}\n",
                    "test": f"def check(candidate):\n    assert candidate(1) == {n + 1}\n",
                }
                for n in range(first, first + 20)
            )
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def _path(self) -> Path:
        return to_path(self.path) if self.path else cache_folder() / "texts" / "humaneval"

    def _problems(self, split: str) -> list[_Problem]:
        path = self._path()
        files = _files(path, split) if path.is_dir() else [path] if split == "test" else []
        if not files:
            raise DataError(
                f"There are no problems of the split '{split}' in {path}: HumanEval is for test; give a folder that "
                f"holds {split}.jsonl, or choose another task, such as mbpp."
            )
        return [_human_eval_problem(row, where) for file in files for where, row in _rows(file)]

    def _program(self, facts: Mapping[str, Any], completion: str) -> Program:
        """An answer that defines the function again follows the prompt; any other is the body, up to a stop."""
        prompt, name, text = facts["prompt"], facts["entry_point"], program_of(completion)
        empty = f"{prompt}\n    pass\n"  # the imports, and the functions before the last
        if re.search(rf"^(async )?def {re.escape(name)}\b", text, re.MULTILINE):
            source = f"{empty}\n{text}"
        else:
            ends = [at for stop in _STOPS if (at := text.find(stop)) >= 0]
            source = prompt + text[: min(ends, default=len(text))]
        return Program(source, f"{facts['test']}\ncheck({name})\n", (name,), empty)


def _human_eval_problem(row: Mapping[str, Any], where: str) -> _Problem:
    """A row of the file -> its problem."""
    facts = {name: _text(row, name, where) for name in ("task_id", "prompt", "test", "entry_point")}
    prompt, answer = facts["prompt"], _text(row, "canonical_solution", where)
    message, beginning = f"{_REQUEST}\n```python\n{prompt}\n```\n", f"{_BEGINNING}\n```python\n{prompt}\n"
    return _Problem(prompt, answer, message, beginning, facts)


# ---- MBPP ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mbpp(_Programs):
    """Write a Python function from a sentence and its tests, in MBPP's format; all tests must pass.

    `path` is the published file, mbpp.jsonl or sanitized-mbpp.json, or a folder with it. The splits are the published
    ones: task_id 11 to 510 for test, 511 to 600 for validation, 601 to 974 for training. `shots` problems with their
    answers, task_id 2, 3 and 4, stand before each problem. `length` is the tokens of the hole for the answer, `seconds`
    the processor time that a program may take; with prompt=chat a problem is a message of a conversation.
    """

    shots: Annotated[int, whole(0, len(_SHOTS))] = len(_SHOTS)

    def __post_init__(self) -> None:
        check_numbers(self, error=RequestError)
        check_prompt(self.prompt)
        if not self.path or not _files(self._path()):
            raise RequestError(
                f"There is no file '{self.path}'; give the published file of MBPP, mbpp.jsonl or sanitized-mbpp.json, "
                "as mbpp:path=FILE."
            )

    @staticmethod
    def write_sample(folder: Path) -> None:
        """Write a few problems of our own in the published layout into an empty folder, for a dry run."""
        rows = (
            {
                "task_id": n,
                "text": f"Write a function to add {n} to a number.",
                "code": f"def add_{n}(x):\r\n  return x + {n}",
                "test_list": [f"assert add_{n}({x}) == {x + n}" for x in range(3)],
                "test_setup_code": "",
            }
            for n in (*_SHOTS, *(n for numbers in _RANGES.values() for n in numbers[:20]))
        )
        (folder / "mbpp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def _problems(self, split: str) -> list[_Problem]:
        rows = (_mbpp_row(row, where) for file in _files(self._path()) for where, row in _rows(file))
        known = {row["task_id"]: row for row in rows}
        shots = [known[number] for number in _SHOTS[: self.shots] if number in known]
        if len(shots) < self.shots:
            raise DataError(
                f"{self._path()} lacks the problems of task_id 2, 3 and 4, which stand before each problem: give the "
                "published file, or shots=0."
            )
        before = "".join(f"{_question(row)}{row['code']}\n[DONE]\n\n" for row in shots)
        message = "".join(f"{_request(row)}\n```python\n{row['code']}\n```\n\n" for row in shots)
        return [
            _Problem(before + _question(row), row["code"] + "\n[DONE]", message + _request(row), "```python\n", row)
            for number, row in known.items()
            if number in _RANGES[split]
        ]

    def _program(self, facts: Mapping[str, Any], completion: str) -> Program:
        """The tests take from the program the functions and classes that the reference program defines too.

        Any other name that is built in, or a module, is theirs, whatever the program calls so.
        """
        tests, reference = _nodes(facts["tests"]), _defined(_nodes(facts["code"]))
        names = [node for node in tests if isinstance(node, ast.Name)]
        made = {node.id for node in names if not isinstance(node.ctx, ast.Load)} | _defined(tests)
        made |= {node.arg for node in tests if isinstance(node, ast.arg)}
        made |= {(node.asname or node.name).split(".")[0] for node in tests if isinstance(node, ast.alias)}
        free = list(dict.fromkeys(node.id for node in names if node.id not in made))
        modules = [name for name in free if name in sys.stdlib_module_names and name not in reference]
        theirs = [name for name in free if hasattr(builtins, name) and name not in reference]
        imports = "".join(f"import {name}\n" for name in modules)
        wanted = tuple(name for name in free if name not in (*modules, *theirs))
        return Program(program_of(completion), facts["tests"], wanted, imports)


def _mbpp_row(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A row of any published file -> task_id, question, code, the tests that the prompt shows, and all that runs."""
    asserts, imports = _texts(row, "test_list", where), _texts({"test_imports": [], **row}, "test_imports", where)
    setup = _text({"test_setup_code": "", **row}, "test_setup_code", where)
    if not asserts or not isinstance(row.get("task_id"), int):
        raise DataError(f"{where} has no tests, or no whole number 'task_id': give a file in the published format.")
    return {
        "task_id": row["task_id"],
        "question": _text(row, "prompt" if "prompt" in row else "text", where).strip(),
        "code": _text(row, "code", where).replace("\r\n", "\n").strip(),
        "shown": "\n".join(asserts),
        "tests": "\n".join([*imports, setup, *asserts]),
    }


def _question(row: Mapping[str, Any]) -> str:
    """A problem -> the text before its program, as published (the README of the data)."""
    return (
        f"You are an expert Python programmer, and here is your task: {row['question']} Your code should pass these "
        f"tests:\n\n{row['shown']}\n[BEGIN]\n"
    )


def _request(row: Mapping[str, Any]) -> str:
    """A problem -> the message of a conversation."""
    return (
        f"You are an expert Python programmer, and here is your task:\n{row['question']}\n"
        f"Your code should pass these tests:\n{row['shown']}"
    )


def _nodes(source: str) -> list[ast.AST]:
    """Python source -> the nodes of its syntax tree; none of a text that is not Python."""
    with suppress(SyntaxError, ValueError):
        return list(ast.walk(ast.parse(source)))
    return []


def _defined(nodes: Sequence[ast.AST]) -> set[str]:
    """Nodes -> the names of their functions and classes."""
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


# ---- files -----------------------------------------------------------------------------------------------------------


def _files(path: Path, split: str = "") -> list[Path]:
    """A file or a folder -> the file, or the files of rows in the folder; those of a split where one is named."""
    if path.is_dir():
        return sorted(file for ending in ("json*", "parquet") for file in path.glob(f"{split}*.{ending}"))
    return [path] if path.is_file() else []


def _rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A file of rows -> (a name of its place, row) for each."""
    if file.suffix != ".parquet":
        return json_rows(file)
    return ((f"{file}, row {number}", row) for number, row in enumerate(parquet_rows(file), start=1))


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    if not isinstance(row.get(name), str):
        raise DataError(f"{where} has no text '{name}': give a file in the published format.")
    return row[name]


def _texts(row: Mapping[str, Any], name: str, where: str) -> list[str]:
    if not isinstance(row.get(name), list) or not all(isinstance(item, str) for item in row[name]):
        raise DataError(f"{where} has no list of texts '{name}': give a file in the published format.")
    return row[name]
