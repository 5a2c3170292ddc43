"""Paired rounds: this package and another checkout of unmask, in two processes that take turns at the same workload.

A figure is the median over the rounds of the other checkout's time divided by this one's. The matmul rate of the
machine in the same rounds stands beside it. Other processes of the machine are left alone; where they make the ratios
of the rounds differ much, `doubtful` says so.
"""

__all__ = ["Cell", "Workload", "bench_pairs", "doubtful", "pair", "pair_lines"]

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing import Pipe
from pathlib import Path
from typing import IO, Any, Literal

import torch

import unmask
from unmask.bench.timing import DECODE, FIELD, LARGE_VOCABULARY, TRAIN, TRAIN_14M, Shape, measured_rate, shape_rate
from unmask.errors import ConfigError, RunError
from unmask.run.machine import bfloat16_works

_CPU = torch.device("cpu")
_DOUBTFUL = 0.2  # interquartile range of the ratios of the rounds, relative to their median
_WARMUP = 2
_Seconds = tuple[float, float]  # elapsed, of the processor
_UNITS = {"train": "step", "decode": "pass", "policy": "decision"}


@dataclass(frozen=True, slots=True)
class Workload:
    """What a child process computes: a training step, a pass of decoding, or a policy's decision."""

    what: Literal["train", "decode", "policy"]
    shape: Shape
    dtype: str = "float32"
    turns: int = 1
    """Steps, passes or decisions in a round."""
    modulation: str = "none"
    cache: str = "none"
    constant: bool = False
    """Whether the network's outputs are stored and not computed, so that a pass is the loop alone."""
    prompt: int = 16
    block: int = 32
    mlp: int = 6


@dataclass(frozen=True, slots=True)
class Cell:
    """A comparison: its name, the workload, and the dtype in which the other checkout computes it."""

    name: str
    work: Workload
    other_dtype: str


class _Child:
    """A process that computes a workload with the `unmask` of one source folder."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `close`)
        self.pipe, theirs = Pipe()
        path = os.pathsep.join(filter(None, [str(source), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-P", str(Path(__file__).with_name("child.py")), str(theirs.fileno())]
        self.process = subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": path},
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=self.errors,
            stderr=self.errors,
        )
        theirs.close()

    def send(self, request: Any) -> None:
        """Send a request; a process that has ended is seen by `receive`."""
        with suppress(OSError):
            self.pipe.send(request)

    def receive(self) -> Any:
        """The answer to a request. Raises RunError, with the last line that it printed, where the process has ended."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.wait()
            self.errors.seek(0)
            lines = self.errors.read().decode("utf-8", "replace").splitlines()
            reason = lines[-1].rstrip(".") if lines else f"exit code {self.process.returncode}"
            raise RunError(f"The benchmark with the code of {self.source.parent} ended: {reason}.") from None

    def ask(self, request: Any) -> Any:
        """A request -> its answer. Raises RunError where the process has ended."""
        self.send(request)
        return self.receive()

    def parameters(self) -> int:
        """The first answer -> the number of parameters. Raises ConfigError where the checkout lacks what is needed."""
        facts = self.receive()
        if "missing" in facts:
            raise ConfigError(f"{self.source.parent} cannot be compared with: its code has no '{facts['missing']}'.")
        if Path(facts["package"]).resolve() != (self.source / "unmask").resolve():
            raise RunError(f"Python imports the library from {facts['package']} and not from {self.source}.")
        return facts["parameters"]

    def close(self) -> None:
        """End the process, if it has not ended."""
        self.pipe.close()
        self.process.kill()
        self.process.wait()
        self.errors.close()


@contextmanager
def _children(sources: Sequence[Path]) -> Generator[list[_Child]]:
    """Source folders -> a process for each, which ends with the context."""
    children: list[_Child] = []
    try:
        for source in sources:
            children.append(_Child(source))
        yield children
    finally:
        for child in children:
            child.close()


