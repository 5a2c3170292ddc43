"""Tasks of other people: a class in a file, `path/to/file.py:MyTask`, or an entry point in the group `unmask.tasks`.

Such a class is made with its options as keyword arguments; see `tasks.base.Task` for what it has to do, and run
`unmask.testing.check_task` over it. A package offers one with

    [project.entry-points."unmask.tasks"]
    my-task = "my_package.tasks:MyTask"

Names for tasks: what `--task NAME` or `--task NAME:key=value,key=value` means, wherever text arrives.

NAME is a built-in task, one that an installed package offers, or a class in a file, `path/to/file.py:MyTask`. The
options are the parameters of the class, each read as the kind of its default.
"""

__all__ = ["class_from_file", "entry_points", "fingerprint", "make", "names", "options", "source_fingerprint"]

import hashlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unmask.errors import PluginError, RequestError, UnmaskError, did_you_mean
from unmask.tasks.arithmetic import Arithmetic
from unmask.tasks.automaton import Automaton
from unmask.tasks.base import Task
from unmask.tasks.countdown import Countdown
from unmask.tasks.gsm8k import Gsm8k
from unmask.tasks.gym import Gym
from unmask.tasks.sudoku import Sudoku

GROUP = "unmask.tasks"


def entry_points() -> dict[str, Callable[[], type[Any]]]:
    """The tasks that installed packages offer: name to a function that loads the class, or raises PluginError."""
    return {point.name: _loader(point) for point in importlib.metadata.entry_points(group=GROUP)}


def class_from_file(path: str, name: str) -> type[Any]:
    """The class `name` of a Python file; the file is run.

    Raises:
        RequestError: where there is no such file, or no such class in it.
        PluginError: where the file cannot be run.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise RequestError(f"There is no file '{path}'; give the path of a Python file, as in tasks/mine.py:MyTask.")
    module_name = f"unmask_task_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} cannot be imported as a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their own module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise PluginError(f"{path} cannot be run: {_reason(error)}.") from error
    found = getattr(module, name, None)
    if not isinstance(found, type):
        here = [
            key for key, value in vars(module).items() if isinstance(value, type) and value.__module__ == module_name
        ]
        raise RequestError(
            f"{path} has no class '{name}'; {did_you_mean(name, here) if here else 'there is no class in it.'}"
        )
    return found


def source_fingerprint(kind: type[Any]) -> str:
    """sha256 of the file that a plug-in's class stands in, so that what is made of it is made anew when it changes.

    Empty for the tasks of this library, whose problems do not change. Other files that the plug-in reads or imports are
    not seen: such a task says so by an attribute `fingerprint` of its own.
    """
    if kind.__module__.startswith("unmask."):
        return ""
    try:
        return hashlib.sha256(Path(inspect.getfile(kind)).read_bytes()).hexdigest()
    except (OSError, TypeError):  # made in an interactive session
        return ""


def _loader(point: importlib.metadata.EntryPoint) -> Callable[[], type[Any]]:
    def load() -> type[Any]:
        try:
            found: Any = point.load()
        except Exception as error:
            raise PluginError(
                f"The task '{point.name}' of {point.value} cannot be loaded: {_reason(error)}."
            ) from error
        if not isinstance(found, type):
            raise PluginError(f"The task '{point.name}' of {point.value} is not a class; point to the class itself.")
        return found

    return load


def _reason(error: Exception) -> str:
    """Kind and first line of an error."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": .")


_BUILT_IN: dict[str, type[Any]] = {
    "arithmetic": Arithmetic,
    "automaton": Automaton,
    "countdown": Countdown,
    "gsm8k": Gsm8k,
    "gym": Gym,
    "sudoku": Sudoku,
}
"""They come before plug-ins of the same name."""
_IN_FILE = re.compile(r"(?P<path>.+?\.py)(?::(?P<name>[^:,=]*))?(?::(?P<options>.*))?", re.DOTALL)
_NEEDED = ("name", "examples", "verify", "pairs")
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def names() -> dict[str, str]:
    """Every task's name with the first line about it; for a plug-in that cannot be loaded, with the reason."""
    lines: dict[str, str] = {}
    for name in sorted({*_BUILT_IN, *entry_points()}):
        try:
            lines[name] = (_kind(name).__doc__ or "").strip().split("\n")[0]
        except PluginError as error:
            lines[name] = str(error)
    return lines


