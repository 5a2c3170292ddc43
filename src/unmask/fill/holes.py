"""Writing and weighing inside a text: holes of set and of free length, words written anew, choices compared.

Behind Model.fill and Model.score. A free length is found by trying: every combination of lengths is decoded, each from
the same noise, and the filled text with the least bound on -log p wins, in total nats of the whole text. Shorter texts
have the advantage that a likelihood gives them: a token more has to be paid for, by what it makes of the others.
"""

__all__ = ["COMBINATIONS", "Attempt", "Choice", "Fill", "Filler", "Sketch"]

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple, TypeVar

import torch

from unmask.batch import pad_ids
from unmask.decode.constraint import Both, Constraint, Vocabulary
from unmask.decode.loop import Decoder
from unmask.decode.rows import Filled, RowOptions, Snapshot, Written, decode_rows
from unmask.denoiser import Denoiser
from unmask.errors import RequestError
from unmask.fill.score import conditional_nats, whole_nats
from unmask.noise import derive
from unmask.text.template import Edit, Hole, Part, Slot, parse_template
from unmask.text.tokenizer import Tokenizer

COMBINATIONS = 64
"""The most combinations of lengths that are tried for one text."""
Item = TypeVar("Item")
_HOLE_KEYS = 2**20  # random numbers of a hole's tokens stand apart from those of the given text


class Attempt(NamedTuple):
    """A combination of lengths that was tried."""

    lengths: tuple[int, ...]  # of the holes, in order
    tokens: list[int]  # the filled text
    holes: list[list[int]]  # what was written, hole by hole
    nats: float  # the bound on -log p of the whole text
    stderr: float  # its standard error, over the draws
    behind: float  # nats above the winner's
    behind_stderr: float  # its standard error; smaller, since both met the same draws
    passes: int


@dataclass(slots=True)
class Fill(Written):
    """A text with its holes filled; log-probabilities of given tokens are 0."""

    holes: list[list[int]] = field(default_factory=list[list[int]])
    """The tokens that were written, hole by hole."""
    hole_log_probs: list[float] = field(default_factory=list[float])
    """Their log-probabilities when they were written, one after the other."""
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    """What was tried, the best first, which is this text; empty where no length was free."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What may stand at [?], and how probable it is there."""

    text: str
    probability: float
    """Among the choices."""
    nats: float
    """The bound on -log p of its tokens given the rest of the text."""
    stderr: float
    """Of `nats`; 0 where all orders of its tokens were counted."""
    tokens: int
    """How many tokens it has here, those included that it shares with the text around it."""


