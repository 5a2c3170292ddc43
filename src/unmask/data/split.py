"""A source and settings -> its split into training and validation text.

The side of a document depends on its text alone. A plan holds one bit for each document.
"""

__all__ = [
    "FEW_DOCUMENTS",
    "Sides",
    "SplitPlan",
    "Unit",
    "nearest_break",
    "plan_split",
    "utf8_size",
]

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from unmask.data.documents import Pair, Piece
from unmask.data.packed import Sources
from unmask.data.sources import Source
from unmask.errors import DataError

FEW_DOCUMENTS = 20
"""A source with fewer different documents keeps the end of each for validation, instead of whole documents."""
_SALT = b"155"
"""Hashed after each text. With this number the bundled corpora have close to 5 % of their bytes below 0.05."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of a document or a pair: the text that is encoded by one call."""

    valid: bool
    """Whether the text is for validation."""
    text: str
    """A piece of a document, or the answer of a pair."""
    ends: bool
    """Whether a document ends here."""
    starts: bool
    """Whether a document, or the part of it on this side of the split, starts here."""
    prompt: str | None = None
    """The prompt of a pair."""


@dataclass(frozen=True, slots=True, eq=False)
class _Cuts:
    """Where documents are cut; text before the cut is for training."""

    at: np.ndarray
    """(documents,) int64: UTF-8 bytes of each document before its cut."""
    after: np.ndarray
    """(documents,) int64: the bytes after it, of which half may be moved to the other side to cut at a break."""
    ends: int
    """The number of first documents whose training part ends with EOS."""


