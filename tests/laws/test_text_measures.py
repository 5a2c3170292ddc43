"""Measures of written texts: the 3-gram model is a distribution, and each measure notices what it is for."""

import itertools
import math
import random

import pytest
import torch

from unmask.api import Model
from unmask.errors import RequestError
from unmask.eval.text import (
    ModelJudge,
    Text,
    Trigram,
    distinct,
    entropy,
    known_words,
    measure_texts,
    repetition,
    words_of,
)
from unmask.model.dit import DiT
from unmask.model.settings import DiTSettings
from unmask.process import MaskedDiffusion
from unmask.text.build import char_tokenizer

ROWS = [[1, 2, 3, 0], [1, 2, 3, 0], [1, 2, 4, 0]]
WORDS = frozenset(["the", "king", "is", "dead"])


def test_words_are_runs_of_letters_in_lower_case() -> None:
    line = "The king's \"well-known\" dog, 3 dogs'"
    assert words_of(line) == ["the", "king's", "well", "known", "dog", "dogs"]
    assert known_words(["The king", "grzk's"], frozenset(["the", "king"])) == pytest.approx(2 / 3)
    assert known_words(["123"], WORDS) is None


def test_entropy_is_that_of_the_frequencies() -> None:
    assert entropy([1, 2, 3, 4]) == pytest.approx(math.log(4))
    assert entropy([7, 7, 7]) == 0


def test_distinct_and_repetition_by_hand() -> None:
    assert distinct([[1, 2, 1, 2], [1, 2]], 2) == pytest.approx(2 / 4)
    assert distinct([[1]], 2) == 0
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 - 4 / 5)
    assert repetition(list(range(9))) == 0 == repetition([1, 1])


def test_the_trigram_is_a_distribution_after_every_history() -> None:
    model = Trigram(ROWS, 6)
    for history in [[], [1], [5], [1, 2], [2, 3], [5, 5], [9, 1, 2]]:
        assert sum(model.probability(token, history) for token in range(6)) == pytest.approx(1)
    assert model.probability(3, [1, 2]) > model.probability(4, [1, 2]) > model.probability(5, [1, 2]) > 0
    assert model.probability(3, [9, 1, 2]) == model.probability(3, [1, 2])


def test_a_smoothed_probability_by_hand() -> None:
    model = Trigram(ROWS, 6)
    single = (2 + 5 * (1 / 6)) / (12 + 5)  # token 3: twice of twelve, five different tokens
    pair = (2 + 2 * single) / (3 + 2)  # after 2: three times, two different
    assert model.probability(3, [1, 2]) == pytest.approx((2 + 2 * pair) / (3 + 2))


def test_texts_in_the_order_of_the_training_rows_have_the_least_perplexity() -> None:
    model = Trigram(ROWS, 6)
    orders = {order: model.nats([Text([1], order, "")])[0][0] for order in itertools.permutations([2, 3, 0])}
    assert min(orders, key=lambda order: orders[order]) == (2, 3, 0)
    nats, counts = model.nats([Text([1], [2, 3], ""), Text([1, 2], [4], "")])
    expected = -sum(math.log(model.probability(*p)) for p in [(2, [1]), (3, [1, 2]), (4, [1, 2])])
    assert (sum(nats), counts) == (pytest.approx(expected), [2, 1])


def texts(rows: list[list[int]]) -> list[Text]:
    letters = " abcdefgh"
    return [Text([], row, "".join(letters[token] for token in row)) for row in rows]


def test_quality_alone_is_misled_and_variety_notices() -> None:
    """One repeated token has the best perplexity of all, and the worst of every other measure."""
    source = random.Random(1)
    real = [[source.choice([1, 1, 1, 2, 3, 4]) for _ in range(40)] for _ in range(30)]
    judge = Trigram(real, 9)
    dull = [[1] * 40 for _ in range(30)]
    noise = [[source.randrange(9) for _ in range(40)] for _ in range(30)]
    sets = {"r": real, "d": dull, "n": noise}
    measures = {name: measure_texts(texts(rows), judge, WORDS) for name, rows in sets.items()}
    assert measures["d"].perplexity < measures["r"].perplexity < measures["n"].perplexity
    assert measures["d"].entropy[0] == 0 < measures["r"].entropy[0] < measures["n"].entropy[0]
    assert measures["d"].repetition[0] > 0.9 > measures["r"].repetition[0]
    assert measures["d"].distinct[1] < measures["r"].distinct[1] < measures["n"].distinct[1]
    assert measures["r"].nats[1] is not None


def model(causal: bool) -> Model:
    tokenizer = char_tokenizer(["abcdefgh "])
    settings = DiTSettings(
        tokenizer.vocab_size, tokenizer.mask_id, 16, 32, 2, 2, causal_block=int(causal), shift=causal
    )
    network = DiT(settings)
    torch.nn.init.normal_(network.head.weight, std=0.5)
    return Model(network, MaskedDiffusion(tokenizer.mask_id), tokenizer, None, torch.device("cpu"))


def test_a_causal_model_is_a_judge_and_a_masked_one_is_not() -> None:
    """Its nats are those of the bound, which is exact; their sum over texts makes the perplexity."""
    causal = model(True)
    judge = ModelJudge(causal, "ours")
    both = [Text([], [0], "abcab"), Text([], [0], "hg")]
    nats, counts = judge.nats(both)
    assert counts == [5, 2]
    whole = causal.bound(["abcab", "hg"])
    assert sum(nats) == pytest.approx(whole.nats_per_token * whole.tokens, rel=1e-5)
    with pytest.raises(RequestError, match="no causal language model"):
        ModelJudge(model(False), "masked")


def test_a_judge_of_another_alphabet_is_refused() -> None:
    judge = ModelJudge(model(True), "ours")
    judge.reads("abcab hg")
    with pytest.raises(RequestError, match=r"no token for .x., .y. \(2 characters of 6\)"):
        judge.nats([Text([], [0], "abc"), Text([], [0], "xya")])


def test_nothing_to_judge() -> None:
    with pytest.raises(RequestError, match="every text is empty"):
        measure_texts([Text([1], [], "a")], Trigram(ROWS, 6), WORDS)
