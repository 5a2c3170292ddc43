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
    "policy_lines",
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

from unmask.config import run_record, to_path
from unmask.disk.files import atomic_text
from unmask.disk.folders import refuse_foreign_file
from unmask.errors import ConfigError
from unmask.eval.frontier import POSITIONAL, Frontier, Frontiers, rules_of
from unmask.eval.pace import PaceComparison
from unmask.plots import can_draw, distinct_colors, new_figure, save_figure
from unmask.solve.pareto import envelope_at, pareto

_AREA = "hypervolume: area under the best accuracy at no more than a number of passes, over log2 passes from 1 to L"
_AUP = "AUP: accuracy in percent times tokens a pass, where accuracies below the best of all settings count little"
_AGAINST = (
    "learned minus each group, the setting of one pass in both if it was measured: "
    "difference of hypervolumes, of the areas under the mixture envelopes, and settings above the group's envelope"
)


def frontier_csv(result: Frontier) -> str:
    """A frontier -> a CSV table with one line per setting, in the order of its outcomes."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["policy", "block_size", "accuracy", "low", "high", "passes", "row_passes", "seconds", "best"])
    for n, outcome in enumerate(result.outcomes):
        low, high = result.interval[n]
        values = (result.accuracy[n], low, high, result.passes[n], outcome.mean_row_passes)
        numbers = [f"{x:.4f}" for x in values]
        row = [outcome.setting.policy, outcome.setting.block_size or "full", *numbers, f"{outcome.seconds:.2f}"]
        table.writerow([*row, int(n in result.best)])
    return text.getvalue()


def frontier_facts(result: Frontiers) -> dict[str, Any]:
    """Frontiers -> plain data: areas, undominated settings of each group, and the comparisons of learned policies."""
    facts: dict[str, Any] = {
        "length": result.length,
        "record": run_record(),
        "policies": {name: _group_facts(policy) for name, policy in result.policies.items()},
        "groups": {name: _group_facts(group) for name, group in result.groups.items()},
    }
    if result.against:
        facts["learned against"] = {name: asdict(compared) for name, compared in result.against.items()}
    return facts


def _group_facts(group: Frontier) -> dict[str, Any]:
    """The frontier of a group -> its areas and undominated settings as plain data."""
    return {
        "settings": len(group.outcomes),
        "hypervolume": group.hypervolume,
        "hypervolume_95": list(group.hypervolume_interval),
        "mixture": group.mixture,
        "aup": group.aup,
        "aup_95": list(group.aup_interval),
        "best": [
            {
                "policy": group.outcomes[n].setting.policy,
                "block_size": group.outcomes[n].setting.block_size,
                "accuracy": float(group.accuracy[n]),
                "accuracy_95": [float(x) for x in group.interval[n]],
                "passes": float(group.passes[n]),
                "row_passes": group.outcomes[n].mean_row_passes,
            }
            for n in group.best
        ],
    }


def policy_lines(result: Frontiers) -> list[str]:
    """Frontiers -> a table with a row for each policy that was asked for, the one with the largest area first.

    A row has the hypervolume, the AUP, the number of settings, and the most accurate setting at its fewest passes.
    """
    width = max(len(name) for name in result.policies)
    lines = [f"  {'policy':<{width}}  hypervolume     AUP  settings  best accuracy [95 %]  passes  at"]
    for name, policy in sorted(result.policies.items(), key=lambda item: -item[1].hypervolume):
        n = policy.best[-1]
        low, high = policy.interval[n]
        accuracy = f"{policy.accuracy[n]:.3f} [{low:.3f}, {high:.3f}]"
        lines.append(
            f"  {name:<{width}}  {policy.hypervolume:11.3f}  {policy.aup:6.1f}  {len(policy.outcomes):8}  "
            f"{accuracy:<20}  {policy.passes[n]:6.1f}  {policy.outcomes[n].setting.key}"
        )
    return lines


def frontier_lines(result: Frontiers) -> list[str]:
    """Frontiers -> lines of text: policies, groups, comparisons of learned policies, all undominated settings."""
    lines = [*policy_lines(result), "", _AREA, _AUP, ""]
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
    lines += ["", "accuracy [95 %]         passes  undominated settings"]
    for n in result.whole.best:
        low, high = result.whole.interval[n]
        key = result.whole.outcomes[n].setting.key
        lines.append(f"  {result.whole.accuracy[n]:.3f} [{low:.3f}, {high:.3f}]  {result.whole.passes[n]:6.2f}  {key}")
    return lines


def write_frontiers(result: Frontiers, folder: Path, title: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Write frontier.csv, frontier.json and, if matplotlib is installed, frontier.png; returns the data of the JSON.

    `arguments` are stored in the JSON: they say what was measured.

    Raises:
        ConfigError, RunError: if a file cannot be written.
    """
    facts = {"arguments": dict(arguments), **frontier_facts(result)}
    atomic_text(folder / "frontier.csv", frontier_csv(result.whole))
    atomic_text(folder / "frontier.json", json.dumps(facts, indent=1) + "\n")
    if can_draw():
        plot_frontier(result, title, folder / "frontier.png")
    return facts


