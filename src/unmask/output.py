"""The one printer: texts -> lines on stdout and stderr, in which control characters are visible and no write fails.

Everything that a command or one of its worker processes prints passes the streams of `standard_streams`. A text from
outside (a name, a path, a message of another package, a generated text) cannot send codes to the terminal, and it
cannot begin a second line in a sentence.
"""

__all__ = [
    "HIDDEN",
    "OutputLost",
    "Stream",
    "Streams",
    "console",
    "markdown_table",
    "note",
    "show",
    "show_text",
    "standard_streams",
    "visible",
    "with_codes",
]

import errno
import io
import os
import re
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console

HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls (C0, DEL, C1), separators of lines and paragraphs, bidirectional overrides, halves of surrogate pairs."""
_PIPE_CLOSED = 141  # what a shell reports for a program that SIGPIPE ended: 128 + 13


def visible(text: str, keep: str = "") -> str:
    r"""Text -> the same with escapes such as \x1b and \u202e for control characters, except those in `keep`."""
    return HIDDEN.sub(lambda match: match[0] if match[0] in keep else _escape(match[0]), text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


# ---- printing --------------------------------------------------------------------------------------------------------


def show(*lines: str) -> None:
    """Print results on stdout, each as one line."""
    show_text("\n".join(visible(line, "\t") for line in lines))


def show_text(text: str) -> None:
    """Print a result of several lines, such as a generated text, on stdout: line ends and tabs stay."""
    print(visible(text, "\n\t"), flush=True)


def note(*lines: str) -> None:
    """Print sentences on stderr, each as one line."""
    if sys.stderr is not None:  # print would write to stdout
        print("\n".join(visible(line, "\t") for line in lines), file=sys.stderr, flush=True)


def console(*, stderr: bool = False, quiet: bool = False, soft_wrap: bool = False) -> "Console":
    """A rich console on stdout or stderr for colours and live views; the texts that it draws are made visible."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class Screen(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else segment._replace(text=visible(segment.text, "\n"))

    file = with_codes(sys.stderr if stderr else sys.stdout)
    return Screen(file=file, quiet=quiet, soft_wrap=soft_wrap, markup=False, highlight=False, emoji=False)


# ---- streams ---------------------------------------------------------------------------------------------------------


class OutputLost(BaseException):
    """A write failed, and the command is one that has nothing to do without its output."""


class Stream(io.TextIOBase):
    """A standard stream: control characters become visible, and a write that fails drops this and all later output.

    `failure` is the error of that write. With `ends` the write also raises OutputLost. `target` is None where the
    stream is closed: a text for stdout is then a failure, a text for stderr is dropped, as nobody wanted it.
    """

    def __init__(self, target: TextIO | None, *, needed: bool) -> None:
        """`needed` is True for stdout, which carries results, and False for stderr."""
        self.failure: OSError | None = None
        self.ends = False
        self._target, self._needed = target, needed

    def write(self, text: str, /) -> int:
        """Write a text; of the control characters only line ends and tabs stay."""
        self.send(visible(text, "\n\t"))
        return len(text)

    def send(self, text: str) -> None:
        """Write a text as it is, such as the codes of a live view."""
        if self._target is not None:
            self._attempt(lambda target: target.write(text))
        elif text and self._needed and self.failure is None:
            self._fail(OSError(errno.EBADF, os.strerror(errno.EBADF)))

    def flush(self) -> None:
        """Hand what is written to the system."""
        self._attempt(lambda target: target.flush())

    def isatty(self) -> bool:
        """Whether it is a terminal that still accepts output."""
        return self._target is not None and self.failure is None and self._target.isatty()

    def fileno(self) -> int:
        """The file descriptor. Raises OSError where there is none."""
        if self._target is None:
            raise io.UnsupportedOperation("the stream is closed")
        return self._target.fileno()

    def writable(self) -> bool:
        """True: writes are accepted even where they are dropped."""
        return True

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The encoding of the stream."""
        return getattr(self._target, "encoding", None) or "utf-8"

    def _attempt(self, act: Callable[[TextIO], Any]) -> None:
        if self._target is None or self.failure is not None:
            return
        try:
            act(self._target)
        except OSError as error:
            self._fail(error)
        except ValueError as error:  # a file object that is closed
            self._fail(OSError(errno.EBADF, str(error)))

    def _fail(self, error: OSError) -> None:
        """Record the failure. Python writes what is left in the buffer at its end, which then has to succeed."""
        self.failure = error
        with suppress(OSError, ValueError):
            null, descriptor = os.open(os.devnull, os.O_WRONLY), self.fileno()
            if descriptor in (1, 2):
                os.dup2(null, descriptor)
            os.close(null)
        if self.ends:
            raise OutputLost


class _WithCodes:
    """A `Stream` whose writes keep the codes of the terminal."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.send(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def with_codes(stream: TextIO) -> TextIO:
    """A standard stream -> a file for a library that colours its output by itself (rich)."""
    return cast(TextIO, _WithCodes(stream)) if isinstance(stream, Stream) else stream


class Streams(NamedTuple):
    """The two streams of a command."""

    out: Stream
    err: Stream

    def exit_code(self, code: int) -> int:
        """Exit code of the work -> that of the command: output that was lost never counts as success."""
        self.out.ends = self.err.ends = False
        self.out.flush()
        self.err.flush()
        failure = self.out.failure or self.err.failure
        if code or failure is None:
            return code
        if failure.errno == errno.EPIPE:
            return _PIPE_CLOSED
        note(f"unmask: the output could not be written ({(failure.strerror or 'unknown reason').lower()}).")
        return 1


@contextmanager
def standard_streams(*, ends: bool = False) -> Generator[Streams]:
    """Context in which sys.stdout and sys.stderr are `Stream`s. With `ends` a failed write to stdout ends the command.

    Closed descriptors 0 to 2 are opened on the null device first: else the next file that is opened has such a number,
    and whatever a library prints is written into it.
    """
    with suppress(OSError):  # no descriptor is free: then none of these is closed
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(descriptor, True)
        os.close(descriptor)
    former = sys.stdout, sys.stderr
    for stream in former:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what the encoding lacks is shown as an escape
    streams = Streams(Stream(former[0], needed=True), Stream(former[1], needed=False))
    streams.out.ends = ends
    sys.stdout, sys.stderr = streams
    try:
        yield streams
    finally:
        streams.out.ends = False
        streams.out.flush()
        streams.err.flush()
        sys.stdout, sys.stderr = former


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The heads of the columns and the cells of each row -> the lines of a table in Markdown."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return [*lines, *(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)]
