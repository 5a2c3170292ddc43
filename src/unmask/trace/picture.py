"""A row of a trace -> an animated SVG picture, in which the text appears as it was written; no network, no script."""

__all__ = ["to_svg"]

from collections.abc import Collection
from typing import NamedTuple
from unicodedata import east_asian_width
from xml.sax.saxutils import escape

from unmask.trace.events import Trace, last_events, position_texts, replay

_COLUMNS = 72  # characters in a line of text
_WIDTH, _HEIGHT, _MARGIN, _SIZE = 9.0, 24.0, 16.0, 15  # of a character, of a line, around the text, of the font: pixels
_LEAST, _MOST, _HOLD = 3.0, 10.0, 3.0  # seconds that writing takes, and that the finished text stays
_STYLE = """
text { font: %dpx ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; fill: #1f2328; white-space: pre }
.prompt { font-weight: 600 }
.mask { fill: #d0d7de; visibility: hidden }
.paper { fill: #ffffff; stroke: #d0d7de }"""


class _Cell(NamedTuple):
    text: str
    position: int
    """In the row; that of several cells where its text has several lines."""
    column: int
    line: int
    width: int
    """In characters."""


def to_svg(trace: Trace, row: int = 0) -> str:
    """Trace and row -> an SVG picture in a loop: grey bars are masked positions, each is replaced when it is written.

    The layout is that of the final text. A position that was written more than once appears at its last event; the
    prompt is bold from the start. A viewer without animations shows the final text.
    Raises RequestError for a row that the trace does not have.
    """
    tokens, events, facts = replay(trace, row), last_events(trace, row), trace.header.rows[row]
    texts = position_texts(trace.header, tokens, facts.typed)[: facts.end]
    cells = _layout(_spread(texts, facts.typed), trace.header.columns)
    steps = sorted({event.step for event in events.values()})
    seconds = min(max(0.12 * len(steps), _LEAST), _MOST)
    moments = {step: seconds * (n + 1) / len(steps) / (seconds + _HOLD) for n, step in enumerate(steps)}
    lines = max((cell.line for cell in cells), default=0) + 1
    width = 2 * _MARGIN + _WIDTH * max((cell.column + cell.width for cell in cells), default=1)
    height = 2 * _MARGIN + _HEIGHT * lines
    drawn: list[str] = []
    for cell in cells:
        event = events.get(cell.position)
        if event is not None:
            drawn.append(_bar(cell, f"m{event.step}"))
        drawn.append(_text(cell, "prompt" if event is None else f"t{event.step}"))
    rules = "".join(_keyframes(step, 100 * moment, seconds + _HOLD) for step, moment in moments.items())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">\n<!-- written by unmask -->\n'
        f"<style>{_STYLE % _SIZE}{rules}\n</style>\n"
        f'<rect class="paper" x="0.5" y="0.5" width="{width - 1:.0f}" height="{height - 1:.0f}" rx="8"/>\n'
        + "\n".join(filter(None, drawn))
        + "\n</svg>\n"
    )


def _layout(pieces: list[str], columns: int | None) -> list[_Cell]:
    """Text of each position -> its places; lines end at line ends, at `columns` positions, or where a line is full."""
    cells: list[_Cell] = []
    column = line = 0
    for position, piece in enumerate(pieces):
        if columns is not None and position and position % columns == 0:
            column, line = 0, line + 1
        for number, part in enumerate(piece.split("\n")):
            if number:
                column, line = 0, line + 1
                if not part:
                    continue
            width = sum(2 if east_asian_width(sign) in "WF" else 1 for sign in part)
            if columns is None and column and column + width > _COLUMNS:
                column, line, part = 0, line + 1, part.lstrip(" ")
            cells.append(_Cell(part, position, column, line, max(width, 1)))
            column += width if columns is None else 2
    return cells


def _spread(texts: list[str], typed: Collection[int]) -> list[str]:
    """Texts of positions -> the same, each part that was typed with a character at each of its positions.

    Such a part is a text at its first position and "" at the others; it stays there where the counts differ.
    """
    texts = list(texts)
    for at in sorted(typed):
        part = texts[at] if at < len(texts) else ""
        rest = range(at + 1, at + len(part))
        if part and rest.stop <= len(texts) and all(place in typed and not texts[place] for place in rest):
            texts[at : rest.stop] = part
    return texts


def _bar(cell: _Cell, name: str) -> str:
    x, y = _MARGIN + cell.column * _WIDTH, _MARGIN + cell.line * _HEIGHT + 5
    width = max(cell.width * _WIDTH - 2, 3)
    return f'<rect class="mask {name}" x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="14" rx="2"/>'


def _text(cell: _Cell, name: str) -> str:
    if not cell.text.strip():
        return ""
    x, y = _MARGIN + cell.column * _WIDTH, _MARGIN + cell.line * _HEIGHT + 18
    length = f' textLength="{cell.width * _WIDTH:.0f}"' if len(cell.text) > 1 else ""
    return f'<text class="{name}" x="{x:.0f}" y="{y:.0f}"{length} xml:space="preserve">{escape(cell.text)}</text>'


def _keyframes(step: int, percent: float, seconds: float) -> str:
    """Step and its moment in percent of the loop -> the style of the bars and texts that change there."""
    before, after = f"{percent:.2f}%", f"{min(percent + 0.01, 100):.2f}%"
    settled = f"{min(percent + 12, 100):.2f}%"
    return (
        f"\n@keyframes m{step} {{ 0%, {before} {{ visibility: visible }} {after}, 100% {{ visibility: hidden }} }}"
        f"\n@keyframes t{step} {{ 0%, {before} {{ visibility: hidden; fill: #0a7d6c }}"
        f" {after} {{ visibility: visible; fill: #0a7d6c }} {settled}, 100% {{ fill: #1f2328 }} }}"
        f"\n.m{step} {{ animation: m{step} {seconds:.2f}s linear infinite }}"
        f"\n.t{step} {{ animation: t{step} {seconds:.2f}s linear infinite }}"
    )
