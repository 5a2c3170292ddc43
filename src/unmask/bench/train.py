"""The speed and peak memory of a training step: masking, forward, backward, clipping, AdamW and averaged weights.

Memory is compared with that of full-sequence logits, each in a new process, because the peak of a process never
decreases.
"""

__all__ = [
    "bench_memory",
    "bench_train",
    "cell",
    "large_vocabulary",
    "make_trainer",
    "parts_of_step",
    "train_cell",
]

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unmask.bench.timing import (
    LARGE_VOCABULARY,
    MEMORY,
    TRAIN,
    TRAIN_14M,
    Shape,
    measure,
    shape_rate,
)
from unmask.data.packed import Corpus, Facts, Packed, PartFacts, Split
from unmask.data.settings import SPLIT_RULE, DataSettings
from unmask.denoiser import Denoiser
from unmask.errors import RunError
from unmask.model.load import build, parameter_count
from unmask.model.settings import DiTSettings
from unmask.objective.base import Draw, Loss, Objective, Rows, Turn
from unmask.output import show
from unmask.run.machine import bfloat16_works, keep_all_memory, peak_bytes
from unmask.run.parallel import Group
from unmask.text.build import byte_tokenizer
from unmask.train.loop import Trainer
from unmask.train.plan import TrainPlan
from unmask.train.progress import flops_per_token
from unmask.train.session import run_objective
from unmask.train.settings import ModelChoice, TextRun, TrainSettings

Modulation = Literal["none", "time"]


def _noise_corpus(shape: Shape, rows: int) -> Corpus:
    """A corpus of random ids, because the speed does not depend on the text."""
    ids = np.random.default_rng(0).integers(0, shape.vocab - 1, (rows, shape.length), dtype=np.uint32)
    zero, full = np.zeros(rows, np.int32), np.full(rows, shape.length, np.int32)
    packed = Packed(ids, zero, full, ids.size, ids.size)
    part = PartFacts(1, ids.size, ids.size, rows)
    facts = Facts("noise", False, "byte", shape.vocab, shape.length, "none", part, part, 1)
    return Corpus(byte_tokenizer(), packed, packed, "", (), facts, Split(SPLIT_RULE, "", None))


def make_trainer(
    shape: Shape,
    *,
    modulation: Modulation = "none",
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    compiled: bool = False,
    causal: bool = False,
    group: Group | None = None,
    divided: bool = False,
) -> Trainer:
    """A shape -> the Trainer of `unmask train` on random rows; it writes nothing until `fit` is called.

    `causal` makes it one of an autoregressive model. `divided` divides its network also without several processes.
    """
    target = device or torch.device("cpu")
    keep_all_memory()
    sizes = (shape.vocab, shape.vocab - 1, shape.length, shape.width, shape.blocks, shape.heads)
    model = DiTSettings(*sizes, modulation=modulation, causal_block=int(causal), shift=causal)
    run = TextRun(
        data=DataSettings(length=shape.length),
        model=ModelChoice(parameterization="ar" if causal else "subs"),
        train=TrainSettings(steps=10_000, batch=shape.batch, compile=compiled, fsdp="on" if divided else "auto"),
    )
    tokens = 8 * shape.batch * shape.length
    plan = TrainPlan(model, parameter_count(model), 10_000, 3e-4, 2500, 10_000, 10_000, 1, tokens, tokens, 1.0)
    network = build(model).to(target).train()
    corpus = _noise_corpus(shape, 8 * shape.batch)
    objective = run_objective(run, corpus)
    return Trainer(run, plan, corpus, network, objective, Path("unused"), group or Group(), dtype)


def train_cell(
    shape: Shape,
    rounds: int,
    *,
    modulation: Modulation,
    dtype: torch.dtype,
    device: torch.device,
    compiled: bool = False,
) -> dict[str, Any]:
    """One cell: tokens/s, the share of the matmul rate of its shape, and ms of a step by part."""
    trainer = make_trainer(shape, modulation=modulation, dtype=dtype, device=device, compiled=compiled)
    timing = measure(trainer.take_step, rounds, bf16=bfloat16_works(), device=device)
    tokens = shape.batch * shape.length
    flops = flops_per_token(trainer.plan.model) * tokens
    name = str(dtype).removeprefix("torch.")
    rate = shape_rate(tokens, shape.width, dtype, device)
    return {
        "shape": asdict(shape),
        "parameters": trainer.plan.parameters,
        "modulation": modulation,
        "dtype": name,
        "compiled": compiled,
        "tokens_per_second": tokens / timing.seconds,
        "tokens_per_second_per_gflops": tokens * timing.per_fp32,
        "floor_seconds": flops / rate / 1e9,
        "share_of_matmul_rate": flops / timing.seconds / 1e9 / rate,
        "shape_matmul_rate": rate,
        "peak_bytes": peak_bytes(device),
        **asdict(timing),
        "parts_ms": parts_of_step(trainer) if device.type == "cpu" and not compiled else {},
    }


