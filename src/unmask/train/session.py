"""Settings -> a training run: device, data, plan, network and trainer; new, fine-tuned or resumed."""

__all__ = [
    "Estimate",
    "Session",
    "claim",
    "default_folder",
    "measure",
    "objective_of",
    "open_session",
    "recorded_run",
    "refuse_taken",
    "set_newer_aside",
]

import re
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from unmask.config import absolute_path, from_dict, run_record, to_path
from unmask.data.packed import Corpus
from unmask.denoiser import Trainable
from unmask.disk.checkpoint import Checkpoint, read_checkpoint, resuming
from unmask.disk.files import refuse_foreign_folder, run_lock
from unmask.disk.folders import latest, locate, resume_point, set_aside
from unmask.errors import CheckpointError, ConfigError, RunError
from unmask.model.load import build, load_denoiser, stored_settings
from unmask.objective.base import Objective
from unmask.objective.masked import Masked
from unmask.process import MaskedDiffusion, make_schedule
from unmask.run.machine import choose_device, choose_dtype, peak_bytes, prepare, set_threads
from unmask.run.parallel import Group, join_group
from unmask.text.tokenizer import Tokenizer
from unmask.train.loop import Trainer
from unmask.train.plan import TrainPlan, corpus_of, make_plan, require_step
from unmask.train.settings import TextRun, Trained, TrainSettings, recorded_paths, trained_on

_PLACES = frozenset({"source", "valid"})
_FREE = frozenset({"steps", "patience", "device", "threads", "keep", "save_every", "log_every", "track"})
"""Settings that may change when a run is resumed. Of these only `steps` changes a step: it sets the learning rate."""


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """A run that is ready for `trainer.fit`."""

    run: TextRun
    plan: TrainPlan
    corpus: Corpus
    trainer: Trainer
    folder: Path
    group: Group
    device: torch.device
    dtype: torch.dtype
    threads: int
    held: ExitStack

    def close(self) -> None:
        """Free the run folder for other commands and leave the group of processes."""
        self.held.close()


@dataclass(frozen=True, slots=True)
class Estimate:
    """Time and memory, from a few real steps."""

    seconds_per_step: float
    tokens_per_second: float
    seconds: float
    """Estimate for the whole run, validations included."""
    peak_bytes: int
    """Most memory the process (on a GPU: the GPU) has held so far."""


@dataclass(frozen=True, slots=True)
class _Start:
    """What a run takes from a checkpoint; None for what it makes itself."""

    tokenizer: Tokenizer | None = None
    network: Trainable | None = None
    plan: TrainPlan | None = None
    record: Mapping[str, Any] | None = None
    trained: Trained | None = None


def open_session(
    run: TextRun,
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    init: str | Path | None = None,
    note: Callable[[str], None],
    write: bool = True,
) -> Session:
    """Settings -> a session; nothing is trained yet.

    `out` is the folder to write, by default the next free runs/NAME-N. `resume` is the folder of a run to resume, or
    one of its checkpoints: `run` is then the result of `recorded_run`, perhaps with other steps or patience. `init` is
    a checkpoint to fine-tune, of which tokenizer and network are used. `note` gets sentences for the terminal. With
    `write` off no folder is made. The session holds the folder until it is closed.

    Raises ConfigError, DataError or CheckpointError for impossible requests.
    """
    if resume is not None and (out is not None or init is not None):
        raise ConfigError("--resume goes on in the folder of a run; leave --out and --init away.")
    if out is not None:
        refuse_taken(to_path(out))
    prepare()
    threads = set_threads(run.train.threads)
    device = choose_device(run.train.device)
    with ExitStack() as held:
        group = join_group(device)
        held.callback(group.leave)
        if device.type == "cuda" and group.size > 1:
            device = torch.device("cuda", group.local_rank)
        group.share(run.train.batch)
        point = None if resume is None else _resume_point(to_path(resume))
        folder = None if point is None else claim(point.parents[1], held, group, note if write else None)
        start = _start_of(run, point, init)
        dtype = choose_dtype(run.train.dtype if start.record is None else start.record["dtype"], device)
        advice = None if point is None else f"or start a new run on the new text with --init {folder}"
        corpus = corpus_of(run.data, start.tokenizer, note, trained=start.trained, advice=advice)
        if start.record is not None:
            _check_same(start.record, corpus, str(folder), threads, note)
        plan = start.plan or make_plan(run, corpus, start.network)
        require_step(run, plan, corpus, tuned=start.network is not None, processes=group.size, device=device)
        network = start.network or build(plan.model, run.train.seed)
        if folder is None:
            folder = claim(to_path(out or default_folder(run.data.source)), held, group, note if write else None)
            if write and group.first and latest(folder) is not None:
                raise RunError(f"{folder} was taken by another run meanwhile; choose another --out.")
        trainer = Trainer(run, plan, corpus, network.to(device), objective_of(run.train, corpus), folder, group, dtype)
        trainer.origin = _origin(run, start, init)
        if point is not None:
            with resuming(point, "train"):
                trainer.restore(point)
            if write and group.first:
                set_newer_aside(point, note)
        return Session(run, plan, corpus, trainer, folder, group, device, dtype, threads, held.pop_all())


