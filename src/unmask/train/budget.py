"""The speed of this machine -> how long a run takes; minutes -> the size of a network and the number of its steps."""

__all__ = ["Estimate", "Probe", "estimate", "plan_for_minutes", "step_seconds"]

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from unmask.batch import ceil_div
from unmask.data.packed import Corpus
from unmask.denoiser import Trainable
from unmask.errors import ConfigError
from unmask.model.load import build
from unmask.model.settings import SIZES, DiTSettings
from unmask.objective.base import Objective
from unmask.run.parallel import Group
from unmask.train.loop import Trainer
from unmask.train.plan import TrainPlan, make_plan, most_steps
from unmask.train.progress import CURVES_SECONDS, flops_per_token
from unmask.train.settings import TextRun

_TIMED_BLOCKS = 2
_SECONDS = 0.8  # of a timing
_FORWARD = 1 / 3  # of the time of a step: a pass without its gradient


@dataclass(frozen=True, slots=True)
class Probe:
    """Where a run takes place: what its speed depends on, beside the network."""

    corpus: Corpus
    objective: Objective
    device: torch.device
    dtype: torch.dtype
    group: Group


@dataclass(frozen=True, slots=True)
class Estimate:
    """Time, from a few parts of real steps."""

    seconds_per_step: float
    tokens_per_second: float
    """Tokens of the text, without padding."""
    seconds: float
    """Estimate for the rest of the run, validations included."""


def step_seconds(run: TextRun, plan: TrainPlan, probe: Probe, network: Trainable | None = None) -> float:
    """A plan -> the seconds of one of its optimiser steps here, from about a second of timing.

    Steps of 1, 2, 4 ... rows are taken until they last long enough, and the last one is scaled to the rows that a
    process has in a step. Instead of a deep network of our own, one with two of its blocks is timed and scaled by its
    floating-point operations. `network` is timed itself; the learning rate is zero, so that its weights do not change.
    """
    scale = 1.0
    if network is None:
        model = plan.model
        if isinstance(model, DiTSettings):
            model = replace(model, blocks=min(model.blocks, _TIMED_BLOCKS))
            scale = flops_per_token(plan.model) / flops_per_token(model)
        network = build(model, run.train.seed).to(probe.device)
    still = replace(plan, lr=0.0, seconds=None)
    network.train()

    def timed(rows: int) -> float:
        settings = replace(run.train, batch=rows, accumulate=1, compile=False, ema=0.0, fsdp="auto")
        trainer = Trainer(
            replace(run, train=settings),
            still,
            probe.corpus,
            network,
            probe.objective,
            Path("unused"),
            Group(),
            probe.dtype,
        )
        seconds = list[float]()
        for _ in range(2):
            began = time.perf_counter()
            loss, _, _ = trainer.take_step()
            loss.item()  # waits for a GPU
            seconds.append(time.perf_counter() - began)
        return min(seconds)

    share = run.train.batch // probe.group.size
    timed(1)  # the first steps of a process are slow
    rows, spent = 1, 0.0
    while True:
        seconds = timed(rows)
        spent += 2 * seconds
        if rows == share or spent + 4 * seconds > _SECONDS:
            return _of_first(seconds * scale * share / rows, probe)
        rows = min(2 * rows, share)


def _of_first(value: float, probe: Probe) -> float:
    """A number -> that of the first process, in all."""
    own = torch.tensor(value if probe.group.first else 0.0, dtype=torch.float64, device=probe.device)
    return float(probe.group.sum(own))


def estimate(run: TextRun, plan: TrainPlan, probe: Probe, each: float, step: int = 0) -> Estimate:
    """A plan whose steps take `each` seconds and of which `step` are done -> the time of the run."""
    rows = probe.corpus.train
    tokens = float((rows.last[:10_000]).mean()) * run.train.batch
    left = max(plan.steps - step, 0)
    seconds = left * each + ceil_div(left, plan.eval_every) * _validation_seconds(run, plan, probe, each)
    return Estimate(each, tokens / each, seconds if plan.seconds is None else min(seconds, plan.seconds))


def _validation_seconds(run: TextRun, plan: TrainPlan, probe: Probe, each: float) -> float:
    """The seconds of a validation, whose rows the processes share."""
    rows = min(len(probe.corpus.valid), run.train.eval_draws) * plan.draws
    return each * rows / run.train.batch * _FORWARD


# ---- a budget of minutes ---------------------------------------------------------------------------------------------

_TOKENS_PER_PARAMETER = 20
_MOST_VALIDATIONS = 20
_VALIDATING = 0.1  # of the time, at most
_LEAST_STEPS = 10
_SHAPE = ("width", "blocks", "heads")


