"""The Task protocol: problems, and one verifier for evaluation and for reward.

`judge` and `judge_all` call verifiers that may come from plug-ins: a broken contract is a PluginError, never a score.
"""

__all__ = [
    "SPLITS",
    "TAIL",
    "Example",
    "Task",
    "Verdict",
    "check_split",
    "escaped",
    "examples_of",
    "joined_holes",
    "judge",
    "judge_all",
    "pairs_of",
]

import math
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from unmask.errors import PluginError, RequestError, UnmaskError, did_you_mean, plugin_failure, reason_in_words
from unmask.limits import require_memory

SPLITS = ("train", "valid", "test")
"""The splits of every task; each draws its problems from its own random numbers, see `noise.derive`."""
TAIL = "_"
"""The end-of-text letter of tasks with a fixed canvas width: it fills the positions after an answer."""


@dataclass(frozen=True, slots=True)
class Example:
    """One problem with its reference answer."""

    template: str
    r"""The problem as a template of `text.template`: `[5]` is a hole of 5 tokens, `\[` a bracket."""
    answer: str
    """The texts of all holes, concatenated; empty if no right answer is known."""
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Facts such as the difficulty, and what the verifier needs; `unique` is true if only one answer is right."""
    message: str = ""
    """The user's message of a conversation, in whose answer the template stands; "" for no conversation."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a verifier."""

    score: float
    """In [0, 1]; 1 is right."""
    why: str = ""
    """Why the score is below 1."""


