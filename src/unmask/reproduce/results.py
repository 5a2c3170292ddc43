"""Cells on disk -> records, and all records of a plan -> comparisons of policies with heuristics.

A cell is the file cells/NAME.json with its settings, its state and its result. All questions of a folder share their
cells. States: running, done, stopped, failed, impossible (the model or the task does not allow it, whatever the
number of attempts). A comparison is computed once for each measurement.
"""

__all__ = [
    "GROUPS",
    "Comparison",
    "Record",
    "Results",
    "is_same",
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
from typing import Annotated, Any, ClassVar

import numpy as np

from unmask.batch import ceil_div
from unmask.config import from_dict, to_dict
from unmask.disk.files import atomic_text
from unmask.disk.json import LINES_BYTES, fact_of, read_json
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
from unmask.ranges import Count, Natural, real
from unmask.reproduce.plan import CELLS, Cell, Heuristics, Measured, Plan, cell_type, needs
from unmask.reproduce.text_work import TEXT_RESULTS
from unmask.solve.settings import Setting
from unmask.solve.sweep import Outcome


@dataclass(frozen=True, slots=True)
class Record:
    """The state of a cell, and its result when it is done."""

    state: str = "not run"
    reason: str = ""
    seconds: float = 0.0
    result: Mapping[str, Any] = field(default_factory=dict[str, Any])
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of the libraries that made it."""


def _path(folder: Path, name: str) -> Path:
    return folder / "cells" / f"{name}.json"


def log_path(folder: Path, name: str) -> Path:
    """The file with the output of a cell's process."""
    return folder / "cells" / f"{name}.log"


def run_folder(folder: Path, training: str) -> Path:
    """The folder of a training."""
    return folder / "runs" / training


def write(folder: Path, cell: Cell, record: Record) -> None:
    """Write the file of a cell, atomically."""
    facts = {"kind": cell_type(cell), "cell": to_dict(cell), **asdict(record)}
    atomic_text(_path(folder, cell.name), json.dumps(facts, allow_nan=False) + "\n")


def read(folder: Path, cell: Cell) -> Record:
    """A cell of a plan -> its record. Raises ConfigError if the folder has another cell of that name."""
    facts = _facts(folder, cell.name)
    if facts is None:
        return Record()
    if not is_same(cell, facts.cell):
        raise ConfigError(
            f"{_path(folder, cell.name)} was made with other settings (rounds, prompts, --fast or a newer recipe); "
            "choose another folder with --out."
        )
    if facts.state == "done":  # what the reports read is there
        fact_of(asdict(facts), ["result"], _RESULTS[cell_type(cell)], _path(folder, cell.name), DataError, _ADVICE)
    return Record(facts.state, facts.reason, facts.seconds, facts.result, facts.versions)


def is_same(cell: Cell, recorded: Mapping[str, Any]) -> bool:
    """Whether a cell is the recorded one; a field that is newer than the record has its default there."""
    if recorded == to_dict(cell):
        return True
    try:
        return from_dict(type(cell), dict(recorded), cell.name) == cell
    except ConfigError:
        return False


def read_cell(folder: Path, name: str) -> Cell:
    """The name of a cell -> the cell with the settings that its file has. Raises DataError without such a file."""
    path = _path(folder, name)
    if not path.is_file():
        raise DataError(f"{folder} has no cell {name}.")
    facts = read_json(path, _Named, DataError, _ADVICE, LINES_BYTES)
    if facts.cell_type not in CELLS:
        raise DataError(f"{path} has no known cell; {_ADVICE}.")
    return from_dict(CELLS[facts.cell_type], facts.cell, str(path), DataError)


@dataclass(frozen=True, slots=True)
class _Named:
    """The part of a cell's file that says what cell it is."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"alias_generator": lambda name: _KEYS.get(name, name)}

    cell_type: str
    cell: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Trained:
    """The result of a `Training`."""

    rounds: Natural
    reason: str
    best: float
    best_round: Natural
    parameters: Count
    spent: "_Spent"


@dataclass(frozen=True, slots=True)
class _Spent:
    """Seconds of a training."""

    roll_seconds: float
    judge_seconds: float
    update_seconds: float


@dataclass(frozen=True, slots=True)
class _Swept:
    """The result of a `Heuristics`."""

    length: Count
    outcomes: list[Outcome]

    def __post_init__(self) -> None:
        sizes = {len(scores) for outcome in self.outcomes for scores in (outcome.scores, outcome.passes)}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError("outcomes of the same problems, at least one")


@dataclass(frozen=True, slots=True)
class _Measurement(_Swept):
    """The result of a `Measured`."""

    alphas: Annotated[list[float], real(0)]

    def __post_init__(self) -> None:
        _Swept.__post_init__(self)
        if len(self.alphas) != len(self.outcomes):
            raise ValueError("as many alphas as outcomes")


@dataclass(frozen=True, slots=True)
class _Timing:
    """The result of a `Timed`."""

    seconds: dict[str, Annotated[float, real(0, above=True)]]
    problems: Count
    share: float


_RESULTS: dict[str, type[Any]] = {
    **TEXT_RESULTS,
    "training": _Trained,
    "heuristics": _Swept,
    "measured": _Measurement,
    "timed": _Timing,
}


@dataclass(frozen=True, slots=True)
class _Facts:
    """The content of a cell's file, without the key "kind", the name of the cell's class in `plan.CELLS`."""

    cell: dict[str, Any]
    state: str
    reason: str
    seconds: float
    result: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict[str, str])


_ADVICE = "delete it to have the cell made again"
_KEYS = {"cell_type": "kind"}  # as it is written in a file


def _facts(folder: Path, name: str) -> _Facts | None:
    path = _path(folder, name)
    if not path.is_file():
        return None
    return read_json(path, _Facts, DataError, _ADVICE, LINES_BYTES)  # a cell has the scores of every problem


SAME = "position-free, same blocks"
GROUPS = (SAME, POSITION_FREE, POSITION_FREE_ANY, REFERENCES)
"""Groups of heuristics that policies are compared with; on the whole canvas the first two are equal."""


def outcomes_of(result: Mapping[str, Any]) -> list[Outcome]:
    """The result of a measurement -> the outcome of each setting."""
    return [
        Outcome(Setting(**row["setting"]), row["scores"], row["passes"], row["seconds"]) for row in result["outcomes"]
    ]


def shown(count: int) -> range:
    """A number of dial values -> indices of those that the tables of the report show, at most 20; table.csv has all."""
    return range(0, count, ceil_div(count, 20))


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """A measurement of policies compared with the heuristics of its arena."""

    cell: Measured
    alphas: tuple[float, ...]
    frontier: Frontier
    against: dict[str, Compared]
    """By the names of GROUPS; groups that have no settings are left out."""
    reversals: int
    best_rules: list[float]
    """The accuracy of the best position-free setting of the whole canvas at no more passes, for each alpha."""


class Results:
    """The records of all cells of a plan."""

    def __init__(self, plan: Plan) -> None:
        """All cells are "not run"."""
        self.plan = plan
        self.cells: dict[str, Cell] = {cell.name: cell for cell in plan.cells}
        self.records: dict[str, Record] = {name: Record() for name in self.cells}
        self.drawn = 0  # number of measurements in the picture
        self.tuned: tuple[int, list[list[str]]] = (0, [])  # number of tuned rules in the report, and its lines
        self.exit_code = 0  # 128 plus the number of the signal that interrupted the cells
        self._comparisons: dict[str, Comparison] = {}
        self._rules: dict[str, dict[str, Frontier]] = {}

    def set(self, name: str, record: Record) -> None:
        """Set the record of a cell."""
        self.records[name] = record

    def done(self, name: str) -> bool:
        """Whether the cell of that name is done."""
        return self.records[name].state == "done"

    def state(self, cell: Cell) -> str:
        """The state of a cell as the report shows it, with the reason if it is not done."""
        record = self.records[cell.name]
        if record.state == "blocked":
            return f"not run: {record.reason}"
        if record.state == "stopped":
            return "not run: stopped; run the command again to resume"
        if record.state == "not run":
            failed = [name for name in self._ancestors(cell) if self.records[name].state in ("failed", "impossible")]
            return f"not run: it needs {failed[0]}, which is {self.records[failed[0]].state}" if failed else "not run"
        return f"{record.state}: {record.reason}" if record.reason else record.state

    def _ancestors(self, cell: Cell) -> list[str]:
        """Names of the cells that have to be done before a cell, directly or indirectly."""
        return [ancestor for name in needs(cell) for ancestor in (*self._ancestors(self.cells[name]), name)]

    @property
    def heuristics(self) -> list[Heuristics]:
        """The cells of heuristics that are done."""
        return [cell for cell in self.cells.values() if isinstance(cell, Heuristics) and self.done(cell.name)]

    def length(self, name: str) -> int:
        """L, the most positions that a problem of a cell's arena has to fill."""
        return int(self.records[name].result["length"])

    def problems(self, name: str) -> int:
        """The number of test problems of a cell's arena."""
        return len(self.records[name].result["outcomes"][0]["scores"])

    def rules(self, name: str) -> dict[str, Frontier]:
        """A `Heuristics` cell -> the frontier of each group of rules and of each block size that policies use there."""
        if name not in self._rules:
            outcomes, length = outcomes_of(self.records[name].result), self.length(name)
            groups = grouped(outcomes)
            for size in self._blocks(name):
                in_blocks = [rule for rule in groups.get(POSITION_FREE_ANY, []) if rule.setting.block_size == size]
                groups |= {f"position-free, blocks of {size}": in_blocks} if in_blocks else {}
            self._rules[name] = {group: frontier(rules, length) for group, rules in groups.items()}
        return self._rules[name]

    def _blocks(self, name: str) -> list[int]:
        """Block sizes of the measurements that are compared with a `Heuristics` cell."""
        used = {cell.block_size for cell in self.cells.values() if isinstance(cell, Measured) and cell.against == name}
        return sorted(size for size in used if size is not None)

    def comparison(self, cell: Measured) -> Comparison | None:
        """A measurement -> its comparison; None if it or the measurement of its heuristics is not done."""
        if not (self.done(cell.name) and self.done(cell.against)):
            return None
        if cell.name not in self._comparisons:
            self._comparisons[cell.name] = self._compare(cell)
        return self._comparisons[cell.name]

    def _compare(self, cell: Measured) -> Comparison:
        result = self.records[cell.name].result
        policies, length = outcomes_of(result), int(result["length"])
        rules = outcomes_of(self.records[cell.against].result)
        groups = grouped(rules)
        block = policies[0].setting.block_size
        groups[SAME] = [rule for rule in groups.get(POSITION_FREE_ANY, []) if rule.setting.block_size == block]
        point = one_pass(rules)
        against = {name: compare(policies, groups[name], length, point=point) for name in GROUPS if groups.get(name)}
        front = frontier(policies, length)
        free = self.rules(cell.against).get(POSITION_FREE)
        best_rules = [np.nan if free is None else _best_accuracy(free, passes) for passes in front.passes]
        return Comparison(cell, tuple(result["alphas"]), front, against, reversals(policies), best_rules)


def _best_accuracy(rules: Frontier, passes: float) -> float:
    """The best accuracy of rules that take at most `passes` passes; 0 without such a rule."""
    return float(rules.accuracy[rules.passes <= passes + 1e-9].max(initial=0.0))
