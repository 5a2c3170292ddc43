r"""A worked answer -> its final number, exactly: `\boxed{1,000}` is 1000, `\frac{3}{4}` is 3/4, `1.5e3` is 1500.

The final number is read at one place, the first of these that the text has: the last `\boxed{...}`; the last line
`#### x` that begins with a number; the last `<answer>x</answer>`; the first number of the sentence after the last
"answer is" that has one; the last number of the text. What stands at this place is read as a whole. If it is not
exactly one number, there is no final number, even if the text has others: part of a number is never the number.
Values are `Fraction`s: 0.1 is 1/10, and 0.33 is not 1/3.

A number may have a label (`x =`, `Total:`), a sign, a currency, separators between groups of three digits, a fraction
(3/4, 1 1/2), an exponent (`1.5e3`, `3.5 \times 10^6`, at most 300), and a percent sign or a unit after it. Units are
dropped and not converted (20% is 20, 50 cents is 50), except the words hundred to trillion, which multiply. Letters
that touch a number (`18x`, `18k`, `$3M`, `18km`) are not units, except those of an ordinal (`3rd`) and the codes of
currencies. Digits are 0 to 9: a number with other digits or with a vulgar fraction (`18½`) is refused, as are lists,
ranges, dates and times (`3, 4`, `12,5`, `3-5`, `5:30`), and arithmetic without its result (`2\pi`, `3 * 6`).
"""

__all__ = ["final_number", "last_box", "parse_number", "reference_number"]

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

_DIGITS = 60  # longer numbers are not answers, and slow to read
_EXPONENT_LIMIT = 300
_LONGEST = 400  # characters of a run that may be a number
_WORDS = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SMALL = re.compile(  # after "million" these go on with the number
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|"
    "nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
)
_NO_UNIT = re.compile(  # after a number these change its value
    "[eikKMBTnxXyz]|half|halves|pi|bn|mn|mil|lakh|crore|point|squared|cubed|factorial|plus|minus|over"
)

_SYMBOLS = "$€£¥₹₩₽¢"
_CODES = "USD|EUR|GBP|JPY|CNY|INR|CHF|CAD|AUD"
_CURRENCY = rf"(?:(?:US|CA|AU|NZ|HK)?[{_SYMBOLS}]|{_CODES})"
_PLAIN = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)"
_POWER = (
    r"(?:[eE](?P<e>[-+]?[0-9]+)|\s*[×x*]\s*10\s*(?:\^|\*\*)\s*(?:\{\s*(?P<braced>[-+]?[0-9]+)\s*\}|(?P<bare>[-+]?[0-9]+))"
    r"|\s*[×x*]\s*10(?P<raised>[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+))"
)
_WHOLE = re.compile(
    rf"\s*{_CURRENCY}?\s*(?P<sign>[-+]?)\s*{_CURRENCY}?\s*"
    rf"(?:(?P<units>[0-9]+)\s+(?=[0-9]+\s*/))?(?P<top>{_PLAIN})(?:\s*/\s*(?P<bottom>{_PLAIN})|{_POWER})?(?P<rest>.*)",
    re.DOTALL,
)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_UNIT = re.compile(  # what may touch a number, and what ends it
    rf"(?P<ordinal>st|nd|rd|th)?(?:\s*(?:[%{_SYMBOLS}]|°[CF]?|(?:{_CODES})(?!\w)|/\s*[^\W\d_]{{2,}}))?"
    r"(?P<words>(?:[\s,;:.!?(\"')\]].*)?)",
    re.DOTALL,
)
_UNIT_POWER = re.compile(r"(?<=[A-Za-z])\^?\{?[23²³]\}?(?![0-9])")  # of a unit: m^2, cm²
_MORE = re.compile(
    r"\bhal(?:f|ves)\b|\band\s+(?:an?|one|two|three|four)\s+(?:quarter|third|fourth|fifth|sixth|eighth|tenth)s?\b"
)
_LABEL = re.compile(r"[^0-9:]*:(?!//)")
_REASON = re.compile(r"(?<=[^\W_])\W*\b(?:because|since|as)\b.*", re.DOTALL | re.IGNORECASE)
_EQUALS = re.compile(r"(?<![<>!])=(?!.*=)", re.DOTALL)  # the last of a text

