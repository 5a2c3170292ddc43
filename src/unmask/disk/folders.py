"""Names and paths -> checkpoint folders: bundled by name, the newest and the best of a run; imported without torch."""

__all__ = [
    "DEFAULT_MODEL",
    "INDEX",
    "MODEL",
    "PICKLE_START",
    "best_folder",
    "bundled",
    "bundled_policies",
    "earlier",
    "keep_best",
    "keep_last",
    "latest",
    "locate_policy",
    "looks_like_pickle",
    "reading",
    "refuse_ambiguous",
    "refuse_foreign",
    "refuse_foreign_file",
    "refuse_pickle",
    "require_step",
    "resolve",
    "resume_point",
    "set_aside",
    "step_folder",
]

import os
import re
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from unmask.config import to_path
from unmask.disk.files import explained, remove_folder
from unmask.disk.json import read_json
from unmask.errors import CheckpointError, ConfigError, RequestError

Value = TypeVar("Value")

DEFAULT_MODEL = "wordnet"
"""The bundled model that `generate` and `fill` use where none is named."""
MODEL, INDEX, _CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
_HOLDS = "a checkpoint folder holds model.safetensors and config.json"
_LOADABLE = "a checkpoint or run folder that unmask wrote, or a bundled model (unmask list models)"
_FOREIGN = {
    "adapter_config.json": (("peft_type", "base_model_name_or_path"), "an adapter of the peft library"),
    "model_index.json": (("_class_name",), "a pipeline of the diffusers library"),
}
_NAME = re.compile(r"(?P<prefix>step|best)-(?P<step>\d{8,})")
_WRITTEN = re.compile(
    rb"Software\x00unmask|generator\" content=\"unmask|\"generator\": \"unmask|\"unmask_trace\"|<!-- written by unmask"
)
_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
PICKLE_START = re.compile(rb"PK\x03\x04|\x80[\x02-\x05]")
_DAMAGE = re.compile(r" is damaged| is empty| cannot be read")
_TRIES, _PAUSE = 20, 0.05  # how often a checkpoint that is replaced is read again; seconds between
_MODELS = Path(__file__).resolve().parents[1] / "assets" / "models"
_POLICIES = _MODELS.with_name("policies")


def bundled() -> dict[str, Path]:
    """The bundled checkpoints: name -> folder."""
    return _folders(_MODELS)


def bundled_policies() -> dict[str, Path]:
    """The bundled policies: name -> folder."""
    return _folders(_POLICIES)


def locate_policy(name_or_path: str) -> Path:
    """Name of a bundled policy, policy folder, or run folder of `unmask learn` -> the policy folder.

    Raises RequestError where there is none, or where a path has the name of a bundled policy.
    """
    known = bundled_policies()
    if name_or_path in known:
        refuse_ambiguous(name_or_path, "bundled policy")
    folder = known.get(name_or_path, to_path(name_or_path))
    for candidate in (folder / "policy", folder):
        if (candidate / "config.json").is_file():
            return candidate
    hint = f", or a bundled name: {', '.join(sorted(known))}." if known else "."
    raise RequestError(f"There is no policy at '{name_or_path}'; give a folder that unmask learn wrote{hint}")


def refuse_ambiguous(name: str, noun: str) -> None:
    """A bundled name and what it is the name of -> nothing. Raises RequestError where there is a path of that name."""
    if os.path.exists(name):
        raise RequestError(
            f"'{name}' is a {noun}, and there is a path of that name here: write ./{name} for the path; for the {noun} "
            "rename the path, or work in another folder."
        )


def refuse_foreign_file(path: Path) -> None:
    """Raise ConfigError for an existing file that this library did not write; call it before long work.

    Pages, pictures, traces and paces name the program that wrote them at their start.
    """
    with explained(path):
        if path.is_file() and path.stat().st_size:
            with open(path, "rb") as file:
                if not _WRITTEN.search(file.read(4096)):
                    raise ConfigError(f"{path} exists, and unmask did not write it: choose another name.")


def _folders(parent: Path) -> dict[str, Path]:
    """Folder -> the folders in it, by name."""
    return {entry.name: entry for entry in sorted(parent.iterdir()) if entry.is_dir()} if parent.is_dir() else {}


def step_folder(run: Path, step: int) -> Path:
    """Run folder and step -> the folder of the checkpoint after this step."""
    return run / "checkpoints" / f"step-{step:08d}"


