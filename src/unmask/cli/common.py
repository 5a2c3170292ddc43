"""What several verbs share: groups of options, figures as text or JSON, and the progress of a run. Imports no torch."""

__all__ = [
    "DecodingOptions",
    "MachineOptions",
    "Meter",
    "OutputOptions",
    "RecordingOptions",
    "StatisticsOptions",
    "TrustOptions",
    "draw_curves",
    "duration",
    "keeping",
    "print_json",
    "resume_command",
    "size",
    "table",
    "typed_again",
]

import json
import math
import shlex
import signal
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from unmask.errors import Interrupted, RequestError, UnmaskError
from unmask.output import HIDDEN, console, show_text, visible
from unmask.ranges import BlockSize, Dial, Guidance, Passes, Seed, Temperature, Threads, TopP

if TYPE_CHECKING:
    from unmask.api import Model
    from unmask.decode.constraint import Constraint

_SECONDS_BETWEEN_LINES = 10.0


# ---- options ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """How masked positions are filled."""

    policy: str | None = None
    """Which tokens appear when: a name, or name:key=value (`unmask list policies`); by default that of the model, see
    `unmask info`."""
    temperature: Temperature | None = None
    """0 takes the most probable token; 1 samples from the model; by default that of the model."""
    top_p: TopP | None = None
    """Sample from the smallest set of tokens that has this share of the probability; by default that of the model."""
    dial: Dial | None = None
    """From 0 (accurate) to 1 (one pass), for a learned policy (learned:from=FOLDER); by default 0.25."""
    passes: Passes | None = None
    """Mean number of passes that a learned policy may use: its calibration gives the dial value."""
    block_size: BlockSize | None = None
    """Fill blocks of so many positions from left to right; by default, with --policy, all at once."""
    cache: str | None = None
    """Keep keys and values between passes: prefix, dual (both with blocks) or delayed; an option is written
    dual:refresh=8. This is faster, and the text is only approximately the same."""
    guidance: Guidance = 0.0
    """Scale of classifier-free guidance towards the prompt or the text around the holes; each pass then costs two."""
    feedback: Literal["auto", "on", "off"] = "auto"
    """Whether a pass sees what the last one predicted (soft masks); auto: where the model was trained with it."""
    suppress: tuple[str, ...] = ()
    """Tokens that are never written: texts of one token each, or names of special tokens."""
    only: str | None = None
    """Write only tokens that are made of these characters, such as 0123456789."""
    regex: str | None = None
    """A regular expression for all that is written: a whole continuation, or all holes together. Each pass then writes
    only tokens that keep such a text possible (docs/decoding.md)."""
    json_schema: str | None = None
    """Write JSON that fits this JSON schema: a file, or the schema itself."""
    seed: Seed = 0
    """The same seed gives the same text."""

    def keywords(self, model: "Model") -> dict[str, Any]:
        """Model -> these options as keyword arguments of `Model.stream` and `Model.stream_fill`."""
        own = ("only", "regex", "json_schema")
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in own}
        values["feedback"] = {"auto": None, "on": True, "off": False}[self.feedback]
        return values | {"constraint": self._constraint(model)}

    def _constraint(self, model: "Model") -> "Constraint | None":
        """Model -> the constraint of these options. Raises RequestError for several of them."""
        typed = [name for name in ("only", "regex", "json_schema") if getattr(self, name) is not None]
        if len(typed) > 1:
            first, second = (f"--{name.replace('_', '-')}" for name in typed[:2])
            raise RequestError(f"{first} and {second} cannot go together; give one of them.")
        if self.only is not None:
            return model.only(self.only)
        if self.regex is not None:
            return model.matching(regex=self.regex)
        return None if self.json_schema is None else model.matching(schema=_schema(self.json_schema))


def _schema(text: str) -> str:
    """A JSON schema, or the path of a file with one -> the JSON. Raises RequestError for a file that cannot be read."""
    if text.lstrip().startswith("{"):
        return text
    from unmask.config import to_path
    from unmask.disk.files import reason_of
    from unmask.disk.json import NotJson, read_text

    try:
        return read_text(to_path(text))
    except OSError as error:
        raise RequestError(f"The JSON schema {text} cannot be read ({reason_of(error)}); name a file.") from None
    except NotJson as error:
        raise RequestError(f"The JSON schema {text} {error.reason}; name a file with JSON.") from None


@dataclass(frozen=True, slots=True)
class RecordingOptions:
    """What is shown and recorded while a text is written."""

    watch: bool = False
    """Show the text while it is written."""
    trace: str | None = None
    """Record every change of a position: FILE.jsonl for `unmask watch`, FILE.html for a page that plays it, FILE.svg
    for an animated picture of the first text."""