@dataclass(frozen=True, slots=True)
class Sketch:
    """A template in tokens."""

    parts: list[list[int] | range]
    """Given tokens, or the lengths that a hole may have."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, parts: Sequence[Part]) -> "Sketch":
        """Each text is encoded by itself, so that it stays as it is. Raises RequestError for a [?]."""
        return cls([_tokens_or_lengths(tokenizer, part) for part in parts])

    @property
    def holes(self) -> list[range]:
        """The possible lengths of each hole."""
        return [part for part in self.parts if isinstance(part, range)]

    def row(self, lengths: Sequence[int], mask_id: int) -> list[int]:
        """The ids, with holes of these lengths."""
        left = iter(lengths)
        return [one for part in self.parts for one in ([mask_id] * next(left) if isinstance(part, range) else part)]

    def keys(self, lengths: Sequence[int]) -> list[int]:
        """A name for each token of such a row, by which its random numbers are drawn: see score.whole_nats."""
        found: list[int] = []
        given, hole = 0, 0
        for part in self.parts:
            if isinstance(part, range):
                found += range((hole + 1) * _HOLE_KEYS, (hole + 1) * _HOLE_KEYS + lengths[hole])
                hole += 1
            else:
                found += range(given, given + len(part))
                given += len(part)
        return found

    def written(self, lengths: Sequence[int], row: Sequence[Item]) -> list[list[Item]]:
        """What stands in the holes of such a row, of anything that has an entry for each token."""
        found: list[list[Item]] = []
        at = 0
        for part in self.parts:
            size = lengths[len(found)] if isinstance(part, range) else len(part)
            if isinstance(part, range):
                found.append(list(row[at : at + size]))
            at += size
        return found


@dataclass(frozen=True, slots=True)
class Filler:
    """A denoiser, its tokenizer, how long a text it takes, and where it computes."""

    denoiser: Denoiser
    tokenizer: Tokenizer
    window: int
    device: torch.device

    def sketch(self, template: str) -> Sketch:
        """A template in tokens. Raises RequestError where it can outgrow the window or has too many lengths to try."""
        sketch = Sketch.of(self.tokenizer, parse_template(template))
        combinations = math.prod(len(lengths) for lengths in sketch.holes)
        if combinations > COMBINATIONS:
            raise RequestError(
                f"The holes have {combinations} combinations of lengths and at most {COMBINATIONS} are tried; "
                "narrow the lengths, or set some of them."
            )
        size = len(sketch.row([lengths[-1] for lengths in sketch.holes], self.tokenizer.mask_id))
        if size > self.window:
            raise RequestError(
                f"The template is {'up to ' if combinations > 1 else ''}{size} tokens long and the model's window is "
                f"{self.window}; shorten it or its holes."
            )
        return sketch

    def old(self, template: str) -> dict[int, int]:
        """By position, the tokens of words that are written anew in as many; none where a length is free."""
        parts = parse_template(template)
        sketch = Sketch.of(self.tokenizer, parts)
        found: dict[int, int] = {}
        at = 0
        for part, shown in zip(parts, sketch.parts, strict=True):
            size = shown[0] if isinstance(shown, range) else len(shown)
            words = self.tokenizer.encode(part.words) if isinstance(part, Edit) else []
            found |= dict(enumerate(words, start=at)) if len(words) == size else {}
            at += size
        return {} if any(len(lengths) > 1 for lengths in sketch.holes) else found

    def writable(self, constraint: Constraint | None) -> Constraint:
        """The constraint under which special tokens (MASK, PAD, EOS) and ids without a token are never written."""
        allowed = torch.arange(self.denoiser.vocab_size, device=self.device) < self.tokenizer.vocab_size
        allowed[list(self.tokenizer.special_ids)] = False
        return Vocabulary(allowed) if constraint is None else Both(Vocabulary(allowed), constraint)

    def only(self, characters: str) -> Vocabulary:
        """The tokens that these characters alone make up. Raises RequestError where there are none."""
        vocabulary, wanted = range(self.tokenizer.vocab_size), set(characters)
        special = self.tokenizer.special_ids
        pieces = ("" if one in special else self.tokenizer.piece(one) for one in vocabulary)
        allowed = torch.zeros(self.denoiser.vocab_size, dtype=torch.bool)
        allowed[: len(vocabulary)] = torch.tensor([bool(piece) and set(piece) <= wanted for piece in pieces])
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
        """Fill the sketch once a seed, yielding the canvas after each pass; one row a combination of lengths and seed.

        `options` has an entry a seed. With free lengths `draws` random maskings of each filled text decide which is
        best.
        """
        ways = list(product(*sketch.holes))
        filled = yield from decode_rows(
            decoder,
            [sketch.row(way, self.tokenizer.mask_id) for _ in seeds for way in ways],
            [derive(seed, 0) for seed in seeds for _ in ways],
            pad_id=self.tokenizer.pad_id,
            batch=batch,
            device=self.device,
            options=options.keep([place for place in range(len(seeds)) for _ in ways]),
        )
        found: list[Fill] = []
        for place, seed in enumerate(seeds):
            rows = filled[place * len(ways) : (place + 1) * len(ways)]
            attempts = self._compared(sketch, ways, rows, derive(seed, 1), draws, batch) if len(ways) > 1 else []
            way = attempts[0].lengths if attempts else ways[0]
            row = rows[ways.index(way)]
            holes = sketch.written(way, row.tokens)
            known = [0.0 if math.isnan(p) else p for p in row.log_probs]
            wanted = [p for hole in sketch.written(way, row.log_probs) for p in hole]
            found.append(Fill(row.tokens, 0, known, row.passes, False, holes, wanted, attempts))
        return found

    def score(self, template: str, choices: Sequence[str], *, orders: int, seed: int, batch: int) -> list[Choice]:
        """How probable each choice is at the [?] of the template, in the order given: see Model.score."""
        rows, chosen = self._choice_rows(template, choices)
        tokens, valid = pad_ids(rows, self.tokenizer.pad_id, self.device)
        where = torch.zeros_like(valid)
        for line, span in enumerate(chosen):
            where[line, span] = True
        found = conditional_nats(
            self.denoiser, tokens, where, valid=valid, orders=orders, seed=derive(seed, 2), batch=batch
        )
        share = (-found.nats).softmax(-1).tolist()
        figures = zip(choices, share, found.nats.tolist(), found.stderr.tolist(), where.sum(-1).tolist(), strict=True)
        return [Choice(*one) for one in figures]

    def _compared(
        self, sketch: Sketch, ways: list[tuple[int, ...]], rows: Sequence[Filled], seed: int, draws: int, batch: int
    ) -> list[Attempt]:
        """The filled rows of one sample with their bounds, the best first; of equals the shorter."""
        tokens, valid = pad_ids([row.tokens for row in rows], self.tokenizer.pad_id, self.device)
        keys, _ = pad_ids([sketch.keys(way) for way in ways], 0, self.device)
        nats = whole_nats(
            self.denoiser, tokens, keys, valid=valid, draws=draws, seed=seed, batch=batch
        ).cpu()  # (ways, draws)
        behind = nats - nats[int(nats.mean(-1).argmin())]
        error = math.sqrt(draws)
        columns = (nats.mean(-1), nats.std(-1) / error, behind.mean(-1), behind.std(-1) / error)
        figures = torch.stack(columns, -1).tolist()
        attempts = [
            Attempt(way, row.tokens, sketch.written(way, row.tokens), n, e, more, more_e, row.passes)
            for way, row, (n, e, more, more_e) in zip(ways, rows, figures, strict=True)
        ]
        return sorted(attempts, key=lambda one: (one.nats, sum(one.lengths), one.lengths))

    def _choice_rows(self, template: str, choices: Sequence[str]) -> tuple[list[list[int]], list[slice]]:
        """The text with each choice in its place, and where the choice stands.

        Nothing is written here, so each whole text is encoded as a tokenizer would: a choice may share a token with the
        text beside it. What all have in common, and the template too, is the rest that the choices are given.
        """
        parts = parse_template(template)
        slots = [at for at, part in enumerate(parts) if isinstance(part, Slot)]
        if len(slots) != 1:
            raise RequestError(f"The text has {len(slots)} places for the choices; write [?] once, where they go.")
        if not choices or len(set(choices)) != len(choices):
            raise RequestError("There are no choices, or one is named twice; name each choice once.")
        at = slots[0]
        before, after = (_text_at(parts, at - 1), _text_at(parts, at + 1))
        sides = [
            Sketch.of(self.tokenizer, some) for some in (parts[: at - bool(before)], parts[at + 1 + bool(after) :])
        ]
        if any(len(lengths) > 1 for side in sides for lengths in side.holes):
            raise RequestError("A hole beside [?] has a free length; set it, such as [5], to compare choices.")
        left, right = (side.row([lengths[0] for lengths in side.holes], self.tokenizer.mask_id) for side in sides)
        texts = [self.tokenizer.encode(before + choice + after) for choice in choices]
        head = min(_shared(self.tokenizer.encode(before), text) for text in texts)
        tail = min(_shared(self.tokenizer.encode(after)[::-1], text[::-1]) for text in texts)
        for choice, text in zip(choices, texts, strict=True):
            if len(text) <= head + tail:
                raise RequestError(f"The choice '{choice}' has no token; give a text that the tokenizer knows.")
        rows = [[*left, *text, *right] for text in texts]
        longest = max(map(len, rows))
        if longest > self.window:
            raise RequestError(
                f"The text with its choices is up to {longest} tokens long and the model's window is {self.window}; "
                "shorten it."
            )
        return rows, [slice(len(left) + head, len(left) + len(text) - tail) for text in texts]


def _tokens_or_lengths(tokenizer: Tokenizer, part: Part) -> list[int] | range:
    """The ids of a text, or the lengths of what takes a hole's place."""
    if isinstance(part, str):
        return tokenizer.encode(part)
    if isinstance(part, Slot):
        raise RequestError("[?] is the place of choices; name them (--choices), or write [5] for a hole of 5 tokens.")
    hole = part if isinstance(part, Hole) else part.hole or Hole(len(tokenizer.encode(part.words)))
    if hole.length < 1:
        raise RequestError("The words to write anew have no token; say how many to write, such as [3=old words].")
    return range(hole.length, (hole.longest or hole.length) + 1)


def _text_at(parts: Sequence[Part], at: int) -> str:
    """The text that is part `at`; empty where there is none, or no text."""
    part = parts[at] if 0 <= at < len(parts) else ""
    return part if isinstance(part, str) else ""


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
