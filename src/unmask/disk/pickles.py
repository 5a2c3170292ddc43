"""A pickle -> its plain values and descriptions of its tensors, without running the program that a pickle is.

The opcodes are split by the standard library's disassembler, which executes nothing, and interpreted here. Only the
functions of torch that rebuild a tensor, OrderedDict and Size have a meaning. Every other global is an `Inert`: a name
that is never imported, never called and never given state; what is built on it is an Inert too.
"""

__all__ = ["CUT", "Inert", "Interpreter", "Refused", "Storage", "View"]

import math
import pickletools
import struct
import warnings
from dataclasses import dataclass
from typing import IO, Any

CUT = "is damaged: it ends within a tensor, or its pickle is cut or wrong; copy or write the file again"
"""The predicate of a sentence about a file that is not whole."""
_STEPS = 8_000_000  # opcodes of a file, and elements of lists that an opcode copies
_DIMENSIONS, _LARGEST = 16, 1 << 48  # of a tensor; elements of a dimension
_FORMATS = {
    "torch DoubleStorage": ("float64", 8),
    "torch FloatStorage": ("float32", 4),
    "torch HalfStorage": ("float16", 2),
    "torch BFloat16Storage": ("bfloat16", 2),
    "torch LongStorage": ("int64", 8),
    "torch IntStorage": ("int32", 4),
    "torch ShortStorage": ("int16", 2),
    "torch CharStorage": ("int8", 1),
    "torch ByteStorage": ("uint8", 1),
    "torch BoolStorage": ("bool", 1),
}
"""Class of a storage: the name of its dtype, and the bytes of an element."""


@dataclass(frozen=True, slots=True, eq=False)
class Inert:
    """Stands for a global that has no meaning here, or for what a pickle builds on one; it holds a name alone."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage as the pickle describes it: the name of its bytes, its dtype, the number of its elements."""

    key: str
    dtype: str
    itemsize: int
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A tensor: a view of a storage that lies within it."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Refused(Exception):
    """Why a file is not read: the predicate of a sentence whose subject is the file."""


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
)
_CALLS = {"INST": 0, "OBJ": 0, "NEWOBJ": 2, "NEWOBJ_EX": 3}  # the number of arguments; 0: those since the mark
_UNKNOWN = frozenset({"EXT1", "EXT2", "EXT4", "EMPTY_SET", "PERSID", "NEXT_BUFFER", "BYTEARRAY8"})


