"""Memory and communication of a training step on many GPUs, computed without them.

A network is built on the meta device, which has shapes and no memory, and sharded by `fully_shard` over a process group
that only pretends to have other processes. So the bytes that a GPU holds are those of the real wrapping, with its
padding. Bytes that travel follow from the rules of `run.shard`: before a block computes, its weights are gathered in
bfloat16, in the forward and again in the backward pass; the embedding and the head in float32, once a pass over rows;
gradients are reduced in float32, once a step. Where a step has several passes over rows, a GPU keeps the gradient of
all parameters in float32 until the last one. Seconds divide the bytes by rates of the machine (`Machine`), and are a
lower bound: communication and computation overlap completely. `docs/scale.md` compares the bytes with measured ones.
"""

__all__ = ["MACHINE", "MESHES", "NETWORKS", "Machine", "Mesh", "Network", "plan_cells", "plan_lines", "step_bytes"]

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from unmask.batch import ceil_div
from unmask.errors import ConfigError
from unmask.limits import bytes_text
from unmask.model.load import build
from unmask.model.settings import DiTSettings, TransformerSettings
from unmask.run.shard import blocks_of, divide

_HELD = 20
"""Bytes of a trained parameter: weight, gradient, two moments of AdamW and the average, in float32."""
_GRADIENT = 4  # bytes of a gradient that is reduced, in float32
_FREE = 0.9  # share of the memory of a GPU that is used
_AGAIN = (
    4 / 3
)  # operations of a step whose forward pass is computed twice, divided by those of one that keeps everything


@dataclass(frozen=True, slots=True)
class Machine:
    """A cluster of H100: the vendor's rates, and what we assume."""

    flops: float = 989e12
    """bfloat16 operations of a GPU in a second (vendor)."""
    mfu: float = 0.4
    """Share of them that a training step reaches (assumed; published: 33 to 46 %)."""
    memory: float = 80e9
    """Bytes of a GPU."""
    node: int = 8
    """GPUs of a machine."""
    inside: float = 450e9
    """Bytes a second into a GPU from those of the same machine (vendor)."""
    network: float = 50e9
    """Bytes a second into a GPU from the network, 400 Gbit/s (vendor)."""
    near: float = 2e-6
    """Seconds of a message between two GPUs of a machine (assumed)."""
    far: float = 5e-6
    """Seconds of a message over the network (assumed)."""

    def ring(self, count: int, received: float) -> float:
        """GPUs, and the bytes that each receives -> seconds of a gathering or a reduction around a ring.

        A ring that leaves the machine uses the network cards of all its GPUs.
        """
        inside = count <= self.node
        rate = self.inside if inside else min(self.inside, self.node * self.network)
        return received / rate + (count - 1) * (self.near if inside else self.far)

    def tree(self, count: int, received: float) -> float:
        """Machines, and the bytes that each GPU receives -> seconds of a sum over machines, by a tree."""
        return received / self.network + 2 * math.log2(count) * self.far if count > 1 else 0.0


MACHINE = Machine()


@dataclass(frozen=True, slots=True)
class Mesh:
    """`replicas` groups of `shards` GPUs: a group holds the state once, each of its GPUs a shard."""

    replicas: int
    shards: int

    @property
    def size(self) -> int:
        """Number of GPUs."""
        return self.replicas * self.shards

    def __str__(self) -> str:
        """As "64" or "8 x 8"."""
        return str(self.shards) if self.replicas == 1 else f"{self.replicas} x {self.shards}"


MESHES = (Mesh(1, 8), Mesh(1, 64), Mesh(8, 8), Mesh(16, 8), Mesh(32, 8), Mesh(1, 1024), Mesh(128, 8))


@dataclass(frozen=True, slots=True)
class Network:
    """A network, and the rows of a batch of all GPUs."""

    name: str
    settings: DiTSettings | TransformerSettings
    batch: int

    @property
    def kept(self) -> int:
        """Bytes that the backward pass needs of a row if only the inputs of blocks are kept, in bfloat16."""
        s = self.settings
        return 2 * s.max_length * s.width * s.blocks

    @property
    def block(self) -> int:
        """Bytes that the backward pass needs of a row of one block, in bfloat16; attention keeps no matrix."""
        s = self.settings
        inner = 4 * s.inner if isinstance(s, TransformerSettings) else 0
        return 2 * s.max_length * (20 * s.width + inner)


