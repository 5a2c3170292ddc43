"""A file that torch.save wrote -> its tensors and plain values; see `unmask.disk.pickles` for what is not run.

Two formats: the zip archive of torch 1.6 and later, and the files before it (five pickles in a row, then the bytes of
each storage).
"""

__all__ = ["PICKLE_BYTES", "TorchFile"]

import io
import math
import mmap
import os
import struct
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from unmask.disk.files import reason_of
from unmask.disk.pickles import CUT, Inert, Interpreter, Refused, Storage, View
from unmask.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

PICKLE_BYTES = 64 << 20
"""The most bytes that the pickles of a file may have; its tensors do not count."""
_DEPTH, _VALUES = 32, 1_000_000  # nesting, and number, of the values that come out
_COPIES = 4  # bytes of the tensors that come out, in sizes of the file: several may lie in the same storage
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # at the start of a file before torch 1.6


class TorchFile:
    """A file that torch.save wrote. Its tensors stay in the file until they are used (mapped, copied on write)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises CheckpointError for a file that is not whole, that torch.save did not write, or that is not safe."""
        self.path = Path(path)
        with _sentences(self.path), open(self.path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise Refused("is empty: copy or write the file again")
            self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            zipped = self._memory[:4] == b"PK\x03\x04"
            self._value, self._places = _of_archive(file, self._memory) if zipped else _of_older(self._memory)

    @property
    def keys(self) -> tuple[str, ...]:
        """The names in the outermost dictionary; none if the value is no dictionary."""
        return tuple(key for key in self._value if isinstance(key, str)) if isinstance(self._value, dict) else ()

    def read(self, *keys: str) -> Any:
        """Names of nested dictionaries -> the value there, its tensors as torch tensors on the processor.

        Tensors of a storage share it again. A dictionary comes without its entries that are Inert.
        Raises CheckpointError for a key that is missing, and for an Inert where a value is needed.
        """
        with _sentences(self.path):
            value = self._value
            for key in keys:
                if not isinstance(value, dict) or key not in value:
                    raise Refused(f"has nothing under '{'.'.join(keys)}'; it has: {', '.join(self.keys)[:300]}")
                value = value[key]
            return _Reading(self._memory, self._places).plain(value, _DEPTH)


@contextmanager
def _sentences(path: Path) -> Generator[None]:
    """Context in which a reason not to read a file becomes a CheckpointError that names it."""
    try:
        yield
    except Refused as error:
        raise CheckpointError(f"{path} {error}.") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({reason_of(error)}): copy or write the file again.") from error


_Places = dict[str, int]
"""Key of a storage -> where its bytes begin in the file."""


def _of_archive(file: IO[bytes], memory: mmap.mmap) -> tuple[Any, _Places]:
    """An archive of torch 1.6 and later -> the value of its pickle, and the places of its storages."""
    try:
        entries = zipfile.ZipFile(file).infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, IndexError) as error:
        raise Refused("is damaged: its list of entries cannot be read; copy or write the file again") from error
    names = {entry.filename: entry for entry in entries}
    pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(names) < len(entries) or len(pickles) != 1:
        raise Refused("is a zip archive, and not as torch.save writes it: give a file that torch.save wrote")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in names:
        raise Refused("is a program (TorchScript): give the file of its weights")
    order = names.get(f"{folder}byteorder")
    if order is not None and memory[slice(*_span(order, memory))] != b"little":
        raise Refused("was written on a machine of the other byte order: load it with torch and save it again")
    begin, end = _span(names[pickles[0]], memory)
    if end - begin > PICKLE_BYTES:
        raise Refused(f"has a pickle of more than {PICKLE_BYTES >> 20} MiB beside its tensors: it is not read")
    interpreter = Interpreter()
    value = interpreter.load(io.BytesIO(memory[begin:end]))
    places: _Places = {}
    for key, storage in interpreter.storages.items():
        entry = names.get(f"{folder}data/{key}")
        begin, end = (0, -1) if entry is None else _span(entry, memory)
        if end - begin < storage.count * storage.itemsize:
            raise Refused(CUT)
        places[key] = begin
    return value, places


