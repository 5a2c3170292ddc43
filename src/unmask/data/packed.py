"""The Corpus: packed rows of token ids in memory maps, the batch of each step, and the cache folder of the files.

The rows of a batch are a pure function of seed and step, so that a resumed run trains on the same batches.
"""

__all__ = [
    "Batch",
    "Corpus",
    "Facts",
    "Packed",
    "PartFacts",
    "Sources",
    "Split",
    "batch_indices",
    "load_corpus",
    "token_type",
    "write_facts",
]

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unmask.batch import spans
from unmask.data.settings import SPLIT_RULE
from unmask.data.sources import Source
from unmask.disk.files import file_sha256
from unmask.disk.json import read_json
from unmask.errors import DataError
from unmask.limits import is_shortage
from unmask.ranges import Count, Natural
from unmask.text.tokenizer import Tokenizer


class Batch(NamedTuple):
    """B rows of L positions in memory."""

    ids: np.ndarray
    """(B, L) int64, PAD after the end of a row."""
    maskable: np.ndarray
    """(B, L) bool: positions that may be masked, a subset of `valid`."""
    valid: np.ndarray
    """(B, L) bool: positions of text, not PAD."""


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """N rows of L positions: in row n, `first[n] <= i < last[n]` may be masked, and `i < last[n]` is valid."""

    ids: np.ndarray
    """(N, L) uint16 or uint32, a view of a memory map."""
    first: np.ndarray
    """(N,) int32."""
    last: np.ndarray
    """(N,) int32."""
    bytes: int
    """UTF-8 bytes of the text of all maskable tokens (0 for EOS); 0 where they are not known."""
    tokens: int
    """Maskable tokens in all rows."""

    @classmethod
    def of(
        cls, rows: Sequence[Sequence[int]], length: int, pad_id: int, size: int, first: int | Sequence[int] = 0
    ) -> "Packed":
        """Rows of at most `length` ids, maskable from position `first` on, one for all or one a row -> the same packed;
        `size`: the bytes of their text."""
        table = np.full((len(rows), length), pad_id, np.int64)
        for line, row in enumerate(rows):
            table[line, : len(row)] = row
        last, begin = np.array([len(row) for row in rows], np.int32), np.full(len(rows), first, np.int32)
        return cls(table, begin, last, size, int((last - begin).sum()))

    @classmethod
    def cut(
        cls,
        texts: Sequence[Sequence[int]],
        length: int,
        pad_id: int,
        size: int,
        before: Sequence[int] = (),
        stride: int | None = None,
    ) -> "Packed":
        """Texts of any length -> rows of at most `length` ids, of which the context (see `spans`) is not maskable.

        Without a `stride` the rows of a text share nothing. A row without context begins with the ids `before`, which
        are not maskable.
        """
        if stride is not None and stride > length:
            raise DataError(f"The stride is {stride} and a row has {length} tokens: give a stride of at most as many.")
        width = length - len(before)
        step = width if stride is None else min(stride, width)
        rows, first = list[Sequence[int]](), list[int]()
        for ids in texts:
            for start, new, end in spans(len(ids), width, step):
                head = before if start == new else ()
                rows.append([*head, *ids[start:end]])
                first.append(len(head) + new - start)
        return cls.of(rows, length, pad_id, size, first)

    def __len__(self) -> int:
        """The number of rows, N."""
        return int(self.ids.shape[0])

    @property
    def length(self) -> int:
        """The positions of a row, L."""
        return int(self.ids.shape[1])

    def after(self, count: int) -> "Packed":
        """The number of rows to leave out -> the rows after them, with 0 for their bytes, which are not known.

        Raises DataError where no row is left.
        """
        if count >= len(self):
            raise DataError(f"There are {len(self)} rows; none is left after the first {count}: take a longer text.")
        first, last = self.first[count:], self.last[count:]
        return Packed(self.ids[count:], first, last, 0, int((last - first).sum()))

    def batch(self, indices: np.ndarray | range) -> Batch:
        """Indices, (B,) integers in [0, N) -> these rows, copied.

        Raises:
            DataError: if an index is outside of [0, N).
        """
        rows = np.asarray(indices)
        if rows.size and not (rows.min() >= 0 and rows.max() < len(self)):
            raise DataError(
                f"row {rows.min() if rows.min() < 0 else rows.max()} was asked for: there are {len(self)} rows."
            )
        ids = self.ids[rows].astype(np.int64)
        position = np.arange(self.length)
        valid = position < self.last[rows][:, None]
        return Batch(ids, valid & (position >= self.first[rows][:, None]), valid)


_KEY = 2**64


def batch_indices(seed: int, step: int, batch: int, size: int) -> np.ndarray:
    """Seed and step -> the rows of the batch of this step: (batch,) int64, each in [0, size).

    An epoch is a random permutation of all rows, another for each epoch. A batch may extend over the end of an epoch,
    or over several epochs if it is larger than `size`. `step` may be any integer.

    Raises:
        DataError: if `batch` or `size` is less than 1.
    """
    if batch < 1 or size < 1:
        raise DataError(f"a batch of {batch} rows out of {size} was asked for: both must be at least 1.")
    parts: list[np.ndarray] = []
    at, left = step * batch, batch
    while left:
        epoch, start = divmod(at, size)
        part = _permutation(seed % _KEY, epoch % _KEY, size)[start : start + left]
        parts.append(part)
        at, left = at + len(part), left - len(part)
    return np.concatenate(parts)


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order of rows in an epoch: (size,) int64, read only.

    It sorts raw words of Philox instead of calling numpy's `permutation`: numpy guarantees that the words of a bit
    generator do not change in later versions, but does not guarantee this for its distributions.
    """
    words = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(size)
    order = np.argsort(words, -1, "stable").astype(np.int64)
    order.flags.writeable = False
    return order


FORMAT = 2
"""The number of the layout of the files in the cache; files with another one are made again."""
FACTS_FILE = "corpus.json"


@dataclass(frozen=True, slots=True)
class PartFacts:
    """The size of the training or the validation part."""

    documents: Natural
    """Documents, or pairs, of which this part has text."""
    bytes: Natural
    """UTF-8 bytes of the text that may be masked."""
    tokens: Natural
    """Tokens that may be masked."""
    rows: Natural
    """Rows of `length` positions."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts about a corpus; plain values, so that `dataclasses.asdict` gives JSON."""

    source: str
    paired: bool
    """Whether rows are pairs."""
    tokenizer: str
    """byte, char, dna, bpe or file."""
    vocab_size: Count
    length: Count
    eos: str
    """append; or none, if EOS is not requested or the tokenizer has none."""
    train: PartFacts
    valid: PartFacts
    count: int
    """Documents, or pairs, of the source, those that were left out included."""


