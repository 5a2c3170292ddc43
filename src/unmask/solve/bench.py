"""A model before the problems of a task, as sweeps want it: importable, so that any process can make it."""

__all__ = ["open_bench", "stamps"]

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

from unmask.api import load
from unmask.assets.models import locate
from unmask.assets.policies import locate_policy
from unmask.decode.loop import Decoder
from unmask.policies.registry import learned_names
from unmask.solve.sweep import Bench, Setting, fitting
from unmask.tasks import make
from unmask.tasks.registry import fingerprint


def open_bench(checkpoint: str, task: str, split: str, count: int, seed: int, temperature: float) -> Bench:
    """A saved or bundled model, in float32 on the processor, and `count` problems.

    Raises RequestError where a problem does not fit the model's window.
    """
    chosen = make(task)
    model = load(checkpoint, device="cpu", dtype="float32")
    given = fitting(chosen, chosen.examples(split, count, seed), model.tokenizer, model.window, checkpoint)

    def decoder(setting: Setting) -> Decoder:
        return model.decoder(setting.policy, temperature=temperature, block_size=setting.block_size)

    return Bench(decoder, chosen, given, model.tokenizer, seed)


def stamps(checkpoint: str, task: str) -> Callable[[Setting], str]:
    """What the outcome of a setting depends on beside its name: the task's file, the weights of model and policy."""
    fixed = [fingerprint(make(task)), _weights(Path(locate(checkpoint)))]

    @cache
    def stamp(policy: str) -> str:
        told = [*fixed, *(_weights(locate_policy(name)) for name in learned_names(policy))]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]

    return lambda setting: stamp(setting.policy)


def _weights(folder: Path) -> str:
    """When the weights in a folder were written, and how large they are; their bytes may be too many to read."""
    files = sorted(folder.rglob("*.safetensors"))
    return " ".join(f"{path.relative_to(folder)} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files)
