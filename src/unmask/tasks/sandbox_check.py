"""The two sides of a check in the sandbox: the program, and the tests that call it. Loaded by `sandbox_server` alone.

The tests run in another process than the program, and reach its functions by messages. A message holds plain values
(numbers, texts, lists and the like), so that an answer cannot bring an `==` of its own, and tests compare values that
the program can no longer change. What else the program returns is a `Remote`, which equals nothing.
"""

__all__ = ["Gone", "Program", "Remote", "decoded", "encoded", "received", "run_program", "send", "verdict"]

import builtins
import contextlib
import json
import os
import random
import signal
import struct
import sys
import time
import types
from collections import deque
from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn

# What programs import most, loaded once. A module that needs a shared library has to be here: none can be seen later.
for _module in (
    *("array", "bisect", "cmath", "copy", "csv", "dataclasses", "datetime", "decimal", "enum", "fractions"),
    *("functools", "hashlib", "heapq", "inspect", "io", "itertools", "math", "operator", "queue", "re"),
    *("statistics", "string", "textwrap", "threading", "traceback", "unicodedata", "zlib"),
):
    import_module(_module)
_MESSAGE = 1 << 26
"""Bytes of the longest message."""


class Gone(BaseException):
    """The program ended, or sent what is no message; not an Exception, so that tests do not catch it."""


# ---- messages --------------------------------------------------------------------------------------------------------

_CONTAINERS: dict[str, tuple[type, Callable[[list[Any]], object]]] = {
    "tuple": (tuple, tuple),
    "set": (set, set),
    "frozenset": (frozenset, frozenset),
    "deque": (deque, deque),
    "keys": (type({}.keys()), lambda items: dict.fromkeys(items).keys()),
    "values": (type({}.values()), lambda items: dict(enumerate(items)).values()),
    "items": (type({}.items()), lambda items: dict(items).items()),
}
"""Tag: the class of values that are sent as a list of their items, and how it is made of them."""


_TYPES: dict[str, Any] = {name: value for name, value in vars(builtins).items() if isinstance(value, type)}


def encoded(value: Any, refer: Callable[[Any], int]) -> Any:
    """A value -> JSON; what JSON lacks becomes an object of one tag, and what is not plain the number of `refer`."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < 1 << 63 else {"int": hex(value)}
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, list):
        return [encoded(item, refer) for item in value]
    if isinstance(value, bytes | bytearray):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if type_name := next((name for name, type_ in _TYPES.items() if type_ is value), ""):
        return {"type": type_name}
    if isinstance(value, dict):
        return {"dict": [[encoded(key, refer), encoded(item, refer)] for key, item in value.items()]}
    for tag, (class_, _) in _CONTAINERS.items():
        if isinstance(value, class_):
            return {tag: [encoded(item, refer) for item in value]}
    if hasattr(type(value), "__next__"):
        return {"iterator": [encoded(item, refer) for item in value]}
    return {"object": [refer(value), bool(value)]}


def decoded(value: Any, resolve: Callable[[int, bool], Any]) -> Any:
    """JSON of `encoded` -> the value; `resolve` makes what is not plain of its number and its truth."""
    if isinstance(value, list):
        return [decoded(item, resolve) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    simple: dict[str, Callable[[Any], Any]] = {
        "object": lambda parts: resolve(*parts),
        "int": lambda text: int(text, 16),
        "bytes": bytes.fromhex,
        "complex": lambda parts: complex(*parts),
        "range": lambda parts: range(*parts),
        "type": _TYPES.__getitem__,
    }
    if tag in simple:
        return simple[tag](content)
    items = decoded(content, resolve)
    if tag in _CONTAINERS:
        return _CONTAINERS[tag][1](items)
    return {"dict": dict, "iterator": iter}[tag](items)


def send(connection: int, message: Any) -> None:
    """Write a message: the number of its bytes, then its JSON."""
    data = json.dumps(message).encode()
    data = struct.pack("=Q", len(data)) + data
    while data:
        data = data[os.write(connection, data) :]


def received(connection: int) -> Any:
    """The next message. Raises EOFError where there is none, or a longer one than is read."""
    size = struct.unpack("=Q", _exactly(connection, 8))[0]
    if size > _MESSAGE:
        raise EOFError
    return json.loads(_exactly(connection, size))


def _exactly(connection: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = os.read(connection, min(size - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


# ---- the program -----------------------------------------------------------------------------------------------------


def run_program(connection: int, source: str) -> NoReturn:
    """The source of a program, which is run -> answers to the messages of the checker, without end."""
    random.seed(0)  # the same program has the same verdict
    module = types.ModuleType("program")
    sys.modules["program"] = module
    objects: list[Any] = []

    def refer(value: Any) -> int:
        objects.append(value)
        return len(objects) - 1

    def resolve(number: int, _: bool) -> Any:
        return objects[number]

    while True:
        message = received(connection)
        try:
            if message["do"] == "run":
                exec(compile(source, "program", "exec", dont_inherit=True), vars(module))
                value = None
            elif message["do"] == "name":
                value = _named(module, message["name"])
            else:
                arguments, named = (decoded(message[part], resolve) for part in ("arguments", "named"))
                function = {"call": objects[message["object"]], "get": getattr, "set": setattr}[message["do"]]
                value = function(*arguments, **named)
            answer = {"value": encoded(value, refer)}
        except BaseException as error:
            answer = {"error": type(error).__name__, "message": str(error)[:500]}
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        send(connection, answer)


def _named(module: types.ModuleType, name: str) -> Any:
    """A global name of the program -> its value."""
    if not hasattr(module, name):
        raise NameError(f"the program does not define {name}")
    return getattr(module, name)


# ---- the tests -------------------------------------------------------------------------------------------------------


class Program:
    """The program as the checker reaches it."""

    def __init__(self, connection: int) -> None:
        """`connection` is a descriptor."""
        self.connection = connection

    def ask(self, do: str, number: int = 0, *arguments: Any, name: str = "", **named: Any) -> Any:
        """Send a message -> the value of the answer.

        Raises what the program raised, as an exception of the same name; Gone where there is no answer.
        """
        message = {"do": do, "object": number, "name": name, "arguments": encoded([*arguments], _number)}
        message["named"] = encoded(named, _number)
        try:
            send(self.connection, message)
            answer = received(self.connection)
            if "error" not in answer:
                return decoded(answer["value"], lambda *parts: Remote(self, *parts))
            error, text = str(answer["error"]), str(answer["message"])
        except MemoryError:
            raise
        except Exception:
            raise Gone from None
        class_ = getattr(builtins, error, None)
        if not isinstance(class_, type) or not issubclass(class_, BaseException):
            raise RuntimeError(f"{error}: {text}")
        if not issubclass(class_, Exception):
            raise Gone(f"the program raised {error}")
        raise class_(text)


class Remote:
    """A function, a class or another object of the program: it can be called and has attributes, no more.

    It equals nothing, so that no test passes by what the program makes of `==`.
    """

    __slots__ = ("_at", "_true")

    def __init__(self, program: Program, number: int, true: bool) -> None:
        """`number` is that of the object in the program, `true` its truth when it was sent."""
        object.__setattr__(self, "_at", (program, number))
        object.__setattr__(self, "_true", true is True)

    def __bool__(self) -> bool:
        """The truth of the object when it was sent."""
        return object.__getattribute__(self, "_true")

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """The value of the function of the program."""
        program, number = object.__getattribute__(self, "_at")
        return program.ask("call", number, *arguments, **named)

    def __getattr__(self, name: str) -> Any:
        """The attribute of the object of the program."""
        program, _ = object.__getattribute__(self, "_at")
        return program.ask("get", 0, self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set the attribute of the object of the program."""
        program, _ = object.__getattribute__(self, "_at")
        program.ask("set", 0, self, name, value)

    def _refuse(self, *_: Any) -> Any:
        raise TypeError("the program returned an object that is no plain value")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __len__ = __iter__ = __contains__ = _refuse
    __hash__ = None  # pyright: ignore[reportAssignmentType]


