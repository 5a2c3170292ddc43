"""Which tokens may be written where: the protocol of a hard constraint, and what many rows with their own ones allow.

What a constraint forbids has probability zero before anything is drawn, and the rest is renormalised, so that
confidence, margin and entropy are those of the constrained distribution too. A constraint answers for one position at a
time. Where the tokens of several together can break it, it has `survivors`, and the loop asks it again after the tokens
of a pass are chosen (`settle`). Shapes: B rows, L positions, V vocabulary, N positions asked about.
"""

__all__ = ["Both", "Constraint", "Constraints", "Joint", "Vocabulary", "allowed_tokens", "is_joint", "settle"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, cast

import torch
from torch import Tensor

from unmask.errors import PluginError, RequestError, plugin_failure
from unmask.policies.base import Decision


class Constraint(Protocol):
    """Which tokens may be written where: choices, expressions and schemas over a canvas all take this form."""

    def __call__(self, tokens: Tensor, where: Tensor) -> Tensor:
        """tokens (B, L) int64 with MASK where nothing is written yet, where (B, L) bool with N places asked about, row
        by row -> (N, V) bool, or (1, V) where all places are alike: True where the token may be written.

        The result for a row depends on that row only, and allows at least one token at each MASK of `where`. Policies
        that read predictions at written positions ask there too; the token that is written there stays allowed.
        """
        ...


class Joint(Constraint, Protocol):
    """A constraint that tokens can break together, each of which it allows alone."""

    def survivors(self, tokens: Sequence[int], chosen: Sequence[tuple[int, int]]) -> list[bool]:
        """The L tokens of a row, and (position, token) that a pass would write, the best first -> which it may write.

        The first is always kept. What is not kept stays MASK in this pass.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """The constraint that is the same everywhere: (V,) bool, True for the tokens that may be written."""

    allowed: Tensor

    def __call__(self, tokens: Tensor, where: Tensor) -> Tensor:
        return self.allowed[None].to(tokens.device)


@dataclass(frozen=True, slots=True)
class Both:
    """What two constraints allow."""

    first: Constraint
    second: Constraint

    def __call__(self, tokens: Tensor, where: Tensor) -> Tensor:
        return self.first(tokens, where) & self.second(tokens, where)


Constraints: TypeAlias = Constraint | Sequence[Constraint | None] | None
"""A constraint for all rows, or one a row; None is no constraint."""


def allowed_tokens(
    constraints: Sequence[Constraint | None], which: Sequence[int], tokens: Tensor, where: Tensor, vocab_size: int
) -> Tensor | None:
    """The constraint of each row -> (N, V) or (1, V) bool as a `Constraint` answers; None if no row has one.

    Row i keeps to `constraints[which[i]]`, where None stands for no constraint. Raises RequestError for a number that
    has no entry.
    """
    present = set(which)
    wrong = [number for number in present if not 0 <= number < len(constraints)]
    if wrong:
        raise RequestError(
            f"A row names constraint {wrong[0]} of the decoder, which has {len(constraints)}; "
            f"give a number from 0 to {len(constraints) - 1}."
        )
    if all(constraints[number] is None for number in present):
        return None
    if len(present) == 1 and (rule := constraints[present.pop()]) is not None:
        return _asked(rule, tokens, where, vocab_size)
    numbers = torch.tensor(which, device=tokens.device)
    line = where.nonzero()[:, 0]
    allowed = torch.ones(len(line), vocab_size, dtype=torch.bool, device=tokens.device)
    for number in sorted(present):
        rule, rows = constraints[number], numbers == number
        if rule is not None:
            allowed[rows[line]] = _asked(rule, tokens[rows], where[rows], vocab_size)
    return allowed


def is_joint(rule: Constraint | None) -> bool:
    """Whether the tokens of one pass have to be checked together: see `Joint`."""
    return hasattr(rule, "survivors")


def settle(
    constraints: Sequence[Constraint | None],
    which: Sequence[int],
    tokens: Tensor,
    proposal: Tensor,
    log_prob: Tensor,
    revealed: Tensor,
    decision: Decision,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """What a pass would reveal (B, L) -> what it reveals, and `remask` and `done` of the decision after that.

    `proposal` and `log_prob` (B, L) are the tokens that would be written, which are asked for in the order of their
    log-probability. A row from which something was left out is not done, and hides nothing in this pass: so each pass
    brings it at least one token further, whatever its policy hides.
    """
    remask, done = decision.remask, decision.done
    rows = [row for row, number in enumerate(which) if is_joint(constraints[number])]
    if not rows:
        return revealed, remask, done
    counts = revealed.sum(-1).tolist()
    rows = [row for row in rows if counts[row] > 1]  # each alone is allowed
    if not rows:
        return revealed, remask, done
    order = log_prob.masked_fill(~revealed, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    kept = revealed.clone()
    for row in rows:
        places = order[row, : counts[row]]
        rule = cast(Joint, constraints[which[row]])
        pairs = list(zip(places.tolist(), proposal[row, places].tolist(), strict=True))
        with plugin_failure(f"The constraint {_name(rule)}"):
            fits = rule.survivors(tokens[row].tolist(), pairs)
        kept[row, places] = torch.tensor(fits, device=kept.device)
    whole = (kept == revealed).all(-1)
    return kept, remask if remask is None else remask & whole[:, None], done if done is None else done & whole


def _name(rule: Constraint) -> str:
    """The name of the function or class of a constraint, or of both of two."""
    if isinstance(rule, Both):
        return f"{_name(rule.first)} and {_name(rule.second)}"
    return getattr(rule, "__name__", type(rule).__name__)


def _asked(rule: Constraint, tokens: Tensor, where: Tensor, vocab_size: int) -> Tensor:
    """What a constraint allows (N or 1, V). Raises PluginError if it fails or gives anything else."""
    name = f"The constraint {_name(rule)}"
    with plugin_failure(name):
        allowed: Any = rule(tokens, where)
    count = int(where.sum())
    if not isinstance(allowed, Tensor) or allowed.dtype != torch.bool or allowed.shape[-1:] != (vocab_size,):
        raise PluginError(f"{name} gave {allowed!r:.60}; give a bool tensor (N, {vocab_size}) of the allowed tokens.")
    if allowed.ndim != 2 or len(allowed) not in (1, count):
        raise PluginError(f"{name} gave {tuple(allowed.shape)} for {count} positions; give one row for each, or one.")
    return allowed
