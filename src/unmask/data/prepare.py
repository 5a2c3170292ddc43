"""Data settings -> a corpus: read, split, encode, and pack into rows of token ids in files.

The result is kept in the cache and loaded from there by later runs. It has the same format as a folder that `unmask
data prepare` writes (see `folder`).
"""

__all__ = ["SHARD_BYTES", "corpus_key", "open_sources", "planned_job", "prepare", "silent", "taken"]

import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from unmask.config import cache_folder
from unmask.data.build import Job, write_corpus
from unmask.data.index import load_corpus, read_index
from unmask.data.packed import Corpus, Facts, Sources
from unmask.data.settings import INDEX_FILE, SPLIT_RULE, DataSettings
from unmask.data.sources import open_source
from unmask.data.split import SplitPlan, plan_split
from unmask.data.turn import turn
from unmask.data.vocabulary import choose_tokenizer
from unmask.disk.files import atomic_folder, remove_leftovers
from unmask.errors import ConfigError, DataError, RunError
from unmask.limits import is_shortage
from unmask.text.tokenizer import Tokenizer

SHARD_BYTES = 256 << 20
"""Bytes in a shard, by default."""


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
