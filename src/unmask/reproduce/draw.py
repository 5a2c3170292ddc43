"""The picture of a question: a panel for each arena, heuristics in grey and black, policies in colours."""

__all__ = ["draw_question"]

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unmask.eval.compare import BLIND, BLIND_ANY, REFERENCES
from unmask.plots import new_figure, save_figure
from unmask.reproduce.results import Judged, Results
from unmask.solve.pareto import envelope_at, pareto

_MARKS = "osv^D*XP"


def draw_question(results: Results, judged: Sequence[Judged], path: Path) -> None:
    """Accuracy against passes. Raises ConfigError or RunError where it cannot be."""
    arenas = list(dict.fromkeys(one.cell.against for one in judged))
    columns = min(2, len(arenas))
    rows = -(-len(arenas) // columns)
    figure = new_figure(6.2 * columns + 2.6, 4.6 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    labels = list(dict.fromkeys(one.cell.label for one in judged))
    named: dict[str, Any] = {}
    for panel, name in zip(panels, arenas, strict=False):
        mine = [one for one in judged if one.cell.against == name]
        _heuristics(panel, results, name)
        for one in mine:
            _policies(panel, one, labels.index(one.cell.label))
        _frame(panel, mine[0], results.length(name))
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    for panel in panels[len(arenas) :]:
        panel.set_visible(False)
    quick = " (quick: means nothing)" if results.plan.options.quick else ""
    figure.suptitle(f"{results.plan.name}{quick}: thin lines are seeds")
    figure.legend(list(named.values()), list(named), loc="outside right center", frameon=False)
    save_figure(path, figure)


def _heuristics(panel: Any, results: Results, name: str) -> None:
    """The frontiers of the groups (brown: in the blocks of policies), and the mixture envelope on the whole canvas."""
    styles = {BLIND: ("black", "-"), BLIND_ANY: ("0.55", "-"), REFERENCES: ("0.35", "--")}
    for group, found in results.rules(name).items():
        color, style = styles.get(group, ("tab:brown", "-"))
        best = pareto(found.passes, found.accuracy)
        passes, accuracy = found.passes[best], found.accuracy[best]
        panel.step(passes, accuracy, where="post", color=color, ls=style, lw=1.4, label=group)
        if group == BLIND:
            grid = 2.0 ** np.linspace(0, np.log2(max(2.0, float(found.passes.max()))), 200)
            mixed = envelope_at(found.passes, found.accuracy, grid)
            panel.plot(grid, np.where(mixed > 0, mixed, np.nan), ":", color=color, lw=1, label="its mixture envelope")


def _policies(panel: Any, one: Judged, number: int) -> None:
    order = np.argsort(one.found.passes, kind="stable")
    passes, accuracy, interval = one.found.passes[order], one.found.accuracy[order], one.found.interval[order]
    color, mark = f"C{number % 10}", _MARKS[number // 10 % len(_MARKS)]
    panel.plot(passes, accuracy, "-", marker=mark, ms=3, lw=0.8, color=color, label=one.cell.label)
    panel.vlines(passes, interval[:, 0], interval[:, 1], color=color, lw=0.6, alpha=0.5)


def _frame(panel: Any, one: Judged, length: int) -> None:
    panel.set_xscale("log", base=2)
    panel.set_xlim(0.95, length * 1.05)
    panel.set_ylim(-0.02, 1.02)
    panel.xaxis.set_major_formatter("{x:g}")
    panel.set_xlabel("forward passes per problem")
    panel.set_ylabel("accuracy")
    panel.set_title(f"{Path(one.cell.arena.checkpoint).name}, {one.cell.arena.task}")
    panel.grid(alpha=0.25)
