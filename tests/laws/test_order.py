"""The order of rows: a permutation for each epoch that looks random; only what is asked for is computed."""

import math
import tracemalloc
from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.data import packed
from unmask.data.packed import batch_indices, permuted
from unmask.run.parallel import Group


@given(st.integers(1, 3000), st.integers(-(2**70), 2**70), st.integers(0, 2**66))
@settings(max_examples=60, deadline=None)
def test_an_epoch_is_a_permutation_whatever_part_is_asked_for(size: int, seed: int, epoch: int) -> None:
    whole = permuted(seed, epoch, np.arange(size), size)
    assert sorted(whole.tolist()) == list(range(size))
    some = np.arange(size)[:: max(1, size // 7)]
    assert permuted(seed, epoch, some, size).tolist() == whole[some].tolist()


def test_memory_does_not_depend_on_the_number_of_rows() -> None:
    """The control is a stored permutation, as numpy makes it."""

    def peak(action: Callable[[], object]) -> int:
        tracemalloc.start()
        action()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(lambda: batch_indices(0, 10**9, 64, 10**12)) < 100_000
    assert peak(lambda: np.random.default_rng(0).permutation(10**6)) > 1_000_000
    huge = batch_indices(0, 5, 4096, 10**18)
    assert len(set(huge.tolist())) == 4096
    assert 0.45 < huge.mean() / 10**18 < 0.55


# ---- the world may change in the middle of an epoch


def seen(stages: list[tuple[int, int]], batch: int, size: int, take: Callable[..., np.ndarray]) -> list[int]:
    """(processes, steps) one after another -> the rows that all processes read, in the order of steps."""
    rows, step = list[int](), 0
    for world, steps in stages:
        for _ in range(steps):
            shares = [take(step, batch, size, Group(rank, world)) for rank in range(world)]
            rows += np.concatenate(shares).tolist()
            step += 1
    return rows


def share(step: int, batch: int, size: int, group: Group) -> np.ndarray:
    """As the trainer does: the global batch of the step, of which each process takes its slice."""
    return batch_indices(3, step, batch, size)[group.share(batch)]


def of_a_sampler_for_each_process(step: int, batch: int, size: int, group: Group) -> np.ndarray:
    """The control: each process permutes a strided part of the rows, as samplers of others do."""
    own = np.arange(group.rank, size, group.size)
    return own[batch_indices(3, step, batch // group.size, len(own))]


def without_repetition(rows: list[int], size: int) -> bool:
    epochs = [rows[at : at + size] for at in range(0, len(rows) - size + 1, size)]
    return bool(epochs) and all(sorted(epoch) == list(range(size)) for epoch in epochs)


@given(st.lists(st.tuples(st.sampled_from([1, 2, 4, 8]), st.integers(1, 9)), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_no_row_is_repeated_or_dropped_when_the_number_of_processes_changes(stages: list[tuple[int, int]]) -> None:
    size, batch = 53, 8
    rows = seen([*stages, (1, 2 * size // batch + 2)], batch, size, share)
    assert without_repetition(rows, size)
    alone = seen([(1, sum(steps for _, steps in stages))], batch, size, share)
    assert rows[: len(alone)] == alone  # not only the same rows: each step has the same


def test_control_a_sampler_for_each_process_repeats_rows() -> None:
    stages = [(1, 3), (2, 3), (4, 20)]
    assert without_repetition(seen(stages, 8, 53, share), 53)
    assert not without_repetition(seen(stages, 8, 53, of_a_sampler_for_each_process), 53)


# ---- statistics


def excess(counts: np.ndarray, expected: float, freedom: int) -> float:
    """Chi-square of counts about `expected`, in standard deviations above its mean."""
    return (float(((counts - expected) ** 2).sum()) / expected - freedom) / math.sqrt(2 * freedom)


def statistics(seeds: int) -> dict[str, float]:
    """How far the order is from uniform: the row at each place, neighbours, and whole permutations of few rows."""
    size = 30
    many = np.array([permuted(seed, 0, np.arange(size), size) for seed in range(seeds)])
    places = np.array([np.bincount(column, minlength=size) for column in many.T])
    gaps = np.bincount((np.diff(many, axis=1)[:, ::3] % size).ravel(), minlength=size)[1:]
    few = dict.fromkeys(permutations(range(4)), 0)
    for seed in range(4 * seeds):
        few[tuple(permuted(seed, 1, np.arange(4), 4).tolist())] += 1
    return {
        "places": excess(places, seeds / size, (size - 1) ** 2),
        "neighbours": excess(gaps, gaps.sum() / (size - 1), size - 2),
        "permutations": excess(np.array(list(few.values())), 4 * seeds / 24, 23),
    }


def test_the_order_looks_random() -> None:
    assert max(statistics(400).values()) < 4


def test_control_two_rounds_do_not_look_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_ROUNDS", 2)
    figures = statistics(400)
    assert figures["neighbours"] > 20
    assert figures["permutations"] > 20
