"""The side of a document depends on its text alone: copies are together, order and other documents do not matter."""

import random
from collections.abc import Iterator

import pytest

from unmask.data.documents import Pair, Piece, document_pieces
from unmask.data.packed import Sources
from unmask.data.sources import Source
from unmask.data.split import plan_split
from unmask.errors import DataError

WORDS = ("time", "and", "the", "hour", "runs", "through", "roughest", "day", "or", "it", "does", "not", "at", "all")


def texts(count: int, seed: int) -> list[str]:
    """Different documents of 1 to 60 words."""
    generator = random.Random(seed)
    return [f"{n} of {seed}: " + " ".join(generator.choices(WORDS, k=generator.randint(1, 60))) for n in range(count)]


def source(documents: list[str], paired: bool = False) -> Source:
    """Texts -> the source with them as documents, or as pairs cut at the first colon."""
    pairs = [Pair(*text.split(": ", 1)) for text in documents] if paired else []

    def pieces() -> Iterator[Piece]:
        for number, text in enumerate(documents):
            yield from document_pieces(number, (text,))

    return Source("memory", "0", paired, pieces, lambda: pairs)


def sides(documents: list[str], share: float = 0.1, rule: int = 2, paired: bool = False) -> list[tuple[str, str]]:
    """Texts -> the training and the validation text of each."""
    parts, side, number = [["", ""] for _ in documents], -1, 0
    for unit in plan_split(Sources(source(documents, paired), None, rule), share).units():
        parts[number][unit.valid] += unit.text if unit.prompt is None else f"{unit.prompt}: {unit.text}"
        side = sum(map(len, parts[number]))
        number += side == len(documents[number])
    return [(train, valid) for train, valid in parts]


def is_law(documents: list[str], rule: int, paired: bool = False) -> bool:
    """Whether copies are on one side, and order and other documents do not matter."""
    before = dict(zip(documents, sides(documents, rule=rule, paired=paired), strict=True))
    more = [*texts(len(documents), 99), *documents, *documents[::2]]
    random.Random(5).shuffle(more)
    after = zip(more, sides(more, rule=rule, paired=paired), strict=True)
    return all(before.get(text, parts) == parts for text, parts in after)


@pytest.mark.parametrize("count", [60, 400])
@pytest.mark.parametrize("paired", [False, True])
def test_whole_documents_go_by_their_text(count: int, paired: bool) -> None:
    assert all(is_law(texts(count, seed), 2, paired) for seed in (1, 2, 3))
    assert not any(is_law(texts(count, seed), 1, paired) for seed in (1, 2, 3))  # the control: the old rule
    train, valid = zip(*sides(texts(count, 1), paired=paired), strict=True)
    assert all(bool(a) != bool(b) for a, b in zip(train, valid, strict=True))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_of_few_documents_each_keeps_its_end(count: int) -> None:
    assert is_law(texts(count, 1), 2)
    assert count == 1 or not is_law(texts(count, 1), 1)  # the control
    for text, (train, valid) in zip(texts(count, 1), sides(texts(count, 1)), strict=True):
        assert train + valid == text
        assert 0.03 * len(text) - 1 <= len(valid) <= 0.25 * len(text) + 1


def test_many_copies_are_few_documents() -> None:
    assert len(set(sides(["the same text, again and again"] * 50))) == 1
    with pytest.raises(DataError, match="too few rows"):
        sides(["1: one"] * 50, paired=True)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_the_share_is_right_within_its_error(share: float) -> None:
    count = 20_000
    valid = sum(bool(part) for _, part in sides(texts(count, 1), share))
    error = (share * (1 - share) * count) ** 0.5
    assert abs(valid - share * count) < 4 * error
    assert abs(valid - (share + 0.02) * count) > 4 * error  # the control


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_both_sides_have_a_document_at_any_share(share: float) -> None:
    train, valid = zip(*sides(texts(50, 1), share), strict=True)
    assert any(train)
    assert any(valid)


def test_a_larger_share_keeps_what_a_smaller_one_kept() -> None:
    small, large = (sides(texts(300, 1), share) for share in (0.05, 0.2))
    assert all(b[1] for a, b in zip(small, large, strict=True) if a[1])


def test_documents_that_are_cut_are_separated_in_training() -> None:
    units = list(plan_split(Sources(source(texts(3, 1))), 0.2).units())
    assert [(unit.valid, unit.ends) for unit in units] == [
        (False, True),
        (True, True),
        (False, True),
        (True, True),
        (False, False),  # nothing follows it
        (True, True),
    ]
