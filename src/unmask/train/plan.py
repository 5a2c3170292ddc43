"""Settings -> the corpus of a training run, and its plan with a value for every setting that was left out.

Also what the processes of a run have in common: shares of a batch, number format, settings, versions and data.
"""

__all__ = [
    "OWN",
    "TrainPlan",
    "common_dtype",
    "corpus_of",
    "make_plan",
    "memory_bytes",
    "most_steps",
    "require_parts",
    "require_same_run",
    "require_step",
]

import glob
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch

from unmask.config import moved, run_record, to_dict
from unmask.data.estimate import estimate_corpus
from unmask.data.folder import open_prepared, require_unprepared
from unmask.data.packed import Corpus, Packed, Sources
from unmask.data.prepare import corpus_key, prepare, silent
from unmask.data.settings import SPLIT_RULE, DataSettings
from unmask.data.sources import CORPORA, Source, open_source
from unmask.denoiser import Trainable
from unmask.errors import ConfigError, DataError, RequestError, did_you_mean
from unmask.limits import available_bytes, bytes_text, require_memory
from unmask.model.load import parameter_count, require_network
from unmask.model.settings import SIZES, DiTSettings, TransformerSettings, size_for
from unmask.ranges import Count, Natural, real
from unmask.run.agree import require_same
from unmask.run.machine import DtypeName, choose_dtype
from unmask.run.parallel import Group
from unmask.text.tokenizer import Tokenizer
from unmask.train.settings import ModelChoice, TextRun, Trained
from unmask.train.tasks import PROBLEMS, VALID_PROBLEMS, read_task, task_source

if TYPE_CHECKING:
    from unmask.train.budget import Probe

OWN = frozenset({"device", "threads", "track"})  # settings of the training that may differ between processes


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """All numbers of a training run."""

    model: Any
    """Settings of the network, of any architecture; `model.load.stored_settings` reads them back."""
    parameters: Count
    steps: Count
    lr: Annotated[float, real(0, above=True)]
    warmup: Natural
    eval_every: Count
    save_every: Count
    draws: Count
    """Maskings of each validation sequence."""
    train_tokens: Count
    valid_tokens: Natural
    epochs: Annotated[float, real(0, above=True)]
    """How often each training sequence is seen in the whole run."""
    seconds: Annotated[float | None, real(0, above=True)] = None
    """The budget of a run of so many minutes, its validations and checkpoints included: the learning rate follows the
    clock, and `steps` is an estimate."""
    ending: Annotated[float, real(0)] = 1.0
    """Seconds that the last validation of such a run is expected to take."""
    trained: Count | None = None
    """Parameters that change, where not all of them do."""
    capped: bool = False
    """Whether a run with a budget ends after `steps`, too, because the text is worth no more of them."""

    @property
    def counted(self) -> bool:
        """Whether the run ends after `steps`, and not when its time is over."""
        return self.seconds is None or self.capped


