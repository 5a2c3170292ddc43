"""A run, its plan and a corpus -> a fitted denoiser, with checkpoints.

Everything random in step s is a function of (seed, s): which rows, what is hidden, what is dropped. A run that is
resumed from its last checkpoint takes the steps of an uninterrupted run, bit for bit on the same machine and threads.
"""

__all__ = ["StepReport", "Trainer"]

import math
import sys
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unmask.batch import parts_by_length, to_device
from unmask.config import run_record, to_dict
from unmask.data.packed import Corpus, batch_indices
from unmask.denoiser import Trainable
from unmask.disk.checkpoint import load_state, write_checkpoint
from unmask.disk.folders import best_folder, keep_best, keep_last, latest, require_step, step_folder
from unmask.errors import CheckpointError, RunError
from unmask.model.inference import compile_passes
from unmask.model.load import model_config
from unmask.noise import DROPOUT, derive, row_keys
from unmask.objective.base import Objective, Rows
from unmask.objective.bound import Bound, validate
from unmask.process import make_schedule
from unmask.run.loop import Cadence, Listener, RunResult, Standing, Validation, drive
from unmask.run.optim import (
    Ema,
    adamw,
    clip,
    copied_tensors,
    learning_rate,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
)
from unmask.run.parallel import Group
from unmask.train.clock import Clock, TrainState, Watch
from unmask.train.plan import TrainPlan
from unmask.train.sample import Look, Sample, card, sample_values, write_sample
from unmask.train.settings import TextRun


class StepReport(NamedTuple):
    """The measurements of a step."""

    step: int
    loss: float  # nats per token, the estimate of this batch
    lr: float
    norm: float
    tokens_per_second: float
    look: Look | None = None
    """What was looked at after this step, in the first process."""

    def values(self) -> dict[str, float | str | None]:
        """The values for metrics.jsonl."""
        numbers = {name: value for name, value in self._asdict().items() if name not in ("step", "look")}
        return numbers if self.look is None else numbers | dict(self.look.values())


_SAMPLES = 8  # of the seed: the randomness of samples
_LEAST_ON_CPU, _LEAST_ELSEWHERE = 1024, 16384
"""Positions of a micro-batch below which matrix products are slow; see `parts_by_length`."""


