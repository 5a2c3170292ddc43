"""The header of a safetensors file, read without torch: names, shapes, formats, and whether the file is whole."""

__all__ = ["Header", "TensorFacts", "looks_like_pickle", "read_header", "refuse_pickle"]

import math
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.disk.json import parse_json
from unmask.errors import CheckpointError

_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
_PICKLE_START = re.compile(rb"PK\x03\x04|\x80[\x02-\x05]")
_LARGEST_HEADER = 100_000_000


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
    """File -> its header, checked by the safetensors library; only the header is read, however large the file.

    Raises CheckpointError for a pickle, a file that is not safetensors, and one that is shorter or longer than its
    header says.
    """
    from safetensors import SafetensorError, safe_open

    _refuse_foreign(path)
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is not a dict)
            tensors = {name: TensorFacts(tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
            return Header(tensors, file.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {_damage(path)}; copy or write the file again.") from error


def _refuse_foreign(path: Path) -> None:
    """CheckpointError for a file that does not begin as safetensors does, which says what it is instead."""
    with open(path, "rb") as file:
        start = file.read(16)
    if not start:
        raise CheckpointError(f"{path} is empty: copy or write the file again.")
    if start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= _LARGEST_HEADER:
        return
    if _PICKLE_START.match(start):
        refuse_pickle(path)
    if start.startswith(b"version https:/"):
        raise CheckpointError(f"{path} is a Git LFS pointer and not the file itself: fetch it with 'git lfs pull'.")
    raise CheckpointError(f"{path} is not a safetensors file: give a checkpoint that unmask wrote.")


def _damage(path: Path) -> str:
    """What is wrong with a file that the safetensors library refused: its length, or else its header."""
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