def make_plan(run: TextRun, corpus: Corpus, start: Trainable | None = None) -> TrainPlan:
    """Settings and a corpus -> the plan; `start` is the network to fine-tune, of any architecture.

    The sizes of the text are those of `corpus.facts`, which may be estimates for a corpus that holds a part of it.

    Raises ConfigError for impossible shapes, or for sequences longer than the window of `start`.
    """
    trained = None
    if start is None:
        settings = _new_model(run.model, corpus, run.agnostic.masks)
        parameters, width = parameter_count(settings), settings.width
    else:
        _check_length(run.data.length, start)
        settings, width = start.settings, start.width
        parameters = sum(p.numel() for p in start.parameters())
        if run.adapt.tuning == "lora":
            trained = sum(p.numel() for p in start.parameters() if p.requires_grad)
            parameters = parameter_count(settings)
    rows = corpus.facts.train.rows
    per_epoch = max(rows / run.train.batch, 1e-9)
    steps = min(20_000, most_steps(rows, run.train.batch)) if run.train.steps is None else run.train.steps
    warmup = min(2500, max(1, steps // 20)) if run.train.warmup is None else run.train.warmup
    if warmup > steps:
        raise ConfigError(f"train.warmup is {warmup}, more than the {steps} steps of the run; give at most as many.")
    every = max(25, steps // 40) if run.train.eval_every is None else run.train.eval_every
    return TrainPlan(
        model=settings,
        parameters=parameters,
        steps=steps,
        lr=_default_rate(width, start is not None and trained is None) if run.train.lr is None else run.train.lr,
        warmup=warmup,
        eval_every=every,
        save_every=every if run.train.save_every is None else run.train.save_every,
        draws=max(1, run.train.eval_draws // max(1, min(len(corpus.valid), run.train.eval_draws))),
        train_tokens=corpus.facts.train.tokens,
        valid_tokens=corpus.facts.valid.tokens,
        epochs=steps / per_epoch,
        trained=trained,
    )


def _check_length(length: int, network: Trainable) -> None:
    """Raises ConfigError for sequences longer than the window of the network to fine-tune."""
    if length > network.max_length:
        raise ConfigError(
            f"data.length is {length}, but the model's window is {network.max_length} tokens; "
            f"set --data.length {network.max_length} or less."
        )


def _new_model(choice: ModelChoice, corpus: Corpus, masks: int) -> DiTSettings:
    size = size_for(corpus.facts.train.tokens) if choice.size == "auto" else choice.size
    if size not in SIZES:
        raise ConfigError(f"model.size is '{size}'; {did_you_mean(size, SIZES)}")
    width, blocks, heads = SIZES[size]
    name = choice.parameterization
    return DiTSettings(
        vocab_size=corpus.facts.vocab_size,
        mask_id=corpus.tokenizer.mask_id,
        max_length=corpus.train.length + masks,
        width=width if choice.width is None else choice.width,
        blocks=blocks if choice.blocks is None else choice.blocks,
        heads=heads if choice.heads is None else choice.heads,
        dropout=choice.dropout,
        absolute=choice.absolute,
        modulation="time" if choice.time_conditioned or name == "sedd" else "none",
        causal_block=int(name == "ar"),
        shift=name == "ar",
        parameterization="subs" if name == "ar" else name,
        soft=choice.soft,
    )


def most_steps(rows: int, batch: int) -> int:
    """The steps that a text of so many rows is worth: sixty passes over it, but at least 600 steps.

    Without a budget it is also the default, up to 20,000; patience usually ends training earlier.
    """
    return int(max(600, 60 * rows / batch))


def _default_rate(width: int, tuned: bool) -> float:
    """Width -> the peak learning rate: 1e-3 up to 384 and 3e-4 above; a tenth where a trained network is fine-tuned.

    At the rate of a new run the first hundred steps would undo much of what the network has learned. Low-rank terms are
    new parameters, and have that of a new run.
    """
    return (1e-3 if width <= 384 else 3e-4) / (10 if tuned else 1)


def memory_bytes(plan: TrainPlan, batch: int) -> int:
    """A plan -> rough peak memory of a training step in float32, in bytes.

    Counts weights, gradient, two moments, the average, and the activations; the latter for DiT and transformers.
    """
    model, activations = plan.model, 0
    if isinstance(model, DiTSettings):
        per_block = batch * model.max_length * model.width * 20 + 2 * batch * model.heads * model.max_length**2
        activations = model.blocks * per_block
    elif isinstance(model, TransformerSettings):
        activations = batch * model.max_length * model.blocks * (20 * model.width + 4 * model.inner)
    return 4 * (plan.parameters + 4 * (plan.trained or plan.parameters) + activations) + 3 * 4 * 2**24


def require_step(run: TextRun, plan: TrainPlan, train: Packed, *, tuned: bool, processes: int, device: object) -> None:
    """A run, its plan and its training rows -> nothing, if there is memory for a step in each of `processes` processes.

    Counts less than `memory_bytes`: weights (which a network that is `tuned` has already), gradient, two moments,
    average, its rows of a batch, and of the activations half of what a step in float32 holds (bfloat16, no dropout).
    Where a step has several micro-batches, each process keeps the gradient of all parameters until the last one.
    Raises RequestError, which names a micro-batch that fits, or says that the network itself is too large.
    """
    settings, copies = plan.model, 4 if tuned else 5
    each, free = run.train.batch // processes, available_bytes(device)  # a process reads its own rows alone
    require_network(settings, copies if processes == 1 else 1, device=device)
    require_memory(each * train.length * 10, f"A batch of {run.train.batch:,} rows", "set a smaller --train.batch")
    if not isinstance(settings, DiTSettings):
        return
    positions = min(train.length, train.tokens / len(train))
    row = 4 * settings.blocks * positions * settings.width * 10 * (2 if run.agnostic.masks else 1)
    rows = each // run.train.accumulate
    shards = max(1, processes // run.train.replicas)
    held = 4 * copies * plan.parameters // shards  # they are divided
    whole = held + 4 * (plan.trained or plan.parameters) * (shards - 1) // shards  # with the gradient of the others
    weights = held if run.train.accumulate == 1 else whole
    fits, alone = (  # with dropout and float32 too
        next((n for n in range(int(min(rows, (free - size) // (3 * row))), 0, -1) if each % n == 0), 0)
        for size in (whole, held)
    )
    remedy = "set a smaller --data.length, or a smaller network"
    if fits:
        remedy = f"set --train.accumulate {each // fits}, or --train.batch {fits * processes}"
    elif alone:
        remedy = f"set --train.accumulate 1 and --train.batch {alone * processes}"
    what = f"A step with {rows:,} rows at once (its network {bytes_text(weights)})"
    require_memory(weights + rows * row, what, remedy, device)


def require_parts(run: TextRun, group: Group) -> None:
    """Raise ConfigError unless the rows of each process can be run in so many parts."""
    batch, parts = run.train.batch, run.train.accumulate
    if batch % (group.size * parts):
        raise ConfigError(
            f"train.batch {batch} cannot be shared by {group.size} processes in {parts} equal parts each; give a "
            f"multiple of {group.size * parts}, or a smaller train.accumulate."
        )


def common_dtype(name: DtypeName, group: Group, device: torch.device) -> torch.dtype:
    """As `choose_dtype`, which may measure: what the first process chose, in all."""
    low = group.decided(choose_dtype(name, device) == torch.bfloat16, device)
    return torch.bfloat16 if low else torch.float32


def require_same_run(run: TextRun, plan: TrainPlan, corpus: Corpus, point: Path | None, probe: "Probe") -> None:
    """Raise ConfigError, in all processes, where they would not do the same training; `point` is what it resumes."""
    settings = {
        f"{part}.{name}": value
        for part, values in to_dict(run).items()
        for name, value in values.items()
        if not (part == "train" and name in OWN)
    }
    facts = {
        "settings": settings | {"steps": plan.steps, "parameters": plan.parameters},
        "versions": run_record()["versions"],
        "data": {"the text": corpus.fingerprint, "training rows": len(corpus.train)},
        "checkpoints": {"the run goes on from": None if point is None else point.name},
    }
    require_same(probe.group, probe.device, facts)


def corpus_of(
    settings: DataSettings,
    tokenizer: Tokenizer | None = None,
    note: Callable[[str], None] = silent,
    *,
    trained: Trained | None = None,
    advice: str | None = None,
    sampled: bool = False,
) -> Corpus:
    """Settings -> the corpus, as `data.prepare` makes it; a source may also be a task, or a folder of prepared data.

    Everything that splits a text calls this function. `trained` is what the checkpoint, from which `tokenizer` comes,
    says about the text of its training: if the text is the same, it is split by the same rule. With `advice` it has to
    be the same, and the advice says what else can be done. Validation of a task is on problems of its split "valid",
    unless `settings.valid` names another source. With `sampled` a large text is not encoded: the corpus holds a part of
    it, see `data.estimate`.

    Raises:
        DataError: for a source that starts with task: without a task's name, or has no problems; also as `prepare`.
        RequestError: for a text that is not that of the training but has to be, or another share of it.
        RequestError, PluginError: for a task that cannot be made.
    """
    if (ready := open_prepared(settings, tokenizer)) is not None:
        if trained is not None and advice is not None and ready.fingerprint != trained.fingerprint:
            raise RequestError(_changed(settings, trained, ready.split.source) + f": give it as it was, {advice}.")
        return ready
    rule = SPLIT_RULE if trained is None else trained.rule
    sources = _sources(settings, rule, trained, sampled=sampled)
    if trained is not None and tokenizer is not None and not trained.data.source.startswith("task:"):
        same = corpus_key(trained.data, sources, tokenizer) == trained.fingerprint
        if same and settings.columns == trained.data.columns:
            _check_share(settings, trained)
        elif advice is not None:
            raise RequestError(_changed(settings, trained, sources.split.source) + f": give it as it was, {advice}.")
        else:
            if not same and sources.valid is None and trained.source == sources.split.source:
                note(f"{settings.source} is the text that {trained.folder} was trained on: nothing of it was held out.")
            elif not same and sources.valid is None and settings.source == trained.data.source:
                note(
                    _changed(settings, trained, sources.split.source)
                    + ": what is held out now may have been trained on."
                )
            sources = _sources(settings, SPLIT_RULE, trained, sampled=sampled)
    prepared = estimate_corpus if sampled else prepare
    return prepared(settings, tokenizer, note, sources)


def _sources(settings: DataSettings, rule: int, trained: Trained | None, *, sampled: bool) -> Sources:
    """Settings -> the sources that they name, tasks among them; `sampled`: see `task_source`."""
    opened = dict[str, Source | None]()
    for name, text, usual in (("source", settings.source, PROBLEMS), ("valid", settings.valid, VALID_PROBLEMS)):
        if text is None:
            opened[name] = None
        elif text.startswith("task:"):
            task, count = read_task(text)
            opened[name] = task_source(task, "train" if name == "source" else "valid", count or usual, sampled=sampled)
        else:
            if trained is not None and text == getattr(trained.data, name):
                _check_place(name, text, trained)
            require_unprepared(name, text)
            opened[name] = open_source(text, settings.columns, rule)
    source, valid = opened["source"], opened["valid"]
    assert source is not None
    if valid is None and settings.source.startswith("task:"):
        valid = task_source(read_task(settings.source)[0], "valid", VALID_PROBLEMS, sampled=sampled)
    return Sources(source, valid, rule)


def _check_place(name: str, text: str, trained: Trained) -> None:
    """Raise DataError if nothing is at the path that a run recorded."""
    if text in CORPORA or text.startswith("hf:") or os.path.exists(text) or glob.glob(text, recursive=True):
        return
    what = f"The {'text' if name == 'source' else 'validation text'} of {trained.folder}"
    raise DataError(moved(what, text, trained.typed.get(name), f"--data.{name} PATH"))


def _check_share(settings: DataSettings, trained: Trained) -> None:
    """Raise RequestError if another share of the text than in the training is asked for."""
    then, now = trained.data.valid_share, settings.valid_share
    if then != now and settings.valid is None:
        raise RequestError(
            f"data.valid_share is {now}, but {trained.folder} was trained on this text with {then}: another share "
            "would hold out what was trained on; leave it out, or give another text."
        )


def _changed(settings: DataSettings, trained: Trained, source: str) -> str:
    """Settings, and the fingerprint of their source -> what is not as in the training, as the start of a sentence."""
    if trained.source == source and settings.valid is not None:
        return f"{settings.valid} is not the validation text that {trained.folder} was trained with"
    return f"{settings.source} is not, or no longer, the text that {trained.folder} was trained on"
