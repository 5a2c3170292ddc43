"""Texts under a pattern are always whole texts of its language, and have the law of the locally constrained process.

The automata here are drawn at random, or small enough to enumerate; tests/laws/test_matching.py has those of
expressions and schemas.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from unmask.decode.automaton import Automaton
from unmask.decode.canvas import Canvas
from unmask.decode.constraint import Constraint
from unmask.decode.loop import Decoder
from unmask.decode.pattern import Pattern, Placed
from unmask.errors import RequestError
from unmask.policies.base import needs_of
from unmask.policies.entries import ENTRIES
from unmask.policies.options import Context
from unmask.policies.registry import make
from unmask.testing import TableDenoiser, random_language

V, L, ROWS = 3, 4, 4_000
JOINT = random_language(V, L, seed=4, sharpness=2.0)
MODEL = TableDenoiser(JOINT)
CONTEXT = Context(unigram=lambda: torch.ones(V + 1) / (V + 1))
WORDS = ("0120", "0121", "0210", "1002", "1022", "1200", "2001", "2011", "2110", "2222", "0000", "1102")
"""Many beginnings and endings that go together in few ways: most greedy choices leave no way on."""


def trie(words: Sequence[str]) -> Automaton:
    """Texts of the digits 0 .. V-1 -> their automaton."""
    states = {word[:end]: 0 for word in words for end in range(len(word) + 1)}
    states = {state: number for number, state in enumerate(states)}
    edges = {(states[word[:at]], int(word[at]), states[word[: at + 1]]) for word in words for at in range(len(word))}
    return automaton(sorted(edges), [states[word] for word in words])


def automaton(edges: Sequence[tuple[int, int, int]], final: Sequence[int], **options: int) -> Automaton:
    """Edges (state, token, next state) -> the automaton, from state 0."""
    ids = [[token] for token in range(V)]
    table = torch.tensor(edges, dtype=torch.int64).view(-1, 3)
    return Automaton.of(table, ids, start=0, begin=0, final=final, vocab_size=V + 1, **options)


PLACED = Pattern(trie(WORDS), V).at(range(L))
FITTING = [tuple(map(int, word)) for word in WORDS]


def decoded(rule: Constraint, policy: str, rows: int = ROWS, temperature: float = 1.0, seed: int = 0) -> Canvas:
    canvas = Canvas.start(torch.full((rows, L), V), torch.arange(rows) + seed * rows)
    return Decoder(MODEL, make(policy, CONTEXT), temperature, constraints=(rule,)).decode(canvas)


# ---- the law ---------------------------------------------------------------------------------------------------------


def local_law(orders: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], float]:
    """The law of the process that reveals in one of these orders, all equally probable: each conditional of the model
    is restricted to tokens that keep a completion possible, and renormalised. By sums over texts, without automata."""
    joint, law = (
        {text: float(JOINT[text]) for text in itertools.product(range(V), repeat=L)},
        dict.fromkeys(FITTING, 0.0),
    )
    for order in orders:
        for text in FITTING:
            mass = 1.0 / len(orders)
            for number, place in enumerate(order):
                known = order[:number]
                same = [other for other in joint if all(other[at] == text[at] for at in known)]
                possible = {other[place] for other in FITTING if all(other[at] == text[at] for at in known)}
                weights = [sum(joint[other] for other in same if other[place] == token) for token in range(V)]
                mass *= weights[text[place]] / sum(weights[token] for token in possible)
            law[text] += mass
    return law


def surprise(tokens: Tensor, law: dict[tuple[int, ...], float]) -> float:
    """Chi-square against a law on the texts that fit, in standard deviations; infinite for another text."""
    counts = dict.fromkeys(law, 0)
    for text in map(tuple, tokens.tolist()):
        if text not in counts:
            return math.inf
        counts[text] += 1
    degrees = len(law) - 1
    ratio = sum((counts[text] - ROWS * p) ** 2 / (ROWS * p) for text, p in law.items()) / degrees
    return (ratio ** (1 / 3) - (1 - 2 / (9 * degrees))) / math.sqrt(2 / (9 * degrees))


ORDERS = list(itertools.permutations(range(L)))
MASS = sum(float(JOINT[text]) for text in FITTING)
CONDITIONED = {text: float(JOINT[text]) / MASS for text in FITTING}


def total_variation(first: dict[tuple[int, ...], float], second: dict[tuple[int, ...], float]) -> float:
    return sum(abs(first[text] - second[text]) for text in first) / 2


@pytest.mark.parametrize(("policy", "orders"), [("random", ORDERS), ("left-to-right", [tuple(range(L))])])
def test_one_reveal_a_pass_has_the_law_of_the_locally_constrained_process(
    policy: str, orders: list[tuple[int, ...]]
) -> None:
    law = local_law(orders)
    assert sum(law.values()) == pytest.approx(1)
    tokens = decoded(PLACED, policy).tokens
    assert abs(surprise(tokens, law)) < 4
    other = [tuple(reversed(range(L)))]
    assert surprise(tokens, local_law(other)) > 8  # the control: another order


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.joint == "one a pass"])
def test_under_a_pattern_no_policy_samples_the_conditioned_model(name: str) -> None:
    """docs/decoding.md has the distances of two of them."""
    assert surprise(decoded(PLACED, name).tokens, CONDITIONED) > 8


def test_the_distance_to_the_conditioned_model_that_the_page_has() -> None:
    assert round(total_variation(local_law(ORDERS), CONDITIONED), 2) == 0.38
    assert round(total_variation(local_law([tuple(range(L))]), CONDITIONED), 2) == 0.45
    assert round(MASS, 2) == 0.41


class Forward(Placed):
    """The control: a token is allowed if the texts so far can begin with it, whatever can follow."""

    def _sets(self, labels: Sequence[int]) -> tuple[list[int], list[int]]:
        ahead, _ = super()._sets(labels)
        return ahead, [(1 << self.automaton.size) - 1] * len(ahead)


def broken(rule: Constraint, policy: str) -> bool:
    """Whether one of 200 rows ends in no text, or in one that does not fit."""
    try:
        return not all(tuple(text) in FITTING for text in decoded(rule, policy, 200).tokens.tolist())
    except RequestError:
        return True


def test_controls_without_the_backward_sets_and_without_the_joint_check() -> None:
    assert not broken(PLACED, "random")
    assert broken(Forward(PLACED.automaton, PLACED.places, V, PLACED.before, PLACED.after), "random")
    assert not broken(PLACED, "random:steps=2")
    assert broken(lambda tokens, where: PLACED(tokens, where), "random:steps=2")


# ---- every text fits -------------------------------------------------------------------------------------------------


NAMES = [
    name
    for name, entry in ENTRIES.items()
    if not entry.needs_folder
    and not needs_of(make(name, CONTEXT)).ahead
    and not needs_of(make(name, CONTEXT)).attention
]


def drawn(seed: int, length: int) -> Iterator[tuple[Automaton, Callable[[Sequence[int]], bool]]]:
    """Random automata that have texts of this length, each with a test of whole texts."""
    random = torch.Generator().manual_seed(seed)
    while True:
        table = torch.randint(-3, 5, (5, V), generator=random).clamp(min=-1).tolist()
        final = {state for state in range(5) if torch.rand((), generator=random) < 0.4}
        edges = [(state, token, table[state][token]) for state in range(5) for token in range(V)]

        def fits(text: Sequence[int], table: list[list[int]] = table, final: set[int] = final) -> bool:
            state = 0
            for token in text:
                state = table[state][token] if token < V and state >= 0 else -1
            return state in final

        if any(map(fits, itertools.product(range(V), repeat=length))):
            yield automaton([edge for edge in edges if edge[2] >= 0], sorted(final)), fits


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_writes_texts_of_the_language(name: str) -> None:
    """In one block and in blocks of 2, at both temperatures, with all reveals in one pass or in several."""
    paced = "steps" in ENTRIES[name].options
    fast = [f"{name}:steps={steps}" for steps in (1, 3)] if paced else [name]
    for seed, (language, fits) in zip(range(2), drawn(7, L), strict=False):
        placed = Pattern(language, V).at(range(L))
        for policy, temperature, size in itertools.product(fast, (0.0, 1.0), (None, 2)):
            canvas = Canvas.start(torch.full((6, L), V), torch.arange(6) + 6 * seed)
            decoder = Decoder(MODEL, make(policy, CONTEXT), temperature, block_size=size, constraints=(placed,))
            done = decoder.decode(canvas)
            assert all(map(fits, done.tokens.tolist()))
            alone = decoder.decode(canvas.keep(torch.tensor([4])))
            for field in ("tokens", "log_prob", "passes"):
                assert torch.equal(getattr(alone, field)[0], getattr(done, field)[4])


def test_tokens_on_the_canvas_count_and_a_pace_catches_up() -> None:
    """All at once: the first pass keeps what goes together, the rest follows; given tokens stay."""
    canvas = Canvas.start(torch.tensor([[V, V, 0, V]] * 64), torch.arange(64))
    done = Decoder(MODEL, make("random:steps=1"), 1.0, constraints=(PLACED,)).decode(canvas)
    assert {tuple(text) for text in done.tokens.tolist()} <= {text for text in FITTING if text[2] == 0}
    assert int(done.passes.max()) > 1
    free = Decoder(MODEL, make("random:steps=1"), 1.0).decode(canvas)
    assert (free.passes == 1).all()


def test_rows_without_a_pattern_are_as_ever_beside_rows_with_one() -> None:
    canvas = Canvas.start(torch.full((40, L), V), torch.arange(40), constraint=torch.arange(40) % 2)
    for policy in ("random:steps=2", "threshold", "remdm:steps=4", "ancestral:steps=2"):
        mixed = Decoder(MODEL, make(policy, CONTEXT), 1.0, constraints=(None, PLACED)).decode(canvas)
        free = Decoder(MODEL, make(policy, CONTEXT), 1.0, constraints=(None, None)).decode(canvas)
        assert torch.equal(mixed.tokens[::2], free.tokens[::2])
        assert torch.equal(mixed.passes[::2], free.passes[::2])
        assert all(tuple(text) in FITTING for text in mixed.tokens[1::2].tolist())


def test_a_look_ahead_rule_is_refused() -> None:
    with pytest.raises(RequestError, match="candidate canvases"):
        Decoder(MODEL, make("info-gain"), constraints=(PLACED,))


# ---- masks and survivors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [False, True])
def test_allowed_tokens_are_those_of_an_enumeration(ends: bool) -> None:
    """Of random automata and canvases, with and without a token that ends the text and fills the rest."""
    eos = V
    random = torch.Generator().manual_seed(3)
    for _, (language, fits) in zip(range(20), drawn(1, L), strict=False):
        of_class = [(token, language.class_of[token]) for token in range(V)]
        edges = [(s, token, a) for s, t, a in language.edges.tolist() for token, label in of_class if label == t]
        final = [state for state in range(language.size) if language.final >> state & 1]
        ids, table = [[token] for token in range(V)], torch.tensor(edges)
        start = language.start.bit_length() - 1
        same = Automaton.of(table, ids, start=start, begin=start, final=final, vocab_size=V + 2, eos_id=eos)
        placed = Pattern(same, V + 1).at(range(L), ends=ends)
        texts = [text for text in itertools.product(range(V), repeat=L) if fits(text)]
        if ends:
            short = (t for n in range(L) for t in itertools.product(range(V), repeat=n) if fits(t))
            texts += [(*text, *[eos] * (L - len(text))) for text in short]
        canvas = list(texts[int(torch.randint(len(texts), (), generator=random))])
        hidden = torch.rand(L, generator=random) < 0.6
        line = [V + 1 if hide else token for token, hide in zip(canvas, hidden.tolist(), strict=True)]
        rest = [text for text in texts if all(a in (b, V + 1) for a, b in zip(line, text, strict=True))]
        allowed = placed(torch.tensor([line]), torch.ones(1, L).bool())
        for place in range(L):
            others = [t for t in texts if all(line[at] in (t[at], V + 1) for at in range(L) if at != place)]
            expected = {text[place] for text in (rest if line[place] == V + 1 else others)}
            assert set(allowed[place].nonzero().flatten().tolist()) == expected


def test_survivors_are_those_of_checking_one_after_the_other() -> None:
    for number, chosen in enumerate(itertools.product(range(V), repeat=L)):
        order = ORDERS[number % len(ORDERS)]
        known, expected = dict[int, int](), list[bool]()
        for place in order:
            more = known | {place: chosen[place]}
            fits = any(all(text[at] == token for at, token in more.items()) for text in FITTING)
            expected.append(fits)
            known = more if fits else known
        pairs = [(place, chosen[place]) for place in order]
        assert PLACED.survivors([V] * L, pairs) == expected


@pytest.mark.parametrize(
    ("count", "sentence"),
    [(2, "shortest text .* 3 tokens, and there is room for 2"), (6, "longest text"), (4, "give room for 3 or 5")],
)
def test_lengths_that_cannot_fit_are_refused(count: int, sentence: str) -> None:
    placed = Pattern(trie(["012", "21012"]), V).at(range(count))
    with pytest.raises(RequestError, match=sentence):
        placed.check([V] * count)
    Pattern(trie(["012", "21012"]), V).at(range(3)).check([V] * 3)
    with pytest.raises(RequestError, match="on the canvas already"):
        Pattern(trie(["012", "21012"]), V).at(range(3)).check([V, 2, V])


def test_windows_keep_to_the_same_text() -> None:
    """The constraint of a part of a text: what stands before it, and how many tokens follow."""
    pattern = Pattern(trie(WORDS), V)
    for text in FITTING:
        for begin, end in ((0, 2), (1, 3), (2, 4)):
            placed = pattern.at(range(end - begin), known=text[:begin], rest=L - end)
            allowed = placed(torch.full((1, end - begin), V), torch.ones(1, end - begin).bool())
            same = [other for other in FITTING if other[:begin] == text[:begin]]
            for at in range(end - begin):
                assert set(allowed[at].nonzero().flatten().tolist()) == {other[begin + at] for other in same}


def test_a_pattern_without_positions_is_refused() -> None:
    with pytest.raises(RequestError, match="no positions"):
        decoded(Pattern(trie(WORDS), V), "random", 1)
