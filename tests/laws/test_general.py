"""Laws of the question about one policy for every task: its plan, and how its report chooses settings."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from unmask.config import from_dict, to_dict
from unmask.errors import ConfigError
from unmask.reproduce.general import Policied, Swept, in_folder, rule_settings
from unmask.reproduce.general_report import _fixed, _read, _tasks, draw_general, general_sections
from unmask.reproduce.plan import CELLS, cell_type, needs
from unmask.reproduce.text import Fit, TextOptions
from unmask.reproduce.text_questions import plan_of
from unmask.solve.settings import Setting
from unmask.solve.sweep import Outcome

NAME = "kindred-general-policy"


def test_names_of_settings_mean_the_same_for_every_length() -> None:
    short, long = rule_settings(12), rule_settings(48)
    assert list(short) == list(long)
    assert short["confidence, 2 tokens a pass"].policy == "confidence:steps=6"
    assert long["confidence, 2 tokens a pass"].policy == "confidence:steps=24"
    assert (short["threshold in 4 blocks, 0.9 threshold"].block_size, long["prefix, 0.9 threshold"]) == (
        3,
        Setting("prefix:threshold=0.9"),
    )


def test_the_plan_trains_what_is_missing_and_holds_tasks_out() -> None:
    plan = plan_of(NAME, TextOptions(pairs=("arithmetic=runs/mine", "sums=none", "mine=runs/d=automaton:length=8")))
    cells = {cell.name: cell for cell in plan.cells}
    assert {c.name for c in plan.cells if isinstance(c, Fit)} == {
        f"denoiser-{name}" for name in ("automaton_long", "automaton_long_eos", "countdown", "antibody")
    }
    general = cells["general-seed-2"]
    assert isinstance(general, Policied)
    assert len(general.run.pairs) == 9
    assert set(needs(general)) == {f"denoiser-{name}" for name in ("automaton_long_eos", "countdown", "antibody")}
    held = {c.label: {pair.task for pair in c.run.pairs} for c in plan.cells if isinstance(c, Policied)}
    assert "sudoku" in held["general"]
    assert "sudoku" not in held["without sudoku"]
    assert {"without arithmetic", "without infill"} < set(held)
    assert set(needs(cells["swept-without-sudoku-on-sudoku-seed-0"])) == {"without-sudoku-seed-0"}
    assert list(cells).index("general-seed-2") < list(cells).index("without-sudoku-seed-0")
    assert [pair.checkpoint for pair in in_folder(general.run, Path("runs")).pairs][-1] == "runs/d"
    for cell in plan.cells:
        assert from_dict(CELLS[cell_type(cell)], to_dict(cell), "") == cell  # as a folder of cells keeps it


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (("sudoku",), "write NAME=CHECKPOINT=TASK"),
        (("mine=runs/d",), "write NAME=CHECKPOINT=TASK"),
        (("mine=runs/d=sudoku:side=4",), "10 pairs"),
        (tuple(f"{name}=none" for name in ("automaton_eos", "automaton")), "leaves no pair"),
    ],
)
def test_impossible_pairs(pairs: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        plan_of(NAME, TextOptions("fast" if sentence.startswith("leaves") else "full", pairs=pairs))


def result(good: str) -> dict[str, Any]:
    """Outcomes of all rules on four problems of 8 positions: those of the rule `good` are right, others sometimes."""
    names, rows = list(rule_settings(8)), list[dict[str, Any]]()
    for n, (name, setting) in enumerate(rule_settings(8).items()):
        right = name.startswith(f"{good},")
        rows.append(asdict(Outcome(setting, [1.0] * 4 if right else [1.0, 0.0, 0.0, 0.0], [1 + n % 8] * 4, 0.1)))
    facts = {"length": 8, "lengths": {"valid": [8] * 4, "tests": [8] * 4}, "names": names}
    return facts | {"rows": {"valid": rows, "tests": rows}, "order": [[1, 2], [2, 1, 3]]}


def test_the_fixed_rule_is_chosen_without_the_task_that_is_held_out() -> None:
    def first(held: str, other: str) -> str:
        done = {"rules on a": {0: result(held)}, "rules on b": {0: result(other)}}
        return next(iter(_fixed(_tasks(done), "a")))

    assert first("margin", "prefix") == first("threshold", "prefix") == "prefix"
    assert first("margin", "threshold") == "threshold"  # the control


@pytest.mark.slow
def test_the_report_has_every_section(tmp_path: Path) -> None:
    policy = {0: {**result("prefix"), "names": list(rule_settings(8))}}
    done = {f"rules on {task}": {0: result(rule)} for task, rule in (("a", "margin"), ("b", "prefix"))}
    done |= {"general on a": policy, "alone a on a": policy, "without a on a": policy}
    text = "\n".join(line for lines in general_sections(done) for line in lines)
    assert "| a | margin | general | 0 |" in text
    assert "| a | 0 | " in text.partition("held out")[2]
    draw_general(done, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"general.png", "order.png"}


def test_kept_settings_are_chosen_on_validation_problems() -> None:
    facts = result("prefix")
    rows = facts["rows"]["valid"]
    valid = [{**row, "scores": [float(2 * n < row["passes"][0]) for n in range(4)]} for row in rows]
    facts["rows"] = {"valid": valid, "tests": [{**row, "scores": [0.5] * 4} for row in rows]}
    kept = _read(facts).kept()
    assert {outcome.accuracy for outcome in kept} == {0.5}
    assert len(kept) == 4  # on the test problems alone, one setting would dominate all others


def test_a_swept_cell_needs_its_policy_and_denoiser() -> None:
    cell = Swept("s", "general on a", 0, "trained:denoiser-a", "sudoku", "general-seed-0", 4, 4)
    assert cell.needs == ("denoiser-a", "general-seed-0")
    assert replace(cell, policy=None, checkpoint="sudoku").needs == ()
