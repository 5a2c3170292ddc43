r"""A worked answer -> its final number, exactly: `\boxed{1,000}` is 1000, `\frac{3}{4}` is 3/4.

The final number is, in this order: the last `\boxed{...}`; the last line `#### x` that is a number; the last
`<answer>x</answer>`; what follows the last "answer is"; the last number of the text. A box or a tag without a number
means that there is no final number, even if the text has others. Values are `Fraction`s: 0.1 is 1/10, and 0.33 is not
1/3.

The text of a box, line or tag is read as a whole: one number, possibly with a label (`x =`, `Total:`), a sign, a
currency, separators between groups of three digits, and a percent sign or a unit after it. Units are dropped and not
converted (20% is 20, 50 cents is 50), except the words hundred to trillion, which multiply. Anything that is not
exactly one number (`3, 4`, `5:30`, `2\pi`, `10^3`, `2x`) is no number.
"""

__all__ = ["final_number", "parse_number"]

import re
from fractions import Fraction

_DIGITS = 60  # longer numbers are not answers, and slow to read
_WORDS = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_NO_UNITS = frozenset({"e", "half", "i", "k", "n", "pi", "x", "y", "z"})  # after a number these change its value

_CURRENCY = "[$€£¥₹]"
_PLAIN = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)"
_WHOLE = re.compile(
    rf"\s*{_CURRENCY}?\s*(?P<sign>[-+]?)\s*{_CURRENCY}?\s*"
    rf"(?:(?P<units>[0-9]+)\s+(?=[0-9]+\s*/))?(?P<top>{_PLAIN})(?:\s*/\s*(?P<bottom>{_PLAIN}))?(?P<rest>.*)",
    re.DOTALL,
)
_LOOSE = re.compile(  # a number in running text; its sign has to touch it, and must not follow a number (a subtraction)
    rf"(?:(?<![\w)\]}}%.])(?P<sign>[-+]))?(?:(?<![\w^.])|(?<=[-+])){_CURRENCY}?(?:(?<={_CURRENCY})(?P<inner>[-+]))?"
    rf"(?:(?P<units>[0-9]+) (?=[0-9]+/[0-9]))?(?P<top>{_PLAIN})(?:/(?P<bottom>{_PLAIN}))?(?![0-9^²³])"
)
_EXPONENT = re.compile(r"(?<=[A-Za-z])\^?\{?[23²³]\}?(?![0-9])")  # of a unit: m^2, cm²
_LABEL = re.compile(r"[^0-9:]*:(?!//)")

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_BARE = re.compile(r"[-+]?[0-9][0-9,./]*")
_HASHES = re.compile(r"####([^\n]*)")
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_ANSWER_IS = re.compile(r"\banswer\s+is\b\s*:?\s*(.*?)(?:[.!?](?=\s|$)|\n|$)", re.IGNORECASE)

_SPACE = "[\u00a0\u2009\u202f]"
_CLEANING = [
    ("[\u2212\u2013\uff0d]", "-"),
    (rf"(?<=[0-9])(?:{_SPACE}|\\,|\{{,\}}|,\\!)(?=[0-9]{{3}}(?![0-9]))", ","),  # between groups of three digits
    (rf"{_SPACE}|\\[,;:! ()\[\]]|\\left|\\right|\\quad|~|`|\*\*", " "),
    (r"\^\s*\{?\s*\\circ\s*\}?|\\degree", "°"),
    (r"\\([$%])", r"\1"),
    (r"\\approx", "="),
    ("≈", "="),
]
_NAMED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_FRACTION = re.compile(
    rf"(?P<before>[0-9]?)\s*\\[dtc]?frac\s*(?:\{{\s*(-?{_PLAIN})\s*\}}|([0-9]))\s*(?:\{{\s*({_PLAIN})\s*\}}|([0-9]))"
)


def final_number(text: str) -> Fraction | None:
    """A text -> its final number by the rules of this module; None if it has none."""
    box = _last_box(text)
    if box is not None:
        return parse_number(box)
    for line in reversed(_HASHES.findall(text)):
        if (number := parse_number(line)) is not None:
            return number
    if tags := _TAG.findall(text):
        return parse_number(tags[-1])
    for answer in reversed(_ANSWER_IS.findall(text)):
        number = parse_number(answer)
        if number is None:
            number = next(iter(_loose_numbers(answer.rpartition("=")[2])), None)
        if number is not None:
            return number
    return next(iter(reversed(_loose_numbers(text))), None)


