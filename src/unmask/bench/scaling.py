"""Time and memory of a training step and of a decoding pass, along length, batch, vocabulary and parameters.

Beside each curve stands its arithmetic: the operations at the matmul rate of the machine, and the bytes of the numbers
that have to be held. Where a measured curve is steeper than its arithmetic, something grows that need not grow. Shapes
change along one axis; the others are those of `START`. Everything runs in this process: what torch allocates is counted
while the work runs, which needs no process a cell.
"""

__all__ = ["AXES", "START", "bench_scaling", "plot_scaling", "scaling_table", "settings_of"]

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from unmask.bench.timing import Shape, peak_allocated
from unmask.bench.train import make_trainer
from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.model.load import build, parameter_count
from unmask.model.settings import DiTSettings
from unmask.policies.registry import make
from unmask.run.machine import matmul_rates
from unmask.train.progress import flops_per_token

START = Shape("scaling", 256, 4, 4, 1024, 128, 8)
AXES: dict[str, list[Shape]] = {
    "length": [replace(START, length=n) for n in (64, 128, 256, 512, 1024)],
    "batch": [replace(START, batch=n) for n in (2, 4, 8, 16, 32)],
    "vocabulary": [replace(START, vocab=n) for n in (256, 1024, 4096, 16384, 65536)],
    "parameters": [replace(START, width=n, heads=n // 64) for n in (64, 128, 256, 512)],
}
_QUICK = replace(START, width=32, blocks=1, heads=1, vocab=64, length=32, batch=2)
_QUICK_AXES = {
    "length": [replace(_QUICK, length=n) for n in (32, 64)],
    "batch": [replace(_QUICK, batch=n) for n in (2, 4)],
    "vocabulary": [replace(_QUICK, vocab=n) for n in (64, 128)],
    "parameters": [replace(_QUICK, width=n) for n in (32, 64)],
}
_FIELDS = {"length": "length", "batch": "batch", "vocabulary": "vocab"}
_BLOCK = 32  # positions of a block of decoding, where the head runs


def settings_of(shape: Shape) -> DiTSettings:
    """A shape -> the settings of its network."""
    return DiTSettings(shape.vocab, shape.vocab - 1, shape.length, shape.width, shape.blocks, shape.heads)


def _training(shape: Shape) -> Callable[[], object]:
    return make_trainer(shape).take_step


def _decoding(shape: Shape) -> Callable[[], object]:
    """The second pass of the first block, without a cache."""
    tokens = torch.full((shape.batch, shape.length), shape.vocab - 1)
    decoder = Decoder(build(settings_of(shape)).eval(), make("confidence"), block_size=_BLOCK)
    canvas, state, _ = decoder.step(Canvas.start(tokens, torch.arange(shape.batch)))
    return lambda: decoder.step(canvas, state)


def _training_arithmetic(shape: Shape) -> tuple[float, float]:
    """Operations of a step; bytes: weights, gradients, two moments and averages, and what the backward pass needs of
    each block: 15 vectors a position (the inputs of products, norms and GELU) and the attention weights."""
    settings = settings_of(shape)
    positions = shape.batch * shape.length
    held = positions * shape.blocks * (15 * shape.width + shape.heads * shape.length)
    return flops_per_token(settings) * positions, 20.0 * parameter_count(settings) + 4.0 * held


def _decoding_arithmetic(shape: Shape) -> tuple[float, float]:
    """Operations of a pass with the head at one block; bytes: weights, the five vectors a position of an MLP, and where
    the head runs logits and log-probabilities."""
    settings, positions = settings_of(shape), shape.batch * shape.length
    each = 24 * shape.width**2 + 4 * shape.length * shape.width
    head = shape.batch * _BLOCK * 2 * shape.width * shape.vocab
    held = positions * 5 * shape.width + shape.batch * _BLOCK * 2 * shape.vocab
    least = 4.0 * parameter_count(settings) + 4.0 * held
    return float(positions * shape.blocks * each + head), least


_WORKS = {"training step": (_training, _training_arithmetic), "decoding pass": (_decoding, _decoding_arithmetic)}


def _cell(work: str, shape: Shape, rounds: int) -> dict[str, Any]:
    """Seconds (medians over rounds) and peak memory of a work of a shape, and its arithmetic."""
    make_work, arithmetic = _WORKS[work]

    def whole() -> None:
        run = make_work(shape)
        run()
        run()  # the state of the optimiser exists from the second step on

    peak = peak_allocated(whole)
    run = make_work(shape)
    run()
    wall, cpu = [], []
    for _ in range(rounds):
        began, spent = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - spent)
    operations, least = arithmetic(shape)
    return {
        "shape": asdict(shape),
        "parameters": parameter_count(settings_of(shape)),
        "seconds": statistics.median(wall),
        "cpu_seconds": statistics.median(cpu),
        "gflop": operations / 1e9,
        "peak_bytes": peak,
        "least_bytes": least,
    }


def bench_scaling(threads: int, *, quick: bool = False) -> Iterator[dict[str, Any]]:
    """A work and an axis at a time -> the values of the axis, a cell each, and slopes: the exponents with which time,
    memory and their arithmetic grow between the last two values."""
    for work in _WORKS:
        for axis, shapes in (_QUICK_AXES if quick else AXES).items():
            cells = [_cell(work, shape, 1 if quick else 3) for shape in shapes]
            values = [c["parameters"] if axis == "parameters" else c["shape"][_FIELDS[axis]] for c in cells]
            names = ("cpu_seconds", "gflop", "peak_bytes", "least_bytes")
            slopes = {name: _slope(values, [cell[name] for cell in cells]) for name in names}
            rate = matmul_rates(threads).fp32
            yield {"work": work, "axis": axis, "values": values, "cells": cells, "slopes": slopes, "fp32_rate": rate}


def _slope(x: list[float], y: list[float]) -> float:
    """The exponent of a power law through the last two points."""
    return math.log(y[-1] / y[-2]) / math.log(x[-1] / x[-2])


def scaling_table(curve: dict[str, Any]) -> list[str]:
    """What `bench_scaling` yields -> the lines of a table: a column for each value, with the slopes at the end."""
    cells, slopes = curve["cells"], curve["slopes"]
    rows = [
        (f"{curve['work']}, {curve['axis']}", [f"{value:,}" for value in curve["values"]], "slope"),
        ("CPU-seconds", [f"{cell['cpu_seconds']:.4f}" for cell in cells], f"{slopes['cpu_seconds']:.2f}"),
        ("GFLOP", [f"{cell['gflop']:,.2f}" for cell in cells], f"{slopes['gflop']:.2f}"),
        ("peak, MiB", [f"{cell['peak_bytes'] / 2**20:,.1f}" for cell in cells], f"{slopes['peak_bytes']:.2f}"),
        ("at least", [f"{cell['least_bytes'] / 2**20:,.1f}" for cell in cells], f"{slopes['least_bytes']:.2f}"),
    ]
    return [f"{name:<26}" + "".join(f"{text:>12}" for text in (*texts, last)) for name, texts, last in rows]


def plot_scaling(curves: list[dict[str, Any]], path: Path) -> None:
    """The curves of `bench_scaling` -> a picture: time above, memory below, a column for each axis; dashed: the
    arithmetic at the matmul rate of the machine, and the bytes that have to be held."""
    from unmask.plots import new_figure, save_figure

    axes = list(dict.fromkeys(curve["axis"] for curve in curves))
    colors = dict(zip(dict.fromkeys(curve["work"] for curve in curves), ("C0", "C1"), strict=False))
    figure = new_figure(3.2 * len(axes), 6.0)
    panels = figure.subplots(2, len(axes), sharey="row")
    for curve in curves:
        time_panel, memory_panel = panels[:, axes.index(curve["axis"])]
        x, cells, color = curve["values"], curve["cells"], colors[curve["work"]]
        floor = [cell["gflop"] / curve["fp32_rate"] for cell in cells]
        time_panel.loglog(x, [cell["cpu_seconds"] for cell in cells], "o-", ms=4, color=color, label=curve["work"])
        time_panel.loglog(x, floor, "--", lw=1, color=color, label="its arithmetic")
        memory_panel.loglog(x, [cell["peak_bytes"] / 2**20 for cell in cells], "o-", ms=4, color=color)
        memory_panel.loglog(x, [cell["least_bytes"] / 2**20 for cell in cells], "--", lw=1, color=color)
        memory_panel.set_xlabel(curve["axis"])
        for panel in (time_panel, memory_panel):
            panel.set_xticks(x, [f"{value:,}" if value < 10**5 else f"{value / 1e6:.1f} M" for value in x], fontsize=8)
            panel.minorticks_off()
    panels[0, 0].set_ylabel("CPU-seconds")
    panels[1, 0].set_ylabel("peak memory, MiB")
    panels[0, 0].legend(frameon=False, fontsize=8)
    save_figure(path, figure)
