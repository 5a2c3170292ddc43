"""Countdown: write an expression of the problem's numbers with + - * and / whose value is the target.

As in the published task for language models (Stream of Search, arXiv:2404.03683; d1, arXiv:2504.12216) every number
must be used exactly once, unlike in the television game. With numbers up to 99 a right answer to `3,17,42=62_____:` is
`42+17+3___`; every expression with the right value is accepted. Problems are made from an expression whose intermediate
values are positive whole numbers, so each has a solution. An answer may have fractions and negative values on the way.
"""

__all__ = ["Countdown", "evaluate"]

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import add, mul, sub, truediv
from random import Random
from typing import Annotated

from unmask.errors import RequestError
from unmask.noise import derive
from unmask.ranges import check_numbers, whole
from unmask.tasks.base import TAIL, Example, Verdict, check_split

_STREAM = 0xC0DE
_TRIES = 10_000
_OPERATIONS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {"+": add, "-": sub, "*": mul, "/": truediv}
_RANK = {"+": 1, "-": 1, "*": 2, "/": 2}
_TOKEN = re.compile(r"\s*([0-9]{1,9}(?![0-9])|[-+*/()])")
_Term = tuple[int, str, int]  # value, text, and the rank of its outermost operation: 3 for a single number


@dataclass(frozen=True, slots=True)
class Countdown:
    """Reach a target from some numbers with + - * and /, each used exactly once: many answers are right.

    A problem has `numbers` whole numbers from 1 to `largest`, and a target from `low` to `high`.
    """

    numbers: Annotated[int, whole(2, 8)] = 3
    largest: Annotated[int, whole(2, 9999)] = 99
    low: Annotated[int, whole(1, 99_999)] = 10
    high: Annotated[int, whole(1, 99_999)] = 99

    def __post_init__(self) -> None:
        check_numbers(self, error=RequestError)
        if self.low > self.high:
            raise RequestError(f"low is {self.low} and high is {self.high}; give a low that is not above high.")

    @property
    def name(self) -> str:
        return f"countdown:numbers={self.numbers},largest={self.largest},low={self.low},high={self.high}"

    def examples(self, split: str, count: int, seed: int = 0) -> Sequence[Example]:
        """Problems; `facts` holds the "numbers" and the "target"."""
        return list(self._drawn(split, count, seed))

    def verify(self, example: Example, completion: str) -> Verdict:
        """Right if it is an expression of the problem's numbers, each used once, with the target as its exact value.

        Spaces, and underscores after the expression, are ignored; a sign needs a number on either side.
        """
        text = completion.rstrip(TAIL + " \n")
        try:
            used, value = evaluate(text)
        except RequestError as error:
            return Verdict(0.0, str(error))
        numbers, target = sorted(example.facts["numbers"]), example.facts["target"]
        if sorted(used) != numbers:
            return Verdict(0.0, f"'{text}' does not use each of {', '.join(map(str, numbers))} once")
        return Verdict(1.0) if value == target else Verdict(0.0, f"'{text}' is {value}, not {target}")

    def pairs(self, split: str, count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
        """Numbers and target, and the expression from which the problem was made."""
        return ((example.template.split("[")[0], example.answer) for example in self._drawn(split, count, seed))

    def _drawn(self, split: str, count: int, seed: int) -> Iterator[Example]:
        """The problems of `examples`, one after the other."""
        options = (self.numbers, self.largest, self.low, self.high)
        generator = Random(derive(seed, _STREAM, check_split(split), *options))
        return (self._draw(generator) for _ in range(count))

    def _draw(self, generator: Random) -> Example:
        for _ in range(_TRIES):
            numbers = [generator.randint(1, self.largest) for _ in range(self.numbers)]
            target, expression, _ = _combined(numbers, generator)
            if self.low <= target <= self.high:
                break
        else:
            raise RequestError(
                f"no problem was found for {self.name} in {_TRIES:,} tries; widen low and high, or change the numbers."
            )
        digits, most = len(str(self.largest)), len(str(self.high))
        prompt = f"{','.join(map(str, numbers))}={target}".ljust(self.numbers * (digits + 1) + most, TAIL)
        # digits, signs, and one pair of parentheses for each operation but the outermost: an upper bound
        letters = self.numbers * digits + (self.numbers - 1) + 2 * (self.numbers - 2)
        facts = {"numbers": numbers, "target": target}
        return Example(f"{prompt}:[{letters}]", expression.ljust(letters, TAIL), facts)


def _combined(numbers: Sequence[int], generator: Random) -> _Term:
    """A random expression of all the numbers whose intermediate values are positive whole numbers."""
    terms: list[_Term] = [(number, str(number), 3) for number in numbers]
    while len(terms) > 1:
        left, right = (terms.pop(generator.randrange(len(terms))) for _ in range(2))
        if left[0] < right[0]:
            left, right = right, left
        signs = ["+", "*"]
        signs += ["-"] if left[0] > right[0] else []
        signs += ["/"] if left[0] % right[0] == 0 else []
        terms.append(_joined(left, generator.choice(signs), right))
    return terms[0]


def _joined(left: _Term, sign: str, right: _Term) -> _Term:
    """Two terms and a sign -> their joined term, with parentheses only if they are needed."""
    rank = _RANK[sign]
    before = f"({left[1]})" if left[2] < rank else left[1]
    after = f"({right[1]})" if right[2] < rank or (right[2] == rank and sign in "-/") else right[1]
    value = _OPERATIONS[sign](Fraction(left[0]), Fraction(right[0]))
    return int(value), f"{before}{sign}{after}", rank


def evaluate(text: str) -> tuple[list[int], Fraction]:
    """An expression of whole numbers, + - * / and parentheses -> its numbers in order, and its exact value.

    Any text may be passed: two stacks, no recursion, and no evaluation by Python.

    Raises:
        RequestError: with the reason, if the text is not an expression or divides by zero.
    """
    used: list[int] = []
    values: list[Fraction] = []
    signs: list[str] = []
    expects_number = True
    for token in _tokens(text):
        if token.isdigit() and expects_number:
            used.append(int(token))
            values.append(Fraction(used[-1]))
            expects_number = False
        elif token == "(" and expects_number:
            signs.append(token)
        elif token == ")" and not expects_number:
            _reduce(values, signs, 1)
            if not signs:
                raise RequestError(f"'{text}' closes a parenthesis that is not open")
            signs.pop()
        elif token in _RANK and not expects_number:
            _reduce(values, signs, _RANK[token])
            signs.append(token)
            expects_number = True
        else:
            raise RequestError(f"'{text}' is not an expression: '{token}' cannot stand where it does")
    if expects_number or "(" in signs:
        raise RequestError(f"'{text}' is not a whole expression" if text else "nothing was written")
    _reduce(values, signs, 1)
    return used, values[0]


def _tokens(text: str) -> Iterator[str]:
    at, end = 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            raise RequestError(f"'{text}' is not an expression of numbers, + - * / and parentheses")
        yield match[1]
        at = match.end()


def _reduce(values: list[Fraction], signs: list[str], rank: int) -> None:
    """Apply the top operations of rank `rank` or higher, down to the last open parenthesis."""
    while signs and signs[-1] != "(" and _RANK[signs[-1]] >= rank:
        sign, right, left = signs.pop(), values.pop(), values.pop()
        if sign == "/" and right == 0:
            raise RequestError("the expression divides by zero")
        values.append(_OPERATIONS[sign](left, right))
