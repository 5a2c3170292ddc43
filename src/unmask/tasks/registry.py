"""Names for tasks: what `--task NAME` or `--task NAME:key=value,key=value` means, wherever text arrives."""

__all__ = ["make", "names"]

from dataclasses import fields
from typing import Any

from unmask.errors import RequestError, did_you_mean
from unmask.tasks.automaton import Automaton
from unmask.tasks.base import Task
from unmask.tasks.sudoku import Sudoku

_TASKS: dict[str, type[Any]] = {"automaton": Automaton, "sudoku": Sudoku}


def names() -> dict[str, str]:
    """Every task's name with its one line."""
    modules = {name: __import__(kind.__module__, fromlist=["__doc__"]) for name, kind in sorted(_TASKS.items())}
    return {name: (module.__doc__ or "").splitlines()[0] for name, module in modules.items()}


def make(text: str) -> Task:
    """The task that `text` names, for example "sudoku:side=4". Raises RequestError for what cannot be."""
    name, _, rest = text.partition(":")
    if name not in _TASKS:
        raise RequestError(f"There is no task named '{name}'; {did_you_mean(name, _TASKS)}")
    kinds = {field.name: type(field.default) for field in fields(_TASKS[name])}
    options: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise RequestError(f"'{item}' in the task '{text}' is not key=value; write for example {name}:key=value.")
        if key not in kinds:
            raise RequestError(f"The task '{name}' has no option '{key}'; {did_you_mean(key, kinds)}")
        try:
            options[key] = kinds[key](value)
        except ValueError:
            raise RequestError(f"{key} is '{value}' in the task '{text}'; give a {kinds[key].__name__}.") from None
    return _TASKS[name](**options)
