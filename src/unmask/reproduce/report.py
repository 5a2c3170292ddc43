"""Results -> the answer to a question as far as it is known: report.md, table.csv and frontier.png in its folder."""

__all__ = ["report_folder", "write_report"]

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from unmask.batch import ceil_div
from unmask.disk.files import atomic_text
from unmask.eval.frontier import POSITION_FREE, POSITION_FREE_ANY, REFERENCES, Compared, grouped
from unmask.plots import can_draw, new_figure, save_figure
from unmask.reproduce.plan import Arena, Measured, Question, Timed, Training
from unmask.reproduce.results import GROUPS, Judged, Results, outcomes_of, shown
from unmask.solve.pareto import envelope_at, pareto
from unmask.solve.sweep import Outcome

_HOW = """\
Hypervolume: the area under the best accuracy at no more than so many passes, over log2 passes from 1 to L (the
positions of the longest problem), both axes scaled to [0, 1]. The setting that writes everything in one pass is in both
sets. Differences are paired: 95 % intervals from 400 resamples of the test problems, the same for both sets. Heuristics
are tuned in hindsight on the test problems themselves, which favours them. Behind each difference stand points: how
many places of the dial lie above the mixture envelope of the group (what tossing a coin between two of its settings
gives), of how many places (rows with more of them have a little more area), and in brackets how many by more than two
standard errors. Reversals: neighbours on the dial of which the faster spends over .05 passes more. Alphas above the
largest that was trained on stand for the end of the dial, where the cut falls until all is written in one pass."""
_MIXED = """\
The same for the areas under the mixture envelopes, where each set may toss a coin between two of its settings for each
problem, and the number of settings hardly counts:"""
_TIMED = (
    "Milliseconds a problem, verifier included, one thread, median of the rounds; beside each policy the fastest "
    "heuristic of a group that is at least as accurate on the test problems, and how many times the policy's time it "
    "takes (above 1 the policy is faster). Only heuristics that none of their group beats in passes were timed. "
    "Accuracy and passes are those of all test problems; the clock ran over the first so many of them. The share is "
    "processor time over time on the clock: where it is well below 100 % other work disturbed it."
)
_TIMED_GROUPS = (POSITION_FREE, POSITION_FREE_ANY, REFERENCES)
_MARKS = "osv^D*XP"
_REWARDS = "Rewards can be compared only between trainings with the same reward and alphas."
_QUICK = "**A quick run: two rounds of training and a handful of problems. Its figures mean nothing.**"


def report_folder(plan: Question, folder: Path) -> Path:
    """Where the answer to a question is."""
    return folder / plan.name


def write_report(results: Results, folder: Path) -> None:
    """Write what is known; every cell of the plan is in it, whatever its state."""
    plan, place = results.plan, report_folder(results.plan, folder)
    judged = [found for cell in plan.cells if isinstance(cell, Measured) and (found := results.judged(cell))]
    picture = place / "frontier.png"
    if can_draw() and len(judged) > results.drawn:  # a picture takes a second, and most steps do not change it
        _draw_question(results, judged, picture)
        results.drawn = len(judged)
    measures = [cell for cell in plan.cells if isinstance(cell, Measured)]
    parts = [
        [f"# {plan.name}", "", plan.about, *(["", _QUICK] if plan.options.quick else []), "", *_made(results)],
        ["![accuracy against passes](frontier.png)"] if results.drawn else [],
        ["## Policies against heuristics", "", _HOW, "", *_against(results, measures)],
        [
            "## Over seeds",
            "",
            "Hypervolume differences: median, worst, and intervals above 0.",
            "",
            *_over(judged, plan.options.denoisers),
            "",
            _MIXED,
            "",
            *_over(judged, plan.options.denoisers, mixed=True),
        ],
        *([f"## {name}", "", *lines] for name, lines in _points(judged)),
        ["## Heuristics", "", *_rules(results)],
        ["## Trainings", "", _REWARDS, "", *_trainings(results)],
        ["## Seconds", "", *_timings(results)] if any(isinstance(cell, Timed) for cell in plan.cells) else [],
        ["## Cells", "", *_table(["cell", "state"], ([cell.name, results.state(cell)] for cell in plan.cells))],
    ]
    atomic_text(place / "report.md", "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n")
    atomic_text(place / "table.csv", _csv(results, measures))


def _made(results: Results) -> list[str]:
    o = results.plan.options
    counts = {results.problems(cell.name) for cell in results.heuristics}  # a task may have fewer than were asked for
    count = " or ".join(map(str, sorted(counts))) or f"{o.count} wanted"
    found = {_title(cell.arena): results.length(cell.name) for cell in results.heuristics}
    lengths = "; ".join(f"{title} {length}" for title, length in found.items()) or "not known yet"
    measured = dict.fromkeys(cell.seed for cell in results.plan.cells if isinstance(cell, Measured))
    seeds = ", ".join(str(seed) for seed in measured)
    return [f"Policy seeds {seeds}; {count} test problems, drawn with seed {o.test_seed}; L of each test: {lengths}."]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return [*lines, *(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)]


