"""Many texts through one decoder: grouping, padding, and windows that slide over a long text.

Rows of the same padded length decode together, so that a row meets the same shapes, and gets the same bits, whatever
else is in the request. A text longer than the model's window is written semi-autoregressively (MDLM 4.2): a window is
filled, its last part becomes the prompt of the next.
"""

__all__ = [
    "MASKED",
    "Filled",
    "Snapshot",
    "Source",
    "Window",
    "Written",
    "continuation",
    "continuing",
    "decode_rows",
    "filled_row",
    "run_to_end",
    "slide",
    "unigram_entropy",
    "with_places",
]

import math
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, TypeVar

import torch

from unmask.batch import pad_ids, padded_size
from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder, Step
from unmask.decode.options import NO_OPTIONS, RowOptions
from unmask.decode.pattern import Pattern, Placed, suppressed
from unmask.errors import RequestError
from unmask.limits import require_rows, sentences
from unmask.noise import derive
from unmask.text.tokenizer import Tokenizer
from unmask.trace.recorder import Recorder

Row = TypeVar("Row")


class Source(NamedTuple):
    """Where the rows of a request come from; with it a snapshot can be read as text."""

    tokenizer: Tokenizer
    typed: Sequence[Mapping[int, str]]
    """Of each row, by position: text that is shown as it was typed (see `Tokenizer.typed`)."""


MASKED = "░"
"""A masked token in the text of a snapshot."""


class Snapshot(NamedTuple):
    """The state of some rows after a pass."""

    rows: tuple[int, ...]  # their places in the request
    starts: tuple[int, ...]  # where in its text each row's window begins, in tokens
    lengths: tuple[int, ...]  # how many positions of the window are the row's own; the rest is padding
    canvas: Canvas
    step: Step
    before: tuple[Sequence[int], ...] = ()  # the tokens of each row before its window
    source: Source | None = None

    def __repr__(self) -> str:
        """A line: the number of rows, and the text of the first so far."""
        rows = f"{len(self.rows)} row" + ("s" if len(self.rows) != 1 else "")
        text = f": {self.text!r}" if self.source is not None and self.rows else ""
        return f"Snapshot({rows}{text})"

    @property
    def texts(self) -> list[str]:
        """The text of each row so far, with ░ for each masked token. Nothing is decoded before it is asked for.

        Raises RequestError for a snapshot of a decoder that was called without a tokenizer.
        """
        if self.source is None:
            raise RequestError("This snapshot has token ids alone; those of Model.stream and stream_fill have texts.")
        texts: list[str] = []
        for line, (row, length) in enumerate(zip(self.rows, self.lengths, strict=True)):
            tokens = [*(self.before[line] if self.before else ()), *self.canvas.tokens[line, :length].tolist()]
            texts.append(self.source.tokenizer.text(tokens, self.source.typed[row], MASKED))
        return texts

    @property
    def text(self) -> str:
        """The text of the first row, as in `texts`."""
        return self.texts[0]

    def typed(self, line: int) -> Mapping[int, str]:
        """The parts of a row that are shown as they were typed, by position in its whole text."""
        return {} if self.source is None else self.source.typed[self.rows[line]]


@dataclass(slots=True)
class Written:
    """A row as it grows: `tokens` from the prompt on, with a log-probability for each token that was written."""

    tokens: list[int]
    prompt: int
    log_probs: list[float] = field(default_factory=list)
    passes: int = 0
    stopped: bool = False  # at EOS
    typed: Mapping[int, str] = field(default_factory=dict[int, str])
    """Text by position that is shown as it was typed; see `Tokenizer.typed`."""


class Filled(NamedTuple):
    """A row whose MASKs have become tokens."""

    tokens: list[int]
    log_probs: list[float]  # nan where the token was given
    passes: int
    row_passes: int  # with the candidate canvases of a rule that looks ahead


class Window(NamedTuple):
    """A part of a text that is decoded at once."""

    start: int  # where it begins in the text, in tokens
    tokens: list[int]  # with MASK where something is to be written
    seed: int
    rest: int = 0  # how many tokens later windows write


def filled_row(canvas: Canvas, line: int, length: int) -> Filled:
    """A canvas, a line of it, and how many positions are its own -> what was written there."""
    return Filled(
        canvas.tokens[line, :length].tolist(),
        canvas.log_prob[line, :length].tolist(),
        int(canvas.passes[line]),
        int(canvas.row_passes[line]),
    )


