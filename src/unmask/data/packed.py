"""Rows of token ids in a memory map, ready to be cut into batches."""

__all__ = ["Batch", "Packed"]

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from unmask.errors import DataError


class Batch(NamedTuple):
    """Some rows, in memory."""

    ids: np.ndarray
    """(B, L) int64, PAD where a row has ended."""
    maskable: np.ndarray
    """(B, L) bool: may be hidden. Always within `valid`."""
    valid: np.ndarray
    """(B, L) bool: text, not PAD."""


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """N rows of L positions. In row n, positions `first[n] <= i < last[n]` may be masked, `i < last[n]` are valid."""

    ids: np.ndarray
    """(N, L) uint16 or uint32, a view of a memory map."""
    first: np.ndarray
    """(N,) int32."""
    last: np.ndarray
    """(N,) int32."""
    bytes: int
    """UTF-8 bytes of the text that the maskable tokens stand for (EOS stands for none)."""
    tokens: int
    """Maskable tokens in all rows."""

    def __len__(self) -> int:
        """The number of rows, N."""
        return int(self.ids.shape[0])

    @property
    def length(self) -> int:
        """Positions in a row, L."""
        return int(self.ids.shape[1])

    def batch(self, indices: np.ndarray) -> Batch:
        """The rows `indices`, (B,) integers in [0, N), as arrays of their own.

        Raises:
            DataError: where an index is outside of [0, N).
        """
        rows = np.asarray(indices)
        if rows.size and not (rows.min() >= 0 and rows.max() < len(self)):
            raise DataError(
                f"row {rows.min() if rows.min() < 0 else rows.max()} was asked for: there are {len(self)} rows."
            )
        ids = self.ids[rows].astype(np.int64)
        position = np.arange(self.length)
        valid = position < self.last[rows][:, None]
        return Batch(ids, valid & (position >= self.first[rows][:, None]), valid)
