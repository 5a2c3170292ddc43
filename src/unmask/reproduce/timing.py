"""What policies cost in seconds, beside the cheapest heuristics that are as accurate."""

__all__ = ["timing_lines"]

from collections.abc import Mapping
from pathlib import Path

from unmask.eval.compare import BLIND, BLIND_ANY, REFERENCES, grouped
from unmask.reproduce.plan import Heuristics, Measured, Timed
from unmask.reproduce.results import Results, outcomes_of
from unmask.solve.sweep import Outcome

_GROUPS = (BLIND, BLIND_ANY, REFERENCES)
_HOW = (
    "Milliseconds a problem, verifier included, one thread, median of the rounds; beside each policy the fastest "
    "heuristic of a group that is at least as accurate on the test problems, and how many times the policy's time it "
    "takes (above 1 the policy is faster). Only heuristics that none of their group beats in passes were timed. "
    "Accuracy and passes are those of all test problems; the clock ran over the first so many of them. The share is "
    "processor time over time on the clock: where it is well below 100 % other work disturbed it."
)


def timing_lines(results: Results) -> list[str]:
    """A row for each place of the dial, batch and arena; one with the state where there is no time yet."""
    by_name = {cell.name: cell for cell in results.plan.cells}
    head = ["test", "batch", "problems (share)", "alpha", "accuracy @ passes", "ms", *_GROUPS]
    lines = [_HOW, "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for cell in results.plan.cells:
        if not isinstance(cell, Timed):
            continue
        first = f"| {Path(cell.arena.checkpoint).name}, {cell.arena.task} | {cell.batch} |"
        policies, rules = by_name[cell.measured], by_name[cell.against]
        assert isinstance(policies, Measured)
        assert isinstance(rules, Heuristics)
        if not results.done(cell.name):
            lines.append(f"{first} {results.state(cell)} |" + " |" * 6)
            continue
        clock = results.records[cell.name].result
        first = f"{first} {clock['problems']} ({clock['share']:.0%}) |"
        seconds: Mapping[str, float] = clock["seconds"]
        found = results.records[policies.name].result
        groups = grouped(outcomes_of(results.records[rules.name].result))
        for alpha, one in zip(found["alphas"], outcomes_of(found), strict=True):
            own = seconds.get(one.setting.key)
            if own is None:
                continue  # the clock has not every place of the dial
            beside = " | ".join(
                _fastest(one, some, seconds, own) for some in (groups.get(name, []) for name in _GROUPS)
            )
            told = f"{one.accuracy:.3f} @ {one.mean_passes:.2f} | {own * 1e3:.2f}"
            lines.append(f"{first} {alpha:g} | {told} | {beside} |")
    return lines


def _fastest(policy: Outcome, rules: list[Outcome], seconds: Mapping[str, float], own: float) -> str:
    able = [one for one in rules if one.accuracy >= policy.accuracy and one.setting.key in seconds]
    if not able:
        return "none as accurate"
    best = min(able, key=lambda one: seconds[one.setting.key])
    return f"{seconds[best.setting.key] * 1e3:.2f} (x{seconds[best.setting.key] / own:.2f}) {best.setting.key}"
