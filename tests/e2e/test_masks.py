"""The mask-agnostic loss and `unmask probe masks` on the command line: a training, what its model can, and errors."""

import json
from pathlib import Path

import pytest

from unmask.cli.main import main
from unmask.plots import can_draw

SMALL = ["--model.width", "16", "--model.blocks", "1", "--model.heads", "2", "--threads", "1", "--dtype", "float32"]
TEXT = ["--data.source", "task:few-shot:relevant=1,distractors=1,words=2@60", "--data.length", "64"]
LOSS = ["--agnostic.masks", "20", "--agnostic.rise", "3"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps, of which two are resumed."""
    folder = tmp_path_factory.mktemp("masks") / "run"
    steps = ["--train.batch", "4", "--train.eval-draws", "8", "--sample-every", "0"]
    words = ["train", *TEXT, *SMALL, *LOSS, *steps, "--train.accumulate", "2", "--out", str(folder)]
    assert main([*words, "--train.steps", "2"]) == 0
    assert main(["train", "--resume", str(folder), "--train.steps", "4"]) == 0
    return folder


@pytest.mark.slow
def test_its_checkpoint_is_a_plain_masked_model(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["info", str(run), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["step"] == 4
    assert main(["generate", str(run), " cat red joy:", "--length", "2", "--threads", "1"]) == 0
    assert main(["eval", str(run), "--limit", "8", "--threads", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["nats_per_token"] > 0
    assert main(["probe", "masks", "--help"]) == 0
    assert "usage: unmask probe masks CHECKPOINT" in capsys.readouterr().out


@pytest.mark.slow
def test_it_is_probed_by_its_own_task(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    capsys.readouterr()
    words = ["probe", "masks", str(run), "--count", "6", "--counts", "0", "2", "500", "--threads", "1"]
    assert main([*words, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["source"] == "task:few-shot:relevant=1,distractors=1,words=2,length=2"
    assert [point["place"] for point in facts["masks"]][:2] == [0, 2]
    assert facts["left_out"] == [500]
    assert [len(point["accuracy"]) for point in facts["distance"]] == [2, 2]
    picture = ["--out", str(tmp_path / "masks.png")] if can_draw() else []
    assert main([*words, *picture]) == 0
    printed = capsys.readouterr().out
    assert "| MASKs behind the answer | accuracy | change |" in printed
    assert "| tokens to the relevant context | accuracy |" in printed
    assert not picture or (tmp_path / "masks.png").read_bytes().startswith(b"\x89PNG")


def refused(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(words) == 2, words
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_impossible_is_one_sentence(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "none")]
    train = ["train", *TEXT, "--train.steps", "1", *SMALL, *out]
    refused([*train, "--agnostic.rise", "3"], "--agnostic.rise does not go with a plain training", capsys)
    refused([*train, *LOSS, "--model.parameterization", "sedd"], "without another parameterization", capsys)
    refused([*train, *LOSS, "--train.grid", "4"], "another parameterization or discrete time", capsys)
    refused([*train, *LOSS, "--agnostic.shares", "0.9", "0.1"], "give the smaller one first", capsys)
    refused([*train, "--agnostic.masks", "-1"], "--agnostic.masks cannot be '-1'", capsys)
    words = ["train", "--init", "wordnet", "--data.source", "austen", "--train.steps", "1", "--threads", "1"]
    refused([*words, *LOSS, *out], "fill the model's window of 64; set --data.length 32", capsys)
    refused([*words, "--agnostic.masks", "64", *out], "window is 64 tokens, in which the row stands too; set", capsys)
    refused(["train", "--resume", str(run), "--agnostic.masks", "5"], "agnostic.masks was 20 and cannot", capsys)
    probe = ["probe", "masks", str(run), "--threads", "1"]
    refused([*probe, "--context", "8"], "--context is for texts, and task:few-shot", capsys)
    refused([*probe, "--count", "1"], "--count cannot be '1'", capsys)
    refused([*probe, "--out", "curves.pdf"], "the name of the file has to end in .png", capsys)
    refused(["probe", "masks", "sudoku", "--count", "4", "--threads", "1"], "do not stand at the end", capsys)