def plot_frontier(result: Frontiers, title: str, path: Path) -> None:
    """Frontiers -> a picture of accuracy against passes: the whole canvas and, if it differs, any block size.

    A coloured step line joins the undominated settings of a policy, with 95 % intervals: between two settings the
    slower one is not reached, so the accuracy stays that of the faster one. The black line is the frontier of all
    settings, the dotted line the mixture envelope, which random choices between two settings reach.

    Raises:
        ConfigError, RunError: if the file cannot be written.
    """
    everything = result.whole.outcomes
    full = [outcome for outcome in everything if outcome.setting.block_size is None]
    panels = {"the whole canvas": full, "any block size": everything}
    if not full or len(full) == len(everything):
        sizes = {outcome.setting.block_size for outcome in everything}
        label = "the whole canvas" if full else f"blocks of {sizes.pop()}" if len(sizes) == 1 else "blocks"
        panels = {label: everything}
    figure = new_figure(4.5 + 4 * len(panels), 5.4)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, (label, members) in zip(axes, panels.items(), strict=True):
        _panel(panel, result, {outcome.setting.key for outcome in members})
        panel.set_xscale("log", base=2)
        panel.set_xlim(0.95, result.length * 1.05)
        panel.set_ylim(-0.02, 1.02)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.set_xlabel("forward passes per problem")
        panel.set_title(label)
        panel.grid(alpha=0.25)
    axes[0].set_ylabel("accuracy")
    figure.suptitle(title)
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside right center", frameon=False)
    save_figure(path, figure)


def _panel(panel: Any, result: Frontiers, keys: set[str]) -> None:
    """Draw the settings with these keys: the frontier, the mixture envelope, and a line for each policy."""
    passes, accuracy, _ = _points(result.whole, keys)
    best = pareto(passes, accuracy)
    panel.step(passes[best], accuracy[best], where="post", color="black", alpha=0.3, lw=4, label="frontier")
    grid = 2.0 ** np.linspace(0, np.log2(passes.max()), 200)
    envelope = envelope_at(passes, accuracy, grid)
    panel.plot(grid, np.where(envelope > 0, envelope, np.nan), ":", color="black", lw=1, label="mixture envelope")
    colors = distinct_colors(len(result.policies))
    for (name, policy), color in zip(sorted(result.policies.items()), colors, strict=True):
        passes, accuracy, interval = _points(policy, keys)
        if not len(passes):
            continue
        kept = pareto(passes, accuracy)
        style = "--" if rules_of(name) & {*POSITIONAL} else "-"
        panel.step(passes[kept], accuracy[kept], style, where="post", marker="o", ms=3, lw=1.1, color=color, label=name)
        panel.vlines(passes[kept], interval[kept, 0], interval[kept, 1], color=color, lw=0.7, alpha=0.6)


def _points(group: Frontier, keys: set[str]) -> tuple[Any, Any, Any]:
    """A frontier -> passes (K,), accuracy (K,) and its interval (K, 2) of the settings with these keys."""
    rows = [n for n, outcome in enumerate(group.outcomes) if outcome.setting.key in keys]
    return group.passes[rows], group.accuracy[rows], group.interval[rows]


_COLORS = {"optimal": "C3", "sqrt": "C1", "cosine": "C2", "uniform": "C0", "tc": "C4", "dtc": "C5"}


def check_plot(path: str, option: str = "--plot") -> None:
    """Raise ConfigError if no picture can be drawn to `path`, the value of `option`; call it before long work."""
    if not can_draw():
        raise ConfigError(f"{option} needs a package that is missing: pip install 'unmask[plots]'.")
    if not path.endswith(".png"):
        raise ConfigError(f"{option} is '{path}'; the name of the file has to end in .png.")
    refuse_foreign_file(to_path(path))


