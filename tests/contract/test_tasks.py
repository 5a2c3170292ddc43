"""Every registered task fulfils its contract, `check_task` detects each violation, and plug-in tasks can be made."""

import json
import math
import random
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.extras import library

from unmask.errors import PluginError, RequestError
from unmask.noise import derive
from unmask.tasks import judge, judge_all, make, names
from unmask.tasks.base import SPLITS, Example, Task, Verdict, escaped, joined_holes
from unmask.tasks.code import HumanEval, Mbpp, program_of
from unmask.tasks.registry import fingerprint, options
from unmask.testing import check_task
from unmask.text.template import Hole, parse_template


@dataclass
class SumsConfig:
    """A configuration in the form of reasoning-gym's."""

    largest: int = 50
    negative: bool = False
    scale: float = 1.0
    seed: int | None = None
    size: int = 500

    def validate(self) -> None:
        if self.largest <= 0:
            raise ValueError("largest must be positive")


class Sums:
    """A data set in the form of reasoning-gym: problem n of a seed depends on seed + n, answers have part scores."""

    def __init__(self, config: SumsConfig) -> None:
        self.config = config

    def __getitem__(self, number: int) -> dict[str, Any]:
        generator = random.Random((self.config.seed or 0) + number)
        a, b = generator.randint(0, self.config.largest), generator.randint(0, self.config.largest)
        return {"question": f"[{number}] {a} + {b} \\ 1?", "answer": str(a + b), "metadata": {"a": a, "b": b}}

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        return 1.0 if int(answer or "x") == entry["metadata"]["a"] + entry["metadata"]["b"] else 0.01


class Nameless(Sums):
    """A data set without reference answers."""

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {**super().__getitem__(number), "answer": None}


def stand_in() -> dict[str, ModuleType]:
    """The modules of a package with the interface of reasoning-gym and two data sets."""
    package, factory = ModuleType("reasoning_gym"), ModuleType("reasoning_gym.factory")
    known = {"sums": (Sums, SumsConfig), "nameless": (Nameless, SumsConfig)}

    def create_dataset(name: str, **settings: Any) -> Sums:
        dataset, configuration = known[name]
        config = configuration(**settings)
        config.validate()
        return dataset(config)

    factory.DATASETS = known  # type: ignore[attr-defined]
    package.factory, package.create_dataset, package.__version__ = factory, create_dataset, "0"  # type: ignore
    return {"reasoning_gym": package, "reasoning_gym.factory": factory}


