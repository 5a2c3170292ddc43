"""A source and settings -> its split into training and validation text, and the tokenizer that goes with it.

The side of a document depends on its text alone. Trained tokenizers are kept in the cache.
"""

__all__ = [
    "FEW_DOCUMENTS",
    "SAMPLE_BYTES",
    "SplitPlan",
    "Unit",
    "automatic_vocab_size",
    "choose_tokenizer",
    "nearest_break",
    "plan_split",
    "utf8_size",
]

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from unmask.config import cache_folder
from unmask.data.documents import Pair, Piece
from unmask.data.packed import Sources
from unmask.data.settings import BUILT_IN_TOKENIZERS, SMALLEST_BPE, DataSettings
from unmask.data.sources import Source
from unmask.disk.files import atomic_text, file_sha256
from unmask.disk.folders import refuse_ambiguous
from unmask.errors import DataError
from unmask.limits import is_shortage
from unmask.text.build import bpe_tokenizer, byte_tokenizer, char_tokenizer, dna_tokenizer
from unmask.text.tokenizer import Tokenizer

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


@dataclass(frozen=True, slots=True, eq=False)
class SplitPlan:
    """The split of a source; `units` streams the source in order, each unit with its side of the split."""

    sources: Sources
    bytes: int
    """UTF-8 bytes of the text of `sources.source`."""
    documents: int
    """Documents, or pairs, of `sources.source`."""
    in_valid: np.ndarray | None
    """(documents,) bool: the documents for validation; None if documents are cut, or there is a `sources.valid`."""
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
                yield _pair_unit(pair, bool(in_valid[row]))
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
    hashes, sizes = _survey(source, rule)
    count, size = len(hashes), int(sizes.sum())
    label = "row" if source.paired else "document"
    if sources.valid is not None:
        note = f"validation text comes from {sources.valid.name}."
        return SplitPlan(sources, size, count, None, None, note)
    different = len(np.unique(hashes))
    if not source.paired and different < FEW_DOCUMENTS:
        return SplitPlan(sources, size, count, None, *_cut_plan(sizes, different, share, rule))
    if different < 2:
        raise DataError(
            f"{source.name} holds too few {label}s ({different}): give at least 2 different ones, or a validation "
            "source with --data.valid."
        )
    if rule == 1:
        in_valid = np.zeros(count, dtype=bool)
        in_valid[np.argsort(hashes, -1, "stable")[: min(max(round(share * count), 1), count - 1)]] = True
    else:
        in_valid = hashes < np.uint64(min(int(share * 2.0**64), 2**64 - 1))
        if in_valid.all() or not in_valid.any():
            in_valid = hashes < hashes.max() if in_valid.all() else hashes == hashes.min()
    note = f"{int(in_valid.sum()):,} of {count:,} {label}s are kept for validation."
    return SplitPlan(sources, size, count, in_valid, None, note)


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


def _survey(source: Source, rule: int) -> tuple[np.ndarray, np.ndarray]:
    """A source -> for each document a hash, uint64, of its text, and the UTF-8 bytes of its text, int64.

    Under rule 1 the hash is of the number of the document and its first piece.
    """
    hashes, sizes, total = array("Q"), array("q"), hashlib.sha256()
    if source.paired:
        for row, pair in enumerate(source.pairs()):
            sizes.append(utf8_size(pair.prompt) + utf8_size(pair.answer))
            text = f"{pair.prompt}\0{pair.answer}".encode()
            hashes.append(_number(hashlib.sha256(b"%d %b" % (row, text) if rule == 1 else text + _SALT)))
    else:
        starts = True
        for piece in source.pieces():
            content = piece.text.encode()
            if starts:
                sizes.append(0)
                total = hashlib.sha256(f"{piece.document} ".encode() if rule == 1 else b"")
            if starts or rule > 1:
                total.update(content)
            sizes[-1] += len(content)
            if piece.last_in_document:
                if rule > 1:
                    total.update(_SALT)
                hashes.append(_number(total))
            starts = piece.last_in_document
    return np.array(hashes, dtype=np.uint64), np.array(sizes, dtype=np.int64)


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


