"""The contract of a task as a function; public as `unmask.testing.check_task`."""

__all__ = ["check_task", "require_maker"]

import inspect
import random
from collections.abc import Callable, Sequence
from copy import deepcopy

from unmask.errors import ArgumentError, PluginError, RequestError
from unmask.ranges import shown
from unmask.tasks.base import SPLITS, Example, Task, judge
from unmask.text.template import parse_template


def check_task(make_task: Callable[[], Task], *, count: int = 8, seed: int = 0) -> None:
    """Check the contract of a task; `make_task` makes a new task at each call.

    Problems depend on split and seed alone, fewer problems are the first of more, and two splits do not share most of
    their problems. Templates can be read, and pairs are texts. The verifier scores the reference answer 1, invalid
    texts less, and, if facts["unique"] is true, every change of the answer less. It gives the same text the same score,
    accepts any text, and does not change the problem.

    Raises:
        PluginError: for the first rule that the task breaks.
    """
    require_maker(make_task, "make_task", "task")
    task = make_task()
    problems = {split: _problems(make_task, split, count, seed) for split in SPLITS}
    for split, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        texts = {(example.message, example.template) for example in problems[split]}
        if sum((example.message, example.template) in texts for example in problems[other]) > len(problems[other]) / 2:
            raise PluginError(f"'{task.name}' has most problems of the split {other} in the split {split} too.")
    _check_pairs(make_task, count, seed)
    letters = "".join(sorted({letter for example in problems["test"] for letter in example.answer}))
    for example in problems["test"]:
        _check_verdicts(make_task, example, letters)


def require_maker(make: object, name: str, noun: str) -> None:
    """Raises ArgumentError for an argument `name` that cannot be called without arguments, such as an object."""
    try:
        inspect.signature(make).bind()  # pyright: ignore[reportArgumentType]
    except TypeError:
        raise ArgumentError(f"{name} is {shown(make)}; give a class, or a function that returns a {noun}.") from None
    except ValueError:
        return  # a callable of C code that does not tell its arguments


def _problems(make_task: Callable[[], Task], split: str, count: int, seed: int) -> Sequence[Example]:
    """The problems of a split; they must depend on split, count and seed as `Task.examples` says."""
    name, before = make_task().name, random.getstate()
    try:
        random.seed(1)
        problems = list(make_task().examples(split, count, seed))
        random.seed(2)
        again = list(make_task().examples(split, count, seed))
        fewer = list(make_task().examples(split, max(len(problems) // 2, 1), seed))
        next_seed = list(make_task().examples(split, count, seed + 1))
    finally:
        random.setstate(before)
    if not 0 < len(problems) <= count:
        raise PluginError(
            f"'{name}' gave {len(problems)} problems of the split {split} where up to {count} were asked for."
        )
    if problems != again:
        raise PluginError(f"'{name}' gives other problems for the same split and seed; draw them from these alone.")
    if fewer != problems[: len(fewer)] or len(fewer) != max(len(problems) // 2, 1):
        raise PluginError(f"'{name}' gives other problems when fewer are asked for; they have to be the first of more.")
    if problems == next_seed and len(problems) > 1:
        raise PluginError(f"'{name}' gives the same problems for another seed; the seed has to matter.")
    for example in problems:
        try:
            parse_template(example.template)
        except RequestError as error:
            raise PluginError(
                f"'{name}' has the template {example.template!r}, which cannot be read: {error}"
            ) from error
    return problems


def _check_pairs(make_task: Callable[[], Task], count: int, seed: int) -> None:
    """Pairs are two texts, the same each time; a task without reference answers may raise RequestError."""
    task = make_task()
    try:
        pairs = list(task.pairs("train", count, seed))
    except RequestError:
        if any(example.answer for example in task.examples("train", count, seed)):
            raise
        return
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair) and pair[1]):
            raise PluginError(f"'{task.name}' gave {pair!r} as a pair; give a prompt and an answer that is not empty.")
    if not pairs or pairs != list(make_task().pairs("train", count, seed)):
        raise PluginError(
            f"'{task.name}' has no pairs to train on, or others each time; they depend on split and seed."
        )


def _check_verdicts(make_task: Callable[[], Task], example: Example, letters: str) -> None:
    """The reference answer scores 1; invalid texts and, if the answer is unique, changes of it score less."""
    task, copy = make_task(), deepcopy(example)
    answer, name = example.answer, task.name
    invalid = ["", " ", "~", "[[((\\", "²٣\0", "no" * 50]
    changed: list[str] = []
    if example.facts.get("unique"):
        for at, old in enumerate(answer):
            changed += [answer[:at] + new + answer[at + 1 :] for new in letters if new != old][:2]
        changed += [answer[:-1], answer + answer[-1:]]
    scores = {text: judge(task, example, text).score for text in [*invalid, *changed, answer]}
    if answer and scores[answer] != 1:
        why = judge(task, example, answer).why
        raise PluginError(
            f"'{name}' gives its own answer {answer!r} a score of {scores[answer]}: {why or 'no reason'}."
        )
    for text in [*invalid, *changed]:
        if text != answer and scores[text] == 1:
            raise PluginError(f"'{name}' takes {text!r} for right in the problem {example.template!r}.")
    again = make_task()
    if any(judge(again, example, text).score != score for text, score in reversed(scores.items())):
        raise PluginError(f"The verifier of '{name}' gives the same text another score; it may depend on nothing else.")
    if example != copy:
        raise PluginError(f"The verifier of '{name}' changes the problem it is given; it may only read it.")
