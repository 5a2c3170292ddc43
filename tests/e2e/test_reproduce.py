"""`unmask reproduce` in real processes: a small question is interrupted and resumed; the report has every cell."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from unmask.eval.frontier import POSITION_FREE
from unmask.reproduce import work
from unmask.reproduce.plan import Heuristics, Measured, QuestionOptions, Training, needs
from unmask.reproduce.questions import names, plan_of
from unmask.reproduce.report import write_report
from unmask.reproduce.results import Record, Results, read, write

SRC = Path(__file__).parents[2] / "src"
NO_OTHERS = ("--calibrated", "none", "--others", "none")
QUICK = ("policies-full", "--fast", "--seeds", "0", *NO_OTHERS, "--workers", "2", "--json")
OPTIONS = QuestionOptions(calibrated=(), others=(), seeds=(0,), fast=True)
TRAINING = "full-automaton_eos-seed-0"


def test_none_is_no_denoiser() -> None:
    assert QuestionOptions(calibrated=("none",), others=("none",)) == QuestionOptions(calibrated=(), others=())
    assert QuestionOptions(calibrated=("none", "automaton")).calibrated == ("none", "automaton")


@pytest.mark.parametrize("blocks", [("full", "1/4"), ("full", "1/2")])
def test_questions_in_one_folder_share_their_cells(blocks: tuple[str, ...]) -> None:
    """Cells of two questions with the same name are equal, else the second question is refused.

    The control: with other settings the cells of the same names differ.
    """
    cells: dict[str, object] = {}
    shared = 0
    for name in names():
        for cell in plan_of(name, QuestionOptions(blocks=blocks)).cells:
            shared += cell.name in cells
            assert cells.setdefault(cell.name, cell) == cell
    assert shared > 20
    other = plan_of("policies-full", QuestionOptions(blocks=blocks, count=7)).cells
    assert any(cells[cell.name] != cell for cell in other)


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "unmask.cli.main", "reproduce", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(SRC)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def cell(folder: Path, name: str) -> dict[str, Any]:
    path = folder / "runs/reproduce/cells" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {"state": "absent"}


def listed(folder: Path) -> dict[str, str]:
    """The table of cells at the end of the report."""
    text = (folder / "runs/reproduce/policies-full/report.md").read_text()
    rows = [line.split(" | ") for line in text.partition("## Cells")[2].splitlines() if line.startswith("| ")]
    return {name.removeprefix("| "): state.removesuffix(" |") for name, state in rows[1:]}


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a question that was started, interrupted when the first heuristics were done, and run again."""
    folder = tmp_path_factory.mktemp("reproduce")
    process = start(folder, *QUICK)
    done = "heuristics-automaton_eos-automaton"
    deadline = time.monotonic() + 240
    while cell(folder, done)["state"] != "done" and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    names_of_cells = {cell.name for cell in plan_of("policies-full", OPTIONS).cells}
    assert set(json.loads(out)["cells"]) == set(listed(folder)) == names_of_cells
    assert listed(folder)[done] == "done"
    assert any(state.startswith("not run") for state in listed(folder).values())
    assert "running" not in listed(folder).values()
    (folder / "before.json").write_text(json.dumps(cell(folder, done)))
    process = start(folder, *QUICK)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    (folder / "stderr.txt").write_text(err)
    return folder


@pytest.mark.slow
@pytest.mark.cells
def test_what_was_done_is_not_done_again(answered: Path) -> None:
    name = "heuristics-automaton_eos-automaton"
    assert cell(answered, name) == json.loads((answered / "before.json").read_text())
    assert f"{name}: done" not in (answered / "stderr.txt").read_text()