def _span(low: float, high: float, sign: str = "") -> str:
    return f"[{low:{sign}.3f}, {high:{sign}.3f}]"


def _difference(found: Compared | None) -> str:
    if found is None:
        return "none measured"
    points = f"{found.above}/{found.points} ({found.beyond})"
    return f"{found.difference:+.3f} {_span(*found.difference_95, '+')} {points}"


def _title(arena: Arena) -> str:
    return f"{Path(arena.checkpoint).name}, {arena.task}"


def _against(results: Results, cells: Sequence[Measured]) -> list[str]:
    """A row for each measurement of policies, done or not."""
    rows: list[list[str]] = []
    for cell in cells:
        first = [cell.label, _title(cell.arena), str(cell.seed)]
        found = results.judged(cell)
        if found is None:
            state = results.state(cell)
            waiting = "not compared: its heuristics are not measured" if state == "done" else state
            rows.append([*first, waiting, *[""] * (len(GROUPS) + 1)])
            continue
        whole = next(iter(found.against.values()), None)
        volume = "" if whole is None else f"{whole.hypervolume:.3f} {_span(*whole.hypervolume_95)}"
        rows.append([*first, volume, *(_difference(found.against.get(name)) for name in GROUPS), str(found.reversals)])
    head = ["policies", "test", "seed", "hypervolume [95 %]", *(f"minus {name}" for name in GROUPS), "reversals"]
    return _table(head, rows)


def _sets(judged: Sequence[Judged]) -> list[tuple[tuple[str, str], list[Judged]]]:
    """Measurements that differ in the seed alone."""

    def key(one: Judged) -> tuple[str, str]:
        return one.cell.label, _title(one.cell.arena)

    order = {name: n for n, name in enumerate(dict.fromkeys(map(key, judged)))}
    return [(name, list(some)) for name, some in groupby(sorted(judged, key=lambda one: order[key(one)]), key)]


def _over(judged: Sequence[Judged], denoisers: Sequence[str], *, mixed: bool = False) -> list[str]:
    """Median and worst over seeds, and over the seeds of all EOS-heavy denoisers; how far passes lie apart."""
    rows = [[label, title, *_middle(some, mixed), _spread(some)] for (label, title), some in _sets(judged)]
    pools: dict[tuple[str, str], list[Judged]] = {}
    for one in judged:
        if one.cell.arena.checkpoint in denoisers:
            pools.setdefault((one.cell.label, one.cell.arena.task), []).append(one)
    for (label, task), some in pools.items():
        count = len({one.cell.arena.checkpoint for one in some})
        if count > 1:
            rows.append([label, f"all {count} denoisers, {task}", *_middle(some, mixed), ""])
    return _table(["policies", "test", "runs", *GROUPS, "widest spread of passes between seeds"], rows)


def _middle(some: Sequence[Judged], mixed: bool) -> list[str]:
    row = [str(len(some))]
    for name in GROUPS:
        found = [one.against[name] for one in some if name in one.against]
        values = [one.mixture if mixed else one.difference for one in found]
        clear = sum((one.mixture_95 if mixed else one.difference_95)[0] > 0 for one in found)
        row.append(f"{median(values):+.3f}, {min(values):+.3f}, {clear}/{len(found)}" if found else "none measured")
    return row


def _spread(some: Sequence[Judged]) -> str:
    if len(some) == 1:
        return "one seed"
    passes = [[float(x) for x in one.found.passes] for one in some]
    apart = [(max(at) - min(at), alpha) for alpha, at in zip(some[0].alphas, zip(*passes, strict=True), strict=True)]
    most, alpha = max(apart)
    return f"{most:.2f} (alpha {alpha:g})"


def _points(judged: Sequence[Judged]) -> list[tuple[str, list[str]]]:
    """A table for each kind of policies and arena: alpha down, seeds across."""
    found: list[tuple[str, list[str]]] = []
    for (label, title), some in _sets(judged):
        note = "accuracy [95 %] @ passes; in brackets the best position-free accuracy at no more, on the whole canvas"
        head = ["alpha", *(f"seed {one.cell.seed}" for one in some)]
        rows = [
            [f"{some[0].alphas[n]:g}", *(_point(one, n) if n < len(one.alphas) else "" for one in some)]
            for n in shown(len(some[0].alphas))
        ]
        found.append((f"{label}: {title}", [f"{note}.", "", *_table(head, rows)]))
    return found


def _point(one: Judged, n: int) -> str:
    accuracy, passes = one.found.accuracy[n], one.found.passes[n]
    return f"{accuracy:.3f} {_span(*one.found.interval[n])} @ {passes:.2f} ({one.under[n]:.3f})"


def _rules(results: Results) -> list[str]:
    rows = [
        [
            _title(cell.arena),
            group,
            str(len(found.outcomes)),
            f"{found.hypervolume:.3f}",
            _span(*found.hypervolume_interval),
        ]
        for cell in results.heuristics
        for group, found in results.rules(cell.name).items()
    ]
    return _table(["test", "group", "settings", "hypervolume", "95 %"], rows)


