"""Results about masked diffusion on text -> the report of each question, with its claims and a picture."""

__all__ = ["draw_pictures", "judged", "report_parts", "write_text_report"]

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from unmask.output import markdown_table
from unmask.plots import can_draw
from unmask.reproduce.dna import Composition, Probed, dna_sections, draw_composition
from unmask.reproduce.general import Swept
from unmask.reproduce.general_report import draw_general, general_sections
from unmask.reproduce.generation_report import by_label, draw, sections
from unmask.reproduce.holes import Spanned, draw_lengths, hole_figures, hole_section
from unmask.reproduce.masks import MaskProbed, draw_masks, mask_figures, mask_section
from unmask.reproduce.publish import write_files
from unmask.reproduce.representations import Classified, accuracies, representation_section
from unmask.reproduce.results import Record
from unmask.reproduce.rules import Tuned, draw_rules, rule_sections
from unmask.reproduce.soft import Solved, puzzle_section, rates_solved, scalar_section
from unmask.reproduce.text import Bounded, Claim, Fit, Spread, TextQuestion

_T_95 = (math.nan, 12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # two-sided, by degrees of freedom
_FAST = "**A fast run: a minute of training for each model. Its figures mean nothing.**"
_BOUNDS = """\
Nats a token on held-out text, less is better: an exact value for AR, an upper bound for the others. The mean over
seeds of the training, and the standard deviation between them; in brackets the standard error of the last seed. Bits
per byte are of the raw text, and comparable between tokenizers. Rows are cut from documents one after another, without
context before a row; EOS after a document counts as a token of no bytes."""
_CLAIMS = """\
The difference is that of the same seeds, higher minus lower, with its 95 % interval over seeds (Student's t). A claim
is held or refuted where the interval does not contain 0 (or minus the margin that the claim states); with a single seed
nothing is decided."""
_VALIDATION = """\
Nats a token on the validation rows, which no bound above reads, during the trainings: the mean over seeds. Where there
are several learning rates for an objective, the best is bold."""
_SPREADS = """\
One draw of the bound of a sequence, nats a token, with uniform times: the mean, with its standard error over sequences,
and the variance between draws of the same sequence."""


def write_text_report(plan: TextQuestion, records: dict[str, Record], folder: Path, changed: str | None = None) -> None:
    """Write the report of a question, and of the parts of a question that has parts; every cell is in it.

    With the name of the only cell that changed since the last report, only the parts that have this cell are written.
    """
    path = folder / plan.name
    for part in plan.parts:
        if changed is None or any(cell.name == changed for cell in part.cells):
            write_text_report(part, records, folder)
    if not plan.parts:  # a union has cells of several pictures
        draw_pictures(plan, records, path)
    text = "\n\n".join("\n".join(lines) for lines in report_parts(plan, records) if lines) + "\n"
    verdicts = [verdict.facts(claim) for claim, verdict in judged(plan, records)]
    write_files(plan, records, path, text, _csv(plan, records), verdicts)


def draw_pictures(plan: TextQuestion, records: dict[str, Record], path: Path) -> None:
    """A question and its results -> the pictures of its report, in the folder `path`."""
    draw(plan, records, path)
    if can_draw():
        draw_masks(by_label(plan, records, MaskProbed), path)
    draw_composition(by_label(plan, records, Composition), path / "kmers.png")
    draw_general(by_label(plan, records, Swept), path)
    draw_rules(by_label(plan, records, Tuned), path / "rules.png")
    draw_lengths(by_label(plan, records, Spanned), path / "lengths.png")


def report_parts(plan: TextQuestion, records: dict[str, Record]) -> list[list[str]]:
    """A question -> the parts of its report, as lines; those of a question that has parts are its claims and states."""
    states = [[cell.name, records[cell.name].state, records[cell.name].reason] for cell in plan.cells]
    if plan.parts:
        reports = [f"- [{part.name}](../{part.name}/report.md): {part.about}" for part in plan.parts]
        return [[f"# {plan.name}", "", plan.about], reports, _claims(plan, records)]
    return [
        [f"# {plan.name}", "", plan.about],
        [_FAST] if plan.options.scale == "fast" else [],
        _bounds(plan, records),
        _claims(plan, records),
        _spreads(plan, records),
        *sections(plan, records),
        dna_sections(by_label(plan, records, Composition), by_label(plan, records, Probed)),
        mask_section(by_label(plan, records, MaskProbed)),
        hole_section(by_label(plan, records, Spanned)),
        representation_section(by_label(plan, records, Classified)),
        *rule_sections(by_label(plan, records, Tuned)),
        *general_sections(by_label(plan, records, Swept)),
        puzzle_section(by_label(plan, records, Solved)),
        scalar_section(by_label(plan, records, Fit)),
        _validations(plan, records),
        _fits(plan, records),
        ["## Cells", "", *markdown_table(("cell", "state", "reason"), states)],
    ]


def _nats(results: dict[int, dict[str, Any]]) -> list[float]:
    return [result["bound"]["nats_per_token"] for result in results.values()]


def _spread_of(values: Sequence[float]) -> str:
    """The mean and the standard deviation of the values of the seeds."""
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else " (one seed)")


