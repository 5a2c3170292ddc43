"""The options of a policy as typed, and what a model adds to them."""

__all__ = ["Context", "Options"]

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmask.errors import RequestError, did_you_mean
from unmask.process import Schedule, make_schedule


@dataclass(frozen=True, slots=True)
class Context:
    """What a model adds to a name: its schedule, and how often its tokens occur."""

    schedule: Schedule | None = None
    unigram: Callable[[], Tensor] | None = None


class Options:
    """The options of a name as typed, taken one by one; what each may be is said in the sentence that refuses it."""

    def __init__(self, given: dict[str, str], context: Context) -> None:
        self.given, self.context = given, context

    def number(self, name: str, default: float) -> float:
        """A number. Raises RequestError for what is none."""
        text = self.given.get(name, str(default))
        with suppress(ValueError):
            if abs(float(text)) < float("inf"):
                return float(text)
        raise RequestError(f"{name} is '{text}'; give a number, for example {default:g}.")

    def count(self, name: str, default: int) -> int:
        """A whole number of at least 1. Raises RequestError for what is none."""
        text = self.given.get(name, str(default))
        if not text.isdecimal() or int(text) < 1:
            raise RequestError(f"{name} is '{text}'; give a whole number of at least 1.")
        return int(text)

    def steps(self) -> int | None:
        """The option `steps`: a whole number, or inf (also by leaving it out) for a pass for every position."""
        text = self.given.get("steps", "inf")
        if text in ("inf", "none"):
            return None
        if not text.isdecimal() or int(text) < 1:
            raise RequestError(f"steps is '{text}'; give a whole number of at least 1, or inf.")
        return int(text)

    def choice(self, name: str, default: str, known: tuple[str, ...]) -> Any:
        """One of some words. Raises RequestError for another."""
        text = self.given.get(name, default)
        if text not in known:
            raise RequestError(f"{name} is '{text}'; {did_you_mean(text, known)}")
        return text

    def schedule(self, default: Schedule | None) -> Schedule | None:
        """The option `schedule`, or the model's."""
        named = self.given.get("schedule")
        return make_schedule(named) if named else self.context.schedule or default

    def unigram(self) -> Tensor:
        """Frequencies of the tokens: from the file `unigram` (a JSON list, one number a token id), or the model's."""
        path = self.given.get("unigram")
        if path is None:
            if self.context.unigram is None:
                raise RequestError("pc needs the frequencies of the tokens; give unigram=FILE, a JSON list of numbers.")
            return self.context.unigram()
        with suppress(OSError, ValueError, TypeError, RuntimeError):
            table = torch.tensor(json.loads(Path(path).read_text(encoding="utf-8"))).double()
            if table.ndim == 1 and (table >= 0).all() and 0 < float(table.sum()) < float("inf"):
                return table / table.sum()
        raise RequestError(f"unigram is '{path}'; give a JSON file with a list of one number a token id, none below 0.")