def _span(entry: zipfile.ZipInfo, memory: mmap.mmap) -> tuple[int, int]:
    """An entry of an archive -> where its bytes begin and end in the file."""
    start = entry.header_offset
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise Refused("has compressed or encrypted entries, which torch.save never writes: it is not read")
    header = memory[start : start + 30]
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise Refused(CUT)
    name, extra = struct.unpack("<HH", header[26:])
    begin = start + 30 + name + extra
    if begin + entry.file_size > len(memory):
        raise Refused(CUT)
    return begin, begin + entry.file_size


def _of_older(memory: mmap.mmap) -> tuple[Any, _Places]:
    """A file before torch 1.6 -> the value of its pickle, and the places of its storages."""
    file, interpreter = io.BytesIO(memory[:PICKLE_BYTES]), Interpreter()
    if memory[:1] != b"\x80" or interpreter.load(file) != _MAGIC or interpreter.load(file) != _PROTOCOL:
        raise Refused("is not a file that torch.save wrote: give one, or a folder with model.safetensors")
    system = interpreter.load(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Refused("was written on a machine of the other byte order: load it with torch and save it again")
    value = interpreter.load(file)
    places: _Places = {}
    at, keys = 0, interpreter.load(file)
    at = file.tell()
    for key in keys if isinstance(keys, list) else []:
        storage = interpreter.storages.get(key) if isinstance(key, str) else None
        if storage is None or key in places or memory[at : at + 8] != storage.count.to_bytes(8, "little"):
            raise Refused(CUT)
        places[key] = at + 8
        at += 8 + storage.count * storage.itemsize
    if at > len(memory) or len(places) < len(interpreter.storages):
        raise Refused(CUT)
    return value, places


class _Reading:
    """The values of a pickle -> plain values with torch tensors; a storage is made once."""

    def __init__(self, memory: mmap.mmap, places: _Places) -> None:
        self._memory, self._places = memory, places
        self._storages, self._views = dict[str, "Tensor"](), dict[int, "Tensor"]()
        self._values, self._bytes = _VALUES, _COPIES * len(memory)

    def plain(self, value: Any, depth: int) -> Any:
        """A value -> the same without what is Inert. Raises Refused for an Inert that is no value of a dictionary."""
        self._values -= 1
        if depth < 0 or self._values < 0:
            raise Refused(
                f"nests deeper than {_DEPTH} levels there, or has more than {_VALUES:,} values: it is not read"
            )
        if isinstance(value, dict):
            items = cast(dict[Any, Any], value).items()
            return {
                key: self.plain(inner, depth - 1)
                for key, inner in items
                if not isinstance(key, Inert) and not isinstance(inner, Inert | Storage)
            }
        if isinstance(value, list | tuple):
            return type(value)(self.plain(inner, depth - 1) for inner in cast(list[Any], value))
        if isinstance(value, View):
            return self._tensor(value)
        if isinstance(value, Inert | Storage):
            name = value.name if isinstance(value, Inert) else "a storage"
            raise Refused(f"has {name[:80]!r} where a tensor or a plain value has to be: it is not read")
        return value

    def _tensor(self, view: View) -> "Tensor":
        """A view -> the tensor."""
        if id(view) not in self._views:
            self._bytes -= math.prod(view.size) * view.storage.itemsize
            if self._bytes < 0:
                raise Refused(f"has tensors of more than {_COPIES} times its size in the same storages: it is not read")
            self._views[id(view)] = self._whole(view.storage).as_strided(view.size, view.stride, view.offset)
        return self._views[id(view)]

    def _whole(self, storage: Storage) -> "Tensor":
        """A storage -> all its elements, (count,)."""
        import torch

        if storage.key in self._storages:
            return self._storages[storage.key]
        at, flag = self._places[storage.key], storage.dtype == "bool"
        dtype = torch.uint8 if flag else getattr(torch, storage.dtype)
        if not storage.count:
            whole = torch.empty(0, dtype=dtype)
        elif at % storage.itemsize:  # torch needs the address of an element to be a multiple of its size
            end = at + storage.count * storage.itemsize
            whole = torch.frombuffer(bytearray(self._memory[at:end]), dtype=dtype)
        else:
            whole = torch.frombuffer(self._memory, dtype=dtype, count=storage.count, offset=at)
        return self._storages.setdefault(storage.key, whole.ne(0) if flag else whole)
