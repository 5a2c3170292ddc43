"""Frontiers -> tables, plain data and pictures; the information curve and the costs of paces -> pictures."""

__all__ = [
    "Point",
    "check_plot",
    "frontier_csv",
    "frontier_facts",
    "frontier_lines",
    "plot_frontier",
    "plot_paces",
    "plot_points",
    "write_frontiers",
]

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unmask.config import run_record
from unmask.disk.files import atomic_text
from unmask.errors import ConfigError
from unmask.eval.frontier import POSITIONAL, Frontier, Frontiers, family
from unmask.eval.pace import Comparison
from unmask.plots import can_draw, new_figure, save_figure
from unmask.solve.pareto import envelope_at, pareto

_AGAINST = (
    "learned minus each group, the setting of one pass in both if it was measured: "
    "hypervolumes, those of the mixtures, and points above its mixture"
)


def frontier_csv(found: Frontier) -> str:
    """A line a setting, in the order given."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["policy", "block_size", "accuracy", "low", "high", "passes", "seconds", "best"])
    for n, outcome in enumerate(found.outcomes):
        low, high = found.interval[n]
        numbers = [f"{x:.4f}" for x in (found.accuracy[n], low, high, found.passes[n])]
        row = [outcome.setting.policy, outcome.setting.block_size or "full", *numbers, f"{outcome.seconds:.2f}"]
        table.writerow([*row, int(n in found.best)])
    return text.getvalue()


def frontier_facts(result: Frontiers) -> dict[str, Any]:
    """The areas of the groups, the settings that none beats in each, and the learned policies against the others."""
    groups = {
        name: {
            "settings": len(group.outcomes),
            "hypervolume": group.hypervolume,
            "hypervolume_95": list(group.hypervolume_interval),
            "mixture": group.mixture,
            "best": [
                {
                    "policy": group.outcomes[n].setting.policy,
                    "block_size": group.outcomes[n].setting.block_size,
                    "accuracy": float(group.accuracy[n]),
                    "accuracy_95": [float(x) for x in group.interval[n]],
                    "passes": float(group.passes[n]),
                }
                for n in group.best
            ],
        }
        for name, group in result.groups.items()
    }
    facts: dict[str, Any] = {"length": result.length, "record": run_record(), "groups": groups}
    if result.against:
        facts["learned against"] = {name: asdict(compared) for name, compared in result.against.items()}
    return facts


def frontier_lines(result: Frontiers) -> list[str]:
    """The areas of the groups, the learned policies against the others, and the settings that none beats, as text."""
    lines = ["hypervolume: area under the best accuracy at so many passes, over log2 passes from 1 to the canvas", ""]
    for name, group in result.groups.items():
        low, high = group.hypervolume_interval
        lines.append(f"  {group.hypervolume:.3f} [{low:.3f}, {high:.3f}]  mixture {group.mixture:.3f}  {name}")
    if result.against:
        lines += ["", _AGAINST]
    for name, compared in result.against.items():
        (low, high), (mixed_low, mixed_high) = compared.difference_95, compared.mixture_95
        lines.append(
            f"  {compared.difference:+.3f} [{low:+.3f}, {high:+.3f}]  "
            f"{compared.mixture:+.3f} [{mixed_low:+.3f}, {mixed_high:+.3f}]  "
            f"{compared.above} of {compared.points} points above, {compared.beyond} beyond 2 s.e.  {name}"
        )
    lines += ["", "accuracy [95 %]         passes  what none beats"]
    for n in result.whole.best:
        low, high = result.whole.interval[n]
        key = result.whole.outcomes[n].setting.key
        lines.append(f"  {result.whole.accuracy[n]:.3f} [{low:.3f}, {high:.3f}]  {result.whole.passes[n]:6.2f}  {key}")
    return lines


def write_frontiers(result: Frontiers, folder: Path, title: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Write frontier.csv, frontier.json and, where it can be drawn, frontier.png; what is in the JSON.

    `arguments` say what was measured. Raises ConfigError or RunError where a file cannot be written.
    """
    facts = {"arguments": dict(arguments), **frontier_facts(result)}
    atomic_text(folder / "frontier.csv", frontier_csv(result.whole))
    atomic_text(folder / "frontier.json", json.dumps(facts, indent=1) + "\n")
    if can_draw():
        plot_frontier(result.whole, result.length, title, folder / "frontier.png")
    return facts


def plot_frontier(found: Frontier, length: int, title: str, path: Path) -> None:
    """Two panels of accuracy against passes: the whole canvas at once, and any block size.

    A line joins the settings of a policy that none of its own beats; black is the frontier of all, the band its 95 %
    intervals, dots the mixture envelope. Raises ConfigError or RunError where the file cannot be written.
    """
    figure = new_figure(12.5, 5.4)
    panels = figure.subplots(1, 2, sharey=True)
    full = [n for n, one in enumerate(found.outcomes) if one.setting.block_size is None]
    names = sorted({family(one.setting.policy) for one in found.outcomes})
    for panel, rows, label in zip(
        panels, (full, list(range(len(found.outcomes)))), ("the whole canvas", "any block size"), strict=True
    ):
        _panel(panel, found, rows, names)
        panel.set_xscale("log", base=2)
        panel.set_xlim(0.95, length * 1.05)
        panel.set_ylim(-0.02, 1.02)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.set_xlabel("forward passes per problem")
        panel.set_title(label)
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("accuracy")
    figure.suptitle(title)
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside right center", frameon=False)
    save_figure(path, figure)


