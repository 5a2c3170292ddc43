"""Results -> the report of a question: report.md, table.csv and frontier.png, with every cell in whatever state."""

__all__ = ["report_folder", "write_report"]

import csv
import io
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from unmask.batch import ceil_div
from unmask.eval.frontier import POSITION_FREE, POSITION_FREE_ANY, REFERENCES, Compared
from unmask.output import markdown_table
from unmask.plots import can_draw, new_figure, save_figure
from unmask.reproduce.generation_report import by_label
from unmask.reproduce.plan import Arena, Measured, Plan, Question, Training
from unmask.reproduce.publish import write_files
from unmask.reproduce.results import GROUPS, Comparison, Results, shown
from unmask.reproduce.rules import Tuned, hiding_section, rule_sections
from unmask.reproduce.seconds import seconds_section
from unmask.solve.pareto import envelope_at, pareto

_HOW = """\
Hypervolume: the area under the best accuracy at no more than a number of passes, over log2 passes from 1 to L (the
positions of the longest problem), both axes scaled to [0, 1]. The setting that writes everything in one pass is in both
sets. Differences are paired: 95 % intervals from 400 resamples of the test problems, the same for both sets. Heuristics
are tuned on the test problems themselves, which favours them. After each difference: the number of dial values above
the mixture envelope of the group (the accuracies and mean passes reached by choosing at random between two of its
settings), the number of all dial values (more of them give a little more area), and in brackets the number above the
envelope by more than two standard errors. Reversals: neighbouring dial values of which the faster takes over .05 passes
more. Alphas above the largest of the training belong to the end of the dial, where the cut falls until everything is
written in one pass."""
_OVER_SEEDS = "Hypervolume differences: median, worst, and intervals above 0."
_MIXED = """\
The same for the areas under the mixture envelopes: each set may choose at random between two of its settings for each
problem, and the number of settings hardly matters:"""
_MARKS = "osv^D*XP"
_REWARDS = "Rewards can be compared only between trainings with the same reward and alphas."
_FAST = "**A fast run: two rounds of training and a handful of problems. Its figures mean nothing.**"


def report_folder(plan: Plan, folder: Path) -> Path:
    """A plan and the folder of all questions -> the folder of the plan's report."""
    return folder / plan.name


def write_report(results: Results, folder: Path) -> None:
    """Write the report of the current results; it has every cell of the plan, whatever its state."""
    plan, path = results.plan, report_folder(results.plan, folder)
    assert isinstance(plan, Question)
    measures = [cell for cell in plan.cells if isinstance(cell, Measured)]
    comparisons = [comparison for cell in measures if (comparison := results.comparison(cell))]
    if can_draw() and len(comparisons) > results.drawn:  # drawing takes a second, and most steps do not change it
        _draw_question(results, plan, comparisons, path / "frontier.png")
        results.drawn = len(comparisons)
    over = [_over_seeds(comparisons, plan.options.denoisers, mixed=mixed) for mixed in (False, True)]
    parts = [
        [f"# {plan.name}", "", plan.about, *(["", _FAST] if plan.options.fast else [])],
        [_test_sets(results, plan)],
        ["![accuracy against passes](frontier.png)"] if results.drawn else [],
        ["## Policies against heuristics", "", _HOW, "", *_comparison_table(results, measures)],
        ["## Over seeds", "", _OVER_SEEDS, "", *over[0], "", _MIXED, "", *over[1]],
        *([f"## {name}", "", *lines] for name, lines in _points(comparisons)),
        ["## Heuristics", "", *_rules(results)],
        ["## Trainings", "", _REWARDS, "", *_trainings(results)],
        seconds_section(results),
        *_tuned(results, plan),
        ["## Cells", "", *markdown_table(["cell", "state"], ([cell.name, results.state(cell)] for cell in plan.cells))],
    ]
    text = "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"
    write_files(plan, results.records, path, text, _csv(results, measures))


def _tuned(results: Results, plan: Question) -> list[list[str]]:
    """The sections about rules and policies that were tuned alike; computed again only where there are more of them."""
    done = by_label(plan, results.records, Tuned)
    if len(done) != results.tuned[0]:
        results.tuned = len(done), [*rule_sections(done), hiding_section(done)]
    return results.tuned[1]


