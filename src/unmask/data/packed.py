"""The Corpus: packed rows of token ids, in memory or in memory maps, and the batch of each step.

The rows of a batch are a pure function of seed and step, so that a resumed run trains on the same batches. The order of
an epoch is a random permutation that is computed for the places that are asked for, and not stored. It is a Feistel
network over mixed radix (Black and Rogaway 2002, "Ciphers with arbitrary finite domains", the generalised Feistel
network with cycle walking). A number below high * low is written as (left, right) with left < high and right < low. A
round adds a keyed hash of one part to the other, modulo the size of the other, and is a bijection whatever the hash is.
A result that is not below the number of rows goes through the network again until one is, which keeps it a bijection of
the rows. high * low exceeds the number of rows by less than its square root, so that a second pass is rare.
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
    "permuted",
]

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from unmask.batch import ceil_div, spans
from unmask.data.settings import SPLIT_RULE
from unmask.data.shards import Table
from unmask.data.sources import Source
from unmask.errors import DataError
from unmask.ranges import Count, Natural
from unmask.text.tokenizer import Tokenizer

_WORDS = 2**64
_ROUNDS = 12
"""Rounds of the network; the statistics of tests/laws/test_order.py need 6 of them, and fail with 2."""


class Batch(NamedTuple):
    """B rows of L positions in memory."""

    ids: np.ndarray
    """(B, L) int64, PAD after the end of a row."""
    maskable: np.ndarray
    """(B, L) bool: positions that may be masked, a subset of `valid`."""
    valid: np.ndarray
    """(B, L) bool: positions of text, not PAD."""


_SPANS = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """N rows of L positions: in row n, `first[n] <= i < last[n]` may be masked, and `i < last[n]` is valid."""

    ids: np.ndarray | Table
    """(N, L) uint16 or uint32, a view of a memory map or of several."""
    first: np.ndarray | Table
    """(N,) int32."""
    last: np.ndarray | Table
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
        return Packed(self.ids[count:], self.first[count:], self.last[count:], 0, 0).counted()

    def counted(self) -> "Packed":
        """The same with the number of its maskable tokens."""
        return dataclasses.replace(self, tokens=sum(int((last - first).sum()) for first, last in self.spans()))

    def has(self, token: int) -> bool:
        """Whether a row has this id; it reads all rows, a few thousand at a time."""
        parts = (np.asarray(self.ids[start : start + 4096]) for start in range(0, len(self), 4096))
        return any(bool((part == token).any()) for part in parts)

    def spans(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`first` and `last` of all rows in order, a million rows at a time."""
        for start in range(0, len(self), _SPANS):
            here = slice(start, start + _SPANS)
            yield np.asarray(self.first[here]), np.asarray(self.last[here])

    def ends(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices, (B,) integers in [0, N) -> `first` and `last` of these rows, int64; no token id is read."""
        return self.first[indices].astype(np.int64), self.last[indices].astype(np.int64)

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


def batch_indices(seed: int, step: int, batch: int, size: int) -> np.ndarray:
    """Seed and step -> the rows of the batch of this step: (batch,) int64, each in [0, size).

    An epoch is a random permutation of all rows, another for each epoch; only the part that is asked for is computed
    (see `permuted`). A batch may extend over the end of an epoch, or over several epochs if it is larger than `size`.
    `step` may be any integer: with the size of a batch it is all of the state of the data. How many processes share a
    batch does not matter.

    Raises:
        DataError: if `batch` or `size` is less than 1.
    """
    if batch < 1 or size < 1:
        raise DataError(f"a batch of {batch} rows out of {size} was asked for: both must be at least 1.")
    parts: list[np.ndarray] = []
    at, left = step * batch, batch
    while left:
        epoch, start = divmod(at, size)
        count = min(left, size - start)
        parts.append(permuted(seed, epoch, np.arange(start, start + count), size))
        at, left = at + count, left - count
    return np.concatenate(parts)


def permuted(seed: int, epoch: int, places: np.ndarray, size: int) -> np.ndarray:
    """Places in [0, size) -> the rows at these places of the epoch: int64 of the same shape, each in [0, size).

    All places of an epoch together are all rows, each once. Seed and epoch are any integers; they count modulo 2**64.
    Memory and time depend on the number of places alone, and not on `size`.
    """
    keys = _keys(seed, epoch)
    high = math.isqrt(size - 1) + 1
    low = ceil_div(size, high)
    rows = _network(places.astype(np.uint64).ravel(), keys, high, low)
    outside = np.flatnonzero(rows >= size)
    while len(outside):
        rows[outside] = _network(rows[outside], keys, high, low)
        outside = outside[rows[outside] >= size]
    return rows.astype(np.int64).reshape(places.shape)


def _keys(seed: int, epoch: int) -> np.ndarray:
    """The keys of the rounds, uint64: raw words of Philox.

    numpy guarantees that the words of a bit generator do not change in later versions, but not this for distributions.
    """
    return np.random.Philox(key=np.array([seed % _WORDS, epoch % _WORDS], dtype=np.uint64)).random_raw(_ROUNDS)


def _network(values: np.ndarray, keys: np.ndarray, high: int, low: int) -> np.ndarray:
    """Numbers below high * low, uint64 -> a permutation of these numbers, applied to them."""
    left, right = np.divmod(values, np.uint64(low))
    for number, key in enumerate(keys):
        if number % 2:
            right = (right + _hash(left, key) % np.uint64(low)) % np.uint64(low)
        else:
            left = (left + _hash(right, key) % np.uint64(high)) % np.uint64(high)
    return left * np.uint64(low) + right


def _hash(values: np.ndarray, key: np.uint64) -> np.ndarray:
    """Numbers and a key -> random-looking words, uint64: the last steps of SplitMix64 (Steele, Lea, Flood 2014)."""
    words = values + key  # modulo 2**64, as all that follows
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


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