def _number(value: Any) -> int:
    """A value of the tests that is not plain -> its number in the program."""
    if isinstance(value, Remote):
        return object.__getattribute__(value, "_at")[1]
    raise TypeError(f"the tests pass a {type(value).__name__} to the program, which cannot be sent")


def verdict(connection: int, child: int, job: dict[str, Any], seconds: int) -> dict[str, str]:
    """Run the tests of a job -> its status and the reason; `child` is the process of the program."""
    random.seed(0)
    program = Program(connection)
    names: dict[str, Any] = {"__name__": "tests"}
    try:
        program.ask("run")
        exec(compile(job["setup"], "setup", "exec", dont_inherit=True), names)
        for name in job["names"]:
            names[name] = program.ask("name", name=name)
        exec(compile(job["tests"], "tests", "exec", dont_inherit=True), names)
    except MemoryError:
        return {"status": "memory", "why": "the program needs more memory than it may take"}
    except Gone as error:
        return {"status": "failed", "why": str(error)} if str(error) else _ended(child, seconds)
    except BaseException as error:
        return {"status": "failed", "why": _reason(error, job["tests"])}
    return {"status": "passed", "why": ""}


def _ended(child: int, seconds: int) -> dict[str, str]:
    """The process of a program that no longer answers -> how it ended, and so why it failed."""
    for _ in range(20):  # it may have closed its connection and run on
        process, status, usage = os.wait4(child, os.WNOHANG)
        if process:
            break
        time.sleep(0.01)
    else:
        return {"status": "failed", "why": "the program sends nothing that the tests can read"}
    if not os.WIFSIGNALED(status):
        return {"status": "failed", "why": f"the program ended with code {os.WEXITSTATUS(status)} before its tests did"}
    if os.WTERMSIG(status) != signal.SIGKILL:
        return {"status": "failed", "why": f"the program was ended by signal {os.WTERMSIG(status)}"}
    if usage.ru_utime + usage.ru_stime > seconds - 0.5:
        return {"status": "timeout", "why": f"the program took more than {seconds} s of processor time"}
    return {"status": "memory", "why": "the system ended the program for want of memory"}


def _reason(error: BaseException, tests: str) -> str:
    """What the tests raised -> a line: its type and message, and the line of the tests."""
    text = " ".join(f"{type(error).__name__}: {error}"[:300].split()).rstrip(": ")
    lines, at, trace = tests.splitlines(), 0, error.__traceback__
    while trace is not None:
        at = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "tests" else at
        trace = trace.tb_next
    return f"{text} in the test `{lines[at - 1].strip()[:200]}`" if 0 < at <= len(lines) else text
