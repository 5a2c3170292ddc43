"""A language of token sequences, and which tokens each position of a canvas may have so that a completion stays.

A canvas has n positions for a text of the language; some have tokens, the others are MASK. Forward sets: f_0 is the
start, f_{i+1} the states that the token at i, or any token where it is MASK, leads to from f_i. Backward sets: b_n are
the states in which a text may end, b_i those from which the token at i (or any) leads into b_{i+1}. Token v may be
written at i exactly if it leads from a state of f_i to one of b_{i+1}: then some completion has it there.

A set of states is a Python integer with a bit for each state, so that the step of a whole set is one look-up once it
was computed. Tokens that lead from each state to the same one form a class. Shapes: V vocabulary, C classes and class 0
of the tokens that no text has, S states, E edges (state, class, next state), N positions asked about.
"""

__all__ = ["ANY", "Automaton", "Pair"]

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from unmask.errors import RequestError

ANY = -1
"""In the place of a class: the token is not known."""
_KEPT = 1 << 16  # steps of sets that are kept, each of a few hundred bytes at most
_KEPT_ROWS = 1 << 10  # pairs of sets whose allowed classes are kept

Pair = tuple[int, int]
"""A set of states and a class, or two sets of states."""


def _bits(states: int) -> Iterator[int]:
    """A set of states -> its states, in order."""
    while states:
        low = states & -states
        yield low.bit_length() - 1
        states ^= low


def _set(states: Sequence[int]) -> int:
    """States -> the set of them."""
    return sum(1 << state for state in set(states))


def _moved(known: dict[Pair, int], table: dict[Pair, int], states: int, label: int) -> int:
    """One step of a set of states by the table, which `known` then has."""
    result = 0
    for state in _bits(states):
        result |= table.get((state, label), 0)
    if len(known) >= _KEPT:
        known.clear()
    known[states, label] = result
    return result


@dataclass(frozen=True, eq=False)
class Automaton:
    """A deterministic automaton over classes of tokens. Each edge lies on a way from the start to an end of a text."""

    classes: Tensor
    """(V,) int64: the class of each token."""
    edges: Tensor
    """(E, 3) int64: state, class, next state."""
    start: int
    """The set of the state before the first token."""
    begin: int
    """The same where the text begins the canvas; another state for tokenizers that drop a space there."""
    final: int
    """The set of states in which a text may end without EOS."""
    ended: int
    """These, and the state behind EOS, which EOS alone leads to and stays in."""
    texts: Tensor
    """(V,) bool: the tokens that are text at all, which are allowed at positions outside of the language."""
    _steps: dict[Pair, int] = field(default_factory=dict[Pair, int], repr=False)
    _steps_back: dict[Pair, int] = field(default_factory=dict[Pair, int], repr=False)
    _rows: dict[Pair, Tensor] = field(default_factory=dict[Pair, Tensor], repr=False)

    @classmethod
    def of(
        cls,
        edges: Tensor,
        ids: Sequence[Sequence[int]],
        *,
        start: int,
        begin: int,
        final: Sequence[int],
        vocab_size: int,
        eos_id: int | None = None,
    ) -> "Automaton":
        """Edges (E, 3) int64 (state, number of a text, next state), and the token ids of each text -> the automaton.

        States are any numbers. Edges on no way from the start to `final` are left out. `eos_id` may follow a whole
        text, and then itself. Raises RequestError where no text is left.
        """
        edges, (start, begin), last = _live(edges, (start, begin), final)
        classes, edges = _classed(edges, len(ids))
        of_token, texts = torch.zeros(vocab_size, dtype=torch.int64), torch.zeros(vocab_size, dtype=torch.bool)
        for number, tokens in zip(classes.tolist(), ids, strict=True):
            of_token[list(tokens)], texts[list(tokens)] = number, True
        accepting = ended = _set(last)
        if eos_id is not None:
            size = 1 + max(start, begin, *last, *edges[:, [0, 2]].flatten().tolist())
            of_token[eos_id] = eos = 1 + int(of_token.max())
            loop = torch.tensor([[state, eos, size] for state in (*sorted(set(last)), size)])
            edges, ended = torch.cat([edges, loop]), accepting | 1 << size
        return cls(of_token, edges, 1 << start, 1 << begin, accepting, ended, texts)

    @cached_property
    def size(self) -> int:
        """S, the number of states."""
        return (self.start | self.begin | self.ended | _set(self.edges[:, [0, 2]].flatten().tolist())).bit_length()

    @cached_property
    def class_of(self) -> list[int]:
        """The class of each token."""
        return self.classes.tolist()

    @cached_property
    def _tables(self) -> tuple[dict[Pair, int], dict[Pair, int]]:
        """(state, class or any) -> the set of next states; (next state, class or any) -> the set of states."""
        ahead, back = dict[Pair, int](), dict[Pair, int]()
        for state, label, after in self.edges.tolist():
            for key in ((state, label), (state, ANY)):
                ahead[key] = ahead.get(key, 0) | 1 << after
            for key in ((after, label), (after, ANY)):
                back[key] = back.get(key, 0) | 1 << state
        return ahead, back

    def after(self, states: int, label: int = ANY) -> int:
        """A set of states and a class (by default any) -> the set of states that follow."""
        result = self._steps.get((states, label))
        return _moved(self._steps, self._tables[0], states, label) if result is None else result

    def before(self, states: int, label: int = ANY) -> int:
        """A set of states and a class (by default any) -> the states that lead into the set."""
        result = self._steps_back.get((states, label))
        return _moved(self._steps_back, self._tables[1], states, label) if result is None else result

    def allowed(self, pairs: Sequence[Pair | None]) -> Tensor:
        """Pairs of a forward set and the backward set behind the position -> the tokens allowed there (N, V) bool.

        None is a position outside of the language.
        """
        missing = [pair for pair in dict.fromkeys(pairs) if pair is not None and pair not in self._rows]
        if len(self._rows) + len(missing) > _KEPT_ROWS:
            self._rows.clear()
            missing = [pair for pair in dict.fromkeys(pairs) if pair is not None]
        if missing:
            ahead, back = (self._matrix(list(side)) for side in zip(*missing, strict=True))
            source, label, target = self.edges.T
            row, edge = (ahead[:, source] & back[:, target]).nonzero(as_tuple=True)
            classes = torch.zeros(len(missing), 1 + int(self.classes.max()), dtype=torch.bool)
            classes[row, label[edge]] = True
            self._rows.update(zip(missing, classes, strict=True))
        inside = [pair for pair in pairs if pair is not None]
        rows = None  # whole rows of a transposed table are copied: six times as fast as single elements
        if inside:
            columns = torch.stack([self._rows[pair] for pair in inside], 1)
            rows = columns.index_select(0, self.classes).T.contiguous()
        if rows is not None and len(inside) == len(pairs):
            return rows
        every = self.texts.expand(len(pairs), -1).clone()
        if rows is not None:
            every[torch.tensor([pair is not None for pair in pairs])] = rows
        return every

    def _matrix(self, sets: Sequence[int]) -> Tensor:
        """Sets of states -> (N, S) bool."""
        width = (self.size + 7) // 8
        content = bytearray(b"".join(states.to_bytes(width, "little") for states in sets))
        values = torch.frombuffer(content, dtype=torch.uint8).view(len(sets), width, 1)
        return (values >> torch.arange(8, dtype=torch.uint8) & 1).flatten(1)[:, : self.size].bool()

    def counts(self, states: int, ends: int, most: int) -> list[int]:
        """The numbers of tokens, up to `most`, with which a text leads from one set of states into another."""
        lengths = list[int]()
        for count in range(most + 1):
            if states & ends:
                lengths.append(count)
            states = self.after(states)
            if not states:
                break
        return lengths


