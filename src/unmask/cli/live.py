"""Texts, traces and the puzzles of the demo drawn in a terminal: live, replayed, or in stages.

The colour of a token shows its probability at the time it was written.
"""

__all__ = [
    "PLAIN_MASK",
    "STAGES",
    "Cell",
    "LiveText",
    "Panel",
    "cropped",
    "frame",
    "mask_sign",
    "print_stage",
    "shade",
]

import math
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from unmask.output import note, visible
from unmask.solve.puzzles import PolicyRun, Puzzles, PuzzleSet
from unmask.trace.events import Header, position_texts

if TYPE_CHECKING:
    from unmask.decode.rows import Snapshot, Written
    from unmask.text.tokenizer import Tokenizer


Row = TypeVar("Row", bound="Written")
PLAIN_MASK = " _"
"""A masked token in plain lines."""
STAGES = 6
"""How many times a text is printed while it is written, where it cannot be drawn live."""
_SHADES = ("#b04a5a", "#b8683a", "#a0852a", "#5f9448", "#2f958c")  # from unsure to sure; legible on black and on white
_LEAST = math.log(0.005)
_FRAME = 0.05  # seconds: at most 20 frames a second


# ---- drawing ---------------------------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """A position as it is drawn."""

    text: str
    masked: bool
    style: str


def frame(cells: Sequence[Cell], mask: str, columns: int | None = None, box: tuple[int, int] | None = None) -> Text:
    """Cells -> one styled text, `mask` in the masked ones; a grid where there are `columns`, ruled into boxes."""
    text = Text(overflow="fold")
    for position, cell in enumerate(cells):
        text.append(_ruled(columns, box, position))
        text.append(mask if cell.masked else visible(cell.text, "\n\t"), cell.style)
    return text


def shade(log_prob: float) -> str:
    """Log-probability -> colour, in even steps from probability 0.005 and below (unsure) to 1 (sure)."""
    share = 1 - min(max(log_prob / _LEAST, 0.0), 1.0)
    return _SHADES[min(int(share * len(_SHADES)), len(_SHADES) - 1)]


def mask_sign(widths: Iterable[int]) -> str:
    """Lengths of the texts of some tokens -> the sign of a masked token, about as wide as their mean, 1 to 5."""
    lengths = list(widths)
    width = min(max(round(sum(lengths) / max(len(lengths), 1)) - 1, 1), 4)
    return (" " if width > 1 else "") + "░" * width


