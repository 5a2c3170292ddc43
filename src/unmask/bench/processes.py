"""What it costs to divide a network: a step of several processes and of one, in turn; bytes that a process holds."""

__all__ = ["bench_processes", "child", "process_lines"]

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import torch

from unmask.bench.cluster import step_bytes
from unmask.bench.scaling import settings_of
from unmask.bench.timing import TRAIN, Shape
from unmask.bench.train import make_trainer
from unmask.disk.json import NotJson, parse_json, read_text
from unmask.errors import RunError
from unmask.output import show
from unmask.run.machine import prepare
from unmask.run.optim import parts_of
from unmask.run.parallel import Group, enter_alone, join_group
from unmask.train.loop import Trainer

_CPU = torch.device("cpu")
_CHILD = "import sys; from unmask.bench.processes import child; child(*sys.argv[1:])"


def bench_processes(count: int, rounds: int, *, quick: bool = False) -> Iterator[dict[str, Any]]:
    """Two cells, in float32 on a processor: a network divided "in one process", and "in several".

    The first compares processor seconds of a step with those of the plain network, on one thread, and the second
    tokens/s of `count` processes of one thread with those of one process of `count` threads; both take turns. The
    ratios are medians over rounds. The second has the bytes of weights, gradients and moments that a process holds.
    """
    shape = Shape("tiny", 32, 1, 2, 64, 32, 8) if quick else TRAIN
    yield _alone(shape, rounds)
    yield _several(shape, count, rounds)


def _alone(shape: Shape, rounds: int) -> dict[str, Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with ExitStack() as held:
        held.callback(torch.set_num_threads, threads)
        enter_alone(held, Group(), _CPU)
        pair = make_trainer(shape), make_trainer(shape, divided=True)
        ratios = list[float]()
        for run in pair:
            _seconds(run, 2)  # the first steps are slow
        for _ in range(rounds):
            plain, divided = (_seconds(run, 2) for run in pair)
            ratios.append(divided / plain)
    return {"processes": 1, "shape": asdict(shape), **_spread(ratios)}


def _seconds(run: Trainer, steps: int) -> float:
    began = time.process_time()
    for _ in range(steps):
        run.take_step()
    return (time.process_time() - began) / steps


def _several(shape: Shape, count: int, rounds: int) -> dict[str, Any]:
    with ExitStack() as held:
        crews = [[_start(held, shape, 0, 1, count, 0)], _crew(held, shape, count)]
        first = [_turn(crew) for crew in crews]  # the first steps are slow
        ratios = list[float]()
        for _ in range(rounds):
            whole, parts = (max(result["seconds"] for result in _turn(crew)) for crew in crews)
            ratios.append(whole / parts)
        sent = statistics.median(_sent(crews[1]) for _ in range(rounds))
    alone, bytes_held = first[0][0]["bytes"], [result["bytes"] for result in first[1]]
    return {
        "processes": count,
        "shape": asdict(shape),
        "bytes_alone": alone,
        "bytes_held": max(bytes_held),
        "share_held": max(bytes_held) / alone,
        "sent_bytes": sent,
        "computed_bytes": step_bytes(settings_of(shape), count, torch.float32),
        **_spread(ratios),
    }


def _sent(crew: list[Any]) -> float:
    """A turn of a crew -> the bytes of a step that went through the loopback device; 0 where the system counts none.

    The device counts what all programs of the machine send over it.
    """
    before = _loopback()
    _turn(crew)
    return (_loopback() - before) / 2  # of two steps


def _loopback() -> int:
    try:
        lines = read_text("/proc/self/net/dev").splitlines()
    except (OSError, NotJson):
        return 0
    fields = next((line.split(":")[1].split() for line in lines if line.strip().startswith("lo:")), [])
    return int(fields[8]) if fields else 0


def _spread(ratios: list[float]) -> dict[str, float]:
    return {"relative": statistics.median(ratios), "least": min(ratios), "largest": max(ratios)}


def _crew(held: ExitStack, shape: Shape, count: int) -> list[Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [_start(held, shape, rank, count, 1, port) for rank in range(count)]


def _start(held: ExitStack, shape: Shape, rank: int, size: int, threads: int, port: int) -> Any:
    """A child process that takes a step for each line it reads."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    more = {name: str(value) for name, value in place.items()} | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", _CHILD, json.dumps(asdict(shape)), str(threads)]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=os.environ | more, **pipes)
    held.enter_context(process)  # closes its pipes and waits for it
    held.callback(process.kill)
    return process


def _turn(crew: list[Any]) -> list[dict[str, Any]]:
    """A step of all processes of a crew -> what each measured. Raises RunError where one ended."""
    for process in crew:
        process.stdin.write("\n")
        process.stdin.flush()
    lines = [process.stdout.readline() for process in crew]
    if not all(lines):
        raise RunError(f"A process of the benchmark ended with code {crew[lines.index('')].wait()}.")
    return [parse_json(line, dict[str, Any]) for line in lines]


def child(shape_json: str, threads: str) -> None:
    """The work of a child process: two steps and a line of JSON for each line on stdin."""
    prepare()
    torch.set_num_threads(int(threads))
    with ExitStack() as held:
        group = join_group(_CPU)
        held.callback(group.leave)
        run = make_trainer(Shape(**parse_json(shape_json, dict[str, Any])), group=group)
        for _ in sys.stdin:
            began = time.perf_counter()
            run.take_step()
            run.take_step()
            show(json.dumps({"seconds": time.perf_counter() - began, "bytes": _bytes(run)}))


def _bytes(run: Trainer) -> int:
    """The bytes of weights, gradients (as large as what is trained) and moments that a process holds."""
    moments = [value for state in run.optimizer.state.values() for value in state.values() if value.ndim]
    return sum(part.nbytes for part in parts_of([*run.model.parameters(), *run.params, *moments]))


def process_lines(cell: dict[str, Any]) -> list[str]:
    """A cell of `bench_processes` -> the lines to print."""
    shape, spread = cell["shape"], f"least {cell['least']:.3f}, largest {cell['largest']:.3f}"
    name = f"{shape['name']} L{shape['length']} B{shape['batch']} float32"
    if cell["processes"] == 1:
        return [f"{name}, divided in one process: {cell['relative']:.3f} of the processor seconds ({spread})"]
    speed = f"{cell['relative']:.3f} of the tokens/s of one process with as many threads ({spread})"
    held, alone = (cell[key] / 2**20 for key in ("bytes_held", "bytes_alone"))
    share = f"{held:,.1f} MiB a process, {cell['share_held']:.3f} of the {alone:,.1f} MiB of one process"
    sent, computed = (cell[key] / 2**20 for key in ("sent_bytes", "computed_bytes"))
    return [
        f"{name}, divided among {cell['processes']} processes: {speed}",
        f"  weights, gradients and moments: {share}",
        f"  sent in a step by all processes: {sent:,.1f} MiB; computed {computed:,.1f} MiB",
    ]