def _source_of(checkout: Path) -> Path:
    """A checkout -> its folder of sources. Raises ConfigError where it is no checkout of unmask."""
    source = checkout.resolve() / "src"
    if not (source / "unmask" / "__init__.py").is_file():
        raise ConfigError(f"{checkout} is no checkout of unmask: it has no src/unmask/__init__.py.")
    return source


def pair(cell: Cell, checkout: Path, rounds: int, threads: int) -> dict[str, Any]:
    """A cell and the other checkout -> ratios, times and rates of the rounds, and the difference of the results.

    Raises ConfigError for a folder that is no checkout of unmask, and for one that lacks what the workload needs.
    """
    work, own = cell.work, Path(unmask.__file__).resolve().parent.parent
    with _children([own, _source_of(checkout)]) as children:
        for child, dtype in zip(children, (work.dtype, cell.other_dtype), strict=True):
            child.send(asdict(replace(work, dtype=dtype)) | {"threads": threads})
        others, parameters = (child.parameters() for child in reversed(children))  # the other's error comes first
        if parameters != others:
            raise ConfigError(f"{checkout} builds another network: {others:,} parameters, and here {parameters:,}.")
        for child in children:
            child.ask(max(_WARMUP, work.turns))
        rates: list[dict[str, float]] = []
        seconds: tuple[list[_Seconds], list[_Seconds]] = [], []
        for number in range(rounds):
            rates.append(_rates(cell))
            for side in (0, 1) if number % 2 else (1, 0):
                seconds[side].append(children[side].ask(work.turns))
        ours, other = (child.ask(0) for child in children)
    return {
        "cell": cell.name,
        **asdict(work),
        "other_dtype": cell.other_dtype,
        "threads": threads,
        "rounds": rounds,
        "parameters": parameters,
        **_figures(*seconds),
        **{name: statistics.median(rate[name] for rate in rates) for name in rates[0]},
        **(_difference(work.what, ours, other) if work.dtype == cell.other_dtype else {}),
    }


def _rates(cell: Cell) -> dict[str, float]:
    """The rates of the machine at this moment, in GFLOP/s: of a 1024-cubed product, in training also of the shape's."""
    shape, dtype = cell.work.shape, getattr(torch, cell.work.dtype)
    rates = {f"{name}_rate": measured_rate(getattr(torch, name), _CPU) for name in {cell.work.dtype, cell.other_dtype}}
    if cell.work.what == "train":
        rates["shape_rate"] = shape_rate(shape.batch * shape.length, shape.width, dtype, _CPU)
    return rates


def _figures(ours: list[_Seconds], other: list[_Seconds]) -> dict[str, Any]:
    """Elapsed and processor seconds of a turn in each round -> medians in ms, and the ratios other / ours."""
    figures: dict[str, Any] = {}
    for number, clock in enumerate(("", "cpu_")):
        mine, theirs = ([1e3 * entry[number] for entry in side] for side in (ours, other))
        ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        figures |= {
            f"{clock}ratio": {
                "median": middle,
                "least": min(ratios),
                "largest": max(ratios),
                "spread": (high - low) / abs(middle),
            },
            f"{clock}ms": statistics.median(mine),
            f"other_{clock}ms": statistics.median(theirs),
            f"rounds_{clock}ms": list(zip(mine, theirs, strict=True)),
        }
    return figures


def _difference(what: str, ours: Any, other: Any) -> dict[str, float]:
    """Results of both -> the largest relative difference of the losses of a step, or the share of equal tokens."""
    if what == "train":
        return {"loss_difference": max(abs(a - b) / abs(b) for a, b in zip(ours, other, strict=True))}
    if what == "decode":
        return {"equal_tokens": float((torch.tensor(ours) == torch.tensor(other)).double().mean())}
    return {}


# ---- the cells -------------------------------------------------------------------------------------------------------


