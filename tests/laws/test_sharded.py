"""Training state in slices: what any number of processes wrote, any other reads; what is not whole is one sentence.

The network has sizes that no number of processes divides, so that some of them hold no row of some tensors.
"""

import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.laws.processes import crew, outcomes, start
from torch import Tensor, nn

from unmask.disk.tensors import check_shards
from unmask.errors import CheckpointError
from unmask.run.parallel import Group, join_group
from unmask.run.saving import Saver

pytestmark = pytest.mark.processes

CPU = torch.device("cpu")
SHARD = "shard-{:05d}-model-00001-of-00001.safetensors"


def tensors(size: int, seed: int) -> dict[str, Tensor]:
    """A state of random numbers; the matrices and vectors of a network are divided among the processes."""
    draws = torch.Generator().manual_seed(seed)
    shapes = {"raw/a": (5, 3), "raw/b": (3,), "raw/c": (1, 7), "optimizer/a.exp_avg": (5, 3), "ema/a": (2, 2)}
    whole = {name: torch.randn(shape, generator=draws) for name, shape in shapes.items()}
    placed: dict[str, Tensor] = dict(whole)
    if size > 1:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        network = nn.ParameterDict({name.replace(".", "|"): nn.Parameter(value) for name, value in whole.items()})
        fully_shard(network, mesh=init_device_mesh("cpu", (size,)))
        placed = {name.replace("|", "."): param.detach() for name, param in network.items()}
    return placed | {"optimizer/a.step": torch.tensor(float(seed))}


