"""A training that is stopped and goes on in another number of processes continues its trajectory within 1e-5."""

import json
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from tests.laws.processes import crew
from tests.laws.test_resume import STEPS, Watcher, settings, trainer

from unmask.run.parallel import Group, join_group
from unmask.train.loop import StepReport

pytestmark = pytest.mark.processes

STOP = 5


class Curve(Watcher):
    """Keeps loss and norm of each step, and stops the run after one; validations too are compared."""

    def __init__(self, stop: int | None = None) -> None:
        super().__init__(lambda step: signal.raise_signal(signal.SIGTERM) if step == stop else None)
        self.norms: dict[int, float] = {}

    def stepped(self, report: StepReport) -> None:
        self.norms[report.step] = report.norm
        super().stepped(report)

    def values(self) -> list[dict[str, float]]:
        return [{str(step): value for step, value in part.items()} for part in (self.losses, self.norms, self.bounds)]


def part(folder: Path, stop: int | None, group: Group, seed: int = 1) -> list[dict[str, float]]:
    """Train in a run folder from its newest checkpoint to a step, or to the end -> loss, norm and bound by step."""
    run, curve = trainer(settings(seed=seed), folder, group=group), Curve(stop)
    run.restore()
    run.fit(curve)
    return curve.values()


def main(folder: Path, stop: int | None) -> None:
    """What each process runs; the first one writes the values."""
    with ExitStack() as held:
        group = join_group(torch.device("cpu"))
        held.callback(group.leave)
        values = part(folder / "run", stop, group)
        if group.first:
            (folder / f"values-{stop}.json").write_text(json.dumps(values))


_PROGRAM = """
import sys
from pathlib import Path
from tests.laws.test_resharded import main
main(Path(sys.argv[1]), int(sys.argv[2]) or None)
"""


def several(size: int, folder: Path, stop: int | None) -> list[dict[str, float]]:
    """`part` in so many processes; one is this process."""
    if size == 1:
        return part(folder / "run", stop, Group())
    for code, errors in crew(_PROGRAM, size, folder, stop or 0):
        assert code == 0, errors
    return json.loads((folder / f"values-{stop}.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """The run in one process that was never stopped."""
    return part(tmp_path_factory.mktemp("whole") / "run", None, Group())


@pytest.mark.parametrize(
    "sizes",
    [(2, 1), (1, 2), *(pytest.param(sizes, marks=pytest.mark.slow) for sizes in ((2, 4), (4, 1), (4, 2)))],
)
def test_a_run_goes_on_in_another_number_of_processes(
    sizes: tuple[int, int], whole: list[dict[str, float]], tmp_path: Path
) -> None:
    """Dropout and averages are on. The control: a run that goes on with other maskings."""
    first = several(sizes[0], tmp_path, STOP)
    assert list(first[0]) == [str(step) for step in range(1, STOP + 1)]
    if sizes[1] == 1:
        shutil.copytree(tmp_path / "run", tmp_path / "other")
        other = part(tmp_path / "other", None, Group(), seed=2)
        assert other[0] != pytest.approx({s: v for s, v in whole[0].items() if int(s) > STOP}, rel=1e-5)
    second = several(sizes[1], tmp_path, None)
    assert list(second[0]) == [str(step) for step in range(STOP + 1, STEPS + 1)]
    for before, after, expected in zip(first, second, whole, strict=True):
        assert before | after == pytest.approx(expected, rel=1e-5)
