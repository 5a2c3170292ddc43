"""The one protocol that every unmasking strategy, hand-made or learned, answers to.

A policy sees a View, never the model: so heuristics, learned networks and a person in front of a page are the same kind
of thing, and a View can be recorded and replayed. Shapes: B rows, L positions.
"""

__all__ = ["Decision", "State", "UnmaskingPolicy", "View", "take_best"]

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

State = Any  # whatever a policy wants back: a tensor or a tuple of tensors, batch first; None at the start


@dataclass(frozen=True, slots=True)
class View:
    """All that a policy may look at. (B, L) unless said.

    The features of an eligible position come from this pass, those of a written one are frozen at the pass that wrote
    it. A policy with `looks = False` decides before the pass: it gets the same View with features of nan.
    """

    eligible: Tensor  # bool: may be revealed now
    masked: Tensor  # bool: still MASK, in this block or a later one
    written: Tensor  # bool: written by us, never the prompt
    proposal: Tensor  # int64: the token that would be written
    confidence: Tensor  # clean probability of the proposal
    margin: Tensor  # best clean probability minus the second best
    entropy: Tensor  # of the clean distribution, in nats
    step: Tensor  # (B,) passes already spent in this block; 0 on entering it
    total: Tensor  # (B,) positions that were eligible on entering this block
    noise: Tensor  # float64 uniforms for the policy alone, fresh at each pass


class Decision(NamedTuple):
    """What a policy answers."""

    reveal: Tensor  # (B, L) bool, within eligible; may be empty, and then the loop reveals the surest position
    time: Tensor | None = (
        None  # (B,) what this pass is told, from a policy that decides before it (see Denoiser.hidden)
    )


class UnmaskingPolicy(Protocol):
    """`state` is None at first and then what was returned last; a row of it is forgotten where `view.step == 0`."""

    @property
    def looks(self) -> bool:
        """Whether the decision depends on what the model says. If not, the pass runs after it, at its time, and the
        vocabulary head only at the positions that are revealed."""
        ...

    def __call__(self, view: View, state: State) -> tuple[Decision, State]: ...


def take_best(score: Tensor, eligible: Tensor, count: Tensor) -> Tensor:
    """The `count` (B,) eligible positions of each row with the best scores, as a (B, L) mask; ties go left."""
    order = score.masked_fill(~eligible, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        -1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order)
    )
    return (rank < count[:, None]) & eligible
