"""Tasks as training data: `task:sudoku:side=6@60000` is 60,000 problems of a task, written once to the cache."""

__all__ = ["corpus_of"]

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace

from unmask.data.corpus import Corpus, cache_folder
from unmask.data.prepare import prepare
from unmask.data.settings import DataSettings
from unmask.errors import DataError
from unmask.run.files import atomic_text
from unmask.tasks import make
from unmask.text.tokenizer import Tokenizer

_FORM = re.compile(r"task:(?P<task>[^@]+)(?:@(?P<count>[0-9]{1,9}))?")
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

    Raises:
        DataError: for a source that starts with task: but names none.
        RequestError: for a task that cannot be.
    """
    if not settings.source.startswith("task:"):
        return settings
    found = _FORM.fullmatch(settings.source)
    if found is None:
        raise DataError(
            f"'{settings.source}' is not a task as a source: "
            "write task:NAME@COUNT, for example task:sudoku:side=4@20000."
        )
    count = int(found["count"] or _COUNT)
    paths = [_written(found["task"], split, n) for split, n in (("train", count), ("valid", _VALID))]
    return replace(settings, source=paths[0], valid=settings.valid or paths[1])


def _written(name: str, split: str, count: int) -> str:
    """The path of the problems as rows of prompt and answer, made where it is not there yet."""
    task = make(name)
    key = hashlib.sha256(json.dumps([_FORMAT, task.name, split, count]).encode()).hexdigest()[:32]
    path = cache_folder() / "tasks" / f"{key}.jsonl"
    if not path.is_file():
        pairs = task.pairs(split, count)
        rows = (json.dumps({"prompt": prompt, "answer": answer}) + "\n" for prompt, answer in pairs)
        atomic_text(path, "".join(rows))
    return str(path)