def best_folder(run: Path, step: int) -> Path:
    """Run folder and step -> the folder of the best checkpoint, if it is that of this step."""
    return run / "checkpoints" / f"best-{step:08d}"


def latest(run: str | os.PathLike[str]) -> Path | None:
    """Run folder -> its newest complete step-* checkpoint, from which it can continue; None without one."""
    return next(reversed(_listed(to_path(run) / "checkpoints", "step")), None)


def resume_point(path: str | os.PathLike[str]) -> tuple[Path, Path | None]:
    """Run folder, or one of its step-* checkpoints -> the run folder, and the checkpoint to go on from.

    Of a run folder that is the newest one; None without one.
    """
    folder = to_path(path)
    match = _NAME.fullmatch(folder.name)
    if match is not None and match["prefix"] == "step" and folder.absolute().parent.name == "checkpoints":
        folder = folder if len(folder.parts) > 2 else folder.absolute()
        return folder.parents[1], folder
    return folder, latest(folder)


def require_step(folder: Path, step: int) -> None:
    """Raise CheckpointError where the state of a step-* checkpoint is that of another step than its name says."""
    match = _NAME.fullmatch(folder.name)
    if match is not None and int(match["step"]) != step:
        raise CheckpointError(
            f"{folder}/state/state.json is damaged: it is of step {step}, and the folder of step {int(match['step'])}; "
            "copy or write the file again."
        )


def set_aside(checkpoint: Path) -> list[Path]:
    """Rename the step-* checkpoints of a run that are newer than this one, whole or not -> their new paths."""
    moved: list[Path] = []
    for entry in sorted(checkpoint.parent.glob("step-*")):
        match = _NAME.fullmatch(entry.name)
        if match is None or int(match["step"]) <= int(checkpoint.name.removeprefix("step-")):
            continue
        names = (entry.with_name(f"aside-{entry.name}{'' if n == 1 else f'-{n}'}") for n in count(1))
        moved.append(next(path for path in names if not path.exists()))
        os.rename(entry, moved[-1])
    return moved


def resolve(path: str | os.PathLike[str]) -> Path:
    """Checkpoint or run folder -> the checkpoint: the folder itself, or the run's best one, or else its newest one.

    Raises CheckpointError for anything else; the sentence names what is missing.
    """
    folder = to_path(path)
    if folder.is_file():
        if looks_like_pickle(folder):
            refuse_pickle(folder)
        raise CheckpointError(f"{folder} is a file: give the folder it is in; {_HOLDS}.")
    if not folder.is_dir():
        what = "is a device, a pipe or a socket" if folder.exists() else "does not exist"
        raise CheckpointError(f"{folder} {what}: give a checkpoint or run folder; {_HOLDS}.")
    if foreign := _foreign(folder):
        raise CheckpointError(f"{folder} holds {foreign}. unmask cannot load such models yet; give {_LOADABLE}.")
    if any((folder / name).is_file() for name in (_CONFIG, MODEL, INDEX)):
        return _whole(folder)
    inside = folder if folder.name == "checkpoints" else folder / "checkpoints"
    for prefix in ("best", "step"):
        if checkpoints := _listed(inside, prefix):
            return checkpoints[-1]
    if inside.is_dir():
        raise CheckpointError(f"{folder} is a run folder without a whole checkpoint yet: let the run write one.")
    return _whole(folder)


def _foreign(folder: Path) -> str:
    """Folder -> what another library stored there, as its configuration says: the object of a sentence; or ""."""
    for name, (keys, what) in _FOREIGN.items():
        try:
            facts = read_json(folder / name, dict[str, Any], CheckpointError) if (folder / name).is_file() else {}
        except CheckpointError:
            continue
        values = [str(value[0] if isinstance(value, list) else value) for key in keys if (value := facts.get(key))]
        if values and "format" not in facts:
            return f"{what}, {', '.join(values)} ({name})"
    return "a GGUF file" if any(folder.glob("*.gguf")) else ""


def reading(path: str | os.PathLike[str], read: Callable[[Path], Value]) -> Value:
    """Checkpoint or run folder, and a function that reads a checkpoint folder -> the value of the function.

    A training deletes and replaces checkpoints at any time. Where the folder is another one after the read than before,
    its files may be of two checkpoints: the path is resolved and read again, up to 20 times.
    Raises what `resolve` raises, and what `read` raises for a folder that stays in its place; where a run's checkpoint
    is damaged, with the paths of its other ones.
    """
    for attempt in range(_TRIES):
        folder = resolve(path)
        before = _identity(folder)
        try:
            value = read(folder)
        except (OSError, CheckpointError) as error:
            if attempt == _TRIES - 1 or (before is not None and _identity(folder) == before):
                if folder != to_path(path) and _DAMAGE.search(str(error)) and (others := _others(folder)):
                    raise CheckpointError(f"{error} Other checkpoints of this run: {others}.") from error
                raise
        else:
            if before is not None and _identity(folder) == before:
                return value
        time.sleep(_PAUSE)
    raise CheckpointError(f"{os.fspath(path)} is replaced again and again while it is read: try again later.")


