"""What a training step and a validation ask of an objective: rows of text and a model -> nats and tokens of each row.

The trainer owns the batch, the optimiser and the denominators. An objective owns what is random in it, and what is
computed. Nothing here reduces over rows, so that a batch may be cut into micro-batches or shared by processes.
"""

__all__ = ["Draw", "Loss", "Objective", "Rows"]

from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

Draw: TypeAlias = tuple[Tensor, ...]
"""The randomness of some rows: tensors with the rows first, whose meaning is the objective's own. Empty for none."""


class Rows(NamedTuple):
    """Some sequences: ids (B, L) int64; maskable (B, L) bool, what is to be predicted; valid (B, L) bool, not padding.

    `valid` is None where no row is padded.
    """

    ids: Tensor
    maskable: Tensor
    valid: Tensor | None

    def part(self, rows: slice, device: torch.device) -> "Rows":
        """Some of the rows, on a device. Rows on the CPU are looked at there, so that no GPU is waited for."""
        valid = None if self.valid is None or bool(self.valid[rows].all()) else self.valid[rows]
        ids, maskable = (x[rows].to(device, non_blocking=True) for x in (self.ids, self.maskable))
        return Rows(ids, maskable, None if valid is None else valid.to(device, non_blocking=True))


class Loss(NamedTuple):
    """Of each row: nats (B,), differentiable in training, and how many tokens they are about (B,)."""

    nats: Tensor
    tokens: Tensor


class Objective(Protocol):
    """What a model is fitted to and judged by.

    `loss` is an estimate that training minimises: the trainer divides the sum of its nats by the number of maskable
    tokens of the global batch. `bound` is what validation reports: its nats over its tokens, summed over all rows.
    """

    def draw(self, seed: int, step: int, rows: Tensor, total: int, maskable: Tensor) -> Draw:
        """The randomness of a training step for some rows of its global batch, on the CPU.

        `rows` (B,) int64 are their indices in the batch of `total` rows, over which times are stratified; `maskable`
        (B, L) is theirs. It depends on nothing else: a process that draws its own rows alone gets the same numbers.
        """
        ...

    def loss(self, model: Any, rows: Rows, draw: Draw) -> Loss:
        """The loss of some rows, with `draw` on their device; draws nothing."""
        ...

    def bound(self, model: Any, rows: Rows, generator: torch.Generator) -> Loss:
        """An upper bound on -log p of some rows, or an unbiased estimate of one, without gradients.

        All that is random comes from `generator`, on the CPU: it stands where the rows before have left it, so that
        the same rows in the same order get the same numbers. An exact bound leaves it alone.
        """
        ...
