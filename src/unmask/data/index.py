"""A folder of prepared data: its index, its tokenizer, and its shards of rows for training and for validation.

The cache and `unmask data prepare` write the same files (see `build`).
"""

__all__ = [
    "CHECKED_BYTES",
    "DECIDED",
    "TOKENIZER_FILE",
    "Index",
    "load_corpus",
    "load_tokenizer",
    "read_index",
]

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unmask.data.packed import Corpus, Facts, Packed, PartFacts, Split
from unmask.data.settings import INDEX_FILE
from unmask.data.shards import Shard, joined, map_shards, problems, row_type, token_type
from unmask.disk.files import file_sha256, reason_of
from unmask.disk.json import read_json
from unmask.errors import DataError
from unmask.text.tokenizer import Tokenizer

FORMAT = 3
"""The number of the layout of the files of a folder."""
TOKENIZER_FILE = "tokenizer.json"
CHECKED_BYTES = 1 << 29
"""Rows of up to so many bytes are compared with their checksums at each start, which takes a second or less."""
DECIDED = (
    *("length", "rows", "eos", "tokenizer", "vocab_size", "mask_token"),
    *("valid_share", "text_key", "prompt_key", "answer_key"),
)
"""The data settings that decide what the rows of a text are."""


@dataclass(frozen=True, slots=True)
class Index:
    """The content of INDEX_FILE, which is written last."""

    fingerprint: str
    """That of the corpus."""
    split: Split
    settings: dict[str, Any]
    """Those of DECIDED, as they were when the text was prepared."""
    facts: Facts
    notes: tuple[str, ...]
    tokenizer: str
    """The sha256 of TOKENIZER_FILE, in hexadecimal."""
    train: tuple[Shard, ...]
    valid: tuple[Shard, ...]
    format: int = FORMAT
    sha256: str = ""
    """That of all of this, as JSON, with "" in this place."""

    @property
    def record(self) -> np.dtype[Any]:
        """The type of a row in the files."""
        return row_type(self.facts.length, token_type(self.facts.vocab_size))

    def signed(self) -> "Index":
        """The same with its checksum."""
        plain = dataclasses.asdict(dataclasses.replace(self, sha256=""))
        return dataclasses.replace(self, sha256=hashlib.sha256(json.dumps(plain).encode()).hexdigest())

    def text(self) -> str:
        """The content of the file."""
        return json.dumps(dataclasses.asdict(self.signed()), indent=1) + "\n"


def read_index(folder: Path) -> Index:
    """A folder of prepared data -> its index.

    Raises:
        DataError: if it is missing, damaged, or of another format.
    """
    path = folder / INDEX_FILE
    advice = "copy the folder again, or prepare the text again"
    version = read_json(path, dict[str, Any], DataError, advice).get("format")
    if version != FORMAT:
        raise DataError(f"{path} has the format {version}, and this version reads {FORMAT}: prepare the text again.")
    index = read_json(path, Index, DataError, advice)
    if index.signed().sha256 != index.sha256:
        raise DataError(f"{path} has changed since it was written: {advice}.")
    return index


def load_tokenizer(folder: Path, index: Index) -> Tokenizer:
    """A folder of prepared data and its index -> its tokenizer. Raises DataError if it is not what was written."""
    path = folder / TOKENIZER_FILE
    try:
        same = file_sha256(path) == index.tokenizer
    except OSError as error:
        raise DataError(f"{path} cannot be read ({reason_of(error)}): copy the folder again.") from error
    if not same:
        raise DataError(f"{path} has changed since it was written: copy the folder again, or prepare the text again.")
    return Tokenizer.load(path)


def load_corpus(folder: Path, index: Index, tokenizer: Tokenizer, source: str) -> Corpus:
    """A folder of prepared data -> its corpus; `source` is the name that its text has now.

    Raises:
        DataError: for a file that is missing, damaged, or of other data, by its name (see `shards.problems`).
    """
    record, shards = index.record, (*index.train, *index.valid)
    whole = sum(shard.rows for shard in shards) * record.itemsize <= CHECKED_BYTES
    for _, problem in problems(folder, shards, record.itemsize, whole=whole):
        if problem:
            raise DataError(f"In {folder} {problem}: copy the folder again, or prepare the text again.")
    facts = dataclasses.replace(index.facts, source=source)
    train = _part(map_shards(folder, index.train, record), facts.train)
    valid = _part(map_shards(folder, index.valid, record), facts.valid)
    return Corpus(tokenizer, train, valid, index.fingerprint, index.notes, facts, index.split)


def _part(maps: Sequence[np.ndarray], facts: PartFacts) -> Packed:
    """The records of a part -> its rows."""
    ids, first, last = (joined([part[name] for part in maps]) for name in ("ids", "first", "last"))
    return Packed(ids, first, last, facts.bytes, facts.tokens)
