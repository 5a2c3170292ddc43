"""Results about written texts -> the sections of a report, and its pictures."""

__all__ = ["by_label", "draw", "sections"]

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from unmask.output import markdown_table
from unmask.plots import can_draw, new_figure, plain_ticks, save_figure
from unmask.reproduce.plan import Plan
from unmask.reproduce.results import Record
from unmask.reproduce.text import Diverged, Judged, Lengthened, Raced, TextCell, TextQuestion, Wrote

_WRITTEN = """\
Perplexity under each judge, and beside it the entropy of single tokens within a text, in nats. Means over the seeds of
the training. The last row is that of held-out texts. Passes are those of a text, seconds are of the processor, one
thread, for all texts of a setting."""

_MAUVE = """\
How alike written and held-out texts are (arXiv:2102.01454): 1 for equal distributions. Features are the mean hidden
states of the AR model, k = {clusters} clusters, c = 5, one seed. The last row compares two sets of held-out texts."""
_LENGTHS = """\
Measures of what the texts have in a window, without the windows before it; `so far` is the share of 4-grams from the
beginning to there that occurred before. Passes and processor seconds (one thread, all texts) are those up to the end of
the window. Held-out texts are consecutive rows."""


def by_label(plan: Plan, records: Mapping[str, Record], cls: type[Any]) -> dict[str, dict[int, dict[str, Any]]]:
    """The results of the cells of a class that are done: label -> seed -> result."""
    done: dict[str, dict[int, dict[str, Any]]] = {}
    for cell in plan.cells:
        if isinstance(cell, TextCell) and isinstance(cell, cls) and records[cell.name].state == "done":
            done.setdefault(cell.label, {})[cell.seed] = dict(records[cell.name].result)
    return done


def sections(plan: TextQuestion, records: dict[str, Record]) -> list[list[str]]:
    """Results -> the lines of each section about written texts that has results."""
    return [lines for lines in (_written(plan, records), _mauve(plan, records), _lengths(plan, records)) if lines]


def _written(plan: TextQuestion, records: dict[str, Record]) -> list[str]:
    """A row for each setting, and one for the held-out texts: perplexities, variety, passes and seconds."""
    others = by_label(plan, records, Judged)
    names = dict.fromkeys(name for results in others.values() for r in results.values() for name in r["written"])
    rows: list[list[str]] = []
    real: list[dict[str, Any]] = []
    for label, results in (by_label(plan, records, Wrote) | by_label(plan, records, Raced)).items():
        each, extra = list(results.values()), list(others.get(label, {}).values())
        passes, seconds = (mean(result[name] for result in each) for name in ("passes", "seconds"))
        measures = _measures([r["written"] for r in each], [r["written"] for r in extra], names)
        rows.append([label, *measures, f"{passes:.1f}", f"{seconds:.1f}"])
        real = real or [r["held_out"] for r in each]
    if not rows:
        return []
    extra = [result["held_out"] for results in others.values() for result in results.values()][:1]
    rows.append(["held-out texts", *_measures(real, extra, names), "", ""])
    judges = [f"{name} perplexity" for name in ("3-gram", "AR", *names)]
    head = ("setting", *judges, "entropy", "distinct 2", "repetition", "words", "passes", "seconds")
    picture = "![perplexity and entropy](texts.png)"
    return ["## Texts", "", _WRITTEN, "", picture, "", *markdown_table(head, rows)]


def _measures(each: Sequence[dict[str, Any]], extra: Sequence[dict[str, Any]], names: Iterable[str]) -> list[str]:
    """The measures of a setting, a record for each seed, those under other judges -> their means as cells of a row."""
    first, second = zip(*(tuple(record.values()) for record in each), strict=True)
    by_judge = [first, second, *([record[name] for record in extra if name in record] for name in names)]
    perplexities = [f"{mean(m['perplexity'] for m in some):.1f}" if some else "not run" for some in by_judge]
    figures = [mean(m[name][0] for m in first) for name in ("entropy", "repetition")]
    words = [m["words"] for m in first if m["words"] is not None]
    distinct = mean(m["distinct"][1] for m in first)
    share = f"{mean(words):.3f}" if words else "none"
    return [*perplexities, f"{figures[0]:.2f}", f"{distinct:.3f}", f"{figures[1]:.3f}", share]


def _mauve(plan: TextQuestion, records: dict[str, Record]) -> list[str]:
    """A row for each sampler, and one for two sets of held-out texts."""
    results = {label: next(iter(each.values())) for label, each in by_label(plan, records, Diverged).items()}
    rows = [[label, f"{result['mauve']:.3f}", str(result["texts"])] for label, result in results.items()]
    if not rows:
        return []
    first = next(iter(results.values()))
    rows.append(["held-out texts", f"{first['held_out']:.3f}", str(first["texts"])])
    clusters = next(cell.clusters for cell in plan.cells if isinstance(cell, Diverged))
    about = _MAUVE.format(clusters=clusters)
    return ["## MAUVE", "", about, "", *markdown_table(("setting", "MAUVE", "texts of each set"), rows)]


