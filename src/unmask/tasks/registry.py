"""Texts such as NAME or NAME:key=value,key=value -> tasks: built-in, of other packages, or of a file.

NAME is a built-in task, a task of an installed package, or a class in a file, `path/to/file.py:MyTask`. The options are
the parameters of the class, each read as the type of its default. `tasks.base.Task` is the protocol of a task, and
`unmask.testing.check_task` checks it. A package offers a task by an entry point:

    [project.entry-points."unmask.tasks"]
    my-task = "my_package.tasks:MyTask"
"""

__all__ = [
    "class_from_file",
    "dry_task",
    "entry_points",
    "fingerprint",
    "make",
    "make_typed",
    "names",
    "options",
    "source_fingerprint",
]

import hashlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unmask.config import is_typed, to_path, typed
from unmask.errors import PluginError, RequestError, UnmaskError, did_you_mean, plugin_failure, reason_in_words
from unmask.ranges import LARGEST, Range, checked, number_of, range_of, real, whole
from unmask.tasks.antibody import AntibodyCdr3
from unmask.tasks.arithmetic import Arithmetic
from unmask.tasks.automaton import Automaton
from unmask.tasks.base import Task, examples_of
from unmask.tasks.code import HumanEval, Mbpp
from unmask.tasks.countdown import Countdown
from unmask.tasks.few_shot import FewShot
from unmask.tasks.gsm8k import Gsm8k
from unmask.tasks.gym import Gym
from unmask.tasks.infill import Infill
from unmask.tasks.math500 import Math500
from unmask.tasks.sudoku import Sudoku

GROUP = "unmask.tasks"


def entry_points() -> dict[str, Callable[[], type[Any]]]:
    """The tasks of installed packages: name -> a function that loads the class or raises PluginError."""
    return {point.name: _loader(point) for point in importlib.metadata.entry_points(group=GROUP)}


def class_from_file(path: str, name: str) -> type[Any]:
    """The path of a Python file and the name of a class -> the class; the file is run.

    This is the one place that runs a Python file. It has to be one that was typed (see `config.typed`), because a
    text that is read from a checkpoint, a recipe or another file must not run a program.

    Raises:
        RequestError: if there is no such file, if it was not typed, or if there is no such class in it.
        PluginError: if the file cannot be run.
    """
    file = to_path(path)
    if not file.is_file():
        raise RequestError(f"There is no file '{path}'; give the path of a Python file, as in tasks/mine.py:MyTask.")
    if not is_typed(file):
        raise RequestError(
            f"The task '{path}:{name}' is recorded in a file and would run the program {path}, which was not typed in "
            f"this command: read that program, then type its name too (--task {path}:{name}, or --data.source "
            f"task:{path}:{name}), or add --trust-recorded-tasks."
        )
    module_name = f"unmask_task_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} cannot be imported as a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look up their own module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[module_name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise PluginError(f"{path} cannot be run: {reason_in_words(error)}.") from error
    value = getattr(module, name, None)
    if not isinstance(value, type):
        classes = [
            key for key, value in vars(module).items() if isinstance(value, type) and value.__module__ == module_name
        ]
        raise RequestError(
            f"{path} has no class '{name}'; {did_you_mean(name, classes) if classes else 'there is no class in it.'}"
        )
    return value


def source_fingerprint(task_class: type[Any]) -> str:
    """The class of a task -> the sha256 of its source file, so that its cached problems are remade when it changes.

    Empty for the tasks of this library, whose problems do not change. Other files that a plug-in reads or imports are
    not included: such a task needs an attribute `fingerprint`.
    """
    if task_class.__module__.startswith("unmask."):
        return ""
    try:
        return hashlib.sha256(Path(inspect.getfile(task_class)).read_bytes()).hexdigest()
    except (OSError, TypeError):  # defined in an interactive session
        return ""


def _loader(point: importlib.metadata.EntryPoint) -> Callable[[], type[Any]]:
    def load() -> type[Any]:
        with plugin_failure(f"The task '{point.name}' of {point.value}", "cannot be loaded"):
            value: Any = point.load()
        if not isinstance(value, type):
            raise PluginError(f"The task '{point.name}' of {point.value} is not a class; point to the class itself.")
        return value

    return load


_BUILT_IN: dict[str, type[Any]] = {
    "antibody-cdr3": AntibodyCdr3,
    "arithmetic": Arithmetic,
    "automaton": Automaton,
    "countdown": Countdown,
    "few-shot": FewShot,
    "gsm8k": Gsm8k,
    "gym": Gym,
    "humaneval": HumanEval,
    "infill": Infill,
    "math-500": Math500,
    "mbpp": Mbpp,
    "sudoku": Sudoku,
}
"""Built-in tasks; they take precedence over plug-ins of the same name."""
_IN_FILE = re.compile(r"(?P<path>.+?\.py)(?::(?P<name>[^:,=]*))?(?::(?P<options>.*))?", re.DOTALL)
_REQUIRED = ("name", "examples", "verify", "pairs")
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def names() -> dict[str, str]:
    """The name of every task -> the first line of its docstring; for a plug-in that cannot be loaded, the reason."""
    lines: dict[str, str] = {}
    for name in sorted({*_BUILT_IN, *entry_points()}):
        try:
            lines[name] = (_task_class(name).__doc__ or "").strip().split("\n")[0]
        except PluginError as error:
            lines[name] = str(error)
    return lines


