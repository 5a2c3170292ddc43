"""Paces for k passes -> the bound that the information curve predicts for each, and the measured bound.

The k-step bound of a model with a random order and fixed sizes, E_order E_x [-log nu_order(x)], is measured by its
definition: texts are revealed in a random order with these sizes, and the cross-entropies of the tokens of each step,
given the tokens of earlier steps, are added. All paces share the passes with equal numbers of revealed tokens, in the
same order, so that the standard errors of their differences are much smaller than their own.
"""

__all__ = ["PaceComparison", "PaceEntry", "compare_rules", "measure_costs"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unmask.denoiser import Denoiser
from unmask.eval.curve import Curve, Progress, measure_curve, orders, reveal
from unmask.noise import derive
from unmask.objective.base import Rows
from unmask.policies.pace import RULES, Sizes, cost

StageProgress = Callable[[str, int], None]
"""Called with curve or check, and the number of sequences that were measured since the last call."""


class PaceEntry(NamedTuple):
    """A pace with its predicted and its measured bound; all values in nats per sequence."""

    steps: int
    rule: str
    sizes: Sizes
    predicted: float  # from the fitted curve
    predicted_stderr: float
    measured: float  # on sequences that the curve was not measured on
    measured_stderr: float
    excess: float  # measured, minus that of the optimal pace of as many passes, on the same sequences and orders
    excess_stderr: float


@dataclass(frozen=True, slots=True)
class PaceComparison:
    """A curve, and the paces of every rule for several numbers of passes."""

    curve: Curve
    entries: tuple[PaceEntry, ...]
    """Sorted by passes, then in the order of RULES: the optimal pace first."""

    @property
    def facts(self) -> dict[str, Any]:
        """The comparison as plain data, in nats per sequence; the option pace=FILE of a policy reads `paces`."""
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
        """The comparison as text, in nats per token: a line for each pace, then the correlations of the text."""
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
    seed: int,
    progress: StageProgress = lambda stage, sequences: None,
) -> PaceComparison:
    """The curve of the rows `fit` -> the pace of every rule for each of `steps`, and their bounds on the rows `check`.

    All rows have the same number n of maskable tokens, and each of `steps` is at most n.

    Raises:
        DataError: if the rows differ in n.
    """
    curve = measure_curve(denoiser, fit, derive(seed, 0), lambda sequences: progress("curve", sequences))
    fitted = curve.fitted()
    named = [(k, rule, make(fitted, k)) for k in steps for rule, make in RULES.items()]
    paces = list(dict.fromkeys(sizes for _, _, sizes in named))
    costs = measure_costs(denoiser, check, paces, derive(seed, 1), lambda sequences: progress("check", sequences))
    measured = dict(zip(paces, costs.unbind(-1), strict=True))
    best = {k: measured[sizes] for k, rule, sizes in named if rule == "optimal"}
    entries = [
        PaceEntry(
            k,
            rule,
            sizes,
            cost(fitted, sizes),
            curve.error_of(sizes),
            *_mean(measured[sizes]),
            *_mean(measured[sizes] - best[k]),
        )
        for k, rule, sizes in named
    ]
    return PaceComparison(curve, tuple(entries))


def measure_costs(
    denoiser: Denoiser,
    batches: Sequence[Rows],
    paces: Sequence[Sizes],
    seed: int,
    progress: Progress = lambda sequences: None,
) -> Tensor:
    """Rows and paces -> (S, number of paces) float64: an unbiased estimate of each bound for each sequence, in nats.

    Each sequence is revealed in one random order, the same for all paces.
    """
    steps: dict[int, list[tuple[int, int]]] = {}  # revealed tokens at the start of a step -> (pace, tokens at its end)
    for index, sizes in enumerate(paces):
        for start, end in pairwise([0, *torch.tensor(sizes).cumsum(0).tolist()]):
            steps.setdefault(start, []).append((index, end))
    batch_costs: list[Tensor] = []
    first = 0
    for rows in batches:
        order = orders(rows.maskable, seed, first)
        first += len(order)
        costs = torch.zeros(len(order), len(paces), dtype=torch.float64)
        for result in reveal(denoiser, rows, order, sorted(steps)):
            for index, end in steps[result.start]:
                costs[:, index] += result.cross_entropy[:, : end - result.start].sum(-1)
        batch_costs.append(costs)
        progress(len(order))
    return torch.cat(batch_costs)


def _mean(values: Tensor) -> tuple[float, float]:
    """(S,) values -> their mean and its standard error."""
    return float(values.mean()), float(values.std() / len(values) ** 0.5)
