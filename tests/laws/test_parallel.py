"""A training is the same in one, two and four processes, however its network is divided among them."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.laws.parallel_runs import Numbers, launch, measure
from tests.laws.processes import crew
from tests.parity.published import write
from torch import nn

from unmask.run.optim import full
from unmask.run.parallel import Group, enter_alone
from unmask.run.shard import divide

pytestmark = pytest.mark.processes

TOLERANCE = 1e-5
"""Relative, of losses and gradient norms over 20 steps in float32: sums are added in another order."""
LOOSER = {"bf16": 5e-3, "agnostic": 1e-4}
"""bfloat16 rounds the gathered weights; the mask-agnostic loss has absolute values, whose slope jumps at 0."""
CASES = [
    "plain",
    "plain+accumulate=2",
    "plain+again",
    "soft",
    "lora",
    "experts+accumulate=2",
    "bf16",
    "init",
    "init+lora",
]
CONTROLS = ["plain+mean", "plain+local"]
MORE = [
    "plain",
    "plain+accumulate=2",
    "plain+replicas=2",
    "ar",
    "d3pm",
    "agnostic",
    "llama",
    "lora",
    "init",
    "recompute",
    "compile",
]


def distance(left: Numbers, right: Numbers) -> float:
    """The greatest relative difference of losses and gradient norms."""
    pairs = [pair for name in ("losses", "norms") for pair in zip(left[name], right[name], strict=True)]
    return max(abs(a - b) / abs(a) for a, b in pairs)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Numbers]]:
    return launch([*CASES, *CONTROLS], 2, tmp_path_factory.mktemp("two"))


def check(name: str, results: list[Numbers], folder: Path) -> None:
    """What every process measured is what one alone measures, and each holds its share of weights and moments."""
    if "init" in name:
        write("llama", folder / "published")
    alone, size = measure(name.replace("+replicas=2", ""), Group(), folder), len(results)
    parts = size // 2 if "replicas" in name else size
    tolerance = next((value for word, value in LOOSER.items() if word in name), TOLERANCE)
    for result in results:
        assert distance(alone, result) < tolerance
        for field in ("unchanged", "moments"):
            assert result[field] == alone[field]
        assert result["bound"] == pytest.approx(alone["bound"], rel=max(tolerance / 10, 1e-6))
        assert result["bytes"] <= 1.1 * result["whole"] / parts
        same = ("losses", "norms", "weights", "bound", "text")
        assert [result[field] for field in same] == [results[0][field] for field in same]
    if "experts" in name or "lora" in name:
        assert True in alone["unchanged"]
        assert False in alone["unchanged"]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one(name: str, two: dict[str, list[Numbers]], tmp_path: Path) -> None:
    """Losses, norms, the bound and what stays unchanged: experts without a position, and frozen weights."""
    check(name, two[name], tmp_path)


def test_equal_numbers_of_processes_give_equal_bits(two: dict[str, list[Numbers]]) -> None:
    assert two["plain+again"] == two["plain"]
    assert two["plain+accumulate=2"] != two["plain"]


@pytest.mark.parametrize("name", CONTROLS)
def test_control_a_wrong_divisor_and_noise_by_local_row_are_seen(
    name: str, two: dict[str, list[Numbers]], tmp_path: Path
) -> None:
    assert distance(measure("plain", Group(), tmp_path), two[name][0]) > 100 * TOLERANCE


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
def test_four_processes_train_as_one(tmp_path: Path) -> None:
    """Also as two copies of the network, each divided among two."""
    for name, results in launch(MORE, 4, tmp_path / "four", seconds=600).items():
        check(name, results, tmp_path)


def test_the_whole_of_a_divided_tensor_is_a_copy() -> None:
    """Also in a process that holds all of it: a checkpoint is written while the weights change."""
    network = nn.Sequential(nn.Linear(4, 4))
    with ExitStack() as held:
        enter_alone(held, Group(), torch.device("cpu"))
        divide(network, 1, torch.device("cpu"), replicas=1, dtype=torch.float32)
        param: Any = next(network.parameters())
        whole, same, before = full(param), param.detach().full_tensor(), param.detach().clone().full_tensor()
        with torch.no_grad():
            param.add_(1.0)
        assert torch.equal(whole, before)
        assert not torch.equal(same, before)  # the control: what torch returns is the same memory


_ENDS = """
import sys, threading, time
import torch, torch.distributed as dist
from unmask.run.parallel import Group
main, freed = threading.get_ident(), threading.Event()
class Slow:
    def __del__(self):
        if threading.get_ident() != main and not freed.is_set():
            freed.set()
            time.sleep(0.28)
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
other = dist.new_group(backend="gloo")
while not freed.is_set():
    tensor = torch.ones(1)
    tensor.slow = Slow()
    dist.all_reduce(tensor, group=other, async_op=True)
    del tensor
    time.sleep(0.02)
Group(0, 2).leave() if sys.argv[1] == "leave" else dist.destroy_process_group()
"""


def test_a_thread_that_still_frees_a_tensor_does_not_abort_the_process() -> None:
    """The control: without the moment that `leave` takes it does."""
    code = [crew(_ENDS, 1, end)[0] for end in ("leave", "destroy")]
    assert code[0] == (0, "")
    assert code[1][0] != 0
    assert "terminate called" in code[1][1]


_ROLL = """
import sys, time
from pathlib import Path
import torch
from unmask.run import parallel
parallel._ROLL_CALL, parallel._ROLL_LIMIT = 1.0, 5.0
group, done = parallel.join_group(torch.device("cpu"), 300.0), Path(sys.argv[1])
if group.first:
    while not done.exists():
        time.sleep(0.1)
else:
    sentence = group._missing("timed out")
    done.touch()
    assert "process 0 of 2 does not answer" in sentence, sentence
"""


def test_that_the_first_process_hangs_is_known_before_another_limit_has_passed(tmp_path: Path) -> None:
    """The limit of a wait, after which the others ask, is longer than this test."""
    for code, errors in crew(_ROLL, 2, tmp_path / "done", seconds=100):
        assert code == 0, errors


_SIGNALLED = """
import os, signal, sys, time
from contextlib import ExitStack
import torch.distributed as dist
from unmask.cli.main import _ended_by_signals
from unmask.run.parallel import Group
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
rest = time.sleep
time.sleep = lambda seconds: (os.kill(os.getpid(), signal.SIGTERM), rest(seconds))
with _ended_by_signals(), ExitStack() as held:
    wait = lambda: (dist.destroy_process_group(), time.sleep(1))
    held.callback(Group(0, 2).leave if sys.argv[1] == "leave" else wait)
    sys.exit("the error of the run")
"""


def test_a_signal_while_a_process_leaves_does_not_hide_its_error() -> None:
    """As torchrun sends it to the others once one has ended. The control: a callback that lets the signal through."""
    kept, lost = (crew(_SIGNALLED, 1, end)[0] for end in ("leave", "wait"))
    assert kept == (1, "the error of the run\n")
    assert "Interrupted" in lost[1]
