"""Sudoku: fill a grid so that each row, column and box holds each digit once; the order of reveals matters."""

__all__ = ["SHAPES", "Sudoku", "drawn_as", "grids", "solutions"]

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from random import Random
from typing import Any

from unmask.errors import RequestError
from unmask.noise import derive
from unmask.ranges import Count, Natural, check_numbers
from unmask.tasks.base import Example, Verdict, check_split, joined_holes

SHAPES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}
"""Side of the grid to height and width of its boxes."""
BLANK = "0"
_LARGE, _COPIES = 9, 64  # training grids of this side: so many of each that the search makes
Grid = list[int]  # side * side digits, row by row; 0 for an empty cell


@dataclass(frozen=True, slots=True)
class Sudoku:
    """A grid in which each row, column and box holds each digit once: random order fails, most confident first works.

    Puzzles have exactly one solution and are minimal: no clue can be removed. Then `clues` more clues are added, as
    long as one cell stays empty.
    """

    side: Count = 6
    clues: Natural = 0

    def __post_init__(self) -> None:
        check_numbers(self, error=RequestError)
        if self.side not in SHAPES:
            raise RequestError(f"side is {self.side}; a Sudoku here has side {', '.join(map(str, SHAPES))}.")
        if self.clues >= self.side**2:
            raise RequestError(f"clues is {self.clues}; give how many more than needed, from 0 to {self.side**2 - 1}.")

    @property
    def name(self) -> str:
        return f"sudoku:side={self.side},clues={self.clues}"

    def examples(self, split: str, count: int, seed: int = 0) -> Sequence[Example]:
        """Puzzles, row by row as digits; `facts` holds the numbers of "clues" and of "guesses" that a solver needs."""
        generator = Random(derive(seed, 0x50D, check_split(split), self.side, self.clues))
        return [self._puzzle(generator) for _ in range(count)]

    def verify(self, example: Example, completion: str) -> Verdict:
        """Right if the clues and the completion together satisfy every rule."""
        puzzle = example.facts["puzzle"]
        if len(completion) != puzzle.count(BLANK) or not set(completion) <= set("123456789"):
            return Verdict(0.0, f"'{completion}' is not {puzzle.count(BLANK)} digits")
        digits = iter(completion)
        grid = [int(next(digits) if clue == BLANK else clue) for clue in puzzle]
        expected = set(range(1, self.side + 1))
        broken = [name for name, cells in _groups(self.side) if {grid[cell] for cell in cells} != expected]
        return Verdict(0.0, f"{broken[0]} is not right") if broken else Verdict(1.0)

    def pairs(self, split: str, count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
        """An empty prompt and a full grid, so that a denoiser trains with any cells masked."""
        generator = Random(derive(seed, 0x6D1D, check_split(split), self.side))
        every = _copied(self.side, generator) if self.side == _LARGE else grids(self.side, generator)
        return (("", "".join(map(str, grid))) for grid in islice(every, count))

    def _puzzle(self, generator: Random) -> Example:
        grid = next(grids(self.side, generator))
        puzzle = list(grid)
        for cell in generator.sample(range(len(grid)), len(grid)):
            puzzle[cell] = 0
            if len(list(solutions(self.side, puzzle, limit=2))) > 1:
                puzzle[cell] = grid[cell]
        blank = [cell for cell, clue in enumerate(puzzle) if not clue]
        for cell in generator.sample(blank, min(self.clues, len(blank) - 1)):
            puzzle[cell] = grid[cell]
        text = "".join(map(str, puzzle))
        answer = "".join(str(digit) for digit, clue in zip(grid, puzzle, strict=True) if not clue)
        facts = {"puzzle": text, "clues": len(grid) - puzzle.count(0), "guesses": _guesses(self.side, puzzle)}
        return Example(joined_holes(text, BLANK), answer, {**facts, "unique": True})


def drawn_as(source: str) -> dict[str, Any]:
    """The data source of a model -> display options of its texts: columns and boxes for a Sudoku, else none."""
    match = re.fullmatch(r"task:sudoku(?::(?:.*,)?side=(\d{1,4})\b.*|[:@].*)?", source)
    side = int(match[1] or Sudoku().side) if match else 0
    return {"columns": side, "box": SHAPES[side]} if side in SHAPES else {}


def grids(side: int, generator: Random) -> Iterator[Grid]:
    """An infinite sequence of random full grids."""
    while True:
        yield next(solutions(side, [0] * side**2, generator=generator))


def _copied(side: int, generator: Random) -> Iterator[Grid]:
    """An infinite sequence of full grids with square boxes: `_COPIES` equivalent ones of each that the search makes.

    Equivalent grids differ in the names of digits, in the order of bands, of rows in a band and likewise of columns,
    and in a transposition: about 10^12 of each. A copy takes a hundredth of the time of a search.
    """
    for grid in grids(side, generator):
        yield from (_equivalent(side, grid, generator) for _ in range(_COPIES))


def _equivalent(side: int, grid: Grid, generator: Random) -> Grid:
    """A full grid with square boxes -> a random equivalent one, see `_copied`."""
    digits = [0, *generator.sample(range(1, side + 1), side)]
    rows, columns = _lines(side, generator), _lines(side, generator)
    row_step, column_step = (side, 1) if generator.random() < 0.5 else (1, side)
    return [digits[grid[row * row_step + column * column_step]] for row in rows for column in columns]


def _lines(side: int, generator: Random) -> list[int]:
    """The rows of a grid in a random order that keeps those of a band together; likewise its columns."""
    height = SHAPES[side][0]
    bands = generator.sample(range(side // height), side // height)
    return [height * band + line for band in bands for line in generator.sample(range(height), height)]


def solutions(side: int, puzzle: Grid, *, limit: int = 1, generator: Random | None = None) -> Iterator[Grid]:
    """A puzzle -> up to `limit` completions, by depth-first search; digits in random order with a `generator`."""
    board = _Board(side, puzzle)
    yield from board.search(limit, generator) if board.consistent else ()


def _guesses(side: int, puzzle: Grid) -> int:
    """How many times the solver, which fills single-choice cells first, has to choose among several digits."""
    board = _Board(side, puzzle)
    next(board.search(1, None))
    return board.choices


@cache
def _groups(side: int) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The side of a grid -> the name and the cells of each row, column and box."""
    height, width = SHAPES[side]
    span = range(side)
    rows = [(f"row {r + 1}", tuple(side * r + c for c in span)) for r in span]
    columns = [(f"column {c + 1}", tuple(side * r + c for r in span)) for c in span]
    boxes = [(f"box {b + 1}", tuple(cell for cell in range(side**2) if _box(side, cell) == b)) for b in span]
    assert height * width == side
    return (*rows, *columns, *boxes)


def _box(side: int, cell: int) -> int:
    height, width = SHAPES[side]
    return cell // side // height * (side // width) + cell % side // width


class _Board:
    """A grid and, for each row, column and box, the bits of the digits that are not used in it."""

    def __init__(self, side: int, puzzle: Grid) -> None:
        self.side, self.grid, self.choices = side, list(puzzle), 0
        self.groups = [(c // side, side + c % side, 2 * side + _box(side, c)) for c in range(side**2)]
        self.free = [(1 << side) - 1] * (3 * side)
        self.consistent = all(self._place(cell, digit) for cell, digit in enumerate(puzzle) if digit)

    def _place(self, cell: int, digit: int) -> bool:
        """Write a digit into a cell; returns False if a rule forbids it."""
        bit = 1 << (digit - 1)
        allowed = all(self.free[group] & bit for group in self.groups[cell])
        for group in self.groups[cell]:
            self.free[group] &= ~bit
        self.grid[cell] = digit
        return allowed

    def _erase(self, cell: int) -> None:
        bit = 1 << (self.grid[cell] - 1)
        for group in self.groups[cell]:
            self.free[group] |= bit
        self.grid[cell] = 0

    def _tightest(self) -> tuple[int, int]:
        """The empty cell with the fewest possible digits, and these as bits; (-1, 0) if no cell is empty."""
        best, least, bits = -1, self.side + 1, 0
        for cell, digit in enumerate(self.grid):
            if digit:
                continue
            row, column, box = self.groups[cell]
            possible = self.free[row] & self.free[column] & self.free[box]
            count = possible.bit_count()
            if count < least:
                best, least, bits = cell, count, possible
                if count <= 1:
                    break
        return best, bits

    def search(self, limit: int, generator: Random | None) -> Iterator[Grid]:
        """Up to `limit` full grids, by depth-first search that fills the cell with the fewest possible digits."""
        cell, bits = self._tightest()
        if cell < 0:
            yield list(self.grid)
            return
        digits = [digit for digit in range(1, self.side + 1) if bits >> (digit - 1) & 1]
        self.choices += len(digits) > 1
        if generator is not None:
            generator.shuffle(digits)
        count = 0
        for digit in digits:
            self._place(cell, digit)
            for grid in self.search(limit - count, generator):
                count += 1
                yield grid
                if count >= limit:
                    return  # the board is not used again
            self._erase(cell)