def _test_sets(results: Results, plan: Question) -> str:
    """The sentence about seeds, test problems and their lengths."""
    options = plan.options
    counts = {results.problems(cell.name) for cell in results.heuristics}  # a task may have fewer than requested
    count = " or ".join(map(str, sorted(counts))) or f"{options.count} requested"
    by_title = {_title(cell.arena): results.length(cell.name) for cell in results.heuristics}
    lengths = "; ".join(f"{title} {length}" for title, length in by_title.items()) or "not known yet"
    seeds = dict.fromkeys(str(cell.seed) for cell in results.cells.values() if isinstance(cell, Measured))
    problems = f"{count} test problems, drawn with seed {options.test_seed}"
    return f"Policy seeds {', '.join(seeds)}; {problems}; L of each test: {lengths}."


def _span(low: float, high: float, sign: str = "") -> str:
    return f"[{low:{sign}.3f}, {high:{sign}.3f}]"


def _difference(compared: Compared | None) -> str:
    if compared is None:
        return "none measured"
    points = f"{compared.above}/{compared.points} ({compared.beyond})"
    return f"{compared.difference:+.3f} {_span(*compared.difference_95, '+')} {points}"


def _title(arena: Arena) -> str:
    return f"{Path(arena.checkpoint).name}, {arena.task}"


def _comparison_table(results: Results, cells: Sequence[Measured]) -> list[str]:
    """A row for each measurement of policies, also for those that are not done."""
    rows: list[list[str]] = []
    for cell in cells:
        first = [cell.label, _title(cell.arena), str(cell.seed)]
        comparison = results.comparison(cell)
        if comparison is None:
            state = results.state(cell)
            waiting = "not compared: its heuristics are not measured" if state == "done" else state
            rows.append([*first, waiting, *[""] * (len(GROUPS) + 1)])
            continue
        against = comparison.against
        compared = next(iter(against.values()), None)
        volume = "" if compared is None else f"{compared.hypervolume:.3f} {_span(*compared.hypervolume_95)}"
        differences = [_difference(against.get(name)) for name in GROUPS]
        rows.append([*first, volume, *differences, str(comparison.reversals)])
    head = ["policies", "test", "seed", "hypervolume [95 %]", *(f"minus {name}" for name in GROUPS), "reversals"]
    return markdown_table(head, rows)


def _by_variant(comparisons: Sequence[Comparison]) -> list[tuple[tuple[str, str], list[Comparison]]]:
    """Comparisons -> (label, title of the arena) with the comparisons that differ in the seed alone."""

    def key(comparison: Comparison) -> tuple[str, str]:
        return comparison.cell.label, _title(comparison.cell.arena)

    order = {name: n for n, name in enumerate(dict.fromkeys(map(key, comparisons)))}
    ordered = sorted(comparisons, key=lambda comparison: order[key(comparison)])
    return [(name, list(group)) for name, group in groupby(ordered, key)]


def _over_seeds(comparisons: Sequence[Comparison], denoisers: Sequence[str], *, mixed: bool = False) -> list[str]:
    """A table of medians and minima over seeds, and over the seeds of all EOS-heavy denoisers; the spread of passes."""
    rows = [
        [label, title, *_summary(group, mixed), _spread(group)] for (label, title), group in _by_variant(comparisons)
    ]
    pools: dict[tuple[str, str], list[Comparison]] = {}
    for comparison in comparisons:
        arena = comparison.cell.arena
        if arena.checkpoint in denoisers:
            pools.setdefault((comparison.cell.label, arena.task), []).append(comparison)
    for (label, task), pool in pools.items():
        count = len({comparison.cell.arena.checkpoint for comparison in pool})
        if count > 1:
            rows.append([label, f"all {count} denoisers, {task}", *_summary(pool, mixed), ""])
    return markdown_table(["policies", "test", "runs", *GROUPS, "widest spread of passes between seeds"], rows)


