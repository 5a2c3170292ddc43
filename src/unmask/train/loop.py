"""A run, its plan and a corpus -> a fitted denoiser, with checkpoints.

Everything random in step s is a function of (seed, s): which rows, what is hidden, what is dropped. A run that is
resumed from its last checkpoint takes the steps of an uninterrupted run, bit for bit on the same machine and threads.
"""

__all__ = ["Trainer", "sizes_of"]

import math
import sys
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from unmask.batch import cut_to, parts_by_length, to_device
from unmask.config import to_dict
from unmask.data.packed import Corpus, Packed, batch_indices
from unmask.denoiser import Trainable
from unmask.disk.folders import latest
from unmask.errors import RunError, SaidElsewhere
from unmask.model.inference import compile_passes
from unmask.noise import DROPOUT, derive, row_keys
from unmask.objective.base import Objective, Rows, first_predicted
from unmask.objective.bound import Bound, validate
from unmask.process import make_schedule
from unmask.run.loop import Cadence, Listener, RunResult, Standing, Validation, drive
from unmask.run.optim import (
    Ema,
    adamw,
    clip,
    copied_tensors,
    learning_rate,
    set_learning_rate,
)
from unmask.run.parallel import Group
from unmask.run.saving import Saver
from unmask.train.checkpoint import begin_best, begin_checkpoint, restore
from unmask.train.plan import TrainPlan
from unmask.train.progress import Clock, Gauge, StepReport, Watch
from unmask.train.sample import Look, Sample, sample_values, write_sample
from unmask.train.settings import TextRun

if TYPE_CHECKING:
    from unmask.run.shard import Shards


