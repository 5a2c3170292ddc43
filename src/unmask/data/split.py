"""A source and settings -> its split into training and validation text, and the tokenizer that goes with it.

The split goes by content alone, so that every run has the same one. Trained tokenizers are kept in the cache.
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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from unmask.data.documents import Pair, Piece
from unmask.data.packed import cache_folder, file_sha256
from unmask.data.settings import BUILT_IN_TOKENIZERS, SMALLEST_BPE, DataSettings
from unmask.data.sources import Source
from unmask.disk.files import atomic_text
from unmask.disk.folders import refuse_ambiguous
from unmask.errors import DataError
from unmask.text.build import bpe_tokenizer, byte_tokenizer, char_tokenizer, dna_tokenizer
from unmask.text.tokenizer import Tokenizer

FEW_DOCUMENTS = 20
"""A source with fewer documents keeps the end of its text for validation, instead of whole documents."""


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
class SplitPlan:
    """The split of a source; `units` streams the source in order, each unit with its side of the split."""

    source: Source
    valid_source: Source | None
    """The separate source of validation text, if there is one."""
    bytes: int
    """UTF-8 bytes of the text of `source`."""
    in_valid: np.ndarray | None
    """(documents,) bool: the documents for validation; None if the text is cut, or there is a `valid_source`."""
    cut: int
    """UTF-8 bytes of text before the cut, if the text is cut."""
    note: str
    """A sentence that says how the source was split."""

    def units(self) -> Iterator[Unit]:
        """All units, for training and for validation."""
        if self.valid_source is not None:
            yield from _one_side(self.source, False)
            yield from _one_side(self.valid_source, True)
        elif self.source.paired:
            in_valid = self.in_valid
            assert in_valid is not None  # a source of pairs is never cut
            for row, pair in enumerate(self.source.pairs()):
                yield _pair_unit(pair, bool(in_valid[row]))
        elif self.in_valid is not None:
            yield from _by_document(self.source.pieces(), self.in_valid)
        else:
            yield from _by_cut(self.source.pieces(), self.cut, self.bytes - self.cut)

    def training_texts(self) -> Iterator[str]:
        """All texts for training, from which tokenizers are trained."""
        for unit in self.units():
            if not unit.valid:
                if unit.prompt:
                    yield unit.prompt
                yield unit.text


def plan_split(source: Source, valid_source: Source | None, share: float) -> SplitPlan:
    """A source -> its split: `share` of its documents (or pairs) for validation, at least one on each side.

    Reads `source` once. All of it is for training if there is a `valid_source`.

    Raises:
        DataError: if there is too little text for both sides.
    """
    size, hashes = _survey(source)
    count = len(hashes)
    if valid_source is not None:
        return SplitPlan(source, valid_source, size, None, 0, f"validation text comes from {valid_source.name}.")
    if source.paired or count >= FEW_DOCUMENTS:
        label = "rows" if source.paired else "documents"
        if count < 2:
            raise DataError(
                f"{source.name} holds too few {label} ({count}): give at least 2, or a validation source with "
                "--data.valid."
            )
        kept = min(max(round(share * count), 1), count - 1)
        in_valid = np.zeros(count, dtype=bool)
        in_valid[np.argsort(np.array(hashes, dtype=np.uint64), -1, "stable")[:kept]] = True
        return SplitPlan(source, None, size, in_valid, 0, f"{kept} of {count} {label} are kept for validation.")
    note = (
        f"the source has {count} document{'s' if count > 1 else ''}, fewer than {FEW_DOCUMENTS}: about the last "
        f"{100 * share:g} % of the text is kept for validation."
    )
    return SplitPlan(source, None, size, None, min(max(round((1 - share) * size), 1), size - 1), note)


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


def _survey(source: Source) -> tuple[int, list[int]]:
    """A source -> the UTF-8 bytes of its text, and for each document a hash of its number and its first piece."""
    size, hashes, starts = 0, list[int](), True
    if source.paired:
        for row, pair in enumerate(source.pairs()):
            size += utf8_size(pair.prompt) + utf8_size(pair.answer)
            hashes.append(_hash(row, f"{pair.prompt}\0{pair.answer}"))
        return size, hashes
    for piece in source.pieces():
        size += utf8_size(piece.text)
        if starts:
            hashes.append(_hash(piece.document, piece.text))
        starts = piece.last_in_document
    return size, hashes


def _hash(number: int, text: str) -> int:
    """The number and text of a document -> a hash of 64 bits."""
    return int.from_bytes(hashlib.sha256(f"{number} {text}".encode()).digest()[:8], "big")


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


def _by_cut(pieces: Iterable[Piece], cut: int, after: int) -> Iterator[Unit]:
    """The units of a source that is cut near byte `cut`: training text, then `after` bytes of validation text."""
    at, starts = 0, True
    for piece in pieces:
        size = utf8_size(piece.text)
        if at < cut < at + size and len(piece.text) > 1:
            target = len(piece.text.encode("utf-8")[: cut - at].decode("utf-8", "ignore"))
            index = nearest_break(piece.text, target, max(after // 2, 1))
            yield Unit(False, piece.text[:index], False, starts)
            yield Unit(True, piece.text[index:], piece.last_in_document, True)
        else:
            valid = at + size > cut
            yield Unit(valid, piece.text, piece.last_in_document, starts or (valid and at <= cut))
        at, starts = at + size, piece.last_in_document


SAMPLE_BYTES = 50_000_000
"""The maximum of text, in bytes, that a bpe tokenizer is trained on."""
GENOME = "ecoli-k12"
_SIZES = ((200_000, 512), (2_000_000, 1024), (20_000_000, 2048), (200_000_000, 8192))


def automatic_vocab_size(text_bytes: int) -> int:
    """Bytes of text -> the ids of its bpe tokenizer.

    512 below 200 kB, 1024 below 2 MB, 2048 below 20 MB, 8192 below 200 MB, else 32768.
    """
    return next((size for limit, size in _SIZES if text_bytes < limit), 32_768)


def choose_tokenizer(
    settings: DataSettings,
    source: Source,
    valid_source: Source | None,
    plan: Callable[[], SplitPlan],
    note: Callable[[str], None],
) -> tuple[Tokenizer, str]:
    """Settings and sources -> the tokenizer, and byte, char, dna, bpe or file.

    `plan` is called only if text must be read. `note` receives progress sentences.

    Raises:
        DataError: if a tokenizer file cannot be used.
    """
    name = settings.tokenizer
    if name == "auto":
        name = "dna" if settings.source == GENOME else "bpe"
    if name in BUILT_IN_TOKENIZERS and settings.tokenizer != "auto":
        refuse_ambiguous(name, "built-in tokenizer")
    if name not in BUILT_IN_TOKENIZERS:
        return Tokenizer.load(name, mask_token=settings.mask_token), "file"
    if name == "byte":
        return byte_tokenizer(), name
    if name == "dna":
        return dna_tokenizer(), name
    identity = {
        "source": source.fingerprint,
        "valid": None if valid_source is None else valid_source.fingerprint,
        "valid_share": None if valid_source is not None else settings.valid_share,
        "text_key": settings.text_key,
        "kind": name,
        "vocab_size": settings.vocab_size,
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    folder = cache_folder() / "tokenizers" / key
    if (folder / "sha256").is_file():  # it is written last
        try:
            if (folder / "sha256").read_text() == file_sha256(folder / "tokenizer.json"):
                return Tokenizer.load(folder), name
        except (DataError, OSError, ValueError):
            pass
        note(f"the tokenizer in {folder} is damaged, so it is made again.")
    tokenizer = _make(name, settings.vocab_size, plan(), note)
    tokenizer.save(folder)
    atomic_text(folder / "sha256", file_sha256(folder / "tokenizer.json"))
    return tokenizer, name


def _make(name: str, vocab_size: int | None, plan: SplitPlan, note: Callable[[str], None]) -> Tokenizer:
    """char or bpe -> a tokenizer made from the training text."""
    if name == "char":
        return char_tokenizer(plan.training_texts())
    size = vocab_size or automatic_vocab_size(plan.bytes)
    size = min(size, SMALLEST_BPE + plan.bytes)  # a merge needs two bytes, and the trainer reserves memory for each id
    note(f"training a bpe tokenizer of {size} ids on {min(plan.bytes, SAMPLE_BYTES) / 1e6:.1f} MB of text.")
    return bpe_tokenizer(_sample(plan.training_texts(), plan.bytes), size)


def _sample(texts: Iterable[str], total: int) -> Iterator[str]:
    """Texts of `total` bytes -> evenly spaced texts of about SAMPLE_BYTES, in order."""
    share = min(1.0, SAMPLE_BYTES / total)
    for index, text in enumerate(texts):
        if int((index + 1) * share) > int(index * share):
            yield text