def claim(folder: Path, held: ExitStack, group: Group, note: Callable[[str], None] | None) -> Path:
    """A run folder -> the same; the first process is its only writer until `held` is closed. Nothing without `note`.

    Raises ConfigError where another process writes there, or the folder cannot be written; RunError for a full disk.
    """
    if group.first and note is not None:
        held.enter_context(run_lock(folder, note))
    return folder


def set_newer_aside(point: Path, note: Callable[[str], None]) -> None:
    """The checkpoint that a run goes on from -> newer ones are renamed, so that they are not taken for its own."""
    for folder in set_aside(point):
        note(f"The run goes on from {point.name}; a newer checkpoint was renamed to {folder}.")


def _origin(run: TextRun, start: _Start, init: str | Path | None) -> dict[str, Any]:
    """A run -> what its checkpoints record of where it came from, beside the settings with absolute paths."""
    before = dict[str, str]()
    if start.record is not None and start.trained is not None:
        then = start.trained
        before = {n: text for n, text in then.typed.items() if getattr(run.data, n, 0) == getattr(then.data, n, 0)}
    data, typed = recorded_paths(run.data, before)
    origin: dict[str, Any] = {"data": data, "typed": typed}
    if init is not None:
        typed["init"], origin["init"] = str(init), absolute_path(str(init))
    elif start.record is not None and "init" in start.record:
        typed["init"], origin["init"] = before.get("init", ""), start.record["init"]
    return origin


def objective_of(settings: TrainSettings, corpus: Corpus) -> Objective:
    """Settings -> the objective: the bound of masked diffusion."""
    return Masked(MaskedDiffusion(corpus.tokenizer.mask_id, make_schedule(settings.schedule)), settings.estimator)


def recorded_run(resume: str | Path) -> TextRun:
    """A run folder, or one of its checkpoints -> the settings of the newest one, or of this one.

    Raises CheckpointError without one, and for a damaged one; the sentence then names the one before.
    """
    point = _resume_point(to_path(resume))
    with resuming(point, "train"):
        checkpoint = read_checkpoint(point)
        return from_dict(TextRun, _record(checkpoint)["settings"], f"{checkpoint.folder}/run.json")


def default_folder(source: str) -> Path:
    """The name of a source -> runs/NAME-N with the first N from 1 that does not exist."""
    stem = source.removeprefix("hf:").rstrip("/").split("/")[-1].split(".")[0]
    name = re.sub(r"[^\w-]+", "-", stem).strip("-") or "text"
    number = 1
    while (Path("runs") / f"{name}-{number}").exists():
        number += 1
    return Path("runs") / f"{name}-{number}"


def refuse_taken(out: Path) -> None:
    """Raise ConfigError if a folder holds a run already, or files of somebody else."""
    refuse_foreign_folder(out)
    kept = out / "checkpoints"
    if kept.is_dir() and any(not entry.name.startswith(".") for entry in kept.iterdir()):  # unfinished
        raise ConfigError(f"{out} holds a run already; go on with it by --resume {out}, or choose another --out.")


