"""Files of tensors: their facts without torch, reading a tensor at a time, writing; sets of several files.

A layout says which parameters of a network each stored tensor becomes: it can have several names (tied weights), and
its rows can be divided among several parameters (a matrix that holds queries, keys and values).

A training state that several processes wrote has the files of torch.distributed.checkpoint's Hugging Face storage:
safetensors, with the place of each slice in the metadata. `state.json` says how many there are and of which save; each
file has a mark, an empty tensor whose name says the same. So a file that is missing, or of another checkpoint, is seen
without reading a tensor.
"""

__all__ = [
    "SHARDS",
    "Layout",
    "Part",
    "Shards",
    "TensorFacts",
    "TensorHeader",
    "check_shards",
    "iterate_layout",
    "mark",
    "own_layout",
    "parse_index",
    "read_header",
    "read_shards",
    "save_tensors",
    "shard_file",
]

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from unmask.disk.files import as_os_error
from unmask.disk.folders import INDEX, MODEL, refuse_foreign
from unmask.disk.json import NotJson, fact_of, parse_json, read_json
from unmask.errors import CheckpointError
from unmask.ranges import Count

if TYPE_CHECKING:  # `unmask info` reads checkpoints without torch
    from collections.abc import Iterator

    import torch
    from torch import Tensor

SHARDS = "shards"
"""The field of state.json that holds `Shards`."""
_MARKS = "save/"
_AGAIN = "copy or write the file again"


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


class Part(NamedTuple):
    """A parameter that a stored tensor becomes: by its name, and the rows [first, last) that it takes; None: all."""

    name: str
    rows: tuple[int, int] | None = None


Layout: TypeAlias = Mapping[Path, Mapping[str, Sequence[Part]]]
"""File -> name of a stored tensor -> the parameters that it becomes."""


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


def own_layout(path: Path) -> tuple[dict[str, TensorFacts], Layout]:
    """A file that unmask wrote -> the facts of its tensors, and its layout, in which a tensor can have two names."""
    header = read_header(path)
    parts = {name: [Part(name)] for name in header.tensors}
    try:
        for alias, name in parse_json(header.metadata.get("aliases", "{}"), dict[str, str]).items():
            parts[name].append(Part(alias))
    except (NotJson, KeyError) as error:
        raise CheckpointError(f"{path} is damaged: its names of shared tensors cannot be read; {_AGAIN}.") from error
    return header.tensors, {path: parts}


def iterate_layout(
    layout: Layout, device: str = "cpu", dtype: "torch.dtype | None" = None
) -> "Iterator[tuple[str, Tensor]]":
    """A layout -> (name of a parameter, tensor) pairs; the tensors of a file are read as the iterator reaches them.

    A stored tensor that becomes several parameters is read once. Floating point tensors are converted to `dtype`,
    by default not. Raises CheckpointError for a damaged file.
    """
    from safetensors import SafetensorError, safe_open

    for path, stored in layout.items():
        try:
            with safe_open(path, framework="pt", device=device) as file:
                for name, parts in stored.items():
                    if not parts:
                        continue
                    tensor: Tensor = file.get_tensor(name)
                    if dtype is not None and tensor.is_floating_point():
                        tensor = tensor.to(dtype)
                    for part in parts:
                        yield part.name, tensor if part.rows is None else tensor[slice(*part.rows)]
        except SafetensorError as error:
            raise CheckpointError(f"{path} is damaged ({error}): {_AGAIN}.") from error


def read_shards(folder: Path) -> dict[Path, dict[str, TensorFacts]]:
    """A folder with model.safetensors, or with an index of several files -> the facts of the tensors of each file.

    Raises CheckpointError for an index that names a file outside of the folder, for a file that is missing, and for a
    file that does not hold the tensors that the index says.
    """
    if (folder / MODEL).is_file():
        return {folder / MODEL: read_header(folder / MODEL).tensors}
    index = folder / INDEX
    names = parse_index(index)
    shards: dict[Path, dict[str, TensorFacts]] = {}
    for file in sorted(set(names.values())):
        path = folder / file
        if not path.is_file():
            raise CheckpointError(
                f"{index} names {file}, which is not in the folder: copy or download all of its "
                f"{len(set(names.values()))} files."
            )
        shards[path] = read_header(path).tensors
        listed = {name for name, shard in names.items() if shard == file}
        if wrong := sorted(listed ^ set(shards[path])):
            raise CheckpointError(
                f"{path} does not hold what {INDEX} says, for example '{wrong[0]}': the files come from different "
                "models; download them again."
            )
    return shards