def _cells(what: str) -> list[Cell]:
    """The cells of a benchmark: each pair of dtypes that the machine supports."""
    bf16 = bfloat16_works()
    same = [("float32", "float32"), *([("bfloat16", "bfloat16")] if bf16 else [])]
    if what == "train":
        works = [(TRAIN, dtype, "none") for dtype, _ in same]
        works += [(TRAIN_14M, "bfloat16", "none")] if bf16 else []
        works += [(LARGE_VOCABULARY, "float32", "time")]
        return [
            Cell(f"{shape.name} {dtype}", Workload("train", shape, dtype, modulation=modulation), dtype)
            for shape, dtype, modulation in works
        ]
    if what == "policy":
        shapes = [replace(DECODE, batch=1), DECODE]
        return [
            Cell(f"batch {shape.batch}", Workload("policy", shape, turns=20, prompt=0, mlp=4), "float32")
            for shape in shapes
        ]
    pairs = [*same, *([("bfloat16", "float32")] if bf16 else [])]
    cells = [
        Cell(f"{cache} {_dtypes(*dtypes)}", Workload("decode", FIELD, dtypes[0], turns=32, cache=cache), dtypes[1])
        for cache in ("none", "dual")
        for dtypes in pairs
    ]
    return [*cells, Cell("loop", Workload("decode", FIELD, turns=128, constant=True), "float32")]


def _dtypes(ours: str, other: str) -> str:
    return ours if ours == other else f"{ours} against {other}"


def bench_pairs(what: str, checkout: Path, rounds: int, threads: int, only: str | None) -> Iterator[dict[str, Any]]:
    """train, decode or policy, and the other checkout -> a dictionary for each cell whose name contains `only`.

    Raises ConfigError where no cell has such a name, and as `pair` does.
    """
    _source_of(checkout)
    cells = _cells(what)
    chosen = [cell for cell in cells if only is None or only in cell.name]
    if not chosen:
        raise ConfigError(f"No cell of bench {what} has '{only}' in its name: {', '.join(c.name for c in cells)}.")
    for cell in chosen:
        yield pair(cell, checkout, rounds, threads)


def pair_lines(cell: dict[str, Any]) -> list[str]:
    """What `pair` returned -> two lines: the ratios; then ms of the other and of this, rates, difference of results."""
    threads, unit = cell["threads"], _UNITS[cell["what"]]
    elapsed, cpu = (
        f"{ratio['median']:.2f} times as fast ({ratio['least']:.2f} to {ratio['largest']:.2f})"
        for ratio in (cell["ratio"], cell["cpu_ratio"])
    )
    cpu_ms = f"{cell['other_cpu_ms']:,.2f} and {cell['cpu_ms']:,.2f}"
    parts = [f"{cell['other_ms']:,.2f} and {cell['ms']:,.2f} ms a {unit} (CPU {cpu_ms})"]
    names = {"float32_rate": "float32", "bfloat16_rate": "bfloat16", "shape_rate": "the shape's product"}
    parts += [f"{label} {cell[name]:.0f} GFLOP/s" for name, label in names.items() if name in cell]
    if "loss_difference" in cell:
        parts.append(f"losses within {cell['loss_difference']:.1e} relative")
    if "equal_tokens" in cell:
        parts.append(f"{cell['equal_tokens']:.1%} of the tokens equal")
    name = f"{cell['cell']}, {threads} thread{'s' * (threads > 1)}"
    return [f"{name}: {elapsed}, by CPU time {cpu}", "  " + ", ".join(parts)]


def doubtful(cells: Sequence[dict[str, Any]]) -> str | None:
    """What `pair` returned -> a sentence if the ratios of the rounds differ so much that a median is doubtful."""
    clocks = {"ratio": "elapsed", "cpu_ratio": "CPU"}
    names = [
        f"{cell['cell']} ({clock})"
        for cell in cells
        for key, clock in clocks.items()
        if cell[key]["spread"] > _DOUBTFUL
    ]
    if not names:
        return None
    return (
        f"Doubtful, because the ratios of their rounds vary by more than {_DOUBTFUL:.0%} (interquartile range): "
        f"{', '.join(names)}; repeat them while the machine does less beside."
    )
