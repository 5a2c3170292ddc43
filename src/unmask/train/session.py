"""Settings -> a training run: device, data, plan, network and trainer; new, fine-tuned or resumed."""

__all__ = [
    "Planned",
    "Session",
    "claim",
    "open_session",
    "plan_session",
    "recorded_run",
    "run_objective",
    "set_newer_aside",
]

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from unmask.config import absolute_path, from_dict, run_record, to_path
from unmask.data.folder import prepared_settings
from unmask.data.packed import Corpus
from unmask.denoiser import Trainable
from unmask.disk.checkpoint import Checkpoint, read_checkpoint, resuming
from unmask.disk.files import run_lock
from unmask.disk.folders import latest, resume_point, set_aside
from unmask.errors import CheckpointError, ConfigError, RunError
from unmask.hf.names import locate
from unmask.model.load import build, stored_settings, stored_tokenizer
from unmask.model.lora import add_low_rank, merged
from unmask.objective.base import Objective
from unmask.objective.masked import objective_of, parameterization
from unmask.objective.strands import EitherStrand, complement_of
from unmask.process import MaskedDiffusion, make_schedule
from unmask.run.machine import fastest_threads, keep_all_memory, prepare, set_threads
from unmask.run.parallel import Group, enter_alone, enter_group
from unmask.text.tokenizer import Tokenizer
from unmask.train.adapt import Fill, adapted_corpus, adapted_objective, loaded_start
from unmask.train.budget import Estimate, Probe, estimate, plan_for_minutes, step_seconds
from unmask.train.checkpoint import agreed_folder, begun_folder, begun_from, record_launch, resumed_words, words_of
from unmask.train.loop import Trainer
from unmask.train.plan import (
    TrainPlan,
    common_dtype,
    corpus_of,
    make_plan,
    require_parts,
    require_same_run,
    require_step,
)
from unmask.train.settings import (
    Recorded,
    TextRun,
    Trained,
    recorded_paths,
    refuse_changes,
    run_of,
    trained_on,
)


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """What a run will do, and where; nothing is built yet."""

    run: TextRun
    """The settings; a budget of minutes has chosen some of them."""
    plan: TrainPlan
    corpus: Corpus
    """In a dry run perhaps a part of the text, with estimates in its facts."""
    folder: Path
    probe: Probe
    threads: int
    point: Path | None
    """The checkpoint that a run resumes from."""
    start: "_Start"
    estimate: Estimate | None
    """The time of the run, where it was asked for."""
    note: Callable[[str], None]
    """Gets sentences for the terminal."""
    began: float
    """The value of `time.perf_counter` from which a budget of minutes counts."""
    words: str
    """What was asked for, as the file of the launch has it."""
    held: ExitStack

    def close(self) -> None:
        """Free the run folder for other commands and leave the group of processes."""
        self.held.close()


@dataclass(frozen=True, slots=True, eq=False)
class Session(Planned):
    """A run that is ready for `trainer.fit`."""

    trainer: Trainer


@dataclass(frozen=True, slots=True)
class _Start:
    """What a run takes from a checkpoint; None for what it makes itself."""

    tokenizer: Tokenizer | None = None
    network: Trainable | None = None
    plan: TrainPlan | None = None
    record: Recorded | None = None
    trained: Trained | None = None
    init: str | None = None
    """The checkpoint to fine-tune, as it was typed."""
    fill: Fill | None = None

    @property
    def step(self) -> int:
        """Finished steps of a run that is resumed."""
        return 0 if self.record is None else self.record.step


def open_session(planned: Planned) -> Session:
    """What a run will do, from `plan_session` -> a session; nothing is trained yet.

    The session holds the run folder in place of `planned`. Raises CheckpointError for a run that cannot be resumed.
    """
    run, plan, probe, start, point = planned.run, planned.plan, planned.probe, planned.start, planned.point
    with ExitStack() as held:
        held.enter_context(planned.held)
        network = start.network or build(plan.model, run.train.seed)
        network = network.to(probe.device) if probe.group.size == 1 else network  # several move their parts alone
        if run.adapt.tuning == "lora" and start.network is None:
            add_low_rank(network, run.adapt.rank, run.adapt.alpha, run.train.seed)
        corpus, folder = planned.corpus, planned.folder
        keep_all_memory()
        asked = (run, plan, corpus, network, probe.objective, folder, probe.group, probe.dtype)
        trainer = Trainer(*asked, began=planned.began, device=probe.device, fill=start.fill)
        trainer.origin = _origin(run, start)
        if run.adapt.tuning == "lora":
            trainer.tensors = merged
        if point is not None:
            with resuming(point, "train"):
                trainer.restore(point)
            if probe.group.first:
                set_newer_aside(point, planned.note)
        record_launch(folder, planned.words, probe.group, probe.device)  # now: what is newer from here on is its own
        shared: dict[str, Any] = {field.name: getattr(planned, field.name) for field in fields(planned)}
        shared["held"] = held.pop_all()
        return Session(**shared, trainer=trainer)


