"""The finished rows of a request -> what a person gets: texts with their tokens, log-probabilities, passes and time."""

__all__ = ["Filling", "Generation", "finished", "hole_texts", "recorder_of", "trace_of"]

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from html import escape
from numbers import Integral
from typing import Any, Self, TypeVar

from unmask.decode.rows import Written, run_to_end, unigram_entropy
from unmask.fill.holes import Attempt, Fill
from unmask.text.tokenizer import Tokenizer
from unmask.trace.events import ALTERNATIVES, Trace
from unmask.trace.recorder import Recorder

Result = TypeVar("Result", bound="Generation")


@dataclass(frozen=True, slots=True, repr=False)
class Generation:
    """Samples. Lists have one entry a sample; log-probabilities are of the written tokens, in nats."""

    texts: list[str]
    """The prompt, as it was typed, and what was written after it."""
    tokens: list[list[int]]
    """Token ids of each whole text, the prompt included."""
    log_probs: list[list[float]]
    """The log-probability of each written token at the pass that wrote it."""
    passes: list[int]
    """The number of forward passes of each text."""
    seconds: float
    """The time that the whole request took."""
    entropy: float
    """Unigram entropy of the written tokens in nats, over all samples; a low value means repetition."""
    trace: Trace | None = field(default=None, kw_only=True)
    """The trace of decoding, if it was requested."""

    @classmethod
    def of(cls, rows: Sequence[Written], tokenizer: Tokenizer, seconds: float) -> Self:
        """The rows that a stream returned, and the seconds that it took -> the samples."""
        written = [row.tokens[row.prompt :] for row in rows]
        return cls(*_columns(rows, tokenizer), seconds, unigram_entropy(written))

    def __repr__(self) -> str:
        """A line: how many texts of how many tokens in how many seconds, and how the first begins."""
        sizes = sorted({len(log_probs) for log_probs in self.log_probs})
        tokens = f"{sizes[0]} to {sizes[-1]} tokens" if len(sizes) > 1 else f"{sizes[0] if sizes else 0} tokens"
        count = len(self.texts)
        how_many = f"{count} texts, {tokens} each" if count != 1 else f"1 text, {tokens}"
        first = self.texts[0] if self.texts else ""
        shown = f"{first[:40]}..." if len(first) > 43 else first
        return f"{type(self).__name__}({how_many}, {self.seconds:.1f} s: {shown!r})"

    def _repr_html_(self) -> str:
        """For a notebook: the trace, which plays; without one the texts."""
        if self.trace is not None and self.trace.header.rows:
            from unmask.trace.page import to_notebook

            return to_notebook(self.trace)
        return "".join(f'<pre style="white-space: pre-wrap">{escape(text)}</pre>' for text in self.texts)

    @property
    def text(self) -> str:
        """The first text, as in `texts`."""
        return self.texts[0]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values that `json.dumps` takes, under the names of `unmask generate --json`: the ids are
        `token_ids`, since `tokens` is a number there. Without the trace, which `trace.events` writes."""
        return _named({f.name: getattr(self, f.name) for f in fields(self) if f.name != "trace"})


def hole_texts(row: Fill | Attempt, tokenizer: Tokenizer) -> list[str]:
    """A filled row -> the text of each hole; a space at its beginning is kept, but for a hole that begins the row."""
    begins = [at == 0 and row.tokens[: len(hole)] == hole for at, hole in enumerate(row.holes)]
    return [tokenizer.decode(hole, not first) for hole, first in zip(row.holes, begins, strict=True)]


@dataclass(frozen=True, slots=True, repr=False)
class Filling(Generation):
    """Texts whose holes were filled; log-probabilities of the template's tokens are 0."""

    holes: list[list[str]]
    """The written text of each hole."""
    attempts: list[list[Attempt]]
    """The decoded combinations of lengths, the best (the sample) first; empty without free lengths."""
    length_scores: list[dict[int, float]]
    """With a rule that chooses the length before decoding: the score of each length that it compared; else empty."""

    @classmethod
    def of_fills(cls, rows: Sequence[Fill], tokenizer: Tokenizer, seconds: float) -> Self:
        """The rows that `Model.stream_fill` returned, and the seconds that it took -> the samples."""
        written = [[token for hole in row.holes for token in hole] for row in rows]
        holes = [hole_texts(row, tokenizer) for row in rows]
        columns = _columns(rows, tokenizer)
        scores = [{} if row.choice is None else row.choice.scores for row in rows]
        return cls(*columns, seconds, unigram_entropy(written), holes, [row.attempts for row in rows], scores)


