"""Checkpoints: a folder of safetensors and JSON, written atomically, checked when read, never unpickled.

model.safetensors   the weights
config.json         format, library versions, and what the caller needs to build the model again
tokenizer.json      run.json      card.md           where there are any
state/              what training needs to go on: NAME.safetensors and state.json
"""

__all__ = [
    "FORMAT",
    "Checkpoint",
    "best_folder",
    "iterate_tensors",
    "keep_best",
    "keep_last",
    "latest",
    "load_state",
    "load_tensors",
    "read_checkpoint",
    "resolve",
    "step_folder",
    "step_of",
    "write_checkpoint",
]

import json
import os
import re
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.config import library_versions
from unmask.disk.files import atomic_folder, reason_of, remove_folder
from unmask.disk.json import NotJson, parse_json, read_json
from unmask.disk.tensors import TensorFacts, looks_like_pickle, read_header, refuse_pickle
from unmask.errors import CheckpointError

if TYPE_CHECKING:  # `unmask info` reads checkpoints without waiting for torch
    from collections.abc import Generator, Iterator

    import torch
    from torch import Tensor

FORMAT = 1
"""The format this library writes; it reads this one and older ones."""

_MODEL, _CONFIG, _RESERVED = "model.safetensors", "config.json", ("format", "versions")
_HOLDS = "a checkpoint folder holds model.safetensors and config.json"
_AGAIN, _OBJECT = "copy or write the file again", dict[str, Any]
_NAME = re.compile(r"(?P<kind>step|best)-(?P<step>\d{8,})")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint folder says, without its weights; `config` is exactly what was given when it was written."""

    folder: Path
    format: int
    versions: dict[str, str]
    config: dict[str, Any]
    tokenizer_json: str | None
    run: dict[str, Any] | None
    card: str | None
    tensors: dict[str, TensorFacts]

    @property
    def parameters(self) -> int:
        """Number of stored elements; a tensor that has two names counts once."""
        return sum(tensor.count for tensor in self.tensors.values())


def write_checkpoint(
    folder: str | os.PathLike[str],
    tensors: Mapping[str, "Tensor"],
    config: Mapping[str, Any],
    *,
    tokenizer_json: str | None = None,
    run: Mapping[str, Any] | None = None,
    card: str | None = None,
    state: Mapping[str, Mapping[str, "Tensor"]] | None = None,
    state_facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint folder whole or not at all, replacing an older one, and return its path.

    Tensors that share one memory under two names are stored once and are shared again when loaded.
    Raises CheckpointError if `config` has a key "format" or "versions"; RunError for a full disk; ConfigError for
    a place that cannot be written.
    """
    for key in _RESERVED:
        if key in config:
            raise CheckpointError(f"a checkpoint's config cannot have the key '{key}': config.json uses it itself.")
    with atomic_folder(folder) as temporary:
        _write_json(temporary / _CONFIG, {"format": FORMAT, "versions": library_versions(), **config})
        if tokenizer_json is not None:
            (temporary / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8", newline="")
        if run is not None:
            _write_json(temporary / "run.json", run)
        if card is not None:
            (temporary / "card.md").write_text(card, encoding="utf-8", newline="")
        if state is not None or state_facts is not None:
            (temporary / "state").mkdir()
            _write_json(temporary / "state" / "state.json", state_facts or {})
            for name, part in (state or {}).items():
                _save(temporary / "state" / f"{name}.safetensors", part)
        _save(temporary / _MODEL, tensors)
    return Path(folder)


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read everything but the weights of a checkpoint or run folder; quick, and without torch.

    Raises CheckpointError, in one sentence, for whatever is not a whole checkpoint of a known format.
    """
    folder = resolve(path)
    facts = read_json(folder / _CONFIG, _OBJECT, CheckpointError)
    number = facts.pop("format", None)
    if type(number) is not int:
        raise CheckpointError(
            f"{folder / _CONFIG} has no format number, so another library wrote it: "
            "bring its model in with 'unmask import'."
        )
    if number > FORMAT:
        raise CheckpointError(
            f"{folder} has checkpoint format {number} and this unmask reads up to {FORMAT}: upgrade unmask."
        )
    versions = facts.pop("versions", {})
    if not isinstance(versions, dict):
        raise CheckpointError(f"{folder / _CONFIG} is damaged: its versions are no object; {_AGAIN}.")
    run = read_json(folder / "run.json", _OBJECT, CheckpointError) if (folder / "run.json").exists() else None
    tokenizer, card = _read_text(folder / "tokenizer.json"), _read_text(folder / "card.md")
    tensors = read_header(folder / _MODEL).tensors
    return Checkpoint(folder, number, versions, facts, tokenizer, run, card, tensors)


def iterate_tensors(
    path: str | os.PathLike[str], device: str = "cpu", dtype: "torch.dtype | None" = None
) -> "Iterator[tuple[str, Tensor]]":
    """Checkpoint or run folder -> (name, tensor on `device`) of each of its weights, read when it is asked for.

    Floating point tensors are given as `dtype`, by default as stored. A name that shares the memory of another comes
    directly after it, with the same tensor. No tensor is kept here, so a caller that copies each into its network needs
    memory for one copy of the weights and one tensor. Raises CheckpointError as `read_checkpoint` does.
    """
    yield from _iterate(read_checkpoint(path).folder / _MODEL, device, dtype)


def load_tensors(
    path: str | os.PathLike[str], device: str = "cpu", dtype: "torch.dtype | None" = None
) -> "dict[str, Tensor]":
    """All that `iterate_tensors` gives, by name; names stored as shared share memory again."""
    return dict(iterate_tensors(path, device, dtype))


def load_state(
    path: str | os.PathLike[str], device: str = "cpu"
) -> "tuple[dict[str, dict[str, Tensor]], dict[str, Any]]":
    """The training state of a checkpoint: its groups of tensors by name, and its facts (state.json).

    Raises CheckpointError where there is no state: such a checkpoint can be used but not trained further.
    """
    folder = read_checkpoint(path).folder / "state"
    if not (folder / "state.json").is_file():
        raise CheckpointError(
            f"{folder.parent} has no training state, so a run cannot go on from it: give a run folder, "
            "or start a new run from its weights."
        )
    parts = {file.stem: dict(_iterate(file, device)) for file in sorted(folder.glob("*.safetensors"))}
    return parts, read_json(folder / "state.json", _OBJECT, CheckpointError)


def step_folder(run: Path, step: int) -> Path:
    """Where a run's checkpoint after `step` steps stands."""
    return run / "checkpoints" / f"step-{step:08d}"


def best_folder(run: Path, step: int) -> Path:
    """Where a run's best checkpoint stands, when it was reached after `step` steps."""
    return run / "checkpoints" / f"best-{step:08d}"


def step_of(folder: Path) -> int:
    """The step in a checkpoint's name (step-00000100 -> 100); CheckpointError for another name."""
    match = _NAME.fullmatch(folder.name)
    if match is None:
        raise CheckpointError(f"{folder} is not one of a run's checkpoints: their names are like step-00000100.")
    return int(match["step"])


def latest(run: str | os.PathLike[str]) -> Path | None:
    """The newest whole step-* checkpoint of a run folder, from which it can go on; None if there is none."""
    found = _listed(Path(run) / "checkpoints", "step")
    return found[-1] if found else None


def resolve(path: str | os.PathLike[str]) -> Path:
    """The checkpoint that `path` means: itself, or a run folder's best one, or else its newest whole one.

    Raises CheckpointError for anything else and says what is missing.
    """
    folder = Path(path)
    if folder.is_file():
        if looks_like_pickle(folder):
            refuse_pickle(folder)
        raise CheckpointError(f"{folder} is a file: give the folder it is in; {_HOLDS}.")
    if not folder.is_dir():
        raise CheckpointError(f"{folder} does not exist: give a checkpoint or run folder; {_HOLDS}.")
    if (folder / _CONFIG).is_file() or (folder / _MODEL).is_file():
        return _whole(folder)
    inside = folder if folder.name == "checkpoints" else folder / "checkpoints"
    for kind in ("best", "step"):
        found = _listed(inside, kind)
        if found:
            return found[-1]
    if inside.is_dir():
        raise CheckpointError(f"{folder} is a run folder without a whole checkpoint yet: let the run write one.")
    return _whole(folder)


def keep_last(run: str | os.PathLike[str], count: int) -> None:
    """Delete all but the newest `count` step-* checkpoints of a run folder; `count` is at least 1."""
    for folder in _listed(Path(run) / "checkpoints", "step")[: -max(count, 1)]:
        remove_folder(folder)


def keep_best(run: str | os.PathLike[str]) -> None:
    """Delete all but the newest best-* checkpoint of a run folder: call it after the new best one is written."""
    for folder in _listed(Path(run) / "checkpoints", "best")[:-1]:
        remove_folder(folder)


def _listed(folder: Path, kind: str) -> list[Path]:
    """The whole checkpoints of one kind, oldest first; temporary folders have other names and do not count."""
    if not folder.is_dir():
        return []
    named = [(match, entry) for entry in folder.iterdir() if (match := _NAME.fullmatch(entry.name)) is not None]
    whole = [
        (int(match["step"]), entry)
        for match, entry in named
        if match["kind"] == kind and (entry / _MODEL).is_file() and (entry / _CONFIG).is_file()
    ]
    return [entry for _, entry in sorted(whole)]


def _whole(folder: Path) -> Path:
    """`folder` if its two files are there; CheckpointError that names the missing one otherwise."""
    missing = [name for name in (_MODEL, _CONFIG) if not (folder / name).is_file()]
    if not missing:
        return folder
    for entry in sorted(folder.iterdir()):
        if _MODEL in missing and entry.is_file() and looks_like_pickle(entry):
            refuse_pickle(entry)
    raise CheckpointError(f"{folder} has no {' and no '.join(missing)}: {_HOLDS}.")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Readable JSON; ValueError for NaN and infinity, which JSON does not have."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _read_text(path: Path) -> str | None:
    """A file's text, or None if there is no such file."""
    if not path.is_file():
        return None
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({reason_of(error)}): {_AGAIN}.") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: it is not UTF-8; {_AGAIN}.") from error


