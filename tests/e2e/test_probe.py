"""The command `unmask probe`: files of labelled texts, the table and JSON, fine-tuning, and what is refused."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from unmask.cli.main import main

WORDS = {"good": ("happy", "bright", "kind"), "bad": ("sad", "dark", "cruel")}
ROWS = [
    {"text": f"{WORDS[label][n % 3]} {'abcdefgh'[n % 8]}{n}", "label": label}
    for n in range(30)
    for label in ("good", "bad")
]


def file_of(path: Path, rows: Sequence[Mapping[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def data(tmp_path: Path) -> str:
    return file_of(tmp_path / "rows.jsonl", [*ROWS, ROWS[0]])


def test_the_labels_of_simple_texts_are_read_off_the_features(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--folds", "3", "--threads", "1"]
    assert main(["probe", "wordnet", "--data", data, *options, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["accuracy"] > 0.9
    assert (facts["base"], facts["count"], facts["classes"]) == (0.5, 60, ["bad", "good"])
    assert len(facts["folds"]) == len(facts["chosen"]) == 3
    assert main(["probe", "wordnet", "--data", data, *options, "--pooling", "last", "--limit", "30"]) == 0
    printed = capsys.readouterr().out
    assert "30 of" in printed
    assert "logistic regression on the last state" in printed
    assert "base rate" in printed


@pytest.mark.slow
def test_all_weights_are_trained_with_finetune(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "rows.csv"
    table.write_text("review,stars\n" + "".join(f"{row['text']},{len(str(row['label']))}\n" for row in ROWS))
    words = ["probe", "wordnet", "--data", str(table), "--text-key", "review", "--label-key", "stars", "--finetune"]
    assert main([*words, "--rates", "1e-3", "1e-9", "--folds", "2", "--epochs", "9", "--threads", "1", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["accuracy"] > 0.9
    assert facts["chosen"] == [1e-3, 1e-3]
    assert facts["classes"] == ["3", "4"]


def test_what_cannot_be_probed_is_one_sentence(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    single = file_of(tmp_path / "single.jsonl", [{**row, "label": "good"} for row in ROWS])
    few = file_of(tmp_path / "few.jsonl", ROWS[:6])
    real = file_of(tmp_path / "real.jsonl", [{"text": "a", "label": 0.5}])
    empty = file_of(tmp_path / "empty.jsonl", [])
    for words, sentence in (
        ([single], "All labels are 'good'; give texts of at least two."),
        ([few], "The label 'bad' has 3 texts, fewer than the 5 folds; give fewer folds or more texts."),
        ([real], "line 1 has no label, a text or a whole number, under 'label' (its keys: text, label)."),
        ([data, "--label-key", "stars"], "line 1 has no label, a text or a whole number, under 'stars'"),
        ([data, "--text-key", "review"], "line 1 has no 'review'"),
        ([empty], "has no text; give a file of rows with texts and labels."),
        (["nowhere.csv"], "There is no file 'nowhere.csv'; give a file of rows with a text and a label, or one of"),
        (["vader-movies"], "'vader-movies' is not in the cache yet: run unmask fetch vader-movies"),
        ([data, "--folds", "1"], "folds"),
        ([data, "--rates", "1e-3"], "rates"),
        ([data, "--finetune", "--pooling", "last"], "pooling"),
        ([data, "--finetune", "--dtype", "int8"], "those of int8 cannot be trained; leave out --dtype."),
    ):
        assert main(["probe", "wordnet", "--data", *words]) == 2, words
        printed = capsys.readouterr()
        assert sentence in printed.err, printed.err
        assert printed.err.count("\n") == 1
