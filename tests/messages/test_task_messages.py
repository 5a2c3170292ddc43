"""The error messages of tasks, word for word."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unmask.cli.main import main
from unmask.errors import DataError, PluginError, RequestError, UnmaskError
from unmask.tasks import make, names
from unmask.tasks.registry import options


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "class Mine:\n    def __init__(self, word, *, loud: bool = False): raise KeyError('no')\n"
        "class Half:\n    name = 'half'\n    def verify(self, example, completion): ...\n"
    )
    (tmp_path / "empty.py").write_text("Mine = 3\n")
    (tmp_path / "broken.py").write_text("def\n")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "test.jsonl").write_text('{"question": "q", "answer": "#### 1"}\n')
    return tmp_path


def message(error: type[UnmaskError], action: Callable[[], object]) -> str:
    with pytest.raises(error) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


REQUESTS = [
    ("sudokus", "There is no task named 'sudokus'; did you mean 'sudoku'?"),
    ("sudoku:sides=4", "The task 'sudoku' has no option 'sides'; did you mean 'side'?"),
    ("sudoku:4", "'4' in the task 'sudoku:4' is not key=value; write for example sudoku:key=value."),
    ("sudoku:side=four", "side in the task 'sudoku:side=four' is 'four'; give a whole number of at least 1."),
    ("sudoku:side=4,side=6", "side is given twice in the task 'sudoku:side=4,side=6'; give it once."),
    ("sudoku:side=5", "side is 5; a Sudoku here has side 4, 6, 9."),
    ("sudoku:side=4,clues=16", "clues is 16; give how many more than needed, from 0 to 15."),
    ("automaton:length=3", "length in the task 'automaton:length=3' is 3; give a whole number from 4 to 100000."),
    ("automaton:traces=lang", "traces is 'lang'; did you mean 'long'?"),
    (
        "automaton:length=11,traces=mixed",
        "length is 11, but 'mixed' traces may have 12 places or more; give a length of at least 12, or traces=natural.",
    ),
    ("arithmetic:modulus=1", "modulus in the task 'arithmetic:modulus=1' is 1; give a whole number from 2 to 1000."),
    ("arithmetic:length=0", "length in the task 'arithmetic:length=0' is 0; give a whole number from 1 to 256."),
    ("arithmetic:length=3,shortest=4", "shortest is 4; give from 1 to the length, 3."),
    ("countdown:numbers=1", "numbers in the task 'countdown:numbers=1' is 1; give a whole number from 2 to 8."),
    ("countdown:largest=1", "largest in the task 'countdown:largest=1' is 1; give a whole number from 2 to 9999."),
    (
        "countdown:low=9,high=8",
        "low is 9 and high is 8; give a low that is not above high.",
    ),
    ("few-shot:gap=9", "gap is 9, but there are 8 distractors; give a gap of at most as many."),
    ("few-shot:gap=-2", "gap in the task 'few-shot:gap=-2' is -2; give a whole number of at least -1."),
    ("few-shot:words=11", "words in the task 'few-shot:words=11' is 11; give a whole number from 1 to 10."),
    (
        "gsm8k",
        (
            "The 100 problems of GSM8K are not in the cache: unmask fetch gsm8k-100; or name your own with "
            "gsm8k:path=FOLDER."
        ),
    ),
    ("gsm8k:path=set,prompt=talk", "prompt is 'talk'; give plain (a text to continue) or chat (a conversation)."),
    (
        "gsm8k:path=no.jsonl",
        (
            "There is no file or folder with problems at 'no.jsonl'; give a .jsonl file with question and answer in "
            "each row, or a folder that holds train.jsonl or test.jsonl."
        ),
    ),
    (
        "gsm8k:path=set,length=0",
        "length in the task 'gsm8k:path=set,length=0' is 0; give a whole number of at least 1.",
    ),
    (
        "humaneval",
        (
            "The task 'humaneval' needs its problems: run unmask fetch humaneval, or give a file of your own as "
            "humaneval:path=FILE."
        ),
    ),
    (
        "humaneval:path=no.jsonl",
        (
            "There is no file or folder of problems at 'no.jsonl'; give a .jsonl file in the format of HumanEval, or a "
            "folder that holds test.jsonl."
        ),
    ),
    ("humaneval:path=set,prompt=talk", "prompt is 'talk'; give plain (a text to continue) or chat (a conversation)."),
    (
        "mbpp",
        "There is no file ''; give the published file of MBPP, mbpp.jsonl or sanitized-mbpp.json, as mbpp:path=FILE.",
    ),
    (
        "mbpp:path=set,shots=4",
        "shots in the task 'mbpp:path=set,shots=4' is 4; give a whole number from 0 to 3.",
    ),
    ("no/such.py:Mine", "There is no file 'no/such.py'; give the path of a Python file, as in tasks/mine.py:MyTask."),
    ("mine.py", "'mine.py' names no class; write mine.py:MyTask, with the class in that file."),
    ("mine.py:", "'mine.py:' names no class; write mine.py:MyTask, with the class in that file."),
    ("mine.py:word=ab", "'mine.py:word=ab' names no class; write mine.py:MyTask, with the class in that file."),
    ("mine.py:Mind", "mine.py has no class 'Mind'; did you mean 'Mine'?"),
    ("empty.py:Mine", "empty.py has no class 'Mine'; there is no class in it."),
    ("mine.py:Mine", "The task 'mine.py:Mine' needs the option 'word'; write mine.py:Mine:word=..."),
    (
        "mine.py:Mine:word=a,loud=perhaps",
        "loud in the task 'mine.py:Mine:word=a,loud=perhaps' is 'perhaps'; give true or false.",
    ),
    ("mine.py:Half:word=a", "The task 'mine.py:Half' has no option 'word'; it has none."),
]


@pytest.mark.parametrize("text, sentence", REQUESTS, ids=[text for text, _ in REQUESTS])
def test_requests_that_are_not_possible(text: str, sentence: str) -> None:
    assert message(RequestError, lambda: make(text)) == sentence


PLUGINS = [
    ("mine.py:Mine:word=a", "The task 'mine.py:Mine:word=a' cannot be made: KeyError: 'no'."),
    ("mine.py:Half", "'mine.py:Half' is no task: it has no examples and no pairs; see unmask.tasks.base.Task."),
    ("broken.py:Mine", "broken.py cannot be run: SyntaxError: invalid syntax (broken.py, line 1)."),
]


@pytest.mark.parametrize("text, sentence", PLUGINS, ids=[text for text, _ in PLUGINS])
def test_errors_of_plug_in_tasks(text: str, sentence: str) -> None:
    assert message(PluginError, lambda: make(text)) == sentence


def test_no_problem_can_be_found() -> None:
    task = make("countdown:numbers=2,largest=2,low=50,high=60")
    assert message(RequestError, lambda: task.examples("test", 1)) == (
        "no problem was found for countdown:numbers=2,largest=2,low=50,high=60 in 10,000 tries; widen low and high, or "
        "change the numbers."
    )


ROWS = [
    ("{", "set/test.jsonl, line 2 is not JSON in UTF-8 ("),
    ('["q"]', 'set/test.jsonl, line 2 is no problem; write rows such as {"question": "...", "answer": "... #### 42"}.'),
    ('{"question": "q", "answer": 42}', "set/test.jsonl, line 2 is no problem; write rows"),
    (
        '{"question": "q", "answer": "many"}',
        "set/test.jsonl, line 2 has an answer whose final number cannot be read whole ('many'); end it with a line",
    ),
    (
        '{"question": "q", "answer": "so 18\\n#### 18k"}',
        "set/test.jsonl, line 2 has an answer whose final number cannot be read whole ('#### 18k'); end it with a line",
    ),
]


@pytest.mark.parametrize("row, sentence", ROWS, ids=[row for row, _ in ROWS])
def test_a_file_with_a_row_that_is_no_problem(here: Path, row: str, sentence: str) -> None:
    with (here / "set" / "test.jsonl").open("a") as file:
        file.write(row)
    assert message(DataError, lambda: make("gsm8k:path=set").examples("test", 1)).startswith(sentence)


PROGRAMS = [
    ("humaneval", "test", {}, "programs.jsonl, line 1 has no text 'task_id': give a file in the published format."),
    (
        *("humaneval", "train", {}),
        (
            "There are no problems of the split 'train' in programs.jsonl: HumanEval is for test; give a folder that "
            "holds train.jsonl, or choose another task, such as mbpp."
        ),
    ),
    (
        "mbpp",
        "test",
        {},
        "programs.jsonl, line 1 has no list of texts 'test_list': give a file in",
    ),
    (
        *("mbpp", "test", {"test_list": [], "task_id": 11}),
        "programs.jsonl, line 1 has no tests, or no whole number 'task_id': give a file in the published format.",
    ),
    (
        *("mbpp", "test", {"test_list": ["assert 1"], "task_id": 11, "text": "q", "code": "x = 1"}),
        (
            "programs.jsonl lacks the problems of task_id 2, 3 and 4, which stand before each problem: give the "
            "published file, or shots=0."
        ),
    ),
    (
        *("mbpp:shots=0", "train", {"test_list": ["assert 1"], "task_id": 11, "text": "q", "code": "x = 1"}),
        "programs.jsonl has no problems of the split 'train': give a file with more rows.",
    ),
]


@pytest.mark.parametrize("name, split, row, sentence", PROGRAMS)
def test_a_file_without_programs(here: Path, name: str, split: str, row: dict[str, Any], sentence: str) -> None:
    (here / "programs.jsonl").write_text(json.dumps(row))
    task = make(name.replace("mbpp:", "mbpp:path=programs.jsonl,") if ":" in name else f"{name}:path=programs.jsonl")
    assert message(DataError, lambda: task.examples(split, 1)).startswith(sentence)


MATHS = [
    (None, "There is no file or folder with problems at 'maths'; give a folder that holds test.jsonl of MATH-500, or"),
    ("", "maths/test.jsonl has no problems for the split 'test'; give a file with more rows."),
    ("{", "maths/test.jsonl, line 1 is not JSON"),
    ('{"question": "q", "answer": "1"}', "maths/test.jsonl, line 1 is no problem; write rows such as {"),
    ('{"problem": "q", "solution": "It is 1."}', "maths/test.jsonl, line 1 has no answer: write it as"),
]


@pytest.mark.parametrize("row, sentence", MATHS, ids=[str(row) for row, _ in MATHS])
def test_a_folder_that_is_not_math(here: Path, row: str | None, sentence: str) -> None:
    if row is not None:
        (here / "maths").mkdir()
        (here / "maths" / "test.jsonl").write_text(row + "\n")
    error = RequestError if row is None else DataError
    assert message(error, lambda: make("math-500:path=maths").examples("test", 1)).startswith(sentence)


def test_a_split_without_problems(here: Path) -> None:
    assert message(DataError, lambda: make("gsm8k:path=set").examples("valid", 1)) == (
        "There is no set/train.jsonl, so that gsm8k:path=set,length=256 has no problems for the split 'valid'."
    )
    (here / "set" / "train.jsonl").write_text("\n")
    assert message(DataError, lambda: make("gsm8k:path=set").examples("train", 1)) == (
        "set/train.jsonl has no problems for the split 'train'; give a file with more rows."
    )


def test_the_package_of_the_gym(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "reasoning_gym", None)
    assert message(RequestError, lambda: make("gym:dataset=countdown")) == (
        "The task 'gym' needs the package reasoning-gym: pip install 'unmask[tasks]'."
    )


def test_list_tasks_shows_lines_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "tasks"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == sorted(names())
    for line, (name, about) in zip(shown, names().items(), strict=True):
        assert about in line
        assert all(key in line for key in options(name))
    assert "Options: side=6, clues=0." in shown[-1]
    assert main(["list", "tasks", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["tasks"]) == set(names())