class Task(Protocol):
    """Problems with an exact verifier.

    A task whose problems can change while its name does not (for example problems in a file) also has an attribute
    `fingerprint`: a text that changes with them. A task that verifies many completions faster than one after the other
    also has `verify_all`: pairs (example, completion) -> their verdicts; it limits its time itself.
    """

    @property
    def name(self) -> str:
        """The text from which `tasks.make` makes this task."""
        ...

    def examples(self, split: str, count: int, seed: int = 0) -> Sequence[Example]:
        """`count` problems of a split, or all if there are fewer.

        The same seed gives the same problems; fewer problems are the first of more.
        """
        ...

    def verify(self, example: Example, completion: str) -> Verdict:
        """A problem and the texts of its holes, concatenated up to EOS -> the verdict.

        The completion may be any text; the same text has the same verdict. Call it through `judge` if the task may come
        from a plug-in.
        """
        ...

    def pairs(self, split: str, count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
        """Pairs (prompt, answer) to train a denoiser on; the prompt is never masked."""
        ...


def check_split(split: str) -> int:
    """The name of a split -> its index in SPLITS. Raises RequestError for an unknown name."""
    if split not in SPLITS:
        raise RequestError(f"There is no split named '{split}'; {did_you_mean(split, SPLITS)}")
    return SPLITS.index(split)


def escaped(text: str) -> str:
    """A text -> the template of exactly this text: a backslash is put before each bracket and backslash."""
    return re.sub(r"([\[\]\\])", r"\\\1", text)


def joined_holes(row: str, blank: str) -> str:
    """A text in which `blank` marks each token to fill -> its template: a run of n blanks becomes the hole [n]."""
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


_END = object()
_EXAMPLE_BYTES, _PAIR_BYTES = 500, 44  # of a problem in memory, and of what is kept of a pair while a source is split


def examples_of(task: Task, split: str, count: int, seed: int = 0) -> list[Example]:
    """`task.examples`, checked: at most `count` problems of a split.

    Raises PluginError, with the name of the task, if it fails or gives anything else or more; RequestError where so
    many problems cannot fit into memory.
    """
    require_memory(count * _EXAMPLE_BYTES, f"{count:,} problems", "ask for fewer problems")
    with plugin_failure(f"The task '{task.name}'", "failed while it made problems"):
        examples = list(islice(task.examples(split, count, seed), count + 1))
    if len(examples) > count:
        raise PluginError(f"The task '{task.name}' gave more problems than the {count:,} that were asked for.")
    for example in examples:
        if not isinstance(example, Example) or not isinstance(example.template, str):
            raise PluginError(f"The task '{task.name}' gave {_short(example)} as a problem; give an Example.")
    return examples


def pairs_of(task: Task, split: str, count: int) -> Iterator[tuple[str, str]]:
    """`task.pairs`, checked as `examples_of` checks problems, one after the other."""
    require_memory(count * _PAIR_BYTES, f"{count:,} problems", "ask for fewer problems")
    with plugin_failure(f"The task '{task.name}'", "failed while it made problems"):
        pairs = iter(task.pairs(split, count))
    for number in range(count + 1):
        with plugin_failure(f"The task '{task.name}'", "failed while it made problems"):
            pair: Any = next(pairs, _END)
        if pair is _END:
            return
        if number == count:
            raise PluginError(f"The task '{task.name}' gave more pairs than the {count:,} that were asked for.")
        if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise PluginError(f"The task '{task.name}' gave {_short(pair)} as a pair; give a prompt and an answer.")
        yield pair


_SECONDS = 10.0


def judge(task: Task, example: Example, completion: str, seconds: float = _SECONDS) -> Verdict:
    """A problem and a completion -> the verdict: `judge_all` of one pair."""
    return judge_all(task, [(example, completion)], seconds)[0]


def judge_all(task: Task, pairs: Sequence[tuple[Example, str]], seconds: float = _SECONDS) -> list[Verdict]:
    """Pairs (example, completion) -> their verdicts, by `verify_all` of the task, else by `verify`.

    A call of `verify` may take `seconds`. A verifier must give a score of 0 to a completion that it cannot read. A
    verifier that raises, hangs or returns anything else may be wrong on right answers too, and would falsify every
    figure.

    Raises:
        PluginError: if the verifier raises, takes longer, or does not return a Verdict with a score in [0, 1].
    """
    verifier, verify_all = f"The verifier of '{task.name}'", getattr(task, "verify_all", None)
    if verify_all is None:
        verdicts = _one_by_one(task, verifier, pairs, seconds)
    else:
        with plugin_failure(verifier):
            verdicts = list(verify_all(pairs))
        if len(verdicts) != len(pairs):
            raise PluginError(
                f"{verifier} gave {len(verdicts)} verdicts on {len(pairs)} completions; give one for each."
            )
    return [_checked(verdict, verifier, text) for verdict, (_, text) in zip(verdicts, pairs, strict=True)]


def _one_by_one(task: Task, verifier: str, pairs: Sequence[tuple[Example, str]], seconds: float) -> list[Any]:
    """Pairs -> what `task.verify` returns for each within `seconds`.

    All pairs are judged in one thread, which cannot be stopped: after a PluginError about time it may continue in the
    background, and a hang inside of a C function (9**9**9, say) blocks the whole Python process.
    """
    verdicts: list[Any] = []
    error: list[BaseException] = []
    began = [time.monotonic()]  # when the current call of the verifier began

    def run() -> None:
        try:
            for example, completion in pairs:
                began[0] = time.monotonic()
                verdicts.append(task.verify(example, completion))
        except BaseException as caught:  # SystemExit too
            error.append(caught)

    thread = threading.Thread(target=run, name="unmask-judge", daemon=True)
    thread.start()
    while thread.is_alive() and (left := began[0] + seconds - time.monotonic()) > 0:
        thread.join(left)
    if error and isinstance(error[0], UnmaskError):
        raise error[0]
    done = len(verdicts)
    if error:
        reason = reason_in_words(error[0])
        raise PluginError(
            f"{verifier} failed on {_quoted(pairs[done][1])}: {reason}; give what it cannot read a score of 0."
        ) from error[0]
    if done < len(pairs):
        raise PluginError(
            f"{verifier} took more than {seconds:g} s over {_quoted(pairs[done][1])}; let it give up earlier with a "
            "score of 0."
        )
    return verdicts


def _checked(verdict: Any, verifier: str, completion: str) -> Verdict:
    """What a verifier returned -> the same, if it is a Verdict with a score in [0, 1]. Raises PluginError otherwise."""
    score = getattr(verdict, "score", None)
    if not isinstance(verdict, Verdict) or isinstance(score, bool) or not isinstance(score, int | float):
        raise PluginError(
            f"{verifier} answered {_short(verdict)} on {_quoted(completion)}; it has to be a Verdict with a number as "
            "score."
        )
    if math.isnan(score) or not 0 <= score <= 1:
        raise PluginError(f"{verifier} gave a score of {score} on {_quoted(completion)}; a score lies between 0 and 1.")
    return verdict


def _quoted(completion: str) -> str:
    return f"the completion {_short(completion)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