def parse_number(text: str) -> Fraction | None:
    """A short text -> the one number that it states, see the module docstring; None if it is not one number."""
    clean = _cleaned(text).strip().rstrip(".,;:!\"' ")
    clean = clean.rpartition("=")[2].strip()
    if label := _LABEL.match(clean):
        clean = clean[label.end() :].strip()
    while clean[:1] + clean[-1:] in ("()", "{}", "$$", '""', "''"):
        if len(clean) < 2:
            return None
        clean = clean[1:-1].strip()
    clean = re.sub(r"(?<![0-9])[0-9]{1,3}(?: [0-9]{3})+(?![0-9/])", lambda match: match[0].replace(" ", ","), clean)
    match = _WHOLE.fullmatch(clean)
    if match is None:
        return None
    factor = _factor(match["rest"])
    return None if factor is None else _value(match, match["sign"], factor)


def _factor(rest: str) -> int | None:
    """The text after a number -> its factor: 1 for a unit, 10**6 for million; None if it is neither."""
    rest = _EXPONENT.sub("", rest)
    if re.search(r"[0-9\\^=*+<>_²³½¼¾]", rest):
        return None
    words = re.findall(r"[^\W\d_]+", rest.lower())
    if words and (words[0] in _NO_UNITS or "half" in words):
        return None
    factor = 1
    for word in words:
        if word not in _WORDS:
            break
        factor *= _WORDS[word]
    return factor


def _value(match: re.Match[str], sign: str | None, factor: int = 1) -> Fraction | None:
    """The groups of a match -> their value; None for a division by zero, or more than 60 digits."""
    parts = [(match[name] or "").replace(",", "") for name in ("units", "top", "bottom")]
    if max(map(len, parts)) > _DIGITS:
        return None
    units, top = Fraction(parts[0] or 0), _fraction(parts[1])
    bottom = _fraction(parts[2]) if parts[2] else Fraction(1)
    if bottom == 0:
        return None
    return (-1 if sign == "-" else 1) * (units + top / bottom) * factor


def _fraction(text: str) -> Fraction:
    return Fraction(f"0{text}0" if "." in text else text)  # adds the missing digit of .5 and 5.


def _loose_numbers(text: str) -> list[Fraction]:
    """Running text -> all its numbers, in order."""
    clean, numbers = _cleaned(text), list[Fraction]()
    for match in _LOOSE.finditer(clean):
        word = re.match(r"\s+([a-z]+)", clean[match.end() : match.end() + 20])
        value = _value(match, match["sign"] or match["inner"], _WORDS.get(word[1], 1) if word else 1)
        if value is not None:
            numbers.append(value)
    return numbers


def _cleaned(text: str) -> str:
    """A text -> the same with LaTeX for numbers, signs and spaces as plain characters; other LaTeX is kept."""
    for pattern, plain in _CLEANING:
        text = re.sub(pattern, plain, text)
    for _ in range(4):  # levels of nesting
        text = _NAMED.sub(r" \1", text)
    return _FRACTION.sub(_written_fraction, text)


def _written_fraction(match: re.Match[str]) -> str:
    r"""`\frac{3}{4}` -> 3/4, and `1\frac{1}{2}` -> 1 1/2."""
    before, *parts = match.groups()
    top, bottom = (parts[0] or parts[1]), (parts[2] or parts[3])
    return f"{before} {top}/{bottom}" if before else f"{top}/{bottom}"


def _last_box(text: str) -> str | None:
    r"""The content of the last `\boxed`; a box whose brace is not closed does not count."""
    for match in reversed(list(_BOX.finditer(text))):
        if text[match.end() : match.end() + 1] != "{":
            bare = _BARE.match(text, match.end())
            if bare is not None:
                return bare[0]
            continue
        depth = 0
        for brace in re.finditer(r"(?<!\\)[{}]", text[match.end() :]):
            depth += 1 if brace[0] == "{" else -1
            if depth == 0:
                return text[match.end() + 1 : match.end() + brace.start()]
    return None
