"""Tasks of other people: a class in a file, `path/to/file.py:MyTask`, or an entry point in the group `unmask.tasks`.

Such a class is made with its options as keyword arguments; see `tasks.base.Task` for what it has to do, and run
`unmask.testing.check_task` over it. A package offers one with

    [project.entry-points."unmask.tasks"]
    my-task = "my_package.tasks:MyTask"
"""

__all__ = ["class_from_file", "entry_points", "source_fingerprint"]

import hashlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unmask.errors import PluginError, RequestError, did_you_mean

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