def _windows(results: dict[int, dict[str, Any]], part: str) -> list[dict[str, float]]:
    """The results of the seeds -> the measures of each window, means over the seeds."""
    columns = zip(*(result[part] for result in results.values()), strict=True)
    return [{name: mean(window[name] for window in each) for name in each[0]} for each in columns]


def _lengths(plan: TextQuestion, records: dict[str, Record]) -> list[str]:
    """A row for each way of writing and each length of one, two, four and eight windows."""
    rows: list[list[str]] = []
    done = by_label(plan, records, Lengthened)
    for label, results in done.items():
        rows += _rows_of(label, _windows(results, "windows"))
    if not rows:
        return []
    rows += _rows_of("held-out texts", _windows(next(iter(done.values())), "held_out"))
    names = ("3-gram perplexity", "AR perplexity", "entropy", "repetition", "so far", "passes", "seconds")
    lines = markdown_table(("setting", "window", *names), rows)
    return ["## Texts of several windows", "", _LENGTHS, "", "![quality and time by window](length.png)", "", *lines]


def _rows_of(label: str, windows: Sequence[dict[str, float]]) -> list[list[str]]:
    rows: list[list[str]] = []
    for number in (n for n in (1, 2, 4, 8) if n <= len(windows)):
        w = windows[number - 1]
        measures = [f"{w['trigram']:.1f}", f"{w['judge']:.1f}", f"{w['entropy']:.2f}", f"{w['repetition']:.3f}"]
        spent = [f"{w['passes']:.0f}", f"{w['seconds']:.1f}"] if "seconds" in w else ["", ""]
        rows.append([label, str(number), *measures, f"{w['so_far']:.3f}", *spent])
    return rows


# ---- pictures --------------------------------------------------------------------------------------------------------


def draw(plan: TextQuestion, records: dict[str, Record], folder: Path) -> None:
    """Write the pictures of what there are results of, if matplotlib is there."""
    if not can_draw():
        return
    if by_label(plan, records, Raced):
        _draw_formats(plan, records, folder / "texts.png")
    elif by_label(plan, records, Wrote):
        _draw_frontier(plan, records, folder / "texts.png")
    if by_label(plan, records, Lengthened):
        _draw_lengths(plan, records, folder / "length.png")


_MARKS = "osDv^Px*<>hp"


def _draw_lengths(plan: TextQuestion, records: dict[str, Record], path: Path) -> None:
    """Draw perplexity, entropy and repetition of each window, and seconds, against the length in windows."""
    figure = new_figure(13.6, 8.4)
    panels = figure.subplots(2, 2, sharex=True).flatten()
    done = by_label(plan, records, Lengthened)
    lines = {label: _windows(results, "windows") for label, results in done.items()}
    lines["held-out texts"] = _windows(next(iter(done.values())), "held_out")
    titles = {"judge": "perplexity of the window under the AR judge", "entropy": "entropy in the window, nats"}
    titles |= {"so_far": "repeated 4-grams so far", "seconds": "processor seconds so far"}
    for panel, (name, title) in zip(panels, titles.items(), strict=True):
        for number, (label, windows) in enumerate(lines.items()):
            if name not in windows[0]:
                continue
            real = label == "held-out texts"
            color, style = ("black", "--") if real else (f"C{number}", ":" if "cached" in label else "-")
            values, places = [window[name] for window in windows], range(1, len(windows) + 1)
            mark = "" if real else _MARKS[number % len(_MARKS)]
            panel.plot(places, values, style, marker=mark, color=color, ms=5, lw=1, label=label)
        panel.set_ylabel(title)
        panel.grid(alpha=0.25)
    for panel in panels[2:]:
        panel.set_xlabel("windows of the model")
    handles, labels = panels[0].get_legend_handles_labels()
    _finish(plan, figure, path, handles, labels)


