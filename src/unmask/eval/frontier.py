"""Outcomes of settings on the same problems -> accuracy against passes, and one set against another, with intervals.

All settings met the same problems, so a resample of the problems moves them together and differences are paired: what
makes a problem hard for all cancels. Intervals are percentiles. Shapes: K settings, N problems, R resamples. An area
(see `unmask.solve.pareto`) may rest on a setting chosen on these very problems: for the best of many it is an upper
view, the more so the more settings there are, so that a policy with few points beside many heuristics has a small
handicap.
"""

__all__ = [
    "BLIND",
    "BLIND_ANY",
    "LEARNED",
    "POSITIONAL",
    "REFERENCES",
    "Compared",
    "Frontier",
    "Frontiers",
    "compare",
    "family",
    "frontier",
    "frontiers",
    "grouped",
    "one_pass",
    "resample",
    "reversals",
]

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from unmask.errors import RequestError
from unmask.solve.pareto import Floats, envelope_at, hypervolume, mixture_hypervolume, pareto
from unmask.solve.sweep import Outcome


@dataclass(frozen=True, slots=True, eq=False)
class Frontier:
    """K settings over N problems."""

    outcomes: list[Outcome]
    passes: Floats
    """(K,) mean passes."""
    accuracy: Floats
    """(K,) mean score."""
    interval: Floats
    """(K, 2) of the accuracy: 95 % bootstrap over problems."""
    best: list[int]
    """The settings that no other beats in both, the fastest first."""
    hypervolume: float
    hypervolume_interval: tuple[float, float]
    mixture: float
    """The area under the mixture envelope."""
    resampled: Floats
    """(R,) the hypervolume of each resample: subtract those of two frontiers over the same problems, and seed."""
    remixed: Floats
    """(R,) the same of the mixture envelope."""


def frontier(outcomes: Sequence[Outcome], length: int, *, resamples: int = 400, seed: int = 0) -> Frontier:
    """The frontier of some settings; `length` is L, the number of passes where the axis ends."""
    scores = np.array([outcome.scores for outcome in outcomes], np.float64)
    passes = np.array([outcome.passes for outcome in outcomes], np.float64)
    draws = resample(scores.shape[1], resamples, seed)
    accuracies, spent = draws @ scores.T, draws @ passes.T
    pairs = list(zip(spent, accuracies, strict=True))
    volumes = np.array([hypervolume(p, a, length) for p, a in pairs])
    mixtures = np.array([mixture_hypervolume(p, a, length) for p, a in pairs])
    mean_passes, mean_scores = passes.mean(1), scores.mean(1)
    low, high = np.quantile(volumes, [0.025, 0.975])
    return Frontier(
        list(outcomes),
        mean_passes,
        mean_scores,
        np.quantile(accuracies, [0.025, 0.975], axis=0).T,
        pareto(mean_passes, mean_scores),
        hypervolume(mean_passes, mean_scores, length),
        (float(low), float(high)),
        mixture_hypervolume(mean_passes, mean_scores, length),
        volumes,
        mixtures,
    )


