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
from typing import Any, NamedTuple

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

    @property
    def facts(self) -> dict[str, Any]:
        """All of it as plain data, in nats for a whole sequence; `paces` is what pace=FILE reads."""
        curve, fitted = self.curve, self.curve.fitted()
        total = float(fitted.sum())
        return {
            "tokens": curve.total,
            "paces": {str(entry.steps): list(entry.sizes) for entry in self.entries if entry.rule == "optimal"},
            "one_a_pass": total,
            "total_correlation": float(fitted[0]) * curve.total - total,
            "dual_total_correlation": total - float(fitted[-1]) * curve.total,
            "table": [entry._asdict() for entry in self.entries],
            "curve": {
                "revealed": list(curve.counts),
                "cross_entropy": curve.cross_entropy.mean(0).tolist(),
                "stderr": curve.stderr().tolist(),
                "entropy": curve.entropy.mean(0).tolist(),
                "fitted": fitted.tolist(),
            },
        }

    def lines(self) -> list[str]:
        """A table with a line for each pace, and the correlations of the text, for people; in nats per token."""
        n, facts = self.curve.total, self.facts
        lines = ["  passes  pace      predicted          measured           above optimal"]
        for entry in self.entries:
            over = "" if entry.rule == "optimal" else f"{entry.excess / n:+.4f} ± {entry.excess_stderr / n:.4f}"
            lines.append(
                f"  {entry.steps:>6}  {entry.rule:<8}  {entry.predicted / n:.4f} ± {entry.predicted_stderr / n:.4f}"
                f"    {entry.measured / n:.4f} ± {entry.measured_stderr / n:.4f}    {over}".rstrip()
            )
        gap = (self.curve.cross_entropy - self.curve.entropy).mean(0).tolist()
        lines.append(
            f"nats per token; one token a pass: {facts['one_a_pass'] / n:.4f} predicted. "
            f"TC {facts['total_correlation']:.1f}, DTC {facts['dual_total_correlation']:.1f} nats a sequence. "
            f"Cross-entropy over predictive entropy: {gap[0]:+.3f} with nothing revealed, {gap[-1]:+.3f} with all but "
            "one (0 is calibrated)."
        )
        return lines


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
