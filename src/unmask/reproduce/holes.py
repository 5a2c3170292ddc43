"""The cells of the question about the length of holes, their work, and the section of the report. Imports no torch.

A cell hides spans of held-out text, measures the bias of the model on other rows, and lets every rule choose a length.
"""

__all__ = [
    "HOLE_CELLS",
    "HOLE_RESULTS",
    "REFERENCE",
    "RULES",
    "Spanned",
    "draw_lengths",
    "hole_figures",
    "hole_section",
    "measure_spans",
]

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from unmask.output import markdown_table, show
from unmask.ranges import Count, Draws, Natural
from unmask.reproduce.text import TextCell

if TYPE_CHECKING:
    from unmask.api import Model
    from unmask.data.packed import Packed

_Done = Mapping[str, Mapping[int, Mapping[str, Any]]]  # results by label and seed
REFERENCE = "likelihood"
RULES: tuple[str, ...] = ("cal", "cal, published bias", "cal, no bias", "lr-dllm")
"""The rules that are compared with the likelihood. The second has the bias that the paper measured on another model."""
_FIGURES = ("exact", "within 1", "recovered")


@dataclass(frozen=True, slots=True)
class Spanned(TextCell):
    """What each rule chooses for holes in the held-out part of the text of a bundled model."""

    checkpoint: str
    shortest: Count
    longest: Count
    """Tokens of a span, and of a hole."""
    size: Count
    """Tokens of a passage, its span included."""
    calibrated: Count
    """Rows for the bias of the model."""
    skip: Natural
    """Rows that are not measured: those for the bias, and those of other cells."""
    count: Count
    """Spans, each of another row."""
    draws: Draws
    policy: str
    """How the text of each length is decoded, at temperature 0."""


@dataclass(frozen=True, slots=True)
class _Spanned:
    """The result of a `Spanned`; `rows` has for each span its length, and by rule what it chose."""

    bias: dict[str, float]
    spans: list[dict[str, Any]]


HOLE_CELLS: dict[str, type[TextCell]] = {"spanned": Spanned}
HOLE_RESULTS: dict[str, type[Any]] = {"spanned": _Spanned}


# ---- work ------------------------------------------------------------------------------------------------------------


def measure_spans(cell: Spanned, text_of: Callable[["Model"], "Packed"], device: str, dtype: Any) -> dict[str, Any]:
    """A cell, and a function from a model to its held-out rows -> what each rule chose for each span."""
    from unmask.api import load
    from unmask.eval.holes import measure_bias, measure_rules, spans_of
    from unmask.fill.lengths import CAL, LRDLLM, Bias, LengthRule

    model = load(cell.checkpoint, device=device, dtype=dtype, threads=1)
    text, lengths = text_of(model), range(cell.shortest, cell.longest + 1)
    bias, points = measure_bias(model, spans_of(text, lengths, cell.size, count=cell.calibrated, seed=cell.seed))
    biases = (bias, Bias(1.0, 1.77, 0.56, 0.06, 0.24), Bias(0.0, 0.0, 0.0, 0.0, 1.0))
    rules: dict[str, LengthRule] = dict(zip(RULES, [*(CAL(each, wait=2) for each in biases), LRDLLM()], strict=True))
    rows: list[dict[str, Any]] = []
    spans = spans_of(text, lengths, cell.size, count=cell.count, skip=cell.skip, seed=cell.seed)
    for number, span in enumerate(spans):
        chosen, shares = measure_rules(model, span, lengths, rules, cell.policy, cell.draws, cell.seed)
        named = {rule: asdict(each) for rule, each in chosen.items()}
        rows.append({"length": len(span.tokens), "shares": list(shares.items()), "chosen": named})
        if number % 20 == 19:
            show(f"{number + 1} of {len(spans)} spans")
    return {"bias": asdict(bias), "confidence": {str(n): value for n, value in points.items()}, "spans": rows}


# ---- report ----------------------------------------------------------------------------------------------------------

_ABOUT = """\
A span of a held-out passage is hidden, and the rule chooses how many tokens the hole gets; then it is decoded at
temperature 0. Exact: the length is that of the span. Recovered: the longest common subsequence of the text in the hole
and the span, as a share of the longer of the two. Intervals: 95 %, over the spans of all seeds, which are of different
rows; differences are paired. Passes: of choosing a length, a row each; the likelihood decodes every length. "always"
needs no model, "right length" is what decoding itself loses. The bias of `cal` was measured on other held-out rows."""


