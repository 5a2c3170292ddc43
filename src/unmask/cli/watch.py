"""`unmask watch` plays a trace that --trace recorded; `Tracing` records it. Imports no torch."""

__all__ = ["Player", "Tracing", "WatchArguments", "keys_of", "run"]

import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from unmask.cli.common import OutputOptions, print_json
from unmask.cli.parse import Flat, Positional, parse, refuse, typed_options
from unmask.config import to_path
from unmask.disk.files import atomic_text
from unmask.disk.folders import refuse_foreign_file
from unmask.errors import RequestError
from unmask.output import console, note
from unmask.ranges import Natural
from unmask.trace.events import (
    ALTERNATIVES,
    CHANGES,
    Event,
    Trace,
    last_events,
    position_texts,
    read,
    replay,
    to_jsonl,
)
from unmask.trace.page import to_html
from unmask.trace.picture import to_svg

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from unmask.api import Model
    from unmask.decode.rows import Snapshot, Written
    from unmask.trace.recorder import Recorder

Row = TypeVar("Row", bound="Written")

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
_WHOLE = 8.0  # seconds that playing a whole trace takes at the initial speed
_SLOWEST, _FASTEST = 0.25, 64.0  # steps a second


@dataclass(frozen=True, slots=True)
class WatchArguments:
    """Play a trace. Keys: space plays and pauses, arrows step, home and end jump, + and - change the speed, q quits."""

    file: Positional[str]
    """The .jsonl file that --trace wrote."""
    row: Natural = 0
    """Which row of the request, from 0."""
    html: str | None = None
    """Write a page that plays the trace, with all its rows, to this file instead."""
    svg: str | None = None
    """Write an animated picture of the row, for a README or a talk, to this file instead."""
    output: Flat[OutputOptions] = OutputOptions()


