"""The loop that fits a denoiser.

Everything random in step s is a function of (seed, s): which rows, what is hidden, what is dropped. A run that stopped
goes on from its last checkpoint as if it had never stopped, bit for bit on the same machine and threads.
"""

__all__ = ["Listener", "Outcome", "StepReport", "Trainer"]

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from unmask.config import run_record, to_dict
from unmask.data.packed import Corpus, batch_indices
from unmask.denoiser import Trainable
from unmask.disk.checkpoint import (
    best_folder,
    keep_best,
    keep_last,
    latest,
    load_state,
    step_folder,
    write_checkpoint,
)
from unmask.errors import RunError
from unmask.model.load import model_config
from unmask.noise import derive
from unmask.objective.base import Objective, Rows
from unmask.objective.bound import Bound, validate
from unmask.run.ema import Ema
from unmask.run.metrics import Metrics
from unmask.run.optim import adamw, clip, learning_rate, load_optimizer_tensors, optimizer_tensors, set_learning_rate
from unmask.run.parallel import Group
from unmask.run.signals import Interrupt
from unmask.train.plan import Plan
from unmask.train.settings import TextRun

_DROPOUT = 2  # a stream of the seed; objectives have others


class StepReport(NamedTuple):
    """What a listener is told after a step."""

    step: int
    loss: float  # nats per token, the estimate of this batch
    lr: float
    norm: float
    tokens_per_second: float


class Listener(Protocol):
    """Who watches a run: the terminal, a test, nobody."""

    def stepped(self, report: StepReport) -> None: ...
    def validated(self, step: int, found: Bound, best: bool) -> None: ...
    def saved(self, folder: Path) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    step: int
    reason: str  # "finished", "no better bound", "interrupted"
    best: Bound | None
    best_step: int
    folder: Path