class Trainer:
    """One training run: built from its plan, optionally restored from a checkpoint, then `fit`."""

    def __init__(
        self,
        run: TextRun,
        plan: TrainPlan,
        corpus: Corpus,
        model: Trainable,
        objective: Objective,
        folder: Path,
        group: Group,
        dtype: torch.dtype,
        began: float | None = None,
    ) -> None:
        """`began` is the value of `time.perf_counter` from which a budget of time counts; by default now."""
        self.run, self.plan, self.corpus, self.folder, self.group = run, plan, corpus, folder, group
        self.settings = run.train
        self.model, self.objective = model, objective
        self.params = [param for param in model.parameters() if param.requires_grad]
        self.tensors: Callable[[Any], dict[str, Tensor]] = copied_tensors  # those of a checkpoint for use
        self.device = self.params[0].device
        self.dtype = dtype
        self.optimizer = adamw(self.params, plan.lr, run.train.betas, 1e-8, run.train.weight_decay)
        self.ema = Ema(self.params, run.train.ema)
        self.origin: dict[str, Any] = {}
        """Facts for run.json: `data`, the settings with absolute paths, what was typed for them, and `init`."""
        self.step = 0
        self.standing = Standing()
        self.best: Bound | None = None
        self.loss: Tensor | None = None  # of the last step
        self.read = 0  # tokens of the batches so far, without padding
        self.clock = Clock(plan, group, self.device, time.perf_counter() if began is None else began)
        self.watch = Watch(run.train.sample_every)
        self.sample: tuple[int, Sample] | None = None  # the last one, and its step
        self.timed_from = (time.perf_counter(), 0)  # when the speed was last reported, and `read` then
        group.copy_first(self.params)
        if run.train.compile:
            compile_passes(model)

    # ---- one step -------------------------------------------------------------------------------------------------

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.dtype) if self.dtype != torch.float32 else nullcontext()

    def take_step(self) -> tuple[Tensor, Tensor, float]:
        """One optimiser step; returns the loss (nats/token of the global batch), the gradient norm, the rate."""
        settings, share, data = self.settings, self.group.share(self.settings.batch), self.corpus.train
        batch = data.batch(batch_indices(settings.seed, self.step, settings.batch, len(data)))
        rows = Rows(*map(torch.from_numpy, batch)).predicted(self.model)
        tokens = rows.maskable.sum().clamp(min=1)
        self.read += settings.batch * data.length if rows.valid is None else int(rows.valid.sum())
        rows, index = rows.part(share, torch.device("cpu")), torch.arange(settings.batch)[share]
        draw = self.objective.draw(settings.seed, self.step, index, settings.batch, rows.maskable)
        loss = torch.zeros((), device=self.device)
        for part in self._parts(rows):
            self.model.dropout_keys = to_device(row_keys(settings.seed, self.step, index[part], DROPOUT), self.device)
            with self.autocast():
                drawn = tuple(to_device(x[part], self.device) for x in draw)
                nats = self.objective.loss(self.model, rows.part(part, self.device), drawn).nats.sum() / tokens
            (nats * self.group.size).backward()
            loss += nats.detach()
        self.model.dropout_keys = None
        self.group.mean_gradients(self.params)
        norm = clip(self.params, settings.clip)
        place = self.clock.place(self.step)
        rate = learning_rate(
            place, base=self.plan.lr, warmup=self.plan.warmup, steps=self.plan.steps, shape=settings.shape
        )
        set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update()
        self.step += 1
        return self.group.sum(loss), norm, rate

    def _parts(self, rows: Rows) -> list[Tensor]:
        """The rows of a step -> indices of the micro-batches, in each of which rows have similar lengths.

        Each micro-batch is padded to its longest row only (`nelbo`). The rows of the step and its denominator do not
        depend on the micro-batches, so that the loss and the gradient are those of rows padded to the window.
        """
        count, length = rows.ids.shape
        lengths = torch.full((count,), length) if rows.valid is None else rows.valid.sum(-1)
        least = _LEAST_ON_CPU if self.device.type == "cpu" else _LEAST_ELSEWHERE
        return parts_by_length(lengths, count // self.settings.accumulate, least)

    # ---- validation -----------------------------------------------------------------------------------------------

    @contextmanager
    def judged(self) -> Generator[None]:
        """Inside the block the model has the averaged weights and is in eval mode."""
        self.model.eval()
        try:
            with self.ema.swap(), self.autocast():
                yield
        finally:
            self.model.train()

    def validate(self, most: int | None = None) -> Bound:
        """The bound of the averaged weights on validation rows, with the same maskings each time, `most` at most."""
        limit, draws = self.settings.eval_draws, self.plan.draws
        if most is not None:
            limit, draws = min(limit, most), 1
        options = {"limit": limit, "draws": draws, "batch": self.settings.batch, "seed": self.settings.seed}
        valid, stand_in = self.corpus.valid, self.corpus.tokenizer.stand_in
        with self.judged():
            return validate(self.model, self.objective, valid, self.device, **options, stand_in=stand_in)

    def write(self) -> Sample:
        """A text of the averaged weights."""
        began = time.perf_counter()
        schedule, seed = make_schedule(self.settings.schedule), derive(self.settings.seed, _SAMPLES)
        with self.judged():
            sample = write_sample(self.model, self.corpus, schedule, self.device, seed)
        self.watch.wrote(time.perf_counter() - began)
        self.sample = (self.step, sample)
        return sample

    def look(self) -> Look | None:
        """What is due after this step beside its validation; None if nothing is, and but in the first process."""
        validated = self.step % self.plan.eval_every == 0 or self.step == self.plan.steps or self.clock.expired
        return self.watch.look(self.step, validated, self.validate, self.write) if self.group.first else None

    # ---- disk -----------------------------------------------------------------------------------------------------

    def save(self) -> Path:
        """Write a checkpoint from which training can resume: the averaged weights and the training state."""
        began = time.perf_counter()
        folder = step_folder(self.folder, self.step)
        if self.group.first:
            raw, standing = copied_tensors(self.model), self.standing
            state = {"raw": raw, "optimizer": optimizer_tensors(self.optimizer), "ema": self.ema.state()}
            facts = {"step": self.step, "best_step": standing.best_step, "stale": standing.stale}
            more = {"bound": _facts(self.best), "validated_at": standing.validated_at, "seconds": self.clock.spent()}
            self._write(folder, state, facts | more)
            keep_last(self.folder, self.settings.keep)
        self.clock.saving = time.perf_counter() - began
        self._restart_clock()
        return folder

    def save_best(self, figure: Bound | None) -> Path:
        """Write the averaged weights alone; `figure` is their bound."""
        self.best = figure
        folder = best_folder(self.folder, self.step)
        if self.group.first:
            self._write(folder, None, None)
            keep_best(self.folder)
        self._restart_clock()
        return folder

    def _write(self, folder: Path, state: dict[str, dict[str, Tensor]] | None, facts: dict[str, Any] | None) -> None:
        with self.ema.swap():
            averaged = self.tensors(self.model)
        if not all(bool(tensor.isfinite().all()) for tensor in (*averaged.values(), *self.params)):
            raise self._broken("The weights are not finite")
        origin = dict(self.origin)
        record = {
            "settings": to_dict(replace(self.run, data=origin.pop("data", self.run.data))),
            **origin,
            "plan": to_dict(self.plan),
            "data": self.corpus.fingerprint,
            "split": to_dict(self.corpus.split),
            "facts": to_dict(self.corpus.facts),
            "step": self.step,
            "dtype": str(self.dtype).removeprefix("torch."),
            "record": run_record(),
            "bound": _facts(self.best),
            "best_step": self.standing.best_step,
        }
        write_checkpoint(
            folder,
            averaged,
            model_config(self.model.settings, self.settings.schedule),
            tokenizer_json=self.corpus.tokenizer.to_json(),
            run=record,
            card=card(record, self.model.max_length),
            state=state,
            state_facts=facts,
        )

    def restore(self, folder: Path | None = None) -> bool:
        """Load a checkpoint, by default the newest whole one of the run folder; False if there is none.

        Raises CheckpointError where it is damaged or belongs to another network.
        """
        folder = folder or latest(self.folder)
        if folder is None:
            return False
        parts, facts = load_state(folder, str(self.device), TrainState, ("raw", "optimizer", "ema"))
        require_step(folder, facts.step)
        try:
            self.model.load_state_dict(parts["raw"])
            load_optimizer_tensors(self.optimizer, parts["optimizer"], stepped=facts.step > 0)
            self.ema.load(parts["ema"])
        except (RuntimeError, CheckpointError) as error:
            raise CheckpointError(f"{folder}/state is of another network: {str(error).splitlines()[-1]}") from error
        self.step, self.best = facts.step, facts.bound
        self.clock.before = facts.seconds
        merit = -math.inf if self.best is None else -self.best.nats_per_token
        validated_at = facts.step if facts.validated_at is None else facts.validated_at
        self.standing = Standing(merit, facts.best_step, facts.stale, validated_at)
        return True

    # ---- the run --------------------------------------------------------------------------------------------------

    def fit(self, listener: Listener[StepReport, Bound]) -> RunResult:
        """Train to the end of the plan, the end of patience or an interrupt -> the result; the last step is saved.

        Raises RunError if the loss is not finite; the last checkpoint is then from before.
        """
        plan, settings = self.plan, self.settings
        steps = sys.maxsize if plan.seconds is not None and not plan.capped else plan.steps
        cadence = Cadence(steps, plan.eval_every, plan.save_every, settings.patience, lambda: self.clock.expired)
        facts = to_dict(self.run)
        return drive(self, listener, cadence, exhausted="no better bound", track=settings.track, settings=facts)

    def begin(self, stopping: Callable[[], bool]) -> bool:
        """Put the network in training mode; always True."""
        self.model.train()
        self.clock.tick(self.step)
        self._restart_clock()
        return True

    def take(self) -> StepReport | None:
        """Take one step -> its report, every `log_every` steps and when the run was looked at."""
        self.loss, norm, rate = self.take_step()
        self.clock.tick(self.step)
        look = self.look()
        if self.step % self.settings.log_every and look is None:
            return None
        loss = self._finite(self.loss)
        start, since = self.timed_from
        speed = (self.read - since) / (time.perf_counter() - start)
        self._restart_clock()
        return StepReport(self.step, loss, rate, norm.item(), speed, look)

    def evaluate(self) -> Validation[Bound] | None:
        """Validate in the first process; raises RunError as `fit` does."""
        if self.loss is not None:
            self._finite(self.loss)
        began = time.perf_counter()
        bound = self.validate() if self.group.first else None
        if bound is not None and not math.isfinite(bound.nats_per_token):
            raise self._broken(f"The bound on held-out text is {bound.nats_per_token}")
        values: dict[str, float | str | None] = {}
        if bound is not None:
            values = {"valid": bound.nats_per_token, "valid_stderr": bound.stderr}
            if self.watch.affordable():
                values |= sample_values(self.write())
            self.watch.looked()
        self.clock.validating = time.perf_counter() - began
        self._restart_clock()
        return None if bound is None else Validation(bound, -bound.nats_per_token, values)

    def _restart_clock(self) -> None:
        self.timed_from = (time.perf_counter(), self.read)

    def _finite(self, loss: Tensor) -> float:
        """The loss as a number. Raises RunError unless it is finite."""
        value = loss.item()
        if not math.isfinite(value):
            raise self._broken(f"The loss is {value}")
        return value

    def _broken(self, reason: str) -> RunError:
        """The error of a run whose numbers are not finite; nothing is written after it."""
        kept = latest(self.folder)
        return RunError(
            f"{reason} at step {self.step}, so the run was stopped; "
            f"the last good checkpoint is {kept if kept else 'not written yet'}: "
            f"go on with a smaller --train.lr (it was {self.plan.lr:g}) or --train.dtype float32."
        )


def _facts(bound: Bound | None) -> dict[str, Any] | None:
    return None if bound is None else to_dict(bound)
