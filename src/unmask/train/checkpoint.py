"""A training run -> its checkpoints, and back: the averaged weights for use, and the state that training needs."""

__all__ = ["restore", "write"]

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.config import run_record, to_dict
from unmask.disk.checkpoint import load_state, write_checkpoint
from unmask.disk.folders import require_step
from unmask.errors import CheckpointError
from unmask.model.load import model_config
from unmask.objective.bound import Bound
from unmask.run.loop import Standing
from unmask.run.optim import copied_tensors, load_optimizer_tensors, optimizer_tensors
from unmask.run.parts import placed_as
from unmask.train.clock import TrainState
from unmask.train.sample import card

if TYPE_CHECKING:
    from unmask.train.loop import Trainer


def write(run: "Trainer", folder: Path, *, whole: bool) -> None:
    """Write a checkpoint of a run in the first process: its averaged weights; if `whole` also its state.

    All processes call it together, as parts of the tensors are in each. Raises RunError for weights that are not
    finite, before anything is written.
    """
    state, facts, raw = None, None, []
    with run.group.together():
        if whole:
            tensors = copied_tensors(run.model)
            raw = list(tensors.values())
            state = {"raw": tensors, "optimizer": optimizer_tensors(run.optimizer), "ema": run.ema.state()}
            facts = _state_facts(run)
        with run.swapped():
            averaged = run.tensors(run.model)
    if not all(bool(tensor.isfinite().all()) for tensor in (*averaged.values(), *raw)):
        raise run.broken("The weights are not finite")
    if not run.group.first:
        return
    record = _record(run)
    write_checkpoint(
        folder,
        averaged,
        model_config(run.model.settings, run.settings.schedule),
        tokenizer_json=run.corpus.tokenizer.to_json(),
        run=record,
        card=card(record, run.model.max_length),
        state=state,
        state_facts=facts,
    )


def _record(run: "Trainer") -> dict[str, Any]:
    """A run -> the content of run.json."""
    origin = dict(run.origin)
    return {
        "settings": to_dict(replace(run.run, data=origin.pop("data", run.run.data))),
        **origin,
        "plan": to_dict(run.plan),
        "data": run.corpus.fingerprint,
        "split": to_dict(run.corpus.split),
        "facts": to_dict(run.corpus.facts),
        "step": run.step,
        "dtype": str(run.dtype).removeprefix("torch."),
        "record": run_record(),
        "bound": _facts(run.best),
        "best_step": run.standing.best_step,
    }


def _state_facts(run: "Trainer") -> dict[str, Any]:
    """A run -> the content of state.json, a `TrainState`."""
    standing = run.standing
    return {
        "step": run.step,
        "best_step": standing.best_step,
        "stale": standing.stale,
        "bound": _facts(run.best),
        "validated_at": standing.validated_at,
        "seconds": run.clock.spent(),
        "skipped": run.skipped,
    }


def restore(run: "Trainer", folder: Path) -> None:
    """Give a run the state of a checkpoint. Raises CheckpointError where that is damaged or of another network."""
    parts, facts = load_state(folder, str(run.device), TrainState, ("raw", "optimizer", "ema"))
    require_step(folder, facts.step)
    held = run.model.state_dict()
    try:
        raw = {name: placed_as(value, held[name]) if name in held else value for name, value in parts["raw"].items()}
        run.model.load_state_dict(raw)
        load_optimizer_tensors(run.optimizer, parts["optimizer"], stepped=facts.step > 0)
        run.ema.load(parts["ema"])
    except (RuntimeError, CheckpointError) as error:
        raise CheckpointError(f"{folder}/state is of another network: {str(error).splitlines()[-1]}") from error
    run.step, run.best, run.skipped = facts.step, facts.bound, facts.skipped
    run.clock.before = facts.seconds
    merit = -math.inf if run.best is None else -run.best.nats_per_token
    validated_at = facts.step if facts.validated_at is None else facts.validated_at
    run.standing = Standing(merit, facts.best_step, facts.stale, validated_at)


def _facts(bound: Bound | None) -> dict[str, Any] | None:
    return None if bound is None else to_dict(bound)