def finished(
    model: Any,
    stream: Callable[..., Any],
    collect: Callable[[list[Any], Tokenizer, float], Result],
    arguments: dict[str, Any],
) -> Result:
    """A model (`api.Model`), its method that streams, what makes a result of its rows, and the arguments -> the result.

    `arguments` are those of `stream`, and `trace`: whether the result has a trace. "self" among them is ignored.
    """
    options = {name: value for name, value in arguments.items() if name not in ("self", "trace")}
    start = time.perf_counter()
    recorder = recorder_of(model, arguments.get("template")) if arguments["trace"] else None
    rows = run_to_end(stream(**options, alternatives=ALTERNATIVES if recorder else 0), recorder)
    result = collect(rows, model.tokenizer, time.perf_counter() - start)
    if recorder is None:
        return result
    policy, block_size = model.defaults.rule(model.denoiser, options["policy"], options["block_size"])
    trace = trace_of(model, recorder, rows, policy=policy, seed=options["seed"], block_size=block_size)
    return replace(result, trace=trace)


def recorder_of(model: Any, template: str | None = None) -> Recorder:
    """A model (`api.Model`) -> the recorder of its `stream`, or of its `stream_fill` with this template."""
    return Recorder(model.tokenizer.mask_id, None if template is None else model.filler.old(template))


def trace_of(
    model: Any,
    recorder: Recorder,
    rows: Sequence[Written],
    *,
    policy: object = "random",
    seed: int | Sequence[int] = 0,
    block_size: int | None = None,
) -> Trace:
    """A model, its recorder and the rows that a stream returned -> the trace; the options are those of the stream."""
    from unmask.tasks.sudoku import drawn_as  # tasks are needed for traces alone

    tokenizer, checkpoint = model.tokenizer, model.checkpoint
    source = checkpoint and checkpoint.fact(str, "run.json", "settings", "data", "source")
    return recorder.trace(
        [row.tokens for row in rows],
        tokenizer.piece,
        tokenizer.part,
        policy=policy if isinstance(policy, str) else repr(policy),
        seed=int(seed) if isinstance(seed, int | Integral) else tuple(map(int, seed)),
        checkpoint="" if checkpoint is None else checkpoint.folder.name,
        block_size=block_size,
        **drawn_as(source or ""),
    )


def _columns(
    rows: Sequence[Written], tokenizer: Tokenizer
) -> tuple[list[str], list[list[int]], list[list[float]], list[int]]:
    """Rows -> their texts, tokens, log-probabilities and passes."""
    texts = [tokenizer.text(row.tokens, row.typed) for row in rows]
    return texts, [row.tokens for row in rows], [row.log_probs for row in rows], [row.passes for row in rows]


def _named(entries: Mapping[str, object]) -> dict[str, Any]:
    """Fields of a result by name -> plain values by the name that they have in JSON."""
    return {"token_ids" if name == "tokens" else name: _plain(value) for name, value in entries.items()}


def _plain(value: object) -> Any:
    """A value of a result -> lists, dicts, texts and numbers."""
    if isinstance(value, Attempt):
        return _named({name: entry for name, entry in value._asdict().items() if name != "typed"})
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]  # pyright: ignore[reportUnknownVariableType]
    return value
