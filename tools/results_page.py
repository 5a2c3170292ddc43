"""Folders of `unmask reproduce` -> docs/results.md: the tables of the comparisons on text, none of them typed.

    python tools/results_page.py [FOLDER]

With a FOLDER (the --out of `unmask reproduce`), its results.json of each question replaces that in docs/results first,
and the pictures are drawn from it. The chapter between the two marks of the page is then written from docs/results.
"""

__all__ = ["chapter", "main", "write_page"]

import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from unmask.config import from_dict
from unmask.disk.files import atomic_text
from unmask.output import markdown_table
from unmask.reproduce.papers import PLACES
from unmask.reproduce.results import Record, is_same
from unmask.reproduce.text import TextOptions, TextQuestion
from unmask.reproduce.text_questions import QUESTIONS, plan_of
from unmask.reproduce.text_report import draw_pictures, judged, report_parts

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results.md"
KEPT = ROOT / "docs" / "results"
_WIDTH = 100  # characters of a line of a page
_LONG = ("tuned", "swept")
"""Classes of cells with the outcomes of every problem, which results.json leaves out: the report and its pictures are
kept as they were written."""
BEGIN, END = "<!-- comparisons: written by tools/results_page.py -->\n", "<!-- end of comparisons -->\n"


def main(words: list[str]) -> int:
    """The words after the command -> 0, after docs/results and the page were written."""
    for folder in map(Path, words):
        for name in QUESTIONS:
            if (folder / name / "results.json").is_file():
                _keep(folder / name, KEPT / name)
    atomic_text(PAGE, write_page(PAGE.read_text(encoding="utf-8")))
    return 0


def _keep(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / "results.json", target / "results.json")
    plan, records, facts = _read(target / "results.json")
    if any(cell["type"] in _LONG for cell in facts["cells"].values()):
        for file in (source / "report.md", *source.glob("*.png")):
            shutil.copyfile(file, target / file.name)
    else:
        draw_pictures(plan, records, target)


def write_page(page: str) -> str:
    """The text of the page -> the same with the chapter of what docs/results has."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + "\n" + chapter() + "\n" + rest[rest.index(END) :]


def chapter() -> str:
    """The Markdown of the chapter: claims, what was run, and the report of each question."""
    plans = {name: _read(KEPT / name / "results.json") for name in QUESTIONS if (KEPT / name).is_dir()}
    lines = ["### Claims of the paper", "", *_claims(plans), "", "### What was run", "", *_places(plans)]
    for plan, records, facts in plans.values():
        lines += ["", f"### {plan.name}", "", _of(plan, records, facts), *_sections(plan, records)]
    return "\n".join(lines) + "\n"


Kept = tuple[TextQuestion, dict[str, Record], dict[str, Any]]


def _read(file: Path) -> Kept:
    """results.json -> the plan, the records, and the file's facts. Raises SystemExit for cells of another recipe."""
    facts = json.loads(file.read_text(encoding="utf-8"))
    plan = plan_of(facts["question"], from_dict(TextOptions, facts["options"], str(file)))
    cells = facts["cells"]
    changed = [
        cell.name for cell in plan.cells if cell.name not in cells or not is_same(cell, cells[cell.name]["cell"])
    ]
    if changed:
        raise SystemExit(f"{file} has another recipe for {changed[0]}: run `unmask reproduce {plan.name}` again.")
    names = ("state", "reason", "seconds", "result", "versions")
    return plan, {name: Record(**{key: cell[key] for key in names}) for name, cell in cells.items()}, facts


def _claims(plans: dict[str, Kept]) -> list[str]:
    rows = [
        [claim.text, name, verdict.difference, verdict.verdict]
        for name, (plan, records, _) in plans.items()
        for claim, verdict in judged(plan, records)
    ]
    return markdown_table(("claim: the bound in nats a token is", "question", "difference [95 %]", "verdict"), rows)


def _places(plans: dict[str, Kept]) -> list[str]:
    """A row for each table and figure of the paper: the question, and what of it was run."""
    rows: list[list[str]] = []
    for place in PLACES:
        if place.question not in QUESTIONS:
            continue
        state = "not run"
        if place.question in plans:
            plan, records, _ = plans[place.question]
            done = [records[cell.name].seconds for cell in plan.cells if records[cell.name].state == "done"]
            state = f"{len(done)} of {len(plan.cells)} cells, {sum(done) / 60:.0f} minutes of a processor"
        rows.append([place.item, place.subject, place.question, state])
    return markdown_table(("place", "subject", "unmask reproduce ...", "run"), rows)


def _of(plan: TextQuestion, records: dict[str, Record], facts: dict[str, Any]) -> str:
    versions = next((r.versions for r in records.values() if r.versions), facts["versions"])
    scale = {"full": "--full", "fast": "--fast", "published": "--published"}[plan.options.scale]
    seeds = ", ".join(map(str, plan.options.seeds))
    text = f"{plan.about} `unmask reproduce {plan.name} {scale}`, seeds {seeds}, torch {versions['torch']}."
    done = sum(record.state == "done" for record in records.values())
    if done < len(plan.cells):
        text += f" **Not complete: {done} of {len(plan.cells)} cells.**"
    return "\n".join(_wrapped([text]))


def _sections(plan: TextQuestion, records: dict[str, Record]) -> list[str]:
    """The report without its title and its list of cells, headings two levels lower; pictures are in docs/results."""
    lines: list[str] = []
    for part in _parts(plan, records):
        if part and part[0] != "## Cells":
            lines += ["", *_wrapped(f"##{line}" if line.startswith("## ") else line for line in part)]
    return [line.replace("](", f"](results/{plan.name}/") if line.startswith("![") else line for line in lines]


def _parts(plan: TextQuestion, records: dict[str, Record]) -> list[list[str]]:
    """The parts of the report after its title, as lines: of the report that was kept, or made anew."""
    kept = KEPT / plan.name / "report.md"
    if not kept.is_file():
        return report_parts(plan, records)[1:]
    return [part.strip().splitlines() for part in re.split(r"\n(?=## )", kept.read_text(encoding="utf-8"))[1:]]


def _wrapped(lines: Iterable[str]) -> list[str]:
    """Lines -> the same, those of prose as wide as the pages are."""
    out: list[str] = []
    for prose, group in groupby("\n".join(lines).splitlines(), lambda line: line[:1] not in ("", "|", "#", "!")):
        some = list(group)
        out += textwrap.wrap(" ".join(some), _WIDTH, break_on_hyphens=False) if prose else some
    return out


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
