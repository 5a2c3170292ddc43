"""Many rows, of any length, through one decoder: grouping, padding, and windows that slide over a long text.

Rows of the same padded length decode together, so that a row meets the same shapes, and gets the same bits, whatever
else is in the request. A text longer than the model's window is written semi-autoregressively (MDLM 4.2): a window is
filled, its last part becomes the prompt of the next.
"""

__all__ = ["NO_OPTIONS", "Filled", "RowOptions", "Snapshot", "Written", "decode_rows", "run_to_end", "slide"]

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from unmask.batch import pad_ids, padded_size
from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder, Step
from unmask.noise import derive
from unmask.trace.recorder import Recorder

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class RowOptions:
    """What rows may each have their own of, one entry a row; None leaves it to the policy or the decoder."""

    dial: Sequence[float] | None = None
    temperature: Sequence[float] | None = None
    top_p: Sequence[float] | None = None
    constraint: Sequence[int] | None = None
    """Which of the decoder's constraints."""

    def keep(self, rows: Sequence[int]) -> "RowOptions":
        """Those of some rows, by index, which may come more than once."""
        return RowOptions(**{name: [values[row] for row in rows] for name, values in self._said()})

    def tensors(self, device: torch.device) -> dict[str, Tensor]:
        """By name, for `Canvas.start`: (B,) each, without those that are None."""
        return {
            name: torch.tensor(values, dtype=torch.int64 if name == "constraint" else torch.double, device=device)
            for name, values in self._said()
        }

    def _said(self) -> list[tuple[str, Sequence[Any]]]:
        pairs = [(f.name, getattr(self, f.name)) for f in fields(self)]
        return [(name, values) for name, values in pairs if values is not None]


NO_OPTIONS = RowOptions()
"""Rows that leave everything to the policy and the decoder."""


class Snapshot(NamedTuple):
    """The state of some rows after a pass."""

    rows: tuple[int, ...]  # their places in the request
    starts: tuple[int, ...]  # where in its text each row's window begins, in tokens
    lengths: tuple[int, ...]  # how many positions of the window are the row's own; the rest is padding
    canvas: Canvas
    step: Step


@dataclass(slots=True)
class Written:
    """A row as it grows: `tokens` from the prompt on, with a log-probability for each token that was written."""

    tokens: list[int]
    prompt: int
    log_probs: list[float] = field(default_factory=list)
    passes: int = 0
    stopped: bool = False  # at EOS


class Filled(NamedTuple):
    """A row whose MASKs have become tokens."""

    tokens: list[int]
    log_probs: list[float]  # nan where the token was given
    passes: int


def decode_rows(
    decoder: Decoder,
    rows: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    pad_id: int,
    batch: int,
    device: torch.device,
    places: Sequence[int] | None = None,
    starts: Sequence[int] | None = None,
    options: RowOptions = NO_OPTIONS,
) -> Generator[Snapshot, None, list[Filled]]:
    """Fill the MASKs of each row; yields after each pass, returns the rows in their order.

    `places` and `starts` are what the snapshots say of the rows; by default their index and 0. `options` has
    an entry a row.
    """
    padded = [padded_size(len(row)) for row in rows]
    groups = [[i for i, n in enumerate(padded) if n == size] for size in sorted(set(padded))]
    filled: dict[int, Filled] = {}
    for group in (g[at : at + batch] for g in groups for at in range(0, len(g), batch)):
        tokens, valid = pad_ids([rows[i] for i in group], pad_id, device)
        seed = torch.tensor([seeds[i] for i in group], device=device)
        canvas = Canvas.start(tokens, seed, valid, **options.keep(group).tensors(device))
        where = tuple(i if places is None else places[i] for i in group)
        first = tuple(0 if starts is None else starts[i] for i in group)
        for canvas, step in decoder.steps(canvas):
            yield Snapshot(where, first, tuple(len(rows[i]) for i in group), canvas, step)
        for line, i in enumerate(group):
            n = len(rows[i])
            filled[i] = Filled(
                canvas.tokens[line, :n].tolist(), canvas.log_prob[line, :n].tolist(), int(canvas.passes[line])
            )
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
    options: RowOptions = NO_OPTIONS,
) -> Generator[Snapshot, None, list[Written]]:
    """Write `new[i]` tokens after prompt i, or up to the first EOS; yields after each pass, returns the rows in order.

    A window holds at most `window` tokens. The first is filled to its end; each later one keeps the last
    `window - stride` tokens as its prompt and writes up to `stride`.
    """
    texts = [Written(list(prompt), len(prompt)) for prompt in prompts]
    turn = 0
    while True:
        open_ = [i for i, text in enumerate(texts) if not text.stopped and _missing(text, new[i])]
        if not open_:
            return texts
        starts, rows = [], []
        for i in open_:
            start = _window_start(texts[i], window, stride)
            room = window - (len(texts[i].tokens) - start)
            wanted = min(room, _missing(texts[i], new[i]))
            starts.append(start)
            rows.append([*texts[i].tokens[start:], *[decoder.denoiser.mask_id] * wanted])
        filled = yield from decode_rows(
            decoder,
            rows,
            [derive(seeds[i], turn) for i in open_],
            pad_id=pad_id,
            batch=batch,
            device=device,
            places=open_,
            starts=starts,
            options=options.keep(open_),
        )
        for i, start, row in zip(open_, starts, filled, strict=True):
            _take(texts[i], row, len(texts[i].tokens) - start, eos_id)
        turn += 1


def run_to_end(stream: Generator[Snapshot, None, list[Row]], recorder: Recorder | None = None) -> list[Row]:
    """Run a stream to its end, recorded where there is a recorder: its rows."""
    stream = stream if recorder is None else recorder.record(stream)
    while True:
        try:
            next(stream)
        except StopIteration as end:
            return end.value


def _missing(text: Written, new: int) -> int:
    return new - (len(text.tokens) - text.prompt)


def _window_start(text: Written, window: int, stride: int) -> int:
    """Where the next window begins: at 0 while the first has room, else `window - stride` before the end."""
    length = len(text.tokens)
    fits = length < window if length == text.prompt else False
    return 0 if fits else max(0, length - (window - stride))


def _take(text: Written, row: Filled, start: int, eos_id: int | None) -> None:
    """Append what a window wrote from position `start` of it on, up to EOS."""
    text.passes += row.passes
    for token, log_prob in zip(row.tokens[start:], row.log_probs[start:], strict=True):
        if token == eos_id:
            text.stopped = True
            return
        text.tokens.append(token)
        text.log_probs.append(log_prob)
