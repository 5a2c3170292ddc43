"""Stateless random numbers: (seed, step, position, stream) -> a uniform number.

There is no generator state, so a row decodes equally alone, in any batch, or resumed, and one integer reproduces a
request. The idea is that of `jax.random.fold_in`. The hash state is two 32-bit words, each mixed by a xor-multiply hash
whose multipliers are below 2**31, so that no product with a 32-bit word exceeds int64.
"""

__all__ = ["DROPOUT", "POLICY", "TOKENS", "derive", "fold", "generator", "row_keys", "row_seeds", "uniform"]

from collections.abc import Sequence
from numbers import Integral
from typing import TypeVar

import torch
from torch import Tensor

from unmask.errors import RequestError

# Streams: numbers for different purposes are independent.
TOKENS, POLICY, DROPOUT = 0, 1, 2

_WORD = 0xFFFFFFFF
_START = 0x5BD1E995


_FEW = 16  # at most so many rows are hashed faster in Python integers than as a tensor
Word = TypeVar("Word", int, Tensor)


def _mix(word: Word) -> Word:
    """A bijection of 32-bit words, stored as int64, in which each input bit changes about half of the output bits."""
    word = (word ^ (word >> 16)) * 0x7FEB352D & _WORD
    word = (word ^ (word >> 15)) * 0x31848BAB & _WORD
    word = (word ^ (word >> 14)) * 0x21F0AAAD & _WORD
    return word ^ (word >> 15)


def _absorb(left: Word, right: Word, word: Word) -> tuple[Word, Word]:
    """State of two words and a 32-bit word -> new state: a bijection of the state, and injective in the word."""
    left = _mix((left + word) & _WORD)
    return left, _mix((left + right + 0x2C1B3C6D) & _WORD)


def _begin(seed: Word, step: Word, start: Word, stream: int) -> tuple[Word, Word]:
    """Seed, step and stream -> the hash state before the position is absorbed."""
    left, right = _absorb(start, start, seed & _WORD)
    left, right = _absorb(left, right, (seed >> 32) & _WORD)
    return _absorb(left, right, (step + 0x1E3779B9 * (stream + 1)) & _WORD)


def uniform(seed: Tensor, step: Tensor, position: Tensor, stream: int) -> Tensor:
    """Seed, step, position and stream -> uniforms in (0, 1), float64 with 53 random bits.

    `seed`, `step` and `position` are int64 and broadcast together; the result has their common shape. `stream` is
    `TOKENS`, `POLICY` or any small integer: numbers of different streams are independent. The state has as many bits as
    a seed, so that two seeds never have the same state.
    """
    if seed.shape == step.shape and seed.numel() <= _FEW and seed.device.type == "cpu":
        rows = zip(seed.flatten().tolist(), step.flatten().tolist(), strict=True)
        words = torch.tensor([_begin(row_seed, row_step, _START, stream) for row_seed, row_step in rows])
        left, right = (word.view(seed.shape) for word in words.view(-1, 2).unbind(-1))
    else:
        left, right = _begin(seed, step, torch.full_like(seed, _START), stream)
    left, right = _absorb(left, right, position & _WORD)
    return (left * 2**21 + (right & 0x1FFFFF)).double().add_(0.5).mul_(2.0**-53)


def row_keys(seed: int, step: int, rows: Tensor, stream: int) -> Tensor:
    """Seed, step, indices of rows (B,) int64 and stream -> keys (2, B) int64, two words of 32 bits for each row."""
    begin = torch.tensor(_begin(seed, step, _START, stream), device=rows.device)
    return fold(begin[:, None], rows)


def fold(keys: Tensor, word: Tensor) -> Tensor:
    """Keys (2, ...) and integers that broadcast with keys[0] -> new keys (2, ...), a function of both."""
    return torch.stack(torch.broadcast_tensors(*_absorb(keys[0], keys[1], word & _WORD)))


def derive(seed: int, *path: int) -> int:
    """Seed and path, e.g. `derive(seed, step, rank)` -> a new 63-bit seed; pure Python, equal in every version."""
    state = seed & 0xFFFFFFFFFFFFFFFF
    for part in (0, *path):  # splitmix64; the seed is mixed alone first, else (1, 2) and (2, 1) would be equal
        state = (state ^ (part & 0xFFFFFFFFFFFFFFFF)) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1


def row_seeds(seed: int | Sequence[int], count: int) -> list[int]:
    """A seed, from which each row gets its own by its place, or one a row -> the seeds of `count` rows.

    Raises RequestError where there are not as many as rows.
    """
    if isinstance(seed, int | Integral):
        return [derive(int(seed), row) for row in range(count)]
    if len(seed) != count:
        raise RequestError(f"{len(seed)} seeds were given for {count} rows; give one seed, or one a row.")
    return [int(row_seed) for row_seed in seed]


def generator(seed: int, *path: int) -> torch.Generator:
    """Seed and path -> a CPU generator seeded with `derive(seed, *path)`."""
    return torch.Generator().manual_seed(derive(seed, *path))
