"""Tasks as training data: `task:sudoku:side=6@60000` is 60,000 problems of a task, written once to the cache."""

__all__ = ["corpus_of"]

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from unmask.data.packed import Corpus, cache_folder
from unmask.data.prepare import prepare
from unmask.data.settings import DataSettings
from unmask.disk.files import atomic_text
from unmask.errors import DataError, PluginError, UnmaskError
from unmask.tasks.base import Task
from unmask.tasks.registry import fingerprint, make
from unmask.text.tokenizer import Tokenizer

_FORM = re.compile(r"task:(?P<task>.+?)(?:@(?P<count>0*[1-9][0-9]{0,8}))?", re.DOTALL)
_COUNT, _VALID = 50_000, 512
_FORMAT = 1


def _silent(_: str) -> None:
    """The default for `note`."""


def corpus_of(
    settings: DataSettings, tokenizer: Tokenizer | None = None, note: Callable[[str], None] = _silent
) -> Corpus:
    """What `data.prepare` makes of the settings, where the source may also be a task. Raises as that does."""
    return prepare(_materialised(settings), tokenizer, note)


def _materialised(settings: DataSettings) -> DataSettings:
    """The same settings with a task's problems as files of prompts and answers; other sources stay as they are.

    Validation is on problems of the split "valid", unless `settings.valid` names another source.

    Raises:
        DataError: for a source that starts with task: but names none, or has no problems.
        RequestError, PluginError: for a task that cannot be.
    """
    source, valid = settings.source, settings.valid
    if source.startswith("task:"):
        name, count = _read(source)
        source = _written(name, "train", count or _COUNT)
        if valid is None:
            valid = _written(name, "valid", _VALID)
    if valid is not None and valid.startswith("task:"):
        name, count = _read(valid)
        valid = _written(name, "valid", count or _VALID)
    return replace(settings, source=source, valid=valid)


def _read(source: str) -> tuple[str, int | None]:
    """The task's name and the count in task:NAME@COUNT."""
    found = _FORM.fullmatch(source)
    if found is None or (found["count"] is None and re.search("@-?[0-9]*$", source)):
        raise DataError(
            f"'{source}' is not a task as a source: "
            "write task:NAME@COUNT, for example task:sudoku:side=4@20000, with a count of at least 1."
        )
    return found["task"], None if found["count"] is None else int(found["count"])


def _written(name: str, split: str, count: int) -> str:
    """The path of the problems as rows of prompt and answer, made where it is not there yet."""
    task = make(name)
    told: list[Any] = [_FORMAT, task.name, split, count]
    if depends := fingerprint(task):
        told.append(depends)
    key = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]
    path = cache_folder() / "tasks" / f"{key}.jsonl"
    if not path.is_file():
        rows = "".join(_rows(task, split, count))
        if not rows:
            raise DataError(f"The task '{name}' has no problems for the split '{split}'; there is nothing to train on.")
        atomic_text(path, rows)
    return str(path)


def _rows(task: Task, split: str, count: int) -> Iterator[str]:
    """A line of JSON for each pair. Raises PluginError where somebody else's task fails or gives no pairs of texts."""
    try:
        for pair in task.pairs(split, count):
            if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
                raise PluginError(f"The task '{task.name}' gave {pair!r:.60} as a pair; give a prompt and an answer.")
            yield json.dumps({"prompt": pair[0], "answer": pair[1]}) + "\n"
    except UnmaskError:
        raise
    except Exception as error:
        raise PluginError(
            f"The task '{task.name}' failed while it made problems: {type(error).__name__}: {error}."
        ) from error