class Trainer:
    """One run: built from its plan, perhaps put back to where it was, then `fit`."""

    def __init__(
        self,
        run: TextRun,
        plan: Plan,
        corpus: Corpus,
        model: Trainable,
        objective: Objective,
        folder: Path,
        group: Group,
        dtype: torch.dtype,
    ) -> None:
        self.run, self.plan, self.corpus, self.folder, self.group = run, plan, corpus, folder, group
        self.settings = run.train
        self.model, self.objective = model, objective
        self.params = list(model.parameters())
        self.device = self.params[0].device
        self.dtype = dtype
        self.optimizer = adamw(self.params, plan.lr, run.train.betas, 1e-8, run.train.weight_decay)
        self.ema = Ema(self.params, run.train.ema)
        self.step = 0
        self.best = math.inf
        self.best_step = 0
        self.best_bound: Bound | None = None
        self.stale = 0  # validations since the best
        self.validated_at = 0  # the step of the last validation
        group.copy_first(self.params)
        if run.train.compile:
            model.hidden = torch.compile(model.hidden)

    # ---- one step -------------------------------------------------------------------------------------------------

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.dtype) if self.dtype != torch.float32 else nullcontext()

    def take_step(self) -> tuple[Tensor, Tensor, float]:
        """One optimiser step; returns the loss (nats/token of the global batch), the gradient norm, the rate."""
        settings, mine = self.settings, self.group.share(self.settings.batch)
        data = self.corpus.train
        batch = data.batch(batch_indices(settings.seed, self.step, settings.batch, len(data)))
        rows = Rows(*map(torch.from_numpy, batch))
        tokens = rows.maskable.sum().clamp(min=1)
        rows, index = rows.part(mine, torch.device("cpu")), torch.arange(settings.batch)[mine]
        draw = self.objective.draw(settings.seed, self.step, index, settings.batch, rows.maskable)
        torch.manual_seed(derive(settings.seed, _DROPOUT, self.step, self.group.rank))
        loss = torch.zeros((), device=self.device)
        size = len(index) // settings.accumulate
        for at in range(0, len(index), size):
            part = slice(at, at + size)
            with self.autocast():
                drawn = tuple(x[part].to(self.device, non_blocking=True) for x in draw)
                nats = self.objective.loss(self.model, rows.part(part, self.device), drawn).nats.sum() / tokens
            (nats * self.group.size).backward()
            loss += nats.detach()
        self.group.mean_gradients(self.params)
        norm = clip(self.params, settings.clip)
        rate = learning_rate(
            self.step, base=self.plan.lr, warmup=self.plan.warmup, steps=self.plan.steps, shape=settings.shape
        )
        set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update()
        self.step += 1
        return self.group.sum(loss), norm, rate

    # ---- validation -----------------------------------------------------------------------------------------------

    def validate(self) -> Bound:
        """The bound of the averaged weights on the validation rows, with the same maskings each time."""
        self.model.eval()
        try:
            with self.ema.swap(), self.autocast():
                return validate(
                    self.model,
                    self.objective,
                    self.corpus.valid,
                    self.device,
                    limit=self.settings.eval_draws,
                    draws=self.plan.draws,
                    batch=self.settings.batch,
                    seed=self.settings.seed,
                )
        finally:
            self.model.train()

    def judge(self, found: Bound) -> bool:
        """Note a validation; whether it is the best so far."""
        if found.nats_per_token < self.best:
            self.best, self.best_step, self.best_bound, self.stale = found.nats_per_token, self.step, found, 0
            return True
        self.stale += 1
        return False

    # ---- disk -----------------------------------------------------------------------------------------------------

    def save(self, *, best: bool) -> Path:
        """Write a checkpoint: the averaged weights, and for one that training can go on from the state beside them."""
        folder = best_folder(self.folder, self.step) if best else step_folder(self.folder, self.step)
        names = list(self.model.state_dict())
        raw = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        with self.ema.swap():
            averaged = {name: self.model.state_dict()[name].detach().clone() for name in names}
        state = {"raw": raw, "optimizer": optimizer_tensors(self.optimizer), "ema": self.ema.state()}
        record = {
            "settings": to_dict(self.run),
            "plan": to_dict(self.plan),
            "data": self.corpus.fingerprint,
            "facts": to_dict(self.corpus.facts),
            "step": self.step,
            "dtype": str(self.dtype).removeprefix("torch."),
            "record": run_record(),
            "bound": None if self.best_bound is None else to_dict(self.best_bound),
            "best_step": self.best_step,
        }
        facts = {"step": self.step, "best_step": self.best_step, "stale": self.stale, "bound": record["bound"]}
        facts["validated_at"] = self.validated_at
        write_checkpoint(
            folder,
            averaged,
            model_config(self.model.settings, self.settings.schedule),
            tokenizer_json=self.corpus.tokenizer.to_json(),
            run=record,
            card=_card(record, self.model.max_length),
            state=None if best else state,
            state_facts=None if best else facts,
        )
        keep_best(self.folder) if best else keep_last(self.folder, self.settings.keep)
        return folder

    def restore(self) -> bool:
        """Go back to the newest whole checkpoint of the run folder; whether there was one."""
        folder = latest(self.folder)
        if folder is None:
            return False
        parts, facts = load_state(folder, str(self.device))
        self.model.load_state_dict(parts["raw"])
        load_optimizer_tensors(self.optimizer, parts["optimizer"])
        self.ema.load(parts["ema"])
        self.step, self.best_step, self.stale = facts["step"], facts["best_step"], facts["stale"]
        self.validated_at = facts.get("validated_at", self.step)
        if facts["bound"] is not None:
            self.best_bound = Bound(**facts["bound"])
            self.best = self.best_bound.nats_per_token
        return True

    # ---- the run --------------------------------------------------------------------------------------------------

    def fit(self, listener: Listener) -> Outcome:
        """Train to the end of the plan, to where the bound no longer falls, or to an interrupt; always saved.

        Raises RunError when the loss is no longer a number; the last checkpoint is then the last good one.
        """
        self.model.train()
        resumed = self.step if self.step else None
        with self._metrics(resumed) as log, Interrupt() as interrupt:
            missed = self._due()  # an interrupt came between a step and its validation
            reason = "no better bound" if missed and self._agreed(self._evaluate(listener, log)) else "finished"
            began, since = time.perf_counter(), self.step
            while reason == "finished" and self.step < self.plan.steps:
                loss, norm, rate = self.take_step()
                if self.step % self.settings.log_every == 0:
                    speed = (self.step - since) * self.settings.batch * self.run.data.length
                    report = StepReport(
                        self.step, loss.item(), rate, norm.item(), speed / (time.perf_counter() - began)
                    )
                    self._check(report.loss)
                    log(self.step, report._asdict())
                    listener.stepped(report)
                    began, since = time.perf_counter(), self.step
                if self._agreed(interrupt.requested):
                    reason = "interrupted"
                    break
                if self._due():
                    self._check(loss.item())
                    if self._agreed(self._evaluate(listener, log)):
                        reason = "no better bound"
                        break
                    began, since = time.perf_counter(), self.step
                if self.step % self.plan.save_every == 0:
                    self._keep(listener)
                    began, since = time.perf_counter(), self.step
            self._keep(listener)
        return Outcome(self.step, reason, self.best_bound, self.best_step, self.folder)

    def _due(self) -> bool:
        """Whether this step is one to validate after, and that has not been done."""
        here = self.step % self.plan.eval_every == 0 or self.step == self.plan.steps
        return here and self.step > self.validated_at

    def _evaluate(self, listener: Listener, log: Callable[[int, dict[str, Any]], None]) -> bool:
        """Validate on the first process; whether patience is over."""
        self.validated_at = self.step
        if not self.group.first:
            return False
        found = self.validate()
        better = self.judge(found)
        log(self.step, {"valid": found.nats_per_token, "valid_stderr": found.stderr})
        listener.validated(self.step, found, better)
        if better:
            listener.saved(self.save(best=True))
        return 0 < self.settings.patience <= self.stale

    def _keep(self, listener: Listener) -> None:
        if self.group.first and latest(self.folder) != step_folder(self.folder, self.step):
            listener.saved(self.save(best=False))
        self.group.barrier()

    def _metrics(self, resumed: int | None) -> "_Log":
        track = self.settings.track
        return _Log(Metrics(self.folder, resumed_at=resumed, track=track) if self.group.first else None)

    def _agreed(self, wish: bool) -> bool:
        return self.group.any(wish, self.device)

    def _check(self, loss: float) -> None:
        if not math.isfinite(loss):
            kept = latest(self.folder)
            raise RunError(
                f"The loss is {loss} at step {self.step}, so the run was stopped; "
                f"the last good checkpoint is {kept if kept else 'not written yet'}: "
                f"go on with a smaller --train.lr (it was {self.plan.lr:g}) or --train.dtype float32."
            )