NETWORKS = (
    Network("170M", DiTSettings(50258, 50257, 1024, 768, 12, 12), 512),
    Network("1B", DiTSettings(50258, 50257, 1024, 2048, 20, 16), 1024),
    Network("8B", TransformerSettings(126464, 126336, 4096, 4096, 32, 32, 32, 128, 12288), 1024),
)
"""MDLM's small network with its batch (arXiv:2406.07524); one of 1.0e9 parameters in its blocks; the shape of LLaDA."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """Parameters that are gathered together, of one GPU: `whole` of all GPUs with padding, `held` of this one."""

    whole: int
    held: int
    weight: int
    """Bytes of a weight that is gathered."""
    again: bool
    """Whether the backward pass gathers them again."""

    def received(self, mesh: "Mesh", turns: int) -> tuple[list[float], float, float]:
        """A mesh, and passes over rows -> bytes that a GPU receives in a step: of each gathering, of the reduction, and
        of the sum over replicas."""
        part = (mesh.shards - 1) / mesh.shards
        gathers = [self.weight * part * self.whole] * ((1 + self.again) * turns)
        replicas = 2 * (mesh.replicas - 1) / mesh.replicas
        return gathers, _GRADIENT * part * self.whole, replicas * _GRADIENT * self.whole / mesh.shards


@contextmanager
def _pretended(size: int) -> Generator[None]:
    """Inside, this process is the first of `size` that do not exist."""
    from torch.testing._internal.distributed.fake_pg import FakeStore  # the backend "fake" is registered by this import

    if dist.is_initialized():
        raise ConfigError("bench scale --plan pretends to be many processes: run it as one, without torchrun.")
    dist.init_process_group("fake", rank=0, world_size=size, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def _units(settings: DiTSettings | TransformerSettings, mesh: Mesh, dtype: torch.dtype) -> tuple[list[_Unit], int, int]:
    """A network on a mesh -> its units as the first GPU has them, all its parameters and those of its blocks."""
    with _pretended(mesh.size):
        with torch.device("meta"):
            network: Any = build(settings)
        blocks = blocks_of(network)
        inner = sum(param.numel() for block in blocks for param in block.parameters())
        count = sum(param.numel() for param in network.parameters())
        divide(network, mesh.size, torch.device("cpu"), replicas=mesh.replicas, dtype=dtype)
        rest = {id(param) for block in blocks for param in block.parameters()}
        ends = [param for param in network.parameters() if id(param) not in rest]
        units = [_unit(list(block.parameters()), mesh.shards, dtype.itemsize, again=True) for block in blocks]
        return [*units, _unit(ends, mesh.shards, 4, again=False)], count, inner


def _unit(params: list[Any], shards: int, weight: int, *, again: bool) -> _Unit:
    """Sharded parameters -> their unit: dimension 0 is cut into equal chunks, the last ones padded."""
    chunks = [ceil_div(param.shape[0], shards) * (param.numel() // param.shape[0]) for param in params]
    return _Unit(shards * sum(chunks), sum(param.to_local().numel() for param in params), weight, again)


def step_bytes(settings: DiTSettings | TransformerSettings, count: int, dtype: torch.dtype) -> float:
    """A network, and how many processes divide it -> the bytes that all of them receive in a step of one pass."""
    mesh = Mesh(1, count)
    each = (unit.received(mesh, 1) for unit in _units(settings, mesh, dtype)[0])
    return count * sum(sum(gathers) + reduced + summed for gathers, reduced, summed in each)


def _operations(network: Network, inner: int) -> float:
    """A network, and the parameters of its blocks -> operations of a step for each position.

    6 for each weight of the blocks, the two products of attention, and the head at the half of the positions that are
    masked on average.
    """
    s = network.settings
    return 6.0 * inner + 12.0 * s.max_length * s.width * s.blocks + 3.0 * s.vocab_size * s.width


class _Fit(NamedTuple):
    """How the rows of a GPU go through the network in a step."""

    turns: int
    """Passes over rows; 0 where not even one row fits."""
    peak: float
    """Bytes at the peak."""
    again: bool
    """Whether only the inputs of blocks are kept, and the backward pass computes the rest again."""


def _fit(network: Network, rows: int, state: float, whole: float, memory: float, *, again: bool) -> _Fit:
    """Rows of a GPU, the bytes of its state and gathered weights, and its memory -> the fewest passes that fit.

    `whole` are the bytes that the gradient of all parameters takes beside the part of this GPU. Several passes need
    them: FSDP2 reduces gradients after the last one, and until then adds them up unsharded (`Shards.begin`).
    """
    each = network.kept + network.block if again else network.settings.blocks * network.block
    free = _FREE * memory - state
    most = int((free - whole) // each)
    if rows * each <= free or most < 1:
        return _Fit(int(rows * each <= free), state + rows * each, again)
    turns = ceil_div(rows, most)
    return _Fit(turns, state + whole + ceil_div(rows, turns) * each, again)


def _seconds(units: Sequence[_Unit], mesh: Mesh, machine: Machine, turns: int) -> tuple[dict[str, float], float]:
    """The units of a GPU and its passes over rows -> the bytes that it receives in a step, by kind; least seconds."""
    received = [unit.received(mesh, max(1, turns)) for unit in units]
    gathers = [count for gathered, _, _ in received for count in gathered]
    reductions, sums = [reduced for _, reduced, _ in received], [summed for _, _, summed in received]
    seconds = sum(machine.ring(mesh.shards, count) for count in (*gathers, *reductions))
    seconds += sum(machine.tree(mesh.replicas, count) for count in sums)
    return {"gathered_bytes": sum(gathers), "reduced_bytes": sum(reductions), "summed_bytes": sum(sums)}, seconds


def _cell(network: Network, mesh: Mesh, machine: Machine) -> dict[str, Any]:
    """Network and mesh -> bytes that a GPU holds and receives in a step, and least seconds."""
    units, count, inner = _units(network.settings, mesh, torch.bfloat16)
    rows = ceil_div(network.batch, mesh.size)
    held = float(_HELD * sum(unit.held for unit in units))
    gathered = 2.0 * max(unit.weight * unit.whole for unit in units)  # one computes while the next one is gathered
    whole = float(_GRADIENT * (count - sum(unit.held for unit in units)))
    kept, again = (_fit(network, rows, held + gathered, whole, machine.memory, again=again) for again in (False, True))
    fit = kept if kept.turns == 1 else again
    received, seconds = _seconds(units, mesh, machine, fit.turns)
    positions = rows * network.settings.max_length
    useful = _operations(network, inner) * positions / (machine.flops * machine.mfu)
    compute = useful * (_AGAIN if fit.again else 1)
    step = max(compute, seconds)
    return {
        "network": network.name,
        "parameters": count,
        "mesh": str(mesh),
        "gpus": mesh.size,
        "batch": rows * mesh.size,
        "rows_a_gpu": rows,
        "turns": fit.turns,
        "computed_again": fit.again,
        "held_bytes": held,
        "held_over_whole": held / (_HELD * count),
        "peak_bytes": fit.peak,
        **received,
        "compute_seconds": compute,
        "communication_seconds": seconds,
        "step_seconds": step,
        "efficiency": compute / step,
        "tokens_per_second": positions * mesh.size / step,
    }


def plan_cells(machine: Machine = MACHINE) -> Iterator[dict[str, Any]]:
    """A machine -> a cell for each of `NETWORKS` on each of `MESHES`; the last one is MDLM's run on eight GPUs.

    Raises ConfigError in a process of torchrun.
    """
    cells: list[dict[str, Any]] = []
    for network in NETWORKS:
        for mesh in MESHES:
            cells.append(_cell(network, mesh, machine))
            yield {"plan": asdict(machine), "first": len(cells) == 1, **cells[-1]}
    hours = 1_000_000 * cells[0]["step_seconds"] / 3600
    yield {"plan": asdict(machine), "run": "a million steps of 512 rows of 1,024 tokens", "hours": hours, **cells[0]}


_COLUMNS = (
    ("network", 7),
    ("GPUs", 8),
    ("rows", 6),
    ("a GPU", 6),
    ("passes", 7),
    ("again", 6),
    ("held", 9),
    ("peak", 9),
    ("received", 9),
    ("computing", 12),
    ("communication", 14),
    ("share", 6),
    ("tokens/s", 10),
)
"""The columns of the table, each with its width."""


def plan_lines(cell: dict[str, Any]) -> list[str]:
    """A cell of `plan_cells` -> the lines to print, before the first one that of the columns."""
    if "run" in cell:
        return ["", f"{cell['run']}, {cell['network']} on {cell['mesh']} GPUs: at least {cell['hours']:.0f} hours"]
    traffic = cell["gathered_bytes"] + cell["reduced_bytes"] + cell["summed_bytes"]
    texts = (
        cell["network"],
        cell["mesh"],
        f"{cell['batch']:,}",
        str(cell["rows_a_gpu"]),
        str(cell["turns"] or "-"),
        "yes" if cell["computed_again"] else "no",
        bytes_text(cell["held_bytes"]),
        bytes_text(cell["peak_bytes"]),
        bytes_text(traffic),
        f"{cell['compute_seconds'] * 1e3:,.1f} ms",
        f"{cell['communication_seconds'] * 1e3:,.1f} ms",
        f"{cell['efficiency']:.0%}",
        f"{cell['tokens_per_second'] / 1e6:,.2f} M",
    )
    line = " ".join(text.rjust(width) for text, (_, width) in zip(texts, _COLUMNS, strict=True))
    return [" ".join(name.rjust(width) for name, width in _COLUMNS), line] if cell["first"] else [line]
