"""The cells of the question about soft masks (arXiv:2510.17206), their work, and the section of the report.

A `Solved` is the accuracy of a model of puzzles. Imports no torch.
"""

__all__ = [
    "SOFT_CELLS",
    "SOFT_RESULTS",
    "Solved",
    "accuracy_label",
    "puzzle_section",
    "rates_solved",
    "scalar_section",
    "solve_tests",
]

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

from unmask.output import markdown_table
from unmask.ranges import Count, Seed, real
from unmask.reproduce.text import TextCell


@dataclass(frozen=True, slots=True)
class Solved(TextCell):
    """Accuracy and passes of a trained model on the puzzles of a task, at temperature 0."""

    training: str
    task: str
    count: Count
    test_seed: Seed
    policies: tuple[str, ...]
    """Policies that take `steps`."""
    shares: tuple[float, ...]
    """Passes, in shares of the most positions that a puzzle has to fill."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The training."""
        return (self.training,)


@dataclass(frozen=True, slots=True)
class _Setting:
    """The outcome of a policy with a number of steps."""

    policy: str
    share: Annotated[float, real(0, 1)]
    accuracy: Annotated[float, real(0, 1)]
    passes: Annotated[float, real(0)]
    seconds: Annotated[float, real(0)]


@dataclass(frozen=True, slots=True)
class _Solved:
    """The result of a `Solved`."""

    settings: list[_Setting]
    puzzles: Count


SOFT_CELLS: dict[str, type[TextCell]] = {"solved": Solved}
SOFT_RESULTS: dict[str, type[Any]] = {"solved": _Solved}


# ---- work ------------------------------------------------------------------------------------------------------------


def solve_tests(cell: Solved, runs: Path, device: str, dtype: Any) -> dict[str, Any]:
    """A cell and the folder of all trainings -> accuracy, passes and processor seconds of each setting."""
    import time

    from unmask.batch import ceil_div
    from unmask.solve.problems import most_holes, solve
    from unmask.solve.settings import Setting
    from unmask.solve.sweep import open_bench

    checkpoint = str(runs / cell.training)
    bench = open_bench(checkpoint, cell.task, "test", cell.count, cell.test_seed, 0.0, device, dtype)
    length, settings = most_holes(bench.problems), list[dict[str, Any]]()
    for policy in cell.policies:
        for share in cell.shares:
            steps, began = ceil_div(round(length * share * 1000), 1000), time.process_time()
            decoder = bench.decoder(Setting(f"{policy}:steps={steps}"))
            options: dict[str, Any] = {"device": bench.device, "seed": bench.seed, "batch": bench.batch}
            scores, passes, _ = solve(decoder, bench.task, bench.problems, bench.tokenizer, **options)
            figures = {"accuracy": mean(scores), "passes": mean(passes), "seconds": time.process_time() - began}
            settings.append({"policy": policy, "share": share, **figures, "scores": scores})
    return {"settings": settings, "puzzles": len(bench.problems)}


# ---- report ----------------------------------------------------------------------------------------------------------

_ABOUT = """\
Share of the puzzles that are solved, at temperature 0, and in the last row the passes of a puzzle: means over the
seeds of the training, with the standard deviation between them. The passes are a quarter, half and all of the most
positions that a puzzle has to fill; `random` does not look at the model's output before it chooses positions."""
_SCALARS = """\
What was learned: at a MASK for which the last pass predicted tokens with entropy H (nats), its embedding is mixed with
those of the best tokens, whose share is strength / (1 + exp(slope * (H + offset))). Strength 0 is a plain mask. Means
over the seeds of the training, with the standard deviation between them."""


def accuracy_label(label: str, policy: str, share: float) -> str:
    """The label of a `Solved`, and a setting -> the label of this accuracy in claims."""
    return f"{label}, {policy} at {share:g}"


def rates_solved(done: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> dict[str, dict[int, float]]:
    """The results of the `Solved` cells, by label and seed -> accuracies by the label of the setting and seed."""
    rates: dict[str, dict[int, float]] = {}
    for label, results in done.items():
        for seed, result in results.items():
            for each in result["settings"]:
                rates.setdefault(accuracy_label(label, each["policy"], each["share"]), {})[seed] = each["accuracy"]
    return rates


def puzzle_section(done: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[str]:
    """The results of the `Solved` cells, by label and seed -> the lines of the report; none without results."""
    if not done:
        return []
    first = next(iter(next(iter(done.values())).values()))
    names = [(each["policy"], each["share"]) for each in first["settings"]]
    rows: list[list[str]] = []
    for label, results in done.items():
        columns = zip(*(result["settings"] for result in results.values()), strict=True)
        rows.append([label, *(_figure([each["accuracy"] for each in column]) for column in columns)])
    passes = [f"{each['passes']:.1f}" for each in first["settings"]]
    head = ("model", *(f"{policy} {share:g}" for policy, share in names))
    table = markdown_table(head, [*rows, ["passes", *passes]])
    return ["## Puzzles", "", _ABOUT, "", f"{first['puzzles']:,} puzzles.", "", *table]


def scalar_section(done: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[str]:
    """The results of the trainings, by label and seed -> the lines about their soft masks; none without these."""
    rows: list[list[str]] = []
    for label, results in done.items():
        columns = zip(*(result.get("scalars") or () for result in results.values()), strict=True)
        if figures := [_figure(list(column)) for column in columns]:
            rows.append([label, *figures])
    head = ("training", "strength", "slope", "offset")
    return ["## Soft masks", "", _SCALARS, "", *markdown_table(head, rows)] if rows else []


def _figure(values: list[float]) -> str:
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")
