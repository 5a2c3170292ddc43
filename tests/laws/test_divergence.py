"""MAUVE: 1 for equal shares, and less the further two sets are apart; the clusters are those of the data."""

import math

import pytest
import torch

from unmask.errors import RequestError
from unmask.eval.divergence import clusters, frontier_area, mauve, reduced
from unmask.noise import generator


def test_the_area_is_1_for_equal_shares_and_little_for_separate_ones() -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.3, 0.5]).double()
    assert frontier_area(p, p) == pytest.approx(1)
    assert frontier_area(p, q) == pytest.approx(frontier_area(q, p))
    halves = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.0, 1.0]).double()
    assert 0 < frontier_area(*halves) < 0.01 < frontier_area(p, q) < 0.9


def test_the_area_of_separate_sets_is_that_of_the_curve() -> None:
    """Without a common cluster the points are ((1 - w)^c, w^c): the area is c B(c, c + 1), the beta function."""
    p, q = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.0, 1.0]).double()
    exact = 5 * math.gamma(5) * math.gamma(6) / math.gamma(11)
    assert frontier_area(p, q) == pytest.approx(exact, rel=0.05)


def test_clusters_are_those_of_the_data() -> None:
    centres = 10 * torch.randn(6, 4, generator=generator(0)).double()
    truth = torch.arange(600) % 6
    rows = centres[truth] + 0.1 * torch.randn(600, 4, generator=generator(1))
    which = clusters(rows, 6, 0)
    assert {len(which[truth == label].unique()) for label in range(6)} == {1}
    assert len(which.unique()) == 6


def test_mauve_falls_with_the_distance_of_two_sets() -> None:
    left, right = torch.randn(2, 200, 8, generator=generator(2))
    near, far = mauve(left, right, 20), mauve(left, right + 4, 20)
    apart = [mauve(left, right + shift, 20) for shift in (0.5, 1.0)]
    assert near > 0.9 > apart[0] > apart[1] > far
    assert far < 0.1
    assert reduced(torch.cat([left, right])).shape[1] <= 8


def test_too_few_texts() -> None:
    with pytest.raises(RequestError, match="needs 40 texts of each set, and there are 39"):
        mauve(torch.zeros(39, 2), torch.zeros(80, 2), 20)
