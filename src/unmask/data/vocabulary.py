"""Settings and a source -> the tokenizer of its text; one that is trained is kept in the cache."""

__all__ = ["SAMPLE_BYTES", "automatic_vocab_size", "choose_tokenizer"]

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from unmask.config import cache_folder
from unmask.data.packed import Sources
from unmask.data.settings import BUILT_IN_TOKENIZERS, SMALLEST_BPE, DataSettings
from unmask.data.split import SplitPlan
from unmask.data.turn import turn
from unmask.disk.files import atomic_text, file_sha256
from unmask.disk.folders import refuse_ambiguous
from unmask.errors import DataError
from unmask.limits import is_shortage
from unmask.text.build import bpe_tokenizer, byte_tokenizer, char_tokenizer, dna_tokenizer
from unmask.text.tokenizer import Tokenizer

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
    tokenizer = _kept(folder, note)
    if tokenizer is None:
        with turn(folder, note):
            tokenizer = _kept(folder, lambda sentence: None)  # another process may have made it meanwhile
            if tokenizer is None:
                tokenizer = _make(name, settings.vocab_size, plan(), note)
                tokenizer.save(folder)
                atomic_text(folder / "sha256", file_sha256(folder / "tokenizer.json"))
    return tokenizer, name


def _kept(folder: Path, note: Callable[[str], None]) -> Tokenizer | None:
    """A folder of the cache -> its tokenizer; None if there is none, or it has changed, of which `note` is told."""
    if not (folder / "sha256").is_file():  # it is written last
        return None
    try:
        if (folder / "sha256").read_text() == file_sha256(folder / "tokenizer.json"):
            return Tokenizer.load(folder)
    except (DataError, OSError, ValueError) as error:
        if is_shortage(error):
            raise
    note(f"the tokenizer in {folder} is damaged, so it is made again.")
    return None


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
