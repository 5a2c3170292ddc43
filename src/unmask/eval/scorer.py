"""A model and requests for likelihoods and texts -> answers, as lm-evaluation-harness asks for them (`eval.harness`).

A masked model gives no single log p(continuation | context), but a bound from random maskings (`fill.score`), whose
number and seed are fixed and whose error is part of the answer. For an autoregressive model all values are exact.
"""

__all__ = ["HarnessOptions", "Scored", "Scorer"]

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from unmask.api import Model
from unmask.batch import keep_rows, pad_ids, spans
from unmask.decode.canvas import Canvas
from unmask.decode.options import measuring
from unmask.errors import RequestError
from unmask.fill.score import drawn_nats
from unmask.noise import derive
from unmask.objective.base import Rows
from unmask.ranges import Count, Draws, Seed, Temperature, check_numbers

_NEW = 256  # tokens of `generate_until` where a task says nothing, as the harness has it
_KNOWN = {"until", "max_gen_toks", "do_sample", "temperature", "top_p"}


@dataclass(frozen=True, slots=True)
class HarnessOptions:
    """How a model answers the requests of the harness."""

    draws: Draws = 32
    """Random maskings of each continuation or window; LLaDA uses 128 (arXiv:2502.09992)."""
    seed: Seed = 0
    """Seed of the maskings and of sampling."""
    batch: Count = 32
    """Rows that go through the network at once."""
    stride: Count | None = None
    """Tokens that each later window of a long document adds; by default half a window."""
    policy: str | None = None
    """The policy that writes; by default that of the model, and `confidence` where that is random and for is_greedy."""
    temperature: Temperature | None = None
    """Of what is written; by default what the task says, which is 0 without do_sample."""

    def __post_init__(self) -> None:
        check_numbers(self)


class Scored(NamedTuple):
    """The answer to a request for a likelihood."""

    log_prob: float
    """A lower bound on log p of the text, in nats, or the value itself."""
    stderr: float
    """The standard error of the estimate; 0 where nothing was drawn."""
    exact: bool
    greedy: bool = False
    """Whether greedy decoding writes this continuation; False for one that does not fit into the window."""


class _Row(NamedTuple):
    """A window of a text, with the tokens from `first` on to be measured."""

    request: int
    ids: list[int]
    first: int


