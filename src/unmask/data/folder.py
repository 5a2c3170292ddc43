"""Folders of prepared data that `unmask data prepare` writes: made, checked, and trained on as they are.

Of its text such a folder needs nothing any more. A training takes the settings of its text from it.
"""

__all__ = [
    "check_folder",
    "open_prepared",
    "prepare_folder",
    "prepared_folder",
    "prepared_settings",
    "require_unprepared",
]

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from unmask.config import from_dict, to_path
from unmask.data.build import DECIDED, PROGRESS_FILE, Index, load_corpus, load_tokenizer, read_index, write_corpus
from unmask.data.packed import Corpus
from unmask.data.prepare import open_sources, planned_job, silent, taken
from unmask.data.settings import INDEX_FILE, DataSettings
from unmask.data.shards import Shard, problems
from unmask.disk.files import LOCK_FILE, refuse_foreign_folder, run_lock
from unmask.errors import ConfigError, DataError
from unmask.text.tokenizer import Tokenizer

_TOKENIZER = ("tokenizer", "vocab_size", "mask_token")


def prepare_folder(
    settings: DataSettings,
    folder: Path,
    shard_bytes: int,
    note: Callable[[str], None] = silent,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Corpus:
    """Data settings -> the corpus in `folder`, which is written, or gone on with where the work was interrupted.

    Where it is there already, nothing is done. The files do not depend on the number of `settings.workers`, nor on
    interruptions; the rows do not depend on `shard_bytes`. `report` gets the bytes of text that are done and of all.

    Raises:
        DataError: as `prepare`, and for a folder that holds other data.
        ConfigError: for a folder that is not ours, or is being written by another process.
        RunError: if the disk is full.
    """
    ready = (folder / INDEX_FILE).exists()
    if not ready:
        refuse_foreign_folder(folder)
    if prepared_folder(settings.source) is not None:
        raise DataError(f"{settings.source} is prepared already: give its text, such as a file or hf:NAME.")
    sources = open_sources(settings)
    job, plan = planned_job(settings, None, note, sources)
    if not ready:
        with run_lock(folder, note):
            write_corpus(job, plan(), folder, shard_bytes, going_on=True, report=report)
            with suppress(OSError):  # a folder that is done has no writer
                (folder / LOCK_FILE).unlink()
    index = read_index(folder)
    if index.fingerprint != job.fingerprint:
        raise DataError(f"{folder} holds other data, or was made with other options: choose another folder.")
    if ready:
        note(f"{folder} is prepared already.")
    corpus = load_corpus(folder, index, job.tokenizer, settings.source)
    return replace(corpus, notes=(*taken(sources, corpus.facts), *corpus.notes))


def prepared_folder(source: str) -> Path | None:
    """A source -> its folder, if it is one of prepared data.

    Raises:
        DataError: for a folder in which the preparation has not ended.
    """
    if not source or source.startswith(("hf:", "task:")):
        return None
    folder = to_path(source)
    if (folder / INDEX_FILE).is_file():
        return folder
    if (folder / PROGRESS_FILE).is_file():
        raise DataError(
            f"{source} is not prepared to its end: give the command unmask data prepare of it again, which goes on."
        )
    return None


def prepared_settings(settings: DataSettings, asked: Collection[str] | None = None) -> DataSettings:
    """Settings -> the same with what the folder of prepared data, if `source` is one, was made with.

    `asked` are the names of the settings that a person gave; by default those that differ from their defaults.

    Raises:
        DataError: for a setting that was given and contradicts the folder.
    """
    folder = prepared_folder(settings.source)
    if folder is None:
        return settings
    index = read_index(folder)
    then = from_dict(DataSettings, {**index.settings, "source": settings.source}, str(folder / INDEX_FILE), DataError)
    if asked is None:
        plain = DataSettings()
        names = [field.name for field in fields(settings)]
        asked = [name for name in names if getattr(settings, name) != getattr(plain, name)]
    if "valid" in asked and settings.valid is not None:
        raise DataError(
            f"data.valid is {settings.valid}, but {settings.source} is prepared and has its validation text: leave it "
            "out, or prepare the text again with it."
        )
    for name in DECIDED:
        now, before = getattr(settings, name), getattr(then, name)
        if name in asked and now != before and not (name == "tokenizer" and _same_tokenizer(now, index)):
            raise DataError(
                f"data.{name} is {now}, but {settings.source} was prepared with {before}: leave it out, or prepare the "
                "text again with it."
            )
    return replace(settings, valid=None, **{name: getattr(then, name) for name in DECIDED})


def _same_tokenizer(name: Any, index: Index) -> bool:
    """Whether a tokenizer that was asked for is that of the folder, by its name or its content."""
    if name in ("auto", index.facts.tokenizer):
        return True
    with suppress(DataError):
        return _json_sum(Tokenizer.load(name)) == index.tokenizer
    return False


def _json_sum(tokenizer: Tokenizer) -> str:
    """A tokenizer -> the checksum of its file."""
    from hashlib import sha256

    return sha256(tokenizer.to_json().encode("utf-8")).hexdigest()


def open_prepared(settings: DataSettings, tokenizer: Tokenizer | None = None) -> Corpus | None:
    """Data settings whose source is a folder of prepared data -> its corpus; None for every other source.

    `tokenizer` is that of a checkpoint, which has to be the one of the folder.

    Raises:
        DataError: for settings or a tokenizer that contradict the folder, and for files that are missing or damaged.
    """
    folder = prepared_folder(settings.source)
    if folder is None:
        return None
    prepared_settings(settings)
    index = read_index(folder)
    own = load_tokenizer(folder, index)
    if tokenizer is not None and _json_sum(tokenizer) != index.tokenizer:
        raise DataError(
            f"{settings.source} was prepared with another tokenizer than that of the checkpoint: prepare the text "
            "again with --data.tokenizer CHECKPOINT."
        )
    return load_corpus(folder, index, own, settings.source)


def check_folder(folder: Path) -> Iterator[tuple[Shard, str]]:
    """A folder of prepared data -> each of its files with what is wrong, or ""; all of them are read.

    Raises:
        DataError: for a folder that is none, or whose index or tokenizer is damaged.
    """
    if prepared_folder(str(folder)) is None:
        raise DataError(f"{folder} is no folder of prepared data: make one with unmask data prepare.")
    index = read_index(folder)
    load_tokenizer(folder, index)
    yield from problems(folder, (*index.train, *index.valid), index.record.itemsize, whole=True)


def require_unprepared(name: str, source: str | None) -> None:
    """Raise ConfigError for a folder of prepared data where a text is needed; `name` is that of the setting."""
    if source is not None and prepared_folder(source) is not None:
        raise ConfigError(f"data.{name} is {source}, a folder of prepared data: give a text there.")