_PARTS = {
    "linear": ("mm", "addmm", "addmm_", "linear", "_linear_pointwise"),
    "attention products": ("bmm", "baddbmm"),
    "softmax": ("_softmax", "_softmax_backward_data", "_log_softmax"),
    "GELU": ("gelu", "gelu_", "gelu_backward"),
    "LayerNorm": ("native_layer_norm", "native_layer_norm_backward"),
    "copies and casts": ("copy_", "fill_"),
    "other operations by element": (
        "add",
        "add_",
        "sub_",
        "mul",
        "mul_",
        "addcmul",
        "sum",
        "ge",
        "bitwise_xor",
        "__rshift__",
    ),
    "optimiser, average, clipping": ("_fused_adamw_", "lerp_", "_foreach_lerp_", "_foreach_norm", "linalg_vector_norm"),
}
"""Parts of a step, and the names of torch's operations in each."""


def parts_of_step(trainer: Trainer, steps: int = 3) -> dict[str, float]:
    """A trainer -> elapsed ms of a step by part, each operation without those that it calls; "other" is the rest.

    A profiled step is slower than others: each of its operations is recorded.
    """
    from torch.profiler import ProfilerActivity, profile

    part_of = {name: part for part, names in _PARTS.items() for name in names}
    parts = dict.fromkeys([*_PARTS, "other"], 0.0)
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(steps):
            trainer.take_step()
    for event in recorded.key_averages():
        part = part_of.get(event.key.rpartition("::")[2], "other")
        parts[part] += event.self_cpu_time_total / 1000 / steps
    return parts


def large_vocabulary(rounds: int) -> dict[str, Any]:
    """One cell: V = 50,258 on one thread, in CPU-seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cell = train_cell(LARGE_VOCABULARY, rounds, modulation="time", dtype=torch.float32, device=torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)
    tokens = LARGE_VOCABULARY.batch * LARGE_VOCABULARY.length
    return cell | {"threads": 1, "tokens_per_cpu_second": tokens / cell["cpu_seconds"]}


def bench_train(rounds: int, device: torch.device, *, compiled: bool = False) -> list[dict[str, Any]]:
    """All cells for a CPU; for a GPU one cell, the small network of MDLM at its length."""
    if device.type != "cpu":
        small = Shape("small, L=1024", 768, 12, 12, 50258, 1024, 32)
        return [train_cell(small, rounds, modulation="none", dtype=torch.bfloat16, device=device, compiled=compiled)]
    dtypes = [torch.float32, *([torch.bfloat16] if bfloat16_works() else [])]
    modulations: tuple[Modulation, ...] = ("time", "none")
    cells = [
        train_cell(TRAIN, rounds, modulation=modulation, dtype=dtype, device=device, compiled=compiled)
        for dtype in dtypes
        for modulation in modulations
    ]
    cells += [
        train_cell(TRAIN_14M, rounds, modulation="none", dtype=dtype, device=device, compiled=compiled)
        for dtype in dtypes
    ]
    return [*cells, large_vocabulary(rounds)]


_CELL = "import sys; from unmask.bench.train import cell; cell(*sys.argv[1:])"


def cell(shape_json: str, logits: str, threads: str) -> None:
    """The work of a child process: one warm-up step, one timed step, then a line of JSON on stdout."""
    import time

    from unmask.run.machine import prepare, set_threads

    prepare()
    set_threads(int(threads))
    cpu = torch.device("cpu")
    trainer = make_trainer(Shape(**json.loads(shape_json)))
    empty = peak_bytes(cpu)

    if logits == "full":  # the published form: every position's logits, in float32, at once
        trainer.objective = _FullLogits(trainer.objective)
    trainer.take_step()
    began, spent = time.perf_counter(), time.process_time()
    trainer.take_step()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - spent
    show(json.dumps({"peak": peak_bytes(cpu), "before": empty, "seconds": seconds, "cpu_seconds": cpu_seconds}))


@dataclass(frozen=True, slots=True)
class _FullLogits:
    """The masked objective with the logits of all positions in memory."""

    masked: Objective

    def draw(self, seed: int, step: int, rows: Tensor, total: int, maskable: Tensor) -> Draw:
        return self.masked.draw(seed, step, rows, total, maskable)

    def loss(self, model: Denoiser, rows: Rows, draw: Draw) -> Loss:
        hide, weight, time = draw
        time = time if model.time_conditioned else None
        logits = model.logits(model.hidden(rows.ids.masked_fill(hide, model.mask_id), valid=rows.valid, time=time))
        nll = F.cross_entropy(logits.float().flatten(0, 1), rows.ids.flatten(), reduction="none").view(hide.shape)
        return Loss((nll * hide).sum(-1) * weight, rows.maskable.sum(-1))

    def bound(self, model: Denoiser, rows: Rows, turn: Turn) -> Loss:
        return self.masked.bound(model, rows, turn)


def _run(shape: Shape, logits: str, threads: int) -> dict[str, Any]:
    command = [sys.executable, "-c", _CELL, json.dumps(asdict(shape)), logits, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"The memory benchmark of {shape.name} ended with code {done.returncode}: {done.stderr[-300:]}")
    return {"shape": asdict(shape), "logits": logits, **json.loads(done.stdout.splitlines()[-1])}


def bench_memory(threads: int) -> list[dict[str, Any]]:
    """Two cells: logits at masked positions, and full-sequence float32 logits, at V = 50,258, B 8, L 1024."""
    picked, full = _run(MEMORY, "picked", threads), _run(MEMORY, "full", threads)
    return [picked, full | {"picked_over_full": picked["peak"] / full["peak"]}]