def measure(session: Session, steps: int = 3) -> Estimate:
    """A session -> time and memory, measured over steps after a warm-up step; it cannot be fitted afterwards."""
    trainer, run = session.trainer, session.run.train
    trainer.model.train()
    seconds: list[float] = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        loss, _, _ = trainer.take_step()
        loss.item()  # waits for a GPU
        seconds.append(time.perf_counter() - began)
        if seconds[0] > 20:  # a single step is enough then
            break
    each = sorted(seconds[1:] or seconds)[len(seconds[1:]) // 2]
    validation = each * min(len(session.corpus.valid), run.eval_draws) * session.plan.draws / run.batch / 3
    left = max(session.plan.steps - trainer.step + len(seconds), 0)
    whole = left * each + left / session.plan.eval_every * validation
    return Estimate(each, run.batch * session.run.data.length / each, whole, peak_bytes(session.device))


def _start_of(run: TextRun, point: Path | None, init: str | Path | None) -> _Start:
    """Settings and checkpoints -> the parts of the checkpoint that training starts from."""
    if init is not None:
        loaded = load_denoiser(locate(str(init)), dtype=torch.float32)  # training needs float32
        return _Start(tokenizer=loaded.tokenizer, network=loaded.denoiser, trained=trained_on(loaded.checkpoint))
    if point is None:
        return _Start()
    with resuming(point, "train"):
        return _recorded_start(run, read_checkpoint(point))


def _recorded_start(run: TextRun, checkpoint: Checkpoint) -> _Start:
    """Settings and the checkpoint that a run goes on from -> its tokenizer, plan and record."""
    record = _record(checkpoint)
    where = f"{checkpoint.folder}/run.json"
    before = from_dict(TextRun, record["settings"], where)
    _refuse_changes(before, run)
    plan = from_dict(TrainPlan, record["plan"], where)
    steps = run.train.steps or plan.steps
    plan = replace(plan, model=stored_settings(checkpoint), steps=steps, epochs=plan.epochs * steps / plan.steps)
    if run.train.save_every is not None:
        plan = replace(plan, save_every=run.train.save_every)
    if checkpoint.tokenizer_json is None:
        raise CheckpointError(f"{checkpoint.folder} has no tokenizer.json; copy it back from where the run came from.")
    tokenizer = Tokenizer.from_json(checkpoint.tokenizer_json)
    return _Start(tokenizer=tokenizer, plan=plan, record=record, trained=trained_on(checkpoint))


def _resume_point(path: Path) -> Path:
    """A run folder, or one of its checkpoints -> the checkpoint to go on from. Raises CheckpointError without one."""
    if not path.is_dir():
        raise CheckpointError(f"{path} does not exist; give the folder of a run, such as runs/text-1.")
    folder, point = resume_point(path)
    if point is None and folder.absolute().parent.name == "checkpoints":
        run = folder.parent.parent
        raise CheckpointError(f"{folder} is no checkpoint that training can go on from; say --resume {run}")
    if point is None:
        raise CheckpointError(f"{folder} holds no checkpoint that training can go on from; start the run again.")
    return point


def _record(checkpoint: Checkpoint) -> dict[str, Any]:
    """A checkpoint -> its run.json. Raises CheckpointError if a part is missing."""
    record = checkpoint.run
    if record is None or not {"settings", "plan", "data", "dtype", "record"} <= record.keys():
        raise CheckpointError(
            f"{checkpoint.folder} does not say what was asked (run.json); "
            f"start a new run with --init {checkpoint.folder}"
        )
    return record


def _refuse_changes(before: TextRun, now: TextRun) -> None:
    """Raise ConfigError for a setting that differs and may not change when a run is resumed.

    The place of a text may change; that the text is the same is checked when it is read.
    """
    for section in ("data", "model", "train"):
        old, new = getattr(before, section), getattr(now, section)
        for field in fields(old):
            if (section == "train" and field.name in _FREE) or (section == "data" and field.name in _PLACES):
                continue
            if getattr(old, field.name) != getattr(new, field.name):
                raise ConfigError(
                    f"{section}.{field.name} was {getattr(old, field.name)} and cannot become "
                    f"{getattr(new, field.name)} when a run goes on; start a new run with --init, "
                    f"or leave it out (what may change: {', '.join(sorted(_FREE))})."
                )


def _check_same(
    record: Mapping[str, Any], corpus: Corpus, resume: str, threads: int, note: Callable[[str], None]
) -> None:
    """Raise ConfigError if the text has changed; note other differences from the start of the run."""
    if record["data"] != corpus.fingerprint:
        raise ConfigError(
            f"The text of {resume} has changed since the run began; put the old text back, "
            f"or start a new run on the new one with --init {resume}"
        )
    then, now = record["record"], run_record()
    pairs = {
        "torch": (then.get("versions", {}).get("torch"), now["versions"]["torch"]),
        "the processor": (then.get("processor"), now["processor"]),
        "the number of threads": (then.get("threads"), threads),
    }
    for name, (old, new) in pairs.items():
        if old != new:
            note(f"{name} was {old} and is now {new}: the continuation will not be bit-equal.")
