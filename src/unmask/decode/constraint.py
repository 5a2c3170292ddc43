"""Which tokens may be written where: the protocol of a hard constraint, and what many rows with their own ones allow.

What a constraint forbids has probability zero before anything is drawn, and the rest is renormalised, so that
confidence, margin and entropy are those of the constrained distribution too. Shapes: B rows, L positions, V vocabulary,
N positions asked about.
"""

__all__ = ["Both", "Constraint", "Constraints", "Vocabulary", "allowed_tokens"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from unmask.errors import PluginError, RequestError, plugin_failure


class Constraint(Protocol):
    """Which tokens may be written where: choices, expressions and schemas over a canvas all take this form."""

    def __call__(self, tokens: Tensor, where: Tensor) -> Tensor:
        """tokens (B, L) int64 with MASK where nothing is written yet, where (B, L) bool with N places asked about, row
        by row -> (N, V) bool, or (1, V) where all places are alike: True where the token may be written.

        The result for a row depends on that row only, and allows at least one token at each MASK of `where`. Policies
        that read predictions at written positions ask there too; the token that is written there stays allowed.
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
