"""The command `unmask pace`: the table, the file, the plot, and decoding with the pace of the file."""

import json
from pathlib import Path

import pytest

from unmask.cli.main import main

TINY = [
    *("--data.length", "24", "--model.width", "16", "--model.blocks", "1", "--model.heads", "2"),
    *("--train.batch", "8", "--train.steps", "2", "--threads", "1", "--dtype", "float32"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on a meaningless text that is long enough for validation."""
    folder = tmp_path_factory.mktemp("pace")
    (folder / "text.txt").write_text("\n\n".join(f"the king {n * 7919 % 1009} and queen {n}." for n in range(400)))
    words = ["train", "--data.source", str(folder / "text.txt"), "--data.tokenizer", "byte", *TINY]
    assert main([*words, "--out", str(folder / "run"), "--json"]) == 0
    return folder / "run"


@pytest.mark.slow
def test_from_a_model_to_a_pace(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    out, plot = tmp_path / "pace.json", tmp_path / "pace.png"
    words = [*("pace", str(run), "--steps", "3", "6", "--sequences", "4", "--threads", "1"), "--out", str(out)]
    assert main([*words, "--plot", str(plot), "--json"]) == 0
    printed, progress = capsys.readouterr()
    facts = json.loads(printed)
    assert json.loads(out.read_text()) == facts
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "curve: 4 of 4 sequences." in progress
    assert [len(facts["paces"][k]) for k in ("3", "6")] == [3, 6]
    assert all(sum(sizes) == facts["tokens"] == 24 for sizes in facts["paces"].values())
    assert {row["rule"] for row in facts["table"]} == {"optimal", "sqrt", "cosine", "uniform", "tc", "dtc"}
    assert all(abs(row["predicted"] - row["measured"]) < 0.3 * 24 for row in facts["table"])
    assert facts["one_a_pass"] == pytest.approx(sum(facts["curve"]["fitted"]))

    pace = ["--policy", f"random:pace={out},steps=6", "--length", "24", "--threads", "1", "--json"]
    assert main(["generate", str(run), "", *pace]) == 0
    assert json.loads(capsys.readouterr().out)["passes"][0] == 6


@pytest.mark.slow
def test_the_table_for_people(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["pace", str(run), "--steps", "4", "2", "--sequences", "4", "--prompt", "0.25", "--threads", "1"]) == 0
    head, *rows, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["passes", "pace", "predicted", "measured", "above", "optimal"]
    assert [row.split()[:2] for row in rows[:2]] == [["2", "optimal"], ["2", "sqrt"]]
    assert len(rows) == 12
    assert last.startswith("nats per token; one token a pass: ")
    assert [path.name for path in run.parent.glob("*.json")] == []


@pytest.mark.slow
def test_more_passes_than_tokens(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pace", str(run), "--steps", "25", "--threads", "1"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message == "unmask: steps is 25, but a sequence has 24 tokens to reveal; give at most as many."


@pytest.mark.slow
def test_the_same_seed_gives_the_same_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def table(seed: str) -> list[object]:
        words = ["pace", str(run), "--steps", "4", "--sequences", "3", "--seed", seed, "--threads", "1", "--json"]
        capsys.readouterr()
        assert main(words) == 0
        return json.loads(capsys.readouterr().out)["table"]

    assert table("1") == table("1") != table("2")
