"""What the machine decides: the format of products and the number of threads, by measurements that other work does not
mislead; and machines that report matrix units that do not work."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from unmask.cli.main import main
from unmask.run import machine
from unmask.run.machine import Rates, choose_dtype, fastest_threads, matmul_rates
from unmask.train import session

SRC = Path(machine.__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    """What is measured once a process is measured again."""
    threads = torch.get_num_threads()
    machine._speedup.cache_clear()
    yield
    machine._speedup.cache_clear()
    torch.set_num_threads(threads)


def clock(seconds: Callable[[], float]) -> Callable[[], float]:
    """A clock that goes on by `seconds()` at each call."""
    now = [0.0]

    def read() -> float:
        now[0] += seconds()
        return now[0]

    return read


@pytest.mark.parametrize(
    ("bf16", "width", "expected"),
    [
        (500.0, None, torch.bfloat16),
        (500.0, 256, torch.bfloat16),
        (500.0, 128, torch.float32),
        (110.0, 512, torch.float32),
        (None, 512, torch.float32),
    ],
)
def test_auto_is_bfloat16_where_its_products_are_faster_and_wide_enough(
    bf16: float | None, width: int | None, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "processor_flags", lambda: {"amx_bf16"})
    monkeypatch.setattr(machine, "matmul_rates", lambda *_: Rates(100.0, bf16))
    assert choose_dtype("auto", CPU, width) is expected


def test_the_rates_of_the_choice_are_those_of_one_thread_by_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(machine, "processor_flags", lambda: {"amx_bf16"})
    monkeypatch.setattr(machine, "matmul_rates", lambda *options: asked.extend(options) or Rates(1.0, 2.0))
    choose_dtype("auto", CPU)
    assert asked == [1, machine.time.thread_time]
    monkeypatch.undo()
    assert matmul_rates(1, clock(lambda: 2.0)).fp32 == pytest.approx(2 * 512**3 / 2e9)  # the control: it uses the clock


@pytest.mark.slow
def test_auto_is_chosen_in_half_a_second_and_beside_other_work_alike() -> None:
    """In fresh processes, alone and beside a process that keeps a processor busy; seconds of the process."""
    code = (
        "import torch, time; from unmask.run.machine import *; start = time.process_time(); prepare();"
        "print(choose_dtype('auto', torch.device('cpu')), time.process_time() - start)"
    )
    environment = os.environ | {"PYTHONPATH": str(SRC)}

    def chosen() -> tuple[str, float]:
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        name, seconds = done.stdout.split()
        return name, float(seconds)

    alone = chosen()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        beside = chosen()
        busy.kill()
    assert alone[0] == beside[0]
    assert max(alone[1], beside[1]) < 0.5


@pytest.mark.parametrize(("cost_of_two", "expected"), [(0.6, 2), (0.95, 1), (8.0, 1)])
def test_threads_are_used_where_they_are_faster(
    cost_of_two: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in machine._USUAL_THREADS:
        monkeypatch.delenv(name, raising=False)
    torch.set_num_threads(2)
    cost = {1: 0.001, 2: 0.001 * cost_of_two}
    monkeypatch.setattr(machine.time, "perf_counter", clock(lambda: cost[torch.get_num_threads()]))
    assert fastest_threads.__wrapped__() == expected
    assert torch.get_num_threads() == 2  # measuring sets nothing
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert fastest_threads.__wrapped__() == 2  # the user's number is kept


def test_a_run_that_goes_on_keeps_its_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("to be or not to be, that is the question\n" * 50)
    words = "train --data.source text.txt --data.tokenizer char --data.length 32 --model.width 16 --model.blocks 1"
    words += " --model.heads 2 --train.batch 4 --dtype float32 --out run --sample-every 0 --train.steps"
    monkeypatch.setattr(session, "fastest_threads", lambda: 1)
    assert main([*words.split(), "2"]) == 0

    def measured() -> int:
        raise AssertionError("the recorded number was not used")

    torch.set_num_threads(2)
    monkeypatch.setattr(session, "fastest_threads", measured)
    assert main(["train", "--resume", "run", "--train.steps", "3"]) == 0
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(("survives", "works"), [([True], True), ([False, True], True), ([False, False], False)])
def test_units_that_are_reported_and_fail_are_switched_off(
    survives: list[bool], works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child tries the units; where it dies they are switched off, and if it dies again, bfloat16 is not used."""
    monkeypatch.setattr(machine.sys, "platform", "linux")
    monkeypatch.setattr(machine, "processor_flags", lambda: frozenset({"amx_tile", "amx_bf16"}))
    for name in machine._ISA_NAMES:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    answers = iter(survives)
    monkeypatch.setattr(machine, "_child_survives", lambda: next(answers))
    result = machine._prepare_once.__wrapped__()
    assert result is works
    assert (machine._ISA_NAMES[0] in os.environ) is (survives[0] is False)
    monkeypatch.setattr(machine, "_prepare_once", lambda: result)
    assert (choose_dtype("auto", CPU) is torch.float32) or works
