"""What objectives share: rows, draws and losses, the Objective protocol, and log-likelihoods at chosen positions.

The trainer owns the batch, the optimiser and the denominators. An objective owns what is random in it, and what is
computed. Nothing here reduces over rows, so that a batch may be cut into micro-batches or shared by processes.

`log_likelihoods` runs the vocabulary head at the chosen positions alone. Where these make more than `BUDGET` logits,
they are cut into slices, whose logits are computed again in the backward pass: the peak of memory does not depend on
the length of the batch. A slice keeps one buffer of the size of its logits, the exponentials, and the gradient is
written over it.
"""

__all__ = ["BUDGET", "Draw", "Loss", "Objective", "Rows", "Turn", "first_predicted", "head_values", "log_likelihoods"]

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from unmask.batch import to_device
from unmask.denoiser import Denoiser

Draw: TypeAlias = tuple[Tensor, ...]
"""The randomness of some rows: tensors with the rows first, whose meaning is the objective's own. Empty for none."""


class Rows(NamedTuple):
    """Some sequences: ids (B, L) int64; maskable (B, L) bool, what is to be predicted; valid (B, L) bool, not padding.

    `valid` is None where no row is padded.
    """

    ids: Tensor
    maskable: Tensor
    valid: Tensor | None

    def part(self, rows: slice | Tensor, device: torch.device) -> "Rows":
        """Some of the rows, a slice or indices, on a device.

        Rows on the CPU are looked at there, so that no GPU is waited for.
        """
        valid = None if self.valid is None or bool(self.valid[rows].all()) else self.valid[rows]
        ids, maskable = (to_device(x[rows], device) for x in (self.ids, self.maskable))
        return Rows(ids, maskable, None if valid is None else to_device(valid, device))

    def predicted(self, model: Any) -> "Rows":
        """The same without what `model` does not predict, which counts as known.

        A shifted network predicts a token at the position before it, so that it has no prediction for the first of a
        row; the published programs train none either (Dream, arXiv:2508.15487). Ours predict it where they see MASK
        (`begins`).
        """
        start = first_predicted(model)
        if not start:
            return self
        maskable = self.maskable.clone()
        maskable[:, :start] = False
        return self._replace(maskable=maskable)


def first_predicted(model: Any) -> int:
    """A model -> the first position of a row that it predicts, 0 or 1; see `Rows.predicted`."""
    return int(getattr(model, "shifted", False) and not getattr(model, "begins", False))


class Loss(NamedTuple):
    """Of each row: nats (B,), differentiable in training, and the number of tokens that they cover (B,)."""

    nats: Tensor
    tokens: Tensor


class Turn(NamedTuple):
    """Which estimate of a measurement is taken: number `draw` of `draws`, of these rows of `total`.

    All that is random in the estimate is a function of this, so that the size of a batch changes no figure.
    """

    seed: int
    rows: Tensor  # (B,) int64: their indices in the measurement, on the CPU
    total: int
    draw: int = 0
    draws: int = 1


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
        """The loss of some rows, with `draw` on their device; draws nothing.

        How often it calls `hidden` depends on the step alone, not on the rows: processes that divide a network gather
        it together, and one that made another pass would wait forever.
        """
        ...

    def bound(self, model: Any, rows: Rows, turn: Turn) -> Loss:
        """An upper bound on -log p of some rows, or an unbiased estimate of one, without gradients.

        A row's estimate depends on the row and on `turn` alone, not on the rows beside it. An exact bound ignores
        `turn`.
        """
        ...


BUDGET = 2**23  # logits alive at a time; 32 MiB in float32


class _LogLikelihood(torch.autograd.Function):
    """log softmax(logits)[target], MASK left out of the softmax: (N, V), (N,) -> (N,) float32."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, mask_id: int) -> Tensor:
        sides = [
            part.amax(-1, keepdim=True) for part in (logits[:, :mask_id], logits[:, mask_id + 1 :]) if part.shape[1]
        ]
        top = torch.stack(sides).amax(0).float()
        weights = (logits - top).exp_() if logits.dtype == torch.float32 else logits.float().sub_(top).exp_()
        weights[:, mask_id] = 0
        total = weights.sum(-1, keepdim=True)
        ctx.save_for_backward(weights, total, targets)
        ctx.dtype = logits.dtype
        picked = logits.gather(-1, targets[:, None]).float() - top
        return (picked - total.log()).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        weights, total, targets = ctx.saved_tensors
        (grad,) = grads
        slope = weights.mul_(-grad[:, None] / total)
        slope.scatter_add_(-1, targets[:, None], grad[:, None].to(slope.dtype))
        return slope.to(ctx.dtype), None, None


def log_likelihoods(denoiser: Denoiser, hidden: Tensor, targets: Tensor, budget: int = BUDGET) -> Tensor:
    """log p(target | x_t) for picked positions: (N, D) and (N,) int64 -> (N,) float32, MASK having probability zero.

    A target is never MASK. Differentiable once: the exponentials are overwritten by the gradient.
    """

    def of(logits: Tensor, wanted: Tensor) -> Tensor:
        values = _LogLikelihood.apply(logits, wanted, denoiser.mask_id)
        assert isinstance(values, Tensor)
        return values

    return head_values(denoiser, hidden, targets, of, budget)


def head_values(
    denoiser: Denoiser,
    hidden: Tensor,
    targets: Tensor,
    function: Callable[[Tensor, Tensor], Tensor],
    budget: int = BUDGET,
) -> Tensor:
    """Hidden states (N, D) and targets (N,) -> function(logits (N, V), targets), (N, ...), a slice at a time."""

    def at(rows: Tensor, wanted: Tensor) -> Tensor:
        return function(denoiser.logits(rows), wanted)

    size = max(1, budget // denoiser.vocab_size)
    if len(targets) <= size:
        return at(hidden, targets)
    parts = zip(hidden.split(size), targets.split(size), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(at, rows, wanted, use_reentrant=False) for rows, wanted in parts])
    return torch.cat([at(rows, wanted) for rows, wanted in parts])
