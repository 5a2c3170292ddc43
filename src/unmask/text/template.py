r"""Templates, texts with holes: "To be or [5] to be" has a hole of five tokens between two texts.

    [5]            a hole of 5 tokens
    [1-8]          a hole of 1 to 8 tokens, whichever length fits the whole text best
    [=old words]   replace these words by as many new tokens
    [4=old words]  replace these words by 4 new tokens; [1-8=old words] by 1 to 8
    [?]            where a choice is inserted when choices are compared
    \[ \] \\       the characters themselves, inside brackets too

Text outside the brackets is not changed, spaces included. Most tokenizers join a word with the space before it:
"The[= king] is" hides that space too, and usually gives better results than "The [=king] is".
"""

__all__ = ["Edit", "Hole", "Part", "Slot", "parse_template", "text_at"]

import re
from collections.abc import Sequence
from dataclasses import dataclass

from unmask.errors import RequestError

_ESCAPE = re.compile(r"\\([\[\]\\])")
_PART = re.compile(r"((?:\\[\[\]\\]|[^\[])+)|\[((?:\\[\[\]\\]|[^\]])*)(\])?", re.DOTALL)
_LENGTH = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
_HELP = (
    "write [5] for a hole of 5 tokens, [1-8] for 1 to 8, [=old words] to write words anew, and \\[ for a bracket "
    "that is text"
)


@dataclass(frozen=True, slots=True)
class Hole:
    """A run of tokens to write: of a fixed length, or of a length between two limits."""

    length: int
    """Tokens, at least 1; the minimum if the length is free."""
    longest: int | None = None
    """The maximum of a free length in tokens, at least `length`; None for a fixed length."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Words to replace by new tokens."""

    words: str
    hole: Hole | None = None
    """The hole that replaces them; None for a hole of as many tokens as they have."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The position at which a choice is inserted."""


Part = str | Hole | Edit | Slot


def parse_template(text: str) -> list[Part]:
    r"""A template -> its texts and holes, in order; no two texts are adjacent, and no text is empty.

    The module docstring defines the language. A backslash before any character but `[`, `]` and `\` is text, and so is
    a closing bracket alone.

    Raises:
        RequestError: for a bracket that is not closed, a hole whose length is not at least 1, or no hole at all.
    """
    parts: list[Part] = []
    for match in _PART.finditer(text):
        plain, inside, closed = match.groups()
        if plain is not None:
            parts.append(_ESCAPE.sub(r"\1", plain))
        elif closed is None:
            raise RequestError(f"the bracket at character {match.start() + 1} is not closed: {_HELP}.")
        else:
            parts.append(_bracket(inside))
    if all(isinstance(part, str) for part in parts):
        raise RequestError(f"the text has no hole to fill: {_HELP}.")
    return parts


def _bracket(inside: str) -> Hole | Edit | Slot:
    """The text between two brackets -> the part of the template that it means."""
    if inside == "?":
        return Slot()
    length, equals, words = inside.partition("=")
    hole = _hole(length, inside) if length or not equals else None
    if not equals:
        assert hole is not None
        return hole
    if not words:
        raise RequestError(f"[{inside}] names no words to write anew: {_HELP}.")
    return Edit(_ESCAPE.sub(r"\1", words), hole)


def _hole(length: str, inside: str) -> Hole:
    """A length such as 5 or 1-8 -> its hole; `inside` is quoted in errors."""
    match = _LENGTH.fullmatch(length)
    if match is None:
        raise RequestError(f"[{inside}] is not a hole: {_HELP}.")
    least, most = int(match[1]), None if match[2] is None else int(match[2])
    if least < 1:
        raise RequestError(f"[{inside}] is a hole of no token; a hole has at least 1.")
    if most is not None and most < least:
        raise RequestError(
            f"[{inside}] ends before it begins; write the shorter length first, such as [{most or 1}-{least}]."
        )
    return Hole(least, most)


def text_at(parts: Sequence[Part], at: int) -> str:
    """The part with index `at` if it is a text; empty where it is a hole or does not exist."""
    part = parts[at] if 0 <= at < len(parts) else ""
    return part if isinstance(part, str) else ""
