"""The contract of a task, as code; `unmask.testing` offers it to other projects."""

__all__ = ["check_task"]

import random
from collections.abc import Callable, Sequence
from copy import deepcopy

from unmask.errors import PluginError, RequestError
from unmask.tasks.base import SPLITS, Example, Task, judge
from unmask.text.template import parse_template


def check_task(make_task: Callable[[], Task], *, count: int = 8, seed: int = 0) -> None:
    """Hold a task to every promise it makes; `make_task` makes a new one each time it is called.

    Problems depend on split and seed alone, n of them are the first of more, and splits do not share most of theirs.
    Templates can be read, and pairs are texts. The verifier gives the reference answer 1, junk less, and any change of
    the answer less where facts["unique"] says so; it answers the same each time, for any text, and leaves the problem
    as it was. Raises PluginError, in a sentence, for the first that fails.
    """
    task = make_task()
    found = {split: _problems(make_task, split, count, seed) for split in SPLITS}
    for split, others in (("train", "valid"), ("train", "test"), ("valid", "test")):
        asked = {one.template for one in found[split]}
        if sum(one.template in asked for one in found[others]) > len(found[others]) / 2:
            raise PluginError(f"'{task.name}' has most problems of the split {others} in the split {split} too.")
    _pairs_are_texts(make_task, count, seed)
    letters = "".join(sorted({letter for one in found["test"] for letter in one.answer}))
    for example in found["test"]:
        _verdicts(make_task, example, letters)


def _problems(make_task: Callable[[], Task], split: str, count: int, seed: int) -> Sequence[Example]:
    """The problems of a split, after a look at what they depend on."""
    name, before = make_task().name, random.getstate()
    try:
        random.seed(1)
        found = list(make_task().examples(split, count, seed))
        random.seed(2)
        again = list(make_task().examples(split, count, seed))
        fewer = list(make_task().examples(split, max(len(found) // 2, 1), seed))
        other = list(make_task().examples(split, count, seed + 1))
    finally:
        random.setstate(before)
    if not 0 < len(found) <= count:
        raise PluginError(
            f"'{name}' gave {len(found)} problems of the split {split} where up to {count} were asked for."
        )
    if found != again:
        raise PluginError(f"'{name}' gives other problems for the same split and seed; draw them from these alone.")
    if fewer != found[: len(fewer)] or len(fewer) != max(len(found) // 2, 1):
        raise PluginError(f"'{name}' gives other problems when fewer are asked for; they have to be the first of more.")
    if found == other and len(found) > 1:
        raise PluginError(f"'{name}' gives the same problems for another seed; the seed has to matter.")
    for example in found:
        try:
            parse_template(example.template)
        except RequestError as error:
            raise PluginError(
                f"'{name}' has the template {example.template!r}, which cannot be read: {error}"
            ) from error
    return found


def _pairs_are_texts(make_task: Callable[[], Task], count: int, seed: int) -> None:
    """Prompts and answers, the same each time; a task of which no answers are known may refuse them."""
    task = make_task()
    try:
        pairs = list(task.pairs("train", count, seed))
    except RequestError:
        if any(one.answer for one in task.examples("train", count, seed)):
            raise
        return
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair) and pair[1]):
            raise PluginError(f"'{task.name}' gave {pair!r} as a pair; give a prompt and an answer that is not empty.")
    if not pairs or pairs != list(make_task().pairs("train", count, seed)):
        raise PluginError(
            f"'{task.name}' has no pairs to train on, or others each time; they depend on split and seed."
        )


def _verdicts(make_task: Callable[[], Task], example: Example, letters: str) -> None:
    """What the verifier says to the reference answer, to changes of it, and to junk."""
    task, untouched = make_task(), deepcopy(example)
    answer, name = example.answer, task.name
    junk = ["", " ", "~", "[[((\\", "²٣\0", "no" * 50]
    changed: list[str] = []
    if example.facts.get("unique"):
        for at, old in enumerate(answer):
            changed += [answer[:at] + new + answer[at + 1 :] for new in letters if new != old][:2]
        changed += [answer[:-1], answer + answer[-1:]]
    scores = {text: judge(task, example, text).score for text in [*junk, *changed, answer]}
    if answer and scores[answer] != 1:
        why = judge(task, example, answer).why
        raise PluginError(
            f"'{name}' gives its own answer {answer!r} a score of {scores[answer]}: {why or 'no reason'}."
        )
    for text in [*junk, *changed]:
        if text != answer and scores[text] == 1:
            raise PluginError(f"'{name}' takes {text!r} for right in the problem {example.template!r}.")
    other = make_task()
    if any(judge(other, example, text).score != score for text, score in reversed(scores.items())):
        raise PluginError(f"The verifier of '{name}' gives the same text another score; it may depend on nothing else.")
    if example != untouched:
        raise PluginError(f"The verifier of '{name}' changes the problem it is given; it may only read it.")