def _panel(panel: Any, found: Frontier, rows: list[int], names: list[str]) -> None:
    if not rows:
        return
    passes, accuracy, interval = found.passes[rows], found.accuracy[rows], found.interval[rows]
    best = pareto(passes, accuracy)
    panel.step(passes[best], accuracy[best], where="post", color="black", lw=1.4, label="frontier")
    panel.fill_between(passes[best], interval[best, 0], interval[best, 1], step="post", color="black", alpha=0.12, lw=0)
    grid = 2.0 ** np.linspace(0, np.log2(passes.max()), 200)
    envelope = envelope_at(passes, accuracy, grid)
    panel.plot(grid, np.where(envelope > 0, envelope, np.nan), ":", color="black", lw=1, label="mixture envelope")
    for number, name in enumerate(names):
        mine = np.array([n for n, row in enumerate(rows) if family(found.outcomes[row].setting.policy) == name])
        if not len(mine):
            continue
        kept = mine[pareto(passes[mine], accuracy[mine])]
        style = "--" if name in POSITIONAL else "-"
        panel.plot(passes[kept], accuracy[kept], style, marker="o", ms=3, lw=1.2, color=f"C{number % 10}", label=name)
        if number >= 10:
            panel.lines[-1].set_marker("s")


_COLORS = {"optimal": "C3", "sqrt": "C1", "cosine": "C2", "uniform": "C0", "tc": "C4", "dtc": "C5"}


def check_plot(path: str) -> None:
    """ConfigError where nothing can be drawn to `path`, to be asked before the work."""
    if not can_draw():
        raise ConfigError("--plot needs a package that is missing: pip install 'unmask[plots]'.")
    if not path.endswith(".png"):
        raise ConfigError(f"--plot is '{path}'; the name of the file has to end in .png.")


def plot_paces(found: Comparison, path: Path) -> None:
    """Two panels: the curve with its standard errors and fit; and, for each rule, nats per token against passes, as
    predicted (lines) and as measured (points with standard errors).

    Raises ConfigError or RunError where the file cannot be written.
    """
    figure = new_figure(11, 4)
    left, right = figure.subplots(1, 2)
    _draw_curve(left, found)
    _draw_costs(right, found)
    save_figure(path, figure)


def _draw_curve(axes: Any, found: Comparison) -> None:
    curve = found.curve
    share = [j + 1 for j in curve.counts]  # from 1 on, as the axis is logarithmic
    errors = curve.stderr().tolist()
    axes.errorbar(share, curve.cross_entropy.mean(0).tolist(), errors, fmt=".", color="C0", label="cross-entropy")
    axes.plot(range(1, curve.total + 1), curve.fitted().tolist(), color="C3", label="non-increasing fit")
    axes.plot(share, curve.entropy.mean(0).tolist(), ":", color="0.4", label="predictive entropy")
    axes.set(xscale="log", xlabel="revealed tokens + 1", ylabel="nats per hidden token", title="information curve")
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_costs(axes: Any, found: Comparison) -> None:
    n = found.curve.total
    for place, (rule, color) in enumerate(_COLORS.items()):
        mine = [entry for entry in found.entries if entry.rule == rule]
        passes = [entry.steps for entry in mine]
        axes.plot(passes, [entry.predicted / n for entry in mine], color=color, label=rule)
        beside = [k * 1.03 ** (place - 2.5) for k in passes]
        errors = [entry.measured_stderr / n for entry in mine]
        axes.errorbar(beside, [entry.measured / n for entry in mine], errors, fmt=".", color=color)
    axes.axhline(float(found.curve.fitted().sum()) / n, color="0.5", linestyle="--", label="one a pass")
    passes = sorted({entry.steps for entry in found.entries})
    axes.set(xscale="log", xlabel="passes", ylabel="nats per token", title="bound: predicted (lines) and measured")
    axes.set_xticks(passes, [str(k) for k in passes])
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)
    axes.legend()


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
    figure = new_figure(5.6 * len(panels), 4.6)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (name, (points, dial)) in zip(axes, panels.items(), strict=True):
        _points_panel(axis, points, dial)
        axis.set_title(name)
    axes[0].set_ylabel("accuracy")
    handles, labels = axes[0].get_legend_handles_labels()
    for axis in axes[1:]:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles, labels = [*handles, handle], [*labels, label]
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.suptitle(title)
    save_figure(path, figure)


def _points_panel(axis: Any, points: Sequence[Point], dial: Sequence[Point]) -> None:
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
