"""The cells of the question about unmasking rules: every rule tuned alike, measured on fresh problems; and its report.

A rule is tuned on validation problems: of the settings of its grid, at most `budget`, those stay that no other one
dominates. They alone are measured on the test problems, so that the area is not biased by the choice. Imports no torch.
"""

__all__ = [
    "HIDING",
    "PLAIN",
    "RULE_CELLS",
    "RULE_RESULTS",
    "Filtered",
    "Tuned",
    "bench_of",
    "draw_rules",
    "grids",
    "hiding_section",
    "outcomes_of_sweep",
    "require_plain",
    "rule_sections",
    "train_filter",
    "tune",
]

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.errors import ConfigError
from unmask.output import markdown_table, show
from unmask.plots import can_draw
from unmask.ranges import Count
from unmask.reproduce.text import TextCell
from unmask.rl.settings import LearnRun

if TYPE_CHECKING:
    from unmask.solve.sweep import Bench, Outcome

_TEST_SEED = 9001  # of the test problems: fresh, nothing else was chosen on them
_REFERENCE = "threshold"
HIDING, PLAIN = "policy that hides again, seed ", "policy, seed "
"""The names of learned policies of a seed, which follows."""
_FOLDER = "FOLDER"  # in the name of a policy: that of a training


def grids(checkpoint: str) -> dict[str, tuple[str, ...]]:
    """The bundled denoiser -> by the name of a rule the policies of its grid.

    The values of their knobs come from the registry. `checkpoint` also names the policy that was trained on it.
    """
    plain = ("confidence", "margin", "entropy", "random", "left-to-right", "threshold", "margin-threshold")
    dials = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)
    return {
        **{name: (name,) for name in (*plain, "entropy-threshold", "factor")},
        "entropy-bound": ("entropy-bound", "entropy-bound:order=confidence", "entropy-bound:order=margin"),
        "klass": ("klass:kl=0.01", "klass:kl=0.1"),
        "prefix": ("prefix",),
        "pc": ("pc:decay=0.25", "pc:decay=0.02"),
        "frechet": ("frechet",),
        "local-leap": tuple(f"local-leap:near={near},radius={radius}" for near in (0.5, 0.75) for radius in (2, 4)),
        "hierarchy": ("hierarchy:low=0.2", "hierarchy:low=0.4", "hierarchy:low=0.7"),
        "credit": ("credit:weight=0.3", "credit:weight=0.7", "credit:weight=1.5"),
        "remdm": ("remdm:kind=cap", "remdm:kind=rescale,eta=0.1", "remdm:kind=conf"),
        "rcr": ("rcr",),
        "adas": ("adas:alpha=2", "adas:alpha=10", "adas:alpha=40"),
        "dawn": ("dawn:edge=0.07", "dawn:edge=0.2"),
        "p2": ("p2",),
        "saber": ("saber",),
        "wino": ("wino:verify=0.7", "wino:verify=0.9"),
        "info-gain": ("info-gain:spread=0.1", "info-gain:spread=0.2"),
        "freedave over prefix": tuple(f"freedave over prefix:threshold={x}" for x in dials),
        "freedave over threshold": tuple(f"freedave over threshold:threshold={x}" for x in dials),
        "filter": (f"filter:from={_FOLDER}",),
        "learned": (f"learned:from={checkpoint}",),
    }


def require_plain(folder: Path) -> None:
    """Raise ConfigError for a folder whose name has a separator of policy names."""
    if text := next((text for text in (",", " or ", " over ") if text in str(folder)), None):
        raise ConfigError(
            f"The folder '{folder}' has '{text}' in it, which means something in a policy's name; "
            "choose another with --out."
        )


@dataclass(frozen=True, slots=True)
class Filtered(TextCell):
    """A filter of Learn2PD that is trained, in the folder runs/NAME."""

    run: LearnRun