def full(tensor: Any) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def fill(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text("")


def save(saver: Saver, folder: Path, size: int, seed: int) -> None:
    """Save a state, which changes while it is written, and let the folder have its name when all have finished."""
    state = tensors(size, seed)
    saver.begin(folder, fill, state, {"step": seed})
    for value in state.values():
        value.zero_()
    assert not folder.exists() or not saver.group.first
    while saver.group.any(not saver.written(), CPU):
        time.sleep(0.01)
    assert saver.publish() == folder
    assert saver.pending == 0


def read(saver: Saver, folder: Path, size: int) -> dict[str, Tensor]:
    state = tensors(size, 99)
    saver.load(folder, state)
    return {name: full(value) for name, value in state.items()}


def equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@contextmanager
def joined() -> Generator[Saver]:
    """In a process of a test: what saves, in a group with the others."""
    group = join_group(CPU)
    saver = Saver(group, CPU)
    try:
        yield saver
    finally:
        saver.close()
        group.leave()


def sentence(do: Callable[[], object]) -> str:
    with pytest.raises(CheckpointError) as caught:
        do()
    return str(caught.value)


_SAVES = """
import sys
from pathlib import Path
from tests.laws.test_sharded import *
with joined() as saver:
    for seed in (1, 2):
        save(saver, Path(sys.argv[1]) / f"step-0000000{seed}", saver.group.size, seed)
    assert equal(read(saver, Path(sys.argv[1]) / "step-00000002", saver.group.size), tensors(1, 2))
"""
_READS = """
import sys
from pathlib import Path
from tests.laws.test_sharded import *
with joined() as saver:
    found = read(saver, Path(sys.argv[1]), saver.group.size)
    assert equal(found, tensors(1, int(sys.argv[2])))
    assert not equal(found, tensors(1, 3))
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints of steps 1 and 2, which two processes saved."""
    folder = tmp_path_factory.mktemp("two")
    for code, errors in crew(_SAVES, 2, folder):
        assert code == 0, errors
    return folder


def test_saved_by_two_is_read_by_one(two: Path) -> None:
    """And by two, in the program that saved; the control: another step has other numbers."""
    alone = Saver(Group(), CPU)
    for seed in (1, 2):
        folder = two / f"step-0000000{seed}"
        assert {entry.name for entry in (folder / "state").iterdir()} == {
            "state.json",
            SHARD.format(1),
            SHARD.format(2),
        }
        assert equal(read(alone, folder, 1), tensors(1, seed))
        assert not equal(read(alone, folder, 1), tensors(1, 3 - seed))
    assert sorted(entry.name for entry in two.iterdir()) == ["step-00000001", "step-00000002"]


def test_saved_by_one_is_read_by_two(tmp_path: Path) -> None:
    alone = Saver(Group(), CPU)
    save(alone, tmp_path / "step-00000005", 1, 5)
    alone.close()
    for code, errors in crew(_READS, 2, tmp_path / "step-00000005", 5):
        assert code == 0, errors


@pytest.mark.slow
@pytest.mark.parametrize("writers", [1, 2, 4])
def test_any_number_reads_what_any_number_wrote(writers: int, tmp_path: Path) -> None:
    for size in (writers, 1, 2, 4):
        program = _READS if (tmp_path / "step-00000002").exists() else _SAVES
        words = (tmp_path / "step-00000002", 2) if program is _READS else (tmp_path,)
        for code, errors in crew(program, size, *words):
            assert code == 0, errors


def test_a_state_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that is larger than a gigabyte a process."""
    monkeypatch.setattr("unmask.run.saving._PART", 64)
    alone = Saver(Group(), CPU)
    save(alone, tmp_path / "step-00000001", 1, 1)
    assert len(list((tmp_path / "step-00000001" / "state").glob("*.safetensors"))) == 3
    assert equal(read(alone, tmp_path / "step-00000001", 1), tensors(1, 1))
    alone.close()


def test_a_file_that_is_missing_or_of_another_save_is_named(two: Path, tmp_path: Path) -> None:
    """The control of each: with the file that belongs there it is read."""
    copy = Path(shutil.copytree(two, tmp_path / "copy"))
    folder, alone = copy / "step-00000002", Saver(Group(), CPU)
    second = folder / "state" / SHARD.format(2)
    kept = second.read_bytes()
    second.unlink()
    assert sentence(lambda: read(alone, folder, 1)) == (
        f"{second} is missing, one of the 2 files of the training state: copy all of them."
    )
    shutil.copy(copy / "step-00000001" / "state" / second.name, second)
    assert sentence(lambda: read(alone, folder, 1)) == (
        f"{second} is not of the checkpoint whose state.json is beside it: copy the file of this checkpoint."
    )
    second.write_bytes(kept)
    third = second.with_name(SHARD.format(3))
    third.write_bytes(kept)
    assert sentence(lambda: read(alone, folder, 1)) == (
        f"{third} does not belong to the 2 files of this state: move it away."
    )
    third.unlink()
    second.write_bytes(kept[:-1])
    assert f"{second} is damaged" in sentence(lambda: read(alone, folder, 1))
    second.write_bytes(kept)
    assert equal(read(alone, folder, 1), tensors(1, 2))


def test_slices_that_leave_a_gap_are_refused(two: Path, tmp_path: Path) -> None:
    """A row less in the first or in the second slice; without the check it would be left as drawn."""
    for number, rows in ((1, slice(0, 2)), (2, slice(1, 2))):
        folder = Path(shutil.copytree(two / "step-00000002", tmp_path / str(number)))
        file = folder / "state" / SHARD.format(number)
        stored = load_file(file)
        with safe_open(file, "pt") as opened:
            facts = opened.metadata()
        assert len(stored["raw/a"]) == 4 - number
        stored["raw/a"] = stored["raw/a"][rows].contiguous()
        save_file(stored, file, metadata=facts)
        text = sentence(lambda folder=folder: read(Saver(Group(), CPU), folder, 1))
        assert "does not fit the others" in text or "it has F32 [4, 3] for 'raw/a'" in text


def test_another_network_is_one_sentence(two: Path) -> None:
    wanted = tensors(1, 2)
    saver, folder = Saver(Group(), CPU), two / "step-00000002"
    first = f"{folder}/state is of another network: it has "
    last = "; resume with the settings that the run began with."
    for change, middle in (
        ({"raw/a": torch.zeros(5, 4)}, "F32 [5, 3] for 'raw/a' and this run F32 [5, 4]"),
        ({"raw/a": torch.zeros(5, 3, dtype=torch.float64)}, "F32 [5, 3] for 'raw/a' and this run F64 [5, 3]"),
        ({"raw/z": torch.zeros(1)}, "nothing for 'raw/z' and this run F32 [1]"),
    ):
        assert sentence(lambda more=change: saver.load(folder, wanted | more)) == f"{first}{middle}{last}"
    less = {name: value for name, value in wanted.items() if name != "ema/a"}
    assert f"F32 [2, 2] for 'ema/a' and this run nothing{last}" in sentence(lambda: saver.load(folder, less))
    facts = check_shards(folder / "state")
    assert facts is not None
    assert {name: fact.shape for name, fact in facts.items()} == {n: tuple(t.shape) for n, t in wanted.items()}


# ---- failures while writing ----------------------------------------------------------------------------------------

_FULL = """
import resource
import sys
from pathlib import Path
from tests.laws.test_sharded import *
from unmask.cli.main import _guarded
import unmask.cli.main as cli
folder = Path(sys.argv[1])
def run(words):
    with joined() as saver:
        save(saver, folder / "step-00000001", 2, 1)
        if saver.group.rank == int(sys.argv[2]):
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        save(saver, folder / "step-00000002", 2, 2)
    return 0
cli._dispatch = run
sys.exit(_guarded(["train"]))
"""


@pytest.mark.parametrize("full_rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_full_disk_on_one_process_is_one_sentence(full_rank: int, tmp_path: Path) -> None:
    """The limit of file sizes stands for it. Both processes end, and the checkpoint before is whole."""
    results = crew(_FULL, 2, tmp_path, full_rank)
    assert [code for code, _ in results] == [1, 1], results
    sentences = [[line for line in errors.splitlines() if line.startswith("unmask: ")] for _, errors in results]
    assert not sentences[1 - full_rank]
    (text,) = sentences[full_rank]
    assert text.startswith(f"unmask: {tmp_path / 'step-00000002'} could not be written because a file may not be")
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000001"]
    assert equal(read(Saver(Group(), CPU), tmp_path / "step-00000001", 1), tensors(1, 1))


_WAITS = """
import sys, time
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from contextlib import suppress
from unmask.errors import RunError
from tests.laws.test_sharded import *
from unmask.run import parallel
folder, what = Path(sys.argv[1]), sys.argv[2]
parallel._ROLL_CALL = 1.0
with joined() as saver:
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=2), dist.group.WORLD)  # as of --train.wait
    if what == "slow":
        saver.begin(folder / "step-00000001", lambda path: (time.sleep(5), fill(path)), tensors(2, 1), {"step": 1})
        assert saver.publish() == folder / "step-00000001"
    elif saver.group.rank == 1:
        dcp.load = lambda *args, **options: [time.sleep(0.1) for _ in iter((folder / "done").exists, True)]
        with suppress(RunError, CheckpointError):
            saver.load(folder / "step-00000001", tensors(2, 99))
    else:
        with pytest.raises(RunError) as caught:
            saver.load(folder / "step-00000001", tensors(2, 99))
        (folder / "done").touch()
        assert "process 1 of 2 does not answer" in str(caught.value), caught.value
