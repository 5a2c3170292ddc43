"""Template -> token ids of its texts and the possible lengths of its holes; hole lengths -> a row to fill."""

__all__ = ["Sketch", "common_prefix", "placed"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from unmask.decode.pattern import Pattern, Placed
from unmask.errors import RequestError
from unmask.text.template import Hole, Part, Slot
from unmask.text.tokenizer import Tokenizer

Entry = TypeVar("Entry")
_HOLE_KEYS = 2**20  # offset of the keys of a hole's tokens, so that they differ from those of the text around it


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

    def shortest(self, mask_id: int) -> list[int]:
        """The row with the least length of each hole."""
        return self.row([lengths[0] for lengths in self.holes], mask_id)

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

    def span(self, lengths: Sequence[int], hole: int) -> range:
        """Hole lengths and the index of a hole -> its positions in the row."""
        left, at, index = iter(lengths), 0, 0
        for part in self.parts:
            size = next(left) if isinstance(part, range) else len(part)
            if isinstance(part, range) and index == hole:
                return range(at, at + size)
            index += isinstance(part, range)
            at += size
        raise IndexError(f"the row has {index} holes")

    def written(self, lengths: Sequence[int], row: Sequence[Entry]) -> list[list[Entry]]:
        """Hole lengths and a list with an entry for each token of the row -> the entries in each hole."""
        spans = [self.span(lengths, hole) for hole in range(len(lengths))]
        return [list(row[span.start : span.stop]) for span in spans]


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


def placed(pattern: Pattern, sketch: Sketch, lengths: Sequence[int]) -> Placed:
    """A pattern and the lengths of the holes -> the constraint to all holes, in order, or to the one that it is for.

    Raises RequestError where there is no such hole.
    """
    spans = [sketch.span(lengths, hole) for hole in range(len(lengths))]
    if not spans or not 0 <= (pattern.hole or 1) - 1 < len(spans):
        which = "" if pattern.hole is None else f" number {pattern.hole}"
        raise RequestError(
            f"The {pattern.name} is for a hole{which}, and the text has {len(spans)}; write [5] for one."
        )
    places = [at for span in (spans if pattern.hole is None else spans[pattern.hole - 1 :][:1]) for at in span]
    return pattern.at(places, begins=places[0] == 0)


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Two rows -> the length of their common prefix."""
    pairs = zip(first, second, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