@pytest.mark.slow
@pytest.mark.cells
def test_the_report_has_every_cell_and_says_that_it_was_quick(answered: Path) -> None:
    states = listed(answered)
    blocked = {name for name, state in states.items() if "no denoiser was given" in state}
    assert blocked == {"measure-sudoku", "measure-arithmetic", "measure-countdown"}
    assert {state for name, state in states.items() if name not in blocked} == {"done"}
    folder = answered / "runs/reproduce/policies-full"
    report = (folder / "report.md").read_text()
    assert "figures mean nothing" in report[:400]
    assert "minus position-free, any block size" in report
    assert (folder / "frontier.png").stat().st_size > 10_000
    lines = (folder / "table.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 3  # two test sets, three alphas
    assert (answered / "runs/reproduce/runs" / TRAINING / "policy" / "config.json").exists()


@pytest.mark.slow
@pytest.mark.cells
def test_the_differences_are_those_of_the_cells(answered: Path) -> None:
    """The table of the report equals a comparison of the outcomes in the cells' files."""
    from unmask.eval.frontier import compare, one_pass
    from unmask.solve.settings import Setting
    from unmask.solve.sweep import Outcome

    def outcomes(name: str) -> list[Outcome]:
        rows = cell(answered, name)["result"]["outcomes"]
        return [Outcome(Setting(**row["setting"]), row["scores"], row["passes"], row["seconds"]) for row in rows]

    rules = outcomes("heuristics-automaton_eos-automaton-traces-long")
    policies = outcomes("full-canvas-on-automaton_eos-automaton-traces-long-seed-0")
    prefix = [rule for rule in rules if rule.setting.policy.startswith(("prefix", "left-to-right"))]
    compared = compare(policies, prefix, 24, point=one_pass(rules))
    report = (answered / "runs/reproduce/policies-full/report.md").read_text()
    row = next(
        line for line in report.splitlines() if line.startswith("| full canvas | automaton_eos, automaton:traces")
    )
    assert row.split(" | ")[7].startswith(f"{compared.difference:+.3f} [{compared.difference_95[0]:+.3f}")


@pytest.mark.slow
@pytest.mark.cells
def test_a_folder_of_other_settings_is_refused_and_a_broken_training_is_marked(answered: Path) -> None:
    process = start(answered, *QUICK, "--rounds", "1")
    _, err = process.communicate(timeout=100)
    assert process.returncode == 2
    assert "was made with other settings" in err.splitlines()[-1]
    path = answered / "runs/reproduce/cells" / "full-canvas-on-automaton_eos-automaton-seed-0.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"state": "stopped", "result": {}}))
    path.with_suffix(".jsonl").unlink()
    policy = answered / "runs/reproduce/runs" / TRAINING / "policy" / "model.safetensors"
    policy.write_bytes(b"broken")
    process = start(answered, *QUICK)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 1, err
    state = json.loads(out)["cells"]["full-canvas-on-automaton_eos-automaton-seed-0"]
    assert state.startswith("failed: ")
    assert listed(answered)["full-canvas-on-automaton_eos-automaton-seed-0"] == state


@pytest.mark.slow
@pytest.mark.cells
def test_what_a_model_cannot_do_is_marked_with_the_reason(tmp_path: Path) -> None:
    """Twice the length does not fit the window; the control is the length that does."""
    plan = plan_of("policies-transfer", replace(OPTIONS, twice="automaton"))
    records: dict[str, Record] = {}
    for each in plan.cells:
        if isinstance(each, Heuristics) and each.arena.task != "sudoku":
            write(tmp_path, each, Record("running"))
            work.main(str(tmp_path), each.name)
            records[each.arena.task] = read(tmp_path, each)
    assert records["automaton:traces=long"].state == "done"
    twice = records["automaton:length=48,traces=mixed"]
    assert twice.state == "impossible"
    assert twice.reason.startswith("A problem of automaton:length=48,traces=mixed has 97 tokens, but the window of ")


def test_a_report_lists_every_cell_in_every_state(tmp_path: Path) -> None:
    plan = plan_of("policies-seconds", QuestionOptions())
    results = Results(plan)
    first, second, third = [each for each in plan.cells if isinstance(each, Training)][:3]
    results.set(first.name, Record("failed", "a reason"))
    results.set(second.name, Record("running"))
    results.set(third.name, Record("stopped"))
    write_report(results, tmp_path)
    report = (tmp_path / plan.name / "report.md").read_text()
    for each in plan.cells:
        assert f"| {each.name} | {results.state(each)} |" in report
    assert results.state(first) == "failed: a reason"
    waiting = next(each for each in plan.cells if isinstance(each, Measured) and first.name in each.trainings)
    assert results.state(waiting) == f"not run: it needs {first.name}, which is failed"
    assert f"| full canvas | automaton_eos, automaton | 0 | {results.state(waiting)} |" in report
    assert "figures mean nothing" not in report  # the control of the quick report


@pytest.mark.slow
@pytest.mark.cells
def test_medians_over_seeds_and_denoisers_are_those_of_the_rows(tmp_path: Path) -> None:
    """Invented outcomes for two denoisers and three seeds: the pooled row has the median and the minimum of six."""
    plan = plan_of(
        "policies-full", QuestionOptions(denoisers=("automaton_eos", "there/eos_2"), calibrated=(), others=())
    )
    results, generator = Results(plan), random.Random(0)

    def row(policy: str, accuracy: float, passes: int) -> dict[str, Any]:
        scores = [float(generator.random() < accuracy) for _ in range(40)]
        setting = {"policy": policy, "block_size": None}
        return {"setting": setting, "scores": scores, "passes": [passes] * 40, "seconds": 1.0}

    for each in plan.cells:
        rules = [
            row("confidence:steps=1", 0.1, 1),
            row("threshold:threshold=0.9", 0.5, 6),
            row("prefix", 0.8, 8),
        ]
        policies = [row("learned:from=x,dial=0", 0.9, 8), row("learned:from=x,dial=1", 0.3, 3)]
        rows = rules if isinstance(each, Heuristics) else policies
        facts = {"length": 24, "alphas": [0.0, 30.0], "outcomes": rows}
        if isinstance(each, Heuristics | Measured):
            results.set(each.name, Record("done", result=facts))
    write_report(results, tmp_path)
    report = (tmp_path / plan.name / "report.md").read_text()
    cells = [each for each in plan.cells if isinstance(each, Measured) and each.arena.task == "automaton"]
    comparisons = [comparison for each in cells if (comparison := results.comparison(each)) is not None]
    values = [comparison.against[POSITION_FREE].difference for comparison in comparisons]
    assert len(values) == 6
    line = next(line for line in report.splitlines() if "all 2 denoisers, automaton |" in line)
    assert line.split(" | ")[2] == "6"
    assert line.split(" | ")[4].startswith(f"{median(values):+.3f}, {min(values):+.3f}, ")
    assert len(set(values)) > 1


def test_every_question_has_a_plan_whose_cells_can_be_done_in_order() -> None:
    for name in names():
        for options in (QuestionOptions(), OPTIONS, QuestionOptions(fast=True)):
            before: set[str] = set()
            for each in plan_of(name, options).cells:
                assert set(needs(each)) <= before, (name, each.name)
                before.add(each.name)
            assert len(before) >= 4
