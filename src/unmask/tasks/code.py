"""Programming problems with tests: HumanEval (arXiv:2107.03374) and MBPP (arXiv:2108.07732), as they are published.

Prompts, the reading of an answer and the tests are the same in training and in evaluation. A program runs in
`tasks.sandbox`; it is right if all its tests pass.
"""

__all__ = ["HumanEval", "Mbpp", "program_of"]

import ast
import builtins
import hashlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from unmask.config import cache_folder, to_path
from unmask.data.documents import json_rows
from unmask.disk.files import file_sha256
from unmask.errors import DataError, RequestError
from unmask.noise import derive
from unmask.ranges import Count, check_numbers
from unmask.tasks.base import SPLITS, Example, Verdict, check_split, escaped
from unmask.tasks.sandbox import Program, run_programs

_HUMANEVAL, _MBPP = 0x4E7A, 0x3B99  # streams of random numbers, for the order of problems
_TEXT = "humaneval"
_OPENING = re.compile(r"```(?:python|py)?[ \t]*\n", re.IGNORECASE)
_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # where HumanEval ends the body of a function
_SHOTS = (2, 3, 4)  # task_id of the problems in MBPP's prompt
_RANGES = {"train": range(601, 975), "valid": range(511, 601), "test": range(11, 511)}  # task_id of MBPP's splits


def program_of(completion: str) -> str:
    """The text of an answer -> the program in it.

    A program stands in the first block between lines of three backquotes, or between [BEGIN] and [DONE]; either mark
    may be missing at the beginning, where the prompt has it, and at the end, where the answer was cut. Without marks
    the whole text is the program.
    """
    text = completion.split("[BEGIN]", 1)[-1].split("[DONE]", 1)[0]
    opening = _OPENING.search(text)
    before = text[: opening.start()] if opening else ""
    if opening and (not before.strip() or text.count("```") > 1 or opening[0].strip() != "```"):
        text = text[opening.end() :]
    return text.split("```", 1)[0]


