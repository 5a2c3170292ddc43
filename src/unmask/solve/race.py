"""The same problems decoded by several policies, a pass of each in turn; accuracy and passes of each as they come."""

__all__ = [
    "COURSES",
    "DIALS",
    "LEARNED",
    "Course",
    "Place",
    "Puzzles",
    "Runner",
    "open_puzzles",
    "race",
    "runners_of",
    "turn_dial",
]

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
_DIAL = 0.25  # of the learned policy in the race: what it has where nobody says another
_TOGETHER = 6  # puzzles that are decoded side by side; the first of them is shown


@dataclass(frozen=True, slots=True)
class Course:
    """A bundled denoiser, its task, and the thresholds that suit it."""

    title: str
    checkpoint: str
    task: str
    threshold: float
    prefix: float
    share: float
    """How many puzzles of all that were asked for."""
    columns: int
    """Characters a line."""

    @property
    def heuristics(self) -> tuple[tuple[str, str, str], ...]:
        """Label, options in short and policy of each rule that needs no training."""
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
COURSES = (
    Course("Automaton traces", "automaton_eos", "automaton:traces=long", 0.995, 0.95, 1.0, 12),
    Course("Sudoku 6x6", "sudoku", "sudoku", 0.95, 0.95, 0.5, 6),
)


class Puzzles(NamedTuple):
    """What all policies of a course are given."""

    model: "Model"
    task: "Task"
    problems: "list[Problem]"
    seeds: list[int]


@dataclass(slots=True)
class Runner:
    """A policy and how far it has come: scores and passes, puzzle by puzzle, and the puzzle that is shown."""

    label: str
    options: str
    policy: str
    verdicts: dict[int, float] = field(default_factory=dict[int, float])
    """The score of each puzzle that is finished, by number."""
    passes: dict[int, int] = field(default_factory=dict[int, int])
    seconds: float = 0.0
    """In decoding; the verifier and the drawing are not counted."""
    tokens: list[int] = field(default_factory=list[int])
    fresh: set[int] = field(default_factory=set[int])
    """Positions of the shown puzzle that the last pass wrote."""
    spent: int = 0
    """Passes on the shown puzzle."""

    @property
    def accuracy(self) -> float:
        """Mean score so far."""
        return sum(self.verdicts.values()) / max(len(self.verdicts), 1)

    @property
    def mean_passes(self) -> float:
        """Mean passes a puzzle so far."""
        return sum(self.passes.values()) / max(len(self.passes), 1)

    def show(self, row: Sequence[int]) -> None:
        """Begin with a puzzle that has nothing written yet."""
        self.tokens, self.fresh, self.spent = list(row), set(), 0

    def facts(self) -> dict[str, Any]:
        """For programs."""
        return {
            "label": self.label,
            "policy": self.policy,
            "accuracy": self.accuracy,
            "passes": self.mean_passes,
            "seconds": self.seconds,
        }


class Place(NamedTuple):
    """What one place of the dial gave."""

    dial: float
    accuracy: float
    passes: float


def open_puzzles(
    course: Course, count: int, seed: int, *, device: str, dtype: "DtypeName", threads: int | None
) -> Puzzles:
    """The model, and about `count` problems."""
    import unmask
    from unmask.noise import derive
    from unmask.solve.problems import problems
    from unmask.tasks import make

    model = unmask.load(course.checkpoint, device=device, dtype=dtype, threads=threads)
    task = make(course.task)
    rows = problems(task.examples("test", max(1, round(course.share * count)), seed), model.tokenizer)
    return Puzzles(model, task, rows, [derive(seed, number) for number in range(len(rows))])


def runners_of(course: Course) -> list[Runner]:
    """The heuristics, and the learned policy where one is bundled for this denoiser."""
    from unmask.disk.folders import bundled_policies

    runners = [Runner(*rule) for rule in course.heuristics]
    if course.checkpoint in bundled_policies():
        name = f"learned:from={course.checkpoint},dial={_DIAL:g}"
        runners.append(Runner(LEARNED, f"dial {_DIAL:g}", name))
    return runners


def race(puzzles: Puzzles, runners: Sequence[Runner]) -> Iterator[tuple[int, bool]]:
    """Decode group by group, a pass of each policy in turn; yields the shown puzzle's number and whether all have it.

    The runners hold the figures. They are those of `sweep.solve`: rows do not see each other.
    """
    for first in range(0, len(puzzles.problems), _TOGETHER):
        group = range(first, min(first + _TOGETHER, len(puzzles.problems)))
        for runner in runners:
            runner.show(puzzles.problems[first].row)
        lanes = [_lane(puzzles, runner, group) for runner in runners]
        while lanes:
            yield first, False
            lanes = [lane for lane in lanes if next(lane, None) is not None]
        yield first, True


def _lane(puzzles: Puzzles, runner: Runner, group: range) -> Iterator[bool]:
    """One policy's way through a group; yields after each pass."""
    from unmask.solve.problems import scored

    tokenizer = puzzles.model.tokenizer
    problems = [puzzles.problems[number] for number in group]
    stream = _stream(puzzles, runner.policy, group)
    open_ = set(range(len(problems)))
    while True:
        began = time.perf_counter()
        snapshot = next(stream, None)
        runner.seconds += time.perf_counter() - began
        if snapshot is None:
            runner.fresh = set()
            return
        passes: list[int] = snapshot.canvas.passes.tolist()
        rows: list[list[int]] = snapshot.canvas.tokens.tolist()
        for line, row in enumerate(snapshot.rows):
            tokens = rows[line][: snapshot.lengths[line]]
            if row == 0:
                changed = {at for at, (old, new) in enumerate(zip(runner.tokens, tokens, strict=True)) if old != new}
                runner.tokens, runner.fresh, runner.spent = tokens, changed, passes[line]
            if row in open_ and tokenizer.mask_id not in tokens:
                open_.remove(row)
                (runner.verdicts[group[row]],) = scored(puzzles.task, [problems[row]], [tokens], tokenizer)
                runner.passes[group[row]] = passes[line]
        yield True


def _stream(
    puzzles: Puzzles, policy: str, numbers: Sequence[int], dials: Sequence[float] | None = None
) -> "Generator[Snapshot, None, list[Filled]]":
    """The puzzles of these numbers through one decoder, the most probable token everywhere."""
    from unmask.decode.rows import RowOptions, decode_rows

    return decode_rows(
        puzzles.model.decoder(policy, temperature=0.0),
        [puzzles.problems[number].row for number in numbers],
        [puzzles.seeds[number] for number in numbers],
        pad_id=puzzles.model.tokenizer.pad_id,
        batch=256,
        device=puzzles.model.device,
        options=RowOptions(dial=dials),
    )


def turn_dial(puzzles: Puzzles, policy: str) -> list[Place]:
    """The learned policy at every place of the dial: one request in which each row has its own."""
    from unmask.decode.rows import finished
    from unmask.solve.problems import scored

    count = len(puzzles.problems)
    numbers, dials = list(range(count)) * len(DIALS), [dial for dial in DIALS for _ in range(count)]
    filled = finished(_stream(puzzles, policy, numbers, dials))
    problems, rows = [puzzles.problems[number] for number in numbers], [row.tokens for row in filled]
    scores = scored(puzzles.task, problems, rows, puzzles.model.tokenizer)
    places: list[Place] = []
    for place, dial in enumerate(DIALS):
        mine = slice(place * count, (place + 1) * count)
        places.append(Place(dial, sum(scores[mine]) / count, sum(row.passes for row in filled[mine]) / count))
    return places
