"""Data settings -> a corpus: read, split, encode, and pack into rows of token ids in files.

The result, and a tokenizer that is trained for it, are kept in the cache and loaded from there by later runs. One
process of a machine at a time makes an entry of the cache; the others wait for it, and then read it. The corpus has the
same format as a folder that `unmask data prepare` writes (see `folder`).
"""

__all__ = [
    "SAMPLE_BYTES",
    "SHARD_BYTES",
    "automatic_vocab_size",
    "choose_tokenizer",
    "corpus_key",
    "open_sources",
    "planned_job",
    "prepare",
    "silent",
    "taken",
    "turn",
]

import functools
import hashlib
import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from unmask.config import cache_folder
from unmask.data.build import Job, load_corpus, read_index, write_corpus
from unmask.data.packed import Corpus, Facts, Sources
from unmask.data.settings import BUILT_IN_TOKENIZERS, INDEX_FILE, SMALLEST_BPE, SPLIT_RULE, DataSettings
from unmask.data.sources import open_source
from unmask.data.split import SplitPlan, plan_split
from unmask.disk.files import atomic_folder, atomic_text, file_sha256, remove_leftovers, run_lock
from unmask.disk.folders import refuse_ambiguous
from unmask.errors import ConfigError, DataError, FolderHeldError, RunError
from unmask.limits import is_shortage
from unmask.text.build import bpe_tokenizer, byte_tokenizer, char_tokenizer, dna_tokenizer
from unmask.text.tokenizer import Tokenizer

SHARD_BYTES = 256 << 20
"""Bytes in a shard, by default."""
SAMPLE_BYTES = 50_000_000
"""The maximum of text, in bytes, that a bpe tokenizer is trained on."""
_AUTOMATIC = {"ecoli-k12": "dna", "wordnet": "words"}
_SIZES = ((200_000, 512), (2_000_000, 1024), (20_000_000, 2048), (200_000_000, 8192))
_PATIENCE = 1800.0
"""Seconds that a process waits for another one, which makes an entry of the cache."""
_POLL = 0.2


def _appends_eos(settings: DataSettings, tokenizer: Tokenizer) -> bool:
    """Whether documents end with EOS."""
    return settings.eos == "append" and tokenizer.eos_id is not None


def corpus_key(settings: DataSettings, sources: Sources, tokenizer: Tokenizer) -> str:
    """Everything that determines the rows -> its sha256, in hexadecimal: the fingerprint that a run records.

    That of rule 1 is the one of the runs before rules had numbers.
    """
    identity: dict[str, Any] = {
        "format": sources.rule,
        "source": sources.split.source,
        "valid": sources.split.valid,
        "valid_share": None if sources.valid is not None else settings.valid_share,
        "text_key": settings.text_key,
        "tokenizer": hashlib.sha256(tokenizer.to_json().encode("utf-8")).hexdigest(),
        "length": settings.length,
        "eos": _appends_eos(settings, tokenizer),
    }
    if settings.rows != "stream":
        identity["rows"] = settings.rows
    if sources.rule > 1:
        identity["pair_keys"] = [settings.prompt_key, settings.answer_key]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def silent(_: str) -> None:
    """Ignore a note."""


def open_sources(settings: DataSettings, rule: int = SPLIT_RULE) -> Sources:
    """Data settings -> the sources that they name, read and split by `rule`. Raises DataError as `open_source`."""
    source = open_source(settings.source, settings.columns, rule)
    valid = None if settings.valid is None else open_source(settings.valid, settings.columns, rule)
    return Sources(source, valid, rule)


def planned_job(
    settings: DataSettings, tokenizer: Tokenizer | None, note: Callable[[str], None], sources: Sources
) -> tuple[Job, Callable[[], SplitPlan]]:
    """Settings -> what determines the rows, and the split, which reads all of the text when it is first called.

    Raises:
        DataError: if the sources do not fit together, or the tokenizer cannot be used.
    """
    source, valid = sources.source, sources.valid
    if valid is not None and valid.paired != source.paired:
        paired, plain = (source, valid) if source.paired else (valid, source)
        raise DataError(
            f"{paired.name} holds prompts with answers but {plain.name} holds documents: give two of one kind."
        )
    plan = functools.cache(lambda: plan_split(sources, settings.valid_share))
    name = "file"
    if tokenizer is None:
        tokenizer, name = choose_tokenizer(settings, sources, plan, note)
    return Job(settings, sources, tokenizer, name, corpus_key(settings, sources, tokenizer)), plan


