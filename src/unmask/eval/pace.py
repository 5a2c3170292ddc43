"""Paces for k passes: what the information curve predicts for each, and what the model then really needs.

The k-step bound of a model with random order and fixed sizes, E_order E_x [-log nu_order(x)], is measured as it is
defined: texts are revealed in a random order by exactly these sizes, and the cross-entropies of the tokens of each
step, given what stood before it, are added up. One pass for each number of revealed tokens serves all paces that
pass by it, in the same order: so their differences have far smaller errors than they themselves.
"""

__all__ = ["Comparison", "Entry", "compare_rules", "measure_costs"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.denoiser import Denoiser
from unmask.eval.curve import Curve, measure_curve, orders, reveal
from unmask.objective.base import Rows
from unmask.policies.pace import RULES, Sizes, cost

Tell = Callable[[str, int], None]


class Entry(NamedTuple):
    """One pace; all in nats for a whole sequence."""

    steps: int
    rule: str
    sizes: Sizes
    predicted: float  # from the fitted curve
    predicted_stderr: float
    measured: float  # on other sequences than the curve's
    measured_stderr: float
    excess: float  # measured, over the optimal pace of as many passes, on the same sequences and orders
    excess_stderr: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """A curve and what became of it."""

    curve: Curve
    entries: tuple[Entry, ...]
    """By passes, and within them in the order of the rules: the optimal one first."""


def compare_rules(
    denoiser: Denoiser,
    fit: Sequence[Rows],
    check: Sequence[Rows],
    steps: Sequence[int],
    chance: torch.Generator,
    tell: Tell = lambda what, sequences: None,
) -> Comparison:
    """The curve from the rows `fit`, every rule's pace for each of `steps`, and their bounds on the rows `check`.

    Every row has the same number n of maskable tokens, and every of `steps` is at most n. `tell` hears what goes on and
    how many sequences are done. Raises DataError for rows that differ in n.
    """
    curve = measure_curve(denoiser, fit, chance, lambda sequences: tell("curve", sequences))
    fitted = curve.fitted()
    named = [(k, rule, make(fitted, k)) for k in steps for rule, make in RULES.items()]
    paces = list(dict.fromkeys(sizes for _, _, sizes in named))
    costs = measure_costs(denoiser, check, paces, chance, lambda sequences: tell("check", sequences))
    found = dict(zip(paces, costs.unbind(-1), strict=True))
    best = {k: found[sizes] for k, rule, sizes in named if rule == "optimal"}
    entries = [
        Entry(
            k,
            rule,
            sizes,
            cost(fitted, sizes),
            curve.error_of(sizes),
            *_mean(found[sizes]),
            *_mean(found[sizes] - best[k]),
        )
        for k, rule, sizes in named
    ]
    return Comparison(curve, tuple(entries))


def measure_costs(
    denoiser: Denoiser,
    batches: Sequence[Rows],
    paces: Sequence[Sizes],
    chance: torch.Generator,
    tell: Callable[[int], None] = lambda sequences: None,
) -> Tensor:
    """(S, number of paces) float64: an unbiased draw of each pace's bound for each sequence, in nats.

    Each sequence is revealed in one random order, the same for all paces.
    """
    steps: dict[int, list[tuple[int, int]]] = {}  # by revealed tokens: which pace goes on from there, and how far
    for line, sizes in enumerate(paces):
        for start, end in pairwise([0, *torch.tensor(sizes).cumsum(0).tolist()]):
            steps.setdefault(start, []).append((line, end))
    found: list[Tensor] = []
    for rows in batches:
        order = orders(rows.maskable, chance)
        costs = torch.zeros(len(order), len(paces), dtype=torch.float64)
        for seen in reveal(denoiser, rows, order, sorted(steps)):
            for line, end in steps[seen.start]:
                costs[:, line] += seen.cross_entropy[:, : end - seen.start].sum(-1)
        found.append(costs)
        tell(len(order))
    return torch.cat(found)


def _mean(values: Tensor) -> tuple[float, float]:
    """The mean over sequences and its standard error."""
    return float(values.mean()), float(values.std() / len(values) ** 0.5)