def _others(folder: Path) -> str:
    """A checkpoint of a run -> the paths of the other ones, the newest first."""
    entries = [entry for prefix in ("step", "best") for entry in reversed(_listed(folder.parent, prefix))]
    return ", ".join(str(entry) for entry in entries if entry != folder)


def _identity(folder: Path) -> tuple[int, int] | None:
    """Folder -> numbers that no other folder has at the same time; None where it does not exist."""
    try:
        facts = folder.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def earlier(checkpoint: Path) -> list[Path]:
    """A step-* checkpoint of a run -> the earlier ones, the newest first."""
    return [
        entry for entry in _listed(checkpoint.parent, "step")[::-1] if int(entry.name[5:]) < int(checkpoint.name[5:])
    ]


def keep_last(run: str | os.PathLike[str], count: int) -> None:
    """Delete all but the newest `count` step-* checkpoints of a run folder; `count` is at least 1."""
    for folder in _listed(to_path(run) / "checkpoints", "step")[: -max(count, 1)]:
        remove_folder(folder)


def keep_best(run: str | os.PathLike[str]) -> None:
    """Delete all but the newest best-* checkpoint of a run folder; call it after the new one is written."""
    for folder in _listed(Path(run) / "checkpoints", "best")[:-1]:
        remove_folder(folder)


def _listed(folder: Path, prefix: str) -> list[Path]:
    """Folder -> its complete checkpoints with this prefix, the oldest first; temporary folders have other names."""
    if not folder.is_dir():
        return []
    named = [(match, entry) for entry in folder.iterdir() if (match := _NAME.fullmatch(entry.name)) is not None]
    whole = [
        (int(match["step"]), entry)
        for match, entry in named
        if match["prefix"] == prefix and (entry / MODEL).is_file() and (entry / _CONFIG).is_file()
    ]
    return [entry for _, entry in sorted(whole)]


def _whole(folder: Path) -> Path:
    """Folder -> the same folder. Raises CheckpointError where the weights or the config are missing."""
    missing = [name for name in (MODEL, _CONFIG) if not (folder / name).is_file()]
    if not missing or (missing == [MODEL] and (folder / INDEX).is_file()):
        return folder
    for entry in sorted(folder.iterdir()):
        if MODEL in missing and entry.is_file() and looks_like_pickle(entry):
            refuse_pickle(entry)
    raise CheckpointError(f"{folder} has no {' and no '.join(missing)}: {_HOLDS}.")


def refuse_pickle(path: Path) -> None:
    """Raise CheckpointError for a pickle, which can run any program when it is opened."""
    raise CheckpointError(
        f"{path} is a pickle, which is never loaded because it can run any program: convert a published model with "
        "unmask import, which runs nothing, or save the tensors as model.safetensors with the library that made it."
    )


def looks_like_pickle(path: Path) -> bool:
    """Whether the name or the first bytes of a file are those of a pickle."""
    if path.suffix in _PICKLE_SUFFIXES:
        return True
    if not path.is_file() or os.path.getsize(path) < 4:
        return False
    with open(path, "rb") as file:
        start = file.read(9)
    # the length at the start of a safetensors file can equal the start of a pickle; the brace after it cannot
    return PICKLE_START.match(start) is not None and start[8:] != b"{"


def refuse_foreign(path: Path) -> None:
    """Raise CheckpointError, with the type of the file, where its first bytes are not those of a safetensors file."""
    with open(path, "rb") as file:
        start = file.read(16)
    if not start:
        raise CheckpointError(f"{path} is empty: copy or write the file again.")
    if start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= 100_000_000:
        return
    if PICKLE_START.match(start):
        refuse_pickle(path)
    if start.startswith(b"version https:/"):
        raise CheckpointError(f"{path} is a Git LFS pointer and not the file itself: fetch it with 'git lfs pull'.")
    raise CheckpointError(f"{path} is not a safetensors file: give a checkpoint that unmask wrote.")
