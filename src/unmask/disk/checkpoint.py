"""Checkpoints: a folder of safetensors and JSON, written atomically, checked when read, never unpickled.

model.safetensors   the weights
config.json         format, library versions, and what the caller needs to build the model again
tokenizer.json      run.json      card.md           where there are any
state/              what training needs to continue: state.json, and files of slices (`disk.tensors`) or of tensors
"""

__all__ = [
    "FORMAT",
    "Checkpoint",
    "fill_checkpoint",
    "iterate_tensors",
    "load_state",
    "load_tensors",
    "read_checkpoint",
    "read_state",
    "resuming",
    "write_checkpoint",
]

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from unmask.config import library_versions, to_path
from unmask.disk.files import atomic_folder, reason_of
from unmask.disk.folders import MODEL, earlier, reading
from unmask.disk.json import JSON_BYTES, NotJson, Shape, fact_of, read_json, read_text
from unmask.disk.tensors import Layout, TensorFacts, check_shards, iterate_layout, own_layout, read_header, save_tensors
from unmask.errors import CheckpointError, UnmaskError
from unmask.ranges import Count, holds

if TYPE_CHECKING:  # `unmask info` reads checkpoints without torch
    from collections.abc import Generator, Iterator

    import torch
    from torch import Tensor

FORMAT = 1
"""The number of the format that this library writes; it reads this format and older ones."""

_CONFIG, _RESERVED = "config.json", ("format", "versions")
_AGAIN, _OBJECT = "copy or write the file again", dict[str, Any]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The contents of a checkpoint folder without its weights; `config` equals the one that was written."""

    folder: Path
    format: int
    versions: dict[str, str] = field(repr=False)
    config: dict[str, Any] = field(repr=False)
    tokenizer_json: str | None = field(repr=False)
    run: dict[str, Any] | None = field(repr=False)
    card: str | None = field(repr=False)
    tensors: dict[str, TensorFacts] = field(repr=False)
    """By name of the parameter; a tensor with two names has one of them."""
    layout: Layout = field(repr=False)

    @property
    def parameters(self) -> int:
        """Number of stored elements; a tensor with two names counts once."""
        return sum(tensor.count for tensor in self.tensors.values())

    def fact(self, shape: type[Shape], file: str, *names: str) -> Shape | None:
        """File (config.json or run.json) and names of nested fields -> the value there; None where there is none.

        Raises CheckpointError for a value that is not of type `shape`.
        """
        record = self.config if file == _CONFIG else self.run or {}
        return fact_of(record, names, shape, self.folder / file, CheckpointError)

    def network_fact(self, name: str) -> int | None:
        """The name of a size, as "max_length" -> that number of the network; None if config.json lacks it, or it is 0.

        Bundled checkpoints have it among the settings of their network.
        """
        for part in (self.config.get("network"), self.config.get("model")):
            if isinstance(part, dict) and holds(Count, value := cast(dict[str, Any], part).get(name)):
                return value
        return None


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
    """Write a checkpoint folder, complete or not at all, in place of an older one -> its path.

    A tensor with two names is stored once, and both names share its memory again when it is loaded.
    Raises CheckpointError if `config` has a key "format" or "versions"; RunError for a full disk; ConfigError for
    a path that cannot be written.
    """
    with atomic_folder(folder) as temporary:
        fill_checkpoint(temporary, tensors, config, tokenizer_json=tokenizer_json, run=run, card=card)
        if state is not None or state_facts is not None:
            (temporary / "state").mkdir()
            _write_json(temporary / "state" / "state.json", state_facts or {})
            for name, part in (state or {}).items():
                save_tensors(temporary / "state" / f"{name}.safetensors", part)
    return to_path(folder)


def fill_checkpoint(
    folder: Path,
    tensors: Mapping[str, "Tensor"],
    config: Mapping[str, Any],
    *,
    tokenizer_json: str | None = None,
    run: Mapping[str, Any] | None = None,
    card: str | None = None,
) -> None:
    """Write the files of a checkpoint for use into an existing folder; `write_checkpoint` gives the whole its name.

    Raises CheckpointError if `config` has a key "format" or "versions"; OSError.
    """
    for key in _RESERVED:
        if key in config:
            raise CheckpointError(f"a checkpoint's config cannot have the key '{key}': config.json uses it itself.")
    _write_json(folder / _CONFIG, {"format": FORMAT, "versions": library_versions(), **config})
    if tokenizer_json is not None:
        (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8", newline="")
    if run is not None:
        _write_json(folder / "run.json", run)
    if card is not None:
        (folder / "card.md").write_text(card, encoding="utf-8", newline="")
    save_tensors(folder / MODEL, tensors)


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Checkpoint or run folder -> everything but the weights, without torch.

    Raises CheckpointError for a folder that is not a complete checkpoint of a known format.
    """
    return reading(path, _read)