_MOST_FAILED = 3  # steps without an update, one after another
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
        device: torch.device | None = None,
        fill: Callable[[Any], None] | None = None,
    ) -> None:
        """`began` is the value of `time.perf_counter` from which a budget of time counts; by default now.

        Several processes divide the network, on `device` (by default where it is); `fill` then gives values to its
        parts, where it was built without memory.
        """
        self.run, self.plan, self.corpus, self.folder, self.group = run, plan, corpus, folder, group
        self.settings = run.train
        self.model, self.objective = model, objective
        self.device = next(model.parameters()).device if device is None else device
        self.shards = _placed(model, run, group, self.device, dtype, fill)
        self.params = [param for param in model.parameters() if param.requires_grad]
        self.tensors: Callable[..., dict[str, Tensor]] = copied_tensors  # those of a checkpoint for use
        self.dtype = dtype
        self.optimizer = adamw(self.params, plan.lr, run.train.betas, 1e-8, run.train.weight_decay)
        self.ema = Ema(self.params, run.train.ema)
        self.origin: dict[str, Any] = {}
        """Facts for run.json: `data`, the settings with absolute paths, what was typed for them, and `init`."""
        self.saver = Saver(group, self.device)
        self.step = 0
        self.standing = Standing()
        self.best: Bound | None = None
        self.gauge = Gauge(plan, group, self.device, dtype)
        self.skipped, self.failed = 0, 0  # steps without an update: all, and those up to now without one between
        self.clock = Clock(plan, group, self.device, time.perf_counter() if began is None else began)
        self.watch = Watch(run.train.sample_every)
        self.sample: tuple[int, Sample] | None = None  # the last one, and its step

    # ---- one step -------------------------------------------------------------------------------------------------

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.dtype) if self.dtype != torch.float32 else nullcontext()

    def take_step(self) -> tuple[Tensor, Tensor, float]:
        """One optimiser step; returns the loss (nats/token of the global batch), the gradient norm, the rate.

        Where one of the two is not finite, no weight changes.
        """
        with self.group.together():
            loss, norm = self._gradients()
        place = self.clock.place(self.step)
        rate = learning_rate(
            place, base=self.plan.lr, warmup=self.plan.warmup, steps=self.plan.steps, shape=self.settings.shape
        )
        finite = bool(torch.isfinite(loss + norm))
        self.failed = 0 if finite else self.failed + 1
        self.skipped += not finite
        if finite:
            set_learning_rate(self.optimizer, rate)
            self.optimizer.step()
            self.ema.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss, norm, rate

    def _gradients(self) -> tuple[Tensor, Tensor]:
        """The gradients of a step, summed over its micro-batches and processes and clipped -> the loss and the norm."""
        settings, share, data, began = (
            self.settings,
            self.group.share(self.settings.batch),
            self.corpus.train,
            time.perf_counter(),
        )
        numbers = batch_indices(settings.seed, self.step, settings.batch, len(data))
        tokens, lengths = sizes_of(data, numbers, self.model)
        self.gauge.read += int(lengths.sum())
        rows = Rows(*map(torch.from_numpy, data.batch(numbers[share]))).predicted(self.model)
        index = torch.arange(settings.batch)[share]
        draw = self.objective.draw(settings.seed, self.step, index, settings.batch, rows.maskable)
        loss, parts = torch.zeros((), device=self.device), self._parts(lengths)
        for number, part in enumerate(parts):
            self.model.dropout_keys = to_device(row_keys(settings.seed, self.step, index[part], DROPOUT), self.device)
            if self.shards is not None:
                self.shards.begin(last=number == len(parts) - 1)
            with self.autocast():
                drawn = tuple(to_device(x[part], self.device) for x in draw)
                nats = self.objective.loss(self.model, rows.part(part, self.device), drawn).nats.sum() / tokens
            nats.backward()
            loss += nats.detach()
        self.model.dropout_keys = None
        self.gauge.worked += time.perf_counter() - began
        for param in self.params:  # in any division of the batch: an expert that no position chose has the gradient 0
            if param.grad is None:
                param.grad = torch.zeros_like(param)
        if self.shards is not None:
            return self.shards.reduce(loss, settings.clip)
        return loss, clip(self.params, settings.clip)

    def _parts(self, lengths: Tensor) -> list[Tensor]:
        """The lengths of the rows of a step -> indices of this process's micro-batches, each of similar lengths.

        Each micro-batch is padded to its longest row only (`nelbo`). The rows of the step and its denominator do not
        depend on the micro-batches, so that the loss and the gradient are those of rows padded to the window. All
        processes have the same number of them, since they gather the network together in each.
        """
        least = _LEAST_ON_CPU if self.device.type == "cpu" else _LEAST_ELSEWHERE
        each = len(lengths) // self.group.size
        shares = [parts_by_length(share, each // self.settings.accumulate, least) for share in lengths.split(each)]
        return cut_to(shares[self.group.rank], max(map(len, shares)))

    # ---- validation -----------------------------------------------------------------------------------------------

    @contextmanager
    def judged(self) -> Generator[None]:
        """Inside the block the model has the averaged weights and is in eval mode."""
        self.model.eval()
        try:
            with self.swapped(), self.group.together(), self.autocast():
                yield
        finally:
            self.model.train()

    @contextmanager
    def swapped(self) -> Generator[None]:
        """Inside the block the model has the averaged weights."""
        with self.ema.swap():
            yield
            if self.shards is not None:
                self.shards.reshard()  # what was gathered of the averages is not used again

    def validate(self, most: int | None = None) -> Bound:
        """The bound of the averaged weights on validation rows, with the same maskings each time, `most` at most."""
        limit, draws = self.settings.eval_draws, self.plan.draws
        if most is not None:
            limit, draws = min(limit, most), 1
        options = {"limit": limit, "draws": draws, "batch": self.settings.batch, "seed": self.settings.seed}
        valid, stand_in = self.corpus.valid, self.corpus.tokenizer.stand_in
        with self.judged():
            return validate(
                self.model, self.objective, valid, self.device, **options, stand_in=stand_in, group=self.group
            )

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
        """What is due after this step beside its validation; None if nothing is. All processes look together."""
        validated = self.step % self.plan.eval_every == 0 or self.step == self.plan.steps or self.clock.expired
        return self.watch.look(self.step, validated, self.validate, self.write, self._decided)

    def _decided(self, wish: bool) -> bool:
        """What the first process wishes, by its clock."""
        return self.group.decided(wish, self.device)

    # ---- disk -----------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Begin a checkpoint from which training can resume: the averaged weights and the training state."""
        begin_checkpoint(self)
        self.gauge.restart()

    def save_best(self, figure: Bound | None) -> None:
        """Begin a checkpoint of the averaged weights alone; `figure` is their bound."""
        self.best = figure
        begin_best(self)
        self.gauge.restart()

    def restore(self, folder: Path | None = None) -> bool:
        """Load a checkpoint, by default the newest whole one of the run folder; False if there is none.

        Raises CheckpointError where it is damaged or belongs to another network.
        """
        folder = folder or latest(self.folder)
        if folder is not None:
            restore(self, folder)
        return folder is not None

    # ---- the run --------------------------------------------------------------------------------------------------

    def fit(self, listener: Listener[StepReport, Bound]) -> RunResult:
        """Train to the end of the plan, the end of patience or an interrupt -> the result; the last step is saved.

        Raises RunError if the loss is not finite in three steps, one after another; the last checkpoint is then from
        before.
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
        self.gauge.start()
        self.gauge.restart()
        return True

    def take(self) -> StepReport | None:
        """Take one step -> its report, every `log_every` steps and when the run was looked at.

        Raises RunError after three steps without an update, one after another.
        """
        loss, norm, rate = self.take_step()
        if self.failed == _MOST_FAILED:
            raise self.broken(f"The loss is {loss.item()} and the norm of the gradient {norm.item()}")
        self.clock.tick(self.step)
        look = self.look()
        if self.step % self.settings.log_every and look is None:
            return None
        place = self.step * self.settings.batch
        speed = self.gauge.measure()
        return StepReport(
            self.step, loss.item(), rate, norm.item(), look=look, rows=place, skipped=self.skipped, **speed
        )

    def evaluate(self) -> Validation[Bound] | None:
        """Validate, all processes together; raises RunError as `fit` does."""
        began = time.perf_counter()
        bound = self.validate()
        if not math.isfinite(bound.nats_per_token):
            raise self.broken(f"The bound on held-out text is {bound.nats_per_token}")
        values: dict[str, float | str | None] = {"valid": bound.nats_per_token, "valid_stderr": bound.stderr}
        if self._decided(self.watch.affordable()):
            values |= sample_values(self.write())
        self.watch.looked()
        self.clock.validating = time.perf_counter() - began
        self.gauge.restart()
        return Validation(bound, -bound.nats_per_token, values) if self.group.first else None

    def broken(self, reason: str) -> RunError:
        """The error of a run whose numbers are not finite; nothing is written after it.

        All processes call it together. The first one, which names checkpoints, has the sentence.
        """
        self.saver.close()  # a checkpoint that is being written is good
        self.group.barrier()  # a process that ends may end the others
        if not self.group.first:
            return SaidElsewhere()
        kept = latest(self.folder)
        return RunError(
            f"{reason} at step {self.step}, so the run was stopped; "
            f"the last good checkpoint is {kept if kept else 'not written yet'}: "
            f"go on with a smaller --train.lr (it was {self.plan.lr:g}) or --train.dtype float32."
        )


def sizes_of(data: Packed, numbers: np.ndarray, model: Any) -> tuple[Tensor, Tensor]:
    """The rows of a step by their numbers (B,) -> the tokens to predict in all of them, at least 1, and their lengths.

    They need no token id: a process reads those of its own rows alone.
    """
    first, last = map(torch.from_numpy, data.ends(numbers))
    return (last - first.clamp(min=first_predicted(model))).clamp(min=0).sum().clamp(min=1), last


def _placed(
    model: Any, run: TextRun, group: Group, device: torch.device, dtype: torch.dtype, fill: Callable[[Any], None] | None
) -> "Shards | None":
    """Prepare the passes of a network, and divide it where there are several processes, in place."""
    settings = run.train
    if group.size == 1 and settings.fsdp == "auto" and not settings.recompute:
        if settings.compile:
            compile_passes(model)
        return None
    from unmask.run.shard import prepare_blocks, shard_network  # a second that a single process need not spend

    divided = group.size > 1 or settings.fsdp == "on"
    if settings.recompute or settings.compile:
        prepare_blocks(model, recompute=settings.recompute, compiled=settings.compile)
    if not divided:
        return None
    return shard_network(model, group, device, replicas=settings.replicas, dtype=dtype, fill=fill)