@dataclass(slots=True)
class Scorer:
    """A model and options -> the answers to requests. Needs no lm_eval."""

    model: Model
    options: HarnessOptions = HarnessOptions()
    ignored: set[str] = field(default_factory=set[str])
    """Names of generation options of tasks that have no effect here."""

    def conditionals(self, pairs: Sequence[tuple[str, str]], greedy: bool = True) -> list[Scored]:
        """Contexts and continuations -> log p(continuation | context) of each, with `greedy` whether it is decoded.

        The two are encoded as one text; what this has in common with the context alone is the context. A context is cut
        from the left to fit into the window. Continuations of equal contexts are computed side by side, with the same
        random numbers.
        """
        encoded = [self._split(*pair) for pair in pairs]
        order = sorted(range(len(pairs)), key=lambda i: (encoded[i][1], pairs[i][0], i))
        answers: dict[int, Scored] = {}
        for at in range(0, len(order), self.options.batch):
            part = order[at : at + self.options.batch]
            rows = [row for i in part for row in self._rows(i, *encoded[i], self.model.window - 1)]
            scored = self._summed(rows, part, self.options.seed)
            texts = [(i, *encoded[i]) for i in part if len(encoded[i][0]) - encoded[i][1] <= self.model.window]
            written = self._greedy(texts) if greedy else {}
            answers |= {i: scored[i]._replace(greedy=written.get(i, False)) for i in part}
        return [answers[i] for i in range(len(pairs))]

    def rolling(self, texts: Sequence[str]) -> list[Scored]:
        """Texts -> log p of each, every token counted once.

        A text longer than the window is measured by windows that slide by `stride`: a token after the first window has
        at least window - stride tokens of context, and the bound of a window is that of its new tokens given these.
        """
        stride = self.options.stride or max(1, self.model.window // 2)
        if stride > self.model.window:
            raise RequestError(f"stride is {stride}; give 1 to {self.model.window} tokens, the model's window.")
        rows = [row for i, text in enumerate(texts) for row in self._rows(i, *self._split("", text), stride)]
        rows.sort(key=lambda row: len(row.ids))
        scored = self._summed(rows, range(len(texts)), derive(self.options.seed, 1), apart=True)
        return [scored[i] for i in range(len(texts))]

    def written(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """Contexts and generation options of the harness -> what the model writes after each, up to a stop string."""
        groups: dict[str, list[int]] = {}
        for i, (_, options) in enumerate(requests):
            groups.setdefault(repr(sorted(options.items())), []).append(i)
        texts: dict[int, str] = {}
        for group in groups.values():
            for at in range(0, len(group), self.options.batch):
                part = group[at : at + self.options.batch]
                texts |= zip(part, self._write([requests[i][0] for i in part], requests[part[0]][1], part), strict=True)
        return [texts[i] for i in range(len(requests))]

    # ---- likelihoods -------------------------------------------------------------------------------------------------

    def _split(self, context: str, continuation: str) -> tuple[list[int], int]:
        """Context and continuation -> the ids of both, and how many of these are context."""
        tokenizer = self.model.tokenizer
        tokenizer.warn([context + continuation])
        before, whole = tokenizer.encode(context), tokenizer.encode(context + continuation)
        pairs = enumerate(zip(before, whole, strict=False))
        shared = next((at for at, (a, b) in pairs if a != b), min(len(before), len(whole)))
        first = self.model.defaults.first(self.model.network)
        return [*first, *whole], len(first) + shared

    def _rows(self, request: int, ids: list[int], known: int, stride: int) -> Iterable[_Row]:
        for start, new, end in spans(len(ids), self.model.window, max(1, stride), known):
            yield _Row(request, ids[start:end], new - start)

    def _summed(
        self, rows: Sequence[_Row], requests: Iterable[int], seed: int, apart: bool = False
    ) -> dict[int, Scored]:
        """Rows -> the answer of each request, the sum over its rows; 0 for one without a row."""
        sums = {request: Scored(0.0, 0.0, True) for request in requests}
        if not rows:
            return sums
        model = self.model
        ids, valid = pad_ids([row.ids for row in rows], model.tokenizer.pad_id, model.device)
        first = torch.tensor([row.first for row in rows], device=model.device)
        chosen = valid & (torch.arange(ids.shape[1], device=model.device) >= first[:, None])
        denoiser = measuring(model.denoiser, model.tokenizer)
        chosen = Rows(ids, chosen, valid).predicted(denoiser).maskable
        bound = drawn_nats(
            *(denoiser, model.objective, ids, chosen),
            valid=valid,
            draws=self.options.draws,
            seed=seed,
            batch=self.options.batch,
            apart=apart,
        )
        for row, nats, stderr, exact in zip(rows, *map(torch.Tensor.tolist, bound), strict=True):
            so_far = sums[row.request]
            sums[row.request] = Scored(
                so_far.log_prob - nats, math.hypot(so_far.stderr, stderr), so_far.exact and exact
            )
        return sums

    @torch.no_grad()
    def _greedy(self, texts: Sequence[tuple[int, list[int], int]]) -> dict[int, bool]:
        """Requests with ids and length of the context -> whether decoding at temperature 0 writes the rest.

        A row leaves as soon as it has a wrong token, unless the policy can hide tokens again.
        """
        if not texts:
            return {}
        model, mask_id = self.model, self.model.tokenizer.mask_id
        decoder = model.decoder(self._policy, temperature=0.0)
        kept = [max(0, len(ids) - model.window) for _, ids, _ in texts]
        answers, valid = pad_ids([ids[n:] for n, (_, ids, _) in zip(kept, texts, strict=True)], 0, model.device)
        known = torch.tensor([known - n for n, (_, _, known) in zip(kept, texts, strict=True)], device=model.device)
        hidden = valid & (torch.arange(answers.shape[1], device=model.device) >= known[:, None])
        tokens = answers.masked_fill(hidden, mask_id).masked_fill(~valid, model.tokenizer.pad_id)
        seeds = torch.full((len(texts),), derive(self.options.seed, 2), device=model.device)
        canvas = Canvas.start(tokens, seeds, valid)
        rows, state = decoder.unfinished(canvas).nonzero().squeeze(-1), None
        while len(rows):
            part, state, step = decoder.step(canvas.keep(rows), state)
            canvas, left = canvas.put(rows, part), decoder.unfinished(part)
            if step.decision.done is None:
                left &= ~((part.tokens != answers[rows]) & (part.tokens != mask_id) & hidden[rows]).any(-1)
            rows, state = rows[left], keep_rows(state, left)
        right = ((canvas.tokens == answers) | ~hidden).all(-1).tolist()
        return {request: same for (request, _, _), same in zip(texts, right, strict=True)}

    @property
    def _policy(self) -> str | None:
        """The policy of what is written: by default that of the model, or `confidence` where that is random order."""
        if self.options.policy is None and self.model.defaults.policy == "random":
            return "confidence"
        return self.options.policy

    # ---- generation --------------------------------------------------------------------------------------------------

    def _write(self, contexts: Sequence[str], options: Mapping[str, Any], numbers: Sequence[int]) -> list[str]:
        """Contexts with equal options -> what is written; `numbers` of the requests make the seeds."""
        model, stops = self.model, _stops(options)
        self.ignored |= options.keys() - _KNOWN
        temperature = self.options.temperature
        if temperature is None:
            temperature = float(options.get("temperature", 1.0)) if options.get("do_sample") else 0.0
        stream = model.stream(
            list(contexts),
            length=int(options.get("max_gen_toks", _NEW)),
            policy=self._policy,
            temperature=temperature,
            top_p=options.get("top_p") if options.get("do_sample") else None,
            seed=[derive(self.options.seed, 3, number) for number in numbers],
            batch=self.options.batch,
        )
        sizes = [len(row) for row in model.defaults.prompt_ids(model.tokenizer, model.network, contexts, False)]
        texts, done = [""] * len(contexts), set[int]()
        for snapshot in stream:
            for line, (row, length) in enumerate(zip(snapshot.rows, snapshot.lengths, strict=True)):
                ids = [*snapshot.before[line], *snapshot.canvas.tokens[line, :length].tolist()]
                texts[row], ended = self._text(ids[sizes[row] :], stops)
                done |= {row} if ended else set[int]()
            if len(done) == len(texts):
                break
        return texts

    def _text(self, ids: list[int], stops: Sequence[str]) -> tuple[str, bool]:
        """Written ids, of which some are MASK -> the text before the first MASK, EOS or stop string.

        The second value is whether it ends at EOS or at a stop string.
        """
        tokenizer = self.model.tokenizer
        ids = ids[: ids.index(tokenizer.mask_id)] if tokenizer.mask_id in ids else ids
        ended = tokenizer.eos_id in ids
        text = tokenizer.decode(ids[: ids.index(tokenizer.eos_id)] if tokenizer.eos_id in ids else ids, True)
        cuts = [text.index(stop) for stop in stops if stop in text]
        return text[: min(cuts, default=len(text))], ended or bool(cuts)


def _stops(options: Mapping[str, Any]) -> list[str]:
    """Generation options -> the stop strings."""
    until = options.get("until") or []
    return [stop for stop in ([until] if isinstance(until, str) else until) if stop]
