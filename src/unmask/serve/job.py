"""A row to write, and what its listener is told of each pass. The engine (`serve.engine`) fills it."""

__all__ = ["Busy", "Decoding", "Job", "Late", "Listener", "Progress", "alone", "guesses"]

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from unmask.batch import placed
from unmask.decode.canvas import Canvas
from unmask.decode.constraint import Constraint
from unmask.decode.loop import Step
from unmask.decode.pattern import Pattern
from unmask.decode.rows import Filled, Snapshot, Source, Window, Written, continuing
from unmask.errors import RunError


class Busy(RunError):
    """The queue is full; the request can be sent again later."""


class Late(RunError):
    """The time of a request is over."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """What the rows of a group have in common, beside their padded length; None leaves it to the model."""

    model: str
    policy: str | None = None
    block_size: int | None = None
    cache: str | None = None
    ends: bool = True
    """Whether a row is finished at EOS."""
    alternatives: int = 0
    """So many of the most probable tokens are in the steps, see `Decoder`."""


class Progress(NamedTuple):
    """What a pass did to a row."""

    tokens: list[int]
    """The text so far, its prompt included, MASK where nothing is written yet in the present window."""
    settled: int
    """Number of tokens from the beginning that cannot change: all before the present block."""
    passes: int
    """Of the row so far."""
    turn: "Callable[[], Snapshot]"
    """The row alone as a snapshot, for a trace; valid until the next pass."""


Listener = Callable[[Progress], bool]
"""Called after each pass of a row, in the thread of the engine; True ends the row, and nobody is told any more."""


@dataclass(slots=True, eq=False)
class Job:
    """A row: its windows, one after the other, and who is told of it."""

    decoding: Decoding
    windows: Generator[tuple[Written, Window], Filled, Any]
    """See `decode.rows.continuation`; what it returns is the result of the row."""
    done: Callable[[Any], None]
    """Gets the result, or an exception (Late, RunError, RequestError), in the thread of the engine."""
    passed: Listener | None = None
    temperature: float | None = None
    top_p: float | None = None
    dial: float | None = None
    constraint: Constraint | None = None
    deadline: float | None = None
    """A value of `time.monotonic`."""
    place: int = 0
    """Its place in its request, for snapshots."""
    source: Source | None = None
    """What the snapshots of `Progress.turn` are read with; it has an entry for `place`."""
    aborted: bool = False
    """Set by anybody, at any time: the row leaves before the next pass, and nobody is told."""
    passes: int = 0
    window: Window = field(default=Window(0, [], 0))
    rule: Constraint | None = None
    """The constraint in the present window."""
    text: Written = field(default_factory=lambda: Written([], 0))

    def forward(self, answer: Filled | None) -> bool:
        """What was written in the present window, None at first -> whether there is another window; else `done` is
        called with the result. Raises RequestError where no completion of a pattern fits the window."""
        try:
            self.text, self.window = next(self.windows) if answer is None else self.windows.send(answer)
        except StopIteration as end:
            self.done(end.value)
            return False
        self.rule = self.constraint
        if isinstance(self.constraint, Pattern):
            self.rule = continuing(self.constraint, self.text, self.window, ends=self.decoding.ends)
            self.rule.check(self.window.tokens)
        return True


def alone(canvas: Canvas, step: Step, line: int, job: Job) -> Snapshot:
    """A row of a batch after a pass -> the snapshot that it would have alone."""
    rows = placed([line], canvas.seed.device)
    sliced = Step(
        rows - rows,
        step.view.keep(rows),
        step.decision,
        step.revealed[rows],
        step.remasked[rows],
        step.rescued[rows],
        None if step.candidates is None else step.candidates[rows],
        None if step.candidate_log_probs is None else step.candidate_log_probs[rows],
    )
    window = job.window
    earlier = job.text.tokens[: window.start]
    return Snapshot(
        (job.place,), (window.start,), (len(window.tokens),), canvas.keep(rows), sliced, (earlier,), job.source
    )


def guesses(turn: Snapshot, mask_id: int) -> list[tuple[int, int, float]]:
    """A row alone after a pass -> what the pass would write where nothing is written: position, token, probability."""
    view = turn.step.view
    places = (view.eligible[0] & ~turn.step.revealed[0]).nonzero().squeeze(-1).tolist()
    tokens, sure = view.proposal[0].tolist(), view.confidence[0].tolist()
    return [(turn.starts[0] + at, tokens[at], round(sure[at], 4)) for at in places if tokens[at] != mask_id]
