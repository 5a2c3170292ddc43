"""The live canvas: a text that fills in out of order, each token shaded by how sure the model was when it wrote it."""

__all__ = ["Cell", "LiveText", "cells", "follow", "frame", "shade"]

import math
import time
from collections.abc import Callable, Generator, Sequence
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from unmask.decode.rows import Snapshot, Written
from unmask.text.tokenizer import Tokenizer

Row = TypeVar("Row", bound=Written)
_SHADES = ("#b04a5a", "#b8683a", "#a0852a", "#5f9448", "#2f958c")  # from unsure to sure; legible on black and on white
_LEAST = math.log(0.005)
_FRAME = 0.05  # seconds: at most 20 frames a second
_STAGES = 6


class Cell(NamedTuple):
    """A token as it is drawn."""

    text: str
    masked: bool
    log_prob: float  # nan where the token was given


def cells(tokenizer: Tokenizer, tokens: Sequence[int], log_probs: Sequence[float]) -> list[Cell]:
    """One cell a token; where several tokens make up one character, the first shows it and the others nothing."""
    found: list[Cell] = []
    at = 0
    hidden = (tokenizer.pad_id, tokenizer.eos_id)
    while at < len(tokens):
        token = tokens[at]
        text, count = ("" if token in hidden else tokenizer.piece(token)), 1
        while "\ufffd" in text and count < 4 and at + count < len(tokens) and tokens[at + count] != tokenizer.mask_id:
            count += 1
            text = tokenizer.decode(tokens[at : at + count])
        if "\ufffd" in text:
            text, count = "\ufffd", 1
        text = "".join(sign if sign == "\n" or sign.isprintable() else "\ufffd" for sign in text.replace("\t", " "))
        masked = token == tokenizer.mask_id
        found.append(Cell("" if masked else text, masked, log_probs[at]))
        found += [Cell("", False, log_probs[at + more]) for more in range(1, count)]
        at += count
    return found


def frame(row: Sequence[Cell], mask: str) -> Text:
    """The cells as one styled text; a masked cell is drawn as `mask`."""
    text = Text(overflow="fold")
    for cell in row:
        if cell.masked:
            text.append(mask, "dim")
        elif math.isnan(cell.log_prob):
            text.append(cell.text, "bold")
        else:
            text.append(cell.text, shade(cell.log_prob))
    return text


def shade(log_prob: float) -> str:
    """From unsure (probability 0.005 and below) to sure (1), in even steps of the log-probability."""
    share = 1 - min(max(log_prob / _LEAST, 0.0), 1.0)
    return _SHADES[min(int(share * len(_SHADES)), len(_SHADES) - 1)]


