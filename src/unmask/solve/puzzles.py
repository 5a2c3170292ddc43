"""The puzzle sets of the demo: the same problems decoded by several policies, one pass of each policy in turn."""

__all__ = [
    "DIALS",
    "LEARNED",
    "PUZZLE_SETS",
    "DialPoint",
    "PolicyRun",
    "PuzzleSet",
    "Puzzles",
    "decode_in_turn",
    "dial_points",
    "open_puzzles",
    "policy_runs",
    "wilson",
]

import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from unmask.api import Model
    from unmask.decode.rows import Filled, Snapshot
    from unmask.run.machine import DtypeName
    from unmask.solve.problems import Problem
    from unmask.tasks.base import Task

DIALS = (0.0, 0.4, 0.7, 0.8, 0.85, 0.9, 1.0)
LEARNED = "learned"
_DIAL = 0.25  # dial value of the learned policy: the default of the library
_GROUP, _SHOWN = 6, 24  # puzzles in a batch of which the first is shown; more than _SHOWN puzzles are one large batch
_SECONDS = 30.0  # the longest that the puzzles of a set may take, where their number was left open


@dataclass(frozen=True, slots=True)
class PuzzleSet:
    """A bundled denoiser, its task, and the thresholds of the rules that are compared on it."""

    title: str
    checkpoint: str
    task: str
    threshold: float
    prefix: float
    columns: int
    """Characters in a line of the drawing."""

    @property
    def heuristics(self) -> tuple[tuple[str, str, str], ...]:
        """(label, short text of the options, policy) of each rule that needs no training."""
        return (
            ("random", "one a pass", "random"),
            ("confidence", "one a pass", "confidence"),
            ("threshold", f"above {self.threshold:g}", f"threshold:threshold={self.threshold:g}"),
            ("prefix", f"above {self.prefix:g}", f"prefix:threshold={self.prefix:g}"),
        )


# The thresholds are chosen from `unmask frontier automaton_eos --task automaton:traces=long --policies threshold prefix
# --blocks full --split valid` and the same with `sudoku --task sudoku`: near the best accuracy at the fewest passes. On
# 256 long traces threshold 0.995 gives 0.77 at 11.1 passes and prefix 0.95 gives 0.93 at 9.7; on 96 Sudokus threshold
# 0.95 gives 0.97 at 5.0 passes, and no prefix rule gets above 0.4.
PUZZLE_SETS = (
    PuzzleSet("Automaton traces", "automaton_eos", "automaton:traces=long", 0.995, 0.95, 12),
    PuzzleSet("Sudoku 6x6", "sudoku", "sudoku", 0.95, 0.95, 6),
)


class Puzzles(NamedTuple):
    """A loaded puzzle set: model, task, problems, and a seed for each problem."""

    model: "Model"
    task: "Task"
    problems: "list[Problem]"
    seeds: list[int]


@dataclass(slots=True)
class PolicyRun:
    """A policy and its results so far: scores and passes of each puzzle, and the canvas of the shown puzzle."""

    label: str
    options: str
    policy: str
    verdicts: dict[int, float] = field(default_factory=dict[int, float])
    """The score of each finished puzzle, by its index."""
    passes: dict[int, int] = field(default_factory=dict[int, int])
    """The passes of each finished puzzle, by its index."""
    tokens: list[int] = field(default_factory=list[int])
    """Token ids of the shown puzzle."""
    fresh: set[int] = field(default_factory=set[int])
    """Positions of the shown puzzle that the last pass wrote."""
    shown_passes: int = 0
    """Passes on the shown puzzle so far."""

    @property
    def accuracy(self) -> float:
        """Mean score of the finished puzzles."""
        return sum(self.verdicts.values()) / max(len(self.verdicts), 1)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy (Wilson)."""
        return wilson(self.accuracy, len(self.verdicts))

    @property
    def mean_passes(self) -> float:
        """Mean number of passes of the finished puzzles."""
        return sum(self.passes.values()) / max(len(self.passes), 1)

    def show(self, row: Sequence[int]) -> None:
        """Show a new puzzle, whose tokens are `row`."""
        self.tokens, self.fresh, self.shown_passes = list(row), set(), 0

    def facts(self) -> dict[str, Any]:
        """The results as plain data, for JSON."""
        return {
            "label": self.label,
            "policy": self.policy,
            "accuracy": self.accuracy,
            "accuracy_95": list(self.interval),
            "passes": self.mean_passes,
        }


class DialPoint(NamedTuple):
    """Mean accuracy with its 95 % interval, and mean passes, of a learned policy at a dial value."""

    dial: float
    accuracy: float
    interval: tuple[float, float]
    passes: float


def wilson(share: float, count: int) -> tuple[float, float]:
    """A share of `count` independent trials -> its 95 % interval by Wilson's formula, which is right near 0 and 1."""
    if not count:
        return 0.0, 1.0
    z = 1.96
    centre, scale = share + z * z / (2 * count), 1 + z * z / count
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def open_puzzles(
    puzzle_set: PuzzleSet, count: int, seed: int, *, device: str, dtype: "DtypeName", threads: int | None
) -> Puzzles:
    """Puzzle set -> its model and `count` test problems."""
    from unmask.api import load
    from unmask.disk.folders import bundled
    from unmask.noise import derive
    from unmask.solve.problems import problems
    from unmask.tasks.base import examples_of
    from unmask.tasks.registry import make

    folder = bundled()[puzzle_set.checkpoint]  # not by name, which a path in the working folder may have too
    model = load(str(folder), device=device, dtype=dtype, threads=threads)
    task = make(puzzle_set.task)
    rows = problems(examples_of(task, "test", count, seed), model.tokenizer)
    return Puzzles(model, task, rows, [derive(seed, number) for number in range(len(rows))])