def plan_for_minutes(
    run: TextRun, probe: Probe, start: Trainable | None, spent: Callable[[], float]
) -> tuple[TextRun, TrainPlan, float]:
    """A run with `train.minutes` -> the run, its plan, and the seconds of a step; `spent` says what has passed.

    The size is the largest of `SIZES` that sees at least 20 tokens for each parameter of its blocks in the time that is
    left (compute-optimal training, Hoffmann et al., arXiv:2203.15556: the loss of a given number of operations is least
    near that ratio, and flat around it; masked diffusion wants more tokens rather than fewer, so a size has to reach
    the ratio in full), and at most the size that the number of training tokens allows without a budget. It is nano in
    any case. A named size, width or network is kept.

    Steps fill the time that validations, checkpoints and curves leave. They are an estimate, since the learning rate
    follows the clock, unless the text is worth no more of them (`most_steps`): then the run ends earlier. There are up
    to twenty validations, in at most a tenth of the time; where not even one fits, it has fewer maskings.

    Raises ConfigError if less than ten steps fit.
    """
    seconds = 60.0 * (run.train.minutes or 0.0)
    plan, each = _sized(run, probe, start, seconds - _of_first(spent(), probe))
    left = seconds - _of_first(spent(), probe) - CURVES_SECONDS - 2 * _saving_seconds(plan)
    run, validating = _affordable_validation(run, plan, probe, each, left)
    count = int(min(_MOST_VALIDATIONS, max(1, _VALIDATING * left // max(validating, 1e-9))))
    steps = int((left - count * validating) / each)
    if steps < _LEAST_STEPS:
        smaller = " or --model.size nano" if start is None and run.model.size not in ("auto", "nano") else ""
        raise ConfigError(
            f"{run.train.minutes:g} min is too short: {spent():.0f} s have passed until now, and each of at least "
            f"{_LEAST_STEPS} steps takes {each:.2g} s; give more --minutes, a smaller --train.batch{smaller}."
        )
    most = most_steps(probe.corpus.facts.train.rows, run.train.batch)
    capped = steps >= most
    fixed = replace(run.train, steps=min(steps, most), minutes=None)
    model = replace(run.model, **{name: getattr(plan.model, name) for name in _SHAPE}) if start is None else run.model
    plan = make_plan(replace(run, train=fixed, model=model), probe.corpus, start)
    every = run.train.eval_every or ceil_div(plan.steps, count)
    saving = run.train.save_every or every
    plan = replace(plan, eval_every=every, save_every=saving, seconds=seconds, ending=validating, capped=capped)
    return run, plan, each


def _sized(run: TextRun, probe: Probe, start: Trainable | None, left: float) -> tuple[TrainPlan, float]:
    """The plan of the size that the time allows, and the seconds of a step."""
    choice = run.model
    fixed = start is not None or choice.size != "auto" or choice.width is not None or choice.blocks is not None
    largest = make_plan(run, probe.corpus, start)
    if fixed:
        return largest, step_seconds(run, largest, probe, start)
    best: tuple[TrainPlan, float] | None = None
    mean = largest.train_tokens / probe.corpus.facts.train.rows
    for name in SIZES:
        plan = make_plan(replace(run, model=replace(choice, size=name)), probe.corpus)
        if best is not None and plan.parameters > largest.parameters:
            break
        each = step_seconds(run, plan, probe)
        tokens = left * (1 - _VALIDATING) / each * run.train.batch * mean
        if best is not None and tokens < _TOKENS_PER_PARAMETER * _block_parameters(plan.model):
            break
        best = plan, each
    assert best is not None
    return best


def _block_parameters(model: Any) -> int:
    return 12 * model.width**2 * model.blocks


def _saving_seconds(plan: TrainPlan) -> float:
    """A guess of the seconds of a checkpoint with its training state, at 200 MB/s."""
    return 0.3 + 4 * 5 * plan.parameters / 2e8


def _affordable_validation(
    run: TextRun, plan: TrainPlan, probe: Probe, each: float, left: float
) -> tuple[TextRun, float]:
    """The run, with fewer maskings where one validation takes more than a tenth of the time, and that time."""
    seconds = _validation_seconds(run, plan, probe, each)
    if seconds <= _VALIDATING * left:
        return run, seconds
    draws = max(16, int(run.train.eval_draws * _VALIDATING * left / seconds))
    fewer = replace(run, train=replace(run.train, eval_draws=min(draws, run.train.eval_draws)))
    return fewer, _validation_seconds(fewer, replace(plan, draws=1), probe, each)
