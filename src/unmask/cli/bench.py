"""`unmask bench WHAT`: the speed and memory of this machine, compared with its matmul rates."""

__all__ = ["BenchArguments", "run"]

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from unmask.cli.common import OutputOptions, print_json
from unmask.cli.parse import Flat, Positional, parse, refuse, typed_options
from unmask.config import to_path
from unmask.errors import ConfigError
from unmask.output import note, show
from unmask.ranges import Count, Threads, real, whole

_PAIRED = {"against", "only", "rounds", "threads"}
_USED = {
    "train": {"against", "rounds", "compile", "device", "threads"},
    "decode": {"against", "constraint", "feedback", "rounds"},
    "ancestral": {"rounds", "device", "threads"},
    "causal": {"rounds"},
    "policy": {"against", "rounds"},
    "memory": {"threads"},
    "scaling": {"threads", "plot", "quick"},
    "gpu": {"rounds", "device", "quick"},
    "scale --plan": {"plan"},
    "scale --processes": {"processes", "rounds", "quick"},
    "rollouts": {"rounds", "ray", "quick"},
    "serve": {"rounds", "seconds", "clients", "quick"},
    "serve --faults": {"faults", "quick"},
    "train --against": _PAIRED,
    "decode --against": _PAIRED,
    "policy --against": _PAIRED,
    "decode --feedback on": {"feedback", "rounds"},
    "decode --constraint on": {"constraint", "rounds"},
}
"""Benchmark -> the options that change it; the others are refused."""


@dataclass(frozen=True, slots=True)
class BenchArguments:
    """Measure speed and memory: medians over rounds. Each round measures the matmul rates of the machine too."""

    what: Positional[
        Literal[
            "train", "decode", "ancestral", "causal", "policy", "rollouts", "memory", "scaling", "gpu", "scale", "serve"
        ]
    ]
    """train: a training step; decode: confidence in blocks, with each cache; ancestral: ancestral sampling on 128 and
    1000 steps; causal: an autoregressive model, its generation with a cache and its training step compared with the
    masked one; policy: a learned policy compared with a pass of the denoiser; memory: the peak of a step with a large
    vocabulary; scaling: time and memory along length, batch, vocabulary and parameters, minutes; gpu: training and
    decoding on a GPU, compared with its rates, minutes; scale: training on several GPUs (--plan), or in
    several processes here (--processes); rollouts: rounds of `unmask learn` by one process, by two worker
    processes, and with --ray by two actors, minutes; serve: `unmask serve` under load beside the library in one
    batch, or with --faults what it does with bad clients, minutes, on this machine alone."""
    rounds: Count | None = None
    """Measurements of each cell; by default 5, with --against 7 (train, decode, ancestral, causal, policy, gpu,
    rollouts, serve)."""
    against: str | None = None
    """A checkout of unmask (a folder with src/unmask) to compare with: two processes, one with the code of each, take
    turns at the same work. Printed are the ratios of their times, median, least and largest of the rounds, with the
    matmul rates of the same rounds (train, decode, policy)."""
    only: str | None = None
    """Only the cells with this text in their name, such as "6.6M float32" or dual (with --against)."""
    feedback: Literal["off", "on"] = "off"
    """on: the cost of soft masks instead: a pass with feedback divided by the same pass without, on one thread, for a
    rule that looks at the predictions before it chooses and for one that does not (decode)."""
    constraint: Literal["off", "on"] = "off"
    """on: the cost of a pattern instead: a pass with a pattern of 100 states compared with the same pass without it, on
    one thread, with one reveal a pass and with several (decode)."""
    compile: bool = False
    """Compile the network with torch.compile (train)."""
    quick: bool = False
    """Tiny sizes, to try the command (scaling, gpu, rollouts, serve)."""
    seconds: Annotated[float, real(0, above=True)] = 60.0
    """Seconds of a round with the server (serve)."""
    clients: Annotated[int, whole(1, 64)] = 8
    """Clients that send a request as soon as the last one is answered (serve)."""
    faults: bool = False
    """Send bad requests, vanish, send slowly and kill the server instead (serve)."""
    ray: str | None = None
    """Address of a Ray cluster, auto, or local for one that is started now (rollouts)."""
    plot: str | None = None
    """Write the plot to this PNG file (scaling)."""
    plan: bool = False
    """Compute the memory and the communication of a step on 8 to 1,024 GPUs, without them (scale)."""
    processes: Annotated[int | None, whole(2, 64)] = None
    """Measure a training step divided among so many processes of this machine, against one process (scale)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps (train, ancestral, gpu)."""
    threads: Threads | None = None
    """Processor threads; by default torch's own choice, with --against 1 (train, ancestral, memory, scaling; decode and
    policy with --against)."""
    output: Flat[OutputOptions] = OutputOptions()


