r"""Text with holes: "To be or [5] to be" has a hole of five tokens between two texts.

    [5]            a hole of 5 tokens
    [1-8]          a hole of 1 to 8 tokens, whichever length fits the whole text best
    [=old words]   hide these words and write as many tokens anew
    [4=old words]  write 4 tokens in place of these words; [1-8=old words] 1 to 8
    [?]            the place of the choices, where choices are compared
    \[ \] \\       the characters themselves, inside brackets too

What stands outside the brackets stays as it is, spaces included. Most tokenizers join a word with the space before it:
"The[= king] is" hides that space too, and reads better to them than "The [=king] is".
"""

__all__ = ["Edit", "Hole", "Part", "Slot", "parse_template"]

import re
from dataclasses import dataclass

from unmask.errors import RequestError

_ESCAPE = re.compile(r"\\([\[\]\\])")
_PART = re.compile(r"((?:\\[\[\]\\]|[^\[])+)|\[((?:\\[\[\]\\]|[^\]])*)(\])?", re.DOTALL)
_LENGTH = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
_HELP = (
    "write [5] for a hole of 5 tokens, [1-8] for 1 to 8, [=old words] to write words anew, and \\[ for a bracket that is "
    "text"
)


@dataclass(frozen=True, slots=True)
class Hole:
    """A place to fill."""

    length: int
    """Tokens, at least 1; the fewest where the length is free."""
    longest: int | None = None
    """The most tokens of a free length, at least `length`; None where the length is set."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Words that are hidden and written anew."""

    words: str
    hole: Hole | None = None
    """What takes their place; None for as many tokens as they have."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where the choices go."""


Part = str | Hole | Edit | Slot


def parse_template(text: str) -> list[Part]:
    r"""The texts and holes of a template, in order; no two texts stand side by side, and none is empty.

    The language is that of this module's docstring. A backslash before anything but `[`, `]` and `\`, and a closing
    bracket alone, are text.

    Raises:
        RequestError: for a bracket that is not closed, a hole without lengths of at least 1, or no hole at all.
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
    """What stands between two brackets."""
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
    """The hole of a length such as 5 or 1-8; `inside` is for the sentence of an error."""
    found = _LENGTH.fullmatch(length)
    if found is None:
        raise RequestError(f"[{inside}] is not a hole: {_HELP}.")
    least, most = int(found[1]), None if found[2] is None else int(found[2])
    if least < 1:
        raise RequestError(f"[{inside}] is a hole of no token; a hole has at least 1.")
    if most is not None and most < least:
        raise RequestError(
            f"[{inside}] ends before it begins; write the shorter length first, such as [{most or 1}-{least}]."
        )
    return Hole(least, most)
