"""Checkpoints: a folder of safetensors and JSON, written atomically, checked when read, never unpickled.

model.safetensors   the weights
config.json         format, library versions, and what the caller needs to build the model again
tokenizer.json      run.json      card.md           where there are any
state/              what training needs to continue: NAME.safetensors and state.json
"""

__all__ = [
    "FORMAT",
    "Checkpoint",
    "TensorFacts",
    "TensorHeader",
    "iterate_tensors",
    "load_state",
    "load_tensors",
    "read_checkpoint",
    "read_header",
    "resuming",
    "write_checkpoint",
]

import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from unmask.config import library_versions, to_path
from unmask.disk.files import as_os_error, atomic_folder, reason_of
from unmask.disk.folders import earlier, reading, refuse_foreign
from unmask.disk.json import JSON_BYTES, NotJson, Shape, fact_of, parse_json, read_json, read_text
from unmask.errors import CheckpointError, UnmaskError
from unmask.ranges import Count, holds

if TYPE_CHECKING:  # `unmask info` reads checkpoints without torch
    from collections.abc import Generator, Iterator

    import torch
    from torch import Tensor

FORMAT = 1
"""The number of the format that this library writes; it reads this format and older ones."""

_MODEL, _CONFIG, _RESERVED = "model.safetensors", "config.json", ("format", "versions")
_AGAIN, _OBJECT = "copy or write the file again", dict[str, Any]


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """Shape of a stored tensor, and its format as safetensors names it ("F32", "BF16")."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """The header of a file: its tensors by name, and its text metadata."""

    tensors: dict[str, TensorFacts] = field(repr=False)
    metadata: dict[str, str]


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
        """The name "max_length", "vocab_size" or "width" -> that number of the network; None if config.json lacks it.

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
    return to_path(folder)


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
    tensors = read_header(folder / _MODEL).tensors
    return Checkpoint(folder, number, versions, facts, tokenizer, run, card, tensors)


def iterate_tensors(
    path: str | os.PathLike[str], device: str = "cpu", dtype: "torch.dtype | None" = None
) -> "Iterator[tuple[str, Tensor]]":
    """Checkpoint or run folder -> (name, tensor on `device`) of each of its weights, read when the iterator reaches it.

    Floating point tensors are converted to `dtype`, by default not. A name that shares the memory of another follows it
    directly, with the same tensor. No tensor is kept, so a caller that copies each into its network needs
    memory for one copy of the weights and one tensor. Raises CheckpointError as `read_checkpoint` does.
    """
    yield from _iterate(read_checkpoint(path).folder / _MODEL, device, dtype)


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
    folder = read_checkpoint(path).folder / "state"
    if not (folder / "state.json").is_file():
        raise CheckpointError(
            f"{folder.parent} has no training state, so a run cannot go on from it: give a run folder, "
            "or start a new run from its weights."
        )
    for name in parts:
        if not (folder / f"{name}.safetensors").is_file():
            raise CheckpointError(f"{folder} has no {name}.safetensors: copy it back, or take another checkpoint.")
    stored = {file.stem: dict(_iterate(file, device)) for file in sorted(folder.glob("*.safetensors"))}
    return stored, read_json(folder / "state.json", facts, CheckpointError)


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
    read_json(state / "state.json", _OBJECT, CheckpointError)
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


def _save(path: Path, tensors: "Mapping[str, Tensor]") -> None:
    """Write tensors as safetensors; the second name of a tensor becomes an alias in the metadata."""
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
        if memory.data_ptr() in memories or memory.nbytes() != plain.nbytes:  # views are stored separately
            plain = plain.clone()
        memories.add(plain.untyped_storage().data_ptr())
        stored[name] = plain
    with as_os_error():
        save_file(stored, path, metadata={"aliases": json.dumps(aliases)})
        path.chmod(path.parent.stat().st_mode & 0o666)  # safetensors ignores the umask


def _iterate(path: Path, device: str, dtype: "torch.dtype | None" = None) -> "Iterator[tuple[str, Tensor]]":
    """Safetensors file -> (name, tensor) pairs; an alias comes with the same tensor as its name."""
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
    """Safetensors file -> the names of each stored tensor, its stored name first."""
    header = read_header(path)
    names = {name: [name] for name in header.tensors}
    try:
        for alias, name in parse_json(header.metadata.get("aliases", "{}"), dict[str, str]).items():
            names[name].append(alias)
    except (NotJson, KeyError) as error:
        raise CheckpointError(f"{path} is damaged: its names of shared tensors cannot be read; {_AGAIN}.") from error
    return names


def read_header(path: Path) -> TensorHeader:
    """File -> its header, checked by the safetensors library. Only the header is read.

    Raises CheckpointError for a pickle, a file that is not safetensors, and one that is shorter or longer than its
    header says.
    """
    from safetensors import SafetensorError, safe_open

    refuse_foreign(path)
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is not a dict)
            tensors = {name: TensorFacts(tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
            return TensorHeader(tensors, file.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {_damage(path)}; copy or write the file again.") from error


def _damage(path: Path) -> str:
    """File that the safetensors library refused -> what is wrong: its length, or else its header."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 + length:
            return f"its header says at least {8 + length} bytes and the file has {size}"
        text = file.read(length)
    with suppress(ValueError, TypeError, KeyError):
        header = parse_json(text.decode("utf-8"), dict[str, Any])
        header.pop("__metadata__", None)
        whole = 8 + length + max((facts["data_offsets"][1] for facts in header.values()), default=0)
        if size != whole:
            return f"its header says {whole} bytes and the file has {size}"
    return "its header cannot be read"
