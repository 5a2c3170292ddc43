"""A training step that is not finite changes nothing and is counted; three in a row end the run."""

import json
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.laws.processes import crew
from tests.laws.test_resume import Watcher, corpus, everything, settings, trainer

from unmask.batch import cut_to
from unmask.errors import RunError
from unmask.objective.base import Draw, Loss, Objective, Rows, Turn
from unmask.run.parallel import Group
from unmask.train.session import run_objective


@dataclass(frozen=True)
class Spoiled:
    """An objective whose loss is not a number in some steps, counted from 1."""

    inner: Objective
    steps: Container[int]

    def draw(self, seed: int, step: int, rows: torch.Tensor, total: int, maskable: torch.Tensor) -> Draw:
        factor = torch.nan if step + 1 in self.steps else 1.0
        return (*self.inner.draw(seed, step, rows, total, maskable), torch.full((len(rows),), factor))

    def loss(self, model: Any, rows: Rows, draw: Draw) -> Loss:
        result = self.inner.loss(model, rows, draw[:-1])
        return Loss(result.nats * draw[-1], result.tokens)

    def bound(self, model: Any, rows: Rows, turn: Turn) -> Loss:
        return self.inner.bound(model, rows, turn)


def spoiled(folder: Path, *steps: int, group: Group | None = None) -> Any:
    run = settings(save_every=2)
    return trainer(run, folder, Spoiled(run_objective(run, corpus()), steps), group)


def test_a_step_that_is_not_finite_changes_nothing(tmp_path: Path) -> None:
    """Neither weights, moments nor averages; the control is the step after it."""
    run = spoiled(tmp_path, 2)
    run.take_step()
    before = {name: value.clone() for name, value in everything(run).items()}
    loss, _, _ = run.take_step()
    assert not torch.isfinite(loss)
    assert (run.step, run.skipped) == (2, 1)
    assert all(torch.equal(value, before[name]) for name, value in everything(run).items())
    run.take_step()
    assert not all(torch.equal(value, before[name]) for name, value in everything(run).items())


def test_two_in_a_row_are_counted_and_three_end_the_run(tmp_path: Path) -> None:
    run = spoiled(tmp_path / "two", 3, 4, 6, 7)
    assert run.fit(Watcher()).reason == "finished"
    lines = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    steps = {line["step"]: line for line in lines if "skipped" in line}
    assert [steps[step]["skipped"] for step in (2, 3, 4, 5, 6, 7, 12)] == [0, 1, 2, 2, 3, 4, 4]
    assert steps[3]["loss"] is None
    with pytest.raises(RunError) as error:
        spoiled(tmp_path / "three", 3, 4, 5).fit(Watcher())
    assert str(error.value).startswith("The loss is nan and the norm of the gradient nan at step 5, so the run was")
    assert f"the last good checkpoint is {tmp_path / 'three'}/checkpoints/step-00000004" in str(error.value)


_THREE = """
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tests.laws.test_skipped import *
from unmask.run import saving
from unmask.run.parallel import join_group
folder, write = Path(sys.argv[1]), saving.Saver._write
def slowly(saver, job):
    write(saver, job)
    time.sleep(2 * saver.group.first)
with ExitStack() as held:
    group = join_group(torch.device("cpu"))
    held.callback(group.leave)
    saving.Saver._write = slowly
    try:
        spoiled(folder, 3, 4, 5, group=group).fit(Watcher())
    except RunError as error:
        (folder / f"{group.rank}.txt").write_text(f"{type(error).__name__}: {error}")
"""


@pytest.mark.processes
def test_of_several_processes_the_first_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    """It is still written when the run ends: another process would name the one before, or none."""
    for code, errors in crew(_THREE, 2, tmp_path):
        assert code == 0, errors
    first, second = ((tmp_path / f"{rank}.txt").read_text() for rank in (0, 1))
    assert f"the last good checkpoint is {tmp_path}/checkpoints/step-00000004" in first
    assert second.startswith("SaidElsewhere: ")


@pytest.mark.parametrize("count", [1, 3, 5, 7])
def test_more_parts_hold_the_same_rows_in_the_same_order(count: int) -> None:
    parts = [torch.tensor([4, 2, 6]), torch.tensor([0, 1, 3, 5])]
    cut = cut_to(parts, count)
    assert len(cut) == max(count, 2)
    assert all(len(part) for part in cut)
    assert torch.equal(torch.cat(cut), torch.cat(parts))
