"""Which rows make the batch of a step: a pure function, so that a resumed run goes on exactly where it stopped."""

__all__ = ["batch_indices"]

from functools import lru_cache

import numpy as np

from unmask.errors import DataError

_KEY = 2**64


def batch_indices(seed: int, step: int, batch: int, size: int) -> np.ndarray:
    """The rows of step `step`: (batch,) int64, each in [0, size).

    Within an epoch every row comes once; each epoch has a permutation of its own; a batch may run over the border of
    two epochs, or over several where it is larger than `size`. `step` may be any integer.

    Raises:
        DataError: where `batch` or `size` is less than 1.
    """
    if batch < 1 or size < 1:
        raise DataError(f"a batch of {batch} rows out of {size} was asked for: both must be at least 1.")
    parts: list[np.ndarray] = []
    at, left = step * batch, batch
    while left:
        epoch, start = divmod(at, size)
        part = _permutation(seed % _KEY, epoch % _KEY, size)[start : start + left]
        parts.append(part)
        at, left = at + len(part), left - len(part)
    return np.concatenate(parts)


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order of one epoch, (size,) int64, read only.

    Raw Philox words are sorted, rather than numpy's `permutation` called, because numpy promises that the words of a
    bit generator stay the same in later versions, and promises nothing of the kind for its distributions.
    """
    words = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(size)
    order = np.argsort(words, kind="stable").astype(np.int64)
    order.flags.writeable = False
    return order
