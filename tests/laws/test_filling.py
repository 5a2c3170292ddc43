"""Filling and comparing with an exact model: the probabilities are those of the table of the language."""

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
    """A TableDenoiser over the ids of the tokenizer, for rows that are padded to any width."""

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
    """A Model whose denoiser is the table; its network only gives the window."""
    settings = DiTSettings(TOKENIZER.vocab_size, TOKENIZER.mask_id, max_length=L, width=16, blocks=1, heads=2)
    model = Model(build(settings), MaskedDiffusion(TOKENIZER.mask_id), TOKENIZER, None, torch.device("cpu"))
    model.denoiser = Spelled(TABLE)
    return model


def mass(pattern: str) -> float:
    """Pattern -> the probability that a text begins with it; a dot is any letter."""
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
    results = model.score(template, choices, orders=orders)
    truth = [math.log(mass(rest.format("." * len(choice))) / mass(rest.format(choice))) for choice in choices]
    shares = torch.tensor([math.exp(-nats) for nats in truth])
    assert [choice.text for choice in results] == choices
    assert [choice.tokens for choice in results] == [len(choice) for choice in choices]
    assert [choice.nats for choice in results] == pytest.approx(truth, abs=1e-4)
    assert max(choice.stderr for choice in results) < 1e-5
    assert [choice.probability for choice in results] == pytest.approx((shares / shares.sum()).tolist(), abs=1e-4)


def test_a_broken_weight_moves_the_posterior(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    choices, template = ["aa", "ab", "cc", "b"], "[2]b[?]a"
    right = model.score(template, choices)
    sets = unmask.fill.score._all_sets
    monkeypatch.setattr(unmask.fill.score, "_all_sets", lambda n: (sets(n)[0], sets(n)[0] / (2.0**n - 1)))
    wrong = model.score(template, choices)
    assert max(abs(a.probability - b.probability) for a, b in zip(right, wrong, strict=True)) > 0.01


def test_the_length_with_the_least_bound_wins_and_the_bounds_are_those_of_the_texts(model: Model) -> None:
    result = model.fill("a[1-2]b[1-2]", count=4, seed=5, draws=200)
    for text, holes, attempts in zip(result.texts, result.holes, result.attempts, strict=True):
        assert sorted(attempt.lengths for attempt in attempts) == [(1, 1), (1, 2), (2, 1), (2, 2)]
        assert [attempt.nats for attempt in attempts] == sorted(attempt.nats for attempt in attempts)
        assert text == TOKENIZER.decode(attempts[0].tokens) == f"a{holes[0]}b{holes[1]}"
        assert tuple(map(len, holes)) == attempts[0].lengths
        for attempt in attempts:
            truth = -math.log(mass(TOKENIZER.decode(attempt.tokens)))
            assert abs(attempt.nats - truth) < 4 * attempt.stderr
            assert attempt.passes == sum(attempt.lengths)
            assert attempt.behind == pytest.approx(attempt.nats - attempts[0].nats)
        assert (attempts[0].behind, attempts[0].behind_stderr) == (0, 0)


def test_what_is_likelier_wins_over_what_is_short() -> None:
    """Of `a` and one letter, or `a` and two: the second language has so few short texts that the longer text wins."""
    joint = torch.full((3,) * L, 1e-6, dtype=torch.float64)
    joint[0, 1, 2] = 1.0  # abc...
    settings = DiTSettings(TOKENIZER.vocab_size, TOKENIZER.mask_id, max_length=L, width=16, blocks=1, heads=2)
    model = Model(build(settings), MaskedDiffusion(TOKENIZER.mask_id), TOKENIZER, None, torch.device("cpu"))
    model.denoiser = Spelled(TableDenoiser(joint / joint.sum()))
    result = model.fill("a[1-2]c", policy="confidence", temperature=0.0)
    assert result.texts == ["abc"]
    assert result.attempts[0][0].lengths == (1,)
    joint = torch.full((3,) * L, 1e-6, dtype=torch.float64)
    joint[0, 1, 1, 2] = 1.0  # abbc..
    model.denoiser = Spelled(TableDenoiser(joint / joint.sum()))
    result = model.fill("a[1-2]c", policy="confidence", temperature=0.0)
    assert result.texts == ["abbc"]
    assert result.attempts[0][1].behind > 4 * result.attempts[0][1].behind_stderr


def test_the_same_seed_gives_the_same_and_a_fixed_length_equals_that_of_a_free_one(model: Model) -> None:
    first, again, other = (model.fill("a[1-3]b", seed=seed, count=8, draws=8) for seed in (1, 1, 2))
    assert replace(first, seconds=0) == replace(again, seconds=0)
    assert first.texts != other.texts
    for length in (1, 2, 3):
        fixed = model.fill(f"a[{length}]b", seed=1, count=8)
        expected = [next(a for a in attempts if a.lengths == (length,)) for attempts in first.attempts]
        assert fixed.tokens == [attempt.tokens for attempt in expected]
        assert model.fill(f"a[{length}-{length}]b", seed=1, count=8).tokens == fixed.tokens
        assert fixed.attempts == [[]] * 8
    alone = model.fill("a[1-3]b", seed=[4], draws=8)
    assert model.fill("a[1-3]b", seed=[3, 4], count=2, draws=8).attempts[1] == alone.attempts[0]


def test_replaced_words_leave_the_rest(model: Model) -> None:
    result = model.fill("a[=bb]c[1]", count=20)
    assert all(text[0] == "a" and text[3] == "c" and len(text) == 5 for text in result.texts)
    assert len({holes[0] for holes in result.holes}) > 1
    assert result.tokens == model.fill("a[2]c[1]", count=20).tokens == model.fill("a[2=b]c[1=bbb]", count=20).tokens
    assert {len(text) for text in model.fill("a[1-3=bb]", count=20, draws=4).texts} <= {2, 3, 4}


def test_log_probabilities_are_at_the_written_tokens(model: Model) -> None:
    result = model.fill("a[2]c[1]", policy="left-to-right")
    assert [p == 0 for p in result.log_probs[0]] == [True, False, False, True, False]
    shown = -math.log(mass(result.texts[0])) + math.log(mass("a..c"))
    assert -sum(result.log_probs[0]) == pytest.approx(shown, abs=1e-4)


def test_blocks_are_filled_in_their_order(model: Model) -> None:
    def positions_of(block_size: int | None) -> list[int]:
        positions: list[int] = []
        stream = model.stream_fill("[6]", policy="confidence", block_size=block_size, seed=2)
        for snapshot in stream:
            assert isinstance(snapshot, Snapshot)
            positions += snapshot.step.revealed[0].nonzero().squeeze(-1).tolist()
        return positions

    assert [at // 2 for at in positions_of(2)] == [0, 0, 1, 1, 2, 2]
    assert [at // 2 for at in positions_of(None)] != [0, 0, 1, 1, 2, 2]
