"""Tasks as training data: the source `task:NAME@COUNT` -> rows of prompt and answer."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from unmask.config import typed
from unmask.data.packed import Corpus
from unmask.data.settings import DataSettings
from unmask.errors import DataError, PluginError, RequestError
from unmask.tasks import make
from unmask.tasks.automaton import Automaton
from unmask.train.plan import corpus_of
from unmask.train.tasks import task_source

TASK = """
from unmask.tasks.base import Verdict
class Mine:
    name = "mine"
    def examples(self, split, count, seed=0): return []
    def verify(self, example, completion): return Verdict(0.0)
    def pairs(self, split, count, seed=0): BODY
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def corpus(source: str, length: int = 64, valid: str | None = None) -> Corpus:
    with typed([source]):
        return corpus_of(DataSettings(source, tokenizer="char", length=length, eos="none", valid=valid))


def texts(made: Corpus, part: str = "train") -> list[str]:
    batch = getattr(made, part).batch(np.arange(len(getattr(made, part))))
    return [made.tokenizer.decode(row[valid].tolist()) for row, valid in zip(batch.ids, batch.valid, strict=True)]


@pytest.mark.parametrize("name", ["automaton", "sudoku:side=4", "arithmetic:modulus=23,length=3", "countdown"])
def test_a_task_becomes_rows(name: str) -> None:
    made, task = corpus(f"task:{name}@50"), make(name)
    assert sorted(texts(made)) == sorted(prompt + answer for prompt, answer in task.pairs("train", 50))
    assert sorted(texts(made, "valid")) == sorted(prompt + answer for prompt, answer in task.pairs("valid", 512))
    batch, pairs = made.train.batch(np.arange(50)), {a + b: len(a) for a, b in task.pairs("train", 50)}
    for text, maskable in zip(texts(made), batch.maskable, strict=True):
        assert maskable.argmax() == pairs[text]  # the prompt is always visible
        assert maskable.sum() == len(text) - pairs[text]


def test_problems_are_made_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once while a corpus is prepared, however often they are read, and not again in a second run."""
    made: list[str] = []
    pairs = Automaton.pairs

    def counted(self: Automaton, split: str, count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
        made.append(split)
        return iter(pairs(self, split, count, seed))

    monkeypatch.setattr(Automaton, "pairs", counted)
    first = corpus("task:automaton@30")
    assert sorted(made) == ["train", "valid"]
    again = corpus("task:automaton:length=24@30")  # the same task by a longer name
    assert again.fingerprint == first.fingerprint
    assert len(made) == 2
    assert not (cache / "tasks").exists()
    assert corpus("task:automaton@31").fingerprint != first.fingerprint  # the control: others are made
    assert sorted(made) == ["train"] * 2 + ["valid"] * 2


@pytest.mark.parametrize("seconds, most", [(0.0, 100), (1e9, 2_000)])
def test_a_plan_makes_few_problems_of_a_slow_task(monkeypatch: pytest.MonkeyPatch, seconds: float, most: int) -> None:
    """The sizes are estimates for all; the control: a task that is fast."""
    made: list[str] = []
    pairs = Automaton.pairs

    def counted(self: Automaton, split: str, count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
        for pair in pairs(self, split, count, seed):
            made.append(split)
            yield pair

    monkeypatch.setattr(Automaton, "pairs", counted)
    monkeypatch.setattr("unmask.data.estimate._SECONDS", seconds)
    settings = DataSettings("task:automaton@300000", tokenizer="char", length=64, eos="none")
    facts = corpus_of(settings, sampled=True).facts
    assert made.count("train") == most
    assert (facts.train.rows, facts.valid.rows) == (300_000, 512)
    assert facts.train.tokens == pytest.approx(300_000 * 24, rel=0.1)


def test_more_problems_than_are_kept_are_made_anew_and_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    source = task_source("automaton", "train", 20)
    kept = list(source.pairs())
    assert list(source.pairs()) == kept
    monkeypatch.setattr("unmask.train.tasks._KEPT", 19)
    source = task_source("automaton", "train", 20)
    assert [list(source.pairs()), list(source.pairs())] == [kept, kept]


def test_without_a_count_there_are_fifty_thousand(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []

    def pairs(self: object, split: str, count: int, seed: int = 0) -> list[tuple[str, str]]:
        calls.append((split, count))
        return [("a", split)]

    monkeypatch.setattr("unmask.tasks.automaton.Automaton.pairs", pairs)
    corpus("task:automaton")
    assert calls == [("train", 50_000), ("valid", 512)]


def test_validation_may_be_another_source(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "valid.jsonl").write_text(json.dumps({"prompt": "aABCD", "answer": "ab._"}) + "\n")
    made = corpus("task:automaton@20", valid=str(tmp_path / "valid.jsonl"))
    assert texts(made, "valid") == ["aABCDab._"]
    assert made.facts.source == "task:automaton@20"
    made = corpus(str(tmp_path / "valid.jsonl"), valid="task:automaton@20")
    assert len(made.valid) == 20
    assert texts(made) == ["aABCDab._"]


def test_problems_of_a_plug_in_are_made_again_when_its_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "at@home.py"
    for word in ("ab", "ba"):
        path.write_text(TASK.replace("BODY", f"return iter([('{word}', 'abc')] * count)"))
        assert texts(corpus(f"task:{path}:Mine@3")) == [f"{word}abc"] * 3


def test_what_cannot_be_a_source_is_a_sentence(tmp_path: Path, cache: Path) -> None:
    for source in ("task:", "task:@5", "task:automaton@", "task:automaton@0", "task:automaton@-3"):
        with pytest.raises(DataError) as caught:
            corpus(source)
        assert str(caught.value) == (
            f"'{source}' is not a task as a source: write task:NAME@COUNT, for example task:sudoku:side=4@20000, "
            "with a count of at least 1."
        )
    with pytest.raises(RequestError, match="There is no task named 'automat'; did you mean 'automaton'"):
        corpus("task:automat@5")
    with pytest.raises(DataError, match="no row of the training part of task:automaton fits into 40 tokens"):
        corpus("task:automaton@5", length=40)
    bodies = {
        "return iter(())": (DataError, "has no problems for the split 'train'; there is nothing to train on."),
        "return iter(['ab'])": (PluginError, "The task 'mine' gave 'ab' as a pair; give a prompt and an answer."),
        "return iter([('a', 1)])": (PluginError, "gave ('a', 1) as a pair"),
        "return 1 / 0": (PluginError, "failed while it made problems: ZeroDivisionError: division by zero."),
        "yield 1 / 0": (PluginError, "failed while it made problems: ZeroDivisionError: division by zero."),
    }
    for body, (error, sentence) in bodies.items():
        (tmp_path / "mine.py").write_text(TASK.replace("BODY", body))
        with pytest.raises(error) as caught:
            corpus(f"task:{tmp_path / 'mine.py'}:Mine@5")
        assert sentence in str(caught.value)
    assert not list((cache / "data").iterdir())
