"""Data that is ready for training, and the folder of the cache that holds it."""

__all__ = ["Corpus", "Facts", "PartFacts", "cache_folder", "load_corpus", "token_type", "write_facts"]

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unmask.data.packed import Packed
from unmask.text.tokenizer import Tokenizer

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
        record: dict[str, Any] = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            return None
        told: dict[str, Any] = record["facts"]
        parts = {part: PartFacts(**told[part]) for part in ("train", "valid")}
        told |= {**parts, "source": source}  # the same content may have another name today
        facts = Facts(**told)
        dtype = token_type(facts.vocab_size)
        train = _load_part(folder, "train", facts.train, facts.length, dtype)
        valid = _load_part(folder, "valid", facts.valid, facts.length, dtype)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Corpus(tokenizer, train, valid, fingerprint, tuple(record["notes"]), facts)


def write_facts(folder: Path, facts: Facts, notes: tuple[str, ...]) -> None:
    """Write what `load_corpus` reads beside the rows; the folder is still a temporary one, so no care is needed."""
    record = {"format": FORMAT, "facts": dataclasses.asdict(facts), "notes": list(notes)}
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
