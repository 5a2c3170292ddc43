"""Peak memory and time of a training step: against full-sequence logits, and as L, B, V and the network grow.

Each cell runs in a process of its own, because a process's peak never falls.
"""

__all__ = ["bench_memory", "bench_scaling", "cell", "plot_scaling"]

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from unmask.bench.shapes import MEMORY, Shape
from unmask.errors import RunError

_CELL = "import sys; from unmask.bench.memory import cell; cell(*sys.argv[1:])"


def cell(shape_json: str, logits: str, threads: str) -> None:
    """What a child process does: one warm-up step and one timed step, then a line of JSON."""
    import time

    import torch
    from torch.nn import functional as F

    from unmask.bench.train import make_trainer
    from unmask.run.machine import peak_bytes, prepare, set_threads
    from unmask.train import loop

    prepare()
    set_threads(int(threads))
    cpu = torch.device("cpu")
    trainer = make_trainer(Shape(**json.loads(shape_json)))
    empty = peak_bytes(cpu)

    if logits == "full":  # the published form: every position's logits, in float32, at once

        def full(denoiser: Any, x_0: Any, hide: Any, weight: Any, *, valid: Any = None, time: Any = None) -> Any:
            found = denoiser.logits(denoiser.hidden(x_0.masked_fill(hide, denoiser.mask_id), valid=valid, time=time))
            nll = F.cross_entropy(found.float().flatten(0, 1), x_0.flatten(), reduction="none").view(x_0.shape)
            return _Nats((nll * hide).sum(-1) * weight)

        loop.nelbo = full  # pyright: ignore[reportAttributeAccessIssue]
    trainer.take_step()
    began, spent = time.perf_counter(), time.process_time()
    trainer.take_step()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - spent
    print(json.dumps({"peak": peak_bytes(cpu), "before": empty, "seconds": seconds, "cpu_seconds": cpu_seconds}))


class _Nats:
    """As much of a Nelbo as the loop reads."""

    def __init__(self, nats: Any) -> None:
        self.nats = nats


def _run(shape: Shape, logits: str, threads: int) -> dict[str, Any]:
    command = [sys.executable, "-c", _CELL, json.dumps(asdict(shape)), logits, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"The memory benchmark of {shape.name} ended with code {done.returncode}: {done.stderr[-300:]}")
    return {"shape": asdict(shape), "logits": logits, **json.loads(done.stdout.splitlines()[-1])}


def bench_memory(threads: int) -> list[dict[str, Any]]:
    """Picked positions against full-sequence float32 logits at V = 50,258, B 8, L 1024."""
    picked, full = _run(MEMORY, "picked", threads), _run(MEMORY, "full", threads)
    return [picked, full | {"picked_over_full": picked["peak"] / full["peak"]}]


def bench_scaling(threads: int) -> dict[str, list[dict[str, Any]]]:
    """Time and memory of a step along each axis, the others held at d 256, 4 blocks, V 1024, L 128, B 8."""
    start = Shape("scaling", 256, 4, 4, 1024, 128, 8)
    axes: dict[str, list[Shape]] = {
        "L": [replace(start, length=n) for n in (64, 128, 256, 512, 1024)],
        "B": [replace(start, batch=n) for n in (2, 4, 8, 16, 32)],
        "V": [replace(start, vocab=n) for n in (256, 1024, 4096, 16384, 65536)],
        "width": [replace(start, width=n, heads=n // 64) for n in (64, 128, 256, 512)],
    }
    return {axis: [_run(shape, "picked", threads) for shape in shapes] for axis, shapes in axes.items()}


def plot_scaling(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Two rows of panels, seconds and peak memory, with the arithmetic's own growth as a dashed line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from unmask.model.settings import DiTSettings
    from unmask.train.plan import flops_per_token

    keys = {"L": "length", "B": "batch", "V": "vocab", "width": "width"}
    figure, panels = plt.subplots(2, len(found), figsize=(3.2 * len(found), 5.6), layout="constrained")
    for column, (axis, cells) in enumerate(found.items()):
        x = [c["shape"][keys[axis]] for c in cells]
        work = []
        for c in cells:
            s = Shape(**c["shape"])
            model = DiTSettings(s.vocab, s.vocab - 1, s.length, s.width, s.blocks, s.heads)
            work.append(flops_per_token(model) * s.batch * s.length)
        seconds = [c["cpu_seconds"] for c in cells]
        panels[0, column].loglog(x, seconds, "o-", label="measured")
        panels[0, column].loglog(x, [w * seconds[-1] / work[-1] for w in work], "k--", lw=1, label="arithmetic")
        panels[1, column].loglog(x, [(c["peak"] - c["before"]) / 2**20 for c in cells], "o-")
        panels[1, column].set_xlabel(axis)
    panels[0, 0].set_ylabel("CPU-seconds a step")
    panels[1, 0].set_ylabel("peak above the empty process, MiB")
    panels[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