def cropped(text: Text, console: Console, focus: str, below: Sequence[Text]) -> RenderableType:
    """Text and the lines `below` it -> what fits the terminal: the lines around the first one styled `focus`."""
    lines = list(text.wrap(console, console.width))
    height = max(console.height - 1 - len(below), 1)
    if len(lines) > height:
        marked = [n for n, line in enumerate(lines) if any(focus in str(span.style).split() for span in line.spans)]
        at = min(max((marked[0] if marked else len(lines)) - height // 2, 0), len(lines) - height)
        lines = lines[at : at + height]
    return Group(*lines, *below)


def print_stage(console: Console, heading: str, text: Text) -> None:
    """Print the text as plain lines under a heading in brackets."""
    console.print(f"[{heading}]", markup=False, highlight=False)
    console.print(text.plain.strip() + "\n", markup=False, highlight=False, soft_wrap=True)


def _ruled(columns: int | None, box: tuple[int, int] | None, position: int) -> str:
    """Position in a grid -> the text before its cell: a space, a line end, or the line between two boxes."""
    if columns is None:
        return ""
    row, column = divmod(position, columns)
    height, width = box or (0, 0)
    if column:
        return " │ " if width and column % width == 0 else " "
    line = "┼".join(["─" * (2 * width + 1)] * (columns // width))[1:-1] if width else ""
    return "" if not row else f"\n{line}\n" if height and row % height == 0 else "\n"


# ---- live ------------------------------------------------------------------------------------------------------------


class LiveText:
    """Shows the first row of a request while it is written: live on a terminal, elsewhere in stages, as plain lines."""

    def __init__(
        self, tokenizer: "Tokenizer", console: Console, *, prompt: Sequence[int], total: int, pause: float = 0.0
    ) -> None:
        """`prompt` has the tokens before the first pass; `total` is the number of tokens that will be written.

        On a terminal there is a pause of `pause` seconds after each pass, so that a person can read along.
        """
        self._tokenizer, self._console, self._total, self._pause = tokenizer, console, total, pause
        self._tokens, self._log_probs = list(prompt), [math.nan] * len(prompt)
        self._header = Header(tokenizer.mask_id, (), {tokenizer.pad_id: ""})
        if tokenizer.eos_id is not None:
            self._header.pieces[tokenizer.eos_id] = "\n"
        self._typed: Mapping[int, str] = {}
        self._passes, self._turn_passes, self._turn_start = 0, 0, -1
        self._drawn, self._stage = 0.0, 0
        sample = range(0, tokenizer.vocab_size, max(1, tokenizer.vocab_size // 200))
        self._mask = mask_sign(len(tokenizer.piece(id_)) for id_ in sample if id_ not in tokenizer.special_ids)
        self._live = (
            Live(console=console, auto_refresh=False, vertical_overflow="crop") if console.is_terminal else None
        )

    def __enter__(self) -> Self:
        """Start the drawing."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the drawing; the whole text stays on the screen."""
        if self._live is not None:
            text, status = frame(self.cells(), self._mask), self._status()
            self._live.update(Group(*text.wrap(self._console, self._console.width), status), refresh=True)
            self._live.stop()

    def follow(self, stream: "Generator[Snapshot, None, list[Row]]") -> "list[Row]":
        """Stream -> its finished rows; each snapshot is shown. At the end the text is cut where the model ended it."""
        while True:
            try:
                self.show(next(stream))
            except StopIteration as end:
                rows: list[Row] = end.value
                self._finish(rows[0])
                return rows

    def show(self, snapshot: "Snapshot") -> None:
        """Read the snapshot of a pass, and draw it where enough time has passed since the last frame."""
        if 0 not in snapshot.rows:
            return
        line = snapshot.rows.index(0)
        start, length = snapshot.starts[line], snapshot.lengths[line]
        passes = int(snapshot.canvas.passes[line])
        if passes <= self._turn_passes and start == self._turn_start:
            return  # this row is finished already; the pass belongs to other rows
        if start != self._turn_start:
            self._passes, self._turn_start, self._turn_passes = self._passes + self._turn_passes, start, 0
        self._turn_passes, self._typed = passes, snapshot.typed(line)
        tokens: list[int] = snapshot.canvas.tokens[line, :length].tolist()
        log_probs: list[float] = snapshot.canvas.log_prob[line, :length].tolist()
        known = len(self._tokens) - start
        self._tokens[start:] = tokens
        old = self._log_probs[start:]
        self._log_probs[start:] = [
            old[i] if i < known and math.isnan(log_probs[i]) else log_probs[i] for i in range(length)
        ]
        self._render()

    def cells(self) -> list[Cell]:
        """Every position as it is drawn now; positions that the model did not write (the prompt) are bold."""
        for token in set(self._tokens) - self._header.pieces.keys() - self._header.raw.keys():
            if (data := self._tokenizer.part(token)) is None:
                self._header.pieces[token] = self._tokenizer.piece(token)
            else:
                self._header.raw[token] = data.hex()
        cells: list[Cell] = []
        for token, text, log_prob in zip(
            self._tokens, position_texts(self._header, self._tokens, self._typed), self._log_probs, strict=True
        ):
            masked = token == self._header.mask_id
            cells.append(Cell(text, masked, "dim" if masked else "bold" if math.isnan(log_prob) else shade(log_prob)))
        return cells

    def _finish(self, row: "Written") -> None:
        """Cut the text where the model ended it with EOS."""
        if row.stopped:
            del self._tokens[len(row.tokens) :], self._log_probs[len(row.tokens) :]
            self._total = self._filled()
            if self._live is None and self._stage < STAGES:
                self._print(1.0)

    def _render(self) -> None:
        """Draw a frame, at most 20 a second; without a terminal print the text, about six times over the whole run."""
        now, filled = time.monotonic(), self._filled()
        if self._live is None:
            share = filled / max(self._total, 1)
            if share >= (self._stage + 1) / STAGES:
                self._print(share)
            return
        if now - self._drawn >= _FRAME or filled >= self._total:
            self._drawn = now
            text = frame(self.cells(), self._mask)
            self._live.update(cropped(text, self._console, "dim", [self._status()]), refresh=True)
        if self._pause:
            time.sleep(self._pause)

    def _print(self, share: float) -> None:
        self._stage = int(share * STAGES)
        heading = f"{share:4.0%}, {self._passes + self._turn_passes} passes"
        print_stage(self._console, heading, frame(self.cells(), PLAIN_MASK))

    def _filled(self) -> int:
        return len(self._tokens) - sum(math.isnan(value) for value in self._log_probs)

    def _status(self) -> Text:
        filled, passes = self._filled(), self._passes + self._turn_passes
        share = filled / max(self._total, 1)
        bar = "━" * round(20 * share)
        status = Text(f"{bar:─<20} {share:4.0%}  {filled} of {self._total} tokens, {passes} passes   ", "dim")
        status.append("unsure ", "dim")
        for colour in _SHADES:
            status.append("■", colour)
        return status.append(" sure", "dim")


_NEW, _GOOD, _BAD = "black on #5fb8ae", "#2f958c", "white on #b04a5a"
_PASS_SECONDS, _DONE_SECONDS = 0.06, 0.6  # how long a pass, and a finished puzzle, stay on the screen
_LINE_SECONDS = 4.0  # between two lines of progress without a terminal
_NARROWEST, _GAP = 15, 2


class Panel:
    """Draws the runs of several policies side by side where `console` is a terminal that is wide enough."""

    def __init__(self, puzzle_set: PuzzleSet, puzzles: Puzzles, runs: Sequence[PolicyRun], console: Console) -> None:
        self._puzzle_set, self._puzzles, self._runs = puzzle_set, puzzles, runs
        wide = console.width >= len(runs) * (_NARROWEST + _GAP) - _GAP
        live = console.is_terminal and wide
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop") if live else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def follow(self, steps: Iterable[tuple[int, bool]]) -> None:
        """Go through (index of the shown puzzle, finished) of every pass, and draw each where there is a terminal.

        Without a terminal a line every few seconds says how much is done.
        """
        printed = time.monotonic()
        for number, finished in steps:
            if self._live is not None:
                self._live.update(self.picture(number), refresh=True)
                time.sleep(_DONE_SECONDS if finished else _PASS_SECONDS)
            elif time.monotonic() - printed >= _LINE_SECONDS:
                printed = time.monotonic()
                done = sum(len(run.verdicts) for run in self._runs)
                note(f"  {done / (len(self._runs) * len(self._puzzles.problems)):4.0%} decoded")

    def picture(self, number: int) -> RenderableType:
        """Index of the shown puzzle -> the drawing: a column for each policy."""
        problem, count = self._puzzles.problems[number], len(self._puzzles.problems)
        start = problem.example.template.partition("[")[0]
        title = Text(f"{self._puzzle_set.title}: puzzle {number + 1} of {count}", "bold")
        if len(start) > self._puzzle_set.columns:  # a program, which the grid below does not show
            title.append(f"   start {start[0]}, program {start[1:]}", "not bold dim")
        table = Table.grid(padding=(0, _GAP))
        for _ in self._runs:
            table.add_column(min_width=_NARROWEST)
        table.add_row(*(Text(run.label, "bold") for run in self._runs))
        table.add_row(*(Text(run.options, "dim") for run in self._runs))
        table.add_row(*(self._cells(run, number) for run in self._runs))
        table.add_row(*(self._verdict(run, number) for run in self._runs))
        table.add_row(*(Text() for _ in self._runs))
        table.add_row(*(_counted(run) for run in self._runs))
        table.add_row(*(Text(f"{run.mean_passes:.1f} passes" if run.passes else "") for run in self._runs))
        legend = Text("just written", _NEW).append(" ", "default on default").append("right", f"{_GOOD} on default")
        legend.append(" ", "default on default").append("wrong", _BAD)
        return Group(title, Text(), table, Text(), legend)

    def _cells(self, run: PolicyRun, number: int) -> Text:
        """The canvas of one policy on the shown puzzle, as a grid or as lines."""
        problem, tokenizer = self._puzzles.problems[number], self._puzzles.model.tokenizer
        columns, answer = self._puzzle_set.columns, dict(zip(problem.holes, problem.example.answer, strict=True))
        grid = len(problem.row) == columns * columns
        text = Text(no_wrap=True)
        for index, at in enumerate(range(len(problem.row)) if grid else problem.holes):
            if index and index % columns == 0:
                text.append("\n")
            elif grid and index:
                text.append("  " if index % columns == columns // 2 else " ")
            piece = "·" if run.tokens[at] == tokenizer.mask_id else visible(tokenizer.piece(run.tokens[at]))
            text.append(piece, _style(at, piece, run, answer))
        return text

    def _verdict(self, run: PolicyRun, number: int) -> Text:
        """The passes on the shown puzzle, and whether its answer is right."""
        passes = f"pass {run.shown_passes}"
        if self._puzzles.model.tokenizer.mask_id in run.tokens:
            return Text(passes, "dim")
        right = run.verdicts[number] == 1
        return Text(f"pass {run.shown_passes} ").append("right" if right else "wrong", _GOOD if right else _BAD)


def _style(at: int, piece: str, run: PolicyRun, answer: dict[int, str]) -> str:
    """Position and the text of its token -> the style of its drawing."""
    if at not in answer:
        return "bold"
    if piece == "·":
        return "dim"
    if piece != answer[at]:
        return _BAD
    return _NEW if at in run.fresh else _GOOD


def _counted(run: PolicyRun) -> Text:
    """How many of the finished puzzles are right."""
    done = len(run.verdicts)
    right = sum(score == 1 for score in run.verdicts.values())
    return Text(f"{right} of {done} right" if done else "", "bold")