def run(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; prints the measurements as lines or JSON."""
    args = parse(BenchArguments, argv, "bench")
    pairs = f"{args.what} --against"
    name = pairs if args.against is not None and pairs in _USED else args.what
    if args.what == "decode" and args.feedback == "on":
        name = "decode --feedback on"
    if args.what == "decode" and args.constraint == "on":
        name = "decode --constraint on"
    if args.what == "scale":
        if not args.plan and args.processes is None:
            raise ConfigError(
                "bench scale computes what training needs on many GPUs: add --plan; or it measures processes of this "
                "machine: add --processes 2."
            )
        name = "scale --plan" if args.plan else "scale --processes"
    if args.what == "serve" and args.faults:
        name = "serve --faults"
    used = _USED[name]
    refused = typed_options(BenchArguments, argv, "bench") - used - {"json"}
    refuse(refused, f"bench {name}, which uses {' and '.join(f'--{option}' for option in sorted(used))} alone.")

    from unmask.config import run_record
    from unmask.run.machine import matmul_rates, prepare, set_threads

    prepare()
    threads = set_threads(1 if name == pairs and args.threads is None else args.threads)
    cells: list[dict[str, Any]] = []
    for cell in _paired(args, threads) if name == pairs else _cells(args, threads):
        cells.append(cell)
        if not args.output.json:
            show(*_lines(cell))
    if args.output.json:
        rates = asdict(matmul_rates(threads))
        print_json({"bench": args.what, "machine": run_record(), "threads": threads, "rates": rates, "cells": cells})
    return 0


def _paired(args: BenchArguments, threads: int) -> Iterator[dict[str, Any]]:
    """The comparison with another checkout, and at last a sentence if the machine was too busy for it."""
    from unmask.bench.pairs import bench_pairs, doubtful

    cells: list[dict[str, Any]] = []
    for cell in bench_pairs(args.what, to_path(args.against or ""), args.rounds or 7, threads, args.only):
        cells.append(cell)
        yield cell
    sentence = doubtful(cells)
    if sentence is not None:
        note(sentence)


def _cells(args: BenchArguments, threads: int) -> Iterable[dict[str, Any]]:
    """Run the benchmark that was asked for -> its measurements, one dictionary a cell."""
    from unmask.run.machine import choose_device

    device, rounds = choose_device(args.device), args.rounds or 5
    if args.what == "scale":
        return _scale(args, rounds)
    if args.what == "serve":
        return _serve(args, rounds)
    if args.what == "decode":
        return _decode(args, rounds)
    if args.what == "train":
        from unmask.bench.train import bench_train

        return bench_train(rounds, device, compiled=args.compile)
    if args.what == "ancestral":
        from unmask.bench.decode import bench_ancestral

        return bench_ancestral(rounds, device)
    if args.what == "causal":
        from unmask.bench.causal import bench_causal

        return bench_causal(rounds)
    if args.what == "policy":
        from unmask.bench.policy import bench_policy

        return bench_policy(rounds)
    if args.what == "gpu":
        from unmask.bench.gpu import bench_gpu

        if device.type == "cpu" and not args.quick:
            raise ConfigError("bench gpu measures a GPU, and this machine has none; --quick tries it on the processor.")
        return bench_gpu(device, rounds, quick=args.quick)
    if args.what == "rollouts":
        from unmask.bench.rollouts import bench_rollouts

        return bench_rollouts(rounds, args.ray, quick=args.quick)
    if args.what == "memory":
        from unmask.bench.train import bench_memory

        return bench_memory(threads)
    return _scaling(args, threads)


def _scale(args: BenchArguments, rounds: int) -> Iterable[dict[str, Any]]:
    """Training in several processes, or on many GPUs."""
    if args.processes is not None:
        from unmask.bench.processes import bench_processes

        return bench_processes(args.processes, rounds, quick=args.quick)
    from unmask.bench.cluster import plan_cells

    return plan_cells()


def _serve(args: BenchArguments, rounds: int) -> Iterable[dict[str, Any]]:
    """A server under load, or with bad clients."""
    if args.faults:
        from unmask.bench.faults import bench_faults

        return bench_faults(quick=args.quick)
    from unmask.bench.serving import bench_serving

    return bench_serving(rounds, args.seconds, args.clients, quick=args.quick)


def _decode(args: BenchArguments, rounds: int) -> Iterable[dict[str, Any]]:
    """Passes of decoding in blocks, with soft masks, or with a pattern."""
    from unmask.bench.constrained import bench_constraint
    from unmask.bench.decode import bench_blocks, bench_feedback

    if args.constraint == "on":
        return bench_constraint(rounds)
    return bench_feedback(rounds) if args.feedback == "on" else bench_blocks(rounds)


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


def _lines(cell: dict[str, Any]) -> list[str]:
    """Measured cell -> the lines to print."""
    if "ratio" in cell:
        from unmask.bench.pairs import pair_lines

        return pair_lines(cell)
    if "relative" in cell:
        from unmask.bench.processes import process_lines

        return process_lines(cell)
    if "collector" in cell:
        from unmask.bench.rollouts import rollout_lines

        return rollout_lines(cell)
    if "served" in cell:
        from unmask.bench.serving import serving_lines

        return serving_lines(cell)
    if "fault" in cell:
        from unmask.bench.faults import fault_lines

        return fault_lines(cell)
    if "plan" in cell:
        from unmask.bench.cluster import plan_lines

        return plan_lines(cell)
    if "shape" in cell:
        return [_line(cell)]
    from unmask.bench.scaling import scaling_table

    return ["", *scaling_table(cell)]


_UNITS = (
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
    ("tokens_per_cpu_second", "{:,.0f} tokens per CPU-second"),
    ("passes", "{} passes"),
    ("first_pass_positions", "{} positions in the first pass"),
    ("most_positions_after", "at most {} in later ones"),
    ("floor_ms", "least time of a pass {:.2f} ms"),
    ("bandwidth", "weights are read at {:.0f} GB/s"),
    ("ar_cpu_seconds", "AR {:.3f} CPU-s"),
    ("ar_gflop", "{:.0f} GFLOP"),
    ("masked_cpu_seconds", "masked {:.3f} CPU-s"),
    ("masked_gflop", "{:.0f} GFLOP"),
    ("per_operation", "AR over masked per operation {:.3f}"),
    ("least_per_operation", "least {:.3f}"),
    ("largest_per_operation", "largest {:.3f}"),
    ("plain_pass_ms", "{:.2f} ms a plain pass"),
    ("soft_pass_ms", "{:.2f} ms with feedback"),
    ("pattern_pass_ms", "{:.2f} ms with the pattern"),
    ("pattern_share", "{:.1%} of a plain pass for the pattern"),
    ("least_share", "least {:.1%}"),
    ("largest_share", "largest {:.1%}"),
    ("feedback_ratio", "{:.3f} times as long"),
    ("least_ratio", "least {:.3f}"),
    ("largest_ratio", "largest {:.3f}"),
    ("cpu_seconds", "{:.3f} CPU-s"),
    ("floor_cpu_seconds", "arithmetic alone {:.3f}"),
    ("row_at_batch_8", "a row at batch 8 costs {:.2f} of one alone"),
    ("share_of_pass", "{:.1%} of a pass"),
    ("pass_ms", "{:.2f} ms a pass"),
    ("network_ms", "{:.2f} ms network"),
    ("reductions_ms", "{:.2f} ms reductions"),
    ("bookkeeping_ms", "{:.2f} ms bookkeeping"),
    ("policy_ms", "{:.2f} ms policy"),
    ("largest_probability_gap", "probabilities off by up to {:.3f}"),
    ("mean_total_variation", "total variation {:.4f} on average"),
    ("final_tokens_differ", "{:.0%} of the final tokens differ"),
)
"""The numbers of a cell, in the order in which a line has them, each with its unit."""


def _line(cell: dict[str, Any]) -> str:
    """Measured cell -> one line: its name, then each number with its unit."""
    shape = cell["shape"]
    name = (
        " ".join(str(cell[key]) for key in ("work", "dtype", "policy", "cache", "modulation", "logits") if key in cell)
        + f" {shape['name']} L{shape['length']} B{shape['batch']} V{shape['vocab']} d{shape['width']}"
    )
    parts = [f"T={cell['steps']}"] if "steps" in cell else []
    parts += [form.format(cell[key]) for key, form in _UNITS if cell.get(key) is not None]
    if cell.get("compiled"):
        parts.append("compiled")
    if "peak" in cell:
        parts.append(f"peak {cell['peak'] / 2**20:,.0f} MiB")
    return f"{name}: " + ", ".join(parts)