@dataclass(frozen=True, slots=True)
class _Filtered:
    """The result of a `Filtered`."""

    parameters: Count
    accuracy: float
    """On validation problems, with a threshold of one half."""


@dataclass(frozen=True, slots=True)
class Tuned(TextCell):
    """A rule that is tuned on validation problems of a task, and measured on test problems; the label has both."""

    checkpoint: str
    task: str
    policies: tuple[str, ...]
    """The grid: policies, each with all values of its knob in all block sizes."""
    blocks: tuple[str, ...]
    budget: Count
    """Settings that are tried on the validation problems: evenly spaced ones of the grid if that has more."""
    valid: Count
    """Validation problems, drawn with `seed`."""
    tests: Count
    training: str | None = None
    """Name of the training whose folder stands for FOLDER in the policies; without policies, its policy is tuned."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The training, if it is of one."""
        return () if self.training is None else (self.training,)


@dataclass(frozen=True, slots=True)
class _Tuned:
    """The result of a `Tuned`."""

    length: Count
    tried: Count
    rows: list[dict[str, Any]]
    """The outcomes on the test problems of the settings that were kept."""


RULE_CELLS: dict[str, type[TextCell]] = {"filtered": Filtered, "tuned": Tuned}
RULE_RESULTS: dict[str, type[Any]] = {"filtered": _Filtered, "tuned": _Tuned}


def train_filter(cell: Filtered, folder: Path) -> dict[str, Any]:
    """Train a filter from the newest checkpoint, if there is one. Raises KeyboardInterrupt after an interrupt."""
    from contextlib import closing

    from unmask.disk.folders import latest
    from unmask.rl.loop import fit
    from unmask.rl.session import open_learning
    from unmask.run.loop import Listener

    class Log(Listener[Any, Any]):
        """Prints the sentences of the training."""

        def message(self, text: str) -> None:
            show(text)

    require_plain(folder)
    out, resume = (folder, None) if latest(folder) is None else (None, folder)
    with closing(open_learning(cell.run, out=out, resume=resume)) as session:
        result, _ = fit(session.learner, Log())
    if result.reason == "interrupted":
        raise KeyboardInterrupt
    return {"parameters": sum(p.numel() for p in session.learner.params), "accuracy": result.merit}


def tune(cell: Tuned, record: Path, runs: Path) -> dict[str, Any]:
    """A cell, the folder of its outcomes, with which it goes on after a stop, and that of all trainings -> the
    outcomes of the settings that were kept."""
    import numpy as np

    from unmask.solve.pareto import pareto
    from unmask.solve.problems import most_holes
    from unmask.solve.settings import block_sizes, settings_of

    bench, arguments = bench_of(cell.checkpoint, cell.task, "valid", cell.valid, cell.seed)
    length = most_holes(bench.problems)
    trained = str((runs / (cell.training or "")).absolute())
    policies = [text.replace(_FOLDER, trained) for text in cell.policies or (f"learned:from={_FOLDER}",)]
    settings = settings_of(policies, block_sizes(cell.blocks, length), length)
    if len(settings) > cell.budget:
        settings = [settings[round(at)] for at in np.linspace(0, len(settings) - 1, cell.budget)]
    tried = outcomes_of_sweep(bench, arguments, settings, record / "valid.jsonl")
    best = pareto(np.array([o.mean_passes for o in tried]), np.array([o.accuracy for o in tried]))
    bench, arguments = bench_of(cell.checkpoint, cell.task, "test", cell.tests, _TEST_SEED)
    kept = outcomes_of_sweep(bench, arguments, [tried[at].setting for at in best], record / "test.jsonl")
    rows = [asdict(outcome) for outcome in kept]
    for row in rows:
        row["setting"]["policy"] = row["setting"]["policy"].replace(trained, _FOLDER)
    return {"length": most_holes(bench.problems), "tried": len(tried), "rows": rows}