def prepare(
    settings: DataSettings,
    tokenizer: Tokenizer | None = None,
    note: Callable[[str], None] = silent,
    sources: Sources | None = None,
) -> Corpus:
    """Data settings -> the corpus, from the cache if it is there.

    `tokenizer` and `sources` replace those that the settings name. `note` receives progress sentences. The result is
    the same, byte for byte, for any number of `settings.workers`. Of several processes that ask for the same corpus one
    makes it, and the others wait.

    Raises:
        DataError: if a source or the tokenizer cannot be used, or there is nothing to train or to validate on.
        RunError: if the result cannot be written.
    """
    sources = sources or open_sources(settings)
    job, plan = planned_job(settings, tokenizer, note, sources)
    folder = cache_folder() / "data" / job.fingerprint
    remove_leftovers(folder.parent)
    corpus = _cached(folder, job, note)
    if corpus is None:
        with turn(folder, note):
            corpus = _cached(folder, job, silent)  # another process may have made it meanwhile
            if corpus is None:
                _build(job, plan(), folder, note)
                corpus = _cached(folder, job, note)
    if corpus is None:
        raise RunError(f"the prepared data in {folder} cannot be read back: delete that folder and run again.")
    corpus = replace(corpus, notes=(*taken(sources, corpus.facts), *corpus.notes))
    for sentence in corpus.notes:
        note(sentence)
    return corpus


def _cached(folder: Path, job: Job, note: Callable[[str], None]) -> Corpus | None:
    """A folder of the cache -> its corpus; None if there is none, or it cannot be used, of which `note` is told."""
    if not (folder / INDEX_FILE).is_file():
        return None
    try:
        return load_corpus(folder, read_index(folder), job.tokenizer, job.settings.source)
    except (DataError, OSError, ValueError) as error:
        if is_shortage(error):
            raise
        note(f"prepared data in the cache cannot be used, so they are made again: {error}")
        return None


def taken(sources: Sources, facts: Facts) -> Iterator[str]:
    """Sources -> a sentence for each that says what was taken from its rows."""
    source, valid = sources.source, sources.valid
    label = "rows" if source.paired else "documents"
    if source.taken:
        yield f"{facts.count:,} {label} of {source.name}: {source.taken}."
    if valid is not None and valid.taken:
        yield f"{facts.valid.documents:,} {label} of {valid.name} for validation: {valid.taken}."


def _build(job: Job, plan: SplitPlan, folder: Path, note: Callable[[str], None]) -> None:
    """Write the corpus to `folder` atomically."""
    note(f"encoding {plan.bytes / 1e6:.1f} MB of text.")
    try:
        with atomic_folder(folder) as temporary:
            write_corpus(job, plan, temporary, SHARD_BYTES)
    except (ConfigError, RunError) as error:
        if not isinstance(error.__cause__, OSError):
            raise
        raise RunError(
            f"prepared data could not be written to {folder.parent} ({error.__cause__.strerror}): free some space, or "
            "set UNMASK_CACHE to another folder."
        ) from error


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


@contextmanager
def turn(entry: Path, note: Callable[[str], None]) -> Generator[None]:
    """Context in which no other process makes `entry`, a folder of the cache; look again inside whether it is there.

    The kernel frees the lock when its process ends, however it ends. `note` gets a sentence where this process waits.
    Processes of other machines with the same cache are kept away where their file system has locks; where it has none
    each makes the entry, and the last one replaces those of the others, which are equal.

    Raises:
        RunError: after half an hour of waiting.
    """
    place = cache_folder() / "locks" / f"{entry.parent.name}-{entry.name}"
    until, noted = time.monotonic() + _PATIENCE, False
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(run_lock(place, note))
                break
            except FolderHeldError as error:
                if time.monotonic() > until:
                    raise RunError(
                        f"Another process has been preparing the data for {_PATIENCE / 60:.0f} minutes ({place}): "
                        "prepare large texts before the training, with unmask data prepare SOURCE --out FOLDER."
                    ) from error
            except (ConfigError, RunError) as error:
                if not isinstance(error.__cause__, OSError):
                    raise
                break  # nothing can be written there: making the entry says so
            if not noted:
                note("another process is preparing the same data; waiting for it.")
            noted = True
            time.sleep(_POLL)
        yield
