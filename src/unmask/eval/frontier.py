"""Outcomes of settings on the same problems -> accuracy against passes, and paired differences of two sets.

All settings are measured on the same problems, and all use the same resamples, so that the difficulty of a problem
cancels in a difference. Intervals are percentiles of the bootstrap. The areas (see `unmask.solve.pareto`) are biased
upwards, because the best settings are chosen on the problems on which they are measured. The bias grows with the number
of settings, which is a small disadvantage for a policy with few points against many heuristics. A position-free rule
does not use where a position is. Shapes: K settings, N problems, R resamples.
"""

__all__ = [
    "LEARNED",
    "POSITIONAL",
    "POSITION_FREE",
    "POSITION_FREE_ANY",
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
    "rules_of",
]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from unmask.errors import RequestError
from unmask.solve.pareto import Floats, aup, envelope_at, hypervolume, mixture_hypervolume, pareto
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
    """The settings that no other dominates, the fastest first."""
    hypervolume: float
    hypervolume_interval: tuple[float, float]
    mixture: float
    """The area under the mixture envelope."""
    resampled: Floats
    """(R,) the hypervolume of each resample; the difference of two frontiers is paired for equal problems and seed."""
    remixed: Floats
    """(R,) the area under the mixture envelope of each resample."""
    aup: float
    """The AUP, whose best accuracy is that of these settings and of those that they are measured beside."""
    aup_interval: tuple[float, float]


def frontier(
    outcomes: Sequence[Outcome],
    length: int,
    *,
    beside: Sequence[Outcome] = (),
    resamples: int = 400,
    seed: int = 0,
) -> Frontier:
    """Outcomes -> their frontier; `length` is L, the number of passes at the end of the axis.

    `beside` are other settings on the same problems, whose best accuracy counts in the AUP.
    """
    scores = np.array([outcome.scores for outcome in outcomes], np.float64)
    passes = np.array([outcome.passes for outcome in outcomes], np.float64)
    weights = resample(scores.shape[1], resamples, seed)
    accuracies = weights @ scores.T
    pairs = list(zip(weights @ passes.T, accuracies, strict=True))
    volumes = np.array([hypervolume(p, a, length) for p, a in pairs])
    mixtures = np.array([mixture_hypervolume(p, a, length) for p, a in pairs])
    mean_passes, mean_scores = passes.mean(1), scores.mean(1)
    others = np.array([outcome.scores for outcome in beside], np.float64).reshape(-1, scores.shape[1])
    most = np.maximum(accuracies.max(1), (weights @ others.T).max(1, initial=0.0))
    areas = [aup(p, a, length, best) for (p, a), best in zip(pairs, most, strict=True)]
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
        aup(mean_passes, mean_scores, length, max(mean_scores.max(), others.mean(1).max(initial=0.0))),
        _interval_95(np.array(areas)),
    )


def resample(count: int, resamples: int, seed: int) -> Floats:
    """(R, N) the weight of each of `count` problems in each resample; it depends on count and seed alone."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples) / count


POSITIONAL = ("left-to-right", "pc", "prefix")
"""Policies that use where a position is: drawn as references, not compared with rules that use features alone."""
POSITION_FREE = "position-free, whole canvas"
POSITION_FREE_ANY = "position-free, any block size"
REFERENCES = f"references ({', '.join(sorted(POSITIONAL, reverse=True))})"
LEARNED = "learned"


@dataclass(frozen=True, slots=True)
class Compared:
    """Two sets of settings, compared on the same problems."""

    hypervolume: float
    """The hypervolume of the first set."""
    hypervolume_95: tuple[float, float]
    difference: float
    """Of the hypervolumes, first minus second; the first set is better if it is above 0."""
    difference_95: tuple[float, float]
    """Its 95 % bootstrap interval over the problems, with the same resamples for both sets."""
    mixture: float
    """The difference of the areas under the mixture envelopes; it hardly depends on the number of settings."""
    mixture_95: tuple[float, float]
    points: int
    """Settings of the first set."""
    above: int
    """How many of them are above the mixture envelope of the second set."""
    beyond: int
    """How many are above it by more than two standard errors of the paired difference."""


def compare(
    first: Sequence[Outcome],
    second: Sequence[Outcome],
    length: int,
    *,
    point: Outcome | None = None,
    resamples: int = 400,
    seed: int = 0,
) -> Compared:
    """Two sets of outcomes -> their hypervolumes over log2 passes from 1 to `length`, and the paired difference.

    `point`, usually `one_pass`, is added to both sets (and not counted among the points), because every model can
    reveal all tokens in one pass.

    Raises:
        RequestError: if a set is empty, or the numbers of problems differ.
    """
    if not first or not second:
        raise RequestError("There is nothing to compare: one of the two sets has no settings.")
    if len({len(outcome.scores) for outcome in (*first, *second, *([point] if point else []))}) > 1:
        raise RequestError("The two sets were measured on different numbers of problems; measure both on the same.")
    shared = [] if point is None else [point]
    left = frontier([*shared, *first], length, resamples=resamples, seed=seed)
    right = frontier([*shared, *second], length, resamples=resamples, seed=seed)
    gain, error = _gains(first, [*shared, *second], resamples, seed)
    return Compared(
        left.hypervolume,
        left.hypervolume_interval,
        left.hypervolume - right.hypervolume,
        _interval_95(left.resampled - right.resampled),
        left.mixture - right.mixture,
        _interval_95(left.remixed - right.remixed),
        len(first),
        int((gain > 1e-12).sum()),
        int((gain > np.maximum(2 * error, 1e-12)).sum()),
    )


def _interval_95(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _gains(first: Sequence[Outcome], second: Sequence[Outcome], resamples: int, seed: int) -> tuple[Floats, Floats]:
    """(K,) the accuracy of the first set minus the mixture envelope of the second, and its standard error."""
    left, right = (
        np.array([[outcome.passes, outcome.scores] for outcome in outcomes], np.float64) for outcomes in (first, second)
    )
    weights = resample(left.shape[-1], resamples, seed)
    gain = left[:, 1].mean(-1) - envelope_at(right[:, 0].mean(-1), right[:, 1].mean(-1), left[:, 0].mean(-1))
    a, b = left @ weights.T, right @ weights.T  # (K, 2, R)
    resampled = [a[:, 1, r] - envelope_at(b[:, 0, r], b[:, 1, r], a[:, 0, r]) for r in range(resamples)]
    return gain, np.std(resampled, axis=0)


def one_pass(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The first setting that used one pass for every problem, if any; under greedy decoding all of them are equal."""
    return next((outcome for outcome in outcomes if max(outcome.passes) == 1), None)