def bench_of(checkpoint: str, task: str, split: str, count: int, seed: int) -> "tuple[Bench, dict[str, Any]]":
    """A denoiser, a task and a split -> its problems, and the arguments that name them in a record."""
    from unmask.solve.sweep import open_bench

    arguments: dict[str, Any] = {
        "checkpoint": checkpoint,
        "task": task,
        "split": split,
        "count": count,
        "seed": seed,
    }
    arguments |= {"temperature": 0.0, "device": "cpu"}
    return open_bench(**arguments), arguments


def outcomes_of_sweep(bench: "Bench", arguments: dict[str, Any], settings: list[Any], record: Path) -> "list[Outcome]":
    """Settings -> their outcomes in the same order; those that `record` has are not computed again."""
    from unmask.solve.sweep import stamps, sweep

    record.parent.mkdir(parents=True, exist_ok=True)
    stamp, done = stamps(arguments["checkpoint"], arguments["task"]), dict[str, Any]()
    for outcome in sweep(lambda **_: bench, arguments, settings, workers=1, record=record, stamp=stamp):
        done[outcome.setting.key] = outcome
        show(f"{arguments['split']}: {len(done)} of {len(settings)}: {outcome.setting.key}")
    return [done[setting.key] for setting in settings]


# ---- report ----------------------------------------------------------------------------------------------------------

_ABOUT = f"""\
Each rule has the same number of settings on the same validation problems, with its other options among them; those that
no other one dominates there are measured on fresh test problems, once. Hypervolume: the area under the best accuracy at
no more than a number of passes, over log2 passes from 1 to L. AUP: accuracy in percent times tokens a pass, where what
is below the best of all rules counts little. Intervals: 95 %, 400 resamples of the test problems; differences from
`{_REFERENCE}` are paired. Row-passes count the candidates of rules that look ahead; the hypervolume by row-passes is of
the same settings, which were chosen by passes."""


