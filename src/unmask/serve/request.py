"""A request -> its rows in the engine, and their events in the thread of the HTTP server.

Refused before anything waits: an unknown model, policy or cache, a policy that names a file, a text that does not fit.
"""

__all__ = ["Drafting", "Event", "Request", "Row", "constraint_of", "own_policy", "with_hole"]

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal, NamedTuple

from unmask.api import Model
from unmask.decode.constraint import Constraint
from unmask.decode.pattern import Pattern
from unmask.decode.rows import Filled, Source, Window, Written, continuation
from unmask.disk.folders import bundled_policies
from unmask.errors import RequestError, RunError
from unmask.noise import derive, row_seeds
from unmask.policies.registry import may_hide
from unmask.serve.bodies import OwnOptions, ResponseFormat
from unmask.serve.engine import Engine
from unmask.serve.job import Decoding, Job, Progress, guesses
from unmask.serve.settings import ServeSettings
from unmask.serve.text import TextRow

_FILES = re.compile(r"\b(from|bias|path|file|folder)\s*=\s*([^,\s]+)")


class Event(NamedTuple):
    """Something that happened to a row."""

    row: "Row"
    what: Literal["text", "done", "error"]
    text: str = ""
    error: Exception | None = None
    data: Any = None
    tokens: int = 0
    """Written tokens of the beginning, at this pass."""


@dataclass(slots=True, eq=False)
class Row:
    """A row of a request."""

    index: int
    text: TextRow
    job: Job
    began: float = field(default_factory=time.monotonic)
    finish: Literal["stop", "length"] | None = None
    result: Written | None = None


def own_policy(text: str | None, allowed: Sequence[str]) -> str | None:
    """The policy of a request -> the same. Raises RequestError for one that names a file that is not allowed."""
    for name, value in _FILES.findall(text or ""):
        if value not in allowed and value not in bundled_policies():
            raise RequestError(
                f"The policy names '{name}={value}', and requests may name bundled policies and those of the server's "
                "--allow-policy alone."
            )
    return text


async def constraint_of(
    model: Model, own: OwnOptions, form: ResponseFormat | None, turn: AbstractAsyncContextManager[None]
) -> Constraint | None:
    """What the text of a request has to match -> its constraint, compiled in another thread; None for any text.

    It is compiled inside of `turn`.

    Raises RequestError for a schema or an expression that cannot be.
    """
    schema = None if form is None or form.json_schema is None else form.json_schema.schema_
    if form is not None and form.type == "json_object":
        raise RequestError("response_format json_object has no schema; give json_schema with the schema of the answer.")
    if form is not None and form.type == "json_schema" and schema is None:
        raise RequestError("response_format json_schema has no json_schema.schema; give the schema of the answer.")
    asked = {"unmask.regex": own.regex, "unmask.choices": own.choices, "response_format": schema}
    named = [name for name, value in asked.items() if value is not None]
    if len(named) > 1:
        raise RequestError(f"{' and '.join(named)} say what fits; give one of them.")
    if not named:
        return None
    async with turn:
        return await asyncio.to_thread(model.matching, regex=own.regex, choices=own.choices or (), schema=schema)


def with_hole(prompt: str, length: int, suffix: str) -> str:
    """Two texts -> the template that has a hole of `length` tokens between them."""
    before, after = (re.sub(r"([\[\]\\])", r"\\\1", text) for text in (prompt, suffix))
    return f"{before}[{length}]{after}"