def run(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; plays the trace, prints it, or writes the page."""
    arguments = parse(WatchArguments, argv, "watch")
    if arguments.html is not None and not arguments.output.json:
        refuse(typed_options(WatchArguments, argv, "watch") & {"row"}, "--html: the page has every row.")
    pages = [_page(path, ending) for path, ending in ((arguments.html, ".html"), (arguments.svg, ".svg")) if path]
    trace = read(arguments.file)
    player = Player(trace, arguments.row)
    if trace.cut:
        note(f"{arguments.file} ends in the middle of an event, which is left out.")
    for page in pages:
        _write(page, trace, arguments.row)
    if arguments.output.json:
        print_json({"trace": arguments.file} | player.summary())
    elif not pages:
        _show(player, console())
    return 0


class Player:
    """One row of a trace at one of its frames: the initial canvas, or the canvas after a step that changed it."""

    def __init__(self, trace: "Trace", row: int = 0) -> None:
        """Raises RequestError for a row that the trace does not have."""
        from unmask.cli.live import mask_sign

        tokens = replay(trace, row)
        self.trace, self.row, self._facts = trace, row, trace.header.rows[row]
        self.events = [event for event in trace.events if event.row == row]
        self.steps = [0, *sorted({event.step for event in self.events})]
        self.at, self.playing = 0, len(self.steps) > 1
        self.speed = min(max(len(self.steps) / _WHOLE, 1.0), 30.0)
        self._mask = mask_sign(len(piece) for piece in position_texts(trace.header, tokens) if piece)

    def press(self, key: str) -> bool:
        """Handle a key -> False for the key that quits, True otherwise."""
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
        """Go to the next step; playing ends at the last."""
        self.at = min(self.at + 1, len(self.steps) - 1)
        self.playing = self.playing and self.at < len(self.steps) - 1

    @property
    def now(self) -> "list[Event]":
        """The events of this step."""
        return [event for event in self.events if event.step == self.steps[self.at] and self.at]

    @property
    def passes(self) -> int:
        """Forward passes up to this step; at the last step, all passes of the row."""
        last = max((event.passes for event in self.events if event.step <= self.steps[self.at]), default=0)
        return self._facts.passes if self.at == len(self.steps) - 1 else last

    @property
    def counts(self) -> tuple[int, int]:
        """(positions that are filled now, positions to fill in all)."""
        mask, start = self.trace.header.mask_id, self._facts.start
        return start.count(mask) - replay(self.trace, self.row, self.steps[self.at]).count(mask), start.count(mask)

    def text(self, *, plain: bool = False) -> "Text":
        """The canvas as styled text: colours show confidence, changes of this step are reversed, a grid has lines."""
        from unmask.cli.live import PLAIN_MASK, Cell, frame

        step, header = self.steps[self.at], self.trace.header
        tokens, last = replay(self.trace, self.row, step), last_events(self.trace, self.row, step)
        cells: list[Cell] = []
        for position, piece in enumerate(position_texts(header, tokens, self._facts.typed)):
            masked, event = tokens[position] == header.mask_id, last.get(position)
            dropped = self._facts.end is not None and position >= self._facts.end and not masked
            style = "dim strike" if dropped else _style(event, masked)
            new = " reverse" if event is not None and event.step == step else ""
            cells.append(Cell(piece, masked, style + new))
        mask = "·" if header.columns is not None else PLAIN_MASK if plain else self._mask
        return frame(cells, mask, header.columns, header.box)

    def status(self) -> str:
        """The status line: row, step, passes, block, filled tokens, speed."""
        filled, wanted = self.counts
        events, share = self.now, self.at / max(len(self.steps) - 1, 1)
        row = f"row {self.row} of {len(self.trace.header.rows)}, " if len(self.trace.header.rows) > 1 else ""
        block = f", block {events[0].block}" if events else ""
        bar = f"{'━' * round(20 * share):─<20}"
        speed = f"{'▶' if self.playing else '⏸'} {self.speed:.3g} steps/s"
        step = f"step {self.steps[self.at]} of {self.steps[-1]}"
        return f"{bar} {row}{step}, {self.passes} passes{block}, {filled} of {wanted} tokens  {speed}"

    def news(self) -> str:
        """The events of this step as text: sign, token, probability."""
        shown: list[str] = []
        for event in self.now:
            sure = "" if event.confidence is None else f" {event.confidence:.2f}"
            shown.append(f"{_SIGNS[event.change]} {position_texts(self.trace.header, [event.token])[0]!r}{sure}")
        return "  ".join(shown)

    def summary(self) -> dict[str, Any]:
        """The facts of the trace and of this row, with its final text, as plain data for JSON."""
        header, facts = self.trace.header, self._facts
        counts = Counter(event.change for event in self.events)
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
            "events": {change: counts[change] for change in CHANGES},
            "text": "".join(position_texts(header, replay(self.trace, self.row)[: facts.end], facts.typed)),
        }


def _style(event: "Event | None", masked: bool) -> str:
    """Last event of a position -> its style; text that no event wrote (the prompt) is bold."""
    from unmask.cli.live import shade

    if event is None:
        return "dim" if masked else "bold"
    if masked:
        return "#b04a5a"
    return shade(math.log(max(event.confidence or 0.0, 1e-9))) + _STYLES[event.change]


def _show(player: Player, screen: "Console") -> None:
    """Play live where a person can press keys; elsewhere print the text at several steps."""
    from unmask.cli.live import STAGES, print_stage

    if screen.is_terminal and sys.stdin.isatty() and os.name == "posix":
        _play(player, screen)
        return
    last = len(player.steps) - 1
    for stage in sorted({round(last * part / STAGES) for part in range(STAGES + 1)}):
        player.at, player.playing = stage, False
        filled, wanted = player.counts
        print_stage(screen, f"{filled} of {wanted} tokens, {player.passes} passes", player.text(plain=True))


def _play(player: Player, screen: "Console") -> None:
    """Play until the key q; the last frame stays on the screen."""
    from rich.live import Live
    from rich.text import Text

    from unmask.cli.live import cropped

    with _keyboard() as wait, Live(console=screen, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            lines = ("", player.status(), player.news() or " ", _GUIDE)
            below = [Text(line, "dim", no_wrap=True, overflow="ellipsis") for line in lines]
            live.update(cropped(player.text(), screen, "reverse", below), refresh=True)
            keys = wait(1 / player.speed if player.playing else None)
            if not keys:
                player.tick()
            if not all(player.press(key) for key in keys):
                return


@contextmanager
def _keyboard() -> Generator[Callable[[float | None], list[str]]]:
    """Context of a function: seconds to wait (None: no limit) -> names of the keys that were pressed meanwhile."""
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
    """Bytes from a terminal -> names of keys: "quit" where the input is closed, "other" for keys without a function."""
    keys, text = list[str](), data.decode("utf-8", "replace")
    while text:
        code = next((code for code in sorted(_KEYS, key=len, reverse=True) if text.startswith(code)), text[0])
        keys.append(_KEYS.get(code, "other"))
        text = text[len(code) :]
    return keys or ["quit"]


# ---- recording -------------------------------------------------------------------------------------------------------


class Tracing:
    """Records the decoding of a request, and writes the trace to a file."""

    alternatives = ALTERNATIVES
    """How many of the most probable tokens the stream has to report at each position."""

    def __init__(self, path: str) -> None:
        """Raises RequestError for a file name with another ending, or a folder that cannot be written."""
        self._path = _checked(path)
        self._model: Model | None = None
        self._recorder: Recorder | None = None

    def record(
        self, model: "Model", stream: "Generator[Snapshot, None, list[Row]]", template: str | None = None
    ) -> "Generator[Snapshot, None, list[Row]]":
        """Stream -> the same stream, which is recorded while it runs; `template` is the text that is filled, if any."""
        from unmask.results import recorder_of

        self._model, self._recorder = model, recorder_of(model, template)
        return self._recorder.record(stream)

    def save(self, rows: "Sequence[Written]", **facts: Any) -> None:
        """Write the file; `facts` are those of `results.trace_of`. Call it after the recorded stream has ended."""
        if self._model is not None and self._recorder is not None:
            from unmask.results import trace_of

            _write(self._path, trace_of(self._model, self._recorder, rows, **facts))


def _write(path: Path, trace: Trace, row: int = 0) -> None:
    """Write the trace in the format of the name's ending (page, animated picture, JSON lines), and print the path."""
    formats = {".html": to_html, ".svg": partial(to_svg, row=row)}
    atomic_text(path, formats.get(path.suffix, to_jsonl)(trace))
    use = "open it in a browser" if path.suffix in formats else f"unmask watch {path}"
    note(f"  {path}: {len(trace.events):,} events; {use}")


def _page(name: str, ending: str) -> Path:
    """File name of --html or --svg -> its path.

    Raises RequestError for another ending, ConfigError for a foreign file.
    """
    path = to_path(name)
    if path.suffix != ending:
        raise RequestError(f"--{ending[1:]} cannot write '{name}'; give a file that ends in {ending}.")
    refuse_foreign_file(path)
    return path


def _checked(name: str) -> Path:
    """File name of --trace -> its path. Raises RequestError where no trace can be written there."""
    path = to_path(name)
    if path.suffix not in (".jsonl", ".html", ".svg"):
        raise RequestError(
            f"--trace cannot write '{name}'; give a name that ends in .jsonl, .html (a page) or .svg (a picture)."
        )
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise RequestError(f"--trace cannot write '{name}'; give a file in a folder that can be written.")
    refuse_foreign_file(path)
    return path
