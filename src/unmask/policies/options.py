"""Texts of a policy's options -> numbers, words, schedules and frequencies, with defaults from the model."""

__all__ = ["Context", "Options", "paced", "plugin_line"]

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unmask.disk.json import NotJson, parse_json, read_text
from unmask.errors import RequestError, did_you_mean
from unmask.policies.base import UnmaskingPolicy
from unmask.policies.pace import read_pace
from unmask.policies.top_k import PACES, Pace, Power, Score, TopK
from unmask.process import Linear, Schedule, make_schedule
from unmask.ranges import Count, number_of, real, whole


@dataclass(frozen=True, slots=True)
class Context:
    """Defaults from a model: its schedule, a function that returns the frequencies of its tokens (V,), and what its
    logits are (`DiTSettings.parameterization`)."""

    schedule: Schedule | None = None
    unigram: Callable[[], Tensor] | None = None
    parameterization: str = "subs"


def plugin_line(point: Any) -> str:
    """Entry point -> the first line of its docstring and its package, or the reason why it cannot be loaded."""
    source = f"(from the package {point.dist.name})" if point.dist else "(of another package)"
    try:
        lines = (point.load().__doc__ or "").strip().splitlines()
    except Exception as error:
        return f"Cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())} {source}"
    return f"{lines[0]} {source}" if lines else source


class Options:
    """The options of a policy as typed, in `values`; each method converts one of them or raises RequestError."""

    def __init__(self, values: dict[str, str], context: Context) -> None:
        self.values, self.context = values, context

    def number(self, name: str, default: float) -> float:
        """The option `name` as a number, finite; the policy checks its range. Raises RequestError for another text."""
        return number_of(name, self.values.get(name, str(default)), real(hint=f"for example {default:g}"))

    def count(self, name: str, default: int) -> int:
        """The option `name` as a whole number of at least 1. Raises RequestError for another text."""
        return int(number_of(name, self.values.get(name, str(default)), Count))

    def steps(self) -> int | None:
        """The option `steps`: a whole number; None for inf, the default: one pass for every position."""
        text = self.values.get("steps", "inf")
        return None if text in ("inf", "none") else int(number_of("steps", text, whole(1, hint="or inf")))

    def choice(self, name: str, default: str, known: tuple[str, ...]) -> Any:
        """The option `name`, one of the words `known`. Raises RequestError for another."""
        text = self.values.get(name, default)
        if text not in known:
            raise RequestError(f"{name} is '{text}'; {did_you_mean(text, known)}")
        return text

    def schedule(self) -> Schedule:
        """The schedule that the option `schedule` names, else the model's, else the linear one."""
        name = self.values.get("schedule")
        return make_schedule(name) if name else self.context.schedule or Linear()

    def unigram(self) -> Tensor:
        """Token frequencies (V,), summing to 1, from the file `unigram` (a JSON list) or else from the model."""
        path = self.values.get("unigram")
        if path is None:
            if self.context.unigram is None:
                raise RequestError("pc needs the frequencies of the tokens; give unigram=FILE, a JSON list of numbers.")
            return self.context.unigram()
        with suppress(OSError, NotJson, RuntimeError):  # RuntimeError: a whole number beyond 64 bits
            table = torch.tensor(parse_json(read_text(path), list[int | float])).double()
            if (table >= 0).all() and 0 < float(table.sum()) < float("inf"):
                return table / table.sum()
        raise RequestError(f"unigram is '{path}'; give a JSON file with a list of one number a token id, none below 0.")


def paced(score: Score, name: str, options: Options) -> UnmaskingPolicy:
    """Score -> TopK with the options `pace`, `power` and `steps`."""
    pace, steps = options.values.get("pace"), options.steps()
    if "power" in options.values and pace != "power":
        raise RequestError("The option power goes with pace=power only; add that, or leave power out.")
    if pace is not None and pace.endswith(".json"):
        if steps is None and "steps" in options.values:
            raise RequestError(
                f"A saved pace has its own passes; give their number as steps, or leave it out with {pace}."
            )
        saved = read_pace(pace, steps)
        return TopK(score, len(saved.sizes), saved)
    if pace is not None and steps is None:
        raise RequestError(f"pace={pace} needs steps; give for example {name}:steps=16,pace={pace}.")
    return TopK(score, steps, _pace(pace or "linear", options))


def _pace(name: str, options: Options) -> Pace:
    """Name -> pace; pace=power takes its exponent from the option `power`."""
    if name == "power":
        return Power(options.number("power", 2.0))
    if name not in PACES:
        hint = did_you_mean(name, [*PACES, "power"]).removesuffix(".")
        end = "" if hint.startswith("did") else ", or a file that ends in .json."
        raise RequestError(f"There is no pace named '{name}'; {hint}{end}")
    return PACES[name]