def decode_rows(
    decoder: Decoder,
    rows: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    pad_id: int,
    batch: int,
    device: torch.device,
    places: Sequence[int] | None = None,
    before: Sequence[Sequence[int]] | None = None,
    source: Source | None = None,
    options: RowOptions = NO_OPTIONS,
) -> Generator[Snapshot, None, list[Filled]]:
    """Fill the MASKs of each row; yields after each pass, returns the rows in their order.

    `places`, `before` and `source` are what the snapshots say of the rows: their place in the request, by default their
    index; the tokens before their window; what they are read with. `options` has an entry a row.
    """
    padded = [padded_size(len(row)) for row in rows]
    groups = [[i for i, n in enumerate(padded) if n == size] for size in sorted(set(padded))]
    filled: dict[int, Filled] = {}
    for group in (g[at : at + batch] for g in groups for at in range(0, len(g), batch)):
        tokens, valid = pad_ids([rows[i] for i in group], pad_id, device)
        seed = torch.tensor([seeds[i] for i in group], device=device)
        canvas = Canvas.start(tokens, seed, valid, **options.keep(group).tensors(device))
        where = tuple(i if places is None else places[i] for i in group)
        earlier = tuple(() if before is None else before[i] for i in group)
        first, lengths = tuple(map(len, earlier)), tuple(len(rows[i]) for i in group)
        for canvas, step in decoder.steps(canvas):
            yield Snapshot(where, first, lengths, canvas, step, earlier, source)
        for line, i in enumerate(group):
            filled[i] = filled_row(canvas, line, len(rows[i]))
    return [filled[i] for i in range(len(rows))]


