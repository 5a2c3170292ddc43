"""The speed of an autoregressive model: tokens/s with its cache, and its training step against the masked one."""

__all__ = ["bench_causal", "generation_cell", "step_cell"]

import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unmask.batch import GRAIN
from unmask.bench.timing import Shape, side_by_side
from unmask.bench.train import make_trainer
from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.denoiser import Wrapper
from unmask.model.cache import CausalCache
from unmask.model.dit import DiT
from unmask.model.load import build, parameter_count
from unmask.model.settings import DiTSettings
from unmask.noise import generator
from unmask.policies.registry import make

_CAUSAL = Shape("5.2M", 256, 6, 4, 1024, 128, 1)
_STEP = replace(_CAUSAL, batch=16)
_PROMPT = 16


@dataclass(frozen=True)
class _Counted(Wrapper):
    """A denoiser that records the number of positions of each pass."""

    passes: list[int] = field(default_factory=list[int])

    def hidden_at(self, tokens: Tensor, *rest: Any, **options: Any) -> Any:
        self.passes.append(tokens.numel())
        return super().hidden_at(tokens, *rest, **options)


def _bandwidth(size: int, repeats: int = 20) -> float:
    """Bytes -> GB in a CPU-second of reading so many, as the weights of a pass are read."""
    values = torch.ones(size // 4)
    values.sum()
    began = time.process_time()
    for _ in range(repeats):
        values.sum()
    return size * repeats / (time.process_time() - began) / 1e9


def _generation(shape: Shape) -> tuple[DiT, _Counted, Decoder, Canvas]:
    """A shape -> a causal network, the count of its passes, its decoder, and a canvas of 16 tokens and then masks."""
    sizes = shape.length, shape.width, shape.blocks, shape.heads
    network = build(DiTSettings(shape.vocab, shape.vocab - 1, *sizes, causal_block=1, shift=True)).eval()
    torch.nn.init.normal_(network.head.weight, std=0.05, generator=generator(0))
    counted = _Counted(network)
    decoder = Decoder(CausalCache(counted), make("left-to-right"), temperature=1.0, block_size=1)
    tokens = torch.full((1, shape.length), network.mask_id)
    tokens[:, :_PROMPT] = torch.randint(network.mask_id, (1, _PROMPT), generator=generator(0, 1))
    return network, counted, decoder, Canvas.start(tokens, torch.arange(1))


def generation_cell(rounds: int, shape: Shape = _CAUSAL) -> dict[str, Any]:
    """One cell: tokens/s of one row after 16 tokens, its passes and positions, and the least time of a pass.

    The least time is the larger of the bytes of the weights divided by the bandwidth, and of the operations of 16
    positions, the fewest of a pass, divided by the matmul rate.
    """
    network, counted, decoder, canvas = _generation(shape)
    new = shape.length - _PROMPT
    elapsed: list[float] = []

    def work() -> None:
        counted.passes.clear()
        began = time.perf_counter()
        decoder.decode(canvas)
        elapsed.append(time.perf_counter() - began)

    by_name, rates = side_by_side({"generation": work}, rounds)
    seconds = by_name["generation"]
    weights = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("embedding"))
    rate, bandwidth = statistics.median(rates), _bandwidth(4 * weights)
    floor = max(4 * weights / bandwidth, 2 * weights * GRAIN / rate) / 1e9
    return {
        "shape": asdict(shape),
        "work": "AR generation",
        "parameters": parameter_count(network.settings),
        "passes": len(counted.passes),
        "first_pass_positions": counted.passes[0],
        "most_positions_after": max(counted.passes[1:]),
        "positions": sum(counted.passes),
        "tokens_per_cpu_second": new / statistics.median(seconds),
        "tokens_per_second": new / statistics.median(elapsed),
        "pass_ms": 1e3 * statistics.median(seconds) / len(counted.passes),
        "bandwidth": bandwidth,
        "floor_ms": 1e3 * floor,
        "share_of_floor": floor * len(counted.passes) / statistics.median(seconds),
        "fp32_rate": rate,
        "rounds": rounds,
    }


def step_cell(rounds: int, shape: Shape = _STEP) -> dict[str, Any]:
    """One cell: CPU-seconds of a training step divided by its counted operations, autoregressive against masked.

    Operations are those of the products that torch counts in a step of each, forward and backward.
    """
    trainers = {name: make_trainer(shape, causal=name == "ar") for name in ("ar", "masked")}
    flops: dict[str, int] = {}
    for name, trainer in trainers.items():
        trainer.take_step()
        with FlopCounterMode(display=False) as counter:
            trainer.take_step()
        flops[name] = counter.get_total_flops()
    seconds, rates = side_by_side({name: trainer.take_step for name, trainer in trainers.items()}, rounds)
    pairs = zip(seconds["ar"], seconds["masked"], strict=True)
    ratios = sorted((ar / flops["ar"]) / (masked / flops["masked"]) for ar, masked in pairs)
    return {
        "shape": asdict(shape),
        "work": "AR training step against the masked one",
        **{f"{name}_cpu_seconds": statistics.median(values) for name, values in seconds.items()},
        **{f"{name}_gflop": count / 1e9 for name, count in flops.items()},
        "per_operation": statistics.median(ratios),
        "least_per_operation": ratios[0],
        "largest_per_operation": ratios[-1],
        "fp32_rate": statistics.median(rates),
        "rounds": rounds,
    }


def bench_causal(rounds: int) -> Iterator[dict[str, Any]]:
    """Both cells, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield generation_cell(rounds)
        yield step_cell(rounds)
    finally:
        torch.set_num_threads(threads)