# ---- building --------------------------------------------------------------------------------------------------------


def _live(edges: Tensor, starts: tuple[int, int], final: Sequence[int]) -> tuple[Tensor, tuple[int, int], list[int]]:
    """Edges, start states and end states -> those on a way from a start to an end, with states numbered from 0."""
    pairs = {(state, after) for state, after in edges[:, [0, 2]].unique(dim=0).tolist()} if len(edges) else set()
    reached = _closure(set(starts), pairs)
    live = reached & _closure(set(final), {(after, state) for state, after in pairs})
    if not live & set(starts):
        raise RequestError("No text of the model's tokens fits; allow characters that the model has.")
    order = sorted(live | set(starts))
    number = torch.full((1 + max(order[-1], int(edges.max()) if len(edges) else 0),), -1)
    number[order] = torch.arange(len(order))
    state, text, after = number[edges[:, 0]], edges[:, 1], number[edges[:, 2]]
    alive = torch.zeros(len(order) + 1, dtype=torch.bool)
    alive[number[sorted(live)]] = True
    kept = alive[state] & alive[after]
    edges = torch.stack([state, text, after], 1)[kept]
    begin, other = (int(number[state]) for state in starts)
    return edges, (begin, other), [int(number[state]) for state in final if state in live]


def _closure(states: set[int], pairs: set[tuple[int, int]]) -> set[int]:
    """States and pairs (from, to) -> these states and all that they lead to."""
    ahead = dict[int, list[int]]()
    for source, target in pairs:
        ahead.setdefault(source, []).append(target)
    seen, waiting = set(states), list(states)
    while waiting:
        new = [target for target in ahead.get(waiting.pop(), ()) if target not in seen]
        seen.update(new)
        waiting += new
    return seen


def _classed(edges: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Edges (state, text, next state) of `count` texts -> the class of each text, 0 without edges; edges of classes.

    Texts are told apart state by state: after each, two have the same number exactly if they lead to the same next
    states from all states so far.
    """
    classes, new = torch.zeros(count, dtype=torch.int64), 1
    edges = edges[edges[:, 0].argsort(stable=True)]
    size = 1 + int(edges.max()) if len(edges) else 1
    for part in edges.split(edges[:, 0].unique_consecutive(return_counts=True)[1].tolist()):
        values, inverse = (classes[part[:, 1]] * size + part[:, 2]).unique(return_inverse=True)
        classes[part[:, 1]] = new + inverse
        new += len(values)
    used, inverse = torch.cat([torch.zeros(1, dtype=torch.int64), classes]).unique(return_inverse=True)
    classes = inverse[1:]
    keys = ((edges[:, 0] * len(used) + classes[edges[:, 1]]) * size + edges[:, 2]).unique()
    triples = [keys // size // len(used), keys // size % len(used), keys % size]
    return classes, torch.stack(triples, 1)
