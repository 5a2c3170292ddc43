"""Chains of modular arithmetic: each value depends on the value before it, and only the length of a chain is visible.

A chain starts at a value and adds, subtracts or multiplies, from left to right and modulo p; every intermediate value
is written. With modulus 7 and three steps the prompt `3+5*2-4:` has the answer `=1=2=5`: 3 + 5 = 8 is 1, 1 * 2 is 2,
and 2 - 4 is 5. A chain that is shorter than the canvas is followed by underscores, in the prompt and in the answer. A
factor is never 0, because the values before it would then not matter. A step has the same width in the answer as in
the chain, so that a network finds every operation at the same distance; without the equals signs small networks learn
much later.
"""

__all__ = ["Arithmetic"]

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import add, mul, sub
from random import Random
from typing import Annotated

from unmask.errors import RequestError
from unmask.noise import derive
from unmask.ranges import Count, check_numbers, whole
from unmask.tasks.base import TAIL, Example, Verdict, check_split

_LARGEST, _LONGEST = 1000, 256
_OPERATIONS: dict[str, Callable[[int, int], int]] = {"+": add, "-": sub, "*": mul}
_STREAM = 0xA717


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Chains of +, - and * modulo p with every intermediate value: serial, with an end that is visible in the prompt.

    `length` is the maximum of steps, `shortest` the minimum. Values and operands have as many digits as `modulus` - 1,
    with leading zeros.
    """

    modulus: Annotated[int, whole(2, _LARGEST)] = 7
    length: Annotated[int, whole(1, _LONGEST)] = 16
    shortest: Count = 1

    def __post_init__(self) -> None:
        check_numbers(self, error=RequestError)
        if self.shortest > self.length:
            raise RequestError(f"shortest is {self.shortest}; give from 1 to the length, {self.length}.")

    @property
    def name(self) -> str:
        return f"arithmetic:modulus={self.modulus},length={self.length},shortest={self.shortest}"

    def examples(self, split: str, count: int, seed: int = 0) -> Sequence[Example]:
        """Problems; `facts` holds the number of "steps"."""
        return list(self._drawn(split, count, seed))

    def verify(self, example: Example, completion: str) -> Verdict:
        """Right if every value and the underscores after them are right."""
        if completion == example.answer:
            return Verdict(1.0)
        pairs = zip(completion, example.answer, strict=False)
        first = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(completion), len(example.answer)))
        step = first // self._step_width + 1
        return Verdict(0.0, f"wrong at step {step}" if step <= example.facts["steps"] else "wrong behind the chain")

    def pairs(self, split: str, count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
        """The chain and its values."""
        return ((example.template.split("[")[0], example.answer) for example in self._drawn(split, count, seed))

    def _drawn(self, split: str, count: int, seed: int) -> Iterator[Example]:
        """The problems of `examples`, one after the other."""
        generator = Random(derive(seed, _STREAM, check_split(split), self.modulus, self.length, self.shortest))
        return (self._draw(generator) for _ in range(count))

    @property
    def _digits(self) -> int:
        return len(str(self.modulus - 1))

    @property
    def _step_width(self) -> int:
        """Characters of a step: a sign and an operand, or an equals sign and a value."""
        return 1 + self._digits

    def _draw(self, generator: Random) -> Example:
        width, steps = self._digits, generator.randint(self.shortest, self.length)
        value = generator.randrange(self.modulus)
        chain, values = f"{value:0{width}}", ""
        for _ in range(steps):
            sign = generator.choice(tuple(_OPERATIONS))
            operand = generator.randrange(1 if sign == "*" else 0, self.modulus)
            value = _OPERATIONS[sign](value, operand) % self.modulus
            chain += f"{sign}{operand:0{width}}"
            values += f"={value:0{width}}"
        letters = self.length * self._step_width
        prompt = chain.ljust(width + letters, TAIL)
        return Example(f"{prompt}:[{letters}]", values.ljust(letters, TAIL), {"steps": steps, "unique": True})
