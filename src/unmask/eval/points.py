"""Accuracy against passes of a few policies, drawn: a panel for each set of puzzles."""

__all__ = ["Point", "plot_points"]

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unmask.run.pictures import atomic_figure

_MARKERS = "osD^vP"


class Point(NamedTuple):
    """One policy, or one place of its dial."""

    label: str
    passes: float
    accuracy: float


def plot_points(panels: Mapping[str, tuple[Sequence[Point], Sequence[Point]]], title: str, path: Path) -> None:
    """A panel for each title: single policies as labelled points, and the places of a dial joined by a line.

    Raises ConfigError or RunError where the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(5.6 * len(panels), 4.6), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (name, (points, dial)) in zip(axes, panels.items(), strict=True):
        _panel(axis, points, dial)
        axis.set_title(name)
    axes[0].set_ylabel("accuracy")
    handles, labels = axes[0].get_legend_handles_labels()
    for axis in axes[1:]:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles, labels = [*handles, handle], [*labels, label]
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.suptitle(title)
    atomic_figure(path, figure)


def _panel(axis: Any, points: Sequence[Point], dial: Sequence[Point]) -> None:
    if dial:
        xs, ys = [one.passes for one in dial], [one.accuracy for one in dial]
        axis.plot(xs, ys, "-", marker=".", color="0.35", label="learned, dial 0 to 1", zorder=1)
        told: list[Point] = []
        for one in dial:  # of places that fall together only the first is labelled
            if any(
                abs(one.passes - other.passes) < 2.6 and abs(one.accuracy - other.accuracy) < 0.06 for other in told
            ):
                continue
            told.append(one)
            place = (one.passes, one.accuracy)
            axis.annotate(f"dial {one.label}", place, (0, -15), textcoords="offset points", ha="center", fontsize=8)
    for n, one in enumerate(points):
        axis.plot(
            [one.passes], [one.accuracy], _MARKERS[n % len(_MARKERS)], color=f"C{n}", ms=9, label=one.label, zorder=2
        )
    axis.set(xlabel="forward passes per puzzle", ylim=(-0.08, 1.08))
    axis.set_xlim(0, None)
    axis.grid(alpha=0.25)
