"""Cells on disk: cells/NAME.json each, with what it was to be, how far it is and what it found.

All questions of a folder share their cells. States: running, done, stopped, failed, impossible (a request that the
model or the task cannot meet; no later call will change that).

What the cells have found, read together: comparisons, worked out once for each measurement.
"""

__all__ = [
    "GROUPS",
    "Judged",
    "Record",
    "Results",
    "log_path",
    "outcomes_of",
    "read",
    "read_cell",
    "run_folder",
    "shown",
    "write",
]

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unmask.batch import ceil_div
from unmask.config import from_dict, to_dict
from unmask.disk.files import atomic_text
from unmask.disk.json import read_json
from unmask.errors import ConfigError, DataError
from unmask.eval.frontier import (
    POSITION_FREE,
    POSITION_FREE_ANY,
    REFERENCES,
    Compared,
    Frontier,
    compare,
    frontier,
    grouped,
    one_pass,
    reversals,
)
from unmask.reproduce.plan import CELLS, Cell, Heuristics, Measured, Question, kind_of, needs
from unmask.solve.settings import Setting
from unmask.solve.sweep import Outcome


@dataclass(frozen=True, slots=True)
class Record:
    """A cell as it is known."""

    state: str = "not run"
    reason: str = ""
    seconds: float = 0.0
    result: Mapping[str, Any] = field(default_factory=dict[str, Any])


def _path(folder: Path, name: str) -> Path:
    return folder / "cells" / f"{name}.json"


def log_path(folder: Path, name: str) -> Path:
    """What the process of a cell has said."""
    return folder / "cells" / f"{name}.log"


def run_folder(folder: Path, training: str) -> Path:
    """Where a training is."""
    return folder / "runs" / training


def write(folder: Path, cell: Cell, record: Record) -> None:
    """Put a cell on disk, whole or not at all."""
    facts = _Facts(kind_of(cell), to_dict(cell), record.state, record.reason, record.seconds, dict(record.result))
    atomic_text(_path(folder, cell.name), json.dumps(asdict(facts), allow_nan=False) + "\n")


def read(folder: Path, cell: Cell) -> Record:
    """How far a cell of a plan is. Raises ConfigError where the folder has another cell of that name."""
    facts = _facts(folder, cell.name)
    if facts is None:
        return Record()
    if facts.cell != to_dict(cell):
        raise ConfigError(
            f"{_path(folder, cell.name)} was made with other settings (rounds, prompts, --quick or a newer recipe); "
            "choose another folder with --out."
        )
    return Record(facts.state, facts.reason, facts.seconds, facts.result)


def read_cell(folder: Path, name: str) -> Cell:
    """The cell of that name, as it was begun."""
    facts = _facts(folder, name)
    if facts is None:
        raise DataError(f"{folder} has no cell {name}.")
    return from_dict(CELLS[facts.kind], facts.cell, str(_path(folder, name)))


@dataclass(frozen=True, slots=True)
class _Facts:
    """What stands in the file of a cell."""

    kind: str
    cell: dict[str, Any]
    state: str
    reason: str
    seconds: float
    result: dict[str, Any]


def _facts(folder: Path, name: str) -> _Facts | None:
    path = _path(folder, name)
    if not path.is_file():
        return None
    return read_json(path, _Facts, DataError, "delete it to have the cell made again")


SAME = "position-free, same blocks"
GROUPS = (SAME, POSITION_FREE, POSITION_FREE_ANY, REFERENCES)
"""What policies are compared with; on the whole canvas the first two are one."""


def outcomes_of(result: Mapping[str, Any]) -> list[Outcome]:
    """The settings of a measurement."""
    return [
        Outcome(Setting(**one["setting"]), one["scores"], one["passes"], one["seconds"]) for one in result["outcomes"]
    ]


