"""tools/text_model.py: the word rule, the entropy, and the 3-gram model by which texts are compared."""

import importlib.util
import itertools
import math
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [[1, 2, 3, 0], [1, 2, 3, 0], [1, 2, 4, 0]]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("text_model", ROOT / "tools" / "text_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_words_are_runs_of_letters_in_lower_case(tool: ModuleType) -> None:
    assert tool.words_of("The king's \"well-known\" dog, 3 dogs'") == ["the", "king's", "well", "known", "dog", "dogs"]
    assert tool.known(["The king", "grzk's"], frozenset(["the", "king"])) == pytest.approx(2 / 3)


def test_entropy_is_that_of_the_frequencies(tool: ModuleType) -> None:
    assert tool.entropy([1, 2, 3, 4]) == pytest.approx(math.log(4))
    assert tool.entropy([7, 7, 7]) == 0


def test_the_trigram_is_a_distribution_after_every_history(tool: ModuleType) -> None:
    model = tool.Trigram(ROWS, 6)
    for history in [[], [1], [5], [1, 2], [2, 3], [5, 5], [9, 1, 2]]:
        assert sum(model.probability(token, history) for token in range(6)) == pytest.approx(1)
    assert model.probability(3, [1, 2]) > model.probability(4, [1, 2]) > model.probability(5, [1, 2]) > 0
    assert model.probability(3, [9, 1, 2]) == model.probability(3, [1, 2])


def test_a_smoothed_probability_by_hand(tool: ModuleType) -> None:
    model = tool.Trigram(ROWS, 6)
    single = (2 + 5 * (1 / 6)) / (12 + 5)  # token 3: twice of twelve, five different tokens
    pair = (2 + 2 * single) / (3 + 2)  # after 2: three times, two different
    assert model.probability(3, [1, 2]) == pytest.approx((2 + 2 * pair) / (3 + 2))


def test_texts_in_the_order_of_the_training_rows_have_the_least_perplexity(tool: ModuleType) -> None:
    model = tool.Trigram(ROWS, 6)
    orders = {order: model.perplexity([([1], order)]) for order in itertools.permutations([2, 3, 0])}
    assert min(orders, key=lambda order: orders[order]) == (2, 3, 0)
    assert model.perplexity([([1], [2, 3]), ([1, 2], [4])]) == pytest.approx(
        math.exp(-sum(math.log(model.probability(*p)) for p in [(2, [1]), (3, [1, 2]), (4, [1, 2])]) / 3)
    )


def test_a_passage_is_the_first_row_of_its_word(tool: ModuleType) -> None:
    rows = ["river: a stream", "king: a ruler: a man", "river: water"]
    assert tool.passages(rows) == [("river:", " a stream"), ("king:", " a ruler: a man")]
