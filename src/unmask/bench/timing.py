"""Timing on a shared machine: each round measures the work and the matmul rate of the machine.

Also the shapes of the workloads. Figures of two programs are compared only where both ran in turn on one machine
(docs/performance.md): a rate that was measured elsewhere is no unit, since the two formats differ by machine.
"""

__all__ = [
    "DECODE",
    "FIELD",
    "LARGE_VOCABULARY",
    "MEMORY",
    "PATTERN",
    "SOFT",
    "TRAIN",
    "TRAIN_14M",
    "Shape",
    "Timing",
    "measure",
    "measured_rate",
    "peak_allocated",
    "shape_rate",
    "side_by_side",
    "wait",
]

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch._C._profiler import _ExperimentalConfig  # pyright: ignore[reportPrivateUsage]


@dataclass(frozen=True, slots=True)
class Timing:
    """Medians over rounds; rates are GFLOP/s of a 1024-cubed product, measured in the same rounds."""

    seconds: float
    cpu_seconds: float
    fp32_rate: float
    bf16_rate: float | None
    per_fp32: float
    """The median over rounds of 1 / (seconds * fp32 rate); multiplied by the work: work per second per GFLOP/s."""
    rounds: int


def measure(work: Callable[[], object], rounds: int, *, bf16: bool, device: torch.device, warmup: int = 2) -> Timing:
    """A function -> its time over `rounds` calls after a warm-up; `bf16`: whether to measure the bf16 rate too."""
    for _ in range(warmup):
        work()
    seconds, cpu, fp32, bf16_rates, ratio = [], [], [], [], []
    for _ in range(rounds):
        before = measured_rate(torch.float32, device)
        wait(device)
        wall, process = time.perf_counter(), time.process_time()
        work()
        wait(device)
        seconds.append(time.perf_counter() - wall)
        cpu.append(time.process_time() - process)
        fp32.append((before + measured_rate(torch.float32, device)) / 2)
        bf16_rates.append(measured_rate(torch.bfloat16, device) if bf16 else 0.0)
        ratio.append(1 / (seconds[-1] * fp32[-1]))
    median = statistics.median
    return Timing(
        median(seconds), median(cpu), median(fp32), median(bf16_rates) if bf16 else None, median(ratio), rounds
    )


def measured_rate(dtype: torch.dtype, device: torch.device, size: int | None = None, repeats: int = 4) -> float:
    """GFLOP/s of square matrix products: of width 1024 on a CPU, else 8192."""
    n = size or (1024 if device.type == "cpu" else 8192)
    left, right = torch.ones(n, n, dtype=dtype, device=device), torch.ones(n, n, dtype=dtype, device=device)
    torch.matmul(left, right)
    wait(device)
    began = time.perf_counter()
    for _ in range(repeats):
        torch.matmul(left, right)
    wait(device)
    return 2 * n**3 * repeats / (time.perf_counter() - began) / 1e9


def shape_rate(rows: int, width: int, dtype: torch.dtype, device: torch.device, repeats: int = 8) -> float:
    """GFLOP/s of the most frequent product in a block of this shape: (rows, width) times (width, 4 width)."""
    left = torch.ones(rows, width, dtype=dtype, device=device)
    right = torch.ones(width, 4 * width, dtype=dtype, device=device)
    times = []
    for _ in range(repeats):
        wait(device)
        began = time.perf_counter()
        torch.matmul(left, right)
        wait(device)
        times.append(time.perf_counter() - began)
    return 8 * rows * width**2 / statistics.median(times) / 1e9


def wait(device: torch.device) -> None:
    """Wait until a GPU has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_allocated(work: Callable[[], object]) -> int:
    """A function -> the largest number of bytes that it holds at a time in tensors, above those that exist before.

    On a processor: every allocation of torch is counted, in this thread and others, the inside of operations included.
    The older profiler of torch does this without lines on stderr.
    """
    plain = torch.autograd.ProfilerState.CPU
    config = torch.autograd.ProfilerConfig(plain, False, True, False, False, False, _ExperimentalConfig())
    torch.autograd._enable_profiler_legacy(config)  # pyright: ignore[reportPrivateUsage]
    try:
        work()
    finally:
        threads: list[list[Any]] = torch.autograd._disable_profiler_legacy()  # pyright: ignore[reportPrivateUsage]
    events = [event for events in threads for event in events]
    start = next(event for event in events if event.name() == "__start_profile")
    allocations = [event for event in events if event.kind() == "memory_alloc"]
    held = accumulate(event.cpu_memory_usage() for event in sorted(allocations, key=start.cpu_elapsed_us))
    return max(held, default=0)


def _cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _one_thread_rate(repeats: int = 4) -> float:
    """GFLOP/s of a 1024-cubed fp32 product, by the CPU time of one thread."""
    ones = torch.ones(1024, 1024)
    torch.matmul(ones, ones)
    return 2 * 1024**3 * repeats / _cpu_seconds(lambda: [torch.matmul(ones, ones) for _ in range(repeats)]) / 1e9


def side_by_side(works: dict[str, Callable[[], object]], rounds: int) -> tuple[dict[str, list[float]], list[float]]:
    """Functions by name -> the CPU-seconds of each in each round, and the matmul rate of each round.

    Every function is called once per round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    rates: list[float] = []
    for work in works.values():
        work()
    for _ in range(rounds):
        before = _one_thread_rate()
        for name, work in works.items():
            seconds[name].append(_cpu_seconds(work))
        rates.append((before + _one_thread_rate()) / 2)
    return seconds, rates


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a network and of a batch."""

    name: str
    width: int
    blocks: int
    heads: int
    vocab: int
    length: int
    batch: int


TRAIN = Shape("6.6M", 256, 6, 4, 1024, 128, 32)
TRAIN_14M = Shape("14M", 384, 6, 6, 4096, 256, 16)
LARGE_VOCABULARY = Shape("V=50258", 256, 6, 4, 50258, 128, 2)
MEMORY = Shape("V=50258, L=1024", 256, 4, 4, 50258, 1024, 8)
DECODE = Shape("6.6M", 256, 6, 4, 1024, 128, 8)
# A prompt of 16 tokens and 128 masked tokens, one per pass, blocks of 32; 8,406,272 parameters with an MLP of
# 6 * width, whose two matrices are as large as the three of a gated MLP of 4 * width in the published loops.
FIELD = Shape("8.4M", 256, 4, 4, 8192, 144, 1)
PATTERN = Shape("5.1M", 192, 6, 6, 8192, 128, 1)
SOFT = (
    Shape("0.8M", 128, 4, 4, 100, 128, 1),
    Shape("4.3M", 192, 6, 6, 4096, 128, 1),
    Shape("8.9M", 256, 6, 4, 8192, 128, 1),
    Shape("8.9M", 256, 6, 4, 8192, 128, 8),
)