def reversals(outcomes: Sequence[Outcome], tolerance: float = 0.05) -> int:
    """Outcomes by dial value, the most accurate first -> how many neighbours use more passes than the one before."""
    passes = [outcome.mean_passes for outcome in outcomes]
    return sum(after > before + tolerance for before, after in pairwise(passes))


def grouped(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Outcomes -> those of each group of policies; empty groups are left out."""
    learned, references, free = list[Outcome](), list[Outcome](), list[Outcome]()
    for outcome in outcomes:
        rules = rules_of(outcome.setting.policy)
        (learned if LEARNED in rules else references if rules & {*POSITIONAL} else free).append(outcome)
    groups = {
        POSITION_FREE: [outcome for outcome in free if outcome.setting.block_size is None],
        POSITION_FREE_ANY: free,
        REFERENCES: references,
        LEARNED: learned,
    }
    return {name: members for name, members in groups.items() if members}


def rules_of(policy: str) -> set[str]:
    """A policy as text, such as "freedave over prefix:threshold=0.9" -> the names of the rules in it, its own too."""
    return {part.partition(":")[0] for whole in policy.split(" or ") for part in whole.split(" over ")}


def family(policy: str) -> str:
    """A policy as text -> its name without options."""
    return policy.partition(":")[0]


@dataclass(frozen=True, slots=True, eq=False)
class Frontiers:
    """The frontiers of groups of settings on the same problems, and their comparisons."""

    length: int
    """L, the number of passes at the end of the axis."""
    whole: Frontier
    """The frontier of all settings."""
    policies: dict[str, Frontier]
    """By the policies that were asked for, such as "threshold" or "learned:from=automaton"."""
    groups: dict[str, Frontier]
    """By the names of `grouped`, and "all"; of groups with the same settings only the first."""
    against: dict[str, Compared]
    """The learned policies compared with each group of heuristics; empty without learned policies."""


def frontiers(
    outcomes: Sequence[Outcome], length: int, *, policies: Mapping[str, Sequence[str]] | None = None, seed: int = 0
) -> Frontiers:
    """Outcomes -> the frontier of each policy and group, and the learned policies compared with each other group.

    `policies` has the keys of the settings of each policy; by default the policies are the names without options.
    The setting of one pass is added to both sets of a comparison.
    """
    by_key = {outcome.setting.key: outcome for outcome in outcomes}
    if policies is None:
        names = sorted({family(outcome.setting.policy) for outcome in outcomes})
        policies = {name: [k for k, o in by_key.items() if family(o.setting.policy) == name] for name in names}
    groups = _distinct({**grouped(outcomes), "all": list(outcomes)})
    against: dict[str, Compared] = {}
    if LEARNED in groups:
        point = one_pass(outcomes)
        heuristics = {name: members for name, members in groups.items() if name not in (LEARNED, "all")}
        against = {
            name: compare(groups[LEARNED], members, length, point=point, seed=seed)
            for name, members in heuristics.items()
        }
    return Frontiers(
        length,
        frontier(outcomes, length, seed=seed),
        {
            name: frontier([by_key[key] for key in keys], length, beside=outcomes, seed=seed)
            for name, keys in policies.items()
        },
        {name: frontier(members, length, beside=outcomes, seed=seed) for name, members in groups.items()},
        against,
    )


def _distinct(groups: Mapping[str, list[Outcome]]) -> dict[str, list[Outcome]]:
    """Groups -> those whose settings are not the settings of an earlier group."""
    first: dict[frozenset[str], str] = {}
    for name, members in groups.items():
        first.setdefault(frozenset(outcome.setting.key for outcome in members), name)
    return {name: groups[name] for name in first.values()}
