"""The protocol of a task: problems, and a verifier that serves evaluation and reward alike, so they cannot disagree.

Verdicts of tasks that may be somebody else's: what breaks the contract is a sentence, never a score.
"""

__all__ = [
    "SPLITS",
    "TAIL",
    "Example",
    "Task",
    "Verdict",
    "check_split",
    "escaped",
    "joined_holes",
    "judge",
    "judge_all",
]

import math
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from unmask.errors import PluginError, RequestError, UnmaskError, did_you_mean

SPLITS = ("train", "valid", "test")
"""Problems of one split never depend on the seed of another: see `noise.derive`."""
TAIL = "_"
"""The end-of-text letter of tasks on canvases of a fixed width: it fills what an answer leaves over."""


@dataclass(frozen=True, slots=True)
class Example:
    """One problem."""

    template: str
    r"""The problem with holes in it, as `text.template` reads it: `[5]` is a hole of 5 tokens, `\[` a bracket."""
    answer: str
    """What belongs into the holes, one after the other; empty where no right answer is known beforehand."""
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What else is known of it: how hard it is, what the verifier needs; `unique` is true where one answer is right."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier says: a score in [0, 1], where 1 is right, and a word on why not."""

    score: float
    why: str = ""


class Task(Protocol):
    """A stream of problems with an exact verifier.

    A task whose problems can change although its name does not (they lie in a file, say) has an attribute `fingerprint`
    too: a text that changes with them.
    """

    @property
    def name(self) -> str:
        """The text that `tasks.make` makes this task from."""
        ...

    def examples(self, split: str, count: int, seed: int = 0) -> Sequence[Example]:
        """`count` problems of a split, or all where there are fewer.

        They are the same for the same seed, and the first n of a longer list.
        """
        ...

    def verify(self, example: Example, completion: str) -> Verdict:
        """Judge what was written into the holes, one after the other, up to EOS.

        Any text may come; the same text has the same verdict. Call it through `judge` where the task may be foreign.
        """
        ...

    def pairs(self, split: str, count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
        """Prompts and answers as a denoiser for this task trains on them: the prompt is always visible."""
        ...


def check_split(split: str) -> int:
    """The number of a split. Raises RequestError for a name that is none."""
    if split not in SPLITS:
        raise RequestError(f"There is no split named '{split}'; {did_you_mean(split, SPLITS)}")
    return SPLITS.index(split)


def escaped(text: str) -> str:
    """A text as it stands in a template: brackets and backslashes get a backslash before them."""
    return re.sub(r"([\[\]\\])", r"\\\1", text)


def joined_holes(row: str, blank: str) -> str:
    """A template from a text in which `blank` stands for each token to fill: runs of blanks become [n]."""
    parts: list[str] = []
    at = 0
    while at < len(row):
        run = 0
        while at + run < len(row) and row[at + run] == blank:
            run += 1
        if run:
            parts.append(f"[{run}]")
            at += run
        else:
            parts.append(escaped(row[at]))
            at += 1
    return "".join(parts)


_SECONDS = 10.0


def judge(task: Task, example: Example, completion: str, seconds: float = _SECONDS) -> Verdict:
    """`judge_all` for one."""
    return judge_all(task, [(example, completion)], seconds)[0]


def judge_all(task: Task, given: Sequence[tuple[Example, str]], seconds: float = _SECONDS) -> list[Verdict]:
    """`task.verify` for each example and completion, watched; `seconds` is how long each may take.

    A verifier that cannot read a completion has to say so with a score of 0: one that throws, hangs or answers with
    something else may be wrong on right answers too, and would falsify every figure. All run in one thread of their
    own, which cannot be ended from outside: after a PluginError about time it may go on in the background, and one that
    hangs inside of a C function (9**9**9, say) holds up Python as a whole.

    Raises:
        PluginError: where the verifier throws, takes longer, or answers with no Verdict of a score in [0, 1].
    """
    answers: list[Any] = []
    error: list[BaseException] = []
    began = [time.monotonic()]  # of the verdict that is being thought about

    def run() -> None:
        try:
            for example, completion in given:
                began[0] = time.monotonic()
                answers.append(task.verify(example, completion))
        except BaseException as caught:  # SystemExit too
            error.append(caught)

    thread = threading.Thread(target=run, name="unmask-judge", daemon=True)
    thread.start()
    while thread.is_alive() and (left := began[0] + seconds - time.monotonic()) > 0:
        thread.join(left)
    if error and isinstance(error[0], UnmaskError):
        raise error[0]
    who, done = f"The verifier of '{task.name}'", len(answers)
    if error:
        reason = f"{type(error[0]).__name__}: {' '.join(str(error[0]).split())}".rstrip(": .")
        raise PluginError(
            f"{who} failed on {_about(given[done])}: {reason}; give what it cannot read a score of 0."
        ) from error[0]
    if done < len(given):
        raise PluginError(
            f"{who} took more than {seconds:g} s over {_about(given[done])}; let it give up earlier with a score of 0."
        )
    return [_checked(answer, who, one) for answer, one in zip(answers, given, strict=True)]


def _checked(verdict: Any, who: str, one: tuple[Example, str]) -> Verdict:
    """The verdict, if it is one."""
    score = getattr(verdict, "score", None)
    if not isinstance(verdict, Verdict) or isinstance(score, bool) or not isinstance(score, int | float):
        raise PluginError(
            f"{who} answered {_short(verdict)} on {_about(one)}; it has to be a Verdict with a number as score."
        )
    if math.isnan(score) or not 0 <= score <= 1:
        raise PluginError(f"{who} gave a score of {score} on {_about(one)}; a score lies between 0 and 1.")
    return verdict


def _about(one: tuple[Example, str]) -> str:
    return f"the completion {_short(one[1])}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