def _bounds(plan: TextQuestion, records: dict[str, Record]) -> list[str]:
    """A row for each label: nats, perplexity, tokens and seeds."""
    rows: list[list[str]] = []
    twice: list[str] = []
    for label, results in by_label(plan, records, Bounded).items():
        last = list(results.values())[-1]["bound"]
        error = f"{last['stderr']:.4f}" if last["stderr"] is not None else "none"
        perplexity = mean(math.exp(value) for value in _nats(results))
        bits = [result["bound"].get("bits_per_byte") for result in results.values()]
        of_bytes = "" if None in bits else _spread_of(bits)
        cells = [f"{_spread_of(_nats(results))} ({error})", f"{perplexity:.2f}", of_bytes, f"{last['tokens']:,}"]
        rows.append([label, *cells])
        twice += [label] if last.get("two_pass") else []
    if not rows:
        return []
    return [
        "## Bounds",
        "",
        _BOUNDS,
        *([f"Of a model in two passes, and not of the one that decodes: {'; '.join(twice)}."] if twice else []),
        "",
        *markdown_table(("model", "nats/token", "perplexity", "bits/byte", "tokens"), rows),
    ]


def _claims(plan: TextQuestion, records: dict[str, Record]) -> list[str]:
    """The table of the claims, of all parts where there are some."""
    rows = [[claim.text, verdict.difference, verdict.verdict] for claim, verdict in judged(plan, records)]
    if not rows:
        return []
    return ["## Claims", "", _CLAIMS, "", *markdown_table(("claim", "difference [95 %]", "verdict"), rows)]


class _Verdict(NamedTuple):
    """A claim that was looked at: the difference of the figures, and what follows."""

    mean: float | None
    half: float | None
    """Half the width of the 95 % interval."""
    seeds: int
    verdict: str

    @property
    def difference(self) -> str:
        """The mean with its interval."""
        if self.mean is None:
            return ""
        span = f" [{self.mean - self.half:+.4f}, {self.mean + self.half:+.4f}]" if self.half is not None else ""
        return f"{self.mean:+.4f}{span}"

    def facts(self, claim: Claim) -> dict[str, Any]:
        """The claim and the verdict as JSON values."""
        return {"claim": claim.text} | self._asdict()


def judged(plan: TextQuestion, records: dict[str, Record]) -> list[tuple[Claim, _Verdict]]:
    """A question -> its claims and those of its parts, each with its verdict."""
    bounds = by_label(plan, records, Bounded)
    own = {label: dict(zip(results, _nats(results), strict=True)) for label, results in bounds.items()}
    own |= accuracies(by_label(plan, records, Classified)) | mask_figures(by_label(plan, records, MaskProbed))
    own |= rates_solved(by_label(plan, records, Solved)) | hole_figures(by_label(plan, records, Spanned))
    verdicts = [(claim, _verdict(claim, own)) for claim in plan.claims]
    return verdicts + [each for part in plan.parts for each in judged(part, records)]