def plan_session(
    run: TextRun,
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    init: str | Path | None = None,
    note: Callable[[str], None],
    began: float | None = None,
    dry: bool = False,
) -> Planned:
    """Settings -> what a run will do; no checkpoint is written yet.

    `out` is the folder to write, by default the next free runs/NAME-N. `resume` is the folder of a run to resume, or
    one of its checkpoints: `run` is then the result of `recorded_run`. `init` is a checkpoint to fine-tune. `note` gets
    sentences for the terminal. A budget of minutes counts from `began`, a value of `time.perf_counter`, by default now.
    The folder is held until the result is closed; with `dry` there is none, the time of the run is added, and only a
    part of a large text is encoded. Raises ConfigError, DataError or CheckpointError for impossible requests.
    """
    if resume is not None and (out is not None or init is not None):
        raise ConfigError("--resume goes on in the folder of a run; leave --out and --init away.")
    began = time.perf_counter() if began is None else began
    run = replace(run, data=prepared_settings(run.data))
    prepare()
    with ExitStack() as held:
        group, device = enter_group(held, run.train.device, run.train.batch, run.train.wait)
        require_parts(run, group)
        if run.train.fsdp == "on" and not dry:
            enter_alone(held, group, device)
        words = words_of(run, init) if resume is None else resumed_words(resume)
        if resume is not None:
            resume = begun_from(resume, note)
        else:
            out, resume = begun_folder(run.data.source, out, words, group, device, note)
            run, init = (run, init) if resume is None else (recorded_run(resume), None)
        point = None if resume is None else _resume_point(to_path(resume))
        folder = None if point is None else claim(point.parents[1], held, group, None if dry else note)
        start = _start_of(run, point, init, device, group.size > 1 and not dry and run.train.minutes is None)
        before = None if start.record is None else start.record.record.threads
        threads = set_threads(run.train.threads or before or fastest_threads())
        dtype = common_dtype(run.train.dtype if start.record is None else start.record.dtype, group, device)
        corpus = _corpus(run, start, folder, threads, note, sampled=dry and point is None)
        objective = run_objective(run, corpus, start.network or (start.plan and start.plan.model))
        probe = Probe(corpus, objective, device, dtype, group)
        run, plan, each = _plan(run, start, probe, began)
        if folder is None:
            folder = agreed_folder(out, run.data.source, group, device)
            folder = claim(folder, held, group, None if dry else note)
            if not dry and group.first and latest(folder) is not None:
                raise RunError(f"{folder} was taken by another run meanwhile; choose another --out.")
        require_same_run(run, plan, corpus, point, probe)
        if not dry and point is None:
            record_launch(folder, words, group, device)
        times = None
        if dry:
            times = estimate(run, plan, probe, each or step_seconds(run, plan, probe, start.network), start.step)
        return Planned(
            run, plan, corpus, folder, probe, threads, point, start, times, note, began, words, held.pop_all()
        )


def _corpus(
    run: TextRun, start: "_Start", folder: Path | None, threads: int, note: Callable[[str], None], *, sampled: bool
) -> Corpus:
    """Settings -> the corpus; that of a run in `folder` that is resumed has to be the same as before."""
    advice = None if start.record is None else f"or start a new run on the new text with --init {folder}"
    corpus = corpus_of(run.data, start.tokenizer, note, trained=start.trained, advice=advice, sampled=sampled)
    if start.record is not None:
        _check_same(start.record, corpus, str(folder), threads, note)
    if run.adapt.tuning != "none":
        corpus = adapted_corpus(corpus, run.adapt)
    return corpus


def _plan(run: TextRun, start: "_Start", probe: Probe, began: float) -> tuple[TextRun, TrainPlan, float | None]:
    """Settings -> the run and its plan, for which there is memory, and the seconds of a step if they were measured."""
    each = None
    if start.plan is None and run.train.minutes is not None:
        run, plan, each = plan_for_minutes(run, probe, start.network, lambda: time.perf_counter() - began)
    else:
        plan = start.plan or make_plan(run, probe.corpus, start.network)
    tuned, processes = start.network is not None, probe.group.size
    require_step(run, plan, probe.corpus.train, tuned=tuned, processes=processes, device=probe.device)
    return run, plan, each


def claim(folder: Path, held: ExitStack, group: Group, note: Callable[[str], None] | None) -> Path:
    """A run folder -> the same; the first process is its only writer until `held` is closed. Nothing without `note`.

    Raises ConfigError where another process writes there, or the folder cannot be written; RunError for a full disk.
    """
    if group.first and note is not None:
        held.enter_context(run_lock(folder, note, "checkpoints"))
    return folder


def set_newer_aside(point: Path, note: Callable[[str], None]) -> None:
    """The checkpoint that a run goes on from -> newer ones are renamed, so that they are not taken for its own."""
    for folder in set_aside(point):
        note(f"The run goes on from {point.name}; a newer checkpoint was renamed to {folder}.")


