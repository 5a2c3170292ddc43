"""Results about written texts -> the sections of a report, and its pictures."""

__all__ = ["by_label", "draw", "sections"]

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from unmask.output import markdown_table
from unmask.plots import can_draw, new_figure, save_figure
from unmask.reproduce.results import Record
from unmask.reproduce.text import Judged, TextQuestion, Wrote

_WRITTEN = """\
Perplexity under each judge, and beside it the entropy of single tokens within a text, in nats. Means over the seeds of
the training. The last row is that of held-out texts. Passes are those of a text, seconds are of the processor, one
thread, for all texts of a setting."""


def by_label(plan: TextQuestion, records: dict[str, Record], cls: type[Any]) -> dict[str, dict[int, dict[str, Any]]]:
    """The results of the cells of a class that are done: label -> seed -> result."""
    done: dict[str, dict[int, dict[str, Any]]] = {}
    for cell in plan.cells:
        if isinstance(cell, cls) and records[cell.name].state == "done":
            done.setdefault(cell.label, {})[cell.seed] = dict(records[cell.name].result)
    return done


def sections(plan: TextQuestion, records: dict[str, Record]) -> list[list[str]]:
    """Results -> the lines of each section about written texts that has results."""
    return [lines for lines in (_written(plan, records),) if lines]


def _written(plan: TextQuestion, records: dict[str, Record]) -> list[str]:
    """A row for each setting, and one for the held-out texts: perplexities, variety, passes and seconds."""
    others = by_label(plan, records, Judged)
    names = dict.fromkeys(name for results in others.values() for r in results.values() for name in r["written"])
    rows: list[list[str]] = []
    real: list[dict[str, Any]] = []
    for label, results in by_label(plan, records, Wrote).items():
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
    picture = "![perplexity against seconds and entropy](frontier.png)"
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


# ---- pictures --------------------------------------------------------------------------------------------------------


def draw(plan: TextQuestion, records: dict[str, Record], folder: Path) -> None:
    """Write the pictures of what there are results of, if matplotlib is there."""
    if can_draw() and by_label(plan, records, Wrote):
        _draw_frontier(plan, records, folder / "frontier.png")


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
        style: dict[str, Any] = {"color": f"C{number % 10}", "marker": "osDv^Px*"[number % 8], "lw": 0.9, "ms": 5}
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
    for panel in (left, right):
        panel.grid(alpha=0.25)
    figure.suptitle(f"{plan.name}{' (fast: means nothing)' if plan.options.scale == 'fast' else ''}")
    figure.legend(loc="outside right center", frameon=False)
    save_figure(path, figure)