def _save(path: Path, tensors: "Mapping[str, Tensor]") -> None:
    """Write tensors as safetensors; a tensor met again under a second name becomes an alias in the metadata."""
    from safetensors.torch import save_file

    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    memories: set[int] = set()
    for name, tensor in tensors.items():
        key = (str(tensor.device), tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and key in seen:
            aliases[name] = seen[key]
            continue
        seen[key] = name
        plain = tensor.detach().cpu().contiguous()
        memory = plain.untyped_storage()
        if memory.data_ptr() in memories or memory.nbytes() != plain.nbytes:  # views of one memory are stored apart
            plain = plain.clone()
        memories.add(plain.untyped_storage().data_ptr())
        stored[name] = plain
    with _as_os_error():
        save_file(stored, path, metadata={"aliases": json.dumps(aliases)})
        path.chmod(path.parent.stat().st_mode & 0o666)  # it is for its owner alone otherwise, whatever the umask says


def _iterate(path: Path, device: str, dtype: "torch.dtype | None" = None) -> "Iterator[tuple[str, Tensor]]":
    """The tensors of a safetensors file whose header has been checked; aliases are the same tensor again."""
    from safetensors import SafetensorError, safe_open

    names = _names(path)
    try:
        with safe_open(path, framework="pt", device=device) as file:
            for stored, shared in names.items():
                tensor: Tensor = file.get_tensor(stored)
                if dtype is not None and tensor.is_floating_point():
                    tensor = tensor.to(dtype)
                for name in shared:
                    yield name, tensor
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}): {_AGAIN}.") from error


def _names(path: Path) -> dict[str, list[str]]:
    """Each stored tensor of a file and the names it is known by, its own first."""
    header = read_header(path)
    names = {name: [name] for name in header.tensors}
    try:
        for alias, name in parse_json(header.metadata.get("aliases", "{}"), _OBJECT).items():
            names[name].append(alias)
    except (NotJson, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: its names of shared tensors cannot be read; {_AGAIN}.") from error
    return names


@contextmanager
def _as_os_error() -> "Generator[None]":
    """safetensors reports a full disk as an error of its own; give it back as the OSError it was."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
