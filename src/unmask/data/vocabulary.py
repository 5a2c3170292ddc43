"""Data settings -> the tokenizer; trained tokenizers are kept in the cache."""

__all__ = ["SAMPLE_BYTES", "automatic_vocab_size", "choose_tokenizer"]

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator

from unmask.data.packed import cache_folder
from unmask.data.settings import BUILT_IN_TOKENIZERS, DataSettings
from unmask.data.sources import Source
from unmask.data.split import SplitPlan
from unmask.errors import DataError
from unmask.text.build import bpe_tokenizer, byte_tokenizer, char_tokenizer, dna_tokenizer
from unmask.text.tokenizer import Tokenizer

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
    if (folder / "tokenizer.json").is_file():
        try:
            return Tokenizer.load(folder), name
        except DataError:
            note(f"the tokenizer in {folder} cannot be read, so it is made again.")
    tokenizer = _make(name, settings.vocab_size, plan(), note)
    tokenizer.save(folder)
    return tokenizer, name


def _make(name: str, vocab_size: int | None, plan: SplitPlan, note: Callable[[str], None]) -> Tokenizer:
    """char or bpe -> a tokenizer made from the training text."""
    if name == "char":
        return char_tokenizer(plan.training_texts())
    size = vocab_size or automatic_vocab_size(plan.bytes)
    note(f"training a bpe tokenizer of {size} ids on {min(plan.bytes, SAMPLE_BYTES) / 1e6:.1f} MB of text.")
    return bpe_tokenizer(_sample(plan.training_texts(), plan.bytes), size)


def _sample(texts: Iterable[str], total: int) -> Iterator[str]:
    """Texts of `total` bytes -> evenly spaced texts of about SAMPLE_BYTES, in order."""
    share = min(1.0, SAMPLE_BYTES / total)
    for index, text in enumerate(texts):
        if int((index + 1) * share) > int(index * share):
            yield text