def rule_sections(done: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[list[str]]:
    """The results of the `Tuned` cells, by label and seed -> the lines of a section for each task, and the picture."""
    tasks = [[f"## {task}", "", _ABOUT, "", *_table(rules)] for task, rules in _by_task(done).items()]
    return [*tasks, ["![accuracy against passes](rules.png)"]] if tasks and can_draw() else tasks


def _by_task(done: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Results by label, "RULE on TASK", and seed -> by task and rule, of the first seed."""
    tasks: dict[str, dict[str, Mapping[str, Any]]] = {}
    for label, results in done.items():
        rule, _, task = label.partition(" on ")
        tasks.setdefault(task, {})[rule] = next(iter(results.values()))
    return tasks


def _read(result: Mapping[str, Any]) -> "list[Outcome]":
    from unmask.solve.settings import Setting
    from unmask.solve.sweep import Outcome

    return [
        Outcome(Setting(**row["setting"]), row["scores"], row["passes"], row["seconds"], row["row_passes"])
        for row in result["rows"]
    ]


def _table(rules: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The results of a task by rule -> a row for each rule, the one with the largest hypervolume first."""
    from unmask.eval.frontier import compare, frontier

    outcomes = {rule: _read(result) for rule, result in rules.items()}
    every = [outcome for rule in outcomes.values() for outcome in rule]
    rows: list[tuple[float, list[str]]] = []
    for rule, own in outcomes.items():
        length = int(rules[rule]["length"])
        front = frontier(own, length, beside=every)
        difference = ""
        if _REFERENCE in outcomes and rule != _REFERENCE:
            compared = compare(own, outcomes[_REFERENCE], length)
            difference = f"{compared.difference:+.3f} {_span(compared.difference_95, '+.3f')}"
        n = front.best[-1]
        passes = f"{front.passes[n]:.1f} ({own[n].mean_row_passes:.1f})"
        counted = [replace(outcome, passes=outcome.row_passes or outcome.passes) for outcome in own]
        areas = [f"{front.hypervolume:.3f} {_span(front.hypervolume_interval)}", difference]
        areas.append(f"{frontier(counted, length).hypervolume:.3f}")
        areas.append(f"{front.aup:.0f} {_span(front.aup_interval, '.0f')}")
        best = f"{front.accuracy[n]:.3f} {_span((front.interval[n][0], front.interval[n][1]))}"
        tried = f"{len(own)} of {rules[rule]['tried']}"
        rows.append((front.hypervolume, [rule, tried, *areas, best, passes, own[n].setting.key]))
    head = ("rule", "kept", "hypervolume [95 %]", f"minus {_REFERENCE}", "by row-passes", "AUP [95 %]")
    order = sorted(rows, key=lambda row: -row[0])
    return markdown_table((*head, "best accuracy [95 %]", "passes (row-passes)", "at"), [row for _, row in order])


_HIDING = """\
Hypervolume of the policy that hides again minus that of others, on the same test problems, with the paired interval.
The setting that writes everything in one pass is in all sets if it is in any."""


def hiding_section(done: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[str]:
    """The results of the `Tuned` cells, by label and seed -> the lines of a section, if a policy that hides is among
    them: for each task and seed its difference from the policy that hides nothing, and from the rules that hide."""
    from unmask.eval.frontier import compare, one_pass

    others, rows = ("saber", "rcr", "p2", "wino"), list[list[str]]()
    for task, rules in _by_task(done).items():
        point = one_pass([outcome for result in rules.values() for outcome in _read(result)])
        for name, result in rules.items():
            if not name.startswith(HIDING):
                continue
            seed, cells = name.removeprefix(HIDING), list[str]()
            for rival in (f"{PLAIN}{seed}", *others):
                if rival not in rules:
                    cells.append("not measured")
                    continue
                compared = compare(_read(result), _read(rules[rival]), int(result["length"]), point=point)
                cells.append(f"{compared.difference:+.3f} {_span(compared.difference_95, '+.3f')}")
            rows.append([task, seed, *cells])
    head = ("task", "seed", "minus the policy without", *(f"minus {name}" for name in others))
    return ["## Hiding again", "", _HIDING, "", *markdown_table(head, rows)] if rows else []


def _span(values: tuple[float, float], form: str = ".3f") -> str:
    return f"[{values[0]:{form}}, {values[1]:{form}}]"


def draw_rules(done: Mapping[str, Mapping[int, Mapping[str, Any]]], path: Path) -> None:
    """Draw accuracy against passes of the kept settings, a panel for each task; nothing without results."""
    from unmask.plots import distinct_colors, new_figure, save_figure

    tasks = _by_task(done)
    if not tasks or not can_draw():
        return
    names = list(dict.fromkeys(rule for rules in tasks.values() for rule in rules))
    colors = dict(zip(names, distinct_colors(len(names)), strict=True))
    figure = new_figure(5.6 * len(tasks) + 4.0, 5.0)
    panels, handles = figure.subplots(1, len(tasks), squeeze=False, sharey=True).flatten(), dict[str, Any]()
    for panel, (task, rules) in zip(panels, tasks.items(), strict=True):
        for number, (rule, result) in enumerate(rules.items()):
            points = sorted((outcome.mean_passes, outcome.accuracy) for outcome in _read(result))
            mark = "osv^D*XP"[number % 8]
            xs, ys = zip(*points, strict=True)
            (handles[rule],) = panel.plot(xs, ys, "-", marker=mark, ms=4, lw=0.9, color=colors[rule], label=rule)
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.set_ylim(-0.02, 1.02)
        panel.set_xlabel("forward passes per problem")
        panel.set_ylabel("accuracy on test problems")
        panel.set_title(task)
        panel.grid(alpha=0.25)
    look: dict[str, Any] = {"ncols": 1 + (len(handles) > 15), "fontsize": 8, "frameon": False}
    figure.legend(list(handles.values()), list(handles), loc="outside right center", **look)
    save_figure(path, figure)
