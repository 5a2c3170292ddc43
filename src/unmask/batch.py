"""Rows of a batch: how many run at once, padding, and tensors with the rows first that are picked, put back and joined.

A matrix product gives a row the same bits whatever else is in the batch only if the number of rows keeps its remainder
modulo 16 (measured on the CPU). So what depends on the rows beside, or on how much a row has to fill, is padded to a
multiple of `GRAIN`. "Nested" means here: a tensor with the rows first, a tuple of nested ones, or None.

A pass on a GPU runs ahead of the program until the program asks for a value. `Checks.read` is the only place of the
decoding loop that asks, once a pass; `to_device` and `placed` bring tensors and indices there without waiting.
"""

__all__ = [
    "GRAIN",
    "Checks",
    "ceil_div",
    "cut_to",
    "join_rows",
    "keep_rows",
    "pad_ids",
    "pad_rows",
    "padded_size",
    "parts_by_length",
    "placed",
    "put_rows",
    "rounded_size",
    "spans",
    "to_device",
    "used_length",
]

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

GRAIN = 16
"""Lengths of rows, and numbers of rows of a matrix product, are multiples of this."""
Count = TypeVar("Count", int, Tensor)


class Checks:
    """Conditions that are errors, and the transfer of values from the device of a pass.

    On a processor a condition is checked at once. On another device it waits for the next transfer, so that it costs
    none of its own.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[Tensor, Callable[[], Exception]]] = []

    def refuse(self, flag: Tensor, error: Callable[[], Exception]) -> None:
        """Raise `error()` if the `flag` () bool is True: now on a processor, else at the next `read`."""
        if flag.device.type != "cpu":
            self._waiting.append((flag, error))
        elif bool(flag):
            raise error()

    def read(self, *values: Tensor) -> list[list[Any]]:
        """Tensors of one device -> the numbers of each as a flat list, in one transfer.

        Numbers from another device than the processor are floats. Raises the error of the first flag that is True.
        """
        waiting, self._waiting = self._waiting, []
        if not waiting and all(value.device.type == "cpu" for value in values):
            return [value.flatten().tolist() for value in values]
        parts = [value.flatten() for value in values] + [flag.view(1) for flag, _ in waiting]
        numbers = iter(torch.cat([part.double() for part in parts]).cpu().tolist())
        lists = [[next(numbers) for _ in range(len(part))] for part in parts]
        for (_, error), (flag,) in zip(waiting, lists[len(values) :], strict=True):
            if flag:
                raise error()
        return lists[: len(values)]


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A tensor of the processor -> the same on `device`; to a GPU from pinned memory, without waiting for the copy."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


def placed(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Whole numbers -> an int64 tensor on `device`, as `to_device`."""
    return to_device(torch.tensor(numbers, dtype=torch.int64), device)


def ceil_div(count: Count, size: Count | int) -> Count:
    """How many parts of `size` hold `count` things: count / size, rounded up."""
    return -(-count // size)


def spans(count: int, length: int, stride: int, known: int = 0) -> Iterator[tuple[int, int, int]]:
    """A text of `count` tokens -> its windows of at most `length`: (start, first new token, end) of each.

    Each token from `known` on is new in one window. A window has `stride` new tokens after `length - stride` tokens of
    context; the last has less that is new and more context. The first window, which has none, is new as a whole. With a
    stride of `length` the windows share nothing.
    """
    at = known
    while at < count:
        start = at - min(at, length - stride)
        end = min(count, start + length)
        yield start if stride == length else max(0, end - length), at, end
        at = end


def padded_size(count: Count) -> Count:
    """The next multiple of `GRAIN`, `count` itself where it is one."""
    return ceil_div(count, GRAIN) * GRAIN


def rounded_size(count: int) -> int:
    """A number of positions -> the next multiple of `GRAIN`, or of a larger power of two, at most a sixteenth above it.

    The libraries of products prepare code or weights for each number of rows, so that few numbers should occur.
    """
    grain = max(GRAIN, 2 ** (count.bit_length() - 5))
    return max(1, ceil_div(count, grain)) * grain


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


def cut_to(parts: list[Tensor], count: int) -> list[Tensor]:
    """Parts of rows -> at least `count` of them, of the same rows in the same order: the largest are cut in half."""
    parts = list(parts)
    while len(parts) < count:
        at = max(range(len(parts)), key=lambda place: len(parts[place]))
        half = ceil_div(len(parts[at]), 2)
        parts[at : at + 1] = parts[at][:half], parts[at][half:]
    return parts


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