class Request:
    """The rows of a request. Make it, add rows, `send`, read `events`, and `close` it in any case."""

    def __init__(
        self,
        engine: Engine,
        settings: ServeSettings,
        name: str,
        options: OwnOptions,
        *,
        temperature: float | None,
        top_p: float | None,
        seed: int | None,
        alternatives: int = 0,
        ends: bool = True,
        constraint: Constraint | None = None,
    ) -> None:
        """Raises RequestError for a model, policy, cache, dial or number of passes that cannot be."""
        self.engine, self.settings, self.name, self.options = engine, settings, name, options
        self.model: Model = engine.models[name]
        self.seed = secrets.randbits(53) if seed is None else seed
        policy = own_policy(options.policy, settings.allow_policy)
        self.decoding = Decoding(name, policy, options.block_size, options.cache, ends, alternatives)
        self.decoder = engine.decoder(self.decoding)
        defaults = self.model.defaults
        self.temperature = defaults.temperature if temperature is None else temperature
        self.top_p = defaults.top_p if top_p is None else top_p
        self.dial = self._dial()
        self.constraint = constraint
        self.rows: list[Row] = []
        self.began = time.monotonic()
        self.first: float | None = None
        """Seconds to the first pass of a row."""
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._streams = False

    def _dial(self) -> float | None:
        """The dial of the rows: given, or that of a budget of passes."""
        dial, policy = self.options.dial, self.decoder.policy
        if self.options.passes is not None:
            if dial is not None:
                raise RequestError("dial and passes were given, and each decides the speed; give one of the two.")
            budget = self.model.decoder(
                self.options.policy, block_size=self.options.block_size, passes=self.options.passes
            )
            return float(getattr(budget.policy, "dial", 0.0))
        if dial is not None and not hasattr(policy, "dial"):
            raise RequestError("This policy has no dial; a learned one has: leave out dial, or name another policy.")
        return dial

    # ---- rows -----------------------------------------------------------------------------------------------------

    def continue_prompts(
        self, prompts: Sequence[Sequence[int]], typed: Sequence[Mapping[int, str]], length: int, **texts: Any
    ) -> None:
        """Add a row that writes `length` tokens after each prompt; `texts` are options of `TextRow`."""
        model, tokenizer = self.model, self.model.tokenizer
        ends = frozenset() if tokenizer.eos_id is None else frozenset({tokenizer.eos_id})
        texts["ends"] = frozenset(texts.get("ends", ())) | ends
        sizes: dict[str, int] = {"window": model.window, "stride": model.window // 2, "mask_id": tokenizer.mask_id}
        for ids, shown, seed in zip(prompts, typed, row_seeds(self.seed, len(prompts)), strict=True):
            windows = continuation(ids, length, seed, **sizes, eos_id=tokenizer.eos_id, typed=shown)
            self._add(windows, TextRow(tokenizer, ids, typed=shown, hides=self.hides, **texts), shown)

    def fill_template(self, template: str, count: int) -> None:
        """Add rows that fill a template, `count` for each combination of the lengths of its holes."""
        filler = self.model.filler
        sketch = filler.sketch(template, count)
        for seed in row_seeds(self.seed, count):
            for lengths in product(*sketch.holes):
                tokens = sketch.row(lengths, self.model.tokenizer.mask_id)
                self.fill_tokens(tokens, sketch.typed(lengths), derive(seed, 0))

    def fill_between(self, template: str, count: int, *, stops: Sequence[str], facts: bool) -> None:
        """Add `count` rows that fill the only hole of a template, of a fixed length; their text is that of the hole."""
        filler = self.model.filler
        sketch = filler.sketch(template, count)
        lengths = [hole[0] for hole in sketch.holes]
        span, tokens = sketch.span(lengths, 0), sketch.row(lengths, self.model.tokenizer.mask_id)
        typed, constraint = sketch.typed(lengths), filler.writable(self.constraint)
        for seed in row_seeds(self.seed, count):
            text = TextRow(
                *(self.model.tokenizer, tokens[: span.start]),
                typed={at: shown for at, shown in typed.items() if at < span.start},
                stops=stops,
                hides=self.hides,
                facts=facts,
                most=len(span),
            )
            self._add(_canvas(tokens, derive(seed, 0), typed), text, typed, constraint)

    def fill_tokens(self, tokens: Sequence[int], typed: Mapping[int, str], seed: int) -> None:
        """Add a row that fills the MASKs of a canvas; special tokens are never written."""
        if self.model.tokenizer.mask_id not in tokens:
            raise RequestError("The template has no hole, so there is nothing to write; give one, such as [5].")
        constraint = self.model.filler.writable(self.constraint)
        text = TextRow(self.model.tokenizer, (), typed=typed, hides=self.hides)
        self._add(_canvas(list(tokens), seed, typed), text, typed, constraint)

    @property
    def hides(self) -> bool:
        """Whether the policy may hide tokens again."""
        return may_hide(self.decoder.policy)

    def _add(
        self,
        windows: Generator[tuple[Written, Window], Filled, Any],
        text: TextRow,
        typed: Mapping[int, str],
        constraint: Constraint | None = None,
    ) -> None:
        job = Job(
            self.decoding,
            windows,
            lambda result: None,
            temperature=self.temperature,
            top_p=self.top_p,
            dial=self.dial,
            constraint=self.constraint if constraint is None else constraint,
            deadline=self.began + self.settings.seconds,
            place=len(self.rows),
            source=Source(self.model.tokenizer, [{}] * len(self.rows) + [typed]),
        )
        row = Row(len(self.rows), text, job)
        job.done = lambda result: self._done(row, result)
        job.passed = lambda progress: self._passed(row, progress)
        self.rows.append(row)

    # ---- events ---------------------------------------------------------------------------------------------------

    def send(self, *, stream: bool) -> None:
        """Let all rows wait for the engine.

        Raises Busy where the queue is full, and RequestError where no text that fits a pattern has the right length.
        """
        self._streams = stream
        self.engine.submit([row.job for row in self.rows if row.job.window.tokens or row.job.forward(None)])

    async def events(self) -> AsyncIterator[Event]:
        """What happens to the rows, to the end of each; the texts of passes only where it streams. Raises the first
        error."""
        left = len(self.rows)
        while left:
            event = await self._queue.get()
            if event.error is not None:
                raise event.error
            left -= event.what != "text"
            yield event

    def close(self) -> None:
        """Abort what is not finished: the client has gone, or has what it wanted."""
        for row in self.rows:
            if row.finish is None:
                row.job.aborted = True

    def _emit(self, event: Event) -> None:
        """From the thread of the engine."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    def _passed(self, row: Row, progress: Progress) -> bool:
        if self.first is None:
            self.first = time.monotonic() - self.began
        added, data = row.text.advance(progress), self.observed(row, progress)
        if row.text.stopped:
            row.finish = "stop"
            self._emit(Event(row, "done", added, data=data, tokens=len(row.text.tokens)))
            return True
        if self._streams and (added or data):
            self._emit(Event(row, "text", added, data=data, tokens=len(row.text.tokens)))
        return False

    def observed(self, row: Row, progress: Progress) -> Any:
        """What else a stream has of a pass; nothing here."""
        return None

    def _done(self, row: Row, result: Any) -> None:
        if isinstance(result, Exception):
            row.finish = "length"
            self._emit(Event(row, "error", error=result))
            return
        row.result = result
        added = row.text.finish(result)
        row.finish = "stop" if row.text.stopped else "length"
        try:
            if isinstance(self.constraint, Pattern) and self.constraint.verify is not None:
                self.constraint.verify(row.text.text)
        except RunError as error:
            self._emit(Event(row, "error", error=error))
            return
        self._emit(Event(row, "done", added, tokens=len(row.text.tokens)))


class Drafting(Request):
    """A request whose events have the whole text as it stands after each pass."""

    def observed(self, row: Row, progress: Progress) -> str:
        """The written text, with the model's guess of this pass where nothing is written yet in the present block."""
        tokens = list(progress.tokens)
        for at, token, _ in guesses(progress.turn(), self.model.tokenizer.mask_id):
            tokens[at] = token
        return row.text.draft(tokens)


def _canvas(
    tokens: list[int], seed: int, typed: Mapping[int, str]
) -> Generator[tuple[Written, Window], Filled, Written]:
    """A canvas with MASKs -> its only window; returns the filled text."""
    filled = yield Written(list[int](), 0, typed=typed), Window(0, tokens, seed)
    return Written(filled.tokens, 0, filled.log_probs, filled.passes, typed=typed)
