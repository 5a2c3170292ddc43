"""Small trainings for tests/laws/test_parallel.py: the same cases in any number of processes, started as torchrun does.

As a program it runs the cases that its arguments name, and writes what each process measured to a file of JSON.
"""

__all__ = ["Numbers", "launch", "local_rows", "measure"]

import json
import os
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tests.laws.test_resume import corpus, settings
from tests.parity.published import write

from unmask.model.load import build
from unmask.model.lora import add_low_rank
from unmask.model.settings import ExpertSettings, TransformerSettings
from unmask.run.optim import full, parts_of
from unmask.run.parallel import Group, join_group
from unmask.train import loop
from unmask.train.adapt import loaded_start
from unmask.train.loop import Trainer
from unmask.train.plan import make_plan
from unmask.train.session import run_objective
from unmask.train.settings import AdaptSettings, TextRun

Numbers = dict[str, Any]
"""What a case measured in a process: "losses" and "norms" of its steps, sums of "weights", which are "unchanged", the
"bytes" of weights and moments that it holds and the "whole" of these tensors, the "bound" on held-out text, and a
"text" of the model."""
_STEPS = 20
LLAMA = TransformerSettings(12, 11, 16, 16, 2, 2, 2, 8, 32, tied=True)
EXPERTS = replace(LLAMA, experts=ExpertSettings(16, 1, 8))


def case(name: str) -> tuple[TextRun, Any]:
    """The name of a case -> its settings, and those of its network if it is not a DiT."""
    run, network = settings(steps=_STEPS), None
    for word in name.split("+"):
        match word.partition("="):
            case ("accumulate" | "replicas" as field, _, value):
                run = replace(run, train=replace(run.train, **{field: int(value)}))
            case ("soft", _, _):
                run = replace(run, model=replace(run.model, soft=3), train=replace(run.train, two_pass=0.5))
            case ("ar" | "d3pm" as name, _, _):
                run = replace(run, model=replace(run.model, parameterization=name))
            case ("agnostic", _, _):
                run = replace(run, agnostic=replace(run.agnostic, masks=4))
            case ("recompute" | "compile" as field, _, _):
                run = replace(run, train=replace(run.train, **{field: True}))
            case ("llama" | "lora", _, _):
                network = None if "init" in name else LLAMA
            case ("experts", _, _):
                network = EXPERTS
            case _:
                pass
    return run, network


def trainer(name: str, group: Group, folder: Path) -> Trainer:
    """A case -> its trainer."""
    run, other = case(name)
    data = corpus()
    start, fill = None if other is None else build(other, run.train.seed), None
    if "init" in name:
        tuning = AdaptSettings("lora" if "lora" in name else "full", rank=4)
        run, published = replace(run, adapt=tuning), folder.parent / "published"
        loaded, fill = loaded_start(str(published), run, torch.device("cpu"), empty=group.size > 1)
        start = loaded.denoiser
    elif "lora" in name:
        add_low_rank(start, 4, 8.0, 1)
    plan = make_plan(run, data, start)
    model = start or build(plan.model, run.train.seed)
    dtype = torch.bfloat16 if "bf16" in name else torch.float32
    objective = run_objective(run, data, start)
    made = Trainer(run, plan, data, model, objective, folder, group, dtype, fill=fill, device=torch.device("cpu"))
    if "mean" in name and made.shards is not None:
        for module in made.shards.modules:
            module.set_gradient_divide_factor(float(group.size))
    return made


@contextmanager
def local_rows(group: Group) -> Generator[None]:
    """Dropout that counts the rows of a process and not those of the batch, in the block."""
    right, each = loop.row_keys, 8 // group.size
    loop.row_keys = lambda seed, step, rows, stream: right(seed, step, rows % each, stream)
    yield
    loop.row_keys = right


@contextmanager
def graphs_alone() -> Generator[None]:
    """torch.compile makes graphs and no C++ of them, which takes minutes."""
    right = torch.compile
    torch.compile = partial(right, backend="aot_eager")
    yield
    torch.compile = right


def measure(name: str, group: Group, folder: Path) -> Numbers:
    """A case -> what it measured in this process."""
    with graphs_alone() if "compile" in name else nullcontext():
        run = trainer(name, group, folder / name)
    with local_rows(group) if "local" in name else nullcontext():
        steps = [run.take_step() for _ in range(_STEPS if "plain" in name else 6)]
    params = list(run.model.parameters())
    tensors = [full(param).float() for param in params]
    moments = [value for state in run.optimizer.state.values() for value in state.values() if value.ndim]
    fresh = trainer(name, Group(), folder / "fresh").model.parameters()
    return {
        "losses": [float(loss) for loss, _, _ in steps],
        "norms": [float(norm) for _, norm, _ in steps],
        "weights": [float(tensor.double().sum()) for tensor in tensors],
        "moments": [bool(run.optimizer.state.get(param)) for param in params],
        "unchanged": [torch.equal(old, new) for old, new in zip(fresh, tensors, strict=True)],
        "bound": run.validate().nats_per_token,
        "bytes": sum(part.nbytes for part in parts_of([*params, *moments])),
        "whole": sum(tensor.numel() * tensor.element_size() for tensor in [*params, *moments]),
        "text": run.write().text,
    }


def launch(cases: Sequence[str], size: int, folder: Path, *, seconds: float = 300) -> dict[str, list[Numbers]]:
    """Cases -> for each what every process of a group of `size` measured, by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    here = Path(__file__).parents[2]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1"}
    shared["PYTHONPATH"] = os.pathsep.join([str(here / "src"), str(here)])
    folder.mkdir(parents=True, exist_ok=True)
    if any("init" in name for name in cases):
        write("llama", folder / "published")  # two files of tensors
    command = [sys.executable, "-m", "tests.laws.parallel_runs", str(folder), *cases]
    crew = [
        subprocess.Popen(command, env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(size)
    ]
    try:
        codes = [process.wait(timeout=seconds) for process in crew]
    finally:
        for process in crew:
            process.kill()
    assert codes == [0] * size, codes
    results = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]
    return {name: [result[name] for result in results] for name in cases}


def main(folder: Path, cases: Sequence[str]) -> None:
    """The program of each process."""
    torch.set_num_threads(1)
    with ExitStack() as held:
        group = join_group(torch.device("cpu"), 120.0)
        held.callback(group.leave)
        results = {name: measure(name, group, folder) for name in cases}
        (folder / f"{group.rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
