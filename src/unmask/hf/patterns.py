"""Regular expressions and JSON schemas -> tables of transitions between tokens, by outlines-core in a child process.

An expression can take long to compile, and the library cannot be interrupted. So it runs in a process of its own, which
is killed after a time limit, or when its parent is interrupted, and which may use a limited amount of memory.
"""

__all__ = ["EDGES", "MEMORY", "SECONDS", "STATES", "Table", "body_of", "regex_of_schema", "table_of"]

import re
import subprocess
import sys
from array import array
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.errors import RequestError
from unmask.limits import bytes_text

STATES, EDGES = 4_000, 4_000_000
"""The largest table: its states, and its transitions (of a state by a token)."""
SECONDS, MEMORY = 20.0, 4 << 30
"""How long an expression may take, and the bytes of address space that its process may use."""
_SCRIPT = Path(__file__).with_name("pattern_child.py")
_GROUPS = {
    **dict.fromkeys(("(?=", "(?!"), "look-ahead"),
    **dict.fromkeys(("(?<=", "(?<!"), "look-behind"),
    "(?P=": "a back-reference",
    "(?(": "a condition",
    "(?>": "an atomic group",
}
_ESCAPES = {
    **dict.fromkeys("bB", "a word boundary"),
    **dict.fromkeys("AzZG", "an anchor"),
    **dict.fromkeys("123456789k", "a back-reference"),
}


class Table(NamedTuple):
    """A deterministic automaton over tokens; states are any numbers."""

    start: int
    final: list[int]
    edges: Tensor
    """(E, 3) int64: state, index of the token, next state."""


def table_of(pattern: str, tokens: Sequence[bytes], *, name: str = "pattern", seconds: float = SECONDS) -> Table:
    """A regular expression for whole texts, and different tokens -> the automaton of the token sequences that fit.

    A token that crosses parts of the expression counts as its bytes do. The syntax is that of the Rust crate regex.
    Raises RequestError for an expression that has no such automaton, or too large a one, or takes too long.
    """
    body = body_of(pattern)
    if feature := _unsupported(body):
        raise RequestError(
            f"The {name} {_short(pattern)} has {feature}, and an automaton cannot have that; write the texts that fit "
            "without it."
        )
    # with every byte outlines-core never lacks a token; what only these reach is left out by the reader
    single = [byte for byte in (bytes([value]) for value in range(256)) if byte not in set(tokens)]
    output = _run(body, [*tokens, *single], False, name, pattern, seconds)
    numbers = torch.frombuffer(bytearray(output), dtype=torch.int64)
    start, count = numbers[:2].tolist()
    edges = numbers[2 + count :].view(-1, 3)
    return Table(start, numbers[2 : 2 + count].tolist(), edges[edges[:, 1] < len(tokens)])


def body_of(pattern: str) -> str:
    """A regular expression -> the same without ^ at its beginning and $ at its end, which a whole text needs not."""
    return re.sub(r"(?<!\\)((?:\\\\)*)\$$", r"\1", pattern.removeprefix("^"))


def regex_of_schema(schema: str, *, seconds: float = SECONDS) -> str:
    """The JSON of a schema -> a regular expression of JSON texts that fit it.

    Keywords that the library ignores have to be refused before, see `hf.schemas`.
    """
    return _run(schema, [], True, "JSON schema", schema, seconds).decode()


def _run(text: str, tokens: Sequence[bytes], schema: bool, name: str, shown: str, seconds: float) -> bytes:
    """A text for the child process -> its output. `shown` is the text as it was given, for sentences."""
    if find_spec("outlines_core") is None:
        raise RequestError(f"A {name} needs outlines-core: pip install 'unmask[constrain]'.")
    content = text.encode("utf-8", "surrogatepass")
    header = array("q", [MEMORY, STATES, EDGES, schema, len(tokens), len(content), *map(len, tokens)])
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-B", str(_SCRIPT)],
            input=header.tobytes() + content + b"".join(tokens),
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RequestError(
            f"The {name} {_short(shown)} takes more than {seconds:g} s to compile; write a simpler one."
        ) from None
    if done.returncode == 0:
        return done.stdout
    reason = done.stderr.decode("utf-8", "replace")
    if done.returncode == 3:
        raise RequestError(f"The {name} {_short(shown)} cannot be compiled: {_first_line(reason)}")
    if done.returncode == 4:
        raise RequestError(
            f"The {name} {_short(shown)} has {reason}, of at most {STATES:,} and {EDGES:,}; write a simpler one."
        )
    raise RequestError(
        f"The {name} {_short(shown)} needs more than {bytes_text(MEMORY)} to compile; write a simpler one."
    )


def _first_line(reason: str) -> str:
    """The message of outlines-core -> its first line as the end of a sentence."""
    line = reason.strip().splitlines()[0] if reason.strip() else "outlines-core refuses it"
    if "error building NFA" in line:
        line = "it is no regular expression of the Rust crate regex (a bracket, a repetition or a group is wrong)"
    return line.rstrip(". ") + "."


def _short(text: str) -> str:
    """A text for a sentence: as a literal, cut after 60 characters."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _unsupported(pattern: str) -> str:
    """A regular expression -> what it has that no automaton can, such as "look-ahead ((?=)"; "" if it has nothing."""
    at, inside = 0, False
    while at < len(pattern):
        sign = pattern[at]
        if sign == "\\":
            following = pattern[at + 1 : at + 2]
            if not inside and following in _ESCAPES and following:
                return f"{_ESCAPES[following]} (\\{following})"
            at += 1
        elif inside:
            inside = sign != "]"
        elif sign == "[":
            inside = True
            at += len(re.match(r"\^?\]?", pattern[at + 1 :])[0])  # pyright: ignore[reportOptionalSubscript]
        elif sign in "^$":
            return f"an anchor ({sign}) inside, where the whole text has to fit anyway"
        elif sign == "(":
            for begin, feature in _GROUPS.items():
                if pattern.startswith(begin, at):
                    return f"{feature} ({begin}...)"
        at += 1
    return ""
