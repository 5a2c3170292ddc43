"""The folder of a run: a free one, the one that was asked for, or its own, whose workers torchrun has started again.

After a failure `torchrun --max-restarts N` starts all workers again with the same words. The run folder holds a file
that names the launch, so that the words mean the same run: it goes on from its newest checkpoint, in as many processes
as there are now. A launch is named by `--rdzv-id`; where none was given, by the agents of torchrun that began it.
"""

__all__ = ["begun_folder", "default_folder", "launch", "record_launch", "refuse_taken"]

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import torch

from unmask.config import to_path
from unmask.disk.files import atomic_text, refuse_foreign_folder
from unmask.disk.folders import latest
from unmask.disk.json import NotJson, read_json, read_text
from unmask.errors import CheckpointError, ConfigError
from unmask.run.agree import all_or_none
from unmask.run.parallel import Group

LAUNCH_FILE = ".unmask-launch"
_UNNAMED = "none"  # what torchrun calls a launch without --rdzv-id


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


def begun_folder(
    source: str, out: str | Path | None, group: Group, device: torch.device, note: Callable[[str], None]
) -> tuple[str | Path | None, Path | None]:
    """A source and --out -> the same, or the folder of this launch of torchrun, whose workers were started again, and
    the folder to resume, if it has a checkpoint.

    All processes call it together. Raises ConfigError for a folder that is taken.
    """
    folders = _default_folders(source)[::-1] if out is None else [to_path(out)]
    folder = _folder_of_launch(folders, group, device)
    if folder is None:
        with all_or_none(group, device):
            if out is not None and group.first:
                refuse_taken(to_path(out))
        return out, None
    newest = latest(folder)
    goes_on = "begins again" if newest is None else f"goes on from {newest.name}"
    note(f"torchrun has started the workers again: the run in {folder} {goes_on}.")
    return (folder, None) if newest is None else (None, folder)


def record_launch(folder: Path, group: Group, device: torch.device) -> None:
    """Write down in a run folder that this launch writes it; all processes call it together."""
    own = sorted(set(group.gather(launch(), device)) - {""})
    if own and group.first:
        atomic_text(folder / LAUNCH_FILE, json.dumps(own) + "\n")


def _folder_of_launch(folders: Iterable[Path], group: Group, device: torch.device) -> Path | None:
    """Folders -> the first that this launch has begun to write, as the first process sees it; None without one.

    All processes call it together.
    """
    own = set(group.gather(launch(), device)) - {""}
    known = next((folder for folder in folders if own & _recorded(folder)), None) if own and group.first else None
    chosen = group.gather("" if known is None else str(known), device)[0]
    return Path(chosen) if chosen else None


def _recorded(folder: Path) -> set[str]:
    """A run folder -> the names of the launch that wrote it last."""
    path = folder / LAUNCH_FILE
    return set(read_json(path, list[str], CheckpointError)) if path.is_file() else set()


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
