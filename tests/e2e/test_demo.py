"""The demo: its figures are those of a sweep, its drawings show the canvases, and its files are complete."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

import unmask.disk.folders
from unmask.cli.demo import dial_table, policy_table
from unmask.cli.demo import run as run_demo
from unmask.cli.live import Panel
from unmask.disk.files import LOCK_FILE
from unmask.policies.learned.network import PolicyNetwork
from unmask.policies.learned.policy import policy_config
from unmask.policies.learned.settings import PolicySettings
from unmask.solve.problems import solve
from unmask.solve.puzzles import (
    DIALS,
    PUZZLE_SETS,
    Puzzles,
    decode_in_turn,
    dial_points,
    open_puzzles,
    policy_runs,
    wilson,
)


@pytest.fixture(scope="module", autouse=True)
def _policies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """In place of the bundled policies, one with random weights for the automaton, and none for Sudoku."""
    folder = tmp_path_factory.mktemp("policies") / "automaton_eos"
    folder.mkdir()
    network, generator = PolicyNetwork(PolicySettings()), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.6)
    save_file(network.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"format": 1} | policy_config(PolicySettings(), {}, ())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unmask.disk.folders, "_POLICIES", folder.parent)
        yield


@pytest.fixture(scope="module")
def puzzles() -> Puzzles:
    return open_puzzles(PUZZLE_SETS[0], 8, 5, device="cpu", dtype="float32", threads=1)


def solved(puzzles: Puzzles, policy: str) -> tuple[list[float], list[int]]:
    decoder = puzzles.model.decoder(policy, temperature=0.0)
    model = puzzles.model
    return solve(decoder, puzzles.task, puzzles.problems, model.tokenizer, device=model.device, seed=5)[:2]


@pytest.mark.slow
def test_runs_in_turn_have_the_figures_of_a_sweep(puzzles: Puzzles) -> None:
    """Eight puzzles are two groups. The control is another threshold, with which passes differ."""
    runs = policy_runs(PUZZLE_SETS[0])
    assert [run.label for run in runs] == ["random", "confidence", "threshold", "prefix", "learned"]
    shown = list(decode_in_turn(puzzles, runs))
    assert [number for number, finished in shown if finished] == [0, 6]
    for run in runs:
        scores, passes = solved(puzzles, run.policy)
        assert [run.verdicts[n] for n in range(8)] == scores
        assert [run.passes[n] for n in range(8)] == passes
        assert run.mean_passes == sum(passes) / 8
    assert [runs[2].passes[n] for n in range(8)] != solved(puzzles, "threshold:threshold=0.5")[1]


def test_one_request_has_a_dial_value_for_each_row(puzzles: Puzzles) -> None:
    """The control: the results at different dial values differ, so that exchanged values would be noticed."""
    policy = policy_runs(PUZZLE_SETS[0])[-1].policy
    points = dial_points(puzzles, policy)
    assert tuple(point.dial for point in points) == DIALS
    for point in points:
        scores, passes = solved(puzzles, f"learned:from=automaton_eos,dial={point.dial:g}")
        assert (point.accuracy, point.passes) == (sum(scores) / 8, sum(passes) / 8)
    assert len({point.passes for point in points}) > 1
    assert all(f"{point.dial:4.2f}" in dial_table(points) for point in points)


def drawn(panel: Panel, number: int) -> str:
    console = Console(file=io.StringIO(), width=100, height=40)
    console.print(panel.picture(number))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("puzzle_set", PUZZLE_SETS, ids=lambda puzzle_set: puzzle_set.checkpoint)
def test_the_panel_shows_each_policy_at_its_pass(puzzle_set: Any) -> None:
    """Masks are dots, fewer after each pass; a finished policy is marked as right or wrong."""
    puzzles = open_puzzles(puzzle_set, 2, 5, device="cpu", dtype="float32", threads=1)
    runs = policy_runs(puzzle_set)
    assert len(runs) == (5 if puzzle_set.checkpoint == "automaton_eos" else 4)
    panel = Panel(puzzle_set, puzzles, runs, Console(file=io.StringIO(), width=100))
    steps, dots = decode_in_turn(puzzles, runs), list[int]()
    for number, finished in steps:
        picture = drawn(panel, number)
        dots.append(picture.count("·"))
        assert "puzzle 1 of 2" in picture
        if finished:
            line = next(line for line in picture.splitlines() if line.startswith("pass "))
            assert line.count("right") + line.count("wrong") == len(runs)
    assert dots[0] == len(runs) * len(puzzles.problems[0].holes)
    assert dots == sorted(dots, reverse=True)
    assert dots[-1] == 0 < dots[1] < dots[0]
    assert policy_table(runs).count("\n") == len(runs)


def test_a_tampered_token_is_drawn_as_wrong(puzzles: Puzzles) -> None:
    """The control: the right row has no wrong colour beside that of the legend."""
    runs = policy_runs(PUZZLE_SETS[0])[:1]
    problem = puzzles.problems[0]
    panel = Panel(PUZZLE_SETS[0], puzzles, runs, Console(file=io.StringIO(), width=100))
    right = puzzles.model.tokenizer.encode(problem.example.answer)
    for wrong in (False, True):
        tokens = [*right[:-1], right[0]] if wrong else right
        runs[0].show([*problem.row[: problem.holes[0]], *tokens])
        runs[0].verdicts[0] = float(not wrong)
        console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="truecolor")
        console.print(panel.picture(0))
        assert isinstance(console.file, io.StringIO)
        red = console.file.getvalue().count("48;2;176;74;90")
        assert red == (3 if wrong else 1)  # the legend; the verdict and the token


@pytest.mark.slow
@pytest.mark.long
def test_the_whole_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All parts of the demo, twice into the same folder; another file in the folder is kept."""
    for _ in range(2):
        assert run_demo(["--puzzles", "2", "--out", str(tmp_path), "--threads", "1", "--json"]) == 0
        (tmp_path / "kept.txt").write_text("kept")
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    traces, sudoku = report["puzzles"].values()
    assert [row["label"] for row in traces["policies"]][-1] == "learned"
    assert [row["label"] for row in sudoku["policies"]][-1] == "prefix"
    assert (len(traces["dial"]), sudoku["dial"]) == (len(DIALS), [])
    assert all(0 <= row["accuracy"] <= 1 < row["passes"] for row in sudoku["policies"])
    assert [sum(answer["words"].values()) for answer in report["words"]] == pytest.approx([1.0] * 4)
    assert report["generated"][0]["text"] != report["generated"][1]["text"]
    assert report["bound"]["perplexity"] > 1
    assert len(report["filled"]) == 3
    names = {Path(path).name for path in report["files"]}
    assert names | {"kept.txt"} == {path.name for path in tmp_path.iterdir() if path.name != LOCK_FILE}
    assert names >= {"sudoku.html"}
    page = (tmp_path / "sudoku.html").read_text()
    assert '"columns": 6' in page
    assert "__TRACE__" not in page


