"""Data settings -> a corpus: read, split, encode in threads, and pack into rows of token ids in files.

The result is kept in the cache and loaded from there by later runs.
"""

__all__ = ["corpus_key", "encode_units", "open_sources", "prepare", "silent"]

import functools
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unmask.config import cache_folder
from unmask.data.documents import fasta_letters
from unmask.data.packed import Corpus, Facts, PartFacts, Sources, load_corpus, token_type, write_facts
from unmask.data.packer import Encoded, Packer
from unmask.data.settings import SPLIT_RULE, DataSettings
from unmask.data.sources import open_source
from unmask.data.split import SplitPlan, Unit, choose_tokenizer, plan_split
from unmask.disk.files import atomic_folder, remove_leftovers
from unmask.errors import ConfigError, DataError, RunError
from unmask.limits import require_memory
from unmask.text.build import refuse_foreign
from unmask.text.tokenizer import Tokenizer

_BATCH_CHARACTERS = 1 << 17


def encode_units(units: Iterable[Unit], tokenizer: Tokenizer, workers: int) -> Iterator[Encoded]:
    """Units -> the same with their ids, in order, encoded by `workers` threads a few batches ahead."""

    def encode(batch: list[Unit]) -> list[Encoded]:
        return [Encoded(u, tokenizer.encode(u.prompt) if u.prompt else [], tokenizer.encode(u.text)) for u in batch]

    for batch in _ordered_map(encode, _batches(units), workers):
        yield from batch


def _batches(units: Iterable[Unit]) -> Iterator[list[Unit]]:
    """Units -> lists of units that are large enough for the overhead of a thread."""
    batch, size = list[Unit](), 0
    for unit in units:
        batch.append(unit)
        size += len(unit.text) + len(unit.prompt or "")
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _ordered_map(
    function: Callable[[list[Unit]], list[Encoded]], batches: Iterable[list[Unit]], workers: int
) -> Iterator[list[Encoded]]:
    """`map` in threads, in the order of `batches`, at most two batches per thread ahead."""
    if workers == 1:
        yield from map(function, batches)
        return
    waiting: deque[Future[list[Encoded]]] = deque()
    with ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            for batch in batches:
                waiting.append(pool.submit(function, batch))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


@dataclass(frozen=True, slots=True)
class _Job:
    """Everything that determines the rows."""

    settings: DataSettings
    sources: Sources
    tokenizer: Tokenizer
    tokenizer_name: str

    @property
    def appends_eos(self) -> bool:
        """Whether documents end with EOS."""
        return _appends_eos(self.settings, self.tokenizer)


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


def prepare(
    settings: DataSettings,
    tokenizer: Tokenizer | None = None,
    note: Callable[[str], None] = silent,
    sources: Sources | None = None,
) -> Corpus:
    """Data settings -> the corpus, from the cache if it is there.

    `tokenizer` and `sources` replace those that the settings name. `note` receives progress sentences. The result is
    the same, byte for byte, for any number of `settings.workers`.

    Raises:
        DataError: if a source or the tokenizer cannot be used, or there is nothing to train or to validate on.
        RunError: if the result cannot be written.
    """
    sources = sources or open_sources(settings)
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
    folder = cache_folder() / "data" / corpus_key(settings, sources, tokenizer)
    remove_leftovers(folder.parent)
    corpus = load_corpus(folder, sources.split, tokenizer, settings.source, note)
    if corpus is None:
        _build(_Job(settings, sources, tokenizer, name), plan(), folder, note)
        corpus = load_corpus(folder, sources.split, tokenizer, settings.source, note)
    if corpus is None:
        raise RunError(f"the prepared data in {folder} cannot be read back: delete that folder and run again.")
    corpus = replace(corpus, notes=(*_taken(sources, corpus.facts), *corpus.notes))
    for sentence in corpus.notes:
        note(sentence)
    return corpus


def _taken(sources: Sources, facts: Facts) -> Iterator[str]:
    """Sources -> a sentence for each that says what was taken from its rows."""
    source, valid = sources.source, sources.valid
    label = "rows" if source.paired else "documents"
    if source.taken:
        yield f"{facts.count:,} {label} of {source.name}: {source.taken}."
    if valid is not None and valid.taken:
        yield f"{facts.valid.documents:,} {label} of {valid.name} for validation: {valid.taken}."


def _build(job: _Job, plan: SplitPlan, folder: Path, note: Callable[[str], None]) -> None:
    """Write the corpus to `folder` atomically."""
    note(f"encoding {plan.bytes / 1e6:.1f} MB of text.")
    try:
        with atomic_folder(folder) as temporary:
            _write(job, plan, temporary)
    except (ConfigError, RunError) as error:
        if not isinstance(error.__cause__, OSError):
            raise
        raise RunError(
            f"prepared data could not be written to {folder.parent} ({error.__cause__.strerror}): free some space, or "
            "set UNMASK_CACHE to another folder."
        ) from error


def _write(job: _Job, plan: SplitPlan, folder: Path) -> None:
    """Write all files of the corpus into `folder`."""
    dtype, source = token_type(job.tokenizer.vocab_size), job.sources.source
    length = job.settings.length
    require_memory(8 * length, f"A row of {length:,} tokens", "set a smaller --data.length")
    whole = job.settings.rows == "whole"
    make = functools.partial(
        Packer, folder, tokenizer=job.tokenizer, length=length, dtype=dtype, eos=job.appends_eos, whole=whole
    )
    with make(name="train") as train, make(name="valid") as valid:
        for encoded in encode_units(plan.units(), job.tokenizer, job.settings.workers):
            if job.tokenizer_name == "dna":
                refuse_foreign("".join(letters for _, letters in fasta_letters([encoded.unit.text])), source.name)
            (valid if encoded.unit.valid else train).add(encoded)
        sizes = train.finish(source.paired), valid.finish(source.paired)
        too_long = train.dropped.too_long + valid.dropped.too_long
        no_answer = train.dropped.no_answer + valid.dropped.no_answer
    _check_parts(job, *sizes, too_long)
    notes = [plan.note]
    if too_long:
        notes.append(f"rows left out because they are longer than {job.settings.length} tokens: {too_long}.")
    if no_answer:
        notes.append(f"rows left out because their answer is empty: {no_answer}.")
    if job.settings.eos == "append" and not job.appends_eos:
        notes.append("the tokenizer has no EOS token, so nothing marks where a document ends.")
    facts = Facts(
        source=job.settings.source,
        paired=source.paired,
        tokenizer=job.tokenizer_name,
        vocab_size=job.tokenizer.vocab_size,
        length=job.settings.length,
        eos="append" if job.appends_eos else "none",
        train=sizes[0],
        valid=sizes[1],
        count=plan.documents,
    )
    write_facts(folder, facts, tuple(notes))


def _check_parts(job: _Job, train: PartFacts, valid: PartFacts, too_long: int) -> None:
    """Raise DataError if the training or the validation part is empty."""
    if train.rows and valid.rows:
        return
    name = job.sources.source.name
    if too_long:
        side = "training" if not train.rows else "validation"
        raise DataError(
            f"no row of the {side} part of {name} fits into {job.settings.length} tokens: give a larger --data.length "
            "(with --init, a checkpoint with a larger window)."
        )
    raise DataError(
        f"{name} is too short to have a training and a validation part: give more text, or a validation source with "
        "--data.valid."
    )
