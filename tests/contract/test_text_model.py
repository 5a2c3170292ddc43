"""tools/text_model.py: what it compares."""

from tools import text_model


def test_a_passage_is_the_first_row_of_its_word() -> None:
    rows = ["river: a stream", "king: a ruler: a man", "river: water"]
    assert text_model.passages(rows) == [("river:", " a stream"), ("king:", " a ruler: a man")]
