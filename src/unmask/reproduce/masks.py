"""The cells of the question about MASKs behind a text (arXiv:2511.21338), their work, and the section of the report.

A cell measures both curves of `eval.masks` for a trained model. Imports no torch.
"""

__all__ = ["MASK_CELLS", "MASK_RESULTS", "MaskProbed", "draw_masks", "mask_figures", "mask_section", "probe_cell"]

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from unmask.output import markdown_table
from unmask.ranges import Count, Natural
from unmask.reproduce.text import TextCell

if TYPE_CHECKING:
    from unmask.api import Model
    from unmask.data.packed import Packed

_Done = Mapping[str, Mapping[int, Mapping[str, Any]]]  # results by label and seed


@dataclass(frozen=True, slots=True)
class MaskProbed(TextCell):
    """How the first token of an answer depends on the MASKs behind it, and on the distance of the relevant context."""

    training: str
    task: str | None
    """The task of the questions; None for the held-out part of the text of the training."""
    counts: tuple[Natural, ...]
    count: Count
    """Questions."""
    length: Count | None = None
    """Of a text: tokens of a row, from which questions are made."""
    context: Count | None = None
    """Of a text: tokens before a question."""
    skip: Natural = 0
    """Of a text: rows at the beginning that are not read."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The training."""
        return (self.training,)


@dataclass(frozen=True, slots=True)
class _Probed:
    """The result of a `MaskProbed`: points as dictionaries, each figure with its standard error."""

    questions: Count
    tokens: float
    masks: list[dict[str, Any]]
    left_out: list[Natural]
    distance: list[dict[str, Any]]
    behind: Natural


MASK_CELLS: dict[str, type[Any]] = {"maskprobed": MaskProbed}
MASK_RESULTS: dict[str, type[Any]] = {"maskprobed": _Probed}


def probe_cell(cell: MaskProbed, model: "Model", text_of: Callable[[], "Packed"]) -> dict[str, Any]:
    """A cell, its model, and a function that makes the rows of the text -> the points of both curves."""
    from unmask.eval.masks import probe_task, probe_text
    from unmask.tasks.registry import make

    options: dict[str, Any] = {"counts": cell.counts, "count": cell.count}
    if cell.task is not None:
        curves = probe_task(model, make(cell.task), **options)
    else:
        curves = probe_text(model, text_of(), context=cell.context, **options)
    points = {name: [point._asdict() for point in getattr(curves, name)] for name in ("masks", "distance")}
    return curves._asdict() | points


# ---- report ----------------------------------------------------------------------------------------------------------

_ABOUT = """\
At the first token of the answer: the share of questions whose most probable token is right, without MASKs behind the
answer, with the most, and their difference; the entropy of the prediction, with the most minus without; the total
variation between these two predictions; and the accuracy with the relevant context farthest minus nearest. Means over
seeds of the training, and the standard deviation between them. "bound, twice" has as many passes as the two losses
with two copies, the others have as many steps. The pictures have standard errors over seeds."""
_HEAD = ("model", "accuracy, none", "with the most", "difference", "entropy", "total variation", "far minus near")


def mask_figures(done: _Done) -> dict[str, dict[int, float]]:
    """Results by label and seed -> with the most MASKs, "LABEL: accuracy" and "LABEL: variation" by seed."""
    figures: dict[str, dict[int, float]] = {}
    for label, results in done.items():
        for name in ("accuracy", "variation"):
            figures[f"{label}: {name}"] = {seed: r["masks"][-1][name][0] for seed, r in results.items()}
    return figures


def mask_section(done: _Done) -> list[str]:
    """Results by label and seed -> the lines of the report; none without results."""
    if not done:
        return []
    rows: list[list[str]] = []
    for label, results in done.items():
        ends = [(r["masks"][0], r["masks"][-1], r["distance"]) for r in results.values()]
        columns = [
            [first["accuracy"][0] for first, _, _ in ends],
            [last["accuracy"][0] for _, last, _ in ends],
            [last["change"][0] for _, last, _ in ends],
            [last["entropy"][0] - first["entropy"][0] for first, last, _ in ends],
            [last["variation"][0] for _, last, _ in ends],
            [[point for point in far if point["place"] is not None][-1]["change"][0] for _, _, far in ends if far],
        ]
        rows.append([label, *map(_over_seeds, columns)])
    pictures = [f"![{part}](masks-{part}.png)" for part in _parts(done)]
    counts = [f"{part}: {_first(done, part)['masks'][-1]['place']} MASKs at most." for part in _parts(done)]
    table = markdown_table(_HEAD, rows)
    return ["## MASKs behind the answer", "", _ABOUT, "", " ".join(counts), "", *pictures, "", *table]


def _parts(done: _Done) -> list[str]:
    """Labels "PART MODEL" -> the parts."""
    return list(dict.fromkeys(label.partition(" ")[0] for label in done))


def _first(done: _Done, part: str) -> Mapping[str, Any]:
    """The first result of a part."""
    return next(iter(next(results for label, results in done.items() if label.startswith(f"{part} ")).values()))


def _over_seeds(values: list[float]) -> str:
    """Values of the seeds -> the mean and the standard deviation between them."""
    if not values:
        return ""
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def draw_masks(done: _Done, folder: Path) -> None:
    """Results by label and seed -> masks-PART.png for each part, a line for each model."""
    from unmask.eval.masks import Curves, draw_curves

    for part in _parts(done):
        curves: dict[str, Curves] = {}
        for label, results in done.items():
            if label.startswith(f"{part} "):
                each = list(results.values())
                facts: dict[str, Any] = dict(each[0])
                facts |= {name: _mean_points([result[name] for result in each]) for name in ("masks", "distance")}
                curves[label.partition(" ")[2]] = Curves(**facts)
        draw_curves(curves, part, folder / f"masks-{part}.png")


def _mean_points(seeds: list[list[dict[str, Any]]]) -> list[Any]:
    """The points of each seed -> points of means over seeds with their standard errors, or those of a single seed."""
    from unmask.eval.masks import Point

    points: list[Any] = []
    for same in zip(*seeds, strict=True):
        figures: dict[str, tuple[float, float]] = {}
        for name in Point._fields[1:]:
            values = [point[name][0] for point in same]
            error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else same[0][name][1]
            figures[name] = mean(values), error
        points.append(Point(same[0]["place"], **figures))
    return points
