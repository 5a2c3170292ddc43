"""How fast text is sampled: ancestral sampling on T grid steps, as the published `ddpm_cache` does it."""

__all__ = ["ancestral_cell", "bench_ancestral"]

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from unmask.bench.shapes import DECODE, PUBLISHED, PUBLISHED_RATE, Shape
from unmask.bench.timing import measure
from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.denoiser import LowPrecision
from unmask.model.build import build
from unmask.model.dit import DiT
from unmask.model.settings import DiTSettings
from unmask.policies.ancestral import Ancestral
from unmask.run.machine import bfloat16_works


def _network(shape: Shape, device: torch.device) -> DiT:
    """Published shape, adaLN included; a random head, so that the drawn tokens are not all alike."""
    settings = DiTSettings(
        shape.vocab, shape.vocab - 1, shape.length, shape.width, shape.blocks, shape.heads, modulation="constant"
    )
    network = build(settings).to(device).eval()
    torch.nn.init.normal_(network.head.weight, std=0.05, generator=torch.Generator(device).manual_seed(0))
    return network


def ancestral_cell(
    shape: Shape, steps: int, rounds: int, *, dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """One row: tokens/s of `shape.batch` sequences on `steps` grid steps, and the ratio to the published code."""
    network = _network(shape, device)
    denoiser = network if dtype == torch.float32 else LowPrecision(network.lowered(dtype), dtype)
    decoder = Decoder(denoiser, Ancestral(steps), temperature=1.0)
    masked = torch.full((shape.batch, shape.length), denoiser.mask_id, device=device)
    passes: list[float] = []

    def work() -> None:
        done = decoder.decode(Canvas.start(masked, torch.arange(shape.batch, device=device)))
        passes[:] = [float(done.passes.double().mean())]

    timing = measure(work, rounds, bf16=bfloat16_works(), device=device, warmup=1)
    tokens = shape.batch * shape.length
    published = PUBLISHED[f"decode T={steps}"]
    per_rate = tokens * timing.per_fp32
    return {
        "shape": asdict(shape),
        "steps": steps,
        "dtype": str(dtype).removeprefix("torch."),
        "passes_per_row": passes[0],
        "tokens_per_second": tokens / timing.seconds,
        "tokens_per_second_per_gflops": per_rate,
        "published_tokens_per_second": published,
        "published_fp32_rate": PUBLISHED_RATE,
        "times_published": per_rate / (published / PUBLISHED_RATE),
        **asdict(timing),
    }


def bench_ancestral(rounds: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """T = 128 and T = 1000, in each number format that works here."""
    for dtype in (torch.float32, *([torch.bfloat16] if bfloat16_works() else [])):
        for steps in (128, 1000):
            yield ancestral_cell(DECODE, steps, rounds, dtype=dtype, device=device)