def _draw_formats(plan: TextQuestion, records: dict[str, Record], path: Path) -> None:
    """Draw entropy and perplexity against steps, for noise of each format and for our own sampler."""
    figure = new_figure(12.0, 4.8)
    left, right = figure.subplots(1, 2)
    results = by_label(plan, records, Raced) | by_label(plan, records, Wrote)
    lines: dict[str, list[tuple[int, float, float]]] = {}
    for cell in {cell.label: cell for cell in plan.cells if isinstance(cell, Raced | Wrote)}.values():
        each = [list(result["written"].values())[1] for result in results.get(cell.label, {}).values()]
        if each:
            name = f"Gumbel maximum in {cell.dtype}" if isinstance(cell, Raced) else "our sampler, float64"
            steps = cell.steps if isinstance(cell, Raced) else int(cell.policy.rpartition("=")[2])
            values = mean(m["entropy"][0] for m in each), mean(m["perplexity"] for m in each)
            lines.setdefault(name, []).append((steps, *values))
    for number, (name, points) in enumerate(sorted(lines.items())):
        steps, entropy, perplexity = zip(*sorted(points), strict=True)
        for panel, values in ((left, entropy), (right, perplexity)):
            panel.plot(steps, values, marker=_MARKS[number], color=f"C{number}", ms=5, lw=1, label=name)
    counts = sorted({steps for points in lines.values() for steps, *_ in points})
    for panel, title in (
        (left, "entropy of single tokens within a text, nats"),
        (right, "perplexity under the AR judge"),
    ):
        panel.set_xscale("log")
        panel.set_xticks(counts, labels=[str(count) for count in counts], minor=False)
        panel.set_xticks([], minor=True)
        panel.set_xlabel("steps T")
        panel.set_ylabel(title)
        panel.grid(alpha=0.25)
    _finish(plan, figure, path, *left.get_legend_handles_labels())


def _finish(plan: TextQuestion, figure: Any, path: Path, handles: Any, labels: Any) -> None:
    """The title and the legend of a picture, which is then written."""
    figure.suptitle(f"{plan.name}{' (fast: means nothing)' if plan.options.scale == 'fast' else ''}")
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    save_figure(path, figure)


class _Point(NamedTuple):
    """A setting of a sampler; means over seeds."""

    temperature: float
    seconds: float
    entropy: float
    perplexity: float
    """Under the AR judge."""


def _points(plan: TextQuestion, records: dict[str, Record]) -> dict[str, list[_Point]]:
    """Results -> the settings of each sampler."""
    lines: dict[str, list[_Point]] = {}
    results = by_label(plan, records, Wrote)
    for cell in {cell.label: cell for cell in plan.cells if isinstance(cell, Wrote)}.values():
        each = list(results.get(cell.label, {}).values())
        if each:
            measures = [list(result["written"].values())[1] for result in each]
            seconds, entropy = mean(result["seconds"] for result in each), mean(m["entropy"][0] for m in measures)
            point = _Point(cell.temperature, seconds, entropy, mean(m["perplexity"] for m in measures))
            lines.setdefault(cell.line, []).append(point)
    return lines


def _draw_frontier(plan: TextQuestion, records: dict[str, Record], path: Path) -> None:
    """Draw perplexity under the AR judge against seconds at temperature 1, and against entropy."""
    figure = new_figure(13.6, 5.2)
    left, right = figure.subplots(1, 2, sharey=True)
    for number, (name, points) in enumerate(_points(plan, records).items()):
        style: dict[str, Any] = {"color": f"C{number % 10}", "marker": _MARKS[number], "lw": 0.9, "ms": 5}
        warm = sorted((point for point in points if point.temperature == 1), key=lambda point: point.seconds)
        left.plot([p.seconds for p in warm], [p.perplexity for p in warm], label=name, **style)
        right.plot([p.entropy for p in warm], [p.perplexity for p in warm], **style)
        colder = sorted((point for point in points if point.temperature < 1), key=lambda point: -point.temperature)
        chain = [*warm[-1:], *colder]
        right.plot([p.entropy for p in chain], [p.perplexity for p in chain], color=style["color"], lw=0.9, ls=":")
        right.plot([p.entropy for p in colder], [p.perplexity for p in colder], **style, ls="", mfc="white")
    results = by_label(plan, records, Wrote).values()
    real = [list(result["held_out"].values())[1] for by_seed in results for result in by_seed.values()]
    perplexity, entropy = mean(m["perplexity"] for m in real), mean(m["entropy"][0] for m in real)
    left.axhline(perplexity, color="black", lw=0.8, ls="--", label="held-out texts")
    right.axhline(perplexity, color="black", lw=0.8, ls="--")
    right.plot([entropy], [perplexity], "k*", ms=13)
    left.set_xlabel("processor seconds for all texts of a setting, temperature 1")
    right.set_xlabel("entropy of single tokens within a text, nats\nfull: steps at temperature 1; white: colder")
    left.set_ylabel("perplexity under the AR judge")
    left.set_yscale("log")
    left.set_xscale("log")
    for axis in (left.xaxis, left.yaxis):
        plain_ticks(axis)
    for panel in (left, right):
        panel.grid(alpha=0.25)
    _finish(plan, figure, path, *left.get_legend_handles_labels())
