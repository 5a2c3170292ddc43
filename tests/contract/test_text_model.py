"""tools/text_model.py: the word rule, the entropy, and the 3-gram model by which texts are compared."""

import itertools
import math

import pytest
from tools import text_model

ROWS = [[1, 2, 3, 0], [1, 2, 3, 0], [1, 2, 4, 0]]


def test_words_are_runs_of_letters_in_lower_case() -> None:
    assert text_model.words_of("The king's \"well-known\" dog, 3 dogs'") == [
        "the",
        "king's",
        "well",
        "known",
        "dog",
        "dogs",
    ]
    assert text_model.known(["The king", "grzk's"], frozenset(["the", "king"])) == pytest.approx(2 / 3)


def test_entropy_is_that_of_the_frequencies() -> None:
    assert text_model.entropy([1, 2, 3, 4]) == pytest.approx(math.log(4))
    assert text_model.entropy([7, 7, 7]) == 0


def test_the_trigram_is_a_distribution_after_every_history() -> None:
    model = text_model.Trigram(ROWS, 6)
    for history in [[], [1], [5], [1, 2], [2, 3], [5, 5], [9, 1, 2]]:
        assert sum(model.probability(token, history) for token in range(6)) == pytest.approx(1)
    assert model.probability(3, [1, 2]) > model.probability(4, [1, 2]) > model.probability(5, [1, 2]) > 0
    assert model.probability(3, [9, 1, 2]) == model.probability(3, [1, 2])


def test_a_smoothed_probability_by_hand() -> None:
    model = text_model.Trigram(ROWS, 6)
    single = (2 + 5 * (1 / 6)) / (12 + 5)  # token 3: twice of twelve, five different tokens
    pair = (2 + 2 * single) / (3 + 2)  # after 2: three times, two different
    assert model.probability(3, [1, 2]) == pytest.approx((2 + 2 * pair) / (3 + 2))


def test_texts_in_the_order_of_the_training_rows_have_the_least_perplexity() -> None:
    model = text_model.Trigram(ROWS, 6)
    orders = {order: model.perplexity([([1], order)]) for order in itertools.permutations([2, 3, 0])}
    assert min(orders, key=lambda order: orders[order]) == (2, 3, 0)
    assert model.perplexity([([1], [2, 3]), ([1, 2], [4])]) == pytest.approx(
        math.exp(-sum(math.log(model.probability(*p)) for p in [(2, [1]), (3, [1, 2]), (4, [1, 2])]) / 3)
    )


def test_a_passage_is_the_first_row_of_its_word() -> None:
    rows = ["river: a stream", "king: a ruler: a man", "river: water"]
    assert text_model.passages(rows) == [("river:", " a stream"), ("king:", " a ruler: a man")]
