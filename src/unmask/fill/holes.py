"""Template -> filled texts: holes of fixed and of free length, words that are replaced, choices that are compared.

`Model.fill` and `Model.score` use this module. For holes of free length every combination of lengths is decoded, each
from the same noise; the result is the filled text with the least bound on -log p, in total nats of the whole text. A
likelihood favours shorter texts, because each additional token adds its own nats.
"""

__all__ = ["COMBINATIONS", "Attempt", "Choice", "Fill", "Filler", "Sketch"]

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple, TypeVar

import torch

from unmask.batch import pad_ids
from unmask.decode.constraint import Both, Constraint, Vocabulary
from unmask.decode.loop import Decoder
from unmask.decode.options import RowOptions, measuring
from unmask.decode.rows import Filled, Snapshot, Source, Written, decode_rows
from unmask.denoiser import Denoiser
from unmask.errors import RequestError
from unmask.fill.score import conditional_nats, whole_nats
from unmask.limits import require_memory, require_rows, sentences
from unmask.noise import derive
from unmask.objective.base import Objective
from unmask.ranges import checked
from unmask.text.template import Edit, Hole, Part, Slot, parse_template, text_at
from unmask.text.tokenizer import Tokenizer

COMBINATIONS = 64
"""The largest number of combinations of lengths that are tried for a text."""
Entry = TypeVar("Entry")
_HOLE_KEYS = 2**20  # offset of the keys of a hole's tokens, so that they differ from those of the text around it


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
    """All attempts, the best (this text) first; empty where every length is fixed."""


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
class Sketch:
    """A template as token ids and hole lengths."""

    parts: list[list[int] | range]
    """Token ids of a text, or the possible lengths of a hole."""
    texts: list[str]
    """Of each part: the text if it cannot be read back from its ids, else ""."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, parts: Sequence[Part], first: Sequence[int] = ()) -> "Sketch":
        """Parts of a template -> sketch; `first` stands before a hole that begins it. Each text is encoded by itself.

        Raises RequestError for [?].
        """
        ids = [_tokens_or_lengths(tokenizer, part, inside=at > 0) for at, part in enumerate(parts)]
        texts = [part if isinstance(part, str) and tokenizer.unknown(part) else "" for part in parts]
        begun = bool(first and ids) and isinstance(ids[0], range)
        return cls([list(first), *ids], ["", *texts]) if begun else cls(ids, texts)

    @property
    def holes(self) -> list[range]:
        """The possible lengths of each hole."""
        return [part for part in self.parts if isinstance(part, range)]

    @property
    def longest(self) -> int:
        """The number of tokens of the longest row, which need not fit into memory."""
        return sum(part[-1] if isinstance(part, range) else len(part) for part in self.parts)

    def row(self, lengths: Sequence[int], mask_id: int) -> list[int]:
        """Hole lengths -> the token ids of the row, with MASK in the holes."""
        left = iter(lengths)
        return [token for part in self.parts for token in ([mask_id] * next(left) if isinstance(part, range) else part)]

    def typed(self, lengths: Sequence[int]) -> dict[int, str]:
        """Hole lengths -> the texts that cannot be read back from ids, by position: see `Tokenizer.typed`."""
        typed, left, at = dict[int, str](), iter(lengths), 0
        for part, text in zip(self.parts, self.texts, strict=True):
            size = next(left) if isinstance(part, range) else len(part)
            typed |= {at + n: "" if n else text for n in range(size)} if text else {}
            at += size
        return typed

    def keys(self, lengths: Sequence[int]) -> list[int]:
        """Hole lengths -> a key for each token of the row, by which it gets random numbers: see score.whole_nats."""
        keys: list[int] = []
        index, hole = 0, 0
        for part in self.parts:
            if isinstance(part, range):
                keys += range((hole + 1) * _HOLE_KEYS, (hole + 1) * _HOLE_KEYS + lengths[hole])
                hole += 1
            else:
                keys += range(index, index + len(part))
                index += len(part)
        return keys

    def written(self, lengths: Sequence[int], row: Sequence[Entry]) -> list[list[Entry]]:
        """Hole lengths and a list with an entry for each token of the row -> the entries in each hole."""
        holes: list[list[Entry]] = []
        at = 0
        for part in self.parts:
            size = lengths[len(holes)] if isinstance(part, range) else len(part)
            if isinstance(part, range):
                holes.append(list(row[at : at + size]))
            at += size
        return holes


@dataclass(frozen=True, slots=True)
class Filler:
    """A denoiser, its tokenizer, its longest text in tokens, its device, what `Defaults.first` says, its objective."""

    denoiser: Denoiser
    tokenizer: Tokenizer
    window: int
    device: torch.device
    first: Sequence[int] = ()
    objective: Objective | None = None

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
        """The constraint under which special tokens (MASK, PAD, EOS) and ids without a token are never written."""
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
    ) -> Generator[Snapshot, None, list[Fill]]:
        """Fill the sketch once for each seed; yields the canvas after each pass.

        The canvas has a row for each seed and combination of lengths. `options` has an entry a seed. With free lengths
        `draws` random maskings of each filled text decide which is best.
        """
        combinations = list(product(*sketch.holes))
        count = len(combinations)
        filled = yield from decode_rows(
            decoder,
            [sketch.row(lengths, self.tokenizer.mask_id) for _ in seeds for lengths in combinations],
            [derive(seed, 0) for seed in seeds for _ in combinations],
            pad_id=self.tokenizer.pad_id,
            batch=batch,
            device=self.device,
            source=Source(self.tokenizer, [sketch.typed(lengths) for _ in seeds for lengths in combinations]),
            options=options.keep([sample for sample in range(len(seeds)) for _ in combinations]),
        )
        fills: list[Fill] = []
        for sample, seed in enumerate(seeds):
            rows = filled[sample * count : (sample + 1) * count]
            attempts = self._compared(sketch, combinations, rows, derive(seed, 1), draws, batch) if count > 1 else []
            lengths = attempts[0].lengths if attempts else combinations[0]
            row, typed = rows[combinations.index(lengths)], sketch.typed(lengths)
            holes = sketch.written(lengths, row.tokens)
            known = [0.0 if math.isnan(p) else p for p in row.log_probs]
            wanted = [p for hole in sketch.written(lengths, row.log_probs) for p in hole]
            fills.append(Fill(row.tokens, 0, known, row.passes, False, typed, holes, wanted, attempts))
        return fills

    @sentences()
    def score(self, template: str, choices: Sequence[str], *, orders: int, seed: int, batch: int) -> list[Choice]:
        """Template and choices -> how probable each choice is at [?], in the order of the choices: see Model.score."""
        rows, chosen = self._choice_rows(template, choices)
        self.tokenizer.warn([*(part for part in parse_template(template) if isinstance(part, str)), *choices])
        tokens, valid = pad_ids(rows, self.tokenizer.pad_id, self.device)
        where = torch.zeros_like(valid)
        for line, span in enumerate(chosen):
            where[line, span] = True
        denoiser = measuring(self.denoiser, self.tokenizer)
        options: dict[str, Any] = {"valid": valid, "orders": orders, "seed": derive(seed, 2), "batch": batch}
        bound = conditional_nats(denoiser, tokens, where, objective=self.objective, **options)
        share = (-bound.nats).softmax(-1).tolist()
        columns = (share, *map(torch.Tensor.tolist, (bound.nats, bound.stderr, where.sum(-1), bound.exact)))
        return [Choice(*row) for row in zip(choices, *columns, strict=True)]

    def _compared(
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
        head = min(_shared(self.tokenizer.encode(before), text) for text in texts)
        tail = min(_shared(self.tokenizer.encode(after)[::-1], text[::-1]) for text in texts)
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


def _tokens_or_lengths(tokenizer: Tokenizer, part: Part, inside: bool) -> list[int] | range:
    """Part of a template (`inside`: not its first) -> the ids of a text, or the possible lengths of a hole."""
    if isinstance(part, str):
        return tokenizer.encode(part, inside)
    if isinstance(part, Slot):
        raise RequestError("[?] is the place of choices; name them (--choices), or write [5] for a hole of 5 tokens.")
    hole = part if isinstance(part, Hole) else part.hole or Hole(len(tokenizer.encode(part.words, inside)))
    if hole.length < 1:
        raise RequestError("The words to write anew have no token; say how many to write, such as [3=old words].")
    return range(hole.length, (hole.longest or hole.length) + 1)


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Two rows -> the length of their common prefix."""
    pairs = zip(first, second, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