class Sides:
    """For each document whether it is for validation; eight documents take a byte."""

    def __init__(self) -> None:
        self._bits, self.count, self.chosen = bytearray(), 0, 0

    def append(self, valid: bool) -> None:
        """Add a document."""
        if self.count % 8 == 0:
            self._bits.append(0)
        self.count += 1
        if valid:
            self.set(self.count - 1, True)

    def set(self, document: int, valid: bool) -> None:
        """Choose the side of a document."""
        self.chosen += valid - self[document]
        bit = 1 << document % 8
        self._bits[document // 8] = self._bits[document // 8] & ~bit | (bit if valid else 0)

    def __getitem__(self, document: int) -> bool:
        """Whether a document is for validation."""
        return bool(self._bits[document // 8] >> document % 8 & 1)


@dataclass(frozen=True, slots=True, eq=False)
class SplitPlan:
    """The split of a source; `units` streams the source in order, each unit with its side of the split."""

    sources: Sources
    bytes: int
    """UTF-8 bytes of the text of `sources.source`."""
    documents: int
    """Documents, or pairs, of `sources.source`."""
    in_valid: Sides | None
    """The documents for validation; None if documents are cut, or there is a `sources.valid`."""
    cuts: _Cuts | None
    """The cuts, if documents are cut."""
    note: str
    """A sentence that says how the source was split."""

    def units(self) -> Iterator[Unit]:
        """All units, for training and for validation."""
        source, valid_source = self.sources.source, self.sources.valid
        if valid_source is not None:
            yield from _one_side(source, False)
            yield from _one_side(valid_source, True)
        elif source.paired:
            in_valid = self.in_valid
            assert in_valid is not None  # a source of pairs is never cut
            for row, pair in enumerate(source.pairs()):
                yield _pair_unit(pair, in_valid[row])
        elif self.in_valid is not None:
            yield from _by_document(source.pieces(), self.in_valid)
        elif self.cuts is not None:
            yield from _by_cuts(source.pieces(), self.cuts)

    def training_texts(self) -> Iterator[str]:
        """All texts for training, from which tokenizers are trained."""
        for unit in self.units():
            if not unit.valid:
                if unit.prompt:
                    yield unit.prompt
                yield unit.text


def plan_split(sources: Sources, share: float) -> SplitPlan:
    """Sources -> their split: about `share` of its documents (or pairs) for validation, at least one on each side.

    A document is for validation if the sha256 of its text, as a number from 0 to 1, is below `share`. Copies of a text
    are then on one side, and the order of the documents and other documents do not matter; but where no document is
    below `share`, that of the smallest number is taken. If there are fewer than FEW_DOCUMENTS different documents, the
    last `share` of each is for validation. Rule 1 is the one of SPLIT_RULE, for runs that were split by it.

    Reads `sources.source` once. All of it is for training if there is a `sources.valid`.

    Raises:
        DataError: if there is too little text for both sides.
    """
    source, rule = sources.source, sources.rule
    survey = _surveyed(source, rule, share)
    count, different = survey.sides.count, len(survey.different)
    label = "row" if source.paired else "document"
    if sources.valid is not None:
        note = f"validation text comes from {sources.valid.name}."
        return SplitPlan(sources, survey.bytes, count, None, None, note)
    if not source.paired and different < FEW_DOCUMENTS:
        sizes = np.array(survey.sizes, dtype=np.int64)
        return SplitPlan(sources, survey.bytes, count, None, *_cut_plan(sizes, different, share, rule))
    if different < 2:
        raise DataError(
            f"{source.name} holds too few {label}s ({different}): give at least 2 different ones, or a validation "
            "source with --data.valid."
        )
    survey.fill_both_sides()
    note = f"{survey.sides.chosen:,} of {count:,} {label}s are kept for validation."
    return SplitPlan(sources, survey.bytes, count, survey.sides, None, note)


class _Survey:
    """What a plan needs to know of all documents; a bit for each, and little else, is in memory."""

    def __init__(self, share: float) -> None:
        self.below = min(int(share * 2.0**64), 2**64 - 1)
        self.sides, self.bytes = Sides(), 0
        self.different = set[int]()
        """Hashes, FEW_DOCUMENTS at most."""
        self.sizes = array("q")
        """UTF-8 bytes of each document while there are few different ones, else of the first of them."""
        self._ends = {min: (2**64, array("q")), max: (-1, array("q"))}  # that hash, and the documents that have it

    def add(self, number: int, size: int) -> None:
        """Take the next document: the number that its text hashes to, and the UTF-8 bytes of its text."""
        for extreme, (end, documents) in self._ends.items():
            if number == end:
                documents.append(self.sides.count)
            elif extreme(number, end) == number:
                self._ends[extreme] = (number, array("q", [self.sides.count]))
        self.sides.append(number < self.below)
        self.bytes += size
        if len(self.different) < FEW_DOCUMENTS:
            self.different.add(number)
            self.sizes.append(size)

    def fill_both_sides(self) -> None:
        """Where a side is empty, move the documents of the smallest hash there, or those of the largest."""
        if self.sides.chosen in (0, self.sides.count):
            empty = self.sides.chosen == 0
            for document in self._ends[min if empty else max][1]:
                self.sides.set(document, empty)


def _surveyed(source: Source, rule: int, share: float) -> _Survey:
    """A source -> its survey. Rule 1 orders all documents, for which it holds their hashes."""
    survey, hashes = _Survey(share), array("Q")
    for number, size in _hashed(source, rule):
        survey.add(number, size)
        if rule == 1:
            hashes.append(number)
    if rule == 1:
        chosen = np.argsort(np.array(hashes), -1, "stable")[: min(max(round(share * len(hashes)), 1), len(hashes) - 1)]
        for document in range(len(hashes)):
            survey.sides.set(document, False)
        for document in chosen.tolist():
            survey.sides.set(document, True)
    return survey


def _cut_plan(sizes: np.ndarray, different: int, share: float, rule: int) -> tuple[_Cuts, str]:
    """Bytes of each document -> its cut, and a sentence."""
    if rule == 1:  # a single cut in the text of all documents together
        total = int(sizes.sum())
        cut = min(max(round((1 - share) * total), 1), total - 1)
        at = np.clip(cut - (np.cumsum(sizes) - sizes), 0, sizes)
        cuts, part = _Cuts(at, np.full_like(sizes, total - cut), 0), "the text"
    else:
        at = np.clip(np.round((1 - share) * sizes).astype(np.int64), 1, np.maximum(sizes - 1, 1))
        cuts, part = _Cuts(at, sizes - at, len(sizes) - 1), "the text" if len(sizes) == 1 else "each"
    label = f"{'' if different == len(sizes) else 'different '}document{'' if different == 1 else 's'}"
    note = f"the source has {different} {label}, fewer than {FEW_DOCUMENTS}: about the last "
    return cuts, f"{note}{100 * share:g} % of {part} is kept for validation."


def utf8_size(text: str) -> int:
    """A text -> its size in UTF-8 bytes."""
    return len(text) if text.isascii() else len(text.encode("utf-8"))


def nearest_break(text: str, target: int, slack: int) -> int:
    """A text -> the index near `target` to cut it: after an empty line, else after a line end, else before a space.

    Breaks further than `slack` characters away do not count; without a break, `target` itself. The result is never 0
    nor the end of a text of two characters or more.
    """
    target = min(max(target, 1), max(len(text) - 1, 1))
    for mark, after in (("\n\n", 2), ("\n", 1), (" ", 0)):
        marks = (text.rfind(mark, 0, target), text.find(mark, target))
        breaks = [index + after for index in marks if index >= 0 and 0 < index + after < len(text)]
        near = [index for index in breaks if abs(index - target) <= slack]
        if near:
            return min(near, key=lambda index: abs(index - target))
    return target


def _hashed(source: Source, rule: int) -> Iterator[tuple[int, int]]:
    """A source -> for each document the number that its text hashes to, and the UTF-8 bytes of its text.

    Under rule 1 the hash is of the number of the document and its first piece.
    """
    if source.paired:
        for row, pair in enumerate(source.pairs()):
            text = f"{pair.prompt}\0{pair.answer}".encode()
            number = _number(hashlib.sha256(b"%d %b" % (row, text) if rule == 1 else text + _SALT))
            yield number, utf8_size(pair.prompt) + utf8_size(pair.answer)
        return
    starts, size, total = True, 0, hashlib.sha256()
    for piece in source.pieces():
        content = piece.text.encode()
        if starts:
            size, total = 0, hashlib.sha256(f"{piece.document} ".encode() if rule == 1 else b"")
        if starts or rule > 1:
            total.update(content)
        size += len(content)
        starts = piece.last_in_document
        if starts:
            if rule > 1:
                total.update(_SALT)
            yield _number(total), size


def _number(hashed: Any) -> int:
    """A sha256 -> the number of its first 64 bits."""
    return int.from_bytes(hashed.digest()[:8], "big")


def _pair_unit(pair: Pair, valid: bool) -> Unit:
    return Unit(valid, pair.answer, True, True, pair.prompt)


def _one_side(source: Source, valid: bool) -> Iterator[Unit]:
    """All units of a source, on one side."""
    if source.paired:
        for pair in source.pairs():
            yield _pair_unit(pair, valid)
        return
    starts = True
    for piece in source.pieces():
        yield Unit(valid, piece.text, piece.last_in_document, starts)
        starts = piece.last_in_document


def _by_document(pieces: Iterable[Piece], in_valid: Sides) -> Iterator[Unit]:
    """The units of a source whose documents are split as wholes."""
    starts = True
    for piece in pieces:
        yield Unit(in_valid[piece.document], piece.text, piece.last_in_document, starts)
        starts = piece.last_in_document


def _by_cuts(pieces: Iterable[Piece], cuts: _Cuts) -> Iterator[Unit]:
    """The units of documents that are cut: of each document training text, then validation text."""
    at, starts = 0, True
    for piece in pieces:
        cut, after = int(cuts.at[piece.document]), int(cuts.after[piece.document])
        size, last = utf8_size(piece.text), piece.last_in_document
        ends = piece.document < cuts.ends
        if at < cut < at + size and len(piece.text) > 1:
            target = len(piece.text.encode("utf-8")[: cut - at].decode("utf-8", "ignore"))
            index = nearest_break(piece.text, target, max(after // 2, 1))
            yield Unit(False, piece.text[:index], ends, starts)
            yield Unit(True, piece.text[index:], last, True)
        else:
            valid = at + size > cut
            yield Unit(valid, piece.text, last or (ends and at + size == cut), starts or (valid and at <= cut))
        at, starts = 0 if last else at + size, last
