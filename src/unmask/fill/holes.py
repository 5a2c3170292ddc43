"""Template -> filled texts: holes of fixed and of free length, words that are replaced, choices that are compared.

`Model.fill` and `Model.score` use this module. For holes of free length every combination of lengths is decoded, each
from the same noise; the result is the filled text with the least bound on -log p, in total nats of the whole text. A
likelihood favours shorter texts, because each additional token adds its own nats. The rules in `fill.lengths` choose
the length of a hole before anything is decoded.
"""

__all__ = ["COMBINATIONS", "Attempt", "Choice", "Fill", "Filler"]

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from unmask.batch import pad_ids
from unmask.decode.constraint import Both, Constraint, Vocabulary
from unmask.decode.loop import Decoder
from unmask.decode.options import RowOptions, measuring
from unmask.decode.pattern import Pattern
from unmask.decode.rows import Filled, Snapshot, Source, Written, decode_rows, with_places
from unmask.denoiser import Denoiser
from unmask.errors import RequestError
from unmask.fill.score import Conditional, conditional_nats, whole_nats
from unmask.fill.sketch import Sketch, common_prefix, placed
from unmask.limits import require_memory, require_rows, sentences
from unmask.noise import derive
from unmask.objective.base import Objective
from unmask.ranges import checked
from unmask.text.template import Edit, Slot, parse_template, text_at
from unmask.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from unmask.fill.lengths import LengthChoice, LengthRule

COMBINATIONS = 64
"""The largest number of combinations of lengths that are tried for a text."""


class Attempt(NamedTuple):
    """A combination of hole lengths, with the text that was decoded for it and its bound."""

    lengths: tuple[int, ...]  # of the holes, in order
    tokens: list[int]  # the filled text
    holes: list[list[int]]  # the tokens written in each hole
    nats: float  # the bound on -log p of the whole text
    stderr: float  # its standard error, over the draws
    behind: float  # nats above those of the best attempt
    behind_stderr: float  # its standard error; smaller than stderr, since both used the same draws
    passes: int
    typed: Mapping[int, str]  # text by position that is shown as it was typed


@dataclass(slots=True)
class Fill(Written):
    """A text with its holes filled; tokens of the template have log-probability 0."""

    holes: list[list[int]] = field(default_factory=list[list[int]])
    """The tokens that were written in each hole."""
    hole_log_probs: list[float] = field(default_factory=list[float])
    """Their log-probabilities when they were written, all holes in one list."""
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    """All attempts, the best (this text) first; empty where every length is fixed, or was chosen before decoding."""
    choice: "LengthChoice | None" = None
    """How the length of the hole was chosen before decoding, by a rule of `fill.lengths`."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice for [?], and how probable it is there."""

    text: str
    probability: float
    """Its share of the probability of all choices."""
    nats: float
    """The bound on -log p of its tokens given the rest of the text."""
    stderr: float
    """Standard error of `nats`; 0 where `exact`."""
    tokens: int
    """Number of its tokens at this place, with those that it shares with the text around it."""
    exact: bool = True
    """All orders of its tokens were counted, or the model has one: nothing was drawn."""


