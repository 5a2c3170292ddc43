"""What the cells have found, read together: comparisons, worked out once for each measurement."""

__all__ = ["GROUPS", "Judged", "Results", "outcomes_of", "shown"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from unmask.eval.compare import BLIND, BLIND_ANY, REFERENCES, Compared, compare, grouped, one_pass, reversals
from unmask.eval.frontier import Frontier, frontier
from unmask.reproduce.plan import Cell, Heuristics, Measured, Plan, needs
from unmask.reproduce.store import Record
from unmask.solve.sweep import Outcome, Setting

SAME = "position-blind, same blocks"
GROUPS = (SAME, BLIND, BLIND_ANY, REFERENCES)
"""What policies are compared with; on the whole canvas the first two are one."""


def outcomes_of(result: Mapping[str, Any]) -> list[Outcome]:
    """The settings of a measurement."""
    return [
        Outcome(Setting(**one["setting"]), one["scores"], one["passes"], one["seconds"]) for one in result["outcomes"]
    ]


def shown(places: int) -> range:
    """Those of so many places of a dial that tables for people have, 20 at most; table.csv has them all."""
    return range(0, places, -(-places // 20))


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
    """The accuracy of the best position-blind setting of the whole canvas at no more passes, for each alpha."""


class Results:
    """Everything that is done."""

    def __init__(self, plan: Plan) -> None:
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
                some = [one for one in groups.get(BLIND_ANY, []) if one.setting.block_size == size]
                groups |= {f"position-blind, blocks of {size}": some} if some else {}
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
        groups[SAME] = [one for one in groups.get(BLIND_ANY, []) if one.setting.block_size == block]
        point = one_pass(theirs)
        against = {name: compare(mine, groups[name], length, point=point) for name in GROUPS if groups.get(name)}
        found = frontier(mine, length)
        blind = self.rules(cell.against).get(BLIND)
        under = [np.nan if blind is None else _best_under(blind, at) for at in found.passes]
        return Judged(cell, tuple(result["alphas"]), found, against, reversals(mine), under)


def _best_under(rules: Frontier, passes: float) -> float:
    return float(rules.accuracy[rules.passes <= passes + 1e-9].max(initial=0.0))
