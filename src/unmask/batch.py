"""Rows of a batch: how many run at once, padding, and tensors with the rows first that are picked, put back and joined.

A matrix product gives a row the same bits whatever else is in the batch only if the number of rows keeps its remainder
modulo 16 (measured on the CPU). So what depends on the rows beside, or on how much a row has to fill, is padded to a
multiple of `GRAIN`. "Nested" means here: a tensor with the rows first, a tuple of nested ones, or None.
"""

__all__ = [
    "GRAIN",
    "ceil_div",
    "join_rows",
    "keep_rows",
    "pad_ids",
    "pad_rows",
    "padded_size",
    "parts_by_length",
    "put_rows",
    "used_length",
]

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

GRAIN = 16
"""Lengths of rows, and numbers of rows of a matrix product, are multiples of this."""
Count = TypeVar("Count", int, Tensor)


def ceil_div(count: Count, size: Count | int) -> Count:
    """How many parts of `size` hold `count` things: count / size, rounded up."""
    return -(-count // size)


def padded_size(count: Count) -> Count:
    """The next multiple of `GRAIN`, `count` itself where it is one."""
    return ceil_div(count, GRAIN) * GRAIN


def pad_rows(values: Tensor) -> Tensor:
    """(N, ...) -> (M, ...) with rows of zeros behind, M the next multiple of `GRAIN`; itself where N is one."""
    missing = -len(values) % GRAIN
    return F.pad(values, (*(0, 0) * (values.ndim - 1), 0, missing)) if missing else values


def pad_ids(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of token ids -> tokens (B, L) int64 and valid (B, L) bool, L a multiple of `GRAIN`; `pad_id` on padding."""
    size = padded_size(max(map(len, rows)))
    tokens = torch.tensor([[*row, *[pad_id] * (size - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return tokens, torch.arange(size, device=device) < lengths[:, None]


def used_length(valid: Tensor) -> int:
    """(B, L) bool -> the number of positions up to the last one that is not padding in every row, padded, at most L."""
    used = valid.any(0).nonzero()
    return min(padded_size(int(used[-1]) + 1), valid.shape[1]) if len(used) else min(GRAIN, valid.shape[1])


def parts_by_length(lengths: Tensor, most: int, least: int) -> list[Tensor]:
    """Lengths of rows (N,) -> indices of rows of similar length, in parts of at most `most` rows, the longest first.

    Each part is to be padded to its longest row. A new part begins where that saves a quarter of a row or more and both
    sides have at least `least` positions, since small matrix products are slow. The rows of all parts together are the
    N rows, each in one part: sums over them do not depend on the parts.
    """
    sizes = padded_size(lengths)
    order = sizes.argsort(descending=True, stable=True)
    sizes = sizes[order].tolist()
    cuts = [0]
    for row in range(1, len(sizes)):
        longest, rows = sizes[cuts[-1]], row - cuts[-1]
        shorter = 4 * sizes[row] <= 3 * longest
        enough = min(rows * longest, (len(sizes) - row) * sizes[row]) >= least
        if rows == most or (shorter and enough):
            cuts.append(row)
    return [order[a:b] for a, b in zip(cuts, [*cuts[1:], len(sizes)], strict=True)]


def keep_rows(values: Any, rows: Tensor) -> Any:
    """Some rows of nested tensors, by indices or a mask."""
    if values is None:
        return None
    return values[rows] if isinstance(values, Tensor) else tuple(keep_rows(part, rows) for part in values)


def put_rows(values: Any, part: Any, rows: Tensor, forgotten: Tensor) -> Any:
    """Nested `values` with those of `part` at the rows (B,) bool; of the others, `forgotten` (B,) bool become zeros.

    None stands for zeros; the result is None where both are.
    """
    model = values if part is None else part
    if model is None:
        return None
    if not isinstance(model, Tensor):
        nothing = [None] * len(model)
        pairs = zip(values or nothing, part or nothing, strict=True)
        return tuple(put_rows(old, new, rows, forgotten) for old, new in pairs)
    out = model.new_zeros((len(rows), *model.shape[1:])) if values is None else values.clone()
    out[forgotten] = 0
    if part is not None:
        out[rows] = part
    return out


def join_rows(parts: Sequence[Any], counts: Sequence[int]) -> Any:
    """Nested tensors, one below the other; part i has `counts[i]` rows, zeros where it is None. None where all are."""
    model = next((part for part in parts if part is not None), None)
    if model is None:
        return None
    if not isinstance(model, Tensor):
        filled = [[None] * len(model) if part is None else part for part in parts]
        return tuple(join_rows(column, counts) for column in zip(*filled, strict=True))
    return torch.cat(
        [
            model.new_zeros((count, *model.shape[1:])) if part is None else part
            for part, count in zip(parts, counts, strict=True)
        ]
    )