def slide(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    new: Sequence[int],
    seeds: Sequence[int],
    *,
    window: int,
    stride: int,
    pad_id: int,
    eos_id: int | None,
    batch: int,
    device: torch.device,
    source: Source | None = None,
    options: RowOptions = NO_OPTIONS,
) -> Generator[Snapshot, None, list[Written]]:
    """Write `new[i]` tokens after prompt i, or up to the first EOS; yields after each pass, returns the rows in order.

    A row needs no more passes once it has an EOS with nothing left to write before it. A window holds at most `window`
    tokens. The first is filled to its end; each later one keeps the last `window - stride` tokens as its prompt and
    writes up to `stride`.
    """
    require_rows(len(new), sum(new) // max(len(new), 1))
    decoder = replace(decoder, end_id=eos_id)
    sizes: dict[str, int] = {"window": window, "stride": stride, "mask_id": decoder.denoiser.mask_id}
    programs = [
        continuation(ids, count, seed, **sizes, eos_id=eos_id, typed=source.typed[i] if source else None)
        for i, (ids, count, seed) in enumerate(zip(prompts, new, seeds, strict=True))
    ]
    texts: dict[int, Written] = {}
    answers: dict[int, Filled | None] = dict.fromkeys(range(len(programs)))
    while True:
        windows: dict[int, tuple[Written, Window]] = {}
        for i, answer in answers.items():
            try:
                windows[i] = next(programs[i]) if answer is None else programs[i].send(answer)
            except StopIteration as end:
                texts[i] = end.value
        open_ = list(windows)
        if not open_:
            return [texts[i] for i in range(len(programs))]
        rows = [part.tokens for _, part in windows.values()]
        place = partial(_in_window, list(windows.values()), eos_id is not None)
        bound, kept = with_places(decoder, options.keep(open_), rows, place)
        filled = yield from decode_rows(
            bound,
            rows,
            [part.seed for _, part in windows.values()],
            pad_id=pad_id,
            batch=batch,
            device=device,
            places=open_,
            before=[text.tokens[: part.start] for text, part in windows.values()],
            source=source,
            options=kept,
        )
        answers = dict(zip(open_, filled, strict=True))


def continuation(
    prompt: Sequence[int],
    new: int,
    seed: int,
    *,
    window: int,
    stride: int,
    mask_id: int,
    eos_id: int | None,
    typed: Mapping[int, str] | None = None,
) -> Generator[tuple[Written, Window], Filled, Written]:
    """A prompt, and how many tokens to write after it -> its windows, one after the other; returns the text.

    Each window is yielded beside the text so far; what was written in it is sent back. See `slide` for the sizes.
    """
    text = Written(list(prompt), len(prompt), typed={} if typed is None else typed)
    turn = 0
    while not text.stopped and _missing(text, new):
        start, tokens = _window(text, new, window, stride, mask_id)
        rest = _missing(text, new) - (start + len(tokens) - len(text.tokens))
        row = yield text, Window(start, tokens, derive(seed, turn), rest)
        _take(text, row, len(text.tokens) - start, eos_id)
        turn += 1
    return text


def with_places(
    decoder: Decoder, options: RowOptions, rows: Sequence[Sequence[int]], place: Callable[[Pattern, int], Placed]
) -> tuple[Decoder, RowOptions]:
    """A decoder and the options of some rows -> the same, with each `Pattern` put where `place` (of the row) says.

    Raises RequestError for a row of which no completion fits.
    """
    if not any(isinstance(rule, Pattern) for rule in decoder.constraints):
        return decoder, options
    never, patterns = suppressed(decoder.denoiser), [rule for rule in decoder.constraints if isinstance(rule, Pattern)]
    if any(rule.automaton.class_of[token] for rule in patterns for token in never):
        raise RequestError("A token that fits the pattern is suppressed; leave out suppress, or change the pattern.")
    rules = [decoder.constraints[number] for number in options.constraint or [0] * len(rows)]
    put = [place(rule, row) if isinstance(rule, Pattern) else rule for row, rule in enumerate(rules)]
    for rule, tokens in zip(put, rows, strict=True):
        if isinstance(rule, Placed):
            rule.check(tokens)
    return replace(decoder, constraints=tuple(put)), replace(options, constraint=range(len(put)))


@sentences()
def run_to_end(stream: Generator[Snapshot, None, list[Row]], recorder: Recorder | None = None) -> list[Row]:
    """Run a stream to its end, recorded where there is a recorder: its rows."""
    stream = stream if recorder is None else recorder.record(stream)
    while True:
        try:
            next(stream)
        except StopIteration as end:
            return end.value


def unigram_entropy(samples: Iterable[Iterable[int]]) -> float:
    """Samples -> the entropy in nats of the distribution of their tokens; 0 without tokens."""
    counts = Counter(token for sample in samples for token in sample)
    total = sum(counts.values())
    return sum(n / total * math.log(total / n) for n in counts.values()) if total else 0.0


def _missing(text: Written, new: int) -> int:
    return new - (len(text.tokens) - text.prompt)


def _window(text: Written, new: int, window: int, stride: int, mask_id: int) -> tuple[int, list[int]]:
    """Where the next window of a text begins, and its tokens, with MASK where something is to be written.

    It begins at 0 while the first window is not full, else `window - stride` tokens before the end of the text.
    """
    length = len(text.tokens)
    start = 0 if length == text.prompt and length < window else max(0, length - (window - stride))
    known = text.tokens[start:]
    return start, [*known, *[mask_id] * min(window - len(known), _missing(text, new))]


def _in_window(windows: Sequence[tuple[Written, Window]], ends: bool, pattern: Pattern, row: int) -> Placed:
    """The pattern of a row in its window, for `with_places`."""
    return continuing(pattern, *windows[row], ends=ends)


def continuing(pattern: Pattern, text: Written, window: Window, *, ends: bool) -> Placed:
    """A pattern, a text and its next window -> the constraint to the masked positions there, of which a text `ends` by
    EOS or not.

    What was written in earlier windows is the beginning of what has to fit, later windows are its end.
    """
    places = [at for at, token in enumerate(window.tokens) if token == pattern.mask_id]
    known = text.tokens[text.prompt :]
    begins = not text.prompt and (bool(known) or places[:1] == [0])
    return pattern.at(places, ends=ends, begins=begins, known=known, rest=window.rest)


def _take(text: Written, row: Filled, start: int, eos_id: int | None) -> None:
    """Append what a window wrote from position `start` of it on, up to EOS."""
    text.passes += row.passes
    for token, log_prob in zip(row.tokens[start:], row.log_probs[start:], strict=True):
        if token == eos_id:
            text.stopped = True
            return
        text.tokens.append(token)
        text.log_probs.append(log_prob)