def parse_index(path: Path) -> dict[str, str]:
    """model.safetensors.index.json -> the file name of each tensor. Raises CheckpointError as `read_shards` does."""
    index = read_json(path, _Index, CheckpointError)
    for file in index.weight_map.values():
        if PurePosixPath(file).name != file or PureWindowsPath(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(
                f"{path} names the file '{file}'; only safetensors files in the folder itself are read."
            )
    return index.weight_map


@dataclass(frozen=True, slots=True)
class _Index:
    """What is read of model.safetensors.index.json."""

    weight_map: dict[str, str]


def save_tensors(path: Path, tensors: "Mapping[str, Tensor]") -> None:
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


@dataclass(frozen=True, slots=True)
class Shards:
    """How many files hold a training state, and the name of the save that wrote them."""

    save: str
    processes: Count
    parts: Count
    """Files that each process wrote."""


def shard_file(shards: Shards, process: int, part: int) -> str:
    """The files of a state, and the numbers of a process and a part, from 0 -> the name that torch gives the file."""
    return f"shard-{process + 1:05d}-model-{part + 1:05d}-of-{shards.parts:05d}.safetensors"


def mark(shards: Shards, process: int, part: int) -> str:
    """The files of a state, and the numbers of a process and a part, from 0 -> the name of the mark in the file."""
    return f"{_MARKS}{shards.save}/{process + 1}/{part + 1}"


def check_shards(state: Path) -> dict[str, TensorFacts] | None:
    """A folder `state` of a checkpoint -> the facts of its whole tensors by name; None where one process wrote plain
    files, which have no slices.

    Only headers are read. Raises CheckpointError, which names the file, for one that is damaged, missing, of another
    save, or too many, and for slices that do not make a whole tensor.
    """
    path = state / "state.json"
    facts = read_json(path, dict[str, Any], CheckpointError)
    shards = fact_of(facts, [SHARDS], Shards, path, CheckpointError)
    if shards is None:
        return None
    count = shards.processes * shards.parts
    expected: set[str] = set()
    slices: dict[str, list[tuple[list[int], TensorFacts, Path]]] = {}
    for process in range(shards.processes):
        for part in range(shards.parts):
            file = state / shard_file(shards, process, part)
            if not file.is_file():
                raise CheckpointError(
                    f"{file} is missing, one of the {count} files of the training state: copy all of them."
                )
            expected.add(file.name)
            header = read_header(file)
            if mark(shards, process, part) not in header.tensors:
                raise CheckpointError(
                    f"{file} is not of the checkpoint whose state.json is beside it: copy the file of this checkpoint."
                )
            for name, offsets in _offsets(file, header).items():
                if not name.startswith(_MARKS):
                    slices.setdefault(name, []).append((offsets, header.tensors[name], file))
    if more := sorted(entry.name for entry in state.glob("*.safetensors") if entry.name not in expected):
        raise CheckpointError(f"{state / more[0]} does not belong to the {count} files of this state: move it away.")
    return {name: _joined(name, parts) for name, parts in slices.items()}


def _offsets(file: Path, header: TensorHeader) -> Mapping[str, list[int]]:
    """A file and its header -> the place of each of its slices in its tensor, as torch writes it."""
    try:
        places = parse_json(header.metadata.get("DCP_SHARDING_INFO", ""), dict[str, dict[str, list[int]]])
        offsets = {name: places[name]["saved_offsets"] for name in header.tensors}
    except (NotJson, KeyError) as error:
        raise CheckpointError(f"{file} is damaged: the places of its slices cannot be read; {_AGAIN}.") from error
    if wrong := [name for name, facts in header.tensors.items() if len(offsets[name]) != len(facts.shape)]:
        raise CheckpointError(f"{file} is damaged: the place of '{wrong[0]}' has another number of axes; {_AGAIN}.")
    return offsets


def _joined(name: str, slices: list[tuple[list[int], TensorFacts, Path]]) -> TensorFacts:
    """The slices of a tensor along its first axis -> the facts of the whole. Raises CheckpointError for a gap."""
    row, first = 0, slices[0][1]
    for offsets, facts, file in sorted(slices, key=lambda item: (item[0], item[1].shape)):
        if not facts.count and len(slices) > 1:
            continue  # a process that has no row of the tensor
        alike = (facts.dtype, facts.shape[1:]) == (first.dtype, first.shape[1:])
        if not alike or offsets != [row, *[0] * (len(offsets) - 1)][: len(offsets)]:
            raise CheckpointError(f"{file} is damaged: its slice of '{name}' does not fit the others; {_AGAIN}.")
        row += facts.shape[0] if facts.shape else 1
    return TensorFacts((row, *first.shape[1:]) if first.shape else (), first.dtype)
