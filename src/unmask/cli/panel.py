"""The race of `unmask demo` in the terminal: a column a policy, live, and what came of it as tables."""

__all__ = ["Panel", "dial_table", "race_table"]

import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from unmask.solve.race import Course, Place, Puzzles, Runner

_NEW, _GOOD, _BAD = "black on #5fb8ae", "#2f958c", "white on #b04a5a"
_FRAME, _HOLD = 0.06, 0.6  # seconds that a pass, and a finished puzzle, stay on the screen
_NARROWEST, _GAP = 15, 2


class Panel:
    """Draws the race where `console` is a terminal that is wide enough; elsewhere it only counts puzzles."""

    def __init__(self, course: Course, puzzles: Puzzles, runners: Sequence[Runner], console: Console) -> None:
        self._course, self._puzzles, self._runners = course, puzzles, runners
        wide = console.width >= len(runners) * (_NARROWEST + _GAP) - _GAP
        live = console.is_terminal and wide
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop") if live else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def follow(self, steps: Iterable[tuple[int, bool]]) -> None:
        """Draw after every pass until the race is over."""
        for number, whole in steps:
            if self._live is not None:
                self._live.update(self.picture(number), refresh=True)
                time.sleep(_HOLD if whole else _FRAME)

    def picture(self, number: int) -> RenderableType:
        """All columns as they stand; `number` is the puzzle that is shown."""
        problem, count = self._puzzles.problems[number], len(self._puzzles.problems)
        given = problem.example.template.partition("[")[0]
        title = Text(f"{self._course.title}: puzzle {number + 1} of {count}", "bold")
        if len(given) > self._course.columns:  # a program, which the grid below does not show
            title.append(f"   start {given[0]}, program {given[1:]}", "not bold dim")
        table = Table.grid(padding=(0, _GAP))
        for _ in self._runners:
            table.add_column(min_width=_NARROWEST)
        table.add_row(*(Text(one.label, "bold") for one in self._runners))
        table.add_row(*(Text(one.options, "dim") for one in self._runners))
        table.add_row(*(self._cells(one, number) for one in self._runners))
        table.add_row(*(self._verdict(one, number) for one in self._runners))
        table.add_row(*(Text() for _ in self._runners))
        table.add_row(*(_counted(one) for one in self._runners))
        table.add_row(*(Text(f"{one.mean_passes:.1f} passes" if one.passes else "") for one in self._runners))
        legend = Text("just written", _NEW).append(" ", "default on default").append("right", f"{_GOOD} on default")
        legend.append(" ", "default on default").append("wrong", _BAD)
        return Group(title, Text(), table, Text(), legend)

    def _cells(self, runner: Runner, number: int) -> Text:
        """The shown puzzle of one policy, as a grid or as lines."""
        problem, tokenizer = self._puzzles.problems[number], self._puzzles.model.tokenizer
        columns, answer = self._course.columns, dict(zip(problem.holes, problem.example.answer, strict=True))
        grid = len(problem.row) == columns * columns
        text = Text(no_wrap=True)
        for place, at in enumerate(range(len(problem.row)) if grid else problem.holes):
            if place and place % columns == 0:
                text.append("\n")
            elif grid and place:
                text.append("  " if place % columns == columns // 2 else " ")
            piece = "·" if runner.tokens[at] == tokenizer.mask_id else tokenizer.piece(runner.tokens[at])
            text.append(piece, _style(at, piece, runner, answer))
        return text

    def _verdict(self, runner: Runner, number: int) -> Text:
        """Passes on the shown puzzle, and whether it came out right."""
        passes = f"pass {runner.spent}"
        if self._puzzles.model.tokenizer.mask_id in runner.tokens:
            return Text(passes, "dim")
        right = runner.verdicts[number] == 1
        return Text(f"pass {runner.spent} ").append("right" if right else "wrong", _GOOD if right else _BAD)


def _style(at: int, piece: str, runner: Runner, answer: dict[int, str]) -> str:
    """How a position is drawn."""
    if at not in answer:
        return "bold"
    if piece == "·":
        return "dim"
    if piece != answer[at]:
        return _BAD
    return _NEW if at in runner.fresh else _GOOD


def _counted(runner: Runner) -> Text:
    """How many of the finished puzzles are right."""
    done = len(runner.verdicts)
    right = sum(score == 1 for score in runner.verdicts.values())
    return Text(f"{right} of {done} right" if done else "", "bold")


def race_table(runners: Sequence[Runner]) -> str:
    """A line a policy."""
    lines = [f"  {'policy':<32}  accuracy  passes  seconds"]
    for one in runners:
        name = f"{one.label}, {one.options}"
        lines.append(f"  {name:<32}  {one.accuracy:8.2f}  {one.mean_passes:6.1f}  {one.seconds:7.1f}")
    return "\n".join(lines)


def dial_table(places: Sequence[Place]) -> str:
    """A line a place of the dial, with bars: long bars are many right answers, and many passes."""
    most = max(place.passes for place in places)
    lines = [f"  dial  {'accuracy':<27}  passes"]
    for one in places:
        right, spent = "━" * round(20 * one.accuracy), "━" * round(20 * one.passes / most)
        lines.append(f"  {one.dial:4.2f}  {right:<20} {one.accuracy:6.2f}  {spent:<20} {one.passes:6.1f}")
    return "\n".join(lines)
