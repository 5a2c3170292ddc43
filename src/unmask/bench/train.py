"""How fast a training step is, all in: masking, forward, backward, clipping, AdamW and the averaged weights."""

__all__ = ["bench_train", "large_vocabulary", "make_trainer", "train_cell"]

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from unmask.bench.shapes import (
    LARGE_VOCABULARY,
    PUBLISHED,
    PUBLISHED_RATE,
    PUBLISHED_RATE_ONE_THREAD,
    TRAIN,
    TRAIN_14M,
    Shape,
)
from unmask.bench.timing import measure, shape_rate
from unmask.data.corpus import Corpus, Facts, PartFacts
from unmask.data.packed import Packed
from unmask.data.settings import DataSettings
from unmask.model.build import build, parameter_count
from unmask.model.settings import DiTSettings
from unmask.run.machine import bfloat16_works, peak_bytes
from unmask.run.parallel import Group
from unmask.text.build import byte_tokenizer
from unmask.train.loop import Trainer
from unmask.train.plan import Plan, flops_per_token
from unmask.train.settings import TextRun, TrainSettings

Modulation = Literal["none", "time"]


def _noise_corpus(shape: Shape, rows: int) -> Corpus:
    """Rows of random ids: speed does not depend on what the text says."""
    ids = np.random.default_rng(0).integers(0, shape.vocab - 1, (rows, shape.length), dtype=np.uint32)
    zero, full = np.zeros(rows, np.int32), np.full(rows, shape.length, np.int32)
    packed = Packed(ids, zero, full, ids.size, ids.size)
    part = PartFacts(1, ids.size, ids.size, rows)
    facts = Facts("noise", False, "byte", shape.vocab, shape.length, "none", part, part)
    return Corpus(byte_tokenizer(), packed, packed, "", (), facts)


def make_trainer(
    shape: Shape,
    *,
    modulation: Modulation = "none",
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    compiled: bool = False,
) -> Trainer:
    """A real Trainer on random rows, as `unmask train` would have it; it writes nothing until `fit` is called."""
    place = device or torch.device("cpu")
    model = DiTSettings(
        shape.vocab, shape.vocab - 1, shape.length, shape.width, shape.blocks, shape.heads, modulation=modulation
    )
    run = TextRun(
        data=DataSettings(length=shape.length), train=TrainSettings(steps=10_000, batch=shape.batch, compile=compiled)
    )
    tokens = 8 * shape.batch * shape.length
    plan = Plan(model, parameter_count(model), 10_000, 3e-4, 2500, 10_000, 10_000, 1, tokens, tokens, 1.0)
    network = build(model).to(place).train()
    return Trainer(run, plan, _noise_corpus(shape, 8 * shape.batch), network, Path("unused"), Group(), dtype)


def train_cell(
    shape: Shape,
    rounds: int,
    *,
    modulation: Modulation,
    dtype: torch.dtype,
    device: torch.device,
    compiled: bool = False,
) -> dict[str, Any]:
    """One row of the table: tokens/s, share of the matmul rate, and the ratio to the published code if it has one."""
    trainer = make_trainer(shape, modulation=modulation, dtype=dtype, device=device, compiled=compiled)
    timing = measure(trainer.take_step, rounds, bf16=bfloat16_works(), device=device)
    tokens = shape.batch * shape.length
    flops = flops_per_token(trainer.plan.model) * tokens
    name = str(dtype).removeprefix("torch.")
    rate = shape_rate(tokens, shape.width, dtype, device)
    cell: dict[str, Any] = {
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
    }
    published = PUBLISHED.get(f"train {name}")
    if shape is TRAIN and published and device.type == "cpu":
        cell["published_tokens_per_second"] = published
        cell["published_fp32_rate"] = PUBLISHED_RATE
        cell["times_published"] = cell["tokens_per_second_per_gflops"] / (published / PUBLISHED_RATE)
    return cell


def large_vocabulary(rounds: int) -> dict[str, Any]:
    """V = 50,258 on one thread, in CPU-seconds, as the published code was profiled."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cell = train_cell(LARGE_VOCABULARY, rounds, modulation="time", dtype=torch.float32, device=torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)
    tokens = LARGE_VOCABULARY.batch * LARGE_VOCABULARY.length
    published = PUBLISHED["train V=50258 per CPU-second"]
    ours = tokens / cell["cpu_seconds"]
    return cell | {
        "threads": 1,
        "tokens_per_cpu_second": ours,
        "published_tokens_per_cpu_second": published,
        "times_published": (ours / cell["fp32_rate"]) / (published / PUBLISHED_RATE_ONE_THREAD),
    }


def bench_train(rounds: int, device: torch.device, *, compiled: bool = False) -> list[dict[str, Any]]:
    """The whole table for a CPU; on a GPU one cell, MDLM's small network at its own length."""
    if device.type != "cpu":
        small = Shape("small, L=1024", 768, 12, 12, 50258, 1024, 32)
        return [train_cell(small, rounds, modulation="none", dtype=torch.bfloat16, device=device, compiled=compiled)]
    kinds = [torch.float32, *([torch.bfloat16] if bfloat16_works() else [])]
    both: tuple[Modulation, ...] = ("time", "none")
    cells = [
        train_cell(TRAIN, rounds, modulation=modulation, dtype=dtype, device=device, compiled=compiled)
        for dtype in kinds
        for modulation in both
    ]
    cells += [
        train_cell(TRAIN_14M, rounds, modulation="none", dtype=dtype, device=device, compiled=compiled)
        for dtype in kinds
    ]
    return [*cells, large_vocabulary(rounds)]
