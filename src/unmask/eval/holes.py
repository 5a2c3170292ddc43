"""Held-out text -> spans that are hidden, the bias of a model by the length of a hole, and how well lengths are chosen.

A span of a text is replaced by a hole of free length. A rule of `fill.lengths`, or the likelihood, chooses the length;
the text of each length is decoded once, so that rules are compared by the same texts.
"""

__all__ = [
    "LENGTHS",
    "Measured",
    "Span",
    "held_out",
    "measure_bias",
    "measure_rules",
    "recovered",
    "sketch_of",
    "spans_of",
]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch

from unmask.data.packed import Packed
from unmask.data.settings import DataSettings
from unmask.decode.options import NO_OPTIONS
from unmask.decode.rows import run_to_end
from unmask.errors import RequestError
from unmask.fill.lengths import Bias, LengthRule, Predict, confidence, fit_bias, predictor
from unmask.fill.sketch import Sketch
from unmask.noise import derive, generator
from unmask.output import note
from unmask.train.plan import corpus_of
from unmask.train.settings import trained_on

if TYPE_CHECKING:
    from unmask.api import Model

LENGTHS = (1, 2, 4, 6, 12, 16, 24, 32, 48, 64, 96, 128)
"""Lengths at which the bias is measured, as in the program of CAL."""
_NEAR = 4  # a hole at most so much longer or shorter than the span says nothing about the bias
_DRAWN = 23  # of the seed: rows, and spans in them
_EDGE = 4  # tokens at both ends of a passage that are never hidden


class Span(NamedTuple):
    """Tokens that are hidden, and those around them."""

    before: list[int]
    tokens: list[int]
    after: list[int]


def held_out(model: "Model", source: str | None) -> Packed:
    """A text as --data.source of `unmask train`, None for that of the training -> its held-out part in rows.

    Raises RequestError for a text whose training part is not known.
    """
    trained = None if model.checkpoint is None else trained_on(model.checkpoint)
    data = DataSettings(length=model.window) if trained is None else trained.data
    own = {} if source is None else {"source": source, "valid": None}
    data = replace(data, tokenizer="auto", vocab_size=None, **own)
    return corpus_of(data, model.tokenizer, note, trained=trained).valid


def spans_of(text: Packed, lengths: range, size: int, *, count: int, skip: int = 0, seed: int = 0) -> list[Span]:
    """Packed rows -> a span of random length and place in the first `size` tokens of each of `count` rows.

    The rows are in a random order that is the same for every seed, and the first `skip` are left out, so that requests
    with other `skip` have other rows. Raises RequestError where there are too few.
    """
    order = torch.randperm(len(text), generator=generator(0, _DRAWN)).tolist()
    rows = [row for row in order if text.last[row] >= size][skip : skip + count]
    if len(rows) < count or size < lengths[-1] + 2 * _EDGE:
        raise RequestError(
            f"The text has {len(rows)} rows of {size} tokens after the first {skip}, and {count} of at least "
            f"{lengths[-1] + 2 * _EDGE} tokens are wanted; give a longer text, fewer spans, or shorter ones."
        )
    draw, spans = generator(seed, _DRAWN), list[Span]()
    for row in rows:
        ids = [int(token) for token in text.ids[row][:size]]
        length = lengths[int(torch.randint(len(lengths), (), generator=draw))]
        start = int(torch.randint(_EDGE, size - _EDGE - length + 1, (), generator=draw))
        spans.append(Span(ids[:start], ids[start : start + length], ids[start + length :]))
    return spans


def sketch_of(span: Span, lengths: range) -> Sketch:
    """A span -> its text with a hole of one of these lengths."""
    return Sketch([span.before, lengths, span.after], ["", "", ""])


def measure_bias(
    model: "Model", spans: Sequence[Span], lengths: Sequence[int] = LENGTHS
) -> tuple[Bias, dict[int, float]]:
    """Spans -> the bias of the model, and the mean confidences that it was fitted to, by the length of the hole.

    A hole whose length is within 4 of that of the span is left out, and one for which the window has no space.
    """
    filler, points = model.filler, dict[int, float]()
    for length in lengths:
        values: list[float] = []
        for span in spans:
            fits = length + len(span.before) + len(span.after) <= model.window
            if fits and abs(length - len(span.tokens)) > _NEAR:
                sketch = sketch_of(span, range(length, length + 1))
                values.append(confidence(predictor(filler, sketch, 0, filler.writable(None))([], length)))
        if values:
            points[length] = sum(values) / len(values)
    return fit_bias(points), points


# ---- rules -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measured:
    """What a rule chose for a span."""

    length: int
    recovered: float
    passes: int
    """Of choosing the length: passes of a row, those of decoding included where every length is decoded."""


def measure_rules(
    model: "Model", span: Span, lengths: range, rules: Mapping[str, LengthRule], policy: str, draws: int, seed: int
) -> tuple[dict[str, Measured], dict[int, float]]:
    """A span -> by rule, the likelihood among them, what it chose; and by length, what share of the span its text has.

    The text of each length is decoded at temperature 0.
    """
    sketch, filler = sketch_of(span, lengths), model.filler
    decoder = replace(model.decoder(policy, temperature=0.0, top_p=1.0), constraints=(filler.writable(None),))
    (fill,) = run_to_end(filler.stream(sketch, decoder, [derive(seed, 0)], NO_OPTIONS, draws=draws, batch=32))
    shares = {attempt.lengths[0]: recovered(attempt.holes[0], span.tokens) for attempt in fill.attempts}
    best, passes = fill.attempts[0].lengths[0], sum(attempt.passes + draws for attempt in fill.attempts)
    chosen = {"likelihood": Measured(best, shares[best], passes)}
    predict = _remembered(predictor(filler, sketch, 0, filler.writable(None)))
    for name, rule in rules.items():
        choice = rule(lengths, predict)
        chosen[name] = Measured(choice.length, shares[choice.length], choice.passes)
    return chosen, shares


def _remembered(predict: Predict) -> Predict:
    """Predictions -> the same, each computed once: rules ask for the same passes."""
    seen: dict[tuple[tuple[int, ...], int], torch.Tensor] = {}

    def again(begin: Sequence[int], masks: int) -> torch.Tensor:
        key = (tuple(begin), masks)
        if key not in seen:
            seen[key] = predict(begin, masks)
        return seen[key]

    return again


def recovered(written: Sequence[int], right: Sequence[int]) -> float:
    """Two lists of tokens -> the length of their longest common subsequence, as a share of the longer list."""
    row = [0] * (len(right) + 1)
    for token in written:
        before = 0
        for at, other in enumerate(right, start=1):
            before, row[at] = row[at], before + 1 if token == other else max(row[at], row[at - 1])
    return row[-1] / max(len(written), len(right), 1)
