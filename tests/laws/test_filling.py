"""Filling and comparing over a model that is exactly right: the law of the language, read off its table."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

import unmask.fill.score
from unmask.api import Model
from unmask.decode.rows import Snapshot
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.process import MaskedDiffusion
from unmask.testing import TableDenoiser, random_language
from unmask.text.build import char_tokenizer

LETTERS, L = "abc", 6
TOKENIZER = char_tokenizer([LETTERS])
IDS = torch.tensor([TOKENIZER.encode(letter)[0] for letter in LETTERS])
JOINT = random_language(len(LETTERS), L, seed=9, sharpness=2.0)
TABLE = TableDenoiser(JOINT)


@dataclass
class Spelled:
    """The table in the ids of the tokenizer, and on rows that are padded to any width."""

    table: TableDenoiser
    vocab_size: int = TOKENIZER.vocab_size
    mask_id: int = TOKENIZER.mask_id
    max_length: int = L
    time_conditioned: bool = False

    def hidden(self, tokens: Tensor, *, valid: Tensor | None = None, **_: object) -> Tensor:
        assert valid is None or not bool(valid[:, L:].any())
        back = torch.full((self.vocab_size,), self.table.mask_id).scatter(0, IDS, torch.arange(len(IDS)))
        posterior = self.table.hidden(back[tokens[:, :L]], valid=None if valid is None else valid[:, :L])
        out = torch.full((*tokens.shape, self.vocab_size), -100.0, dtype=torch.float64)
        out[:, :L, IDS] = posterior[..., : len(IDS)]
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden


@pytest.fixture(scope="module")
def model() -> Model:
    """A Model whose denoiser is the table; the network beside it only says how long a text may be."""
    settings = DiTSettings(TOKENIZER.vocab_size, TOKENIZER.mask_id, max_length=L, width=16, blocks=1, heads=2)
    model = Model(build(settings), MaskedDiffusion(TOKENIZER.mask_id), TOKENIZER, None, torch.device("cpu"))
    model.denoiser = Spelled(TABLE)
    return model


def mass(pattern: str) -> float:
    """The probability that a text begins like this; a dot is any letter."""
    sequences = TABLE.sequences()
    fits = torch.ones(len(sequences), dtype=torch.bool)
    for at, letter in enumerate(pattern):
        if letter != ".":
            fits &= sequences[:, at] == LETTERS.index(letter)
    return float(JOINT.flatten()[fits].sum())


@pytest.mark.parametrize(
    "template, choices, rest",
    [
        ("ab[?]c", ["a", "b", "c"], "ab{}c"),
        ("[?]", ["abcabc", "cba", "b"], "{}"),
        ("[2]b[?]a", ["aa", "ab", "cc", "b"], "..b{}a"),
        ("a[=bc][?][1]", ["a", "cc"], "a..{}."),
    ],
)
@pytest.mark.parametrize("orders", [2, 32])
def test_a_score_is_the_exact_conditional_and_the_shares_are_the_exact_posterior(
    model: Model, template: str, choices: list[str], rest: str, orders: int
) -> None:
    found = model.score(template, choices, orders=orders)
    truth = [math.log(mass(rest.format("." * len(one))) / mass(rest.format(one))) for one in choices]
    shares = torch.tensor([math.exp(-nats) for nats in truth])
    assert [one.text for one in found] == choices
    assert [one.tokens for one in found] == [len(one) for one in choices]
    assert [one.nats for one in found] == pytest.approx(truth, abs=1e-4)
    assert max(one.stderr for one in found) < 1e-5
    assert [one.probability for one in found] == pytest.approx((shares / shares.sum()).tolist(), abs=1e-4)


def test_a_broken_weight_moves_the_posterior(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    choices, template = ["aa", "ab", "cc", "b"], "[2]b[?]a"
    right = model.score(template, choices)
    sets = unmask.fill.score._all_sets
    monkeypatch.setattr(unmask.fill.score, "_all_sets", lambda n: (sets(n)[0], sets(n)[0] / (2.0**n - 1)))
    wrong = model.score(template, choices)
    assert max(abs(a.probability - b.probability) for a, b in zip(right, wrong, strict=True)) > 0.01


def test_the_length_with_the_least_bound_wins_and_the_bounds_are_those_of_the_texts(model: Model) -> None:
    found = model.fill("a[1-2]b[1-2]", count=4, seed=5, draws=200)
    for text, holes, tried in zip(found.texts, found.holes, found.attempts, strict=True):
        assert sorted(one.lengths for one in tried) == [(1, 1), (1, 2), (2, 1), (2, 2)]
        assert [one.nats for one in tried] == sorted(one.nats for one in tried)
        assert text == TOKENIZER.decode(tried[0].tokens) == f"a{holes[0]}b{holes[1]}"
        assert tuple(map(len, holes)) == tried[0].lengths
        for one in tried:
            truth = -math.log(mass(TOKENIZER.decode(one.tokens)))
            assert abs(one.nats - truth) < 4 * one.stderr
            assert one.passes == sum(one.lengths)
            assert one.behind == pytest.approx(one.nats - tried[0].nats)
        assert (tried[0].behind, tried[0].behind_stderr) == (0, 0)


def test_what_is_likelier_wins_over_what_is_short() -> None:
    """Of `a` and one letter, or `a` and two: here a lone letter is so rare that the longer text has more mass."""
    joint = torch.full((3,) * L, 1e-6, dtype=torch.float64)
    joint[0, 1, 2] = 1.0  # abc...
    settings = DiTSettings(TOKENIZER.vocab_size, TOKENIZER.mask_id, max_length=L, width=16, blocks=1, heads=2)
    model = Model(build(settings), MaskedDiffusion(TOKENIZER.mask_id), TOKENIZER, None, torch.device("cpu"))
    model.denoiser = Spelled(TableDenoiser(joint / joint.sum()))
    found = model.fill("a[1-2]c", policy="confidence", temperature=0.0)
    assert found.texts == ["abc"]
    assert found.attempts[0][0].lengths == (1,)
    joint = torch.full((3,) * L, 1e-6, dtype=torch.float64)
    joint[0, 1, 1, 2] = 1.0  # abbc..
    model.denoiser = Spelled(TableDenoiser(joint / joint.sum()))
    found = model.fill("a[1-2]c", policy="confidence", temperature=0.0)
    assert found.texts == ["abbc"]
    assert found.attempts[0][1].behind > 4 * found.attempts[0][1].behind_stderr


def test_the_same_seed_gives_the_same_and_a_set_length_is_one_of_the_free(model: Model) -> None:
    one, same, other = (model.fill("a[1-3]b", seed=seed, count=8, draws=8) for seed in (1, 1, 2))
    assert replace(one, seconds=0) == replace(same, seconds=0)
    assert one.texts != other.texts
    for length in (1, 2, 3):
        found = model.fill(f"a[{length}]b", seed=1, count=8)
        tried = [next(a for a in attempts if a.lengths == (length,)) for attempts in one.attempts]
        assert found.tokens == [attempt.tokens for attempt in tried]
        assert model.fill(f"a[{length}-{length}]b", seed=1, count=8).tokens == found.tokens
        assert found.attempts == [[]] * 8
    alone = model.fill("a[1-3]b", seed=[4], draws=8)
    assert model.fill("a[1-3]b", seed=[3, 4], count=2, draws=8).attempts[1] == alone.attempts[0]


def test_words_written_anew_leave_the_rest(model: Model) -> None:
    found = model.fill("a[=bb]c[1]", count=20)
    assert all(text[0] == "a" and text[3] == "c" and len(text) == 5 for text in found.texts)
    assert len({holes[0] for holes in found.holes}) > 1
    assert found.tokens == model.fill("a[2]c[1]", count=20).tokens == model.fill("a[2=b]c[1=bbb]", count=20).tokens
    assert {len(text) for text in model.fill("a[1-3=bb]", count=20, draws=4).texts} <= {2, 3, 4}


def test_log_probabilities_stand_where_tokens_were_written(model: Model) -> None:
    found = model.fill("a[2]c[1]", policy="left-to-right")
    assert [p == 0 for p in found.log_probs[0]] == [True, False, False, True, False]
    shown = -math.log(mass(found.texts[0])) + math.log(mass("a..c"))
    assert -sum(found.log_probs[0]) == pytest.approx(shown, abs=1e-4)


def test_blocks_are_filled_in_their_order(model: Model) -> None:
    def places(block_size: int | None) -> list[int]:
        found: list[int] = []
        stream = model.stream_fill("[6]", policy="confidence", block_size=block_size, seed=2)
        for snapshot in stream:
            assert isinstance(snapshot, Snapshot)
            found += snapshot.step.revealed[0].nonzero().squeeze(-1).tolist()
        return found

    assert [at // 2 for at in places(2)] == [0, 0, 1, 1, 2, 2]
    assert [at // 2 for at in places(None)] != [0, 0, 1, 1, 2, 2]
