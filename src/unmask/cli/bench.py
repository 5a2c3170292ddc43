"""`unmask bench WHAT`: the speed and memory of this machine, compared with its matmul rates."""

__all__ = ["BenchArguments", "run"]

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from unmask.cli.common import OutputOptions, print_json
from unmask.cli.parse import Flat, Positional, parse, refuse, typed_options
from unmask.config import to_path
from unmask.errors import ConfigError
from unmask.output import show
from unmask.ranges import Count, Threads

_USED = {
    "train": {"rounds", "compile", "device", "threads"},
    "decode": {"rounds"},
    "ancestral": {"rounds", "device", "threads"},
    "policy": {"rounds"},
    "memory": {"threads"},
    "scaling": {"threads", "plot", "quick"},
    "gpu": {"rounds", "device", "quick"},
}
"""Benchmark -> the options that change it; the others are refused."""


@dataclass(frozen=True, slots=True)
class BenchArguments:
    """Measure speed and memory: medians over rounds. Each round measures the matmul rates of the machine too."""

    what: Positional[Literal["train", "decode", "ancestral", "policy", "memory", "scaling", "gpu"]]
    """train: a training step; decode: confidence in blocks, with each cache; ancestral: ancestral sampling on 128 and
    1000 steps; policy: a learned policy compared with a pass of the denoiser; memory: the peak of a step with a large
    vocabulary; scaling: time and memory along length, batch, vocabulary and parameters, minutes; gpu: training and
    decoding on a GPU, compared with its rates, minutes."""
    rounds: Count = 5
    """Measurements of each cell (train, decode, ancestral, policy, gpu)."""
    compile: bool = False
    """Compile the network with torch.compile (train)."""
    quick: bool = False
    """Tiny sizes, to try the command (scaling, gpu)."""
    plot: str | None = None
    """Write the plot to this PNG file (scaling)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps (train, ancestral, gpu)."""
    threads: Threads | None = None
    """Processor threads; by default torch's own choice (train, ancestral, memory, scaling)."""
    output: Flat[OutputOptions] = OutputOptions()


def run(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; prints the measurements as lines or JSON."""
    args = parse(BenchArguments, argv, "bench")
    used = _USED[args.what]
    refused = typed_options(BenchArguments, argv, "bench") - used - {"json"}
    refuse(refused, f"bench {args.what}, which uses {' and '.join(f'--{name}' for name in sorted(used))} alone.")

    from unmask.bench.scaling import scaling_table
    from unmask.config import run_record
    from unmask.run.machine import choose_device, matmul_rates, prepare, set_threads

    prepare()
    threads = set_threads(args.threads)
    device = choose_device(args.device)
    cells: list[dict[str, Any]] = []
    for cell in _cells(args, device, threads):
        cells.append(cell)
        if not args.output.json:
            show(*([_line(cell)] if "shape" in cell else ["", *scaling_table(cell)]))
    if args.output.json:
        rates = asdict(matmul_rates(threads))
        print_json({"bench": args.what, "machine": run_record(), "threads": threads, "rates": rates, "cells": cells})
    return 0


def _cells(args: BenchArguments, device: Any, threads: int) -> Iterable[dict[str, Any]]:
    """Run the benchmark that was asked for -> its measurements, one dictionary a cell."""
    if args.what == "train":
        from unmask.bench.train import bench_train

        return bench_train(args.rounds, device, compiled=args.compile)
    if args.what == "decode":
        from unmask.bench.decode import bench_blocks

        return bench_blocks(args.rounds)
    if args.what == "ancestral":
        from unmask.bench.decode import bench_ancestral

        return bench_ancestral(args.rounds, device)
    if args.what == "policy":
        from unmask.bench.policy import bench_policy

        return bench_policy(args.rounds)
    if args.what == "gpu":
        from unmask.bench.gpu import bench_gpu

        if device.type == "cpu" and not args.quick:
            raise ConfigError("bench gpu measures a GPU, and this machine has none; --quick tries it on the processor.")
        return bench_gpu(device, args.rounds, quick=args.quick)
    if args.what == "memory":
        from unmask.bench.train import bench_memory

        return bench_memory(threads)
    return _scaling(args, threads)


def _scaling(args: BenchArguments, threads: int) -> Iterator[dict[str, Any]]:
    """The curves of time and memory, and at last their picture."""
    from unmask.bench.scaling import bench_scaling, plot_scaling
    from unmask.eval.report import check_plot

    if args.plot is not None:
        check_plot(args.plot)
    curves: list[dict[str, Any]] = []
    for curve in bench_scaling(threads, quick=args.quick):
        curves.append(curve)
        yield curve
    if args.plot is not None:
        plot_scaling(curves, to_path(args.plot))


def _line(cell: dict[str, Any]) -> str:
    """Measured cell -> one line: its name, then each number with its unit."""
    shape = cell["shape"]
    name = (
        " ".join(str(cell[key]) for key in ("dtype", "policy", "cache", "modulation", "logits") if key in cell)
        + f" {shape['name']} L{shape['length']} B{shape['batch']} V{shape['vocab']} d{shape['width']}"
    )
    parts = [f"T={cell['steps']}"] if "steps" in cell else []
    units = (
        ("tokens_per_second", "{:,.0f} tokens/s"),
        ("tokens_per_second_per_gflops", "{:.2f} tokens/s per fp32 GFLOP/s"),
        ("share_of_matmul_rate", "{:.0%} of the shape's matmul rate"),
        ("share_of_bf16_rate", "{:.0%} of the bf16 rate"),
        ("passes_per_second", "{:,.1f} passes/s"),
        ("share_of_floor", "{:.0%} of the least time of a pass"),
        ("passes_per_row", "{:.1f} passes a row"),
        ("fp32_rate", "fp32 {:.0f} GFLOP/s"),
        ("bf16_rate", "bf16 {:.0f} GFLOP/s"),
        ("picked_over_full", "{:.2f} of the peak with full logits"),
        ("cpu_seconds", "{:.3f} CPU-s"),
        ("floor_cpu_seconds", "arithmetic alone {:.3f}"),
        ("row_at_batch_8", "a row at batch 8 costs {:.2f} of one alone"),
        ("share_of_pass", "{:.1%} of a pass"),
        ("passes_per_second", "{:,.0f} passes/s"),
        ("pass_ms", "{:.2f} ms a pass"),
        ("network_ms", "{:.2f} ms network"),
        ("reductions_ms", "{:.2f} ms reductions"),
        ("bookkeeping_ms", "{:.2f} ms bookkeeping"),
        ("policy_ms", "{:.2f} ms policy"),
        ("largest_probability_gap", "probabilities off by up to {:.3f}"),
        ("mean_total_variation", "total variation {:.4f} on average"),
        ("final_tokens_differ", "{:.0%} of the final tokens differ"),
    )
    parts += [form.format(cell[key]) for key, form in units if cell.get(key) is not None]
    if cell.get("compiled"):
        parts.append("compiled")
    if "peak" in cell:
        parts.append(f"peak {cell['peak'] / 2**20:,.0f} MiB")
    return f"{name}: " + ", ".join(parts)
