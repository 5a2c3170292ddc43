"""A GGUF file -> its facts and its tensors as float32: the formats F32, F16, Q8_0 and Q4_1 of llama.cpp.

Layout: a header with facts by name; descriptions of the tensors, dimensions in reverse order; the tensors, aligned.
A block of Q8_0 has 32 values d * q (int8); a block of Q4_1 has 32 values d * q + m, q of 4 bits, low halves first.
"""

__all__ = ["Gguf", "original_order"]

import math
import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unmask.errors import CheckpointError

_SCALARS: dict[int, str] = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_TEXT, _LIST = 8, 9
_BLOCKS = {0: (1, 4), 1: (1, 2), 3: (32, 20), 8: (32, 34)}  # format: values of a block, its bytes


class _Stored(NamedTuple):
    shape: tuple[int, ...]
    format: int
    offset: int


class Gguf:
    """An open file: `facts` by name, `tensors` by name."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError for a file that is no GGUF of version 2 or 3."""
        with open(path, "rb") as file:
            self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._path, self._at = path, 4
        try:
            version, count, facts = self._numbers("<IQQ")
            if self._memory[:4] != b"GGUF" or version not in (2, 3):
                raise CheckpointError(f"{path} is no GGUF file of version 2 or 3.")
            self.facts = {self._text(): self._value(*self._numbers("<I")) for _ in range(facts)}
            self.tensors = dict(self._description() for _ in range(count))
        except (struct.error, UnicodeDecodeError, KeyError) as error:
            raise CheckpointError(f"{path} is damaged: its header cannot be read; download it again.") from error
        step = int(self.facts.get("general.alignment", 32))
        self._start = -(-self._at // step) * step

    def _numbers(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(form, self._memory, self._at)
        self._at += struct.calcsize(form)
        return values

    def _text(self) -> str:
        (length,) = self._numbers("<Q")
        self._at += length
        return self._memory[self._at - length : self._at].decode()

    def _value(self, form: int) -> Any:
        if form == _TEXT:
            return self._text()
        if form != _LIST:
            return self._numbers(f"<{_SCALARS[form]}")[0]
        inner, length = self._numbers("<IQ")
        return list(self._numbers(f"<{length}{_SCALARS[inner]}")) if inner in _SCALARS else self._texts(length)

    def _texts(self, length: int) -> list[str]:
        return [self._text() for _ in range(length)]

    def _description(self) -> tuple[str, _Stored]:
        name, (dimensions,) = self._text(), self._numbers("<I")
        shape = self._numbers(f"<{dimensions}Q")[::-1]
        return name, _Stored(shape, *self._numbers("<IQ"))

    def tensor(self, name: str) -> Tensor:
        """Name -> the tensor, dequantised, float32. Raises CheckpointError for a format that is not read here."""
        shape, form, offset = self.tensors[name]
        if form not in _BLOCKS:
            raise CheckpointError(f"{self._path} has '{name}' in format {form}; F32, F16, Q8_0 and Q4_1 are read.")
        values, size = _BLOCKS[form]
        count = math.prod(shape) // values
        whole = torch.frombuffer(self._memory, dtype=torch.uint8, count=count * size, offset=self._start + offset)
        if form < 2:
            return whole.view(torch.float32 if form == 0 else torch.float16).float().view(shape)
        blocks = whole.view(count, size)
        scale = blocks[:, :2].contiguous().view(torch.float16).float()
        if form == 8:
            return (blocks[:, 2:].contiguous().view(torch.int8) * scale).view(shape)
        least, packed = blocks[:, 2:4].contiguous().view(torch.float16).float(), blocks[:, 4:]
        return (torch.cat([packed & 15, packed >> 4], 1) * scale + least).view(shape)


def original_order(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key matrix as llama.cpp orders them -> as published.

    llama.cpp rotates neighbours (2 i, 2 i + 1) of a head; the published programs rotate i with i + half.
    """
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)