def policy_runs(puzzle_set: PuzzleSet) -> list[PolicyRun]:
    """Puzzle set -> a run of each heuristic, and of the learned policy where one is bundled for the denoiser."""
    from unmask.disk.folders import bundled_policies

    runs = [PolicyRun(*rule) for rule in puzzle_set.heuristics]
    if puzzle_set.checkpoint in bundled_policies():
        name = f"learned:from={puzzle_set.checkpoint},dial={_DIAL:g}"
        runs.append(PolicyRun(LEARNED, f"dial {_DIAL:g}", name))
    return runs


def decode_in_turn(puzzles: Puzzles, runs: Sequence[PolicyRun], *, limited: bool = False) -> Iterator[tuple[int, bool]]:
    """Decode the puzzles, one pass of each policy in turn; yields (index of the shown puzzle, its group is finished).

    Puzzles are decoded in groups. The results go into `runs` and equal those of `problems.solve`, because rows are
    independent of each other. Where the work is `limited`, puzzles that would take this machine too long are removed
    from `puzzles` before the last, large group.
    """
    began, first = time.perf_counter(), 0
    while first < len(puzzles.problems):
        if limited and first == _SHOWN:
            kept = max(_SHOWN, int(_SHOWN * _SECONDS / max(time.perf_counter() - began, 1e-9)))
            del puzzles.problems[kept:], puzzles.seeds[kept:]
        size = _GROUP if first < _SHOWN else len(puzzles.problems) - first
        group = range(first, min(first + size, len(puzzles.problems)))
        if not group:
            return
        for run in runs:
            run.show(puzzles.problems[first].row)
        unfinished = [_passes(puzzles, run, group) for run in runs]
        while unfinished:
            yield first, False
            unfinished = [passes for passes in unfinished if next(passes, None) is not None]
        yield first, True
        first = group.stop


def _passes(puzzles: Puzzles, run: PolicyRun, group: range) -> Iterator[bool]:
    """Decode a group of puzzles by one policy, with the results in `run`; yields True after each pass."""
    from unmask.solve.problems import scored

    tokenizer = puzzles.model.tokenizer
    problems = [puzzles.problems[number] for number in group]
    stream = _stream(puzzles, run.policy, group)
    unsolved = set(range(len(problems)))
    for snapshot in stream:
        passes: list[int] = snapshot.canvas.passes.tolist()
        rows: list[list[int]] = snapshot.canvas.tokens.tolist()
        for line, row in enumerate(snapshot.rows):
            tokens = rows[line][: snapshot.lengths[line]]
            if row == 0:
                changed = {at for at, (old, new) in enumerate(zip(run.tokens, tokens, strict=True)) if old != new}
                run.tokens, run.fresh, run.shown_passes = tokens, changed, passes[line]
            if row in unsolved and tokenizer.mask_id not in tokens:
                unsolved.remove(row)
                (run.verdicts[group[row]],) = scored(puzzles.task, [problems[row]], [tokens], tokenizer)
                run.passes[group[row]] = passes[line]
        yield True
    run.fresh = set()


def _stream(
    puzzles: Puzzles, policy: str, numbers: Sequence[int], dials: Sequence[float] | None = None
) -> "Generator[Snapshot, None, list[Filled]]":
    """Decode the puzzles of these indices by one policy at temperature 0; `dials` is a dial value for each."""
    from unmask.decode.options import RowOptions
    from unmask.decode.rows import decode_rows

    return decode_rows(
        puzzles.model.decoder(policy, temperature=0.0),
        [puzzles.problems[number].row for number in numbers],
        [puzzles.seeds[number] for number in numbers],
        pad_id=puzzles.model.tokenizer.pad_id,
        batch=256,
        device=puzzles.model.device,
        options=RowOptions(dial=dials),
    )


def dial_points(puzzles: Puzzles, policy: str) -> list[DialPoint]:
    """Learned policy -> its accuracy and passes at each of `DIALS`, decoded in one request with a dial value a row."""
    from unmask.decode.rows import run_to_end
    from unmask.solve.problems import scored

    count = len(puzzles.problems)
    numbers, dials = list(range(count)) * len(DIALS), [dial for dial in DIALS for _ in range(count)]
    filled = run_to_end(_stream(puzzles, policy, numbers, dials))
    problems, rows = [puzzles.problems[number] for number in numbers], [row.tokens for row in filled]
    scores = scored(puzzles.task, problems, rows, puzzles.model.tokenizer)
    points: list[DialPoint] = []
    for index, dial in enumerate(DIALS):
        part = slice(index * count, (index + 1) * count)
        accuracy, passes = sum(scores[part]) / count, sum(row.passes for row in filled[part]) / count
        points.append(DialPoint(dial, accuracy, wilson(accuracy, count), passes))
    return points
