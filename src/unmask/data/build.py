"""A planned source and its tokenizer -> a folder of prepared data: encoded, packed into shards, and an index.

Work that was interrupted goes on: the state after every few megabytes of text is recorded, and the units of text that
are already in the files are counted and read over.
"""

__all__ = ["PROGRESS_FILE", "Job", "encode_units", "write_corpus"]

import dataclasses
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from unmask.data.documents import fasta_letters
from unmask.data.encode import Texts, encode_batches
from unmask.data.index import DECIDED, TOKENIZER_FILE, Index
from unmask.data.packed import Facts, PartFacts, Sources
from unmask.data.packer import Encoded, Layout, Packer, PartState
from unmask.data.settings import INDEX_FILE, DataSettings
from unmask.data.shards import row_type, token_type
from unmask.data.split import SplitPlan, Unit, utf8_size
from unmask.disk.files import atomic_text, file_sha256
from unmask.disk.json import read_json
from unmask.errors import DataError
from unmask.limits import require_memory
from unmask.ranges import Count, Natural
from unmask.text.build import refuse_foreign
from unmask.text.tokenizer import Tokenizer

PROGRESS_FILE = "unmask-data.progress.json"
_BATCH_CHARACTERS = 1 << 18  # of the texts that a worker encodes at once
_RECORD_EVERY = 64 << 20
"""Bytes of text after which the state is recorded."""


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that determines the rows."""

    settings: DataSettings
    sources: Sources
    tokenizer: Tokenizer
    tokenizer_name: str
    fingerprint: str
    """The name of all of this; see `prepare.corpus_key`."""

    @property
    def appends_eos(self) -> bool:
        """Whether documents end with EOS."""
        return self.settings.eos == "append" and self.tokenizer.eos_id is not None

    def layout(self, shard_bytes: int) -> Layout:
        """The size of a shard -> how rows and files are made. Raises RequestError if there is no memory for a row."""
        length, tokenizer = self.settings.length, self.tokenizer
        require_memory(8 * length, f"A row of {length:,} tokens", "set a smaller --data.length")
        record = row_type(length, token_type(tokenizer.vocab_size)).itemsize
        return Layout(tokenizer, length, self.appends_eos, self.settings.rows == "whole", max(1, shard_bytes // record))


@dataclass(frozen=True, slots=True)
class _Progress:
    """The content of PROGRESS_FILE."""

    fingerprint: str
    shard_rows: Count
    units: Natural
    """Units of text that are in the files."""
    bytes: Natural
    """Bytes of their text."""
    train: PartState
    valid: PartState


def encode_units(units: Iterable[Unit], tokenizer: Tokenizer, dtype: np.dtype[Any], workers: int) -> Iterator[Encoded]:
    """Units -> the same with their ids, in order; see `encode.encode_batches`."""
    waiting = deque[list[Unit]]()

    def batches() -> Iterator[Texts]:
        for batch in _batches(units):
            waiting.append(batch)
            yield [text for unit in batch for text in (unit.prompt, unit.text) if text is not None]

    for answer in encode_batches(batches(), tokenizer, dtype, workers):
        ids = iter(answer)
        nothing = np.array([], dtype)
        for unit in waiting.popleft():
            yield Encoded(unit, nothing if unit.prompt is None else next(ids), next(ids))


def _batches(units: Iterable[Unit]) -> Iterator[list[Unit]]:
    """Units -> lists of units that are large enough for the overhead of a process."""
    batch, size = list[Unit](), 0
    for unit in units:
        batch.append(unit)
        size += len(unit.text) + len(unit.prompt or "")
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def write_corpus(
    job: Job,
    plan: SplitPlan,
    folder: Path,
    shard_bytes: int,
    *,
    going_on: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write all files of the corpus into `folder`; the index is the last.

    With `going_on` the state is recorded, and work that was interrupted goes on. `report` gets the bytes of text that
    are done and those of all. The files are the same, byte for byte, for any number of workers and interruptions.

    Raises:
        DataError: if a text cannot be used, a part would be empty, or the folder has the beginning of other data.
    """
    layout = job.layout(shard_bytes)
    before = _begun(folder, job, layout) if going_on else None
    train_state, valid_state = (None, None) if before is None else (before.train, before.valid)
    with (
        Packer(folder, "train", layout, train_state) as train,
        Packer(folder, "valid", layout, valid_state) as valid,
    ):
        count, done = (0, 0) if before is None else (before.units, before.bytes)
        due = done + _RECORD_EVERY
        dtype = token_type(job.tokenizer.vocab_size)
        for encoded in encode_units(islice(plan.units(), count, None), job.tokenizer, dtype, job.settings.workers):
            if job.tokenizer_name == "dna":
                name = job.sources.source.name
                refuse_foreign("".join(letters for _, letters in fasta_letters([encoded.unit.text])), name)
            (valid if encoded.unit.valid else train).add(encoded)
            count += 1
            done += utf8_size(encoded.unit.text) + utf8_size(encoded.unit.prompt or "")
            if done >= due:
                due = done + _RECORD_EVERY
                if going_on:
                    states = train.checkpoint(), valid.checkpoint()
                    _record(folder, _Progress(job.fingerprint, layout.shard_rows, count, done, *states))
                report(done, plan.bytes)
        _write_index(job, plan, folder, (train, valid))