def resample(count: int, resamples: int, seed: int) -> Floats:
    """(R, N) the weight of each of `count` problems in each resample: the same for the same count and seed."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples) / count


POSITIONAL = ("left-to-right", "pc", "prefix")
"""Policies that use where a position is: drawn as references, and left out where only features may count."""
BLIND = "position-blind, whole canvas"
BLIND_ANY = "position-blind, any block size"
REFERENCES = f"references ({', '.join(sorted(POSITIONAL, reverse=True))})"
LEARNED = "learned"


@dataclass(frozen=True, slots=True)
class Compared:
    """A set of settings beside another, on the same problems."""

    hypervolume: float
    """Of the first set."""
    hypervolume_95: tuple[float, float]
    difference: float
    """Of the hypervolumes, first minus second; above 0 the first is better."""
    difference_95: tuple[float, float]
    """95 % bootstrap over the problems, both sets resampled alike."""
    mixture: float
    """Of the areas under the mixture envelopes, first minus second: how many settings a set has hardly counts here."""
    mixture_95: tuple[float, float]
    points: int
    """Settings of the first set."""
    above: int
    """Those above the mixture envelope of the second."""
    beyond: int
    """Those above it by more than two standard errors, of the paired difference."""


def compare(
    first: Sequence[Outcome],
    second: Sequence[Outcome],
    length: int,
    *,
    point: Outcome | None = None,
    resamples: int = 400,
    seed: int = 0,
) -> Compared:
    """Hypervolumes and their paired difference, over log2 passes from 1 to `length`.

    `point`, usually `one_pass`, joins both sets (and is not counted among the points): whoever can decode can also
    write everything at once. Raises RequestError where a set is empty, or the problems are not as many in both.
    """
    if not first or not second:
        raise RequestError("There is nothing to compare: one of the two sets has no settings.")
    if len({len(outcome.scores) for outcome in (*first, *second, *([point] if point else []))}) > 1:
        raise RequestError("The two sets were measured on different numbers of problems; measure both on the same.")
    more = [] if point is None else [point]
    one = frontier([*more, *first], length, resamples=resamples, seed=seed)
    two = frontier([*more, *second], length, resamples=resamples, seed=seed)
    gain, error = _gains(first, [*more, *second], resamples, seed)
    return Compared(
        one.hypervolume,
        one.hypervolume_interval,
        one.hypervolume - two.hypervolume,
        _middle_95(one.resampled - two.resampled),
        one.mixture - two.mixture,
        _middle_95(one.remixed - two.remixed),
        len(first),
        int((gain > 1e-12).sum()),
        int((gain > np.maximum(2 * error, 1e-12)).sum()),
    )


def _middle_95(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _gains(first: Sequence[Outcome], second: Sequence[Outcome], resamples: int, seed: int) -> tuple[Floats, Floats]:
    """(K,) accuracy above the mixture envelope of the second set, and its standard error."""
    mine, theirs = (
        np.array([[one.passes, one.scores] for one in outcomes], np.float64) for outcomes in (first, second)
    )
    draws = resample(mine.shape[-1], resamples, seed)
    gain = mine[:, 1].mean(-1) - envelope_at(theirs[:, 0].mean(-1), theirs[:, 1].mean(-1), mine[:, 0].mean(-1))
    own, other = mine @ draws.T, theirs @ draws.T  # (K, 2, R)
    again = [own[:, 1, r] - envelope_at(other[:, 0, r], other[:, 1, r], own[:, 0, r]) for r in range(resamples)]
    return gain, np.std(again, axis=0)


def one_pass(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The setting that wrote everything in a single pass, if one of them did; greedily all such are the same."""
    return next((one for one in outcomes if max(one.passes) == 1), None)


def reversals(outcomes: Sequence[Outcome], tolerance: float = 0.05) -> int:
    """Neighbours, in the order given (the accurate end of a dial first), of which the faster spends more passes."""
    spent = [one.mean_passes for one in outcomes]
    return sum(after > before + tolerance for before, after in pairwise(spent))


def grouped(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Settings by what they may look at; groups that have none are left out."""
    learned = [one for one in outcomes if family(one.setting.policy) == LEARNED]
    references = [one for one in outcomes if family(one.setting.policy) in POSITIONAL]
    blind = [one for one in outcomes if family(one.setting.policy) not in (LEARNED, *POSITIONAL)]
    groups = {
        BLIND: [one for one in blind if one.setting.block_size is None],
        BLIND_ANY: blind,
        REFERENCES: references,
        LEARNED: learned,
    }
    return {name: some for name, some in groups.items() if some}


def family(policy: str) -> str:
    """The name in front of the options."""
    return policy.partition(":")[0]


@dataclass(frozen=True, slots=True, eq=False)
class Frontiers:
    """Everything that is known of some settings on the same problems."""

    length: int
    """L, the number of passes where the axis ends."""
    groups: dict[str, Frontier]
    """By the names of `grouped`, and "all"."""
    against: dict[str, Compared]
    """The learned policies against each group of heuristics; empty without learned ones."""

    @property
    def whole(self) -> Frontier:
        """That of all settings."""
        return self.groups["all"]


def frontiers(outcomes: Sequence[Outcome], length: int, *, seed: int = 0) -> Frontiers:
    """Outcomes of settings -> the frontier of each group, and the learned policies against each other group.

    In these comparisons the point of one pass is on both sides.
    """
    groups = {**grouped(outcomes), "all": list(outcomes)}
    against: dict[str, Compared] = {}
    if LEARNED in groups:
        point = one_pass(outcomes)
        others = {name: some for name, some in groups.items() if name not in (LEARNED, "all")}
        against = {
            name: compare(groups[LEARNED], some, length, point=point, seed=seed) for name, some in others.items()
        }
    return Frontiers(length, {name: frontier(some, length, seed=seed) for name, some in groups.items()}, against)