class Interpreter:
    """Opcodes -> the value of a pickle, made of plain containers, scalars, Storage, View and Inert."""

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
        """The storages that the pickles described, by key."""
        self._left = _STEPS

    def load(self, file: IO[bytes]) -> Any:
        """File at the start of a pickle -> its value; the file is then at its end. Raises Refused."""
        self._stack, self._below, self._memo = list[Any](), list[list[Any]](), dict[int, Any]()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a text with an escape that Python does not know
                for opcode, argument, _ in pickletools.genops(file):
                    self._spend(1)
                    if opcode.name == "STOP":
                        return self._stack.pop()
                    self._step(opcode.name, argument)
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, struct.error) as error:
            raise Refused(CUT) from error
        raise Refused(CUT)

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise Refused(f"has a pickle of more than {_STEPS:,} steps, which no checkpoint needs: it is not read")

    def _step(self, name: str, argument: Any) -> None:
        """Do one opcode."""
        stack, memo = self._stack, self._memo
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name == "MARK":
            self._below.append(stack)
            self._stack = []
        elif name == "POP":
            stack.pop() if stack else self._since_mark()
        elif name == "POP_MARK":
            self._since_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name not in ("PROTO", "FRAME", "READONLY_BUFFER"):
            self._build(name, argument)

    def _build(self, name: str, argument: Any) -> None:
        """Do an opcode that makes or fills a container, or that names or calls a global."""
        if name in ("EMPTY_LIST", "EMPTY_DICT"):
            self._stack.append([] if name == "EMPTY_LIST" else {})
        elif name in ("LIST", "TUPLE", "DICT", "FROZENSET"):
            items = self._since_mark()
            made = {"LIST": list, "TUPLE": tuple, "DICT": _pairs}.get(name)
            self._stack.append(Inert(name) if made is None else made(items))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self._stack.append(tuple(self._popped(int(name[-1]))))
        elif name in ("APPEND", "APPENDS", "ADDITEMS", "SETITEM", "SETITEMS"):
            items = self._popped(1 if name == "APPEND" else 2) if name[-1] != "S" else self._since_mark()
            self._fill(self._stack[-1], items, name.startswith("SET"))
        elif name == "BUILD":
            self._stack.pop()  # the state, which nothing gets
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            parts = self._popped(2) if argument is None else [argument]
            text = " ".join(part for part in parts if isinstance(part, str))
            self._stack.append(Inert(text))
        elif name == "REDUCE":
            function, arguments = self._popped(2)
            self._stack.append(self._called(function, arguments))
        elif name in _CALLS:
            items = self._popped(_CALLS[name]) if _CALLS[name] else self._since_mark()
            self._stack.append(Inert(argument or f"{getattr(items[0], 'name', 'an object')}()"))
        elif name == "BINPERSID":
            self._stack.append(self._storage(self._stack.pop()))
        elif name in _UNKNOWN:
            self._stack.append(Inert(name))
        else:
            raise Refused(f"has the pickle instruction {name}, which no checkpoint needs: it is not read")

    def _popped(self, count: int) -> list[Any]:
        """The last `count` values, taken from the stack."""
        if len(self._stack) < count:
            raise Refused(CUT)
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _since_mark(self) -> list[Any]:
        """The values since the last mark, taken from the stack with it."""
        items, self._stack = self._stack, self._below.pop()
        return items

    def _fill(self, container: Any, items: list[Any], pairs: bool) -> None:
        """Append items to a list or set pairs of a dictionary; what is Inert gets nothing."""
        if isinstance(container, Inert):
            return
        if isinstance(container, dict) and pairs:
            container.update(_pairs(items))
        elif isinstance(container, list) and not pairs:
            container.extend(items)
        else:
            raise Refused(CUT)

    def _called(self, function: Any, arguments: Any) -> Any:
        """A callable and its arguments -> a tensor or a plain container, where it is known; else an Inert."""
        name = function.name if isinstance(function, Inert) else type(function).__name__
        if not isinstance(arguments, tuple):
            return Inert(f"{name}()")
        if name in ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor"):
            return _view(*arguments[:4]) if isinstance(arguments[0], Storage) else Inert(f"{name}()")
        if name == "torch._utils _rebuild_parameter":
            return arguments[0]
        if name in ("collections OrderedDict", "torch Size") and len(arguments) < 2:
            items = arguments[0] if arguments else []
            if not isinstance(items, list | tuple):
                return Inert(f"{name}()")
            self._spend(len(items))
            if name == "torch Size":
                return tuple(items)
            return _pairs([part for key, value in items for part in (key, value)])
        return Inert(f"{name}()")

    def _storage(self, facts: Any) -> Any:
        """A persistent id -> the storage that it describes, or an Inert."""
        if not isinstance(facts, tuple) or len(facts) < 5 or facts[0] != "storage" or not isinstance(facts[1], Inert):
            return Inert("a persistent object")
        if facts[1].name not in _FORMATS:
            return Inert(f"{facts[1].name}()")
        key, count = facts[2], facts[4]
        if not isinstance(key, str) or not _is_count(count):
            raise Refused(CUT)
        if facts[5:] not in ((), (None,)):
            raise Refused("was written by torch before 0.4: load it with torch and save it again")
        storage = Storage(key, *_FORMATS[facts[1].name], count)
        if self.storages.setdefault(key, storage) != storage:
            raise Refused("describes a storage in two ways, which torch.save never does: it is not read")
        return storage


def _pairs(items: list[Any]) -> dict[Any, Any]:
    """Keys and values in turn -> a dictionary. A key that is no text and no small number gets a name of its own."""
    keys = (key if isinstance(key, str) or _is_count(key) else Inert("a key") for key in items[::2])
    return dict(zip(keys, items[1::2], strict=True))


def _is_count(value: object) -> bool:
    """Whether a value is a whole number from 0 to the largest size of a dimension."""
    return type(value) is int and 0 <= value <= _LARGEST


def _view(storage: Storage, offset: Any, size: Any, stride: Any) -> View:
    """The arguments of _rebuild_tensor -> the tensor. Raises Refused where it does not lie within its storage."""
    size, stride = (tuple(part) if isinstance(part, list | tuple) else (-1,) for part in (size, stride))
    if len(size) != len(stride) or len(size) > _DIMENSIONS or not all(map(_is_count, (offset, *size, *stride))):
        raise Refused("has a tensor with an impossible shape, stride or offset: it is not read")
    elements = math.prod(size)
    reach = sum((count - 1) * step for count, step in zip(size, stride, strict=True)) if elements else -1
    if offset + reach >= storage.count or elements > storage.count:
        raise Refused("has a tensor that reaches outside of its storage: it is not read")
    return View(storage, offset, size, stride)
