"""The automaton trace until halt: serial by nature, with an easy tail.

A fixed table says what each of six operations does to each of twelve states; one entry in nine halts. The prompt is a
state and 24 operations, the answer the states that follow, a full stop where the machine halts, and underscores (the
end-of-text letter) to the end. A network of fixed depth extends the trace by a few places a pass, an early guess is
fatal, and the tail tempts: its length is likely long before the trace is known, as the padding of LLaDA is.
"""

__all__ = ["HALT", "Automaton"]

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from unmask.errors import RequestError, did_you_mean
from unmask.noise import derive
from unmask.tasks.base import TAIL, Example, Verdict, check_split

STATES = "abcdefghijkl"
OPERATIONS = "ABCDEF"
HALT = "."
TRACES = ("natural", "long", "mixed", "short")
_SHORT, _LONG = 10, 12  # a short trace has at most 10 states, a long one at least 12, the halt included
_TABLE_SEED = 2512_09106


@dataclass(frozen=True, slots=True)
class Automaton:
    """The states a machine goes through until it halts: serial by nature, with an easy tail.

    `length` is how many operations and places there are. `traces`: natural; long (12 places or more); mixed (half
    natural, half long); short (98 % at most 10, 2 % long).
    """

    length: int = 24
    traces: str = "natural"

    def __post_init__(self) -> None:
        if self.length < 4:
            raise RequestError(f"length is {self.length}; an automaton's trace has at least 4 places.")
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
        """Problems; `facts` has the number of places up to the halt under "trace"."""
        chance = Random(derive(seed, 0xA0, check_split(split), self.length, TRACES.index(self.traces)))
        return [self._draw(chance) for _ in range(count)]

    def verify(self, example: Example, completion: str) -> Verdict:
        """Right where every place is."""
        if completion == example.answer:
            return Verdict(1.0)
        pairs = zip(completion, example.answer, strict=False)
        first = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(completion), len(example.answer)))
        early = completion[first : first + 1] in (HALT, TAIL)
        return Verdict(0.0, f"{'halts too early' if early else 'wrong'} at place {first + 1}")

    def pairs(self, split: str, count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
        """State and program, then the trace."""
        return ((one.template.split("[")[0], one.answer) for one in self.examples(split, count, seed))

    def _draw(self, chance: Random) -> Example:
        kind = self.traces
        if kind == "mixed":
            kind = "long" if chance.random() < 0.5 else "natural"
        elif kind == "short":
            kind = "long" if chance.random() < 0.02 else "short"
        while True:
            start = chance.choice(STATES)
            program = "".join(chance.choices(OPERATIONS, k=self.length))
            trace = _run(start, program)
            places = len(trace)
            if kind == "natural" or (kind == "long" and places >= _LONG) or (kind == "short" and places <= _SHORT):
                answer = trace.ljust(self.length, TAIL)
                return Example(f"{start}{program}[{self.length}]", answer, {"trace": places, "unique": True})


def _run(start: str, program: str) -> str:
    """The states after each operation, up to and with the halt, or to the end of the program."""
    state, trace = start, ""
    for operation in program:
        state = _TABLE[operation, state]
        trace += state
        if state == HALT:
            break
    return trace


def _table() -> dict[tuple[str, str], str]:
    """Six random maps; of their 72 entries 8 halt, spread over the operations."""
    chance = Random(_TABLE_SEED)
    table = {(operation, state): chance.choice(STATES) for operation in OPERATIONS for state in STATES}
    for entry in chance.sample(sorted(table), len(table) // 9):
        table[entry] = HALT
    return table


_TABLE = _table()