_DIGIT = r"[\d\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u2089\u2150-\u215e]"  # of any script, raised, and vulgar fractions
_NUMERIC = re.compile(_DIGIT)
_OPERATOR = re.compile(rf"[-+*/×÷xX^=]|\*\*|{_CURRENCY}")
_COMPOUND = re.compile(  # "5 feet" before "3 inches": two numbers that state one quantity
    rf"{_DIGIT}\s+(?:{'|'.join(_WORDS)}|(?:dollar|pound|hour|hr|minute|min|day|week|month|year|yard|mile|meter|metre|liter|"
    r"litre|kilometer|kilogram)s?|feet|foot|ft|lbs?|euros?|h|m|km|kg)\s+(?:and\s+)?$",
    re.IGNORECASE,
)
_SECOND = re.compile(
    r"(?:(?:to|or|and|through)|(?!(?:for|in|per|of|from|at|on|after|with|not|by|if|when)\b)[^\W\d_]+)\s*$"
)

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_BARE = re.compile(r"[-+]?[^\s{}$\\]*[0-9][^\s{}$\\]*")
_HASHES = re.compile(r"####([^\n]*)")
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_ANSWER_IS = re.compile(r"\banswer\s+is\b\s*:?\s*(.*?)(?:[.!?](?=\s|$)|\n|$)", re.IGNORECASE)

_SPACE = "[\u00a0\u2009\u202f]"
_CLEANING = [
    ("[\u2212\u2013\uff0d]", "-"),
    (rf"(?<=[0-9])(?:{_SPACE}|\\,|\{{,\}}|,\\!)(?=[0-9]{{3}}(?![0-9]))", ","),  # between groups of three digits
    (r"<<[^<>\n]*>>|</?[A-Za-z][^<>\n]*>", " "),  # the calculator's notes of GSM8K, and tags
    (rf"{_SPACE}|\\\\|\\[,;:! ()\[\]]|\\left|\\right|\\quad|~|`|(?<!10)\*\*|\*\*(?![-+{{0-9])", " "),
    (r"\\(?:boxed|fbox)(?![A-Za-z])\s*\{?", " "),  # a box that is not closed
    (r"\^\s*\{?\s*\\circ\s*\}?|\\degree", "°"),
    (r"\\([$%])", r"\1"),
    (r"\\(?:times|cdot)(?![A-Za-z])", "×"),
    (r"\\approx", "="),
    ("≈", "="),
]
_NAMED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_FRACTION = re.compile(
    rf"(?P<before>[0-9]?)\s*\\[dtc]?frac\s*(?:\{{\s*(-?{_PLAIN})\s*\}}|([0-9]))\s*(?:\{{\s*({_PLAIN})\s*\}}|([0-9]))"
)


def final_number(text: str) -> Fraction | None:
    """A text -> its final number by the rules of this module; None if it has none."""
    box = last_box(text)
    if box is not None:
        return parse_number(box)
    for line in reversed(_HASHES.findall(text)):
        if _begins_with_a_number(line):
            return parse_number(line)
    if tags := _TAG.findall(text):
        return parse_number(tags[-1])
    for answer in reversed(_ANSWER_IS.findall(text)):
        if _NUMERIC.search(answer):
            return _first_number(answer)
    return _last_number(text)


def reference_number(text: str) -> Fraction | None:
    """The worked answer of a data set -> its number; one with a line `#### x` has to state it there."""
    lines = _HASHES.findall(text)
    return parse_number(lines[-1]) if lines and last_box(text) is None else final_number(text)


def parse_number(text: str) -> Fraction | None:
    """A short text -> the one number that it states, see the module docstring; None if it is not one number."""
    clean = _without_label(_cleaned(text))
    while clean[:1] + clean[-1:] in ("()", "{}", "$$", '""', "''"):
        if len(clean) < 2:
            return None
        clean = clean[1:-1].strip()
    clean = re.sub(r"(?<![0-9])[0-9]{1,3}(?: [0-9]{3})+(?![0-9/])", lambda match: match[0].replace(" ", ","), clean)
    match = _WHOLE.fullmatch(clean) if len(clean) <= 10 * _LONGEST else None
    if match is None:
        return None
    factor = _factor(match["rest"], match["top"].isdigit() and not match["bottom"])
    return None if factor is None else _value(match, factor)


def _without_label(clean: str) -> str:
    """A cleaned text -> the same without `Total:`, `x =`, what comes after "because", and the stops at its end."""
    clean = clean.strip().rstrip(".,;:!\"' ")
    if _NUMERIC.search(clean.partition("because")[0]):
        clean = _REASON.sub("", clean)
    if equals := _EQUALS.search(clean):
        clean = clean[equals.end() :].strip()
    label = _LABEL.match(clean)
    return clean[label.end() :].strip() if label else clean