def shown(places: int) -> range:
    """Those of so many places of a dial that tables for people have, 20 at most; table.csv has them all."""
    return range(0, places, ceil_div(places, 20))


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A measurement of policies beside the heuristics of its arena."""

    cell: Measured
    alphas: tuple[float, ...]
    found: Frontier
    against: dict[str, Compared]
    """By the names of GROUPS; without those that have no settings."""
    reversals: int
    under: list[float]
    """The accuracy of the best position-free setting of the whole canvas at no more passes, for each alpha."""


class Results:
    """Everything that is done."""

    def __init__(self, plan: Question) -> None:
        """Nothing is known yet."""
        self.plan = plan
        self.records: dict[str, Record] = {cell.name: Record() for cell in plan.cells}
        self.drawn = 0  # measurements that are in the picture
        self.interrupted = False
        self._judged: dict[str, Judged] = {}
        self._rules: dict[str, dict[str, Frontier]] = {}

    def set(self, name: str, record: Record) -> None:
        """A cell is further than it was."""
        self.records[name] = record

    def done(self, name: str) -> bool:
        return self.records[name].state == "done"

    def state(self, cell: Cell) -> str:
        """How far a cell is, with the reason where it is not done."""
        record = self.records[cell.name]
        if record.state == "blocked":
            return f"not run: {record.reason}"
        if record.state == "stopped":
            return "not run: stopped; say the command again to go on"
        if record.state == "not run":
            lost = [name for name in self._before(cell) if self.records[name].state in ("failed", "impossible")]
            return f"not run: it needs {lost[0]}, which is {self.records[lost[0]].state}" if lost else "not run"
        return f"{record.state}: {record.reason}" if record.reason else record.state

    def _before(self, cell: Cell) -> list[str]:
        """Everything that has to be done before a cell, however far back."""
        by_name = {one.name: one for one in self.plan.cells}
        return [each for name in needs(cell) for each in (*self._before(by_name[name]), name)]

    @property
    def heuristics(self) -> list[Heuristics]:
        """Those that are done."""
        return [cell for cell in self.plan.cells if isinstance(cell, Heuristics) and self.done(cell.name)]

    def length(self, name: str) -> int:
        """L, the most positions that a problem of the arena has."""
        return int(self.records[name].result["length"])

    def problems(self, name: str) -> int:
        """How many test problems an arena has."""
        return len(self.records[name].result["outcomes"][0]["scores"])

    def rules(self, name: str) -> dict[str, Frontier]:
        """The frontier of each group of heuristics in an arena, and of each block size that policies used there."""
        if name not in self._rules:
            outcomes, length = outcomes_of(self.records[name].result), self.length(name)
            groups = grouped(outcomes)
            for size in self._blocks(name):
                some = [one for one in groups.get(POSITION_FREE_ANY, []) if one.setting.block_size == size]
                groups |= {f"position-free, blocks of {size}": some} if some else {}
            self._rules[name] = {group: frontier(some, length) for group, some in groups.items()}
        return self._rules[name]

    def _blocks(self, name: str) -> list[int]:
        used = {one.block_size for one in self.plan.cells if isinstance(one, Measured) and one.against == name}
        return sorted(size for size in used if size is not None)

    def judged(self, cell: Measured) -> Judged | None:
        """None where the measurement, or that of its heuristics, is not done."""
        if not (self.done(cell.name) and self.done(cell.against)):
            return None
        if cell.name not in self._judged:
            self._judged[cell.name] = self._judge(cell)
        return self._judged[cell.name]

    def _judge(self, cell: Measured) -> Judged:
        result = self.records[cell.name].result
        mine, length = outcomes_of(result), int(result["length"])
        theirs = outcomes_of(self.records[cell.against].result)
        groups = grouped(theirs)
        block = mine[0].setting.block_size
        groups[SAME] = [one for one in groups.get(POSITION_FREE_ANY, []) if one.setting.block_size == block]
        point = one_pass(theirs)
        against = {name: compare(mine, groups[name], length, point=point) for name in GROUPS if groups.get(name)}
        found = frontier(mine, length)
        free = self.rules(cell.against).get(POSITION_FREE)
        under = [np.nan if free is None else _best_under(free, at) for at in found.passes]
        return Judged(cell, tuple(result["alphas"]), found, against, reversals(mine), under)


def _best_under(rules: Frontier, passes: float) -> float:
    return float(rules.accuracy[rules.passes <= passes + 1e-9].max(initial=0.0))
