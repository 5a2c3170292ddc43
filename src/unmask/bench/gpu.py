"""The measurements of a GPU in one go, about ten minutes: training of a small network, decoding with the dual cache.

Training is compared with the measured rate of bf16 products. A decoding pass is compared with its floor: what its
products need, the larger of reading the weights at the measured bandwidth and computing at the measured rate, and then
attention (keys and values are read) and the vocabulary head (in float32). On a processor, with `quick`, the same code
runs on tiny sizes: that tests it, and measures nothing.
"""

__all__ = ["Speed", "bench_gpu", "pass_floor"]

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from unmask.bench.timing import Shape, measured_rate, wait
from unmask.bench.train import train_cell
from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.model.cache import cached
from unmask.model.inference import compile_passes, computing_in
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.policies.registry import make

_SMALL = Shape("110M", 768, 12, 12, 50258, 1024, 32)  # without embedding and head 85M: MDLM's small network
_LARGE = Shape("1B", 2048, 20, 16, 50258, 1024, 1)  # 1.007e9 parameters in the blocks
_TINY = Shape("tiny", 32, 1, 1, 64, 64, 2)
_BLOCK, _BATCHES = 32, (1, 8, 64)


@dataclass(frozen=True, slots=True)
class Speed:
    """What the device does: products in GFLOP/s, memory in GB/s (reads and writes together)."""

    bf16: float
    fp32: float
    bandwidth: float


def _speed(device: torch.device, quick: bool) -> Speed:
    source = torch.ones((1 if quick else 1024) << 18, device=device)
    target = torch.empty_like(source)
    seconds = _seconds(lambda: target.copy_(source), device, 3)
    size = 128 if quick else None
    bf16, fp32 = (measured_rate(dtype, device, size) for dtype in (torch.bfloat16, torch.float32))
    return Speed(bf16, fp32, 2 * source.nbytes / seconds / 1e9)


def _seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The mean time of a call, after a first one that is not counted."""
    work()
    wait(device)
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    wait(device)
    return (time.perf_counter() - began) / repeats


def pass_floor(shape: Shape, positions: int, heads: int, speed: Speed) -> float:
    """Shape, computed positions of a row, and the positions at which the head runs -> the least seconds of a pass."""
    weights = 12 * shape.width**2 * shape.blocks
    rows = shape.batch * positions
    products = max(2 * weights / speed.bandwidth, 2 * weights * rows / speed.bf16) / 1e9
    kept = 4 * shape.batch * shape.length * shape.width * shape.blocks  # bytes: keys and values in bf16
    attention = max(kept / speed.bandwidth, 4 * rows * shape.length * shape.width * shape.blocks / speed.bf16) / 1e9
    entries = shape.width * shape.vocab
    head = max(4 * entries / speed.bandwidth, 2 * entries * shape.batch * heads / speed.fp32) / 1e9
    return products + attention + head


def _decoding(shape: Shape, device: torch.device, speed: Speed, *, compiled: bool) -> dict[str, Any]:
    """One cell: passes a second over a block of 32 passes, one token each; the first computes all positions."""
    settings = DiTSettings(shape.vocab, shape.vocab - 1, shape.length, shape.width, shape.blocks, shape.heads)
    with torch.device(device):
        network = build(settings).eval()
    torch.nn.init.normal_(network.head.weight, std=0.05)
    decoder = Decoder(cached(computing_in(network, torch.bfloat16), "dual"), make("confidence"), block_size=_BLOCK)
    if compiled:
        compile_passes(network, decoding=True)
    tokens = torch.full((shape.batch, shape.length), shape.vocab - 1, device=device)
    tokens[:, : shape.length - _BLOCK] = 1
    canvas = Canvas.start(tokens, torch.arange(shape.batch, device=device))
    seconds = _seconds(lambda: decoder.decode(canvas), device, 3)
    floors = [pass_floor(shape, shape.length if turn == 0 else _BLOCK, _BLOCK - turn, speed) for turn in range(_BLOCK)]
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {
        "shape": asdict(shape),
        "dtype": "bfloat16",
        "cache": "dual",
        "compiled": compiled,
        "passes_per_second": _BLOCK / seconds,
        "floor_passes_per_second": _BLOCK / sum(floors),
        "share_of_floor": sum(floors) / seconds,
        "peak_bytes": memory,
    }


def bench_gpu(device: torch.device, rounds: int, *, quick: bool = False) -> Iterator[dict[str, Any]]:
    """All cells: training with and without torch.compile, then decoding of two networks at three batch sizes, each
    without and with compiled passes (on a GPU: CUDA graphs)."""
    speed = _speed(device, quick)
    small, large, batches = (_TINY, _TINY, (1, 2)) if quick else (_SMALL, _LARGE, _BATCHES)
    for compiled in (False,) if quick else (False, True):
        options = {"modulation": "none", "dtype": torch.bfloat16, "device": device, "compiled": compiled}
        cell = train_cell(small, rounds, **options)  # pyright: ignore[reportArgumentType]
        needed = cell["share_of_matmul_rate"] * cell["shape_matmul_rate"]
        yield cell | {"speed": asdict(speed), "share_of_bf16_rate": needed / speed.bf16}
    for shape in (small, large):
        for compiled in (False,) if quick else (False, True):
            for batch in batches:
                cell = _decoding(replace(shape, batch=batch), device, speed, compiled=compiled)
                yield cell | {"speed": asdict(speed)}