def _factor(rest: str, integer: bool) -> int | None:
    """The text after a number -> its factor: 1 for a unit, 10**6 for million; None if it is neither."""
    unit = _UNIT.fullmatch(_UNIT_POWER.sub("", rest))
    if unit is None or (unit["ordinal"] and not integer):
        return None
    if re.search(r"[\\^=*+<>_×÷]", unit["words"]) or _NUMERIC.search(unit["words"]) or _MORE.search(unit["words"]):
        return None
    words = re.findall(r"[^\W\d_]+", unit["words"])
    if words and (_NO_UNIT.fullmatch(words[0]) or (len(words[0]) == 1 and not words[0].isascii())):
        return None
    words = [word.lower() for word in words]
    factor, scales = 1, 0
    for word in words:
        if word not in _WORDS:
            break
        factor, scales = factor * _WORDS[word], scales + 1
    after = [word for word in words[scales : scales + 2] if word != "and"]
    return None if scales and after and _SMALL.fullmatch(after[0]) else factor


def _value(match: re.Match[str], factor: int) -> Fraction | None:
    """The groups of a match -> their value; None for a division by zero, or a number that is too long."""
    parts = [(match[name] or "").replace(",", "") for name in ("units", "top", "bottom")]
    raised = (match["raised"] or "").translate(_RAISED)
    power = match["e"] or match["braced"] or match["bare"] or raised or "0"
    if max(map(len, parts)) > _DIGITS or len(power) > 4 or abs(int(power)) > _EXPONENT_LIMIT:
        return None
    units, top = Fraction(parts[0] or 0), _fraction(parts[1])
    bottom = _fraction(parts[2]) if parts[2] else Fraction(1)
    if bottom == 0:
        return None
    return (-1 if match["sign"] == "-" else 1) * (units + top / bottom) * Fraction(10) ** int(power) * factor


def _fraction(text: str) -> Fraction:
    return Fraction(f"0{text}0" if "." in text else text)  # adds the missing digit of .5 and 5.


class _Run(NamedTuple):
    """Words of a line that belong together because each has a digit or is an operator, and the text around them."""

    before: str
    words: str
    after: str

    @property
    def number(self) -> Fraction | None:
        """Its number with the words up to the next comma, read as a whole."""
        words, after = self.words.strip("\"'(){}[]*_ "), re.split(r"[.,;:!?(]", self.after, maxsplit=1)[0]
        stopped = self.words.endswith((".", ",", ";", ":", "!", "?"))
        if len(words) > _LONGEST or re.match(r"[/×÷xX^+]\s+[^=\s]", words):
            return None
        words += "}" * (words.count("{") - words.count("}"))  # the one of an exponent
        return parse_number(words if stopped else f"{words} {after}")


def _runs(line: str) -> Iterator[_Run]:
    """A line of a cleaned text -> its runs, in order; punctuation ends a run, and so does a word."""
    tokens = [(match.start(), match.end()) for match in re.finditer(r"\S+", line)]
    first: int | None = None
    for n, (start, end) in enumerate(tokens):
        token = line[start:end]
        numeric = bool(_NUMERIC.search(token))
        joins = numeric or _OPERATOR.fullmatch(token) is not None
        if joins and first is None and token != "-":  # a dash between words
            first = n
        if first is None:
            continue
        last = n if joins else n - 1
        ends = not joins or n == len(tokens) - 1 or (numeric and token[-1] in ",;:.!?")
        words = line[tokens[first][0] : tokens[last][1]]
        if ends and _NUMERIC.search(words):
            dash = re.sub(r"\s+-$", "", words)
            yield _Run(line[: tokens[first][0]], dash, line[tokens[last][1] :] if dash == words else "")
        first = None if ends else first


def _last_number(text: str) -> Fraction | None:
    """Running text -> its last number; None if that is part of something else."""
    for line in reversed(_cleaned(text).splitlines()):
        if _NUMERIC.search(line):
            *_, run = _runs(line)
            return None if _COMPOUND.search(run.before) else run.number
    return None


def _first_number(sentence: str) -> Fraction | None:
    """What follows "answer is" -> its first number, that of `3 * 4 = 12` being 12; None if it is not one number."""
    number = parse_number(sentence)
    if number is not None:
        return number
    clean = _cleaned(sentence).strip()
    head = _REASON.sub("", clean) if _NUMERIC.search(clean.partition("because")[0]) else clean
    runs = list(_runs(head.rpartition("=")[2]))
    if not runs:
        return None
    run, *more = runs
    between = more[0].before[len(run.before) + len(run.words) :] if more else ""
    if re.search(r"\bbetween\s+$", run.before) or (more and _SECOND.fullmatch(between.strip())):
        return None  # a range, alternatives, or 5 feet 3 inches
    return run.number


def _begins_with_a_number(line: str) -> bool:
    """Whether a line `#### x` states a number, well or badly, and is not a heading such as `#### Step 1`."""
    clean = _without_label(_cleaned(line))
    return re.match(rf"[^\w]*(?:(?:{_CODES}|US|[A-Za-z])?\W*{_DIGIT})", clean) is not None


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


def last_box(text: str) -> str | None:
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
