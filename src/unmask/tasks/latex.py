r"""Answers of mathematical problems in LaTeX: which of a text is its answer, and whether two answers are the same.

The answer of a text is its last `\boxed{...}`, else its last `<answer>...</answer>`, else what follows the last
"answer is". Two answers are the same if one of these holds, in this order:

- their texts are equal without spaces, `\left`, `\text`, a label (`x =`, `x \in`), units, degrees, `%` and `\$`, as in
  the program of MATH (arXiv:2103.03874) and of Minerva (arXiv:2206.14858, appendix D);
- both are lists of equally many members that are the same: tuples, intervals, matrices and unions in their order, sets
  and lists without brackets in any order;
- both are numbers (`tasks.numbers`), and these are equal;
- both are expressions of numbers, letters, `+ - * / ^`, `\frac`, `\sqrt`, `\pi`, and their values are equal at
  three points.

No computer algebra is needed, so that the verifier is small and has a bounded time. Values are compared in floating
point: expressions that differ by less than one part in 10^9 count as equal.
"""

__all__ = ["answer_in", "same_answer"]

import cmath
import math
import re

from unmask.tasks.numbers import last_box, parse_number

_LONGEST = 400
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_ANSWER_IS = re.compile(r"\banswer\s+is\b\s*:?\s*(.*?)(?:\.(?=\s|$)|\n|$)", re.IGNORECASE)

_CLEANING = [
    (r"\\\\(?:\[[^\]]*\])?", ";"),  # the end of a row of a matrix
    (r"\{,\}|(?<=[0-9]),\s*\\!\s*(?=[0-9]{3})", ","),
    (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle)(?![A-Za-z])", ""),
    (r"\\[,;:! ]|\\q?quad(?![A-Za-z])|~|\\(?=\s)|[\u00a0\u2009\u202f]", " "),
    (r"[\u2212\u2013\uff0d]", "-"),
    (r"\\[()\[\]]|\\?[$%]", ""),
    (r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])|°", ""),
    (r"\\(?:times|cdot)(?![A-Za-z])", "*"),
    (r"\\div(?![A-Za-z])", "/"),
    (r"\\[dtc]frac", r"\\frac"),
    (r"\\lbrace(?![A-Za-z])", r"\\{"),
    (r"\\rbrace(?![A-Za-z])", r"\\}"),
    (r"\+\s*\\infty", r"\\infty"),
    (r"\\le(?:q|qslant)?(?![A-Za-z])", r"\\le "),
    (r"\\ge(?:q|qslant)?(?![A-Za-z])", r"\\ge "),
]
_WORDS = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|hbox)\s*\{([^{}]*)\}")
_UNIT = re.compile(rf"(?<=[^\s(\[{{,])\s*{_WORDS.pattern}(?:\s*\^\s*\{{?[23]\}}?)?\s*$")
_LABEL = re.compile(r"^\s*(?:\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([A-Za-z,\s]+\))?)\s*(?:=|\\in(?![A-Za-z]))\s*")
_THOUSANDS = re.compile(r"(?<![0-9,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])")
_MATRIX = re.compile(r"^\\begin\{([pbvBV]?matrix)\}(.*)\\end\{\1\}$", re.DOTALL)


def answer_in(text: str) -> str | None:
    """A worked answer -> its final answer as it is written; None if it has none."""
    box = last_box(text)
    if box is not None:
        return box.strip() or None
    answers = _TAG.findall(text) or _ANSWER_IS.findall(text)
    return answers[-1].strip() or None if answers else None


def same_answer(first: str, second: str) -> bool:
    """Two final answers -> whether they are the same by the rules of this module; an empty one is none."""
    if max(len(first), len(second)) > 2 * _LONGEST:
        return False
    return _same(_cleaned(first), _cleaned(second), 0)


def _same(first: str, second: str, depth: int) -> bool:
    if max(len(first), len(second)) > _LONGEST or depth > 4 or not first or not second:
        return False
    if _bare(first) == _bare(second):
        return True
    left, right = _members(first), _members(second)
    if left is not None or right is not None:
        return left is not None and right is not None and left[0] == right[0] and _same_members(left, right, depth)
    numbers = parse_number(first), parse_number(second)
    if None not in numbers:
        return numbers[0] == numbers[1]
    return all(_close(first, second, point) for point in range(3))


def _same_members(left: tuple[str, list[str]], right: tuple[str, list[str]], depth: int) -> bool:
    """Two lists of the same sort -> whether their members are the same."""
    rest = list(right[1])
    if len(left[1]) != len(rest):
        return False
    for member in left[1]:
        places = range(len(rest)) if left[0] in ("list", "{}") else range(1)
        at = next((at for at in places if _same(_cleaned(member), _cleaned(rest[at]), depth + 1)), None)
        if at is None:
            return False
        rest.pop(at)
    return True


# ---- texts -----------------------------------------------------------------------------------------------------------


def _cleaned(text: str) -> str:
    """An answer -> the same without what does not change it."""
    text = text.strip()
    for pattern, plain in _CLEANING:
        text = re.sub(pattern, plain, text)
    text = _WORDS.sub(r" \1", _UNIT.sub("", text)).strip().rstrip(".,;: ")
    return _LABEL.sub("", text).strip()


def _bare(text: str) -> str:
    """A cleaned answer -> its text without spaces, braces around one sign, and parentheses around one letter."""
    text = re.sub(r"\s+", "", text)
    text = re.sub(r"\{(\w)\}", r"\1", text)
    letter = re.fullmatch(r"\(?([A-Za-z])\)?", text)
    return letter[1] if letter else text.lower() if re.fullmatch(r"[A-Za-z]{2,}", text) else text


