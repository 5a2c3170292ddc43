"""`unmask watch`: play what --trace recorded. Torch is not imported."""

__all__ = ["Player", "WatchArguments", "keys_of", "run"]

import math
import os
import sys
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.cli.parse import Positional, parse
from unmask.cli.show import note, print_json
from unmask.errors import RequestError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from unmask.trace.events import Event, Trace

_CODES = {
    "right": ("\x1b[C", "\x1bOC", "l"),
    "left": ("\x1b[D", "\x1bOD", "h"),
    "home": ("\x1b[H", "\x1bOH", "\x1b[1~", "g"),
    "end": ("\x1b[F", "\x1bOF", "\x1b[4~", "G"),
    "space": (" ",),
    "faster": ("+", "="),
    "slower": ("-",),
    "quit": ("q", "\x04"),
}
_KEYS = {code: key for key, codes in _CODES.items() for code in codes}
_SIGNS = {"committed": "+", "edited": "~", "rescued": "!", "remasked": "-"}
_STYLES = {"committed": "", "edited": " underline", "rescued": " italic"}
_GUIDE = "space play · ← → step · home end · + - speed · q quit   + written  ~ edited  ! rescued  - hidden again"
_STAGES = 6
_WHOLE = 8.0  # seconds that a trace takes at first
_SLOWEST, _FASTEST = 0.25, 64.0  # steps a second


@dataclass(frozen=True, slots=True)
class WatchArguments:
    """Play a trace: space plays and pauses, arrows step, home and end jump, + and - change the speed, q quits."""

    file: Positional[str]
    """The .jsonl file that --trace wrote."""
    row: int = 0
    """Which row of the request, from 0."""
    html: str | None = None
    """Write a page that plays the trace, with all its rows, to this file instead."""
    json: bool = False
    """Print one JSON object on stdout: what the trace holds."""


def run(argv: Sequence[str]) -> int:
    """Play, print, or write the page."""
    arguments = parse(WatchArguments, argv, "watch")

    from unmask.trace.files import read

    if arguments.html is not None and Path(arguments.html).suffix != ".html":
        raise RequestError(f"--html cannot write '{arguments.html}'; give a file that ends in .html.")
    trace = read(arguments.file)
    player = Player(trace, arguments.row)
    if trace.cut:
        note(f"{arguments.file} ends in the middle of an event, which is left out.")
    if arguments.html is not None:
        from unmask.cli.tracing import write

        write(Path(arguments.html), trace)
    if arguments.json:
        print_json({"trace": arguments.file} | player.summary())
    elif arguments.html is None:
        from rich.console import Console

        _show(player, Console(highlight=False))
    return 0


class Player:
    """One row of a trace at one of its frames: the canvas at the start, and after each step in which it changed."""

    def __init__(self, trace: "Trace", row: int = 0) -> None:
        """Raises RequestError for a row that the trace does not have."""
        from unmask.trace.events import drawn, replay

        tokens = replay(trace, row)
        self.trace, self.row, self._facts = trace, row, trace.header.rows[row]
        self.events = [event for event in trace.events if event.row == row]
        self.steps = [0, *sorted({event.step for event in self.events})]
        self.at, self.playing = 0, len(self.steps) > 1
        self.speed = min(max(len(self.steps) / _WHOLE, 1.0), 30.0)
        pieces = [piece for piece in drawn(trace.header, tokens) if piece]
        mean = sum(map(len, pieces)) / max(len(pieces), 1)
        grid = trace.header.columns is not None
        self._mask = "·" if grid else "░" * min(max(round(mean) - 1, 1), 4)

    def press(self, key: str) -> bool:
        """Do what a key means; False where it means to quit."""
        last = len(self.steps) - 1
        if key == "space":
            self.at = 0 if self.at == last and not self.playing else self.at
            self.playing = not self.playing
        elif key in ("left", "right", "home", "end"):
            self.playing = False
            self.at = {"left": max(self.at - 1, 0), "right": min(self.at + 1, last), "home": 0, "end": last}[key]
        elif key in ("faster", "slower"):
            self.speed = min(max(self.speed * (2 if key == "faster" else 0.5), _SLOWEST), _FASTEST)
        return key != "quit"

    def tick(self) -> None:
        """One step on; playing ends at the last."""
        self.at = min(self.at + 1, len(self.steps) - 1)
        self.playing = self.playing and self.at < len(self.steps) - 1

    @property
    def now(self) -> "list[Event]":
        """What happened in this step."""
        return [event for event in self.events if event.step == self.steps[self.at] and self.at]

    @property
    def passes(self) -> int:
        """Forward passes up to this step; at the last, all of the row."""
        last = max((event.passes for event in self.events if event.step <= self.steps[self.at]), default=0)
        return self._facts.passes if self.at == len(self.steps) - 1 else last

    @property
    def counts(self) -> tuple[int, int]:
        """Positions that are filled now, and all that were to be filled."""
        from unmask.trace.events import replay

        mask, start = self.trace.header.mask_id, self._facts.start
        return start.count(mask) - replay(self.trace, self.row, self.steps[self.at]).count(mask), start.count(mask)

    def text(self, *, plain: bool = False) -> "Text":
        """The canvas: each token shaded by its confidence, what is new in this step reversed, a grid ruled."""
        from rich.text import Text

        from unmask.trace.events import drawn, replay, standing

        step, header = self.steps[self.at], self.trace.header
        tokens, last = replay(self.trace, self.row, step), standing(self.trace, self.row, step)
        text = Text(overflow="fold")
        for position, piece in enumerate(drawn(header, tokens)):
            text.append(_ruled(header.columns, header.box, position))
            masked, event = tokens[position] == header.mask_id, last.get(position)
            shown = (" _" if plain and header.columns is None else self._mask) if masked else piece
            dropped = self._facts.end is not None and position >= self._facts.end and not masked
            style = "dim strike" if dropped else _style(event, masked)
            text.append(shown, style + (" reverse" if event is not None and event.step == step else ""))
        return text

    def status(self) -> str:
        """Where we are, in figures."""
        filled, wanted = self.counts
        events, share = self.now, self.at / max(len(self.steps) - 1, 1)
        row = f"row {self.row} of {len(self.trace.header.rows)}, " if len(self.trace.header.rows) > 1 else ""
        block = f", block {events[0].block}" if events else ""
        bar = f"{'━' * round(20 * share):─<20}"
        speed = f"{'▶' if self.playing else '⏸'} {self.speed:.3g} steps/s"
        step = f"step {self.steps[self.at]} of {self.steps[-1]}"
        return f"{bar} {row}{step}, {self.passes} passes{block}, {filled} of {wanted} tokens  {speed}"

    def news(self) -> str:
        """What happened in this step: sign, token, probability."""
        from unmask.trace.events import drawn

        shown: list[str] = []
        for event in self.now:
            sure = "" if event.confidence is None else f" {event.confidence:.2f}"
            shown.append(f"{_SIGNS[event.kind]} {drawn(self.trace.header, [event.token])[0]!r}{sure}")
        return "  ".join(shown)

    def summary(self) -> dict[str, Any]:
        """For programs: where the trace comes from, what it holds, and the text that this row ends with."""
        from unmask.trace.events import KINDS, drawn, replay

        header, facts = self.trace.header, self._facts
        kinds = Counter(event.kind for event in self.events)
        return {
            "checkpoint": header.checkpoint,
            "policy": header.policy,
            "seed": header.seed,
            "block_size": header.block_size,
            "version": header.version,
            "complete": not self.trace.cut,
            "rows": len(header.rows),
            "row": self.row,
            "passes": facts.passes,
            "steps": self.steps[-1],
            "events": {kind: kinds[kind] for kind in KINDS},
            "text": "".join(drawn(header, replay(self.trace, self.row)[: facts.end])),
        }