def _verdict(claim: Claim, results: dict[str, dict[int, float]]) -> _Verdict:
    """A claim, and figures by label and seed -> the difference with its interval, and whether it is held."""
    low, high = results.get(claim.lower, {}), results.get(claim.higher, {})
    seeds = sorted(low.keys() & high.keys())
    if not seeds:
        return _Verdict(None, None, 0, "not run")
    differences = [high[seed] - low[seed] for seed in seeds]
    if len(seeds) < 2:
        return _Verdict(differences[0], None, 1, "undecided: one seed")
    half = _T_95[min(len(seeds) - 1, len(_T_95) - 1)] * stdev(differences) / math.sqrt(len(seeds))
    middle = mean(differences)
    above = middle + claim.margin
    verdict = "held" if above > half else "refuted" if above < -half else "undecided"
    return _Verdict(middle, half, len(seeds), verdict)


def _spreads(plan: TextQuestion, records: dict[str, Record]) -> list[str]:
    rows = [
        [label, f"{result['mean']:.4f} ± {result['error']:.4f}", f"{result['variance']:.4f}"]
        for label, results in by_label(plan, records, Spread).items()
        for result in results.values()
    ]
    if not rows:
        return []
    return ["## Schedules", "", _SPREADS, "", *markdown_table(("schedule", "nats/token", "variance"), rows)]


def _validations(plan: TextQuestion, records: dict[str, Record]) -> list[str]:
    """The bounds on validation rows during the trainings, and which label of a group before " at " ends lowest."""
    results = by_label(plan, records, Fit)
    if not results:
        return []
    curves = {label: [dict(result["curve"]) for result in by_seed.values()] for label, by_seed in results.items()}
    steps = sorted(set.intersection(*(set(curve) for each in curves.values() for curve in each)))
    shown = list(dict.fromkeys(steps[len(steps) * part // 5 - 1] for part in range(1, 6) if len(steps) * part // 5))
    if not shown:
        return []
    best: dict[str, tuple[float, str]] = {}
    rows: list[list[str]] = []
    for label, each in curves.items():
        means = [mean(curve[step] for curve in each) for step in shown]
        group = label.partition(" at ")[0]
        best[group] = min(best.get(group, (math.inf, "")), (means[-1], label))
        rows.append([label, *(f"{value:.4f}" for value in means)])
    lowest = {label for _, label in best.values()}
    if len(lowest) < len(rows):  # rates: the best of each objective
        rows = [[f"**{label}**" if label in lowest else label, *rest] for label, *rest in rows]
    head = ("training", *(f"step {step}" for step in shown))
    return ["## Validation", "", _VALIDATION, "", *markdown_table(head, rows)]


def _fits(plan: TextQuestion, records: dict[str, Record]) -> list[str]:
    rows: list[list[str]] = []
    for cell in plan.cells:
        if isinstance(cell, Fit) and records[cell.name].state == "done":
            result = records[cell.name].result
            counts = [f"{result[name]:,}" for name in ("parameters", "steps", "tokens")]
            rows.append([cell.name, *counts, f"{result['seconds']:.0f}"])
    if not rows:
        return []
    head = ("training", "parameters", "steps", "tokens", "processor seconds")
    return ["## Trainings", "", *markdown_table(head, rows)]


def _csv(plan: TextQuestion, records: dict[str, Record]) -> str:
    """A line for each cell that is done, with its numbers by name; those of texts under each judge."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["cell", "label", "seed", "name", "value"])
    for cell in plan.cells:
        result = {name: value for name, value in records[cell.name].result.items() if name != "rows"}
        for name, value in _flat(result):
            table.writerow([cell.name, cell.label, cell.seed, name, value])
    return text.getvalue()


def _flat(record: dict[str, Any], before: str = "") -> Iterable[tuple[str, float]]:
    """A nested record -> the names of its numbers and their values."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        elif isinstance(value, int | float):
            yield f"{before}{name}", value
        elif isinstance(value, list | tuple):
            yield from _flat({str(at): item for at, item in enumerate(value)}, f"{before}{name}.")