def plot_paces(comparison: PaceComparison, path: Path) -> None:
    """A comparison of paces -> a picture with two panels.

    Left: the information curve with standard errors and fit. Right: the bound of each rule in nats per token against
    passes, as predicted (lines) and as measured (points with standard errors).

    Raises:
        ConfigError, RunError: if the file cannot be written.
    """
    figure = new_figure(11, 4)
    left, right = figure.subplots(1, 2)
    _draw_curve(left, comparison)
    _draw_costs(right, comparison)
    save_figure(path, figure)


def _draw_curve(axes: Any, comparison: PaceComparison) -> None:
    curve = comparison.curve
    revealed = [j + 1 for j in curve.counts]  # + 1 because the axis is logarithmic
    errors = curve.stderr().tolist()
    axes.errorbar(revealed, curve.cross_entropy.mean(0).tolist(), errors, fmt=".", color="C0", label="cross-entropy")
    axes.plot(range(1, curve.total + 1), curve.fitted().tolist(), color="C3", label="non-increasing fit")
    axes.plot(revealed, curve.entropy.mean(0).tolist(), ":", color="0.4", label="predictive entropy")
    axes.set(xscale="log", xlabel="revealed tokens + 1", ylabel="nats per hidden token", title="information curve")
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_costs(axes: Any, comparison: PaceComparison) -> None:
    n = comparison.curve.total
    for index, (rule, color) in enumerate(_COLORS.items()):
        entries = [entry for entry in comparison.entries if entry.rule == rule]
        passes = [entry.steps for entry in entries]
        axes.plot(passes, [entry.predicted / n for entry in entries], color=color, label=rule)
        shifted = [k * 1.03 ** (index - 2.5) for k in passes]  # so that error bars do not overlap
        errors = [entry.measured_stderr / n for entry in entries]
        axes.errorbar(shifted, [entry.measured / n for entry in entries], errors, fmt=".", color=color)
    axes.axhline(float(comparison.curve.fitted().sum()) / n, color="0.5", linestyle="--", label="one a pass")
    passes = sorted({entry.steps for entry in comparison.entries})
    axes.set(xscale="log", xlabel="passes", ylabel="nats per token", title="bound: predicted (lines) and measured")
    axes.set_xticks(passes, [str(k) for k in passes])
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)
    axes.legend()


_MARKERS = "osD^vP"


class Point(NamedTuple):
    """The mean passes and accuracy of a policy, or of a learned policy at one dial value."""

    label: str
    passes: float
    accuracy: float
    interval: tuple[float, float]
    """95 % of the accuracy."""


def plot_points(panels: Mapping[str, tuple[Sequence[Point], Sequence[Point]]], title: str, path: Path) -> None:
    """Title -> (points of policies, points of dial values) -> a picture with one panel per title.

    Points have their 95 % intervals. Nothing joins the points of dial values: settings between them were not measured.

    Raises:
        ConfigError, RunError: if the file cannot be written.
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
        _intervals(axis, dial, "0.35")
        xs, ys = [point.passes for point in dial], [point.accuracy for point in dial]
        axis.plot(xs, ys, marker=".", ls="", color="0.35", label="learned, dial 0 to 1", zorder=1)
        labelled: list[Point] = []
        for point in dial:  # of points close to each other only the first is labelled
            if any(abs(point.passes - p.passes) < 2.6 and abs(point.accuracy - p.accuracy) < 0.06 for p in labelled):
                continue
            labelled.append(point)
            xy = (point.passes, point.accuracy)  # below and to the right of a rising curve nothing is drawn
            axis.annotate(f"dial {point.label}", xy, (7, -11), textcoords="offset points", ha="left", fontsize=8)
    for n, point in enumerate(points):
        marker = _MARKERS[n % len(_MARKERS)]
        _intervals(axis, [point], f"C{n}")
        axis.plot([point.passes], [point.accuracy], marker, color=f"C{n}", ms=8, label=point.label, zorder=2)
    axis.set(xlabel="forward passes per puzzle", ylim=(-0.08, 1.08))
    axis.set_xlim(0, None)
    axis.grid(alpha=0.25)


def _intervals(axis: Any, points: Sequence[Point], color: str) -> None:
    """Draw the 95 % intervals of points as vertical lines."""
    low, high = zip(*(point.interval for point in points), strict=True)
    axis.vlines([point.passes for point in points], low, high, color=color, lw=1, alpha=0.6, zorder=1)