"""


def test_a_long_write_is_waited_for_and_a_process_that_hangs_in_a_read_is_not(tmp_path: Path) -> None:
    """The limit of a wait is 2 seconds. The first process writes for 5; then the second does not read at all."""
    for what in ("slow", "hangs"):
        for code, errors in crew(_WAITS, 2, tmp_path, what, seconds=100):
            assert code == 0, errors


_FOREVER = """
import sys
from pathlib import Path
from tests.laws.test_sharded import *
with joined() as saver:
    seed = 1
    while True:
        save(saver, Path(sys.argv[1]) / f"step-{seed:08d}", 2, seed)
        seed += 1
"""


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_while_it_saves_the_last_one_is_whole(victim: int, tmp_path: Path) -> None:
    """One process is killed, and the other ends by itself; what is left over is deleted by the next save."""
    started = start([sys.executable, "-c", _FOREVER, str(tmp_path)], 2)
    while len(list(tmp_path.glob("step-*"))) < 3:
        assert all(process.poll() is None for process in started), outcomes(started)
        time.sleep(0.02)
    time.sleep(torch.rand(1, generator=torch.Generator().manual_seed(victim)).item() / 5)
    started[victim].send_signal(signal.SIGKILL)
    assert outcomes(started)[1 - victim][0] not in (0, -9)
    steps = sorted(tmp_path.glob("step-*"))
    alone = Saver(Group(), CPU)
    for folder in steps:
        seed = json.loads((folder / "state" / "state.json").read_text())["step"]
        assert folder.name == f"step-{seed:08d}"
        assert equal(read(alone, folder, 1), tensors(1, seed))
    save(alone, tmp_path / "step-90000000", 1, 7)
    alone.close()
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".")]