class LiveText:
    """Shows the first row of a request while it is written: live on a terminal, elsewhere in stages, as plain lines."""

    def __init__(
        self, tokenizer: Tokenizer, console: Console, *, prompt: Sequence[int], total: int, pause: float = 0.0
    ) -> None:
        """`prompt` is what stands before the first pass, `total` how many tokens will be written in all.

        `pause` seconds are spent after each pass on a terminal, so that the eye can follow.
        """
        self._tokenizer, self._console, self._total, self._pause = tokenizer, console, total, pause
        self._tokens, self._log_probs = list(prompt), [math.nan] * len(prompt)
        self._passes, self._turn_passes, self._turn_start = 0, 0, -1
        self._drawn, self._stage = 0.0, 0
        self._mask = (" " if _usual_width(tokenizer) > 1 else "") + "░" * _usual_width(tokenizer)
        self._live = (
            Live(console=console, auto_refresh=False, vertical_overflow="crop") if console.is_terminal else None
        )

    def __enter__(self) -> Self:
        """Begin to draw."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the text as it stands."""
        if self._live is not None:
            self._live.update(self._picture(whole=True), refresh=True)
            self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        """Take in a pass, and draw if it is time."""
        if 0 not in snapshot.rows:
            return
        line = snapshot.rows.index(0)
        start, length = snapshot.starts[line], snapshot.lengths[line]
        passes = int(snapshot.canvas.passes[line])
        if passes <= self._turn_passes and start == self._turn_start:
            return  # this row was finished before; others go on
        if start != self._turn_start:
            self._passes, self._turn_start, self._turn_passes = self._passes + self._turn_passes, start, 0
        self._turn_passes = passes
        tokens: list[int] = snapshot.canvas.tokens[line, :length].tolist()
        log_probs: list[float] = snapshot.canvas.log_prob[line, :length].tolist()
        known = len(self._tokens) - start
        self._tokens[start:] = tokens
        old = self._log_probs[start:]
        self._log_probs[start:] = [
            old[i] if i < known and math.isnan(log_probs[i]) else log_probs[i] for i in range(length)
        ]
        self._draw()

    def finish(self, row: Written) -> None:
        """Cut the text where the model ended it."""
        if row.stopped:
            del self._tokens[len(row.tokens) :], self._log_probs[len(row.tokens) :]
            self._total = self._filled()

    def _draw(self) -> None:
        now = time.monotonic()
        if self._live is None:
            self._plain()
        elif now - self._drawn >= _FRAME or self._filled() >= self._total:
            self._drawn = now
            self._live.update(self._picture(whole=False), refresh=True)
        if self._live is not None and self._pause:
            time.sleep(self._pause)

    def _filled(self) -> int:
        given = sum(math.isnan(value) for value in self._log_probs)
        return len(self._tokens) - given

    def _status(self) -> Text:
        filled, passes = self._filled(), self._passes + self._turn_passes
        share = filled / max(self._total, 1)
        bar = "━" * round(20 * share)
        status = Text(f"{bar:─<20} {share:4.0%}  {filled} of {self._total} tokens, {passes} passes   ", "dim")
        status.append("unsure ", "dim")
        for shade in _SHADES:
            status.append("■", shade)
        return status.append(" sure", "dim")

    def _picture(self, *, whole: bool) -> RenderableType:
        """The text, or as much of its end as the terminal has lines for, above the status line."""
        text = frame(cells(self._tokenizer, self._tokens, self._log_probs), self._mask)
        lines = list(text.wrap(self._console, self._console.width))
        room = max(self._console.height - 3, 1)
        if not whole and len(lines) > room:
            first = next((n for n, one in enumerate(lines) if "░" in one.plain), len(lines) - room)
            at = min(first, len(lines) - room)
            lines = lines[at : at + room]
        return Group(*lines, self._status())

    def _plain(self) -> None:
        """The text as it stands, about six times in all."""
        share = self._filled() / max(self._total, 1)
        if share < (self._stage + 1) / _STAGES:
            return
        self._stage = int(share * _STAGES)
        row = cells(self._tokenizer, self._tokens, self._log_probs)
        text = "".join(" _" if cell.masked else cell.text for cell in row).strip()
        self._console.print(f"[{share:4.0%}, {self._passes + self._turn_passes} passes]", markup=False, highlight=False)
        self._console.print(text + "\n", markup=False, highlight=False, soft_wrap=True)


def follow(stream: Generator[Snapshot, None, list[Row]], show: Callable[[Snapshot], None] | None = None) -> list[Row]:
    """Run a stream to its end, showing each snapshot; the finished rows."""
    while True:
        try:
            snapshot = next(stream)
        except StopIteration as end:
            return end.value
        if show is not None:
            show(snapshot)


def _usual_width(tokenizer: Tokenizer) -> int:
    """About as many characters as a token has, from 1 to 4, from a sample of the vocabulary."""
    ids = range(0, tokenizer.vocab_size, max(1, tokenizer.vocab_size // 200))
    widths = [len(tokenizer.piece(one)) for one in ids if one not in tokenizer.special_ids]
    return min(max(round(sum(widths) / max(len(widths), 1)) - 1, 1), 4)
