"""A frontier as a table, as plain data and as a picture."""

__all__ = ["POSITIONAL", "family", "frontier_csv", "frontier_facts", "plot_frontier"]

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unmask.eval.frontier import Frontier
from unmask.run.pictures import atomic_figure
from unmask.solve.pareto import envelope_at, pareto

POSITIONAL = ("left-to-right", "pc", "prefix")
"""Policies that use where a position is: drawn as references, and left out where only features may count."""


def family(policy: str) -> str:
    """The name in front of the options."""
    return policy.partition(":")[0]


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


def frontier_facts(groups: Mapping[str, Frontier]) -> dict[str, Any]:
    """The areas of some groups of settings, and the settings that none beats in each."""
    return {
        name: {
            "settings": len(found.outcomes),
            "hypervolume": found.hypervolume,
            "hypervolume_95": list(found.hypervolume_interval),
            "mixture": found.mixture,
            "best": [
                {
                    "policy": found.outcomes[n].setting.policy,
                    "block_size": found.outcomes[n].setting.block_size,
                    "accuracy": float(found.accuracy[n]),
                    "accuracy_95": [float(x) for x in found.interval[n]],
                    "passes": float(found.passes[n]),
                }
                for n in found.best
            ],
        }
        for name, found in groups.items()
    }


def plot_frontier(found: Frontier, length: int, title: str, path: Path) -> None:
    """Two panels of accuracy against passes: the whole canvas at once, and any block size.

    A line joins the settings of a policy that none of its own beats; black is the frontier of all, the band its 95 %
    intervals, dots the mixture envelope. Raises ConfigError or RunError where the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(12.5, 5.4), layout="constrained")
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
    atomic_figure(path, figure)


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