def _summary(comparisons: Sequence[Comparison], mixed: bool) -> list[str]:
    """The number of comparisons; for each group the median and the minimum, and how many intervals are above 0."""
    row = [str(len(comparisons))]
    for name in GROUPS:
        each = [comparison.against[name] for comparison in comparisons if name in comparison.against]
        values = [compared.mixture if mixed else compared.difference for compared in each]
        clear = sum((compared.mixture_95 if mixed else compared.difference_95)[0] > 0 for compared in each)
        row.append(f"{median(values):+.3f}, {min(values):+.3f}, {clear}/{len(each)}" if each else "none measured")
    return row


def _spread(comparisons: Sequence[Comparison]) -> str:
    """The largest difference of passes between seeds at an alpha, with this alpha."""
    if len(comparisons) == 1:
        return "one seed"
    by_seed = [[float(x) for x in comparison.frontier.passes] for comparison in comparisons]
    by_alpha = zip(comparisons[0].alphas, zip(*by_seed, strict=True), strict=True)
    spread, alpha = max((max(passes) - min(passes), alpha) for alpha, passes in by_alpha)
    return f"{spread:.2f} (alpha {alpha:g})"


def _points(comparisons: Sequence[Comparison]) -> list[tuple[str, list[str]]]:
    """A title and a table for each label and arena: a row for each alpha, a column for each seed."""
    tables: list[tuple[str, list[str]]] = []
    for (label, title), group in _by_variant(comparisons):
        note = "accuracy [95 %] @ passes; in brackets the best position-free accuracy at no more, on the whole canvas"
        head = ["alpha", *(f"seed {comparison.cell.seed}" for comparison in group)]
        rows = [
            [f"{alpha:g}", *(_point(comparison, n) if n < len(comparison.alphas) else "" for comparison in group)]
            for n, alpha in ((n, group[0].alphas[n]) for n in shown(len(group[0].alphas)))
        ]
        tables.append((f"{label}: {title}", [f"{note}.", "", *markdown_table(head, rows)]))
    return tables


def _point(comparison: Comparison, n: int) -> str:
    front = comparison.frontier
    accuracy = f"{front.accuracy[n]:.3f} {_span(*front.interval[n])}"
    return f"{accuracy} @ {front.passes[n]:.2f} ({comparison.best_rules[n]:.3f})"


def _rules(results: Results) -> list[str]:
    rows: list[list[str]] = []
    for cell in results.heuristics:
        for group, front in results.rules(cell.name).items():
            area = [f"{front.hypervolume:.3f}", _span(*front.hypervolume_interval)]
            rows.append([_title(cell.arena), group, str(len(front.outcomes)), *area])
    return markdown_table(["test", "group", "settings", "hypervolume", "95 %"], rows)


def _trainings(results: Results) -> list[str]:
    rows: list[list[str]] = []
    for cell in results.cells.values():
        if not isinstance(cell, Training):
            continue
        record = results.records[cell.name]
        if record.state != "done":
            rows.append([cell.name, results.state(cell), *[""] * 4])
            continue
        result = record.result
        roll, judge, update = result["spent"].values()
        rounds, best = f"{result['rounds']} ({result['reason']})", f"{result['best']:.4f}, round {result['best_round']}"
        spent = f"{roll:.0f} / {judge:.1f} / {update:.0f}"
        rows.append([cell.name, rounds, best, f"{result['parameters']:,}", f"{record.seconds:.0f}", spent])
    head = ["training", "rounds", "best validation reward", "parameters", "seconds", "rollouts / verifier / updates"]
    return markdown_table(head, rows)