class _Log:
    """Metrics where there is a file for them: on the first process."""

    def __init__(self, metrics: Metrics | None) -> None:
        self.metrics = metrics

    def __enter__(self) -> Callable[[int, dict[str, Any]], None]:
        return self.write

    def __exit__(self, *_: object) -> None:
        if self.metrics is not None:
            self.metrics.close()

    def write(self, step: int, values: dict[str, Any]) -> None:
        if self.metrics is not None:
            self.metrics.log(step, {name: value for name, value in values.items() if name != "step"})


def _card(record: dict[str, Any], window: int) -> str:
    """What a person should know of a checkpoint, as Markdown."""
    settings, plan, found = record["settings"], record["plan"], record["bound"]
    lines = [
        "# A masked diffusion language model trained by unmask",
        "",
        f"- text: {settings['data']['source']} ({plan['train_tokens']:,} training tokens)",
        f"- network: {plan['parameters']:,} parameters, window {window} tokens",
        f"- step {record['step']:,} of {plan['steps']:,}, batch {settings['train']['batch']}, {record['dtype']}",
    ]
    if found:
        lines.append(
            f"- bound on held-out text: {found['nats_per_token']:.4f} ± {found['stderr'] or math.nan:.4f} nats/token "
            f"({found['sequences']} sequences, {found['draws']} maskings each), at step {record['best_step']:,}"
        )
    return "\n".join([*lines, ""])