def _rows(done: _Done) -> list[Mapping[str, Any]]:
    """Results by label and seed -> the spans of all of them."""
    return [row for results in done.values() for result in results.values() for row in result["spans"]]


def _values(row: Mapping[str, Any], rule: str, length: int) -> tuple[float, float, float]:
    """A span, a rule, and the length that it chose -> the figures of `_FIGURES`."""
    off = abs(length - row["length"])
    share = dict(map(tuple, row["shares"]))[length] if rule not in row["chosen"] else row["chosen"][rule]["recovered"]
    return float(off == 0), float(off <= 1), share


def _by_rule(rows: list[Mapping[str, Any]]) -> dict[str, list[tuple[float, float, float]]]:
    """Spans -> by rule, of each span, the figures; two that need no model among them."""
    figures = {
        rule: [_values(row, rule, row["chosen"][rule]["length"]) for row in rows] for rule in (REFERENCE, *RULES)
    }
    middle = sorted(length for length, _ in rows[0]["shares"])[(len(rows[0]["shares"]) - 1) // 2]
    figures[f"always {middle}"] = [_values(row, "", middle) for row in rows]
    figures["right length"] = [_values(row, "", row["length"]) for row in rows]
    return figures


def hole_figures(done: _Done) -> dict[str, dict[int, float]]:
    """Results by label and seed -> "RULE: FIGURE" by seed, for claims."""
    out: dict[str, dict[int, float]] = {}
    for results in done.values():
        for seed, result in results.items():
            for rule, values in _by_rule(result["spans"]).items():
                for name, column in zip(_FIGURES, zip(*values, strict=True), strict=True):
                    out.setdefault(f"{rule}: {name}", {})[seed] = mean(column)
    return out


def hole_section(done: _Done) -> list[str]:
    """Results by label and seed -> the lines of the report; none without results."""
    if not done:
        return []
    rows = _rows(done)
    by_rule = {rule: list(zip(*values, strict=True)) for rule, values in _by_rule(rows).items()}
    lines = [[rule, *_figures(rule, columns, by_rule[REFERENCE], rows)] for rule, columns in by_rule.items()]
    minus = f"minus {REFERENCE}"
    head = ["rule", *(text for name in _FIGURES for text in (name, minus)), "longer by", "passes"]
    count = f"{len(rows):,} spans of {min(r['length'] for r in rows)} to {max(r['length'] for r in rows)} tokens."
    table = markdown_table(head, lines)
    return ["## Lengths of holes", "", _ABOUT, "", count, "", "![lengths](lengths.png)", "", *table]


def _figures(
    rule: str, columns: list[tuple[float, ...]], reference: list[tuple[float, ...]], rows: list[Mapping[str, Any]]
) -> list[str]:
    """A rule, its figures and those of the likelihood, by figure and span -> the cells of its row in the table."""
    cells: list[str] = []
    for own, base in zip(columns, reference, strict=True):
        pairs = [a - b for a, b in zip(own, base, strict=True)]
        cells += [_interval(own), "" if rule == REFERENCE else _interval(pairs, "+.3f")]
    if rule not in rows[0]["chosen"]:
        return [*cells, "", ""]
    off, passes = (mean(row["chosen"][rule][name] for row in rows) for name in ("length", "passes"))
    return [*cells, f"{off - mean(row['length'] for row in rows):+.1f}", f"{passes:.0f}"]


def _interval(values: Sequence[float], form: str = ".3f") -> str:
    """Values of the spans -> their mean, with its 95 % interval."""
    half = 1.96 * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{mean(values):{form}} [{mean(values) - half:{form}}, {mean(values) + half:{form}}]"


def draw_lengths(done: _Done, path: Path) -> None:
    """Draw the mean length that each rule chose against that of the span; nothing without results."""
    from unmask.plots import can_draw, new_figure, save_figure

    if not done or not can_draw():
        return
    rows, figure = _rows(done), new_figure(6.5, 4.5)
    panel, lengths = figure.subplots(), sorted({row["length"] for row in rows})
    for rule in (REFERENCE, *RULES):
        means = [mean(r["chosen"][rule]["length"] for r in rows if r["length"] == length) for length in lengths]
        panel.plot(lengths, means, "o-", ms=4, lw=1, label=rule)
    panel.plot(lengths, lengths, "--", lw=1, color="gray", label="right")
    panel.set_xlabel("tokens of the span")
    panel.set_ylabel("mean tokens of the hole")
    panel.grid(alpha=0.25)
    panel.legend(frameon=False)
    save_figure(path, figure)
