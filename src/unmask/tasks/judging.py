"""Verdicts of tasks that may be somebody else's: what breaks the contract is a sentence, never a score."""

__all__ = ["judge"]

import math
import threading
from typing import Any

from unmask.errors import PluginError, UnmaskError
from unmask.tasks.base import Example, Task, Verdict

_SECONDS = 10.0


def judge(task: Task, example: Example, completion: str, seconds: float = _SECONDS) -> Verdict:
    """`task.verify`, watched; `seconds` is how long it may take.

    A verifier that cannot read a completion has to say so with a score of 0: one that throws, hangs or answers with
    something else may be wrong on right answers too, and would falsify every figure. It runs in a thread of its own,
    which cannot be ended from outside: after a PluginError about time it may go on in the background, and one that
    hangs inside of a C function (9**9**9, say) holds up Python as a whole.

    Raises:
        PluginError: where the verifier throws, takes longer, or answers with no Verdict of a score in [0, 1].
    """
    answer: list[Any] = []
    error: list[BaseException] = []

    def run() -> None:
        try:
            answer.append(task.verify(example, completion))
        except BaseException as caught:  # SystemExit too
            error.append(caught)

    thread = threading.Thread(target=run, name="unmask-judge", daemon=True)
    thread.start()
    thread.join(seconds)
    who, about = f"The verifier of '{task.name}'", f"the completion {_short(completion)}"
    if error and isinstance(error[0], UnmaskError):
        raise error[0]
    if error:
        reason = f"{type(error[0]).__name__}: {' '.join(str(error[0]).split())}".rstrip(": .")
        raise PluginError(f"{who} failed on {about}: {reason}; give what it cannot read a score of 0.") from error[0]
    if not answer:
        raise PluginError(f"{who} took more than {seconds:g} s over {about}; let it give up earlier with a score of 0.")
    return _checked(answer[0], who, about)


def _checked(verdict: Any, who: str, about: str) -> Verdict:
    """The verdict, if it is one."""
    score = getattr(verdict, "score", None)
    if not isinstance(verdict, Verdict) or isinstance(score, bool) or not isinstance(score, int | float):
        raise PluginError(
            f"{who} answered {_short(verdict)} on {about}; it has to be a Verdict with a number as score."
        )
    if math.isnan(score) or not 0 <= score <= 1:
        raise PluginError(f"{who} gave a score of {score} on {about}; a score lies between 0 and 1.")
    return verdict


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
