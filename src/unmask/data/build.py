"""A folder of prepared data: a planned source and its tokenizer -> its files; the folder -> its corpus.

It has the tokenizer, shards of packed rows for training and for validation, and an index. The cache and `unmask data
prepare` write the same files. Work that was interrupted goes on: the state after every few megabytes of text is
recorded, and the units of text that are already in the files are counted and read over.
"""

__all__ = [
    "CHECKED_BYTES",
    "DECIDED",
    "PROGRESS_FILE",
    "Index",
    "Job",
    "encode_units",
    "load_corpus",
    "load_tokenizer",
    "read_index",
    "write_corpus",
]

import dataclasses
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from unmask.data.documents import fasta_letters
from unmask.data.packed import Corpus, Facts, Packed, PartFacts, Sources, Split
from unmask.data.packer import Encoded, Layout, Packer, PartState, Texts, encode_batches
from unmask.data.settings import INDEX_FILE, DataSettings
from unmask.data.shards import Shard, joined, map_shards, problems, row_type, token_type
from unmask.data.split import SplitPlan, Unit, utf8_size
from unmask.disk.files import atomic_text, file_sha256, reason_of
from unmask.disk.json import read_json
from unmask.errors import DataError
from unmask.limits import require_memory
from unmask.ranges import Count, Natural
from unmask.text.build import refuse_foreign
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
    """Units -> the same with their ids, in order; see `packer.encode_batches`."""
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
