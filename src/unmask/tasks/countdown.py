"""Countdown: reach a target from given numbers with + - * and /, each number used exactly once.

As in the published task for language models (Stream of Search, arXiv:2404.03683; d1, arXiv:2504.12216) all numbers have
to be used, unlike in the game show. With numbers up to 99 the prompt `3,17,42=62_____:` may be answered with
`42+17+3___`: any expression that is right counts. Problems are made from an expression whose intermediate values are
positive whole numbers, so each has a solution; an answer may go through fractions and negative values all the same.
"""

__all__ = ["Countdown", "evaluate"]

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import add, mul, sub, truediv
from random import Random

from unmask.errors import RequestError
from unmask.noise import derive
from unmask.tasks.base import TAIL, Example, Verdict, check_split

_STREAM = 0xC0DE
_TRIES = 10_000
_OPERATIONS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {"+": add, "-": sub, "*": mul, "/": truediv}
_RANK = {"+": 1, "-": 1, "*": 2, "/": 2}
_TOKEN = re.compile(r"\s*([0-9]{1,9}(?![0-9])|[-+*/()])")
_Term = tuple[int, str, int]  # value, text, and the rank of its outermost operation: 3 for a number alone


@dataclass(frozen=True, slots=True)
class Countdown:
    """Reach a target from given numbers with + - * and /, each exactly once: many answers are right.

    So many `numbers` from 1 to `largest`; the target lies between `low` and `high`.
    """

    numbers: int = 3
    largest: int = 99
    low: int = 10
    high: int = 99

    def __post_init__(self) -> None:
        if not 2 <= self.numbers <= 8:
            raise RequestError(f"numbers is {self.numbers}; give from 2 to 8.")
        if not 2 <= self.largest <= 9999:
            raise RequestError(f"largest is {self.largest}; give from 2 to 9999.")
        if not 1 <= self.low <= self.high <= 99_999:
            raise RequestError(
                f"low is {self.low} and high is {self.high}; give targets from 1 to 99999, low not above high."
            )

    @property
    def name(self) -> str:
        return f"countdown:numbers={self.numbers},largest={self.largest},low={self.low},high={self.high}"

    def examples(self, split: str, count: int, seed: int = 0) -> Sequence[Example]:
        """Problems; `facts` has the "numbers" and the "target"."""
        options = (self.numbers, self.largest, self.low, self.high)
        chance = Random(derive(seed, _STREAM, check_split(split), *options))
        return [self._draw(chance) for _ in range(count)]

    def verify(self, example: Example, completion: str) -> Verdict:
        """Right where it is an expression of the given numbers, each once, that has the target as its exact value.

        Spaces, and underscores behind the expression, do not matter; a sign needs a number on either side.
        """
        text = completion.rstrip(TAIL + " \n")
        try:
            used, value = evaluate(text)
        except RequestError as error:
            return Verdict(0.0, str(error))
        given, target = sorted(example.facts["numbers"]), example.facts["target"]
        if sorted(used) != given:
            return Verdict(0.0, f"'{text}' does not use each of {', '.join(map(str, given))} once")
        return Verdict(1.0) if value == target else Verdict(0.0, f"'{text}' is {value}, not {target}")

    def pairs(self, split: str, count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
        """Numbers and target, then the expression that the problem was made from."""
        return ((one.template.split("[")[0], one.answer) for one in self.examples(split, count, seed))

    def _draw(self, chance: Random) -> Example:
        for _ in range(_TRIES):
            numbers = [chance.randint(1, self.largest) for _ in range(self.numbers)]
            target, expression, _ = _combined(numbers, chance)
            if self.low <= target <= self.high:
                break
        else:
            raise RequestError(
                f"no problem was found for {self.name} in {_TRIES:,} tries; widen low and high, or change the numbers."
            )
        digits, most = len(str(self.largest)), len(str(self.high))
        asked = f"{','.join(map(str, numbers))}={target}".ljust(self.numbers * (digits + 1) + most, TAIL)
        # a pair of parentheses for each operation, but for the outermost and at most that: all that may be needed
        places = self.numbers * digits + (self.numbers - 1) + 2 * (self.numbers - 2)
        facts = {"numbers": numbers, "target": target}
        return Example(f"{asked}:[{places}]", expression.ljust(places, TAIL), facts)


def _combined(numbers: Sequence[int], chance: Random) -> _Term:
    """An expression of all the numbers with positive whole values on the way."""
    terms: list[_Term] = [(number, str(number), 3) for number in numbers]
    while len(terms) > 1:
        one, two = (terms.pop(chance.randrange(len(terms))) for _ in range(2))
        if one[0] < two[0]:
            one, two = two, one
        signs = ["+", "*"]
        signs += ["-"] if one[0] > two[0] else []
        signs += ["/"] if one[0] % two[0] == 0 else []
        terms.append(_joined(one, chance.choice(signs), two))
    return terms[0]


def _joined(one: _Term, sign: str, two: _Term) -> _Term:
    """Two terms with a sign between them and no more parentheses than are needed."""
    rank = _RANK[sign]
    left = f"({one[1]})" if one[2] < rank else one[1]
    right = f"({two[1]})" if two[2] < rank or (two[2] == rank and sign in "-/") else two[1]
    a, b = Fraction(one[0]), Fraction(two[0])
    return int(_OPERATIONS[sign](a, b)), f"{left}{sign}{right}", rank


def evaluate(text: str) -> tuple[list[int], Fraction]:
    """The numbers in an expression of + - * / and parentheses, and its exact value.

    Two stacks, no recursion and nothing of Python's own evaluation, so that any text may be given. Raises RequestError,
    with the reason, for what is no expression or divides by zero.
    """
    used: list[int] = []
    values: list[Fraction] = []
    signs: list[str] = []
    wants_number = True
    for token in _tokens(text):
        if token.isdigit() and wants_number:
            used.append(int(token))
            values.append(Fraction(used[-1]))
            wants_number = False
        elif token == "(" and wants_number:
            signs.append(token)
        elif token == ")" and not wants_number:
            _reduce(values, signs, 1)
            if not signs:
                raise RequestError(f"'{text}' closes a parenthesis that is not open")
            signs.pop()
        elif token in _RANK and not wants_number:
            _reduce(values, signs, _RANK[token])
            signs.append(token)
            wants_number = True
        else:
            raise RequestError(f"'{text}' is not an expression: '{token}' cannot stand where it does")
    if wants_number or "(" in signs:
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
    """Work out the operations on top that bind at least as strongly as `rank`, back to an open parenthesis."""
    while signs and signs[-1] != "(" and _RANK[signs[-1]] >= rank:
        sign, right, left = signs.pop(), values.pop(), values.pop()
        if sign == "/" and right == 0:
            raise RequestError("the expression divides by zero")
        values.append(_OPERATIONS[sign](left, right))
