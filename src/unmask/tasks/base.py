"""The protocol of a task: problems, and a verifier that serves evaluation and reward alike, so they cannot disagree."""

__all__ = ["SPLITS", "TAIL", "Example", "Task", "Verdict", "check_split", "escaped", "joined_holes"]

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from unmask.errors import RequestError, did_you_mean

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