@dataclass(frozen=True, slots=True)
class MachineOptions:
    """The device and the arithmetic of the network."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    """Arithmetic of the network; int8: bfloat16 with the matrices of a transformer in int8, which saves memory."""
    threads: Threads | None = None
    """Processor threads; by default the faster of one and all, measured; texts do not depend on it."""

    def load(self, checkpoint: str) -> "Model":
        """Checkpoint or run folder, or the name of a bundled model -> the model on this machine."""
        from unmask.api import load
        from unmask.run.machine import fastest_threads, set_threads

        model = load(checkpoint, device=self.device, dtype=self.dtype, threads=self.threads)
        if self.threads is None and model.device.type == "cpu":
            set_threads(fastest_threads())
        return model


@dataclass(frozen=True, slots=True)
class TrustOptions:
    """What a checkpoint, a run or a recipe may do."""

    trust_recorded_tasks: bool = False
    """Run the Python files of tasks that are recorded there; without it, only files that are typed in the command."""

    def apply(self) -> None:
        """Let recorded tasks run their files until the end of the command, where that was asked for."""
        if self.trust_recorded_tasks:
            from unmask.config import trust_recorded

            trust_recorded()


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What is printed."""

    json: bool = False
    """Print one JSON object on stdout."""


@dataclass(frozen=True, slots=True)
class StatisticsOptions(OutputOptions):
    """What is printed."""

    verbose: bool = False
    """Print more: statistics on stderr, or more facts."""


# ---- interrupts ------------------------------------------------------------------------------------------------------


def resume_command(verb: str, folder: Path) -> str:
    """`train` or `learn` and a run folder -> the command that goes on with the run."""
    words = typed_again("--data.source" if verb == "train" else "--task")
    return shlex.join(["unmask", verb, "--resume", str(folder), *words])


def typed_again(option: str) -> list[str]:
    """The option of a task -> the words that a later command needs because this one typed a Python file, if any."""
    from unmask.config import typed_files

    files = typed_files()
    if files is None or len(files) > 1:
        return ["--trust-recorded-tasks"]
    return [word for text in files.values() for word in (option, text)]


@contextmanager
def keeping(what: Callable[[], str]) -> Generator[None]:
    """Context in which an interrupt is raised again with the sentence `what()`: what is kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, Interrupted) else int(signal.SIGINT)
        raise Interrupted(what(), number) from None


# ---- output ----------------------------------------------------------------------------------------------------------


def draw_curves(run: Path) -> tuple[str | None, str]:
    """Run folder -> the path of the picture of its metrics (None without one), and that path or the reason as text."""
    from unmask.run.metrics import plot_curves

    metrics, curves = run / "metrics.jsonl", run / "curves.png"
    if not metrics.exists() or not metrics.stat().st_size:
        return None, "none: no step was logged"
    try:
        drawn = plot_curves(metrics, curves)
    except UnmaskError as error:  # the run itself is whole and saved
        return None, f"none: {error}"
    return (str(curves), str(curves)) if drawn else (None, "pip install 'unmask[plots]'")


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout; NaN and infinity become null."""
    utf8 = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    text = json.dumps(_finite(value), ensure_ascii=not utf8)
    show_text(HIDDEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text))  # JSON itself escapes only C0


def table(rows: Mapping[str, str]) -> list[str]:
    """Values by name -> lines with names and values in two columns."""
    width = max((len(name) for name in rows), default=0)
    return [f"  {name:<{width}}  {value}" for name, value in rows.items()]


def duration(seconds: float) -> str:
    """Seconds -> text: 1:02:03 h, 2:03 min, or 2.5 s below a minute."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def size(count: float) -> str:
    """Number of bytes -> text: 12.3 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _finite(value: Any) -> Any:
    """Value -> the same with None for NaN and infinity, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


class Meter:
    """The progress of a run: a bar on stderr, or a line every ten seconds where stderr is no terminal."""

    def __init__(self, doing: str, unit: str, total: int, begun: int, *, visible: bool, name: str = "") -> None:
        """A run of `total` steps, of which `begun` are done already; it prints only where `visible`.

        `doing` is the label of the bar, `unit` the word for a step in the lines. A run with a `name` is one of several
        and prints lines instead of a bar. The bar appears when the `with` block is entered.
        """
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._name = f"{name}: " if name else ""
        self._unit, self._total = unit, total
        self._first: tuple[int, float] | None = None
        self._console = console(stderr=True, quiet=not visible)
        self._printed_at = time.monotonic()
        self._bar = Bar(
            TextColumn(doing),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            refresh_per_second=4,
            speed_estimate_period=120,
            disable=bool(name) or not (visible and self._console.is_terminal),
        )
        self._task = self._bar.add_task("", total=total, completed=begun, figures="")

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the bar; its last state stays on the screen."""
        self._bar.stop()

    def moved(self, count: int, figures: str) -> None:
        """Report that `count` steps are done: move the bar, or print a line if ten seconds have passed."""
        if not self._bar.disable:
            self._bar.update(self._task, completed=count, figures=figures)
            return
        now = time.monotonic()
        if self._first is None:  # earlier time (a warm start, for example) does not predict the steps to come
            self._first = (count, now)
        if now - self._printed_at >= _SECONDS_BETWEEN_LINES or count == self._total:
            self.line(f"{self._unit} {count:,} of {self._total:,}  {figures}{self._left(count, now)}")
            self._printed_at = now

    def _left(self, count: int, now: float) -> str:
        """The estimated time of the remaining steps, as text; empty before two steps are timed."""
        assert self._first is not None
        done, since = self._first
        return f"  {duration((now - since) / (count - done) * (self._total - count))} left" if count > done else ""

    def line(self, text: str) -> None:
        """Print one line."""
        self._console.print(visible(self._name + text), soft_wrap=True)