def options(name: str) -> dict[str, str]:
    """A task's options with their defaults as text, "" where one has to be given.

    A class that takes any others beside them has "and its own" at the end.

    Raises RequestError for a name that is none, and PluginError for a plug-in that cannot be loaded.
    """
    parameters, open_ = _parameters(_kind(name))
    found = {key: "" if one.default is one.empty else str(one.default) for key, one in parameters.items()}
    return {**found, "and its own": ""} if open_ else found


def make(text: str) -> Task:
    """The task that `text` names, for example "sudoku:side=4" or "mine.py:MyTask:level=3".

    Raises:
        RequestError: for a name, file, class or option that does not exist, or a value that cannot be.
        PluginError: where somebody else's task cannot be loaded, made, or used as a task.
    """
    in_file = _IN_FILE.fullmatch(text)
    if in_file is not None:
        if not in_file["name"]:
            raise RequestError(f"'{text}' names no class; write {in_file['path']}:MyTask, with the class in that file.")
        name, rest = f"{in_file['path']}:{in_file['name']}", in_file["options"] or ""
        kind = class_from_file(in_file["path"], in_file["name"])
    else:
        name, _, rest = text.partition(":")
        kind = _kind(name)
    given = _read(kind, name, rest, text)
    try:
        task = kind(**given)
    except UnmaskError:
        raise
    except Exception as error:
        raise PluginError(f"The task '{text}' cannot be made: {type(error).__name__}: {error}.") from error
    if missing := [one for one in _NEEDED if not hasattr(task, one)]:
        raise PluginError(f"'{name}' is no task: it has no {' and no '.join(missing)}; see unmask.tasks.base.Task.")
    return task


def fingerprint(task: Task) -> str:
    """What a task's problems depend on beside its name; empty for most. See `Task` and `plugins.source_fingerprint`."""
    return f"{getattr(task, 'fingerprint', '')}{source_fingerprint(type(task))}"


def _kind(name: str) -> type[Any]:
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    foreign = entry_points()
    if name not in foreign:
        raise RequestError(f"There is no task named '{name}'; {did_you_mean(name, {*_BUILT_IN, *foreign})}")
    return foreign[name]()


def _parameters(kind: type[Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """The named parameters of a class, and whether it takes others beside them."""
    found = inspect.signature(kind).parameters.values()
    named = {one.name: one for one in found if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    return named, any(one.kind is one.VAR_KEYWORD for one in found)


def _read(kind: type[Any], name: str, rest: str, text: str) -> dict[str, Any]:
    """The options in "key=value,key=value", as the class wants them."""
    parameters, open_ = _parameters(kind)
    given: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise RequestError(f"'{item}' in the task '{text}' is not key=value; write for example {name}:key=value.")
        if key in given:
            raise RequestError(f"{key} is given twice in the task '{text}'; give it once.")
        if key in parameters:
            given[key] = _value(_type(kind, parameters[key]), key, value, text)
        elif open_:
            given[key] = value
        else:
            known = did_you_mean(key, parameters) if parameters else "it has none."
            raise RequestError(f"The task '{name}' has no option '{key}'; {known}")
    for key, one in parameters.items():
        if one.default is one.empty and key not in given:
            raise RequestError(f"The task '{name}' needs the option '{key}'; write {name}:{key}=...")
    return given


def _type(kind: type[Any], parameter: inspect.Parameter) -> type[Any]:
    """int, float, bool or str: the kind of a parameter's default, or else of its annotation."""
    usual = (bool, int, float, str)
    if type(parameter.default) in usual:
        return type(parameter.default)
    try:
        hint: Any = typing.get_type_hints(kind.__init__).get(parameter.name, str)
    except Exception:  # an annotation that only a type checker can read
        return str
    return next((one for one in usual if one is hint or one in typing.get_args(hint)), str)


def _value(kind: type[Any], key: str, value: str, text: str) -> Any:
    try:
        return _BOOLEANS[value.lower()] if kind is bool else kind(value)
    except (ValueError, KeyError):
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise RequestError(f"{key} is '{value}' in the task '{text}'; give {wanted}.") from None
