"""A training run -> its checkpoints, and back: what is in them, and the state from which the run goes on."""

__all__ = ["begin_best", "begin_checkpoint", "restore", "training_tensors"]

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unmask.config import run_record, to_dict
from unmask.disk.checkpoint import fill_checkpoint, read_state
from unmask.disk.folders import best_folder, keep_best, keep_last, require_step, step_folder
from unmask.model.load import model_config
from unmask.objective.bound import Bound
from unmask.run.agree import all_or_none
from unmask.run.loop import Standing
from unmask.run.parts import parts_of
from unmask.train.clock import TrainState
from unmask.train.sample import card

if TYPE_CHECKING:
    from unmask.train.loop import Trainer


def begin_checkpoint(trainer: "Trainer") -> None:
    """Begin the checkpoint of this step, from which training can resume: averaged weights and training state."""
    began, clock, standing = time.perf_counter(), trainer.clock, trainer.standing
    facts = {
        "step": trainer.step,
        "best_step": standing.best_step,
        "stale": standing.stale,
        "bound": _facts(trainer.best),
        "validated_at": standing.validated_at,
        "seconds": clock.spent(),
        "averaged": trainer.ema.updates,
        "skipped": trainer.skipped,
    }

    def after() -> None:
        keep_last(trainer.folder, trainer.settings.keep)
        clock.saving = time.perf_counter() - began

    fill = _contents(trainer)
    trainer.saver.begin(step_folder(trainer.folder, trainer.step), fill, training_tensors(trainer), facts, after)


def begin_best(trainer: "Trainer") -> None:
    """Begin the checkpoint of the best validation: the averaged weights alone."""
    folder = best_folder(trainer.folder, trainer.step)
    trainer.saver.begin(folder, _contents(trainer), after=lambda: keep_best(trainer.folder))


def restore(trainer: "Trainer", folder: Path) -> None:
    """Load a checkpoint into a trainer, in place; any number of processes can have written it.

    Raises CheckpointError where it is damaged or belongs to another network.
    """
    facts = read_state(folder, TrainState)
    require_step(folder, facts.step)
    if trainer.shards is not None:
        trainer.shards.reshard()
    trainer.saver.load(folder, training_tensors(trainer))
    trainer.ema.updates = facts.averaged
    trainer.step, trainer.best, trainer.skipped = facts.step, facts.bound, facts.skipped
    trainer.clock.before = facts.seconds
    merit = -math.inf if facts.bound is None else -facts.bound.nats_per_token
    validated_at = facts.step if facts.validated_at is None else facts.validated_at
    trainer.standing = Standing(merit, facts.best_step, facts.stale, validated_at)


def training_tensors(trainer: "Trainer") -> dict[str, Tensor]:
    """A trainer -> the tensors of its state by name, which are not copied: weights, moments and averages.

    Names are those of parameters, which no number of processes changes; a parameter with two names has its first one.
    A parameter without moments (an expert that was never chosen) gets zeros, as AdamW begins with.
    """
    model: Any = trainer.model
    names: dict[int, str] = {}
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) not in names:
            names[id(value)] = name
            tensors[f"raw/{name}"] = value.detach()
    for group in trainer.optimizer.param_groups:
        for param in group["params"]:
            state: dict[str, Tensor] = trainer.optimizer.state[param]
            if not state:
                device = param.device if group["fused"] else "cpu"
                state["step"] = torch.zeros((), dtype=torch.float32, device=device)
                state |= {name: torch.zeros_like(param.detach()) for name in ("exp_avg", "exp_avg_sq")}
            tensors |= {f"optimizer/{names[id(param)]}.{name}": tensor for name, tensor in state.items()}
    averages = zip(trainer.params, trainer.ema.averages, strict=True)
    return tensors | {f"ema/{names[id(param)]}": average for param, average in averages}


def _contents(trainer: "Trainer") -> Any:
    """A trainer -> a function that writes a checkpoint for use into a folder: weights, settings, tokenizer, record.

    All of it is copied now. Raises RunError where a weight or an average is not finite.
    """
    with all_or_none(trainer.group, trainer.device):
        values = (*trainer.params, *trainer.ema.averages)
        if not all(bool(part.isfinite().all()) for part in parts_of(values)):
            raise trainer.broken("The weights are not finite")
    with trainer.swapped(), trainer.group.together():
        averaged = trainer.tensors(trainer.model, kept=trainer.group.first)
    origin = dict(trainer.origin)
    record = {
        "settings": to_dict(replace(trainer.run, data=origin.pop("data", trainer.run.data))),
        **origin,
        "plan": to_dict(trainer.plan),
        "data": trainer.corpus.fingerprint,
        "split": to_dict(trainer.corpus.split),
        "facts": to_dict(trainer.corpus.facts),
        "step": trainer.step,
        "dtype": str(trainer.dtype).removeprefix("torch."),
        "record": run_record(),
        "bound": _facts(trainer.best),
        "best_step": trainer.standing.best_step,
    }
    config = model_config(trainer.model.settings, trainer.settings.schedule)
    tokenizer_json, described = trainer.corpus.tokenizer.to_json(), card(record, trainer.model.max_length)
    return lambda folder: fill_checkpoint(
        folder, averaged, config, tokenizer_json=tokenizer_json, run=record, card=described
    )


def _facts(bound: Bound | None) -> dict[str, Any] | None:
    return None if bound is None else to_dict(bound)