def _begun(folder: Path, job: Job, layout: Layout) -> _Progress | None:
    """The state of work that was interrupted, if there is any; files of rows that it does not know are deleted."""
    path, progress = folder / PROGRESS_FILE, None
    if path.exists():
        progress = read_json(path, _Progress, DataError, f"delete {folder}, and prepare the text again")
        if (progress.fingerprint, progress.shard_rows) != (job.fingerprint, layout.shard_rows):
            raise DataError(
                f"{folder} has the beginning of data of another text, or with other options: give the same command as "
                "before, or another folder."
            )
    known = set[str]()
    for name, state in () if progress is None else (("train", progress.train), ("valid", progress.valid)):
        last = f"{name}-{len(state.shards):05d}"
        known |= {*(shard.file for shard in state.shards), f"{last}.open"}
        if state.rows and not (folder / f"{last}.open").exists():  # its end was not recorded
            known.add(f"{last}.rows")
    for entry in folder.iterdir():
        if entry.suffix in (".rows", ".open") and entry.name not in known:
            entry.unlink()
    return progress


def _record(folder: Path, progress: _Progress) -> None:
    """Write the state of the work."""
    atomic_text(folder / PROGRESS_FILE, json.dumps(dataclasses.asdict(progress)) + "\n")


def _write_index(job: Job, plan: SplitPlan, folder: Path, parts: tuple[Packer, Packer]) -> None:
    """End both parts, and write the tokenizer and the index."""
    train, valid = parts
    sizes, settings = (train.finish(), valid.finish()), job.settings
    too_long = train.state.too_long + valid.state.too_long
    no_answer = train.state.no_answer + valid.state.no_answer
    _check_parts(job, *sizes, too_long)
    notes = [plan.note]
    if too_long:
        notes.append(f"rows left out because they are longer than {settings.length} tokens: {too_long}.")
    if no_answer:
        notes.append(f"rows left out because their answer is empty: {no_answer}.")
    if settings.eos == "append" and not job.appends_eos:
        notes.append("the tokenizer has no EOS token, so nothing marks where a document ends.")
    eos = "append" if job.appends_eos else "none"
    facts = Facts(
        *(settings.source, job.sources.source.paired, job.tokenizer_name, job.tokenizer.vocab_size, settings.length),
        *(eos, *sizes, plan.documents),
    )
    atomic_text(folder / TOKENIZER_FILE, job.tokenizer.to_json())
    index = Index(
        fingerprint=job.fingerprint,
        split=job.sources.split,
        settings={name: getattr(settings, name) for name in DECIDED},
        facts=facts,
        notes=tuple(notes),
        tokenizer=file_sha256(folder / TOKENIZER_FILE),
        train=train.state.shards,
        valid=valid.state.shards,
    )
    atomic_text(folder / INDEX_FILE, index.text())
    (folder / PROGRESS_FILE).unlink(missing_ok=True)


def _check_parts(job: Job, train: PartFacts, valid: PartFacts, too_long: int) -> None:
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