@dataclass(frozen=True, slots=True)
class Split:
    """What decides the side of a document; a run records it."""

    rule: int
    """See `data.settings.SPLIT_RULE`."""
    source: str
    """The fingerprint of the content of the source."""
    valid: str | None
    """That of a separate source of validation text."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The texts of a corpus, and the rule by which they are read and split."""

    source: Source
    valid: Source | None = None
    """A separate source of validation text; all of `source` is then for training."""
    rule: int = SPLIT_RULE
    """See `data.settings.SPLIT_RULE`."""

    @property
    def split(self) -> Split:
        """Rule and fingerprints."""
        return Split(self.rule, self.source.fingerprint, None if self.valid is None else self.valid.fingerprint)


@dataclass(frozen=True, slots=True)
class _Record:
    """The content of FACTS_FILE."""

    format: int
    facts: Facts
    notes: tuple[str, ...]
    sha256: dict[str, str]
    """Name of a file -> the sha256 of its content, in hexadecimal; that of FACTS_FILE is of format, facts and notes."""


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Rows for training and for validation, and their tokenizer."""

    tokenizer: Tokenizer
    train: Packed
    valid: Packed
    fingerprint: str
    """The sha256, in hexadecimal, of content, tokenizer and every option that changes the rows."""
    notes: tuple[str, ...]
    """Sentences about the preparation: how the source was split, what was left out."""
    facts: Facts
    split: Split


def token_type(vocab_size: int) -> np.dtype[Any]:
    """The size of a vocabulary -> the type of its ids in files: uint16 if every id fits, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def load_corpus(
    folder: Path, split: Split, tokenizer: Tokenizer, source: str, note: Callable[[str], None]
) -> Corpus | None:
    """A cache folder -> its corpus; None if there is none, it has another format, or a file has changed.

    The name of the folder is the fingerprint. The sizes and checksums of all files are compared with those that were
    recorded when they were written. `note` receives a sentence about a file that has changed.
    """
    if not (folder / FACTS_FILE).is_file():
        return None
    try:
        record = read_json(folder / FACTS_FILE, _Record, DataError)
        if record.format != FORMAT:
            return None
        if record.sha256.get(FACTS_FILE) != _facts_sha256(record.facts, record.notes):
            raise ValueError(f"{FACTS_FILE} has changed")
        facts = dataclasses.replace(record.facts, source=source)  # the same content may have another name now
        dtype = token_type(facts.vocab_size)
        train = _load_part(folder, "train", facts.train, facts.length, dtype, record.sha256)
        valid = _load_part(folder, "valid", facts.valid, facts.length, dtype, record.sha256)
    except (DataError, OSError, ValueError) as error:
        if is_shortage(error):
            raise
        note(f"the prepared data in {folder} are damaged ({error}), so they are made again.")
        return None
    return Corpus(tokenizer, train, valid, folder.name, record.notes, facts, split)


def write_facts(folder: Path, facts: Facts, notes: tuple[str, ...]) -> None:
    """Write facts, notes and checksums of a corpus into its folder, which is temporary: the write need not be atomic.

    All other files of the corpus are there already.
    """
    sums = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    record = dataclasses.asdict(_Record(FORMAT, facts, notes, sums | {FACTS_FILE: _facts_sha256(facts, notes)}))
    (folder / FACTS_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _facts_sha256(facts: Facts, notes: tuple[str, ...]) -> str:
    """The checksum of what FACTS_FILE says."""
    return hashlib.sha256(json.dumps([FORMAT, dataclasses.asdict(facts), notes]).encode()).hexdigest()


def _load_part(
    folder: Path, name: str, facts: PartFacts, length: int, dtype: np.dtype[Any], sums: dict[str, str]
) -> Packed:
    """The rows of the part `name` as memory maps. Raises ValueError if a file contradicts the facts or its checksum."""
    expected = {
        "ids": (dtype, (facts.rows, length)),
        "first": (np.int32, (facts.rows,)),
        "last": (np.int32, (facts.rows,)),
    }
    arrays: dict[str, np.ndarray] = {}
    for suffix, (item_type, shape) in expected.items():
        path = folder / f"{name}.{suffix}"
        if path.stat().st_size != int(np.prod(shape)) * np.dtype(item_type).itemsize:
            raise ValueError(f"{path.name} is incomplete")
        if file_sha256(path) != sums.get(path.name):
            raise ValueError(f"{path.name} has changed")
        arrays[suffix] = np.memmap(path, dtype=item_type, mode="r", shape=shape)
    return Packed(arrays["ids"], arrays["first"], arrays["last"], facts.bytes, facts.tokens)