@dataclass(frozen=True, slots=True)
class Filler:
    """A denoiser, its tokenizer, its longest text in tokens, its device, what `Defaults.first` says, its objective, and
    the folder of its checkpoint."""

    denoiser: Denoiser
    tokenizer: Tokenizer
    window: int
    device: torch.device
    first: Sequence[int] = ()
    objective: Objective | None = None
    folder: Path | None = None

    def rule(self, text: str) -> "LengthRule | None":
        """The name of a length rule -> the rule, see `fill.lengths.length_rule`; None for the likelihood."""
        if text == "likelihood":
            return None
        from unmask.fill.lengths import length_rule

        return length_rule(text, self.folder)

    def sketch(self, template: str, count: int = 1) -> Sketch:
        """Template, to be filled `count` times -> sketch.

        Raises RequestError where it can outgrow the window, has too many lengths to try, or needs too much memory.
        """
        sketch = Sketch.of(self.tokenizer, parse_template(template), self.first)
        combinations = math.prod(len(lengths) for lengths in sketch.holes)
        if combinations > COMBINATIONS:
            raise RequestError(
                f"The holes have {combinations} combinations of lengths and at most {COMBINATIONS} are tried; "
                "narrow the lengths, or set some of them."
            )
        if (size := sketch.longest) > self.window:
            raise RequestError(
                f"The template is {'up to ' if combinations > 1 else ''}{size} tokens long and the model's window is "
                f"{self.window}; shorten it or its holes."
            )
        require_rows(count * combinations, size)
        return sketch

    def old(self, template: str) -> dict[int, int]:
        """Template -> tokens, by position, of words that as many new tokens replace; none where a length is free."""
        parts = parse_template(template)
        sketch = Sketch.of(self.tokenizer, parts, self.first)
        tokens: dict[int, int] = {}
        at = begin = len(self.first) * (len(sketch.parts) - len(parts))
        for part, shown in zip(parts, sketch.parts[-len(parts) :], strict=True):
            size = shown[0] if isinstance(shown, range) else len(shown)
            words = self.tokenizer.encode(part.words, at > begin) if isinstance(part, Edit) else []
            tokens |= dict(enumerate(words, start=at)) if len(words) == size else {}
            at += size
        return {} if any(len(lengths) > 1 for lengths in sketch.holes) else tokens

    def writable(self, constraint: Constraint | None) -> Constraint:
        """The constraint under which special tokens (MASK, PAD, EOS) and ids without a token are never written.

        A `Pattern` allows none of them anyway.
        """
        if isinstance(constraint, Pattern):
            return constraint
        allowed = torch.arange(self.denoiser.vocab_size, device=self.device) < self.tokenizer.vocab_size
        allowed[list(self.tokenizer.special_ids)] = False
        return Vocabulary(allowed) if constraint is None else Both(Vocabulary(allowed), constraint)

    @checked
    def only(self, characters: str) -> Vocabulary:
        """Characters -> the constraint to tokens of these alone. Raises RequestError where there are none."""
        ids, wanted = set(range(self.tokenizer.vocab_size)) - {*self.tokenizer.special_ids}, set(characters)
        pieces = (self.tokenizer.piece(token) if token in ids else "" for token in range(self.denoiser.vocab_size))
        allowed = torch.tensor([bool(piece) and set(piece) <= wanted for piece in pieces])
        if not bool(allowed.any()):
            raise RequestError(f"No token of the model is made of '{characters}' alone; allow more characters.")
        return Vocabulary(allowed.to(self.device))

    def stream(
        self,
        sketch: Sketch,
        decoder: Decoder,
        seeds: Sequence[int],
        options: RowOptions,
        *,
        draws: int,
        batch: int,
        rule: "LengthRule | None" = None,
    ) -> Generator[Snapshot, None, list[Fill]]:
        """Fill the sketch once for each seed; yields the canvas after each pass.

        The canvas has a row for each seed and combination of lengths. `options` has an entry a seed. With free lengths
        `draws` random maskings of each filled text decide which is best, or `rule` has chosen one before.
        """
        choices = self._choices(sketch, decoder, options, rule, len(seeds))
        every = [[choice[0]] if choice else list(product(*sketch.holes)) for choice in choices]
        every = [self._fitting(sketch, decoder, options, *pair) for pair in enumerate(every)]
        jobs = [(sample, lengths) for sample, combinations in enumerate(every) for lengths in combinations]
        rows = [sketch.row(lengths, self.tokenizer.mask_id) for _, lengths in jobs]
        options = options.keep([sample for sample, _ in jobs])
        decoder, options = with_places(decoder, options, rows, lambda rule, job: placed(rule, sketch, jobs[job][1]))
        filled = yield from decode_rows(
            decoder,
            rows,
            [derive(seeds[sample], 0) for sample, _ in jobs],
            pad_id=self.tokenizer.pad_id,
            batch=batch,
            device=self.device,
            source=Source(self.tokenizer, [sketch.typed(lengths) for _, lengths in jobs]),
            options=options,
        )
        fills: list[Fill] = []
        for seed, combinations, choice in zip(seeds, every, choices, strict=True):
            own, filled = filled[: len(combinations)], filled[len(combinations) :]
            many = len(combinations) > 1
            attempts = self.compared(sketch, combinations, own, derive(seed, 1), draws, batch) if many else []
            lengths = attempts[0].lengths if attempts else combinations[0]
            fill = _fill_of(sketch, lengths, own[combinations.index(lengths)], attempts)
            fill.choice = choice and choice[1]
            fills.append(fill)
        return fills

    def _choices(
        self, sketch: Sketch, decoder: Decoder, options: RowOptions, rule: "LengthRule | None", count: int
    ) -> "list[tuple[tuple[int, ...], LengthChoice] | None]":
        """A rule -> the lengths of each sample and how they were chosen, once for each constraint; None without one."""
        if rule is None or all(len(lengths) == 1 for lengths in sketch.holes):
            return [None] * count
        from unmask.fill.lengths import choose_length

        numbers = options.constraint or [0] * count
        rules = {number: decoder.constraints[number] or self.writable(None) for number in set(numbers)}
        for only in rules.values():
            if isinstance(only, Pattern):
                raise RequestError(
                    f"This length rule does not know which lengths the {only.name} has; use the length rule "
                    "likelihood, which tries those alone."
                )
        by_number = {number: choose_length(self, sketch, rule, only) for number, only in rules.items()}
        return [by_number[number] for number in numbers]

    def _fitting(
        self, sketch: Sketch, decoder: Decoder, options: RowOptions, sample: int, every: list[tuple[int, ...]]
    ) -> list[tuple[int, ...]]:
        """Of the combinations of lengths of a sample those that its constraint has texts for; all if it has none."""
        rule = decoder.constraints[options.constraint[sample] if options.constraint else 0]
        if not isinstance(rule, Pattern):
            return every
        possible = [lengths for lengths in every if placed(rule, sketch, lengths).possible]
        return possible or every[:1]  # which is refused with a sentence

    def score(self, template: str, choices: Sequence[str], *, orders: int, seed: int, batch: int) -> list[Choice]:
        """Template and choices -> how probable each choice is at [?], in the order of the choices: see Model.score."""
        steps = self.scoring(template, choices, orders=orders, seed=seed, batch=batch)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value

    def scoring(
        self, template: str, choices: Sequence[str], *, orders: int, seed: int, batch: int
    ) -> Generator[None, None, list[Choice]]:
        """As `score`, one choice a step."""
        rows, chosen = self._choice_rows(template, choices)
        self.tokenizer.warn([*(part for part in parse_template(template) if isinstance(part, str)), *choices])
        tokens, valid = pad_ids(rows, self.tokenizer.pad_id, self.device)
        where = torch.zeros_like(valid)
        for line, span in enumerate(chosen):
            where[line, span] = True
        denoiser = measuring(self.denoiser, self.tokenizer)
        options: dict[str, Any] = {"orders": orders, "seed": derive(seed, 2), "batch": batch}
        parts = list[Conditional]()
        for row in map(slice, range(len(rows)), range(1, len(rows) + 1)):
            with sentences():
                parts.append(
                    conditional_nats(
                        denoiser, tokens[row], where[row], valid=valid[row], objective=self.objective, **options
                    )
                )
            yield
        bound = Conditional(*map(torch.cat, zip(*parts, strict=True)))
        share = (-bound.nats).softmax(-1).tolist()
        columns = (share, *map(torch.Tensor.tolist, (bound.nats, bound.stderr, where.sum(-1), bound.exact)))
        return [Choice(*row) for row in zip(choices, *columns, strict=True)]

    def compared(
        self,
        sketch: Sketch,
        combinations: list[tuple[int, ...]],
        rows: Sequence[Filled],
        seed: int,
        draws: int,
        batch: int,
    ) -> list[Attempt]:
        """The filled rows of a sample -> attempts with their bounds, the best first, of equal ones the shorter."""
        require_memory(24 * draws * len(rows), f"{draws:,} maskings of {len(rows)} texts", "ask for fewer draws")
        tokens, valid = pad_ids([row.tokens for row in rows], self.tokenizer.pad_id, self.device)
        keys, _ = pad_ids([sketch.keys(lengths) for lengths in combinations], 0, self.device)
        denoiser = measuring(self.denoiser, self.tokenizer)
        nats = whole_nats(denoiser, tokens, keys, valid=valid, draws=draws, seed=seed, batch=batch).cpu()
        behind = nats - nats[int(nats.mean(-1).argmin())]
        pairs = [torch.stack([x.mean(-1), x.std(-1) / math.sqrt(draws)], -1) for x in (nats, behind)]
        figures = torch.cat(pairs, -1).tolist()
        attempts = [
            Attempt(
                *(lengths, row.tokens, sketch.written(lengths, row.tokens)),
                *(n, e, more, more_e, row.passes, sketch.typed(lengths)),
            )
            for lengths, row, (n, e, more, more_e) in zip(combinations, rows, figures, strict=True)
        ]
        return sorted(attempts, key=lambda attempt: (attempt.nats, sum(attempt.lengths), attempt.lengths))

    def _choice_rows(self, template: str, choices: Sequence[str]) -> tuple[list[list[int]], list[slice]]:
        """Template and choices -> the row of token ids with each choice, and the positions of the choice in it.

        Nothing is decoded here, so each whole text is encoded at once, and a choice may share a token with the text
        beside it. The tokens that all rows and the template have in common are the context of the choices.
        """
        parts = parse_template(template)
        slots = [at for at, part in enumerate(parts) if isinstance(part, Slot)]
        if len(slots) != 1:
            raise RequestError(f"The text has {len(slots)} places for the choices; write [?] once, where they go.")
        if not choices or len(set(choices)) != len(choices):
            raise RequestError("There are no choices, or one is named twice; name each choice once.")
        before, after = (text_at(parts, (at := slots[0]) - 1), text_at(parts, at + 1))
        ends = (parts[: at - bool(before)], parts[at + 1 + bool(after) :])
        sides = [Sketch.of(self.tokenizer, some) for some in ends]
        if any(len(lengths) > 1 for side in sides for lengths in side.holes):
            raise RequestError("A hole beside [?] has a free length; set it, such as [5], to compare choices.")
        if sum(side.longest for side in sides) > self.window:
            raise RequestError(
                f"The text beside [?] is {sum(side.longest for side in sides)} tokens long and the model's window is "
                f"{self.window}; shorten it."
            )
        left, right = (side.row([lengths[0] for lengths in side.holes], self.tokenizer.mask_id) for side in sides)
        texts = [self.tokenizer.encode(before + choice + after) for choice in choices]
        head = min(common_prefix(self.tokenizer.encode(before), text) for text in texts)
        tail = min(common_prefix(self.tokenizer.encode(after)[::-1], text[::-1]) for text in texts)
        for choice, text in zip(choices, texts, strict=True):
            if len(text) <= head + tail:
                raise RequestError(f"The choice '{choice}' has no token; give a text that the tokenizer can encode.")
        if not left and not head and getattr(self.denoiser, "shifted", False):
            if not self.first:
                raise RequestError("This model does not predict the first token of a text; put a text before [?].")
            left = list(self.first)
        rows = [[*left, *text, *right] for text in texts]
        if (longest := max(map(len, rows))) > self.window:
            raise RequestError(
                f"The text with its choices is up to {longest} tokens long and the model's window is {self.window}; "
                "shorten it."
            )
        return rows, [slice(len(left) + head, len(left) + len(text) - tail) for text in texts]


def _fill_of(sketch: Sketch, lengths: Sequence[int], row: Filled, attempts: list[Attempt]) -> Fill:
    """The lengths of the holes and the filled row -> the result."""
    known = [0.0 if math.isnan(p) else p for p in row.log_probs]
    wanted = [p for hole in sketch.written(lengths, row.log_probs) for p in hole]
    holes, typed = sketch.written(lengths, row.tokens), sketch.typed(lengths)
    return Fill(row.tokens, 0, known, row.passes, False, typed, holes, wanted, attempts)
