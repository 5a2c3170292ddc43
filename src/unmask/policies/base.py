"""The one protocol that every unmasking strategy, hand-made or learned, answers to.

A policy sees a View, never the model: so heuristics, learned networks and a person in front of a page are the same kind
of thing, and a View can be recorded and replayed. Shapes: B rows, L positions.
"""

__all__ = ["Decision", "Needs", "State", "UnmaskingPolicy", "View", "needs_of", "take_best", "take_prefix"]

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

State = Any  # whatever a policy wants back: a tensor or a tuple of tensors, batch first; None at the start


@dataclass(frozen=True, slots=True)
class Needs:
    """What a policy wants in its View beyond the usual: it says so in an attribute `needs`."""

    top: int = 0
    """So many of the highest probabilities of each position."""
    log_probs: bool = False
    """The whole distribution of each position: V wide, so ask for it only where nothing less will do."""
    hidden: bool = False
    """What the network made of each position before the vocabulary head."""

    def __or__(self, other: "Needs") -> "Needs":
        """What both want."""
        return Needs(max(self.top, other.top), self.log_probs or other.log_probs, self.hidden or other.hidden)


@dataclass(frozen=True, slots=True)
class View:
    """All that a policy may look at. (B, L) unless said.

    The features of an eligible position come from this pass, those of a written one are frozen at the pass that wrote
    it. A policy with `looks = False` decides before the pass: what is not written has features of nan for it.
    """

    eligible: Tensor  # bool: may be revealed now
    masked: Tensor  # bool: still MASK, in this block or a later one
    written: Tensor  # bool: written by us, never the prompt
    erasable: Tensor  # bool: those of the written that stand in this block, and may be hidden again
    proposal: Tensor  # int64: the token that would be written
    confidence: Tensor  # clean probability of the proposal
    margin: Tensor  # best clean probability minus the second best
    entropy: Tensor  # of the clean distribution, in nats
    step: Tensor  # (B,) passes already spent in this block; 0 on entering it
    total: Tensor  # (B,) positions that were eligible on entering this block
    noise: Tensor  # float64 uniforms for the policy alone, fresh at each pass
    top: Tensor | None = None  # (B, L, k) the highest clean probabilities, falling; zero where not eligible
    log_probs: Tensor | None = None  # (B, L, V) clean; zero where not eligible
    hidden: Tensor | None = None  # (B, L, D)
    dial: Tensor | None = None  # (B,) from 0 (accurate) to 1 (fast); nan where nobody has said

    def keep(self, rows: Tensor) -> "View":
        """Some of the rows."""

        def some(part: Any) -> Any:
            return None if part is None else part[rows]

        return View(**{f.name: some(getattr(self, f.name)) for f in fields(self)})


class Decision(NamedTuple):
    """What a policy answers."""

    reveal: Tensor
    """(B, L) bool, within eligible; may be empty, and then the loop reveals what `fallback` scores highest, or else the
    surest position."""
    time: Tensor | None = None
    """(B,) what this pass is told, from a policy that decides before it (see Denoiser.hidden)."""
    remask: Tensor | None = None
    """(B, L) bool, within erasable: what is hidden again after the pass."""
    done: Tensor | None = None
    """(B,) bool: whether a row is done with its block; only from policies that hide again, at every pass. The loop
    does not help them: an empty `reveal` stays empty, and costs no pass if it was decided before the pass."""
    fallback: Tensor | None = None
    """(B, L) scores, finite where eligible."""
    log_prob: Tensor | None = None
    """(B,) log-probability of `reveal`, from a policy that draws; a rescue does not change it."""


class UnmaskingPolicy(Protocol):
    """`state` is None at first and then what was returned last; a row of it is forgotten where `view.step == 0`."""

    @property
    def looks(self) -> bool:
        """Whether the decision depends on what the model says. If not, the pass runs after it, at its time, and the
        vocabulary head only at the positions that are revealed."""
        ...

    def __call__(self, view: View, state: State) -> tuple[Decision, State]: ...


def needs_of(policy: UnmaskingPolicy) -> Needs:
    """What a policy says it needs; nothing where it does not say."""
    return getattr(policy, "needs", Needs())


def take_prefix(score: Tensor, eligible: Tensor, keep: Callable[[Tensor], Tensor], *features: Tensor) -> Tensor:
    """The longest run of eligible positions, best score first, that a rule keeps, and at least the best; (B, L) bool.

    `keep` gets each of `features` (B, L) in that order and says, place by place, (B, L) bool, whether a run may reach
    it: the run ends at the first False. Ties go left, and what is not eligible comes last.
    """
    order = score.masked_fill(~eligible, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    good = keep(*(feature.gather(-1, order) for feature in features)) & eligible.gather(-1, order)
    run = good.cumprod(-1).bool()
    run[:, 0] = eligible.any(-1)
    return torch.zeros_like(eligible).scatter_(-1, order, run)


def take_best(score: Tensor, eligible: Tensor, count: Tensor) -> Tensor:
    """The `count` (B,) eligible positions of each row with the best scores, as a (B, L) mask; ties go left."""
    order = score.masked_fill(~eligible, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        -1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order)
    )
    return (rank < count[:, None]) & eligible
