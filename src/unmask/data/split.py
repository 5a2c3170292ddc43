"""Which text is for training and which for validation: decided by content alone, so that every run decides alike."""

__all__ = ["FEW_DOCUMENTS", "SplitPlan", "Unit", "nearest_break", "plan_split", "utf8_size"]

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from unmask.data.documents import Pair, Piece
from unmask.data.sources import Source
from unmask.errors import DataError

FEW_DOCUMENTS = 20
"""Below this many documents, the end of the text is kept for validation rather than whole documents."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What is encoded at one go: a piece of a document, or a pair."""

    valid: bool
    """Whether it is for validation."""
    text: str
    """A piece of a document, or the answer of a pair."""
    ends: bool
    """Whether a document ends here."""
    starts: bool
    """Whether a document, or the part of it on this side of the split, starts here."""
    prompt: str | None = None
    """The prompt of a pair."""


@dataclass(frozen=True, slots=True, eq=False)
class SplitPlan:
    """The split of one source; `units` streams the source in its order and says for each unit on which side it is."""

    source: Source
    other: Source | None
    """The validation source, where there is one of its own."""
    bytes: int
    """UTF-8 bytes of the text of `source`."""
    marked: np.ndarray | None
    """(documents,) bool, the documents for validation; None where the text is cut instead, or `other` is given."""
    cut: int
    """Bytes of text before the cut, where it is cut."""
    note: str
    """How it was split, in a sentence."""

    def units(self) -> Iterator[Unit]:
        """Everything, training and validation."""
        if self.other is not None:
            yield from _one_side(self.source, False)
            yield from _one_side(self.other, True)
        elif self.source.paired:
            marked = self.marked
            assert marked is not None  # pairs are never cut
            for row, pair in enumerate(self.source.pairs()):
                yield _pair_unit(pair, bool(marked[row]))
        elif self.marked is not None:
            yield from _by_document(self.source.pieces(), self.marked)
        else:
            yield from _by_cut(self.source.pieces(), self.cut, self.bytes - self.cut)

    def training_texts(self) -> Iterator[str]:
        """All text of the training side, for tokenizers that are made from it."""
        for unit in self.units():
            if not unit.valid:
                if unit.prompt:
                    yield unit.prompt
                yield unit.text


def plan_split(source: Source, other: Source | None, share: float) -> SplitPlan:
    """Read `source` once and decide; `share` of its documents (or rows) goes to validation, at least one to each side.

    Raises:
        DataError: where there is too little to have both sides.
    """
    size, hashes = _survey(source)
    count = len(hashes)
    if other is not None:
        return SplitPlan(source, other, size, None, 0, f"validation text comes from {other.name}.")
    if source.paired or count >= FEW_DOCUMENTS:
        what = "rows" if source.paired else "documents"
        if count < 2:
            raise DataError(
                f"{source.name} holds too few {what} ({count}): give at least 2, or a validation source with "
                "--data.valid."
            )
        wanted = min(max(round(share * count), 1), count - 1)
        marked = np.zeros(count, dtype=bool)
        marked[np.argsort(np.array(hashes, dtype=np.uint64), kind="stable")[:wanted]] = True
        return SplitPlan(source, None, size, marked, 0, f"{wanted} of {count} {what} are kept for validation.")
    note = (
        f"the source has {count} document{'s' if count > 1 else ''}, fewer than {FEW_DOCUMENTS}: about the last "
        f"{100 * share:g} % of the text is kept for validation."
    )
    return SplitPlan(source, None, size, None, min(max(round((1 - share) * size), 1), size - 1), note)


def utf8_size(text: str) -> int:
    """Bytes of `text` in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8"))


def nearest_break(text: str, target: int, slack: int) -> int:
    """The place nearest to `target` where `text` is best cut: an empty line, else a line end, else before a space.

    A break further than `slack` characters away does not count; without any, `target` itself. Never 0 nor the end where
    the text has two characters or more.
    """
    target = min(max(target, 1), max(len(text) - 1, 1))
    for mark, after in (("\n\n", 2), ("\n", 1), (" ", 0)):
        found = (text.rfind(mark, 0, target), text.find(mark, target))
        places = [place + after for place in found if place >= 0 and 0 < place + after < len(text)]
        near = [place for place in places if abs(place - target) <= slack]
        if near:
            return min(near, key=lambda place: abs(place - target))
    return target


def _survey(source: Source) -> tuple[int, list[int]]:
    """Bytes of text, and for each document a hash of its number and its first piece."""
    size, hashes, fresh = 0, list[int](), True
    if source.paired:
        for row, pair in enumerate(source.pairs()):
            size += utf8_size(pair.prompt) + utf8_size(pair.answer)
            hashes.append(_hash(row, f"{pair.prompt}\0{pair.answer}"))
        return size, hashes
    for piece in source.pieces():
        size += utf8_size(piece.text)
        if fresh:
            hashes.append(_hash(piece.document, piece.text))
        fresh = piece.last_in_document
    return size, hashes


def _hash(number: int, text: str) -> int:
    """64 bits out of a document's number and text."""
    return int.from_bytes(hashlib.sha256(f"{number} {text}".encode()).digest()[:8], "big")


def _pair_unit(pair: Pair, valid: bool) -> Unit:
    return Unit(valid, pair.answer, True, True, pair.prompt)


def _one_side(source: Source, valid: bool) -> Iterator[Unit]:
    """All of a source on one side."""
    if source.paired:
        for pair in source.pairs():
            yield _pair_unit(pair, valid)
        return
    starts = True
    for piece in source.pieces():
        yield Unit(valid, piece.text, piece.last_in_document, starts)
        starts = piece.last_in_document


def _by_document(pieces: Iterable[Piece], marked: np.ndarray) -> Iterator[Unit]:
    """Whole documents on the side that `marked` says."""
    starts = True
    for piece in pieces:
        yield Unit(bool(marked[piece.document]), piece.text, piece.last_in_document, starts)
        starts = piece.last_in_document


def _by_cut(pieces: Iterable[Piece], cut: int, after: int) -> Iterator[Unit]:
    """Training text up to about byte `cut`, validation text (`after` bytes) behind it; one piece may be parted."""
    at, starts = 0, True
    for piece in pieces:
        size = utf8_size(piece.text)
        if at < cut < at + size and len(piece.text) > 1:
            target = len(piece.text.encode("utf-8")[: cut - at].decode("utf-8", "ignore"))
            place = nearest_break(piece.text, target, max(after // 2, 1))
            yield Unit(False, piece.text[:place], False, starts)
            yield Unit(True, piece.text[place:], piece.last_in_document, True)
        else:
            valid = at + size > cut
            yield Unit(valid, piece.text, piece.last_in_document, starts or (valid and at <= cut))
        at, starts = at + size, piece.last_in_document
