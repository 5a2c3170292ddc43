"""Which tokenizer goes with the settings; those that are made from text are kept in the cache."""

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
"""Text that a bpe tokenizer is trained on, at most."""
GENOME = "ecoli-k12"
_SIZES = ((200_000, 512), (2_000_000, 1024), (20_000_000, 2048), (200_000_000, 8192))


def automatic_vocab_size(text_bytes: int) -> int:
    """Ids of a bpe tokenizer for so much text: 512 below 200 kB, 1024 below 2 MB, 2048 below 20 MB, 8192 below 200 MB,
    else 32768."""
    return next((size for limit, size in _SIZES if text_bytes < limit), 32_768)


def choose_tokenizer(
    settings: DataSettings,
    source: Source,
    other: Source | None,
    plan: Callable[[], SplitPlan],
    note: Callable[[str], None],
) -> tuple[Tokenizer, str]:
    """The tokenizer and its kind (byte, char, dna, bpe or file). `plan` is only called where text must be read.

    Raises:
        DataError: where a tokenizer file cannot be used.
    """
    kind = settings.tokenizer
    if kind == "auto":
        kind = "dna" if settings.source == GENOME else "bpe"
    if kind not in BUILT_IN_TOKENIZERS:
        return Tokenizer.load(kind, mask_token=settings.mask_token), "file"
    if kind == "byte":
        return byte_tokenizer(), kind
    if kind == "dna":
        return dna_tokenizer(), kind
    told = {
        "source": source.fingerprint,
        "valid": None if other is None else other.fingerprint,
        "valid_share": None if other is not None else settings.valid_share,
        "text_key": settings.text_key,
        "kind": kind,
        "vocab_size": settings.vocab_size,
    }
    key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    folder = cache_folder() / "tokenizers" / key
    if (folder / "tokenizer.json").is_file():
        try:
            return Tokenizer.load(folder), kind
        except DataError:
            note(f"the tokenizer in {folder} cannot be read, so it is made again.")
    tokenizer = _make(kind, settings.vocab_size, plan(), note)
    tokenizer.save(folder)
    return tokenizer, kind


def _make(kind: str, vocab_size: int | None, plan: SplitPlan, note: Callable[[str], None]) -> Tokenizer:
    """A char or bpe tokenizer made from the training text."""
    if kind == "char":
        return char_tokenizer(plan.training_texts())
    wanted = vocab_size or automatic_vocab_size(plan.bytes)
    note(f"training a bpe tokenizer of {wanted} ids on {min(plan.bytes, SAMPLE_BYTES) / 1e6:.1f} MB of text.")
    return bpe_tokenizer(_sample(plan.training_texts(), plan.bytes), wanted)


def _sample(texts: Iterable[str], total: int) -> Iterator[str]:
    """Texts spread evenly over all of them, so many that they come to about SAMPLE_BYTES out of `total`."""
    share = min(1.0, SAMPLE_BYTES / total)
    for number, text in enumerate(texts):
        if int((number + 1) * share) > int(number * share):
            yield text