@pytest.fixture
def gym(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in stand_in().items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    """A file in the format of GSM8K with enough rows for each split."""
    rows = [{"question": f"[{n}] apples \\ and {n + 1}?", "answer": f"{n}+{n + 1} = {2 * n + 1}.\n#### {2 * n + 1:,}"}
            for n in range(480, 640)]  # fmt: skip
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def maths(tmp_path: Path) -> Path:
    """A folder in the layout of MATH: a file for each problem."""
    for split, n in (pair for split in ("train", "test") for pair in product([split], range(150))):
        folder = tmp_path / "maths" / split / ("algebra" if n % 2 else "geometry")
        folder.mkdir(parents=True, exist_ok=True)
        row = {"problem": f"[{split}] Halve ${n}$.", "level": "Level 2", "type": "Algebra"}
        row["solution"] = f"It is \\boxed{{\\frac{{{n}}}{{2}}}}."
        (folder / f"{n}.json").write_text(json.dumps(row, indent=1), encoding="utf-8")
    return tmp_path / "maths"


@pytest.fixture
def chains(tmp_path: Path) -> Path:
    """A file of antibody chains with enough lineages for each split."""
    draw = random.Random(3)
    rows = [{"cdr3": "".join(draw.choices("ADGSWY", k=9 + n % 5)), "clone": str(n)} for n in range(80)]
    lines = [json.dumps({**row, "sequence": f"EVQLV{row['cdr3'][::-1]}YYC{row['cdr3']}WGQGTLVTVSS"}) for row in rows]
    path = tmp_path / "chains.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder in the format of HumanEval, with a file for each split."""
    (tmp_path / "programs").mkdir()
    HumanEval.write_sample(tmp_path / "programs")
    return tmp_path / "programs"


@pytest.fixture
def mbpp(tmp_path: Path) -> Path:
    """A file in the format of MBPP."""
    Mbpp.write_sample(tmp_path)
    return tmp_path / "mbpp.jsonl"


EXAMPLES = {
    "antibody-cdr3": ("antibody-cdr3:path={chains}", "antibody-cdr3:path={chains},longest=4"),
    "arithmetic": ("arithmetic", "arithmetic:modulus=23,length=3,shortest=3", "arithmetic:modulus=2,shortest=9"),
    "automaton": tuple(f"automaton:traces={traces}" for traces in ("natural", "long", "mixed", "short")),
    "countdown": ("countdown", "countdown:numbers=2,largest=9,low=1", "countdown:numbers=6,high=999"),
    "few-shot": ("few-shot", "few-shot:gap=0,words=1", "few-shot:gap=8", "few-shot:relevant=1,distractors=0,length=1"),
    "gsm8k": ("gsm8k:path={problems}", "gsm8k:path={problems},prompt=chat"),
    "math-500": ("math-500:path={maths}", "math-500:path={maths},prompt=chat,length=64"),
    "gym": (
        "gym:dataset=sums",
        "gym:dataset=nameless,length=3",
        "gym:dataset=sums,largest=9,negative=true,size=9",
        "gym:dataset=sums,length=4,tail=true",
    ),
    "humaneval": ("humaneval:path={programs}", "humaneval:path={programs},prompt=chat"),
    "infill": ("infill", "infill:shortest=2,longest=3,window=9,score=exact", "infill:score=bigrams"),
    "mbpp": ("mbpp:path={mbpp}", "mbpp:path={mbpp},shots=0,length=9,prompt=chat"),
    "sudoku": ("sudoku", "sudoku:side=4", "sudoku:side=4,clues=15"),
}


def require_isolation() -> None:
    """Skip the test where the system cannot isolate programs."""
    if sys.platform != "linux":
        pytest.skip("programs are isolated on Linux alone")


def test_every_registered_task_is_tried() -> None:
    assert set(EXAMPLES) == set(names())


@pytest.mark.parametrize("text", [text for texts in EXAMPLES.values() for text in texts])
@pytest.mark.usefixtures("gym")
def test_a_registered_task_fulfils_the_contract(
    text: str, problems: Path, chains: Path, maths: Path, programs: Path, mbpp: Path
) -> None:
    if text.startswith(("humaneval", "mbpp")):
        require_isolation()
    text = text.format(problems=problems, chains=chains, maths=maths, programs=programs, mbpp=mbpp)
    check_task(lambda: make(text), count=4)
    assert make(make(text).name).name == make(text).name
    assert make(text).examples("test", 3) == make(make(text).name).examples("test", 3)
    assert make(text).examples("test", 0) == []
    with pytest.raises(RequestError, match="There is no split named 'tets'; did you mean 'test'"):
        make(text).examples("tets", 1)


@pytest.mark.slow
def test_the_largest_sudoku_fulfils_the_contract() -> None:
    check_task(lambda: make("sudoku:side=9"), count=3)


@pytest.mark.parametrize("text", ["arithmetic", "automaton:traces=mixed", "countdown", "sudoku"])
def test_an_answer_fills_its_holes_letter_by_letter(text: str) -> None:
    """Canvases have one fixed width, in training and in evaluation, with a tokenizer of single characters."""
    task, widths = make(text), set[int]()
    for example in task.examples("valid", 20):
        parts = parse_template(example.template)
        assert sum(part.length for part in parts if isinstance(part, Hole)) == len(example.answer)
        widths.add(len(example.answer) + sum(len(part) for part in parts if isinstance(part, str)))
    widths |= {len(prompt) + len(answer) for prompt, answer in task.pairs("valid", 20)}
    assert len(widths) == 1


@pytest.mark.parametrize("text", ["arithmetic", "automaton", "countdown"])
def test_a_pair_is_the_prompt_and_the_answer_of_a_problem(text: str) -> None:
    task = make(text)
    for (prompt, answer), example in zip(task.pairs("train", 9), task.examples("train", 9), strict=True):
        assert answer == example.answer
        assert [prompt, Hole(len(answer))] == parse_template(example.template)


class Right:
    """A task that fulfils its contract; each control breaks one rule."""

    name = "right"

    def examples(self, split: str, count: int, seed: int = 0) -> Sequence[Example]:
        generator = random.Random(derive(seed, SPLITS.index(split)))
        return [self.draw(generator) for _ in range(count)]

    def draw(self, generator: random.Random) -> Example:
        number = generator.randrange(10**6)
        return Example(f"{number:06}=[6]", f"{number:06}"[::-1], {"unique": True})

    def verify(self, example: Example, completion: str) -> Verdict:
        return Verdict(float(completion == example.answer), "no")

    def pairs(self, split: str, count: int, seed: int = 0) -> Iterator[Any]:
        return ((example.template.split("[")[0], example.answer) for example in self.examples(split, count, seed))


class Random(Right):
    def draw(self, generator: random.Random) -> Example:
        return super().draw(random.Random(random.random()))


class Longer(Right):
    def examples(self, split: str, count: int, seed: int = 0) -> Sequence[Example]:
        return list(reversed(super().examples(split, count, seed)))


class Seedless(Right):
    def examples(self, split: str, count: int, seed: int = 0) -> Sequence[Example]:
        return super().examples(split, count, 0)


class Leaking(Right):
    def examples(self, split: str, count: int, seed: int = 0) -> Sequence[Example]:
        return super().examples("train", count, seed)


class Empty(Right):
    def examples(self, split: str, count: int, seed: int = 0) -> Sequence[Example]:
        return []


class Bracketed(Right):
    def draw(self, generator: random.Random) -> Example:
        return replace(super().draw(generator), template=f"{generator.random()} [six]")


class Strict(Right):
    def verify(self, example: Example, completion: str) -> Verdict:
        return Verdict(0.0, "never")


class Lenient(Right):
    def verify(self, example: Example, completion: str) -> Verdict:
        return Verdict(float(completion[:5] == example.answer[:5]))


class Yes(Right):
    def verify(self, example: Example, completion: str) -> Verdict:
        return Verdict(1.0)


class Counting(Right):
    def __init__(self) -> None:
        self.asked = 0

    def verify(self, example: Example, completion: str) -> Verdict:
        self.asked += 1
        return Verdict(1.0) if completion == example.answer else Verdict(self.asked / 10**6)


class Writing(Right):
    def verify(self, example: Example, completion: str) -> Verdict:
        example.facts["seen"] = completion  # type: ignore[index]
        return super().verify(example, completion)


class Lists(Right):
    def pairs(self, split: str, count: int, seed: int = 0) -> Iterator[Any]:
        return map(list, super().pairs(split, count, seed))


class Pairless(Right):
    def pairs(self, split: str, count: int, seed: int = 0) -> Iterator[Any]:
        return iter(())


class Throwing(Right):
    def verify(self, example: Example, completion: str) -> Verdict:
        return Verdict(float(int(completion) == int(example.answer)))


class Boundless(Right):
    def verify(self, example: Example, completion: str) -> Verdict:
        return Verdict(2.0 if completion == example.answer else 0.0)


CONTROLS: list[tuple[type[Right], str]] = [
    (Random, "gives other problems for the same split and seed"),
    (Longer, "gives other problems when fewer are asked for"),
    (Seedless, "gives the same problems for another seed"),
    (Leaking, "has most problems of the split valid in the split train too"),
    (Empty, "gave 0 problems of the split train where up to 8 were asked for"),
    (Bracketed, "which cannot be read: [six] is not a hole"),
    (Strict, "a score of 0.0: never"),
    (Lenient, "for right in the problem"),
    (Yes, "takes '' for right in the problem"),
    (Counting, "gives the same text another score"),
    (Writing, "changes the problem it is given"),
    (Lists, "as a pair; give a prompt and an answer"),
    (Pairless, "has no pairs to train on"),
    (Throwing, "failed on the completion '': ValueError"),
    (Boundless, "gave a score of 2.0 on the completion"),
]


def test_the_base_of_the_controls_fulfils_the_contract() -> None:
    check_task(Right)


@pytest.mark.parametrize("task, sentence", CONTROLS, ids=[task.__name__ for task, _ in CONTROLS])
def test_each_violation_is_detected(task: type[Right], sentence: str) -> None:
    state = random.getstate()
    with pytest.raises(PluginError) as caught:
        check_task(task)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert random.getstate() == state


def judged(answer: Callable[[], Any], seconds: float = 10.0) -> Verdict:
    """The verdict of a verifier that returns `answer()`."""
    task = Right()
    task.verify = lambda example, completion: answer()  # type: ignore[method-assign]
    return judge(task, Example("[1]", "1"), "text", seconds)


def test_a_valid_verdict_is_returned() -> None:
    assert judged(lambda: Verdict(0.25, "part")) == Verdict(0.25, "part")
    assert judged(lambda: Verdict(1)).score == 1


def _hang() -> Verdict:
    time.sleep(0.4)
    return Verdict(1.0)


@pytest.mark.parametrize(
    "answer, sentence",
    [
        (
            lambda: 1 / 0,
            "failed on the completion 'text': ZeroDivisionError: division by zero; give what it cannot read",
        ),
        (lambda: sys.exit(3), "failed on the completion 'text': SystemExit: 3"),
        (lambda: Verdict(math.nan), "gave a score of nan on the completion 'text'; a score lies between 0 and 1."),
        (lambda: Verdict(1.5), "gave a score of 1.5 on the completion 'text'; a score lies between 0 and 1."),
        (lambda: Verdict(-0.1), "gave a score of -0.1"),
        (lambda: 1.0, "answered 1.0 on the completion 'text'; it has to be a Verdict with a number as score."),
        (lambda: Verdict("1"), "it has to be a Verdict with a number as score"),  # type: ignore[arg-type]
        (lambda: Verdict(True), "it has to be a Verdict with a number as score"),
        (lambda: None, "answered None"),
        (_hang, "took more than 0.05 s over the completion 'text'; let it give up earlier with a score of 0."),
    ],
)
def test_an_error_of_a_verifier_is_a_sentence(answer: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(PluginError) as caught:
        judged(answer, 0.05 if answer is _hang else 10.0)
    assert str(caught.value).startswith("The verifier of 'right' ")
    assert sentence in str(caught.value)


@pytest.mark.parametrize("wrong", ["hangs", "fails", None])
def test_many_are_judged_in_order_and_the_error_names_the_completion(wrong: str | None) -> None:
    """The limit of seconds is per verdict: all together take longer, and the error names the completion that hangs."""

    class Wrong(Right):
        def verify(self, example: Example, completion: str) -> Verdict:
            time.sleep(5.0 if completion == wrong == "hangs" else 0.03)
            return Verdict(1 / 0 if completion == wrong else len(completion) / 10)

    task = Wrong()
    pairs = [(Example("[1]", "1"), text) for text in ["a" * n for n in range(10)] + ["hangs", "fails"]]
    if wrong is None:
        assert [verdict.score for verdict in judge_all(task, pairs, 0.25)] == [len(text) / 10 for _, text in pairs]
        return
    with pytest.raises(PluginError, match=f"over the completion '{wrong}'|failed on the completion '{wrong}'"):
        judge_all(task, pairs, 0.25)


class Together(Right):
    """It judges all pairs at once, and one of them wrongly where `wrong` is set."""

    wrong: Any = None

    def verify_all(self, pairs: Sequence[tuple[Example, str]]) -> list[Any]:
        verdicts: list[Any] = [Verdict(float(text == "1")) for _, text in pairs]
        return verdicts if self.wrong is None else self.wrong(verdicts)


def test_a_task_may_judge_all_pairs_at_once() -> None:
    task, pairs = Together(), [(Example("[1]", "1"), text) for text in ("1", "2")]
    assert judge_all(task, pairs) == [Verdict(1.0), Verdict(0.0)]
    for wrong, sentence in {
        (lambda verdicts: verdicts[:1]): "gave 1 verdicts on 2 completions; give one for each.",
        (lambda verdicts: [*verdicts[:1], 1.0]): "answered 1.0 on the completion '2'",
        (lambda verdicts: 1 / 0): "failed: ZeroDivisionError: division by zero.",
    }.items():
        task.wrong = wrong
        with pytest.raises(PluginError, match=f"The verifier of 'right' {re.escape(sentence)}"):
            judge_all(task, pairs)


MINE = '''
"""A module."""
from __future__ import annotations
from dataclasses import dataclass
from unmask.tasks.base import Example, Verdict

@dataclass(frozen=True, slots=True)
class Mine:
    """Repeats a word."""
    word: str
    times: int = 2
    loud: bool = False
    rate: float | None = None

    @property
    def name(self): return f"mine:word={self.word}"
    def examples(self, split, count, seed=0): return [Example("[3]", self.word * self.times)] * count
    def verify(self, example, completion): return Verdict(float(completion == example.answer))
    def pairs(self, split, count, seed=0): return iter([("", self.word)] * count)

class Half:
    """No task."""
    name = "half"
    def verify(self, example, completion): return Verdict(0.0)

class Raising:
    def __init__(self): raise KeyError("no")
'''


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def test_a_task_from_a_file(mine: Path) -> None:
    task: Any = make(f"{mine}:Mine:word=ab,times=3,loud=true,rate=.5")
    assert (task.word, task.times, task.loud, task.rate) == ("ab", 3, True, 0.5)
    assert judge(task, task.examples("test", 1)[0], "ababab") == Verdict(1.0)
    assert make(f"{mine}:Mine:word=ab,loud=no").loud is False  # type: ignore[attr-defined]
    before = fingerprint(task)
    mine.write_text(MINE.replace("times: int = 2", "times: int = 4"))
    again: Any = make(f"{mine}:Mine:word=ab")
    assert again.times == 4
    assert fingerprint(again) != before
    assert fingerprint(make("sudoku")) == ""


def test_a_task_of_another_package(tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine-1.0.dist-info").mkdir()
    (tmp_path / "mine-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (tmp_path / "mine-1.0.dist-info" / "entry_points.txt").write_text(
        "[unmask.tasks]\nmine = mine:Mine\nlost = mine:Lost\nword = mine:MINE\nsudoku = mine:Mine\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    assert make("mine:word=ab").name == "mine:word=ab"
    assert names()["mine"] == "Repeats a word."
    assert options("mine") == {"word": "", "times": "2", "loud": "False", "rate": "None"}
    assert type(make("sudoku")).__module__ == "unmask.tasks.sudoku"
    assert "cannot be loaded: AttributeError" in names()["lost"]
    for name in ("lost", "word"):
        with pytest.raises(PluginError):
            make(name)
    with pytest.raises(RequestError, match="did you mean 'mine'"):
        make("mien")


def test_the_adapter_passes_settings_and_returns_scores(gym: None) -> None:
    task: Any = make("gym:dataset=sums,largest=9,negative=true,scale=0.5,size=5,length=7")
    assert task.settings == {"largest": 9, "negative": True, "scale": 0.5}
    assert make(task.name).name == task.name
    assert len(task.examples("test", 99)) == 5
    example = task.examples("test", 1)[0]
    assert example.template.endswith("\n[7]")
    assert parse_template(example.template)[0] == example.facts["entry"]["question"] + "\n"
    right = example.answer
    assert task.verify(example, f" {right}\n") == Verdict(1.0)
    assert task.verify(example, f"so <answer>0</answer> or <answer> {right} </answer>.").score == 1.0
    assert task.verify(example, str(int(right) + 1)) == Verdict(0.01, f"'{int(right) + 1}' has a score of 0.01")
    assert task.verify(example, "many").score == 0.0  # the scorer raises
    seen = [{example.template for example in task.examples(split, 5, seed)} for split in SPLITS for seed in (0, 1)]
    assert sum(map(len, seen)) == len(set[str]().union(*seen))


def test_with_a_tail_answers_fill_their_hole(gym: None) -> None:
    """Control: without it they do not, and underscores are not taken away."""
    task, plain = make("gym:dataset=sums,length=7,tail=true"), make("gym:dataset=sums,length=7")
    for example, (prompt, answer) in zip(task.examples("train", 9), task.pairs("train", 9), strict=True):
        assert [prompt, Hole(7)] == parse_template(example.template)
        assert answer == example.answer
        assert len(answer) == 7
        assert answer.endswith("_")
        assert task.verify(example, answer).score == task.verify(example, answer.rstrip("_")).score == 1
        assert plain.verify(example, answer).score == 0
    assert all(len(answer) < 4 for _, answer in plain.pairs("train", 9))


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("gym", "The task 'gym' needs the option 'dataset'; write gym:dataset=..."),
        ("gym:dataset=sum", "reasoning-gym has no data set 'sum'; did you mean 'sums'?"),
        ("gym:dataset=sums,largst=1", "The data set 'sums' has no option 'largst'; did you mean 'largest'?"),
        ("gym:dataset=sums,seed=1", "The data set 'sums' has no option 'seed'; known: largest, negative, scale."),
        (
            "gym:dataset=sums,size=0",
            "size in the task 'gym:dataset=sums,size=0' is 0; give a whole number of at least 1.",
        ),
        (
            "gym:dataset=sums,largest=-1",
            "The data set 'sums' refuses {'largest': -1}: largest must be positive.",
        ),
        (
            "gym:dataset=sums,largest=many",
            "The data set 'sums' refuses {'largest': 'many'}: '<=' not supported between instances of 'str' and 'int'.",
        ),
    ],
)
def test_what_the_adapter_refuses(gym: None, text: str, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        make(text)
    assert str(caught.value) == sentence


def test_a_data_set_without_answers_can_be_evaluated_but_has_no_pairs(gym: None) -> None:
    task = make("gym:dataset=nameless")
    example = task.examples("test", 1)[0]
    assert example.answer == ""
    assert task.verify(example, str(sum(example.facts["entry"]["metadata"].values()))).score == 1.0
    with pytest.raises(RequestError, match="'nameless' has no reference answers to train on"):
        list(task.pairs("train", 1))


@pytest.mark.extras
@pytest.mark.parametrize("dataset", ["countdown", "leg_counting", "graph_color", "prime_factorization"])
def test_the_real_package(dataset: str) -> None:
    library("reasoning_gym", "tasks")
    check_task(lambda: make(f"gym:dataset={dataset}"), count=3)


def split_questions(task: Task) -> list[set[str]]:
    return [{example.template for example in task.examples(split, 10**6)} for split in SPLITS]


def test_a_file_of_problems_is_divided_into_splits(problems: Path) -> None:
    train, valid, test = split_questions(make(f"gsm8k:path={problems}"))
    assert len(train) + len(valid) + len(test) == len(train | valid | test) == 160
    assert 100 < len(train) < 156
    assert min(len(valid), len(test)) >= 8


def test_a_folder_of_problems_has_a_file_for_each_split(problems: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    lines = problems.read_text().splitlines()
    (tmp_path / "set" / "train.jsonl").write_text("\n".join(lines[:100]))
    (tmp_path / "set" / "test.jsonl").write_text("\n".join(lines[100:]))
    task = make(f"gsm8k:path={tmp_path / 'set'},length=9")
    train, valid, test = split_questions(task)
    assert len(train) + len(valid) == len(train | valid) == 100
    assert 0 < len(valid) < 30
    assert len(test) == 60
    before = fingerprint(task)
    (tmp_path / "set" / "valid.jsonl").write_text(lines[0])
    assert [len(questions) for questions in split_questions(task)] == [100, 1, 60]
    assert fingerprint(task) != before


def test_problems_equal_the_rows_of_the_file(problems: Path) -> None:
    task = make(f"gsm8k:path={problems},length=9")
    example = next(example for example in task.examples("train", 160) if example.facts["number"] == "1001")
    assert parse_template(example.template) == ["Question: [500] apples \\ and 501?\nAnswer:\n", Hole(9)]
    assert example.answer == "500+501 = 1001.\n#### 1,001"
    assert ("Question: [500] apples \\ and 501?\nAnswer:\n", example.answer) in task.pairs("train", 160)
    for right in ("1001", "\\boxed{1,001}", "the answer is $1,001.00", "2 and 3 <answer>1001 apples</answer>"):
        assert task.verify(example, right) == Verdict(1.0), right
    assert task.verify(example, "\\boxed{1,001.5}") == Verdict(0.0, "the answer is 2003/2, not 1001")
    assert task.verify(example, "many").why == "there is no number in the place of the answer"


def test_a_problem_of_math_is_read_with_its_answer(maths: Path) -> None:
    task = make(f"math-500:path={maths},length=9,prompt=chat")
    example = next(example for example in task.examples("test", 60) if "$3$" in example.message)
    assert example.template == "<reasoning>[9]"
    assert example.message.endswith("</answer>\n\n[test] Halve $3$.")
    assert example.facts == {"answer": "\\frac{3}{2}", "subject": "Algebra", "level": "Level 2"}
    assert task.verify(example, "so \\boxed{1.5}") == Verdict(1.0)
    assert task.verify(example, "so \\boxed{2.5}") == Verdict(0.0, "the answer is not \\frac{3}{2}")
    assert task.verify(example, "so 1.5").why == "there is no answer in a box"


@pytest.mark.extras
def test_published_folders_have_their_splits(problems: Path, tmp_path: Path) -> None:
    """Rows in Parquet, as on the hub, are the rows in JSON lines."""
    parquet: Any = library("pyarrow.parquet", "hf")
    arrow: Any = library("pyarrow", "hf")
    rows = list(map(json.loads, problems.read_text().splitlines()))
    folder = tmp_path / "hub" / "main"
    folder.mkdir(parents=True)
    parquet.write_table(arrow.Table.from_pylist(rows), folder / "test-00000-of-00001.parquet")
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "test.jsonl").write_text(problems.read_text())
    first, second = (make(f"gsm8k:path={tmp_path / name}").examples("test", 999) for name in ("hub", "lines"))
    assert len(first) == 160
    assert first == second


def test_a_problem_of_humaneval_and_its_answers(programs: Path) -> None:
    """An answer is the body of the function up to the next statement of the file, or the function again."""
    require_isolation()
    task, chat = make(f"humaneval:path={programs},length=9"), make(f"humaneval:path={programs},length=9,prompt=chat")
    example = next(example for example in task.examples("test", 20) if example.facts["entry_point"] == "plus_60")
    asked = next(example for example in chat.examples("test", 20) if example.facts["entry_point"] == "plus_60")
    prompt = 'def plus_60(x: int) -> int:\n    """ Add 60 to x.\n    """\n'
    assert example.template == prompt + "[9]"
    assert asked.template == f"Here is the completed function:\n```python\n{prompt}\n[9]"
    assert asked.message.endswith(f"passes the tests:\n```python\n{prompt}\n```\n")
    body = "    return x + 60\n"
    right = (
        *(body, body + "```\nIt adds.\n```python\nraise\n```", body + "def main():\n", body + "# so"),
        *(f"Sure:\n```python\n{prompt}{body}```\nDone.", f"```\nimport math\n{prompt}{body}", prompt + body),
    )
    wrong = (
        "    return x",
        "return x + 60",
        f"def plus(x):\n{body}",
        "    return x + 60\n  y",
        "\0",
        "\ud800",
        "print('passed')",
    )
    for text, score in [*((text, 1.0) for text in right), *((text, 0.0) for text in wrong)]:
        assert task.verify(example, text).score == score, text
        assert chat.verify(asked, text).score == score, text


def test_a_problem_of_mbpp_stands_behind_three(mbpp: Path) -> None:
    require_isolation()
    task, chat = make(f"mbpp:path={mbpp},length=9"), make(f"mbpp:path={mbpp},length=9,shots=1,prompt=chat")
    example = next(example for example in task.examples("test", 20) if example.facts["task_id"] == 11)
    asked = next(example for example in chat.examples("test", 20) if example.facts["task_id"] == 11)
    text = "".join(part for part in parse_template(example.template) if isinstance(part, str))
    shots = text.split("\n\nYou are an expert Python programmer, and here is your task: ")
    assert [shot.split("function to ")[1][:5] for shot in shots] == ["add 2", "add 3", "add 4", "add 1"]
    assert shots[2] == (
        "Write a function to add 4 to a number. Your code should pass these tests:\n\nassert add_4(0) == 4\n"
        "assert add_4(1) == 5\nassert add_4(2) == 6\n[BEGIN]\ndef add_4(x):\n  return x + 4\n[DONE]"
    )
    assert text.endswith("assert add_11(2) == 13\n[BEGIN]\n")
    assert example.answer == "def add_11(x):\n  return x + 11\n[DONE]"
    assert asked.template == "```python\n[9]"
    assert asked.message.count("```python\ndef add_2(x):") == asked.message.count("your task:\n") - 1 == 1
    for right in (
        example.answer,
        f"[BEGIN]\n{example.answer}\nmore",
        "def add_11(x): return x + 11\n```\n```python\nno",
    ):
        assert task.verify(example, right).score == chat.verify(asked, right).score == 1
    assert task.verify(example, "def add_11(x): return 12\n").score == 0
    assert task.verify(example, "def add(x): return 12\n").why.startswith(
        "NameError: the program does not define add_11"
    )


def test_the_program_in_an_answer() -> None:
    for text, program in {
        "x = 1": "x = 1",
        "x = 1\n```\ntext": "x = 1\n",
        "```\nx = 1\n```\ny": "x = 1\n",
        "So:\n```python\nx = 1\n```\n```python\ny\n```": "x = 1\n",
        "So:\n```py\nx = 1": "x = 1",
        "[BEGIN]\nx = 1\n[DONE]\ny": "\nx = 1\n",
        "": "",
    }.items():
        assert program_of(text) == program


def test_texts_become_templates_and_back() -> None:
    for text in ("a[5]b", "\\[", "\\\\", "]]", "a\\b"):
        assert parse_template(escaped(text) + "[1]")[0] == text
    assert joined_holes("__a_[_", "_") == "[2]a[1]\\[[1]"
