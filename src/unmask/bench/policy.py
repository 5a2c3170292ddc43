"""The time of a learned policy relative to a pass of the denoiser, on a fully masked canvas, one thread, CPU-seconds.

Steps with the policy and steps with a threshold rule are timed alternately; the difference is the time of the policy,
including the features that only it needs. Its arithmetic is 2 operations per parameter and position (1/300 of that of
the denoiser for the default, 1/20 for the published size): time above that is memory traffic.
"""

__all__ = ["bench_policy", "policy_cell"]

import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch

from unmask.bench.timing import DECODE, side_by_side
from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.denoiser import Denoiser
from unmask.model.inference import computing_in
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.policies.learned.network import PolicyNetwork
from unmask.policies.learned.policy import Learned
from unmask.policies.learned.settings import PolicySettings
from unmask.policies.threshold import Threshold
from unmask.run.machine import bfloat16_works

_POLICIES = {
    "default": PolicySettings(unit=float(DECODE.length)),
    "paper": PolicySettings(width=128, heads=4, features=("confidence",), scale="raw", priced=False),
}
_BATCHES = (1, DECODE.batch)


def policy_cell(denoiser: Denoiser, name: str, settings: PolicySettings, rows: int, rounds: int) -> dict[str, Any]:
    """One cell: the seconds of a policy on a batch of `rows`, and those of a step without it."""
    policy = Learned(PolicyNetwork(settings))
    canvas = Canvas.start(torch.full((rows, DECODE.length), denoiser.mask_id), torch.arange(rows))
    plain, learned = Decoder(denoiser, Threshold(0.9)), Decoder(denoiser, policy)
    works: dict[str, Callable[[], object]] = {
        "warm-up": lambda: plain.step(canvas),  # the rate's product leaves other data in the caches: 1.3 ms of a pass
        "pass": lambda: plain.step(canvas),
        "with policy": lambda: learned.step(canvas),
    }
    seconds, rates = side_by_side(works, 10 * rounds)
    policy_seconds = statistics.median(b - a for a, b in zip(seconds["pass"], seconds["with policy"], strict=True))
    return {
        "shape": asdict(DECODE) | {"batch": rows},
        "policy": name,
        "parameters": sum(p.numel() for p in policy.network.parameters()),
        "cpu_seconds": policy_seconds,
        "policy_ms": 1e3 * policy_seconds,
        "pass_ms": 1e3 * statistics.median(seconds["pass"]),
        "pass_cpu_seconds": statistics.median(seconds["pass"]),
        "share_of_pass": policy_seconds / statistics.median(seconds["pass"]),
        "fp32_rate": statistics.median(rates),
    }


@torch.no_grad()
def bench_policy(rounds: int) -> Iterator[dict[str, Any]]:
    """All cells: the default and the published size, one row and a batch, in each dtype that the machine supports."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        settings = DiTSettings(DECODE.vocab, DECODE.vocab - 1, DECODE.length, DECODE.width, DECODE.blocks, DECODE.heads)
        network = build(settings).eval()
        for dtype in (torch.float32, *([torch.bfloat16] if bfloat16_works() else [])):
            denoiser = computing_in(network, dtype)
            for name, choice in _POLICIES.items():
                for rows in _BATCHES:
                    yield {
                        "dtype": str(dtype).removeprefix("torch."),
                        **policy_cell(denoiser, name, choice, rows, rounds),
                    }
    finally:
        torch.set_num_threads(threads)
