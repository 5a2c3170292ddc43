"""A training run -> its folder and its checkpoints, and back: what is in them, and the state from which it goes on.

The folder is a free one, the one that was asked for, or the run's own, whose workers torchrun has started again. After
a failure `torchrun --max-restarts N` starts all workers again with the same words. The run folder holds a file that
names the launch, so that the words mean the same run: it goes on from its newest checkpoint, in as many processes as
there are now. A launch is named by `--rdzv-id`; where none was given, by the agents of torchrun that began it. The file
also has what was asked for: a name that is used again may come with other words.
"""

__all__ = [
    "agreed_folder",
    "begin_best",
    "begin_checkpoint",
    "begun_folder",
    "begun_from",
    "card",
    "default_folder",
    "launch",
    "record_launch",
    "refuse_taken",
    "restore",
    "resumed_words",
    "training_tensors",
    "words_of",
]

import hashlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unmask.config import run_record, to_dict, to_path
from unmask.disk.checkpoint import fill_checkpoint, read_state
from unmask.disk.files import atomic_text, refuse_foreign_folder
from unmask.disk.folders import best_folder, keep_best, keep_last, latest, require_step, resume_point, step_folder
from unmask.disk.json import NotJson, read_json, read_text
from unmask.errors import CheckpointError, ConfigError
from unmask.model.load import model_config
from unmask.objective.bound import Bound
from unmask.run.agree import all_or_none
from unmask.run.loop import Standing
from unmask.run.optim import parts_of
from unmask.run.parallel import Group
from unmask.train.plan import OWN
from unmask.train.progress import TrainState
from unmask.train.settings import TextRun

if TYPE_CHECKING:
    from unmask.train.loop import Trainer

LAUNCH_FILE = ".unmask-launch"
_UNNAMED = "none"  # what torchrun calls a launch without --rdzv-id


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
    Before the first step a parameter gets moments of zeros, as AdamW begins with.
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


def card(record: dict[str, Any], window: int) -> str:
    """The record of a run -> the description of its checkpoint, as Markdown."""
    settings, plan, bound = record["settings"], record["plan"], record["bound"]
    source = record.get("typed", {}).get("source", settings["data"]["source"])  # a card has no absolute paths
    steps = f" of {plan['steps']:,}" if plan.get("seconds") is None or plan.get("capped") else ""
    lines = [
        "# A masked diffusion language model trained by unmask",
        "",
        f"- text: {source} ({plan['train_tokens']:,} training tokens)",
        f"- network: {plan['parameters']:,} parameters, window {window} tokens",
        f"- step {record['step']:,}{steps}, batch {settings['train']['batch']}, {record['dtype']}",
    ]
    adapt = settings["adapt"]
    if adapt["tuning"] != "none":
        how = f"low-rank terms of rank {adapt['rank']}, merged" if adapt["tuning"] == "lora" else "all weights"
        lines.insert(3, f"- made from the causal model {record['typed']['init']} ({how})")
    if bound:
        lines.append(
            f"- bound on held-out text: {bound['nats_per_token']:.4f} ± {bound['stderr'] or math.nan:.4f} nats/token "
            f"({bound['sequences']} sequences, {bound['draws']} maskings each), at step {record['best_step']:,}"
            + (", of the model in two passes" if bound.get("two_pass") else "")
        )
    return "\n".join([*lines, ""])


def launch(environment: Mapping[str, str] = os.environ) -> str:
    """Environment of a process -> the name of the launch of torchrun that it belongs to; "" outside of torchrun.

    Without `--rdzv-id` it is host, process and start time of the agent that started this process.
    """
    name = environment.get("TORCHELASTIC_RUN_ID", "")
    if name != _UNNAMED:
        return name
    agent, began = os.getppid(), ""
    with suppress(OSError, NotJson, IndexError):  # Linux; field 22, after the name in brackets
        began = read_text(f"/proc/{agent}/stat").rpartition(")")[2].split()[19]
    return f"agent {os.uname().nodename} {agent} {began}"


