"""Rows of token ids in a memory map, ready to be cut into batches.

Which rows make the batch of a step: a pure function, so that a resumed run goes on exactly where it stopped.

Data that is ready for training, and the folder of the cache that holds it.
"""

__all__ = [
    "Batch",
    "Corpus",
    "Facts",
    "Packed",
    "PartFacts",
    "batch_indices",
    "cache_folder",
    "load_corpus",
    "token_type",
    "write_facts",
]

import dataclasses
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unmask.disk.json import read_json
from unmask.errors import DataError
from unmask.text.tokenizer import Tokenizer


class Batch(NamedTuple):
    """Some rows, in memory."""

    ids: np.ndarray
    """(B, L) int64, PAD where a row has ended."""
    maskable: np.ndarray
    """(B, L) bool: may be hidden. Always within `valid`."""
    valid: np.ndarray
    """(B, L) bool: text, not PAD."""


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """N rows of L positions. In row n, positions `first[n] <= i < last[n]` may be masked, `i < last[n]` are valid."""

    ids: np.ndarray
    """(N, L) uint16 or uint32, a view of a memory map."""
    first: np.ndarray
    """(N,) int32."""
    last: np.ndarray
    """(N,) int32."""
    bytes: int
    """UTF-8 bytes of the text that the maskable tokens stand for (EOS stands for none)."""
    tokens: int
    """Maskable tokens in all rows."""

    def __len__(self) -> int:
        """The number of rows, N."""
        return int(self.ids.shape[0])

    @property
    def length(self) -> int:
        """Positions in a row, L."""
        return int(self.ids.shape[1])

    def batch(self, indices: np.ndarray | range) -> Batch:
        """The rows `indices`, (B,) integers in [0, N), as arrays of their own.

        Raises:
            DataError: where an index is outside of [0, N).
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
    """The rows of step `step`: (batch,) int64, each in [0, size).

    Within an epoch every row comes once; each epoch has a permutation of its own; a batch may run over the border of
    two epochs, or over several where it is larger than `size`. `step` may be any integer.

    Raises:
        DataError: where `batch` or `size` is less than 1.
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
    """The order of one epoch, (size,) int64, read only.

    Raw Philox words are sorted, rather than numpy's `permutation` called, because numpy promises that the words of a
    bit generator stay the same in later versions, and promises nothing of the kind for its distributions.
    """
    words = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(size)
    order = np.argsort(words, kind="stable").astype(np.int64)
    order.flags.writeable = False
    return order


FORMAT = 1
FACTS_FILE = "corpus.json"


@dataclass(frozen=True, slots=True)
class PartFacts:
    """The size of the training or the validation part."""

    documents: int
    """Documents, or rows of prompts and answers, that begin or go on in this part."""
    bytes: int
    """UTF-8 bytes of the text that may be masked."""
    tokens: int
    """Tokens that may be masked."""
    rows: int
    """Rows of `length` positions."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is to say about a corpus; plain values, so that `dataclasses.asdict` gives JSON."""

    source: str
    paired: bool
    """Whether rows are prompts with answers."""
    tokenizer: str
    """byte, char, dna, bpe or file."""
    vocab_size: int
    length: int
    eos: str
    """append, or none where EOS is not wanted or the tokenizer has none."""
    train: PartFacts
    valid: PartFacts


@dataclass(frozen=True, slots=True)
class _Record:
    """What stands in FACTS_FILE."""

    format: int
    facts: Facts
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Rows for training and for validation, with the tokenizer that made them."""

    tokenizer: Tokenizer
    train: Packed
    valid: Packed
    fingerprint: str
    """sha256 in hex over content, tokenizer and every option that changes the rows."""
    notes: tuple[str, ...]
    """What a person should know: how it was split, what was left out."""
    facts: Facts


def cache_folder() -> Path:
    """$UNMASK_CACHE, else ~/.cache/unmask."""
    given = os.environ.get("UNMASK_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "unmask"


def token_type(vocab_size: int) -> np.dtype[Any]:
    """uint16 where every id fits into it, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def load_corpus(folder: Path, fingerprint: str, tokenizer: Tokenizer, source: str) -> Corpus | None:
    """The corpus that a cache folder holds; None where there is none, or its files are not whole."""
    try:
        record = read_json(folder / FACTS_FILE, _Record, DataError)
        if record.format != FORMAT:
            return None
        facts = dataclasses.replace(record.facts, source=source)  # the same content may have another name today
        dtype = token_type(facts.vocab_size)
        train = _load_part(folder, "train", facts.train, facts.length, dtype)
        valid = _load_part(folder, "valid", facts.valid, facts.length, dtype)
    except (DataError, OSError, ValueError):
        return None
    return Corpus(tokenizer, train, valid, fingerprint, record.notes, facts)


def write_facts(folder: Path, facts: Facts, notes: tuple[str, ...]) -> None:
    """Write what `load_corpus` reads beside the rows; the folder is still a temporary one, so no care is needed."""
    record = dataclasses.asdict(_Record(FORMAT, facts, notes))
    (folder / FACTS_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _load_part(folder: Path, name: str, facts: PartFacts, length: int, dtype: np.dtype[Any]) -> Packed:
    """The rows of one part as memory maps; ValueError where a file has another size than the facts say."""
    whole = {
        "ids": (dtype, (facts.rows, length)),
        "first": (np.int32, (facts.rows,)),
        "last": (np.int32, (facts.rows,)),
    }
    arrays: dict[str, np.ndarray] = {}
    for kind, (kind_dtype, shape) in whole.items():
        path = folder / f"{name}.{kind}"
        if path.stat().st_size != int(np.prod(shape)) * np.dtype(kind_dtype).itemsize:
            raise ValueError(f"{path} is not whole")
        arrays[kind] = np.memmap(path, dtype=kind_dtype, mode="r", shape=shape)
    return Packed(arrays["ids"], arrays["first"], arrays["last"], facts.bytes, facts.tokens)
