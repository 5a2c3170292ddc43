"""The name of a task -> a source of training data: `task:sudoku:side=6@60000` is 60,000 prompts with their answers."""

__all__ = ["corpus_of", "task_source"]

import hashlib
import json
import re
from collections.abc import Callable, Iterator

from unmask.data.documents import Pair, row_pair
from unmask.data.packed import Corpus
from unmask.data.prepare import prepare
from unmask.data.settings import DataSettings
from unmask.data.sources import Source
from unmask.errors import DataError, PluginError, UnmaskError
from unmask.tasks.base import Task
from unmask.tasks.registry import fingerprint, make
from unmask.text.tokenizer import Tokenizer

_FORM = re.compile(r"task:(?P<task>.+?)(?:@(?P<count>0*[1-9][0-9]{0,8}))?", re.DOTALL)
_COUNT, _VALID = 50_000, 512
_KEPT = 1_000_000  # most problems kept in memory until the corpus is made; more are generated again for each reading
_FORMAT = 2


def _silent(_: str) -> None:
    """The default for `note`."""


def corpus_of(
    settings: DataSettings, tokenizer: Tokenizer | None = None, note: Callable[[str], None] = _silent
) -> Corpus:
    """Settings -> the corpus, as `data.prepare` makes it, where a source may also be a task.

    Validation is on problems of the split "valid", unless `settings.valid` names another source.

    Raises:
        DataError: for a source that starts with task: without a task's name, or has no problems; also as `prepare`.
        RequestError, PluginError: for a task that cannot be made.
    """
    source = valid = None
    if settings.source.startswith("task:"):
        name, count = _read(settings.source)
        source = task_source(name, "train", count or _COUNT)
        if settings.valid is None:
            valid = task_source(name, "valid", _VALID)
    if settings.valid is not None and settings.valid.startswith("task:"):
        name, count = _read(settings.valid)
        valid = task_source(name, "valid", count or _VALID)
    return prepare(settings, tokenizer, note, source=source, valid=valid)


def task_source(name: str, split: str, count: int) -> Source:
    """The name of a task -> `count` problems of a split as a source of pairs, generated when they are first read.

    Raises RequestError or PluginError for a task that cannot be made; reading raises DataError if there is no problem.
    """
    task = make(name)
    facts = [_FORMAT, task.name, split, count, fingerprint(task)]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    kept: list[Pair] = []

    def pairs() -> Iterator[Pair]:
        if kept:
            yield from kept
            return
        made, pair = list[Pair](), None
        for pair in _pairs(task, split, count):
            if count <= _KEPT:
                made.append(pair)
            yield pair
        if pair is None:
            raise DataError(f"The task '{name}' has no problems for the split '{split}'; there is nothing to train on.")
        kept[:] = made

    return Source(f"task:{name}", key, True, lambda: iter(()), pairs)


def _read(source: str) -> tuple[str, int | None]:
    """task:NAME@COUNT -> the task's name and the count, None without one."""
    match = _FORM.fullmatch(source)
    if match is None or (match["count"] is None and re.search("@-?[0-9]*$", source)):
        raise DataError(
            f"'{source}' is not a task as a source: "
            "write task:NAME@COUNT, for example task:sudoku:side=4@20000, with a count of at least 1."
        )
    return match["task"], None if match["count"] is None else int(match["count"])


def _pairs(task: Task, split: str, count: int) -> Iterator[Pair]:
    """A task -> prompts with answers. Raises PluginError if the task fails or gives something else."""
    try:
        for pair in task.pairs(split, count):
            if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
                raise PluginError(f"The task '{task.name}' gave {pair!r:.60} as a pair; give a prompt and an answer.")
            yield row_pair({"prompt": pair[0], "answer": pair[1]}, task.name)
    except UnmaskError:
        raise
    except Exception as error:
        raise PluginError(
            f"The task '{task.name}' failed while it made problems: {type(error).__name__}: {error}."
        ) from error