def _by_document(pieces: Iterable[Piece], in_valid: np.ndarray) -> Iterator[Unit]:
    """The units of a source whose documents are split as wholes."""
    starts = True
    for piece in pieces:
        yield Unit(bool(in_valid[piece.document]), piece.text, piece.last_in_document, starts)
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


SAMPLE_BYTES = 50_000_000
"""The maximum of text, in bytes, that a bpe tokenizer is trained on."""
_AUTOMATIC = {"ecoli-k12": "dna", "wordnet": "words"}
_SIZES = ((200_000, 512), (2_000_000, 1024), (20_000_000, 2048), (200_000_000, 8192))


def automatic_vocab_size(text_bytes: int) -> int:
    """Bytes of text -> the ids of its bpe tokenizer.

    512 below 200 kB, 1024 below 2 MB, 2048 below 20 MB, 8192 below 200 MB, else 32768.
    """
    return next((size for limit, size in _SIZES if text_bytes < limit), 32_768)


def choose_tokenizer(
    settings: DataSettings,
    sources: Sources,
    plan: Callable[[], SplitPlan],
    note: Callable[[str], None],
) -> tuple[Tokenizer, str]:
    """Settings and sources -> the tokenizer, and byte, char, dna, bpe, words or file.

    `plan` is called only if text must be read. `note` receives progress sentences.

    Raises:
        DataError: if a tokenizer file cannot be used.
    """
    name = settings.tokenizer
    if name == "auto":
        name = _AUTOMATIC.get(settings.source, "bpe")
    if name in BUILT_IN_TOKENIZERS and settings.tokenizer != "auto":
        refuse_ambiguous(name, "built-in tokenizer")
    if name not in BUILT_IN_TOKENIZERS:
        return Tokenizer.load(name, mask_token=settings.mask_token), "file"
    if name == "byte":
        return byte_tokenizer(), name
    if name == "dna":
        return dna_tokenizer(), name
    identity = {
        "source": sources.split.source,
        "valid": sources.split.valid,
        "valid_share": None if sources.valid is not None else settings.valid_share,
        "text_key": settings.text_key,
        "kind": name,
        "vocab_size": settings.vocab_size,
        "rule": sources.rule,
        "columns": [settings.prompt_key, settings.answer_key],
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    folder = cache_folder() / "tokenizers" / key
    if (folder / "sha256").is_file():  # it is written last
        try:
            if (folder / "sha256").read_text() == file_sha256(folder / "tokenizer.json"):
                return Tokenizer.load(folder), name
        except (DataError, OSError, ValueError) as error:
            if is_shortage(error):
                raise
        note(f"the tokenizer in {folder} is damaged, so it is made again.")
    tokenizer = _make(name, settings.vocab_size, plan(), note)
    tokenizer.save(folder)
    atomic_text(folder / "sha256", file_sha256(folder / "tokenizer.json"))
    return tokenizer, name


def _make(name: str, vocab_size: int | None, plan: SplitPlan, note: Callable[[str], None]) -> Tokenizer:
    """char, bpe or words -> a tokenizer made from the training text."""
    if name == "char":
        return char_tokenizer(plan.training_texts())
    size = vocab_size or automatic_vocab_size(plan.bytes)
    size = min(size, SMALLEST_BPE + plan.bytes)  # a merge needs two bytes, and the trainer reserves memory for each id
    note(f"training a bpe tokenizer of {size} ids on {min(plan.bytes, SAMPLE_BYTES) / 1e6:.1f} MB of text.")
    return bpe_tokenizer(_sample(plan.training_texts(), plan.bytes), size, spaced=name == "words")


def _sample(texts: Iterable[str], total: int) -> Iterator[str]:
    """Texts of `total` bytes -> evenly spaced texts of about SAMPLE_BYTES, in order."""
    share = min(1.0, SAMPLE_BYTES / total)
    for index, text in enumerate(texts):
        if int((index + 1) * share) > int(index * share):
            yield text