def _origin(run: TextRun, start: _Start) -> dict[str, Any]:
    """A run -> what its checkpoints record of where it came from, beside the settings with absolute paths."""
    before = dict[str, str]()
    if start.record is not None and start.trained is not None:
        then = start.trained
        before = {n: text for n, text in then.typed.items() if getattr(run.data, n, 0) == getattr(then.data, n, 0)}
    data, typed = recorded_paths(run.data, before)
    origin: dict[str, Any] = {"data": data, "typed": typed}
    if start.init is not None:
        typed["init"], origin["init"] = start.init, absolute_path(start.init)
    elif start.record is not None and start.record.init is not None:
        typed["init"], origin["init"] = before.get("init", ""), start.record.init
    return origin


def run_objective(run: TextRun, corpus: Corpus, start: Any = None) -> Objective:
    """Settings -> the objective of a new network, or of the one trained further: `start`, or these are its settings."""
    name = run.model.parameterization if start is None else parameterization(start)
    process = MaskedDiffusion(corpus.tokenizer.mask_id, make_schedule(run.train.schedule))
    objective = objective_of(name, process, run.train.estimator, run.train.grid)
    if run.adapt.anneal or run.agnostic.masks or run.model.soft:
        objective = adapted_objective(objective, run, corpus, None if start is None else start.max_length)
    return EitherStrand(objective, complement_of(corpus.tokenizer)) if run.train.reverse_complement else objective


def recorded_run(resume: str | Path) -> TextRun:
    """A run folder, or one of its checkpoints -> the settings of the newest one, or of this one.

    Raises CheckpointError without one, and for a damaged one; the sentence then names the one before.
    """
    point = _resume_point(to_path(begun_from(resume)))
    with resuming(point, "train"):
        checkpoint = read_checkpoint(point)
        return from_dict(TextRun, run_of(checkpoint).settings, f"{checkpoint.folder}/run.json", CheckpointError)


def _start_of(run: TextRun, point: Path | None, init: str | Path | None, device: torch.device, empty: bool) -> _Start:
    """Settings and checkpoints -> the parts of the checkpoint that training starts from; `empty`: `loaded_start`."""
    if init is not None:
        loaded, fill = loaded_start(locate(str(init)), run, device, empty=empty)
        trained = trained_on(loaded.checkpoint) if run.adapt.tuning == "none" else None
        return _Start(loaded.tokenizer, loaded.denoiser, trained=trained, init=str(init), fill=fill)
    if point is None:
        return _Start()
    with resuming(point, "train"):
        return _recorded_start(run, read_checkpoint(point))


def _recorded_start(run: TextRun, checkpoint: Checkpoint) -> _Start:
    """Settings and the checkpoint that a run goes on from -> its tokenizer, plan and record."""
    record, settings = run_of(checkpoint), stored_settings(checkpoint)
    where = f"{checkpoint.folder}/run.json"
    before = from_dict(TextRun, record.settings, where, CheckpointError)
    refuse_changes(before, run)
    plan = from_dict(TrainPlan, record.plan, where, CheckpointError)
    if plan.seconds is None and run.train.minutes is not None:
        raise ConfigError("--minutes does not go with a run of steps; leave it out, or give --train.steps.")
    if plan.seconds is not None and run.train.minutes is not None:
        plan = replace(plan, seconds=60 * run.train.minutes)
    steps = plan.steps if run.train.steps is None else run.train.steps
    plan = replace(plan, model=settings, steps=steps, epochs=plan.epochs * steps / plan.steps)
    if run.train.save_every is not None:
        plan = replace(plan, save_every=run.train.save_every)
    tokenizer = stored_tokenizer(checkpoint, settings)
    return _Start(tokenizer=tokenizer, plan=plan, record=record, trained=trained_on(checkpoint))


def _resume_point(path: Path) -> Path:
    """A run folder, or one of its checkpoints -> the checkpoint to go on from. Raises CheckpointError without one."""
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {what}; give the folder of a run, such as runs/text-1.")
    folder, point = resume_point(path)
    if point is None and folder.absolute().parent.name == "checkpoints":
        run = folder.parent.parent
        raise CheckpointError(f"{folder} is no checkpoint that training can go on from; say --resume {run}")
    if point is None:
        raise CheckpointError(f"{folder} holds no checkpoint that training can go on from; start the run again.")
    return point


def _check_same(record: Recorded, corpus: Corpus, resume: str, threads: int, note: Callable[[str], None]) -> None:
    """Raise ConfigError if the text has changed; note other differences from the start of the run."""
    if record.data != corpus.fingerprint:
        raise ConfigError(
            f"The text of {resume} has changed since the run began; put the old text back, "
            f"or start a new run on the new one with --init {resume}"
        )
    then, now = record.record, run_record()
    pairs = {
        "torch": (then.versions.get("torch"), now["versions"]["torch"]),
        "the processor": (then.processor, now["processor"]),
        "the number of threads": (then.threads, threads),
    }
    for name, (old, new) in pairs.items():
        if old != new:
            note(f"{name} was {old} and is now {new}: the continuation will not be bit-equal.")
