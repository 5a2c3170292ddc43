"""The training state that several processes wrote: their files of slices -> the tensors, checked by their headers.

The files are those of torch.distributed.checkpoint's Hugging Face storage: safetensors, with the place of each slice in
the metadata. `state.json` says how many there are and of which save; each file has a mark, an empty tensor whose name
says the same. So a file that is missing, or of another checkpoint, is seen without reading a tensor.
"""

__all__ = ["SHARDS", "Shards", "check_shards", "mark", "shard_file"]

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.disk.json import NotJson, fact_of, parse_json, read_json
from unmask.disk.tensors import TensorFacts, TensorHeader, read_header
from unmask.errors import CheckpointError
from unmask.ranges import Count

SHARDS = "shards"
"""The field of state.json that holds `Shards`."""
_MARKS = "save/"
_AGAIN = "copy or write the file again"


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
