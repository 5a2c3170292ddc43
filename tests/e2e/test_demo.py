"""The demo: what it counts is what a sweep counts, what it draws is what is there, and its files are whole."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

import unmask.disk.folders
from unmask.cli.demo import run
from unmask.cli.live import Panel, dial_table, race_table
from unmask.policies.learned.network import PolicyNetwork
from unmask.policies.learned.policy import policy_config
from unmask.policies.learned.settings import PolicySettings
from unmask.solve.problems import solve
from unmask.solve.race import COURSES, DIALS, Puzzles, open_puzzles, race, runners_of, turn_dial


@pytest.fixture(scope="module", autouse=True)
def _policies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """In place of the bundled policies, one with random weights for the automaton, and none for Sudoku."""
    folder = tmp_path_factory.mktemp("policies") / "automaton_eos"
    folder.mkdir()
    network, chance = PolicyNetwork(PolicySettings()), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(torch.randn(value.shape, generator=chance) * 0.6)
    save_file(network.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"format": 1} | policy_config(PolicySettings(), {}, None)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unmask.disk.folders, "_POLICIES", folder.parent)
        yield


@pytest.fixture(scope="module")
def puzzles() -> Puzzles:
    return open_puzzles(COURSES[0], 8, 5, device="cpu", dtype="float32", threads=1)


def solved(puzzles: Puzzles, policy: str) -> tuple[list[float], list[int]]:
    decoder = puzzles.model.decoder(policy, temperature=0.0)
    model = puzzles.model
    return solve(decoder, puzzles.task, puzzles.problems, model.tokenizer, device=model.device, seed=5)


def test_the_race_counts_what_a_sweep_counts(puzzles: Puzzles) -> None:
    """Eight puzzles are two groups. The control is another threshold, with which passes differ."""
    runners = runners_of(COURSES[0])
    assert [one.label for one in runners] == ["random", "confidence", "threshold", "prefix", "learned"]
    shown = list(race(puzzles, runners))
    assert [number for number, whole in shown if whole] == [0, 6]
    for one in runners:
        scores, passes = solved(puzzles, one.policy)
        assert [one.verdicts[n] for n in range(8)] == scores
        assert [one.passes[n] for n in range(8)] == passes
        assert one.mean_passes == sum(passes) / 8
    assert [runners[2].passes[n] for n in range(8)] != solved(puzzles, "threshold:threshold=0.5")[1]


def test_one_request_turns_the_dial_for_each_row(puzzles: Puzzles) -> None:
    """The control: places of the dial differ, so that rows with each other's dial would be seen."""
    policy = runners_of(COURSES[0])[-1].policy
    places = turn_dial(puzzles, policy)
    assert tuple(one.dial for one in places) == DIALS
    for one in places:
        scores, passes = solved(puzzles, f"learned:from=automaton_eos,dial={one.dial:g}")
        assert (one.accuracy, one.passes) == (sum(scores) / 8, sum(passes) / 8)
    assert len({one.passes for one in places}) > 1
    assert all(f"{one.dial:4.2f}" in dial_table(places) for one in places)


def drawn(panel: Panel, number: int) -> str:
    console = Console(file=io.StringIO(), width=100, height=40)
    console.print(panel.picture(number))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("course", COURSES, ids=lambda one: one.checkpoint)
def test_the_panel_shows_each_policy_at_its_pass(course: Any) -> None:
    """Masks as dots, which go; a policy that is done says whether it is right."""
    puzzles = open_puzzles(replace(course, share=1.0), 2, 5, device="cpu", dtype="float32", threads=1)
    runners = runners_of(course)
    assert len(runners) == (5 if course.checkpoint == "automaton_eos" else 4)
    panel = Panel(course, puzzles, runners, Console(file=io.StringIO(), width=100))
    steps, dots = race(puzzles, runners), list[int]()
    for number, whole in steps:
        picture = drawn(panel, number)
        dots.append(picture.count("·"))
        assert "puzzle 1 of 2" in picture
        if whole:
            line = next(line for line in picture.splitlines() if line.startswith("pass "))
            assert line.count("right") + line.count("wrong") == len(runners)
    assert dots[0] == len(runners) * len(puzzles.problems[0].holes)
    assert dots == sorted(dots, reverse=True)
    assert dots[-1] == 0 < dots[1] < dots[0]
    assert race_table(runners).count("\n") == len(runners)


def test_a_tampered_token_is_drawn_as_wrong(puzzles: Puzzles) -> None:
    """The control of the colours: the same row as it should be has none."""
    runners = runners_of(COURSES[0])[:1]
    problem = puzzles.problems[0]
    panel = Panel(COURSES[0], puzzles, runners, Console(file=io.StringIO(), width=100))
    right = puzzles.model.tokenizer.encode(problem.example.answer)
    for wrong in (False, True):
        tokens = [*right[:-1], right[0]] if wrong else right
        runners[0].show([*problem.row[: problem.holes[0]], *tokens])
        runners[0].verdicts[0] = float(not wrong)
        console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="truecolor")
        console.print(panel.picture(0))
        assert isinstance(console.file, io.StringIO)
        red = console.file.getvalue().count("48;2;176;74;90")
        assert red == (3 if wrong else 1)  # the legend; the verdict and the token


@pytest.mark.slow
def test_the_whole_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every part of it, twice into the same folder; a file of somebody else there stays."""
    (tmp_path / "mine.txt").write_text("kept")
    for _ in range(2):
        assert run(["--puzzles", "2", "--out", str(tmp_path), "--threads", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    traces, sudoku = found["puzzles"].values()
    assert [one["label"] for one in traces["policies"]][-1] == "learned"
    assert [one["label"] for one in sudoku["policies"]][-1] == "prefix"
    assert (len(traces["dial"]), sudoku["dial"]) == (len(DIALS), [])
    assert all(one["seconds"] > 0 and 0 <= one["accuracy"] <= 1 < one["passes"] for one in sudoku["policies"])
    assert [one["passes"] for one in found["generated"]][1] == 32
    assert found["generated"][0]["text"] != found["generated"][1]["text"]
    assert found["bound"]["perplexity"] > 1
    assert len(found["filled"]) == 3
    names = {Path(path).name for path in found["files"]}
    assert names | {"mine.txt"} == {path.name for path in tmp_path.iterdir()}
    assert names >= {"sudoku.html"}
    page = (tmp_path / "sudoku.html").read_text()
    assert '"columns": 6' in page
    assert "__TRACE__" not in page


@pytest.mark.slow
def test_a_model_of_puzzles_is_shown_and_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Its training data were a task's problems, not a file."""
    assert run(["automaton", "--threads", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["bound"]["perplexity"] > 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--puzzles", "0"], "puzzles is 0; give how many to solve, at least 1."),
        (["sudoku", "--puzzles", "2"], "not shown with 'sudoku'; leave the checkpoint out"),
        (["sudoku", "--out", "x"], "not shown with 'sudoku'; leave the checkpoint out"),
    ],
)
def test_what_does_not_go_together_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(unmask.UnmaskError, match=said.replace("'", ".")):
        run(words)


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(unmask.UnmaskError, match="file"):
        run(["--out", str(tmp_path / "file")])
    assert (tmp_path / "file").read_text() == ""