def _trainings(results: Results) -> list[str]:
    rows: list[list[str]] = []
    for cell in results.plan.cells:
        if not isinstance(cell, Training):
            continue
        record = results.records[cell.name]
        if record.state != "done":
            rows.append([cell.name, results.state(cell), *[""] * 4])
            continue
        r = record.result
        roll, judge, update = r["spent"].values()
        best = f"{r['best']:.4f}, round {r['best_round']}"
        told = [f"{r['rounds']} ({r['reason']})", best, f"{r['parameters']:,}", f"{record.seconds:.0f}"]
        rows.append([cell.name, *told, f"{roll:.0f} / {judge:.1f} / {update:.0f}"])
    head = ["training", "rounds", "best validation reward", "parameters", "seconds", "rollouts / verifier / updates"]
    return _table(head, rows)


def _csv(results: Results, cells: Sequence[Measured]) -> str:
    """A line for each place of each dial; for a measurement that is not done one line with its state."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ["policies", "denoiser", "task", "seed", "state", "alpha", "accuracy", "low", "high", "passes"]
        + [f"{name}: {what}" for name in GROUPS for what in ("difference", "low", "high")]
    )
    for cell in cells:
        first = [cell.label, cell.arena.checkpoint, cell.arena.task, cell.seed, results.state(cell)]
        found = results.judged(cell)
        if found is None:
            table.writerow([*first, *[""] * (5 + 3 * len(GROUPS))])
            continue
        areas: list[str] = []
        for name in GROUPS:
            one = found.against.get(name)
            areas += [""] * 3 if one is None else [f"{x:.5f}" for x in (one.difference, *one.difference_95)]
        for n, alpha in enumerate(found.alphas):
            low, high = found.found.interval[n]
            point = (found.found.accuracy[n], low, high, found.found.passes[n])
            table.writerow([*first, f"{alpha:g}", *(f"{x:.4f}" for x in point), *areas])
    return text.getvalue()


# ---- seconds ---------------------------------------------------------------------------------------------------------


def _timings(results: Results) -> list[str]:
    """A row for each dial value, batch and arena; one with the state where there is no time yet."""
    rows: list[list[str]] = []
    for cell in results.plan.cells:
        if not isinstance(cell, Timed):
            continue
        first = [_title(cell.arena), str(cell.batch)]
        if not results.done(cell.name):
            rows.append([*first, results.state(cell), *[""] * (3 + len(_TIMED_GROUPS))])
            continue
        timed, measured = results.records[cell.name].result, results.records[cell.measured].result
        seconds: Mapping[str, float] = timed["seconds"]
        groups = grouped(outcomes_of(results.records[cell.against].result))
        for alpha, policy in zip(measured["alphas"], outcomes_of(measured), strict=True):
            own = seconds.get(policy.setting.key)
            if own is None:
                continue  # not every dial value was timed
            accuracy = f"{policy.accuracy:.3f} @ {policy.mean_passes:.2f}"
            row = [*first, f"{timed['problems']} ({timed['share']:.0%})", f"{alpha:g}", accuracy, f"{own * 1e3:.2f}"]
            rows.append([*row, *(_fastest(policy, groups.get(name, []), seconds, own) for name in _TIMED_GROUPS)])
    head = ["test", "batch", "problems (share)", "alpha", "accuracy @ passes", "ms", *_TIMED_GROUPS]
    return [_TIMED, "", *_table(head, rows)]


def _fastest(policy: Outcome, rules: list[Outcome], seconds: Mapping[str, float], own: float) -> str:
    able = [rule for rule in rules if rule.accuracy >= policy.accuracy and rule.setting.key in seconds]
    if not able:
        return "none as accurate"
    best = min(able, key=lambda rule: seconds[rule.setting.key])
    return f"{seconds[best.setting.key] * 1e3:.2f} (x{seconds[best.setting.key] / own:.2f}) {best.setting.key}"


# ---- the picture -----------------------------------------------------------------------------------------------------


def _draw_question(results: Results, judged: Sequence[Judged], path: Path) -> None:
    """Accuracy against passes. Raises ConfigError or RunError where it cannot be."""
    arenas = list(dict.fromkeys(one.cell.against for one in judged))
    columns = min(2, len(arenas))
    rows = ceil_div(len(arenas), columns)
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
    styles = {POSITION_FREE: ("black", "-"), POSITION_FREE_ANY: ("0.55", "-"), REFERENCES: ("0.35", "--")}
    for group, found in results.rules(name).items():
        color, style = styles.get(group, ("tab:brown", "-"))
        best = pareto(found.passes, found.accuracy)
        passes, accuracy = found.passes[best], found.accuracy[best]
        panel.step(passes, accuracy, where="post", color=color, ls=style, lw=1.4, label=group)
        if group == POSITION_FREE:
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
