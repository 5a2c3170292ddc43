"""A language on a canvas: the constraint that the tokens at some positions, in order, are one of its texts."""

__all__ = ["Pattern", "Placed", "suppressed"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from unmask.decode.automaton import ANY, Automaton, Pair
from unmask.denoiser import Denoiser, Suppressed
from unmask.errors import RequestError

_CANVASES = 64  # whose sets are kept


@dataclass(frozen=True, eq=False)
class Placed:
    """The constraint that the tokens at some positions of a row, in order, are a text of the language.

    Elsewhere it allows all that is text. A row without a completion has no allowed token: see `check`.
    """

    automaton: Automaton
    places: tuple[int, ...]
    """The positions, from left to right."""
    mask_id: int
    before: int
    """The set of states before the first position."""
    after: int
    """The set of states that the last position may lead into."""
    name: str = "pattern"

    _known: dict[tuple[int, ...], tuple[list[int], list[int]]] = field(default_factory=dict, repr=False)

    @cached_property
    def _index(self) -> dict[int, int]:
        return {place: index for index, place in enumerate(self.places)}

    def __call__(self, tokens: Tensor, where: Tensor) -> Tensor:
        """As `Constraint` asks: tokens (B, L), where (B, L) bool with N positions -> allowed tokens (N, V) bool."""
        pairs = list[Pair | None]()
        for line, asked in zip(tokens.tolist(), where.tolist(), strict=True):
            ahead, back = self._sets(self._labels(line))
            indices = [self._index.get(place) for place, flag in enumerate(asked) if flag]
            pairs += [None if i is None else (ahead[i], back[i + 1]) for i in indices]
        return self.automaton.allowed(pairs).to(tokens.device)

    def survivors(self, tokens: Sequence[int], chosen: Sequence[Pair]) -> list[bool]:
        """The tokens of a row, and (position, token) that would be written together, the best first -> which may be.

        Each is kept if a completion has it and all that were kept before it; the first is, where it was allowed.
        """
        labels, kept = self._labels(tokens), list[bool]()
        ahead, back = map(list, self._sets(labels))
        for place, token in chosen:
            i, label = self._index.get(place), self.automaton.class_of[token]
            fits = i is None or self.automaton.after(ahead[i], label) & back[i + 1] != 0
            kept.append(fits)
            if fits and i is not None:
                labels[i] = label
                self._spread(labels, ahead, back, i)
        return kept

    @property
    def possible(self) -> bool:
        """Whether a text of the language has as many tokens as there are positions."""
        ahead, _ = self._sets([ANY] * len(self.places))
        return ahead[-1] & self.after != 0

    def check(self, tokens: Sequence[int]) -> None:
        """Raise RequestError unless a completion of the row exists."""
        ahead, _ = self._sets(labels := self._labels(tokens))
        if ahead[-1] & self.after:
            return
        count, name = len(self.places), self.name
        if any(label != ANY for label in labels):
            raise RequestError(f"The tokens that are on the canvas already have no completion that fits the {name}.")
        possible = self.automaton.counts(self.before, self.after, 2 * max(count, self.automaton.size))
        if not possible:
            raise RequestError(f"No text that fits the {name} goes on from here; give it more tokens.")
        least, most = possible[0], possible[-1]
        space = f"there is room for {count}"
        if count < least:
            raise RequestError(f"The shortest text that fits the {name} has {least} tokens, and {space}; give more.")
        if count > most:
            raise RequestError(f"The longest text that fits the {name} has {most} tokens, and {space}; give fewer.")
        below, above = max(n for n in possible if n < count), min(n for n in possible if n > count)
        raise RequestError(f"No text that fits the {name} has {count} tokens; give room for {below} or {above}.")

    def _labels(self, tokens: Sequence[int]) -> list[int]:
        """The class at each position, or any."""
        class_of, mask_id = self.automaton.class_of, self.mask_id
        return [ANY if (token := tokens[place]) == mask_id else class_of[token] for place in self.places]

    def _sets(self, labels: Sequence[int]) -> tuple[list[int], list[int]]:
        """The forward and the backward sets, one more than there are positions; those of a canvas are asked for twice
        in a pass, before it and after."""
        sets = self._known.get(key := tuple(labels))
        if sets is None:
            ahead, back = [self.before], [self.after]
            for label in labels:
                ahead.append(self.automaton.after(ahead[-1], label))
            for label in reversed(labels):
                back.append(self.automaton.before(back[-1], label))
            if len(self._known) >= _CANVASES:
                self._known.clear()
            self._known[key] = sets = ahead, back[::-1]
        return sets

    def _spread(self, labels: Sequence[int], ahead: list[int], back: list[int], at: int) -> None:
        """Compute the sets again that a new label at index `at` changes."""
        for i in range(at, len(labels)):
            moved = self.automaton.after(ahead[i], labels[i])
            if moved == ahead[i + 1]:
                break
            ahead[i + 1] = moved
        for i in range(at, -1, -1):
            moved = self.automaton.before(back[i + 1], labels[i])
            if moved == back[i]:
                break
            back[i] = moved


@dataclass(frozen=True, eq=False)
class Pattern:
    """A language that has no positions yet: what `Model.matching` returns, for `generate`, `fill` and `stream`.

    They call `at` for the positions of each row.
    """

    automaton: Automaton
    mask_id: int
    name: str = "pattern"
    """What a sentence calls it: pattern, JSON schema or list of choices."""
    hole: int | None = None
    """The number of the hole of `fill` that it is for, from 1; None: all holes together, in order."""
    verify: Callable[[str], None] | None = field(default=None, repr=False)
    """Raises RunError for a finished text that is not what was asked for."""

    def __call__(self, tokens: Tensor, where: Tensor) -> Tensor:
        """Raises RequestError: a pattern is not bound to positions."""
        raise RequestError(
            f"This {self.name} has no positions on the canvas: give it to generate, fill or stream alone, or call "
            "its method `at`."
        )

    def at(
        self,
        places: Sequence[int],
        *,
        ends: bool = False,
        begins: bool = False,
        known: Sequence[int] = (),
        rest: int = 0,
    ) -> Placed:
        """Positions from left to right -> the constraint that their tokens, in order, are a text of the language.

        Args:
            places: the positions.
            ends: whether the text may end earlier, by EOS, which then fills the rest.
            begins: whether nothing stands before the text.
            known: tokens of the text that stand before the positions.
            rest: the number of tokens of the text that follow later, behind the positions.
        """
        automaton = self.automaton
        before, after = automaton.begin if begins else automaton.start, automaton.ended if ends else automaton.final
        for token in known:
            before = automaton.after(before, automaton.class_of[token])
        for _ in range(rest):
            after = automaton.before(after)
        return Placed(automaton, tuple(places), self.mask_id, before, after, self.name)


def suppressed(denoiser: Denoiser) -> frozenset[int]:
    """A denoiser -> the ids that it never writes, in all of its wrappers."""
    ids, inner = frozenset[int](), denoiser
    while inner is not None:
        ids |= frozenset(inner.ids) if isinstance(inner, Suppressed) else frozenset()
        inner = getattr(inner, "inner", None)
    return ids