def words_of(run: TextRun, init: str | Path | None) -> str:
    """What is asked of a new run, and the checkpoint to fine-tune -> a short hash; the same words have the same one."""
    settings = to_dict(run)
    settings["train"] = {name: value for name, value in settings["train"].items() if name not in OWN}
    text = json.dumps([settings, None if init is None else str(init)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def resumed_words(resume: str | Path) -> str:
    """What was typed for --resume -> what LAUNCH_FILE says of it."""
    return f"resume {to_path(resume).absolute()}"


def begun_folder(
    source: str, out: str | Path | None, words: str, group: Group, device: torch.device, note: Callable[[str], None]
) -> tuple[str | Path | None, Path | None]:
    """A source, --out and the words of a new run -> --out, or the folder of this launch of torchrun, whose workers were
    started again, and the folder to resume, if it has a checkpoint.

    All processes call it together. Raises ConfigError for a folder that is taken, and for other words of this launch.
    """
    folders = _default_folders(source)[::-1] if out is None else [to_path(out)]
    folder = _folder_of_launch(folders, words, group, device)
    if folder is None:
        with all_or_none(group, device):
            if out is not None and group.first:
                refuse_taken(to_path(out))
        return out, None
    _note_again(folder, note)
    return (folder, None) if latest(folder) is None else (None, folder)


def begun_from(resume: str | Path, note: Callable[[str], None] = lambda sentence: None) -> str | Path:
    """What was typed for --resume -> the same, or the run folder of a checkpoint from which this launch of torchrun has
    gone on already: its workers were started again."""
    folder = resume_point(resume)[0]
    if folder == to_path(resume) or not launch():
        return resume
    recorded = _recorded(folder)
    if launch() not in recorded.names or recorded.words != resumed_words(resume) or latest(folder) is None:
        return resume
    _note_again(folder, note)
    return folder


def _note_again(folder: Path, note: Callable[[str], None]) -> None:
    """Say that a run goes on whose workers were started again."""
    newest = latest(folder)
    goes_on = "begins again" if newest is None else f"goes on from {newest.name}"
    note(f"torchrun has started the workers again: the run in {folder} {goes_on}.")


@dataclass(frozen=True, slots=True)
class _Launch:
    """The content of LAUNCH_FILE: the names of the launch that wrote a run folder last, and what it was asked for."""

    names: list[str]
    words: str


def record_launch(folder: Path, words: str, group: Group, device: torch.device) -> None:
    """Write down in a run folder that this launch writes it, and by which words; all processes call it together."""
    own = sorted(set(group.gather(launch(), device)) - {""})
    if own and group.first:
        atomic_text(folder / LAUNCH_FILE, json.dumps(asdict(_Launch(own, words))) + "\n")


def _folder_of_launch(folders: Iterable[Path], words: str, group: Group, device: torch.device) -> Path | None:
    """Folders -> the first that this launch has begun to write, as the first process sees it; None without one.

    All processes call it together. Raises ConfigError where the launch was asked for something else then.
    """
    own, known = set(group.gather(launch(), device)) - {""}, None
    with all_or_none(group, device):
        if own and group.first:
            known = next((folder for folder in folders if own.intersection(_recorded(folder).names)), None)
        if known is not None and _recorded(known).words != words:
            raise ConfigError(
                f"{known} was begun by a launch of torchrun of the same name (--rdzv-id) with other settings: go on "
                f"with it by --resume {known}, or give a new run another --rdzv-id."
            )
    chosen = group.gather("" if known is None else str(known), device)[0]
    return Path(chosen) if chosen else None


def _recorded(folder: Path) -> _Launch:
    """A run folder -> what its LAUNCH_FILE says; nothing without one."""
    path = folder / LAUNCH_FILE
    return read_json(path, _Launch, CheckpointError) if path.is_file() else _Launch([], "")


def agreed_folder(out: str | Path | None, source: str, group: Group, device: torch.device) -> Path:
    """--out and the name of a source -> the folder of a new run: that of the first process, in all."""
    return to_path(group.gather(str(out or default_folder(source)), device)[0])


def default_folder(source: str) -> Path:
    """The name of a source -> runs/NAME-N with the first N from 1 that does not exist."""
    return _default_folders(source)[-1]


def _default_folders(source: str) -> list[Path]:
    """The name of a source -> the folders runs/NAME-1, runs/NAME-2, ... up to the first that does not exist."""
    stem = source.removeprefix("hf:").rstrip("/").split("/")[-1].split(".")[0]
    name = re.sub(r"[^\w-]+", "-", stem).strip("-") or "text"
    folders = [Path("runs") / f"{name}-1"]
    while folders[-1].exists():
        folders.append(Path("runs") / f"{name}-{len(folders) + 1}")
    return folders


def refuse_taken(out: Path) -> None:
    """Raise ConfigError if a folder holds a run already, or files of somebody else."""
    refuse_foreign_folder(out, "checkpoints")
    kept = out / "checkpoints"
    if kept.is_dir() and any(not entry.name.startswith(".") for entry in kept.iterdir()):  # unfinished
        raise ConfigError(f"{out} holds a run already; go on with it by --resume {out}, or choose another --out.")
