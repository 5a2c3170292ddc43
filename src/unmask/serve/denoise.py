"""/v1/denoise: a canvas -> the events of a trace while they happen."""

__all__ = ["Denoising"]

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

from unmask import __version__
from unmask.decode.rows import Filled
from unmask.errors import RequestError
from unmask.noise import derive, row_seeds
from unmask.serve.answers import own_facts
from unmask.serve.job import Progress, guesses
from unmask.serve.request import Request, Row
from unmask.trace.events import Header, records
from unmask.trace.events import Row as TraceRow
from unmask.trace.recorder import Recorder

_DRAWS = 32  # random maskings by which free lengths are compared


class Denoising(Request):
    """The rows of a canvas: one, or one for each combination of the lengths of its holes."""

    provisional = False
    template: str | None = None

    def fill_template(self, template: str, count: int) -> None:
        """As `Request.fill_template`; the best of the combinations is named at the end."""
        super().fill_template(template, count)
        self.template = template

    def go_on(self, tokens: Sequence[int | None]) -> None:
        """Add a row that fills a canvas of ids where it has None. Raises RequestError for ids that cannot be."""
        tokenizer = self.model.tokenizer
        if not 0 < len(tokens) <= self.model.window:
            raise RequestError(f"tokens has {len(tokens)} entries; give 1 to {self.model.window}, the model's window.")
        wrong = [n for n in tokens if n is not None and (not 0 <= n < tokenizer.vocab_size or n == tokenizer.mask_id)]
        if wrong:
            raise RequestError(f"tokens has the id {wrong[0]}; give ids of the model, and null where to write.")
        if None not in tokens:
            raise RequestError("tokens has no null, so there is nothing to write; give null at some positions.")
        canvas = [tokenizer.mask_id if token is None else token for token in tokens]
        self.fill_tokens(canvas, {}, derive(self.seed, 0))

    def continue_window(self, ids: Sequence[int], typed: Mapping[int, str], length: int) -> None:
        """Add a row that writes `length` tokens after a prompt, all in one window."""
        if len(ids) + length > self.model.window:
            raise RequestError(
                f"The prompt has {len(ids)} tokens and {length} are to be written, and the model's window is "
                f"{self.model.window}; ask for less, or use /v1/completions."
            )
        self.continue_prompts([ids], [typed], length)

    # ---- events ---------------------------------------------------------------------------------------------------

    def send(self, *, stream: bool) -> None:
        """As `Request.send`, with a recorder for the rows."""
        self._recorder = Recorder(self.model.tokenizer.mask_id)
        self._known: set[int] = set()
        self.header = self._header()
        super().send(stream=stream)

    def observed(self, row: Row, progress: Progress) -> Any:
        """The events of a pass."""
        turn = progress.turn()
        events = self._recorder.record_turn(turn)
        ids = {event.token for event in events} | {token for event in events for token, _ in event.alternatives}
        data: dict[str, Any] = {"type": "pass", "row": row.index, "passes": progress.passes, "events": records(events)}
        if self.provisional:
            data["provisional"] = guesses(turn, self.model.tokenizer.mask_id)
            ids |= {token for _, token, _ in data["provisional"]}
        return {**data, **self._pieces(ids)}

    def _pieces(self, ids: set[int]) -> dict[str, dict[int, str]]:
        """The texts of tokens that were not sent before."""
        tokenizer, new = self.model.tokenizer, sorted(ids - self._known)
        self._known |= ids
        raw = {token: data.hex() for token in new if (data := tokenizer.part(token)) is not None}
        return {"pieces": {token: tokenizer.piece(token) for token in new if token not in raw}, "raw": raw}

    def _header(self) -> dict[str, Any]:
        """The header of the trace, as the first line of its file has it."""
        tokenizer = self.model.tokenizer
        for row in self.rows:
            row.job.forward(None)  # its first window, before the engine has the row
        starts = [row.job.window.tokens for row in self.rows]
        parts = self._pieces({token for start in starts for token in start} | {tokenizer.mask_id})
        rows = tuple(
            TraceRow(tuple(start), 0, typed=dict(row.text.typed)) for row, start in zip(self.rows, starts, strict=True)
        )
        header = Header(
            tokenizer.mask_id,
            rows,
            parts["pieces"],
            parts["raw"],
            policy=self.options.policy or self.model.defaults.policy,
            seed=self.seed,
            checkpoint=self.name,
            block_size=self.options.block_size,
            version=__version__,
        )
        return {"unmask_trace": 1, **asdict(header)}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """The start, each pass, and the end."""
        yield {"type": "start", "header": self.header, "seed": self.seed}
        async for event in self.events():
            if event.data is not None:
                yield event.data
        yield await self._end()

    async def _end(self) -> dict[str, Any]:
        """The finished rows, and which of several lengths is the best."""
        best = 0
        if self.template is not None and len(self.rows) > 1:
            best = await self._best(self.template)
        rows = [
            {
                "text": self._whole(row),
                "passes": row.text.passes,
                "end": len(row.text.prompt) + len(row.text.tokens),
            }
            for row in self.rows
        ]
        return {"type": "done", "rows": rows, "best": best, "unmask": own_facts(self)}

    def _whole(self, row: Row) -> str:
        """The prompt of a row and what was written after it."""
        return self.model.tokenizer.text(row.text.prompt, row.text.typed) + row.text.text

    async def _best(self, template: str) -> int:
        """The row of the lengths with the least bound on -log p."""
        filler = self.model.filler
        sketch = filler.sketch(template)
        combinations = list(product(*sketch.holes))
        rows = [
            Filled(row.result.tokens, row.result.log_probs, row.result.passes, row.result.passes)
            for row in self.rows
            if row.result is not None
        ]
        seed = derive(row_seeds(self.seed, 1)[0], 1)
        work = self.engine.call(lambda: filler.compared(sketch, combinations, rows, seed, _DRAWS, 32))
        attempts = await asyncio.wrap_future(work)
        return combinations.index(attempts[0].lengths)
