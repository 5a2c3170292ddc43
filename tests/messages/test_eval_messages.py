"""Texts that cannot be measured and tasks that are not there: one sentence, exit code 2; figures that are missing."""

import json
import sys
from pathlib import Path

import pytest

from unmask.cli.main import main

STREAM = ("--data.rows", "stream", "--draws", "1", "--device", "cpu", "--threads", "1")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sentence_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Words of a wrong request -> the sentence on stderr; there may be notes before it."""
    capsys.readouterr()
    assert main(list(words)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err.splitlines()[-1].removeprefix("unmask: ")


def test_a_text_that_does_not_fill_a_row(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """In both ways of cutting, with what to do; the control is the same text in rows that it fills."""
    (tmp_path / "short.txt").write_text("a river of water flows into the sea and the king of the land is dead\n" * 3)
    words = ("eval", "wordnet", "--data.source", "short.txt", *STREAM)
    sentence = sentence_of(capsys, *words)
    assert sentence.startswith("There are ")
    assert "in the valid part of short.txt, fewer than a row, which has 64: give more text, --split all, or" in sentence
    whole = sentence_of(capsys, *words, "--split", "all", "--stride", "8")
    count = int(whole.split()[2])
    assert whole == (
        f"There are {count} tokens in short.txt, fewer than a row, which has 64: give more text, or --data.length "
        f"{count} or less."
    )
    assert main([*words, "--split", "all", "--data.length", str(count // 2)]) == 0


def test_too_few_sequences_for_an_interval(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A single sequence is refused, and says what to do; the control is two, and the same text in both parts."""
    (tmp_path / "text.txt").write_text("a river of water flows into the sea and the king of the land is dead\n" * 20)
    words = ("eval", "wordnet", "--data.source", "text.txt", *STREAM)
    text = sentence_of(capsys, *words, "--split", "train", "--limit", "1")
    assert text == "An interval needs at least 2 sequences, and --limit is 1: give 2 or more."
    text = sentence_of(capsys, *words, "--data.valid_share", "0.12", "--data.length", "35")
    assert text == (
        "An interval needs at least 2 sequences, and the valid part of text.txt has 1: give more text, --split all, or "
        "a shorter --data.length."
    )
    assert main([*words, "--split", "all", "--limit", "2", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    low, high = figures["interval"]
    assert low < figures["nats_per_token"] < high
    assert figures["sequences"] == 2
    assert figures["estimator"].startswith("NELBO in continuous time")
    assert (figures["rows"], figures["length"], figures["stride"], figures["eos"]) == ("stream", 64, None, True)


def test_a_text_in_another_encoding(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Latin-1 is refused with the byte; the control is the same text in UTF-8, whose letters the model has."""
    text = "the caf\u00e9 of the king by the river, and the sea\n" * 60
    (tmp_path / "text.txt").write_bytes(text.encode("latin-1"))
    words = ("eval", "wordnet", "--data.source", "text.txt", *STREAM, "--split", "train")
    assert sentence_of(capsys, *words) == (
        "text.txt is not UTF-8 text: byte 0xe9 at offset 7 cannot be decoded; convert the file to UTF-8."
    )
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    assert main(list(words)) == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--task mmlu", "--task is 'mmlu'; give lm-eval:NAME, a task of lm-evaluation-harness."),
        ("--task lm-eval:", "--task is 'lm-eval:'; give lm-eval:NAME, a task of lm-evaluation-harness."),
        ("--task lm-eval:a --split all", "--split does not go with --task, which has texts of its own."),
        ("--task lm-eval:a --data.source b", "--data.source does not go with --task, which has texts of its own."),
        ("--shots 3", "--shots does not go with eval without --task."),
        ("--stride 0", "--stride cannot be '0'; give a whole number of at least 1."),
        ("--stride 8", "--stride is for --data.rows stream, and these rows are whole: leave it out."),
        (
            "--stride 65 --data.source text.txt --data.rows stream",
            "stride is 65; give 1 to 64 tokens, the length of a window.",
        ),
        ("--task lm-eval:a --draws 1", "draws is 1; give a whole number of at least 2 (their spread gives the error)."),
    ],
)
def test_options_that_do_not_go_together(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: str, sentence: str
) -> None:
    (tmp_path / "text.txt").write_text("a river of water flows into the sea and the king of the land is dead\n" * 200)
    assert sentence_of(capsys, "eval", "wordnet", *words.split()) == sentence


def test_the_harness_is_an_extra(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert sentence_of(capsys, "eval", "wordnet", "--task", "lm-eval:mmlu") == (
        "--task lm-eval:NAME needs lm-evaluation-harness: pip install 'unmask[harness]'."
    )


def test_answers_that_cannot_be_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert sentence_of(capsys, "score", "wordnet", "a river is") == (
        'score compares answers: give them with --choices, such as --choices " yes" " no".'
    )
    assert sentence_of(capsys, "score", "wordnet", "a river is", "--choices", " a", " a") == (
        "There are no choices, or one is named twice; name each choice once."
    )
    assert sentence_of(capsys, "score", "wordnet", "river " * 100, "--choices", " a", " b").startswith("The text ")