def _read(folder: Path) -> Checkpoint:
    """Checkpoint folder -> everything but the weights."""
    facts = read_json(folder / _CONFIG, _OBJECT, CheckpointError)
    number = facts.pop("format", None)
    if type(number) is not int or number < 1:
        raise CheckpointError(
            f"{folder / _CONFIG} has no format number, so unmask did not write it: give a checkpoint or run folder "
            "that unmask wrote, or a bundled model (unmask list models)."
        )
    if number > FORMAT:
        raise CheckpointError(
            f"{folder} has checkpoint format {number} and this unmask reads up to {FORMAT}: upgrade unmask."
        )
    versions = fact_of(facts, ["versions"], _OBJECT, folder / _CONFIG, CheckpointError) or {}
    facts.pop("versions", None)
    run = read_json(folder / "run.json", _OBJECT, CheckpointError) if (folder / "run.json").exists() else None
    tokenizer, card = _read_text(folder / "tokenizer.json"), _read_text(folder / "card.md")
    tensors, layout = own_layout(folder / MODEL)
    return Checkpoint(folder, number, versions, facts, tokenizer, run, card, tensors, layout)


def iterate_tensors(
    source: str | os.PathLike[str] | Checkpoint, device: str = "cpu", dtype: "torch.dtype | None" = None
) -> "Iterator[tuple[str, Tensor]]":
    """A checkpoint, or its path -> (name, tensor on `device`) of each of its weights, read as the iterator reaches it.

    Floating point tensors are converted to `dtype`, by default not. A name that shares the memory of another follows it
    directly, with the same tensor. No tensor is kept, so a caller that copies each into its network needs
    memory for one copy of the weights and one tensor. Raises CheckpointError as `read_checkpoint` does.
    """
    checkpoint = source if isinstance(source, Checkpoint) else read_checkpoint(source)
    yield from iterate_layout(checkpoint.layout, device, dtype)


def load_tensors(
    path: str | os.PathLike[str], device: str = "cpu", dtype: "torch.dtype | None" = None
) -> "dict[str, Tensor]":
    """Checkpoint or run folder -> all tensors of `iterate_tensors` by name; shared names share memory again."""
    return reading(path, lambda folder: dict(iterate_tensors(folder, device, dtype)))


def load_state(
    path: str | os.PathLike[str], device: str = "cpu", facts: type[Shape] = dict[str, Any], parts: Sequence[str] = ()
) -> "tuple[dict[str, dict[str, Tensor]], Shape]":
    """Checkpoint -> its training state: groups of tensors by name, and facts (state.json) of the type `facts`.

    Raises CheckpointError where there is no state, or none of the named `parts`; such a checkpoint can be used, but
    training cannot continue.
    """
    values = read_state(path, facts)
    folder = read_checkpoint(path).folder / "state"
    for name in parts:
        if not (folder / f"{name}.safetensors").is_file():
            raise CheckpointError(f"{folder} has no {name}.safetensors: copy it back, or take another checkpoint.")
    files = sorted(folder.glob("*.safetensors"))
    stored = {file.stem: dict(iterate_layout(own_layout(file)[1], device)) for file in files}
    return stored, values


def read_state(path: str | os.PathLike[str], facts: type[Shape]) -> Shape:
    """Checkpoint -> the facts of its training state (state.json), of the type `facts`.

    Raises CheckpointError where there is no state; such a checkpoint can be used, but training cannot continue.
    """
    folder = read_checkpoint(path).folder / "state"
    if not (folder / "state.json").is_file():
        raise CheckpointError(
            f"{folder.parent} has no training state, so a run cannot go on from it: give a run folder, "
            "or start a new run from its weights."
        )
    return read_json(folder / "state.json", facts, CheckpointError)


@contextmanager
def resuming(checkpoint: Path, verb: str) -> "Generator[None]":
    """Context that reads the checkpoint that a run is to go on from.

    A CheckpointError in it also names the newest earlier checkpoint that is whole, with the command `unmask VERB` that
    goes on from there.
    """
    try:
        yield
    except CheckpointError as error:
        for folder in earlier(checkpoint):
            try:
                _check_whole(folder)
            except (UnmaskError, OSError):
                continue
            command = shlex.join(["unmask", verb, "--resume", str(folder)])
            raise CheckpointError(f"{error} The checkpoint before it is whole; go on from there: {command}") from error
        raise


def _check_whole(folder: Path) -> None:
    """Read everything in a checkpoint but the contents of tensors. Raises CheckpointError for what is damaged."""
    state = folder / "state"
    _read(folder)
    if check_shards(state) is not None:
        return
    for file in state.glob("*.safetensors"):
        read_header(file)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write indented JSON. Raises ValueError for NaN and infinity, which JSON does not have."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _read_text(path: Path) -> str | None:
    """File -> its text; None where it does not exist."""
    if not path.is_file():
        return None
    try:
        return read_text(path, 4 * JSON_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({reason_of(error)}): {_AGAIN}.") from error
    except NotJson as error:
        raise CheckpointError(f"{path} is damaged: it {error.reason}; {_AGAIN}.") from error
