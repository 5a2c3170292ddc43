"""A task as a source of text: `task:sudoku:side=6@60000` is 60,000 prompts with their answers.

This is the one module that knows both tasks and data.
"""

__all__ = ["PROBLEMS", "VALID_PROBLEMS", "read_task", "task_source"]

import hashlib
import json
import re
from collections.abc import Iterator

from unmask.data.documents import Pair, row_pair
from unmask.data.estimate import SAMPLE_PAIRS
from unmask.data.sources import Source
from unmask.errors import DataError
from unmask.tasks.base import pairs_of
from unmask.tasks.registry import fingerprint, make

_FORM = re.compile(r"task:(?P<task>.+?)(?:@(?P<count>0*[1-9][0-9]{0,8}))?", re.DOTALL)
PROBLEMS, VALID_PROBLEMS = 50_000, 512
"""Problems to train on, and to validate on, where a source has no count."""
_KEPT = 1_000_000  # most problems kept in memory until the corpus is made; more are generated again for each reading
_FORMAT = 2


def task_source(name: str, split: str, count: int, *, sampled: bool = False) -> Source:
    """The name of a task -> `count` problems of a split as a source of pairs, generated when they are first read.

    With `sampled` only the first of many are generated.
    Raises RequestError or PluginError for a task that cannot be made; reading raises DataError if there is no problem.
    """
    task = make(name)
    facts = [_FORMAT, task.name, split, count, fingerprint(task)]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    most = min(count, SAMPLE_PAIRS) if sampled else count
    kept: list[Pair] = []

    def pairs() -> Iterator[Pair]:
        if kept:
            yield from kept
            return
        made, pair = list[Pair](), None
        for prompt, answer in pairs_of(task, split, most):
            pair = row_pair({"prompt": prompt, "answer": answer}, task.name)
            if most <= _KEPT:
                made.append(pair)
            yield pair
        if pair is None:
            raise DataError(f"The task '{name}' has no problems for the split '{split}'; there is nothing to train on.")
        kept[:] = made

    return Source(f"task:{name}", key, True, lambda: iter(()), pairs, count=count)


def read_task(source: str) -> tuple[str, int | None]:
    """task:NAME@COUNT -> the task's name and the count, None without one."""
    match = _FORM.fullmatch(source)
    if match is None or (match["count"] is None and re.search("@-?[0-9]*$", source)):
        raise DataError(
            f"'{source}' is not a task as a source: "
            "write task:NAME@COUNT, for example task:sudoku:side=4@20000, with a count of at least 1."
        )
    return match["task"], None if match["count"] is None else int(match["count"])
