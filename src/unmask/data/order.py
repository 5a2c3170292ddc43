"""Place in an epoch -> row: a random permutation that is computed for the places that are asked for, and not stored.

It is a Feistel network over mixed radix (Black and Rogaway 2002, "Ciphers with arbitrary finite domains", the
generalised Feistel network with cycle walking). A number below high * low is written as (left, right) with left < high
and right < low. A round adds a keyed hash of one part to the other, modulo the size of the other, and is a bijection
whatever the hash is. A result that is not below the number of rows goes through the network again until one is, which
keeps it a bijection of the rows. high * low exceeds the number of rows by less than its square root, so that a second
pass is rare.
"""

__all__ = ["permuted"]

import math

import numpy as np

from unmask.batch import ceil_div

_WORDS = 2**64
_ROUNDS = 12
"""Rounds of the network; the statistics of tests/laws/test_order.py need 6 of them, and fail with 2."""


def permuted(seed: int, epoch: int, places: np.ndarray, size: int) -> np.ndarray:
    """Places in [0, size) -> the rows at these places of the epoch: int64 of the same shape, each in [0, size).

    All places of an epoch together are all rows, each once. Seed and epoch are any integers; they count modulo 2**64.
    Memory and time depend on the number of places alone, and not on `size`.
    """
    keys = _keys(seed, epoch)
    high = math.isqrt(size - 1) + 1
    low = ceil_div(size, high)
    rows = _network(places.astype(np.uint64).ravel(), keys, high, low)
    outside = np.flatnonzero(rows >= size)
    while len(outside):
        rows[outside] = _network(rows[outside], keys, high, low)
        outside = outside[rows[outside] >= size]
    return rows.astype(np.int64).reshape(places.shape)


def _keys(seed: int, epoch: int) -> np.ndarray:
    """The keys of the rounds, uint64: raw words of Philox.

    numpy guarantees that the words of a bit generator do not change in later versions, but not this for distributions.
    """
    return np.random.Philox(key=np.array([seed % _WORDS, epoch % _WORDS], dtype=np.uint64)).random_raw(_ROUNDS)


def _network(values: np.ndarray, keys: np.ndarray, high: int, low: int) -> np.ndarray:
    """Numbers below high * low, uint64 -> a permutation of these numbers, applied to them."""
    left, right = np.divmod(values, np.uint64(low))
    for number, key in enumerate(keys):
        if number % 2:
            right = (right + _hash(left, key) % np.uint64(low)) % np.uint64(low)
        else:
            left = (left + _hash(right, key) % np.uint64(high)) % np.uint64(high)
    return left * np.uint64(low) + right


def _hash(values: np.ndarray, key: np.uint64) -> np.ndarray:
    """Numbers and a key -> random-looking words, uint64: the last steps of SplitMix64 (Steele, Lea, Flood 2014)."""
    words = values + key  # modulo 2**64, as all that follows
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