# ---- HumanEval -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HumanEval:
    """Write the body of a Python function from its head and description, in HumanEval's format; all tests must pass.

    `path` is a .jsonl file, all of whose problems are for test, or a folder that holds test.jsonl, and train.jsonl and
    valid.jsonl if there is training; by default the 164 problems that `unmask fetch humaneval` brings. `length` is the
    tokens of the hole for the answer, `seconds` the processor time that a program may take.
    """

    path: str = ""
    length: Count = 256
    seconds: Count = 5

    def __post_init__(self) -> None:
        check_numbers(self, error=RequestError)
        if not _files(self._path()):
            raise RequestError(
                f"There is no file or folder of problems at '{self.path}'; give a .jsonl file in the format of "
                "HumanEval, or a folder that holds test.jsonl."
                if self.path
                else f"The task 'humaneval' needs its problems: run unmask fetch {_TEXT}, or give a file of your own "
                "as humaneval:path=FILE."
            )

    @property
    def name(self) -> str:
        return f"humaneval:path={self.path},length={self.length},seconds={self.seconds}"

    @property
    def fingerprint(self) -> str:
        """The sha256 of all files, in hexadecimal."""
        return _fingerprint(self._path())

    def examples(self, split: str, count: int, seed: int = 0) -> Sequence[Example]:
        """Problems in an order that depends on the seed; `facts` holds "prompt", "test", "entry_point" and "task_id".

        Raises DataError for a file that cannot be read, and where there are no problems of the split.
        """
        return [
            Example(escaped(row["prompt"]) + f"[{self.length}]", row["canonical_solution"], row)
            for row in self._rows(split, seed)[:count]
        ]

    def verify(self, example: Example, completion: str) -> Verdict:
        """Right if the tests pass; see `verify_all`."""
        return self.verify_all([(example, completion)])[0]

    def verify_all(self, pairs: Sequence[tuple[Example, str]]) -> list[Verdict]:
        """Problems and answers -> verdicts; programs run side by side.

        An answer that defines the function again is a whole program, and follows the prompt. Any other is its body, and
        ends where the next statement of the file begins.
        """
        return _verdicts([_human_eval_program(example.facts, text) for example, text in pairs], self.seconds)

    def pairs(self, split: str, count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
        """The prompt, and the reference body."""
        return ((row["prompt"], row["canonical_solution"]) for row in self._rows(split, seed)[:count])

    def _path(self) -> Path:
        return to_path(self.path) if self.path else cache_folder() / "texts" / _TEXT

    def _rows(self, split: str, seed: int) -> list[dict[str, str]]:
        number, path = check_split(split), self._path()
        file = path / f"{split}.jsonl" if path.is_dir() else path
        if not file.is_file() or (split != "test" and not path.is_dir()):
            raise DataError(
                f"There are no problems of the split '{split}' in {path}: HumanEval is for test; give a folder that "
                f"holds {split}.jsonl, or train on another task, such as mbpp."
            )
        names = ("task_id", "prompt", "canonical_solution", "test", "entry_point")
        rows = [{name: _text(row, name, where) for name in names} for where, row in json_rows(file)]
        Random(derive(seed, _HUMANEVAL, number)).shuffle(rows)
        return _some(rows, file, split)


def _human_eval_program(facts: Mapping[str, Any], completion: str) -> Program:
    """The facts of a problem and an answer -> the program and its tests."""
    prompt, name, text = facts["prompt"], facts["entry_point"], program_of(completion)
    empty = f"{prompt}\n    pass\n"  # its imports and the functions before the last
    if re.search(rf"^(async )?def {re.escape(name)}\b", text, re.MULTILINE):
        source = f"{empty}\n{text}"
    else:
        ends = [at for stop in _STOPS if (at := text.find(stop)) >= 0]
        source = prompt + text[: min(ends, default=len(text))]
    return Program(source, f"{facts['test']}\ncheck({name})\n", (name,), empty)


# ---- MBPP ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mbpp:
    """Write a Python function from a sentence and its tests, in MBPP's format; all tests must pass.

    `path` is the published file, mbpp.jsonl or sanitized-mbpp.json. The splits are the published ones: task_id 11 to
    510 for test, 511 to 600 for validation, 601 to 974 for training. `shots` problems with their answers, task_id 2, 3
    and 4, stand before each problem. `length` is the tokens of the hole for the answer, `seconds` the processor time
    that a program may take.
    """

    path: str
    length: Count = 256
    shots: int = 3
    seconds: Count = 5

    def __post_init__(self) -> None:
        check_numbers(self, error=RequestError)
        if not 0 <= self.shots <= len(_SHOTS):
            raise RequestError(f"shots is {self.shots}; give a whole number from 0 to {len(_SHOTS)}.")
        if not to_path(self.path).is_file():
            raise RequestError(
                f"There is no file '{self.path}'; give the published file of MBPP, mbpp.jsonl or sanitized-mbpp.json."
            )

    @property
    def name(self) -> str:
        return f"mbpp:path={self.path},length={self.length},shots={self.shots},seconds={self.seconds}"

    @property
    def fingerprint(self) -> str:
        """The sha256 of the file, in hexadecimal."""
        return _fingerprint(to_path(self.path))

    def examples(self, split: str, count: int, seed: int = 0) -> Sequence[Example]:
        """Problems in an order that depends on the seed; `facts` holds "task_id", "code" and "tests".

        Raises DataError for a file that cannot be read, and where there are no problems of the split.
        """
        before, rows = self._rows(split, seed)
        return [
            Example(
                escaped(before + _question(row)) + f"[{self.length}]",
                _answer(row),
                {name: row[name] for name in ("task_id", "code", "tests")},
            )
            for row in rows[:count]
        ]

    def verify(self, example: Example, completion: str) -> Verdict:
        """Right if the tests pass; see `verify_all`."""
        return self.verify_all([(example, completion)])[0]

    def verify_all(self, pairs: Sequence[tuple[Example, str]]) -> list[Verdict]:
        """Problems and answers -> verdicts; programs run side by side."""
        return _verdicts([_mbpp_program(example.facts, text) for example, text in pairs], self.seconds)

    def pairs(self, split: str, count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
        """The prompt with its examples, and the reference program."""
        before, rows = self._rows(split, seed)
        return ((before + _question(row), _answer(row)) for row in rows[:count])

    def _rows(self, split: str, seed: int) -> tuple[str, list[dict[str, Any]]]:
        """The examples before each problem, and the problems of a split."""
        number, file = check_split(split), to_path(self.path)
        rows = {row["task_id"]: row for row in (_mbpp_row(row, where) for where, row in json_rows(file))}
        shots = [rows[identity] for identity in _SHOTS[: self.shots] if identity in rows]
        if len(shots) < self.shots:
            raise DataError(
                f"{file} lacks the problems of task_id 2, 3 and 4, which stand before each problem: give the published "
                "file, or shots=0."
            )
        chosen = [row for identity, row in rows.items() if identity in _RANGES[split]]
        Random(derive(seed, _MBPP, number)).shuffle(chosen)
        before = "".join(f"{_question(row)}{_answer(row)}\n\n" for row in shots)
        return before, _some(chosen, file, split)


def _mbpp_row(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A row of either published file -> task_id, question, code, the tests that the prompt shows, and all that runs."""
    identity, asserts = row.get("task_id"), _texts(row, "test_list", where)
    imports = _texts(row, "test_imports", where) if "test_imports" in row else []
    if not isinstance(identity, int):
        raise DataError(f"{where} has no whole number 'task_id': give a file in the format of MBPP.")
    setup = _text(row, "test_setup_code", where) if "test_setup_code" in row else ""
    return {
        "task_id": identity,
        "question": _text(row, "prompt" if "prompt" in row else "text", where).strip(),
        "code": _text(row, "code", where).replace("\r\n", "\n").strip(),
        "shown": asserts,
        "tests": "\n".join([*imports, setup, *asserts]),
    }


def _question(row: Mapping[str, Any]) -> str:
    """A problem -> the text before its program, as published (arXiv:2108.07732, section 3)."""
    tests = "\n".join(row["shown"])
    return (
        f"You are an expert Python programmer, and here is your task: {row['question']} "
        f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
    )


def _answer(row: Mapping[str, Any]) -> str:
    return f"{row['code']}\n[DONE]"


def _mbpp_program(facts: Mapping[str, Any], completion: str) -> Program:
    """The facts of a problem and an answer -> the program and its tests.

    The tests take from the program the functions and classes that the reference program defines too. Any other name
    that is built in, or a module, is theirs, whatever the program calls so.
    """
    tests, reference = _nodes(facts["tests"]), _nodes(facts["code"])
    names = [node for node in tests if isinstance(node, ast.Name)]
    made = {node.id for node in names if not isinstance(node.ctx, ast.Load)} | _defined(tests)
    made |= {node.arg for node in tests if isinstance(node, ast.arg)}
    made |= {(node.asname or node.name).split(".")[0] for node in tests if isinstance(node, ast.alias)}
    free = list(dict.fromkeys(node.id for node in names if node.id not in made))
    modules = [name for name in free if name in sys.stdlib_module_names and name not in _defined(reference)]
    theirs = [name for name in free if hasattr(builtins, name) and name not in _defined(reference)]
    imports = "".join(f"import {name}\n" for name in modules)
    names = tuple(name for name in free if name not in (*modules, *theirs))
    return Program(program_of(completion), facts["tests"], names, imports)


def _nodes(source: str) -> list[ast.AST]:
    """Python source -> the nodes of its syntax tree; none of a text that is not Python."""
    try:
        return list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):
        return []


def _defined(nodes: Sequence[ast.AST]) -> set[str]:
    """Nodes -> the names of their functions and classes."""
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


# ---- both ------------------------------------------------------------------------------------------------------------


def _verdicts(programs: Sequence[Program], seconds: int) -> list[Verdict]:
    """Programs -> 1 where all tests pass, else 0 with the reason."""
    outcomes = run_programs(programs, seconds)
    return [Verdict(float(outcome.status == "passed"), outcome.why) for outcome in outcomes]


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return [file for split in SPLITS if (file := path / f"{split}.jsonl").is_file()]
    return [path] if path.is_file() else []


def _fingerprint(path: Path) -> str:
    return hashlib.sha256("\n".join(map(file_sha256, _files(path))).encode()).hexdigest()


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise DataError(f"{where} has no text '{name}': give a file in the published format.")
    return value


def _texts(row: Mapping[str, Any], name: str, where: str) -> list[str]:
    value = row.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DataError(f"{where} has no list of texts '{name}': give a file in the published format.")
    return value


def _some(rows: list[Any], file: Path, split: str) -> list[Any]:
    """The rows, if there are any. Raises DataError where there are none."""
    if not rows:
        raise DataError(f"{file} has no problems of the split '{split}': give a file with more rows.")
    return rows