@pytest.mark.slow
@pytest.mark.long
def test_a_model_of_puzzles_is_shown_and_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """The training data of this model are problems of a task, not a file."""
    assert run_demo(["automaton", "--threads", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["bound"]["perplexity"] > 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--puzzles", "0"], "--puzzles cannot be .0.; give a whole number of at least 1."),
        (["sudoku", "--puzzles", "2"], "not shown with 'sudoku'; leave the checkpoint out"),
        (["sudoku", "--out", "x"], "not shown with 'sudoku'; leave the checkpoint out"),
    ],
)
def test_what_does_not_go_together_is_refused(words: list[str], sentence: str) -> None:
    with pytest.raises(unmask.UnmaskError, match=sentence.replace("'", ".")):
        run_demo(words)


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(unmask.UnmaskError, match="file"):
        run_demo(["--out", str(tmp_path / "file")])
    assert (tmp_path / "file").read_text() == ""


def test_a_slow_machine_decodes_fewer_puzzles(monkeypatch: pytest.MonkeyPatch) -> None:
    """After 24 puzzles the rest is cut to what the time allows; the control is a number that was asked for."""
    monkeypatch.setattr("unmask.solve.puzzles._SECONDS", 1e-6)
    for limited, count in ((True, 24), (False, 30)):
        puzzles = open_puzzles(PUZZLE_SETS[0], 30, 5, device="cpu", dtype="float32", threads=1)
        runs = policy_runs(PUZZLE_SETS[0])[2:3]
        list(decode_in_turn(puzzles, runs, limited=limited))
        assert (len(puzzles.problems), len(puzzles.seeds), len(runs[0].verdicts)) == (count, count, count)


def test_an_interval_covers_the_share() -> None:
    """Wilson's interval has the values of the textbook; at 0 and 1 it is not empty, as a normal one would be."""
    low, high = wilson(0.5, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))
    assert wilson(1.0, 104) == pytest.approx((1 / (1 + 1.96**2 / 104), 1.0))
    assert wilson(0.0, 104)[1] > 0.03
