"""The speed of collecting rollouts: a round of `unmask learn` by one process, by worker processes, and by Ray.

The denoiser has about 5 million parameters, with random weights: rollouts take nearly the whole round. All take turns
at the same rounds, with the same policy, so that a busy machine is busy for all of them. Each process has one thread.
"""

__all__ = ["bench_rollouts", "rollout_lines"]

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch

from unmask.disk.checkpoint import read_checkpoint, write_checkpoint
from unmask.disk.folders import bundled
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.policies.learned.settings import PolicySettings
from unmask.rl.learner import Learner
from unmask.rl.session import open_learning
from unmask.rl.settings import LearnRun, LearnSettings

_BASE = "automaton_eos"  # whose tokenizer and task the denoiser has
_WIDTH, _BLOCKS, _HEADS = 256, 6, 4
_PROCESSES = 2


def bench_rollouts(rounds: int, ray: str | None, *, quick: bool = False) -> Iterator[dict[str, Any]]:
    """Number of rounds, and the address of a Ray cluster or None -> a cell for each way to collect.

    With `quick` the denoiser and the rounds are tiny.
    """
    settings = LearnSettings(
        rounds=rounds + 1, prompts=4 if quick else 16, group=2 if quick else 8, warm=0, pool=64, valid_prompts=2,
        calibrated=2, alphas=(1.0,), threads=1, device="cpu",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, ExitStack() as held:
        place = Path(folder)
        parameters = _write_denoiser(place / "denoiser", quick)
        run = LearnRun(str(place / "denoiser"), "automaton:length=24", PolicySettings(priced=False), settings)
        several = f"{_PROCESSES} worker processes"
        ways: dict[str, dict[str, Any]] = {"one process": {}, several: {"workers": _PROCESSES}}
        if ray is not None:
            ways[f"{_PROCESSES} actors of Ray"] = {"workers": _PROCESSES, "ray": ray}
        learners: dict[str, Learner] = {}
        for name, options in ways.items():
            session = held.enter_context(closing(open_learning(run, out=place / name, **options)))
            learners[name] = session.learner
        seconds = _take_turns(learners, rounds)
        ones = seconds["one process"]
        for name, own in seconds.items():
            ratios = [alone / each for alone, each in zip(ones, own, strict=True)]
            cell = {"collector": name, "parameters": parameters, "rounds": rounds, "seconds": statistics.median(own)}
            cell |= {"least_seconds": min(own), "largest_seconds": max(own), "load": os.getloadavg()[0]}
            cell |= {"rounds_per_second": 1 / statistics.median(own), "speed_of_one": statistics.median(ratios)}
            if name not in ("one process", several):
                pairs = zip(seconds[several], own, strict=True)
                cell["speed_of_workers"] = statistics.median(other / each for other, each in pairs)
            yield cell


def _take_turns(learners: dict[str, Learner], rounds: int) -> dict[str, list[float]]:
    """Learners by name -> the seconds of each of the rounds, after a first one in which processes load the denoiser."""
    before = {name: value.clone() for name, value in next(iter(learners.values())).network.state_dict().items()}
    seconds: dict[str, list[float]] = {name: [] for name in learners}
    for n in range(rounds + 1):
        for name, learner in learners.items():
            learner.network.load_state_dict(before)
            learner.step = n
            began = time.perf_counter()
            learner.take_round()
            if n:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def _write_denoiser(folder: Path, quick: bool) -> int:
    """Write a checkpoint with random weights -> its number of parameters."""
    base = read_checkpoint(bundled()[_BASE])
    stored = base.config["model"]
    sizes = (32, 1, 2) if quick else (_WIDTH, _BLOCKS, _HEADS)
    settings = DiTSettings(stored["vocab_size"], stored["mask_id"], stored["max_length"], *sizes)
    network = build(settings)
    random = torch.Generator().manual_seed(0)
    for value in network.parameters():
        if value.ndim > 1:
            torch.nn.init.normal_(value, std=value.shape[1] ** -0.5, generator=random)
    fields = {name: getattr(settings, name) for name in stored if hasattr(settings, name)}
    config = {"architecture": "dit", "model": fields, "process": base.config["process"]}
    tensors = {name: value.detach() for name, value in network.state_dict().items()}
    write_checkpoint(folder, tensors, config, tokenizer_json=base.tokenizer_json)
    return sum(value.numel() for value in network.parameters())


def rollout_lines(cell: dict[str, Any]) -> list[str]:
    """A cell -> the line to print."""
    line = (
        f"{cell['collector']}: {cell['rounds_per_second']:.3f} rounds/s, {cell['seconds']:.2f} s a round "
        f"({cell['least_seconds']:.2f} to {cell['largest_seconds']:.2f}), {cell['speed_of_one']:.2f} times the speed "
        "of one process"
    )
    if "speed_of_workers" in cell:
        line += f", {cell['speed_of_workers']:.2f} times that of worker processes"
    return [f"{line}; {cell['parameters'] / 1e6:.1f}M parameters, machine load {cell['load']:.1f}"]
