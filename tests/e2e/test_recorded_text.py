"""What a run records of its text: the rule of the split, the content, and places that hold in any folder."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unmask.cli.main import main
from unmask.disk.checkpoint import read_checkpoint
from unmask.errors import RequestError
from unmask.hf.names import locate
from unmask.text.tokenizer import Tokenizer
from unmask.train.plan import corpus_of
from unmask.train.session import plan_session
from unmask.train.settings import TextRun, Trained, trained_on

SIZE = ("--data.tokenizer", "byte", "--data.length", "32", "--model.size", "nano", "--train.device", "cpu")
SHORT = (*SIZE, "--train.steps", "2", "--train.batch", "2", "--train.eval-draws", "2", "--train.dtype", "float32")


def lines(first: int, last: int) -> str:
    return "".join(
        json.dumps({"text": f"Document {n}: " + "some text of it. " * (n % 5 + 1)}) + "\n" for n in range(first, last)
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows.jsonl, 60 documents, and a run on it."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "rows.jsonl").write_text(lines(0, 60), encoding="utf-8")
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert main(["train", "--data.source", "rows.jsonl", *SHORT, "--out", "run"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, in which the test runs."""
    shutil.copytree(trained, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    for path in (tmp_path / "here").rglob("run.json"):
        path.write_text(
            path.read_text(encoding="utf-8").replace(str(trained), str(tmp_path / "here")), encoding="utf-8"
        )
    return tmp_path / "here"


def record(run: Path) -> dict[str, Any]:
    return json.loads((sorted((run / "checkpoints").iterdir())[-1] / "run.json").read_text(encoding="utf-8"))


def evaluated(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any] | str:
    """The words of `unmask eval` -> its figures, or the sentence of its error."""
    capsys.readouterr()
    code = main(["eval", *words, "--draws", "1", "--device", "cpu", "--json"])
    output = capsys.readouterr()
    return json.loads(output.out) if code == 0 else output.err.strip().splitlines()[-1]


def make_old(run: Path) -> None:
    """Turn the records of a run into those of a run that knew no rule: as if it had been split by rule 1."""
    from unmask.config import from_dict
    from unmask.data.prepare import corpus_key, open_sources
    from unmask.data.settings import DataSettings
    from unmask.text.build import byte_tokenizer

    for path in run.rglob("run.json"):
        values = json.loads(path.read_text(encoding="utf-8"))
        values["settings"]["data"]["source"] = values["typed"]["source"]
        data = from_dict(DataSettings, values["settings"]["data"], "run.json")
        values["data"] = corpus_key(data, open_sources(data, rule=1), byte_tokenizer())
        del values["split"], values["typed"]
        path.write_text(json.dumps(values), encoding="utf-8")


def test_a_run_records_absolute_paths_beside_what_was_typed(here: Path) -> None:
    values = record(here / "run")
    assert values["settings"]["data"]["source"] == str(here / "rows.jsonl")
    assert values["typed"] == {"source": "rows.jsonl"}
    assert values["split"]["rule"] == 2
    card = next((here / "run").rglob("card.md")).read_text(encoding="utf-8")
    assert "- text: rows.jsonl (" in card
    assert str(here) not in card


def test_eval_and_resume_work_from_any_folder(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = evaluated(capsys, "run")
    (here / "other").mkdir()
    (here / "other" / "rows.jsonl").write_text(lines(100, 160), encoding="utf-8")  # not the file that was typed
    monkeypatch.chdir(here / "other")
    again = evaluated(capsys, "../run")
    assert isinstance(figures, dict)
    assert isinstance(again, dict)
    assert again["nats_per_token"] == figures["nats_per_token"]
    assert main(["train", "--resume", "../run", "--train.steps", "3"]) == 0
    assert record(here / "run")["typed"] == {"source": "rows.jsonl"}
    assert record(here / "run")["settings"]["data"]["source"] == str(here / "rows.jsonl")


def test_a_source_that_moved_is_asked_for_and_taken_from_its_new_place(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = evaluated(capsys, "run")
    (here / "rows.jsonl").rename(here / "moved.jsonl")
    folder = sorted((here / "run" / "checkpoints").glob("best-*"))[-1]
    sentence = (
        f"unmask: The text of {folder.relative_to(here)} was 'rows.jsonl', recorded as {here / 'rows.jsonl'}, and "
        "nothing is there: give its place with --data.source PATH."
    )
    assert evaluated(capsys, "run") == sentence
    assert main(["train", "--resume", "run", "--train.steps", "3"]) != 0
    assert "give its place with --data.source PATH" in capsys.readouterr().err
    again = evaluated(capsys, "run", "--data.source", "moved.jsonl")
    assert isinstance(again, dict)
    assert isinstance(figures, dict)
    assert again["nats_per_token"] == figures["nats_per_token"]
    assert main(["train", "--resume", "run", "--train.steps", "3", "--data.source", "moved.jsonl"]) == 0
    assert record(here / "run")["typed"] == {"source": "moved.jsonl"}


@pytest.mark.parametrize("rule", [1, 2])
def test_eval_refuses_a_text_that_has_changed(here: Path, capsys: pytest.CaptureFixture[str], rule: int) -> None:
    if rule == 1:
        make_old(here / "run")
    assert isinstance(evaluated(capsys, "run"), dict)  # the control: the text as it was
    with (here / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write(lines(60, 61))
    answer = evaluated(capsys, "run")
    assert isinstance(answer, str)
    assert "is not, or no longer, the text that run/checkpoints/" in answer
    assert answer.endswith("give it as it was, or measure another text with --data.source FILE.")
    assert isinstance(evaluated(capsys, "run", "--data.source", "rows.jsonl"), dict)  # typed: a text of its own
    assert main(["train", "--resume", "run", "--train.steps", "3"]) != 0
    assert "or start a new run on the new text with --init run" in capsys.readouterr().err


def test_an_old_checkpoint_keeps_the_documents_that_it_held_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = evaluated(capsys, "run")
    make_old(here / "run")
    old = evaluated(capsys, "run")
    assert isinstance(new, dict)
    assert isinstance(old, dict)
    assert old["tokens"] != new["tokens"]  # other documents
    assert main(["train", "--resume", "run", "--train.steps", "3"]) == 0
    assert record(here / "run")["split"]["rule"] == 1
    again = evaluated(capsys, "run")
    assert isinstance(again, dict)
    assert again["tokens"] == old["tokens"]


def test_another_share_of_the_same_text_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((), ("--data.source", "rows.jsonl")):
        answer = evaluated(capsys, "run", *words, "--data.valid-share", "0.2")
        assert isinstance(answer, str)
        assert "another share would hold out what was trained on" in answer
    assert isinstance(evaluated(capsys, "run", "--data.valid-share", "0.05"), dict)  # the control


def test_fine_tuning_keeps_the_rule_of_the_same_text_and_says_if_it_changed(here: Path) -> None:
    from unmask.cli.train import _arguments

    def session(source: str) -> tuple[int, list[str]]:
        notes: list[str] = []
        run = _arguments(["--data.source", source, *SHORT[2:4], *SHORT[6:], "--init", "run"])
        opened = plan_session(TextRun(run.data, run.model, run.train), init="run", note=notes.append, dry=True)
        opened.close()
        return opened.corpus.split.rule, [note for note in notes if "may have been trained on" in note]

    make_old(here / "run")
    assert session("rows.jsonl") == (1, [])
    (here / "other.jsonl").write_text(lines(200, 260), encoding="utf-8")
    assert session("other.jsonl") == (2, [])
    with (here / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write(lines(60, 61))
    rule, notes = session("rows.jsonl")
    assert rule == 2
    assert notes


def bundled() -> tuple[Trained, Tokenizer, dict[str, Any]]:
    """What the bundled model of text records, and its tokenizer."""
    checkpoint = read_checkpoint(locate("wordnet"))
    trained, tokenizer = trained_on(checkpoint), Tokenizer.from_json(checkpoint.tokenizer_json or "")
    assert trained is not None
    return trained, tokenizer, checkpoint.run or {}


def test_the_bundled_model_keeps_its_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    trained, tokenizer, _ = bundled()
    monkeypatch.setattr("unmask.train.plan.prepare", lambda settings, tokenizer, note, sources: sources.rule)
    assert corpus_of(trained.data, tokenizer, trained=trained, advice="or nothing") == 2
    other = replace(trained, fingerprint="0" * 64)
    with pytest.raises(RequestError, match="no longer"):  # the control: it is compared
        corpus_of(trained.data, tokenizer, trained=other, advice="or nothing")


@pytest.mark.slow
def test_the_bundled_model_keeps_what_it_held_out() -> None:
    trained, tokenizer, run = bundled()
    corpus = corpus_of(trained.data, tokenizer, trained=trained, advice="or nothing")
    facts = run["facts"]["valid"]
    assert (corpus.valid.tokens, corpus.valid.bytes) == (facts["tokens"], facts["bytes"])
