"""Stateless randomness: a uniform number is a function of (seed, step, position, stream).

No generator is carried about, so a row decodes the same alone, in any batch, or resumed, and a served request
is reproducible from one integer. The idea is that of `jax.random.fold_in`; the state is two 32-bit words, each mixed by
a xor-multiply hash whose multipliers are below 2**31, so that no product of a 32-bit word leaves int64.
"""

__all__ = ["POLICY", "TOKENS", "derive", "generator", "uniform"]

from typing import TypeVar

import torch
from torch import Tensor

# Streams: numbers drawn for one purpose never meet those of another.
TOKENS, POLICY = 0, 1

_WORD = 0xFFFFFFFF
_START = 0x5BD1E995


_FEW = 16  # so many rows are hashed faster one by one than as a tensor
Word = TypeVar("Word", int, Tensor)


def _mix(word: Word) -> Word:
    """A bijection of 32-bit words held in int64 in which each input bit moves about half of the output bits."""
    word = (word ^ (word >> 16)) * 0x7FEB352D & _WORD
    word = (word ^ (word >> 15)) * 0x31848BAB & _WORD
    word = (word ^ (word >> 14)) * 0x21F0AAAD & _WORD
    return word ^ (word >> 15)


def _absorb(left: Word, right: Word, word: Word) -> tuple[Word, Word]:
    """Fold a 32-bit word into a state of two: a bijection of the state for each word, and one-to-one in the word."""
    left = _mix((left + word) & _WORD)
    return left, _mix((left + right + 0x2C1B3C6D) & _WORD)


def _begin(seed: Word, step: Word, start: Word, stream: int) -> tuple[Word, Word]:
    """The state before the position is folded in."""
    left, right = _absorb(start, start, seed & _WORD)
    left, right = _absorb(left, right, (seed >> 32) & _WORD)
    return _absorb(left, right, (step + 0x1E3779B9 * (stream + 1)) & _WORD)


def uniform(seed: Tensor, step: Tensor, position: Tensor, stream: int) -> Tensor:
    """Uniforms in (0, 1), float64 with 53 random bits.

    `seed`, `step` and `position` are int64 and broadcast together; the result has their common shape.
    `stream` keeps numbers that are drawn for different purposes apart (`TOKENS`, `POLICY`, or any small integer).
    Two seeds never share a state: it has as many bits as they, so that no two of a million rows are alike.
    """
    if seed.shape == step.shape and seed.numel() <= _FEW and seed.device.type == "cpu":
        rows = zip(seed.flatten().tolist(), step.flatten().tolist(), strict=True)
        words = torch.tensor([_begin(one, at, _START, stream) for one, at in rows])
        left, right = (word.view(seed.shape) for word in words.view(-1, 2).unbind(-1))
    else:
        left, right = _begin(seed, step, torch.full_like(seed, _START), stream)
    left, right = _absorb(left, right, position & _WORD)
    return (left * 2**21 + (right & 0x1FFFFF)).double().add_(0.5).mul_(2.0**-53)


def derive(seed: int, *path: int) -> int:
    """A new 63-bit seed for a named part of a run, e.g. `derive(seed, step, rank)`; pure Python, stable for ever."""
    state = seed & 0xFFFFFFFFFFFFFFFF
    for part in (0, *path):  # splitmix64; the seed is mixed on its own first, else (1, 2) and (2, 1) would be the same
        state = (state ^ (part & 0xFFFFFFFFFFFFFFFF)) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1


def generator(seed: int, *path: int) -> torch.Generator:
    """A CPU generator whose state depends on `derive(seed, *path)` alone."""
    return torch.Generator().manual_seed(derive(seed, *path))