def _style(event: "Event | None", masked: bool) -> str:
    """How a position is drawn, by its last event; given text is bold."""
    from unmask.cli.canvas import shade

    if event is None:
        return "dim" if masked else "bold"
    if masked:
        return "#b04a5a"
    return shade(math.log(max(event.confidence or 0.0, 1e-9))) + _STYLES[event.kind]


def _ruled(columns: int | None, box: tuple[int, int] | None, position: int) -> str:
    """What stands before a cell of a grid: spaces, line ends, and the lines between boxes."""
    if columns is None:
        return ""
    row, column = divmod(position, columns)
    height, width = box or (0, 0)
    if column:
        return " │ " if width and column % width == 0 else " "
    line = "┼".join(["─" * (2 * width + 1)] * (columns // width))[1:-1] if width else ""
    return "" if not row else f"\n{line}\n" if height and row % height == 0 else "\n"


def _picture(player: Player, console: "Console") -> "RenderableType":
    """The canvas, or as many of its lines around what is new as the terminal has, above the figures."""
    from rich.console import Group
    from rich.text import Text

    lines = list(player.text().wrap(console, console.width))
    room = max(console.height - 5, 1)
    if len(lines) > room:
        new = [n for n, line in enumerate(lines) if any("reverse" in str(span.style) for span in line.spans)]
        at = min(max((new[0] if new else 0) - room // 2, 0), len(lines) - room)
        lines = lines[at : at + room]
    below = (player.status(), player.news() or " ", _GUIDE)
    return Group(*lines, Text(), *(Text(line, "dim", no_wrap=True, overflow="ellipsis") for line in below))


def _show(player: Player, console: "Console") -> None:
    """Live where a person can press keys, in stages elsewhere."""
    if console.is_terminal and sys.stdin.isatty() and os.name == "posix":
        _play(player, console)
        return
    last = len(player.steps) - 1
    for stage in sorted({round(last * part / _STAGES) for part in range(_STAGES + 1)}):
        player.at, player.playing = stage, False
        filled, wanted = player.counts
        console.print(f"[{filled} of {wanted} tokens, {player.passes} passes]", markup=False)
        console.print(player.text(plain=True).plain.strip() + "\n", markup=False, soft_wrap=True)


def _play(player: Player, console: "Console") -> None:
    """Until q; what stands then stays on the screen."""
    from rich.live import Live

    with _keyboard() as wait, Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            live.update(_picture(player, console), refresh=True)
            keys = wait(1 / player.speed if player.playing else None)
            if not keys:
                player.tick()
            if not all(player.press(key) for key in keys):
                return


@contextmanager
def _keyboard() -> Generator[Any]:
    """Give a function that waits up to so many seconds (None: for ever) and tells the keys that were pressed."""
    import select
    import termios
    import tty

    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)

    def wait(seconds: float | None) -> list[str]:
        ready, _, _ = select.select([stdin], [], [], seconds)
        return keys_of(os.read(stdin, 256)) if ready else []

    try:
        tty.setcbreak(stdin)
        yield wait
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)


def keys_of(data: bytes) -> list[str]:
    """The names of the keys in what a terminal sent; "quit" where it was closed, "other" for the rest."""
    found, text = list[str](), data.decode("utf-8", "replace")
    while text:
        code = next((code for code in sorted(_KEYS, key=len, reverse=True) if text.startswith(code)), text[0])
        found.append(_KEYS.get(code, "other"))
        text = text[len(code) :]
    return found or ["quit"]
