"""The trace of an automaton until it halts: serial, with an easy tail.

A fixed table gives the next state for each of six operations and twelve states; one entry in nine halts. The prompt is
a state and 24 operations. The answer is the states that follow, a full stop where the automaton halts, and underscores
(the end-of-text letter) to the end. A network of fixed depth extends the trace by a few positions per pass, and a wrong
state makes all later states wrong. The underscores are likely long before the trace is determined, like the padding of
LLaDA.
"""

__all__ = ["HALT", "Automaton"]

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Annotated

from unmask.errors import RequestError, did_you_mean
from unmask.noise import derive
from unmask.ranges import check_numbers, whole
from unmask.tasks.base import TAIL, Example, Verdict, check_split

STATES = "abcdefghijkl"
OPERATIONS = "ABCDEF"
HALT = "."
TRACES = ("natural", "long", "mixed", "short")
_SHORT, _LONG = 10, 12  # a short trace has at most 10 letters, a long trace at least 12, the halt included
_LONGEST = 100_000
_TABLE_SEED = 2512_09106


@dataclass(frozen=True, slots=True)
class Automaton:
    """The states of an automaton until it halts: serial, with an easy tail.

    `length` is the number of operations and of answer letters. `traces`: natural; long (12 letters or more); mixed
    (half natural, half long); short (98 % have at most 10 letters, 2 % are long).
    """

    length: Annotated[int, whole(4, _LONGEST)] = 24
    traces: str = "natural"

    def __post_init__(self) -> None:
        check_numbers(self, error=RequestError)
        if self.traces not in TRACES:
            raise RequestError(f"traces is '{self.traces}'; {did_you_mean(self.traces, TRACES)}")
        if self.traces != "natural" and self.length < _LONG:
            raise RequestError(
                f"length is {self.length}, but '{self.traces}' traces may have {_LONG} places or more; "
                f"give a length of at least {_LONG}, or traces=natural."
            )

    @property
    def name(self) -> str:
        return f"automaton:length={self.length},traces={self.traces}"

    def examples(self, split: str, count: int, seed: int = 0) -> Sequence[Example]:
        """Problems; `facts` holds the number of letters up to and with the halt under "trace"."""
        return list(self._drawn(split, count, seed))

    def verify(self, example: Example, completion: str) -> Verdict:
        """Right if every letter is right."""
        if completion == example.answer:
            return Verdict(1.0)
        pairs = zip(completion, example.answer, strict=False)
        first = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(completion), len(example.answer)))
        early = completion[first : first + 1] in (HALT, TAIL)
        return Verdict(0.0, f"{'halts too early' if early else 'wrong'} at place {first + 1}")

    def pairs(self, split: str, count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
        """State and operations, and the trace."""
        return ((example.template.split("[")[0], example.answer) for example in self._drawn(split, count, seed))

    def _drawn(self, split: str, count: int, seed: int) -> Iterator[Example]:
        """The problems of `examples`, one after the other."""
        generator = Random(derive(seed, 0xA0, check_split(split), self.length, TRACES.index(self.traces)))
        return (self._draw(generator) for _ in range(count))

    def _draw(self, generator: Random) -> Example:
        wanted = self.traces
        if wanted == "mixed":
            wanted = "long" if generator.random() < 0.5 else "natural"
        elif wanted == "short":
            wanted = "long" if generator.random() < 0.02 else "short"
        while True:
            start = generator.choice(STATES)
            program = "".join(generator.choices(OPERATIONS, k=self.length))
            trace = _run(start, program)
            length = len(trace)
            if (
                wanted == "natural"
                or (wanted == "long" and length >= _LONG)
                or (wanted == "short" and length <= _SHORT)
            ):
                answer = trace.ljust(self.length, TAIL)
                return Example(f"{start}{program}[{self.length}]", answer, {"trace": length, "unique": True})


def _run(start: str, program: str) -> str:
    """State and operations -> the state after each operation, up to and with the halt."""
    state, trace = start, ""
    for operation in program:
        state = _table()[operation, state]
        trace += state
        if state == HALT:
            break
    return trace


@cache
def _table() -> dict[tuple[str, str], str]:
    """(operation, state) -> the next state: drawn once, with 8 of the 72 entries replaced by the halt."""
    generator = Random(_TABLE_SEED)
    table = {(operation, state): generator.choice(STATES) for operation in OPERATIONS for state in STATES}
    for entry in generator.sample(sorted(table), len(table) // 9):
        table[entry] = HALT
    return table
