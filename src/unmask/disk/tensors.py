"""The header of a safetensors file, read without torch: names, shapes, formats, and whether the file is whole."""

__all__ = ["Header", "TensorFacts", "looks_like_pickle", "read_header", "refuse_pickle"]

import json
import math
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.errors import CheckpointError

_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
_PICKLE_START = re.compile(rb"PK\x03\x04|\x80[\x02-\x05]")
_LARGEST_HEADER = 100_000_000
_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2} | {
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
    "C64": 8,
}


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """One tensor of a file: its shape, and its format in the words of safetensors ("F32", "BF16")."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """What the file says of itself: its tensors by name, and its text metadata."""

    tensors: dict[str, TensorFacts]
    metadata: dict[str, str]


def refuse_pickle(path: Path) -> None:
    """Raise CheckpointError: `path` is a pickle, which may run any program when opened."""
    raise CheckpointError(
        f"{path} is a pickle, which unmask never opens because it can run any program: "
        "save its tensors as model.safetensors with the library that made it."
    )


def read_header(path: Path) -> Header:
    """Read and check the header; only the header is read, however large the file.

    Raises CheckpointError for a pickle, a file that is not safetensors, and one that is shorter or longer than its
    header says.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(16)
        length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
        if not 2 <= length <= _LARGEST_HEADER or start[8:9] != b"{":
            _refuse_foreign(path, start, size)
        if size < 8 + length:
            raise CheckpointError(_truncated(path, 8 + length, size, "at least "))
        file.seek(8)
        text = file.read(length)
    try:
        header: dict[str, Any] = json.loads(text)
        metadata = {str(key): str(value) for key, value in header.pop("__metadata__", {}).items()}
        tensors = {name: TensorFacts(tuple(facts["shape"]), facts["dtype"]) for name, facts in header.items()}
        end = _checked_end(header, tensors)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: its header cannot be read; copy or write the file again.") from error
    if size != 8 + length + end:
        raise CheckpointError(_truncated(path, 8 + length + end, size, ""))
    return Header(tensors, metadata)


def _checked_end(header: dict[str, Any], tensors: dict[str, TensorFacts]) -> int:
    """The last byte of the data; ValueError unless the tensors lie one after the other and fill their places."""
    position = 0
    for (begin, end), name in sorted((tuple(facts["data_offsets"]), name) for name, facts in header.items()):
        width = _BYTES.get(tensors[name].dtype)
        if begin != position or end < begin or (width is not None and end - begin != width * tensors[name].count):
            raise ValueError(name)
        position = end
    return position


def _truncated(path: Path, expected: int, size: int, at_least: str) -> str:
    """The sentence about a file of the wrong length; sizes in bytes."""
    return (
        f"{path} is damaged: its header says {at_least}{expected} bytes and the file has {size}; "
        "copy or write the file again."
    )


def _refuse_foreign(path: Path, start: bytes, size: int) -> None:
    """CheckpointError that says what the file is instead of safetensors."""
    if size == 0:
        raise CheckpointError(f"{path} is empty: copy or write the file again.")
    if _PICKLE_START.match(start):
        refuse_pickle(path)
    if start.startswith(b"version https:/"):
        raise CheckpointError(f"{path} is a Git LFS pointer and not the file itself: fetch it with 'git lfs pull'.")
    raise CheckpointError(f"{path} is not a safetensors file: give a checkpoint that unmask wrote.")


def looks_like_pickle(path: Path) -> bool:
    """Whether a file's name or first bytes are those of a pickle."""
    if path.suffix in _PICKLE_SUFFIXES:
        return True
    if not path.is_file() or os.path.getsize(path) < 4:
        return False
    with open(path, "rb") as file:
        start = file.read(9)
    # the length of a safetensors header may happen to look like the start of a pickle; its brace does not
    return _PICKLE_START.match(start) is not None and start[8:] != b"{"