def _csv(results: Results, cells: Sequence[Measured]) -> str:
    """A line for each dial value of each measurement; one line with its state for a measurement that is not done."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ["policies", "denoiser", "task", "seed", "state", "alpha", "accuracy", "low", "high", "passes"]
        + [f"{name}: {column}" for name in GROUPS for column in ("difference", "low", "high")]
    )
    for cell in cells:
        first = [cell.label, cell.arena.checkpoint, cell.arena.task, cell.seed, results.state(cell)]
        comparison = results.comparison(cell)
        if comparison is None:
            table.writerow([*first, *[""] * (5 + 3 * len(GROUPS))])
            continue
        areas: list[str] = []
        for compared in map(comparison.against.get, GROUPS):
            figures = None if compared is None else (compared.difference, *compared.difference_95)
            areas += [""] * 3 if figures is None else [f"{x:.5f}" for x in figures]
        front = comparison.frontier
        for n, alpha in enumerate(comparison.alphas):
            point = (front.accuracy[n], *front.interval[n], front.passes[n])
            table.writerow([*first, f"{alpha:g}", *(f"{x:.4f}" for x in point), *areas])
    return text.getvalue()


# ---- the picture -----------------------------------------------------------------------------------------------------


def _draw_question(results: Results, plan: Question, comparisons: Sequence[Comparison], path: Path) -> None:
    """Draw accuracy against passes, a panel for each arena. Raises ConfigError or RunError as `plots.save_figure`."""
    arenas = list(dict.fromkeys(comparison.cell.against for comparison in comparisons))
    columns = min(2, len(arenas))
    rows = ceil_div(len(arenas), columns)
    figure = new_figure(6.2 * columns + 2.6, 4.6 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    labels = list(dict.fromkeys(comparison.cell.label for comparison in comparisons))
    handles: dict[str, Any] = {}
    for panel, name in zip(panels, arenas, strict=False):
        group = [comparison for comparison in comparisons if comparison.cell.against == name]
        _heuristics(panel, results, name)
        for comparison in group:
            _policies(panel, comparison, labels.index(comparison.cell.label))
        _frame(panel, group[0].cell.arena, results.length(name))
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    for panel in panels[len(arenas) :]:
        panel.set_visible(False)
    fast = " (fast: means nothing)" if plan.options.fast else ""
    figure.suptitle(f"{plan.name}{fast}: thin lines are seeds")
    figure.legend(list(handles.values()), list(handles), loc="outside right center", frameon=False)
    save_figure(path, figure)


def _heuristics(panel: Any, results: Results, name: str) -> None:
    """Draw the frontiers of the groups (brown: in the blocks of policies) and the mixture envelope of the first."""
    styles = {POSITION_FREE: ("black", "-"), POSITION_FREE_ANY: ("0.55", "-"), REFERENCES: ("0.35", "--")}
    for group, front in results.rules(name).items():
        color, style = styles.get(group, ("tab:brown", "-"))
        best = pareto(front.passes, front.accuracy)
        passes, accuracy = front.passes[best], front.accuracy[best]
        panel.step(passes, accuracy, where="post", color=color, ls=style, lw=1.4, label=group)
        if group == POSITION_FREE:
            grid = 2.0 ** np.linspace(0, np.log2(max(2.0, float(front.passes.max()))), 200)
            mixed = envelope_at(front.passes, front.accuracy, grid)
            panel.plot(grid, np.where(mixed > 0, mixed, np.nan), ":", color=color, lw=1, label="its mixture envelope")


def _policies(panel: Any, comparison: Comparison, number: int) -> None:
    """Draw the policies of one seed with their intervals."""
    front = comparison.frontier
    order = sorted(range(len(front.passes)), key=lambda n: front.passes[n])
    passes, accuracy, interval = front.passes[order], front.accuracy[order], front.interval[order]
    color, mark = f"C{number % 10}", _MARKS[number // 10 % len(_MARKS)]
    panel.plot(passes, accuracy, "-", marker=mark, ms=3, lw=0.8, color=color, label=comparison.cell.label)
    panel.vlines(passes, interval[:, 0], interval[:, 1], color=color, lw=0.6, alpha=0.5)


def _frame(panel: Any, arena: Arena, length: int) -> None:
    """Set the axes and the title of a panel; `length` is L."""
    panel.set_xscale("log", base=2)
    panel.set_xlim(0.95, length * 1.05)
    panel.set_ylim(-0.02, 1.02)
    panel.xaxis.set_major_formatter("{x:g}")
    panel.set_xlabel("forward passes per problem")
    panel.set_ylabel("accuracy")
    panel.set_title(_title(arena))
    panel.grid(alpha=0.25)
