"""Text with holes: "To be or [5] to be" has a hole of five tokens between two texts."""

__all__ = ["Hole", "parse_template"]

import re
from dataclasses import dataclass

from unmask.errors import RequestError

_ESCAPE = re.compile(r"\\([\[\]\\])")
_PART = re.compile(r"((?:\\[\[\]\\]|[^\[])+)|\[([^\]]*)(\])?")
_HELP = "write [5] for a hole of 5 tokens, and \\[ for a bracket that is text"


@dataclass(frozen=True, slots=True)
class Hole:
    """A place to fill."""

    length: int
    """Tokens, at least 1."""


def parse_template(text: str) -> list[str | Hole]:
    r"""The texts and holes of a template, in order; no two texts stand side by side, and none is empty.

    `[n]` is a hole of n tokens. `\[`, `\]` and `\\` are the characters behind the backslash; a backslash before
    anything else, and a closing bracket alone, are text.

    Raises:
        RequestError: for a bracket that is not closed, a hole without a length of at least 1, or no hole at all.
    """
    parts: list[str | Hole] = []
    for match in _PART.finditer(text):
        plain, inside, closed = match.groups()
        if plain is not None:
            parts.append(_ESCAPE.sub(r"\1", plain))
        elif closed is None:
            raise RequestError(f"the bracket at character {match.start() + 1} is not closed: {_HELP}.")
        else:
            parts.append(Hole(_length(inside)))
    if not any(isinstance(part, Hole) for part in parts):
        raise RequestError(f"the text has no hole to fill: {_HELP}.")
    return parts


def _length(inside: str) -> int:
    """The length that stands between two brackets."""
    if not re.fullmatch(r"[0-9]{1,9}", inside) or int(inside) == 0:
        raise RequestError(f"[{inside}] is not a hole: {_HELP}.")
    return int(inside)
