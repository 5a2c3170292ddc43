"""The results about one policy for every task -> the sections of the report and its pictures.

Settings are chosen on validation problems and compared on test problems. Shapes: N problems.
"""

__all__ = ["draw_general", "general_sections"]

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unmask.eval.frontier import Compared, compare, frontier, one_pass
from unmask.output import markdown_table
from unmask.plots import can_draw, distinct_colors, new_figure, save_figure
from unmask.reproduce.general import alpha_at
from unmask.solve.pareto import hypervolume, pareto
from unmask.solve.settings import Setting
from unmask.solve.sweep import Outcome

Results = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Results of cells by label and seed."""
_RULES, _GENERAL, _WITHIN = "rules", "general", 0.01
_ALPHAS = tuple(alpha_at(n / 25) for n in range(21))
_ABOUT = f"""\
Hypervolume: the area under the best accuracy at no more than a number of passes, over log2 passes from 1 to L (the
positions of the longest problem). Differences are paired, with 95 % intervals from 400 resamples of the test problems;
the setting of one pass is in both sets. Of every rule and policy those settings are measured that no other one
dominates on the validation problems; the best rule is that with the largest area there. "Within .01" is held if the
interval of the difference is above -{_WITHIN:g}, and refuted if it is below. By mixtures: the difference of the areas
where a random choice between two settings counts too, so that it hardly depends on how many settings there are."""
_HELD_OUT = """\
A policy that was not trained on the task, at all its dial values, against rules with the same settings for all tasks.
The best single rule, and for each cost of a pass its setting, have the best mean reward on the validation problems of
the other tasks, in units of the best rule of each. The random choice takes for each problem one of all rules at random,
each at its setting for the cost."""
_SECONDS = """\
Processor milliseconds a test problem in batches of 256, verifier included, of the most accurate setting that was kept,
with its accuracy and passes. Other processes may have run meanwhile."""


class _Measured(NamedTuple):
    """The outcomes of the settings of a cell, by the names of the settings."""

    length: int
    lengths: NDArray[np.float64]
    """Positions to fill of each validation problem."""
    valid: dict[str, Outcome]
    tests: dict[str, Outcome]

    def kept(self, names: Iterable[str] | None = None) -> list[Outcome]:
        """The test outcomes of the settings that no other of `names` dominates on the validation problems."""
        own = list(self.valid if names is None else names)
        passes, accuracy = (np.array([getattr(self.valid[n], key) for n in own]) for key in ("mean_passes", "accuracy"))
        return [self.tests[own[n]] for n in pareto(passes, accuracy)]

    def families(self) -> dict[str, list[str]]:
        """By rule the names of its settings."""
        families: dict[str, list[str]] = {}
        for name in self.valid:
            families.setdefault(name.partition(", ")[0], []).append(name)
        return families

    def area(self, names: Sequence[str]) -> float:
        """The hypervolume of settings on the validation problems."""
        passes, accuracy = (
            np.array([getattr(self.valid[n], key) for n in names]) for key in ("mean_passes", "accuracy")
        )
        return hypervolume(passes, accuracy, self.length)

    def rewards(self, alpha: float) -> dict[str, float]:
        """The mean reward of each setting on the validation problems."""
        table: dict[str, float] = {}
        for name, outcome in self.valid.items():
            left = (self.lengths - np.minimum(outcome.passes, self.lengths) + 1) / self.lengths
            table[name] = float((np.array(outcome.scores) * left**alpha).mean())
        return table


def _read(result: Mapping[str, Any]) -> _Measured:
    """The result of a `Swept` -> its outcomes."""

    def outcomes(rows: Sequence[Mapping[str, Any]]) -> dict[str, Outcome]:
        made = (Outcome(Setting(**r["setting"]), r["scores"], r["passes"], r["seconds"], r["row_passes"]) for r in rows)
        return dict(zip(result["names"], made, strict=True))

    lengths, rows = np.array(result["lengths"]["valid"], np.float64), result["rows"]
    return _Measured(int(result["length"]), lengths, outcomes(rows["valid"]), outcomes(rows["tests"]))


def _tasks(done: Results) -> dict[str, dict[str, dict[int, _Measured]]]:
    """Results -> by task, policy (or `_RULES`) and seed the outcomes, for tasks whose rules are measured."""
    tasks: dict[str, dict[str, dict[int, _Measured]]] = {}
    for label, results in done.items():
        who, _, task = label.rpartition(" on ")
        tasks.setdefault(task, {})[who] = {seed: _read(result) for seed, result in results.items()}
    return {task: by_who for task, by_who in tasks.items() if _RULES in by_who}


def _best_rule(rules: _Measured) -> tuple[str, list[Outcome]]:
    """The rule with the largest area on validation problems, and the test outcomes of its settings that are kept."""
    families = rules.families()
    best = max(families, key=lambda family: rules.area(families[family]))
    return best, rules.kept(families[best])


def general_sections(done: Results) -> list[list[str]]:
    """The results of the `Swept` cells, by label and seed -> the lines of each section; none without results."""
    tasks = _tasks(done)
    if not tasks:
        return []
    pictures = ["![accuracy against passes](general.png)", "", "![the order of positions](order.png)"]
    sections = [["## Tasks of the training", "", _ABOUT, "", *_trained(tasks)]]
    sections.append(["## Tasks that were held out", "", _HELD_OUT, "", *_held_out(tasks)])
    return [*sections, ["## Seconds", "", _SECONDS, "", *_seconds(tasks)], pictures]


def _span(compared: Compared) -> str:
    low, high = compared.difference_95
    return f"{compared.difference:+.3f} [{low:+.3f}, {high:+.3f}]"


def _verdict(compared: Compared) -> str:
    low, high = compared.difference_95
    return "held" if low > -_WITHIN else "refuted" if high < -_WITHIN else "undecided"


def _trained(tasks: Mapping[str, Mapping[str, Mapping[int, _Measured]]]) -> list[str]:
    """A row for each task and policy that was trained on it."""
    rows: list[list[str]] = []
    for task, by_who in tasks.items():
        rule, best = _best_rule(by_who[_RULES][0])
        alone = next(iter(by_who.get(f"alone {task}", {}).values()), None)
        for who, by_seed in by_who.items():
            if who == _RULES or who.startswith("without "):
                continue
            for seed, own in by_seed.items():
                kept, point = own.kept(), one_pass(list(own.tests.values()))
                against = compare(kept, best, own.length, point=point)
                twin = (
                    "" if alone is None or alone is own else _span(compare(kept, alone.kept(), own.length, point=point))
                )
                area = frontier([*([point] if point else []), *best], own.length, resamples=1).hypervolume
                low, high = against.mixture_95
                figures = [f"{area:.3f}", f"{against.hypervolume:.3f}", _span(against), _verdict(against)]
                figures += [f"{against.mixture:+.3f} [{low:+.3f}, {high:+.3f}]", twin]
                rows.append([task, rule, who, str(seed), *figures])
    head = (
        "task",
        "best rule",
        "policy",
        "seed",
        "area of the rule",
        "area",
        "minus the rule",
        "within .01",
        "by mixtures",
        "minus alone",
    )
    return markdown_table(head, rows)


def _fixed(tasks: Mapping[str, Mapping[str, Mapping[int, _Measured]]], held: str) -> dict[str, list[str]]:
    """A task -> by rule its setting for each of `_ALPHAS`, chosen on the others; the best rule is the first."""
    others = [by_who[_RULES][0] for task, by_who in tasks.items() if task != held]
    chosen: dict[str, list[str]] = {}
    merits: dict[str, float] = {}
    for alpha in _ALPHAS:
        tables = [rules.rewards(alpha) for rules in others]
        units = [max(*table.values(), 1e-9) for table in tables]
        for family, names in others[0].families().items():
            values = {n: sum(table[n] / unit for table, unit in zip(tables, units, strict=True)) for n in names}
            best = max(values, key=lambda name: values[name])
            chosen.setdefault(family, []).append(best)
            merits[family] = merits.get(family, 0.0) + values[best]
    return {family: chosen[family] for family in sorted(chosen, key=lambda family: -merits[family])}


def _at_random(rules: _Measured, chosen: Mapping[str, Sequence[str]]) -> list[Outcome]:
    """Settings by rule and cost -> for each cost the outcome of a random rule for each test problem."""
    random, outcomes = np.random.default_rng(0), list[Outcome]()
    for n in range(len(_ALPHAS)):
        each = [rules.tests[names[n]] for names in chosen.values()]
        scores, passes = (np.array([getattr(outcome, key) for outcome in each]) for key in ("scores", "passes"))
        picks, at = random.integers(len(each), size=scores.shape[1]), np.arange(scores.shape[1])
        setting = Setting(f"a random rule, cost {n}")
        outcomes.append(Outcome(setting, scores[picks, at].tolist(), passes[picks, at].tolist(), 0.0))
    return outcomes


def _held_out(tasks: Mapping[str, Mapping[str, Mapping[int, _Measured]]]) -> list[str]:
    """A row for each policy that was measured on a task that it was not trained on."""
    rows: list[list[str]] = []
    for task, by_who in tasks.items():
        if len(tasks) < 2 or f"without {task}" not in by_who:
            continue
        rules, chosen = by_who[_RULES][0], _fixed(tasks, task)
        first = next(iter(chosen))
        single = [rules.tests[name] for name in dict.fromkeys(chosen[first])]
        for seed, own in by_who[f"without {task}"].items():
            outcomes = list(own.tests.values())
            against = [
                compare(outcomes, o, own.length, point=one_pass(outcomes)) for o in (single, _at_random(rules, chosen))
            ]
            tuned = compare(outcomes, _best_rule(rules)[1], own.length, point=one_pass(outcomes))
            row = [task, str(seed), f"{against[0].hypervolume:.3f}", first, *map(_span, against), _span(tuned)]
            rows.append(row)
    head = (
        "task",
        "seed",
        "area",
        "best single rule",
        "minus the single rule",
        "minus a random choice",
        "minus the tuned rule",
    )
    return markdown_table(head, rows)


def _seconds(tasks: Mapping[str, Mapping[str, Mapping[int, _Measured]]]) -> list[str]:
    """A row for each task: the most accurate kept setting of the best rule and of the policies."""
    rows: list[list[str]] = []
    for task, by_who in tasks.items():
        rule, best = _best_rule(by_who[_RULES][0])
        each = {rule: best} | {
            who: next(iter(by_seed.values())).kept()
            for who, by_seed in by_who.items()
            if who != _RULES and not who.startswith("without ")
        }
        for who, kept in each.items():
            top = max(kept, key=lambda outcome: outcome.accuracy)
            cost = f"{1e3 * top.seconds / len(top.scores):.2f}"
            rows.append([task, who, f"{top.accuracy:.3f}", f"{top.mean_passes:.2f}", cost])
    return markdown_table(("task", "rule or policy", "accuracy", "passes", "ms a problem"), rows)


# ---- pictures --------------------------------------------------------------------------------------------------------


def draw_general(done: Results, path: Path) -> None:
    """Draw the fronts of rules and policies on each task, and the order of the general policy; nothing without them."""
    tasks = _tasks(done) if can_draw() else {}
    if not tasks:
        return
    _draw_fronts(tasks, path / "general.png")
    orders = {}
    for task in tasks:
        results = done.get(f"{_GENERAL} on {task}", {})
        orders |= {task: next(iter(results.values()))["order"]} if results else {}
    if orders:
        _draw_orders(orders, path / "order.png")


def _draw_fronts(tasks: Mapping[str, Mapping[str, Mapping[int, _Measured]]], path: Path) -> None:
    columns = min(3, len(tasks))
    lines = -(-len(tasks) // columns)
    figure = new_figure(4.6 * columns + 2.4, 3.8 * lines)
    panels, handles = figure.subplots(lines, columns, squeeze=False).flatten(), dict[str, Any]()
    for panel in panels[len(tasks) :]:
        panel.axis("off")
    names = ["best rule", _GENERAL, "general 330k", "alone", "without it"]
    colors = dict(zip(names, distinct_colors(len(names)), strict=True))
    for panel, (task, by_who) in zip(panels, tasks.items(), strict=False):
        rule, best = _best_rule(by_who[_RULES][0])
        each = [("best rule", best)]
        for who, by_seed in by_who.items():
            name = {f"alone {task}": "alone", f"without {task}": "without it"}.get(who, who)
            each += [(name, own.kept()) for own in by_seed.values() if name in names]
        for name, kept in each:
            xs, ys = zip(*sorted((outcome.mean_passes, outcome.accuracy) for outcome in kept), strict=True)
            (handles[name],) = panel.plot(xs, ys, "o-", ms=3, lw=1, color=colors[name], label=name, alpha=0.8)
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.set_ylim(-0.02, 1.02)
        panel.set_title(f"{task} (best rule: {rule})", fontsize=9)
        panel.grid(alpha=0.25)
    figure.supxlabel("forward passes per problem")
    figure.supylabel("accuracy on test problems")
    figure.legend(list(handles.values()), list(handles), loc="outside right center", frameon=False)
    save_figure(path, figure)


def _draw_orders(orders: Mapping[str, Sequence[Sequence[int]]], path: Path) -> None:
    """By task the pass that filled each position of some problems: a line a problem, darker earlier."""
    columns = min(3, len(orders))
    lines = -(-len(orders) // columns)
    figure = new_figure(4.2 * columns + 0.8, 3.2 * lines)
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for panel in panels[len(orders) :]:
        panel.axis("off")
    image = None
    for panel, (task, rows) in zip(panels, orders.items(), strict=False):
        shares = np.full((len(rows), max(map(len, rows))), np.nan)
        for n, passes in enumerate(rows):
            shares[n, : len(passes)] = np.array(passes) / max(*passes, 1)
        image = panel.imshow(shares, aspect="auto", interpolation="nearest", vmin=0, vmax=1, cmap="viridis")
        panel.set_title(task, fontsize=9)
        panel.set_xlabel("position to fill", fontsize=8)
        panel.set_ylabel("test problem", fontsize=8)
    figure.colorbar(image, ax=list(panels), label="pass of the position / all passes of the problem")
    save_figure(path, figure)