def options(name: str) -> dict[str, str]:
    """The name of a task -> its options with their defaults as text, "" for a required option.

    A class that accepts further options has the entry "and its own" at the end.

    Raises:
        RequestError: for an unknown name.
        PluginError: for a plug-in that cannot be loaded.
    """
    parameters, open_ = _parameters(_task_class(name))
    defaults = {
        key: "" if parameter.default is parameter.empty else str(parameter.default)
        for key, parameter in parameters.items()
    }
    return {**defaults, "and its own": ""} if open_ else defaults


def make(text: str) -> Task:
    """A text such as "sudoku:side=4" or "mine.py:MyTask:level=3" -> the task; a file has to be a typed one.

    Raises:
        RequestError: for a name, file, class or option that does not exist, or a value that is not possible; for a
            file that was not typed.
        PluginError: if a plug-in cannot be loaded or made, or is not a task.
    """
    in_file = _IN_FILE.fullmatch(text)
    if in_file is not None:
        if not in_file["name"]:
            raise RequestError(f"'{text}' names no class; write {in_file['path']}:MyTask, with the class in that file.")
        name, rest = f"{in_file['path']}:{in_file['name']}", in_file["options"] or ""
        task_class = class_from_file(in_file["path"], in_file["name"])
    else:
        name, _, rest = text.partition(":")
        task_class = _task_class(name)
    arguments = _read(task_class, name, rest, text)
    with plugin_failure(f"The task '{text}'", "cannot be made"):
        task = task_class(**arguments)
        missing = [attribute for attribute in _REQUIRED if not hasattr(task, attribute)]
    if missing:
        raise PluginError(f"'{name}' is no task: it has no {' and no '.join(missing)}; see unmask.tasks.base.Task.")
    return task


def dry_task(text: str, splits: Sequence[str], folder: Path, length: int = 64) -> str:
    """The text of a task -> a text for a dry run: short answers, and problems in `folder` where it has none.

    The class of a published set of problems has a function `write_sample`, which writes a few problems of our own into
    an empty folder; the option `length` of such a task is shortened. Any other text stays as it is. Raises what
    `make` and `examples` raise.
    """
    name, _, rest = text.partition(":")
    write = getattr(_BUILT_IN.get(name), "write_sample", None)
    if write is None:
        return text
    options = [item for item in rest.split(",") if item and not item.startswith("length=")] + [f"length={length}"]
    try:
        task = make(f"{name}:{','.join(options)}")
        for split in splits:
            examples_of(task, split, 1)
    except UnmaskError:
        folder.mkdir(parents=True)
        write(folder)
        options = [item for item in options if not item.startswith("path=")] + [f"path={folder}"]
    return f"{name}:{','.join(options)}"


@checked
def make_typed(text: str) -> Task:
    """A text such as "sudoku:side=4" or "mine.py:MyTask:level=3" -> the task; the Python file that it names is run.

    Raises:
        RequestError: for a name, file, class or option that does not exist, or a value that is not possible.
        PluginError: if a plug-in cannot be loaded or made, or is not a task.
    """
    with typed([text]):
        return make(text)


def fingerprint(task: Task) -> str:
    """A task -> a text that changes when its problems do although its name does not; empty for built-in generators."""
    return f"{getattr(task, 'fingerprint', '')}{source_fingerprint(type(task))}"


def _task_class(name: str) -> type[Any]:
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    foreign = entry_points()
    if name not in foreign:
        raise RequestError(f"There is no task named '{name}'; {did_you_mean(name, {*_BUILT_IN, *foreign})}")
    return foreign[name]()


def _parameters(task_class: type[Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """A class -> its named parameters, and whether it accepts further keyword arguments."""
    parameters = inspect.signature(task_class).parameters.values()
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _read(task_class: type[Any], name: str, rest: str, text: str) -> dict[str, Any]:
    """The options "key=value,key=value" in `rest` -> keyword arguments of the class; `text` is quoted in errors."""
    parameters, open_ = _parameters(task_class)
    arguments: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise RequestError(f"'{item}' in the task '{text}' is not key=value; write for example {name}:key=value.")
        if key in arguments:
            raise RequestError(f"{key} is given twice in the task '{text}'; give it once.")
        if key in parameters:
            arguments[key] = _value(task_class, parameters[key], value, text)
        elif open_:
            arguments[key] = value
        else:
            known = did_you_mean(key, parameters) if parameters else "it has none."
            raise RequestError(f"The task '{name}' has no option '{key}'; {known}")
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in arguments:
            raise RequestError(f"The task '{name}' needs the option '{key}'; write {name}:{key}=...")
    return arguments


def _type(task_class: type[Any], parameter: inspect.Parameter) -> tuple[type[Any], Range | None]:
    """A parameter of a class -> int, float, bool or str: the type of its default or annotation; and its range."""
    types = (bool, int, float, str)
    try:
        hint: Any = typing.get_type_hints(task_class.__init__, include_extras=True).get(parameter.name, str)
    except Exception:  # an annotation that only a type checker can read
        hint = str
    limits = range_of(hint)
    if type(parameter.default) in types:
        return type(parameter.default), limits
    parts = (hint, *typing.get_args(hint))
    return next((candidate for candidate in types if candidate in parts), str), limits


def _value(task_class: type[Any], parameter: inspect.Parameter, value: str, text: str) -> Any:
    """The text of an option -> its value. Raises RequestError where it is none of the parameter's type and range."""
    value_type, limits = _type(task_class, parameter)
    name = f"{parameter.name} in the task '{text}'"
    if value_type in (int, float):
        return number_of(name, value, limits or (whole(-LARGEST) if value_type is int else real()))
    if value_type is bool and value.lower() not in _BOOLEANS:
        raise RequestError(f"{name} is '{value}'; give true or false.")
    return _BOOLEANS[value.lower()] if value_type is bool else value
