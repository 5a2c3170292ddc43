"""Which held-out sequences a schedule is measured on: two sets that share none, all of the same number of tokens."""

__all__ = ["two_sets"]

import numpy as np
import torch

from unmask.data.packed import Packed
from unmask.errors import DataError
from unmask.noise import generator
from unmask.objective.bound import Rows

_STREAM = 5  # of the seed


def two_sets(
    data: Packed, sequences: int, *, prompt: float = 0.0, batch: int = 16, seed: int = 0, device: str = "cpu"
) -> tuple[list[Rows], list[Rows]]:
    """Two lists of batches with `sequences` random rows each, or half of what there are, and never a row in both.

    Rows have the number of maskable tokens that most rows have; the first `prompt` share of these counts as given.
    Raises DataError where there are fewer than four such rows.
    """
    lengths = data.last - data.first
    usual = int(np.bincount(lengths).argmax()) if len(lengths) else 0
    rows = np.flatnonzero(lengths == usual)
    each = min(sequences, len(rows) // 2)
    if each < 2 or usual < 2:
        raise DataError(
            f"The text has {len(rows)} sequences of {usual} tokens; the curve needs at least 4 of at least 2 tokens: "
            "give a longer text, or shorter sequences with --data.length."
        )
    chosen = rows[torch.randperm(len(rows), generator=generator(seed, _STREAM))[: 2 * each].numpy()]
    sets: list[list[Rows]] = []
    for part in (chosen[:each], chosen[each:]):
        sets.append([])
        for at in range(0, each, batch):
            ids, maskable, valid = (torch.from_numpy(x).to(device) for x in data.batch(part[at : at + batch]))
            given = maskable & (maskable.cumsum(-1) <= int(prompt * usual))
            sets[-1].append(Rows(ids, maskable & ~given, valid))
    return sets[0], sets[1]