def _members(text: str) -> tuple[str, list[str]] | None:
    """A cleaned answer -> (sort, members) of a tuple, interval, set, matrix, union or list; None for anything else."""
    if matrix := _MATRIX.match(text):
        return matrix[1], [cell for row in matrix[2].split(";") if row.strip() for cell in [*row.split("&"), "|"]]
    if len(parts := _split(text, r"\\cup(?![A-Za-z])")) > 1:
        return "union", parts
    for opening, closing in ((r"\{", r"\}"), ("(", ")"), ("(", "]"), ("[", ")"), ("[", "]")):
        inside = text[len(opening) : -len(closing)]
        if text.startswith(opening) and text.endswith(closing) and len(parts := _split(inside, ",")) > 1:
            return (opening + closing).replace("\\", ""), parts
    whole = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)
    parts = _split(whole, r",|\band\b|\bor\b")
    return ("list", [part for part in parts if part.strip()]) if len(parts) > 1 else None


def _split(text: str, separator: str) -> list[str]:
    """A text -> its parts between separators that stand outside of brackets."""
    parts, depth, start = list[str](), 0, 0
    for match in re.finditer(rf"(?P<open>\\?\{{|[(\[])|(?P<close>\\?\}}|[)\]])|{separator}", text):
        depth += bool(match["open"]) - bool(match["close"])
        if not depth and not match["open"] and not match["close"]:
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]


# ---- values ----------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d*)?|\.\d+)|(\\[A-Za-z]+|[A-Za-z])|([-+*/^(){}\[\]!]))")
_CONSTANTS = {"\\pi": math.pi, "π": math.pi, "i": 1j, "e": math.e}
_DEEPEST = 30


def _close(first: str, second: str, point: int) -> bool:
    """Two expressions and the number of a point -> whether both have a value there, and these are equal."""
    left, right = _Expression(first, point).value(), _Expression(second, point).value()
    return left is not None and right is not None and cmath.isclose(left, right, rel_tol=1e-9, abs_tol=1e-12)


class _Expression:
    """An expression in LaTeX, read from left to right, with a number for each letter."""

    def __init__(self, text: str, point: int) -> None:
        self._point, self._at, self._deep = point, 0, 0
        self._tokens: list[str] = []
        text = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text).replace("π", r"\pi ")
        end = 0
        while (match := _TOKEN.match(text, end)) is not None:
            self._tokens.append(match[0].strip())
            end = match.end()
        self._whole = not text[end:].strip()

    def value(self) -> complex | None:
        """Its value; None where it is not understood, or has none."""
        try:
            value = self._sum() if self._whole and self._tokens else None
        except (_Unknown, ArithmeticError, ValueError):
            return None
        return value if value is not None and self._next() is None and cmath.isfinite(value) else None

    def _next(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self, token: str) -> bool:
        """Go past a token if it is the next one."""
        same = self._next() == token
        self._at += same
        return same

    def _sum(self) -> complex:
        self._deep += 1
        if self._deep > _DEEPEST:
            raise _Unknown
        value = self._product()
        while self._next() in ("+", "-"):
            sign = -1 if self._take("-") else 1
            self._at += sign == 1
            value += sign * self._product()
        self._deep -= 1
        return value

    def _product(self) -> complex:
        """Factors with or without a sign between them."""
        if self._take("-"):
            return -self._product()
        self._take("+")
        value = self._power()
        while (token := self._next()) is not None and token not in ("+", "-", ")", "}", "]"):
            divides = self._take("/")
            if divides or self._take("*"):
                sign = -1 if self._take("-") else 1
                factor = sign * self._power()
            else:
                factor = self._power()
            value = value / factor if divides else value * factor
        return value

    def _power(self) -> complex:
        before = self._next() or ""
        value = self._atom()
        if before.replace(".", "").isdigit() and self._next() == "\\frac":  # a mixed number: 1 \frac{1}{2}
            value += self._atom()
        if self._take("^"):
            sign = -1 if self._take("-") else 1
            value **= sign * self._atom()
        return value

    def _atom(self, *, short: bool = False) -> complex:
        """A number, a letter, a group or a command; with `short` a number is one digit, as in \\frac12."""
        token = self._next()
        self._at += 1
        if token is None:
            raise _Unknown
        if token in ("(", "{", "["):
            value = self._sum()
            if not self._take({"(": ")", "{": "}", "[": "]"}[token]):
                raise _Unknown
            return value
        if token == "\\frac":
            return self._atom(short=True) / self._atom(short=True)
        if token == "\\sqrt":
            order = self._atom() if self._next() == "[" else 2
            return self._atom(short=True) ** (1 / order)
        if token in _CONSTANTS:
            return _CONSTANTS[token]
        if token[0].isdigit() or token[0] == ".":
            return float(self._digit(token) if short else token)
        if len(token) == 1 and token.isalpha():
            return 0.3 + 1.7 * math.sin(ord(token) * (self._point + 1.37)) ** 2
        raise _Unknown

    def _digit(self, token: str) -> str:
        """The first digit of a number; the others stay to be read."""
        if len(token) > 1 and token.isdigit():
            self._at -= 1
            self._tokens[self._at] = token[1:]
        return token[0] if token.isdigit() else token


class _Unknown(Exception):
    """What is not understood."""
