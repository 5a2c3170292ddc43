"""Verdicts of tasks that may be somebody else's: what breaks the contract is a sentence, never a score."""

__all__ = ["judge", "judge_all"]

import math
import threading
import time
from collections.abc import Sequence
from typing import Any

from unmask.errors import PluginError, UnmaskError
from unmask.tasks.base import Example, Task, Verdict

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
