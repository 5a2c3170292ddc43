"""The files of a report: report.md, table.csv, results.json and index.html; and the hours that the rest takes."""

__all__ = ["FILES", "hours", "write_files"]

import base64
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unmask.config import library_versions, to_dict
from unmask.disk.files import atomic_text
from unmask.reproduce.plan import Blocked, Cell, Heuristics, Measured, Plan, Training, cell_type
from unmask.reproduce.results import Record
from unmask.reproduce.text import Fit

FILES = ("report.md", "table.csv", "results.json", "index.html")
"""What every folder of a report has, beside pictures."""
_STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums; }
td, th { border: 1px solid #ccc; padding: .25em .7em; text-align: left; }
th { background: #f2f2f2; }
img { max-width: 100%; }
"""
_SECONDS = {
    "fit": 110.0,
    "solved": 100.0,
    "bounded": 25.0,
    "spread": 40.0,
    "wrote": 25.0,
    "judged": 60.0,
    "diverged": 120.0,
    "lengthened": 60.0,
    "raced": 60.0,
    "composition": 45.0,
    "probed": 30.0,
    "classified": 120.0,
    "tuned": 90.0,
    "training": 300.0,
    "heuristics": 1500.0,
    "measured": 90.0,
    "timed": 120.0,
    "passtimed": 30.0,
    "policied": 700.0,
    "swept": 200.0,
    "filtered": 150.0,
    "maskprobed": 30.0,
    "spanned": 400.0,
}
"""Of a cell of `mdlm-...` at the full scale, on a processor of the machine of docs/results.md; a first estimate until
the folder has a cell of the class."""


def write_files(
    plan: Plan, records: Mapping[str, Record], path: Path, markdown: str, table: str, claims: Any = ()
) -> None:
    """A plan, the records of its cells, a folder and the report -> the files of the folder, each written atomically.

    results.json has what was asked, the claims, and of each cell its settings, state, seconds, versions and result.
    index.html is the report with its pictures inside.
    """
    facts = {
        "question": plan.name,
        "about": plan.about,
        "options": to_dict(plan.options),
        "versions": library_versions(),
        "claims": claims,
        "cells": {cell.name: _facts(cell, records[cell.name]) for cell in plan.cells},
    }
    atomic_text(path / "report.md", markdown)
    atomic_text(path / "table.csv", table)
    atomic_text(path / "results.json", json.dumps(facts, indent=1, allow_nan=False) + "\n")
    atomic_text(path / "index.html", _page(plan.name, markdown, path))


def _facts(cell: Cell, record: Record) -> dict[str, Any]:
    """A cell and its record -> JSON values; scores of every problem and tokens of texts are in the file of the cell."""
    type_name = "blocked" if isinstance(cell, Blocked) else cell_type(cell)
    result = {name: value for name, value in record.result.items() if name != "rows"}
    file = {"file": f"../cells/{cell.name}.json"}
    if "outcomes" in record.result:
        result = file
    elif "rows" in record.result:
        result |= file
    return {"type": type_name, "cell": to_dict(cell), **to_dict(record), "result": result}


def _page(title: str, markdown: str, folder: Path) -> str:
    """A report in Markdown -> an HTML page; pictures in `folder` are part of it."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)

    def inside(match: re.Match[str]) -> str:
        file = folder / match[1]
        if not file.is_file():
            return match[0]
        return f'src="data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"'

    body = re.sub(r'src="([\w.-]+\.png)"', inside, body)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def hours(plan: Plan, records: Mapping[str, Record]) -> tuple[float, float | None]:
    """A plan and the records of its cells -> processor hours of those done, and an estimate for the rest.

    A cell is expected to take the mean of those of its class that are done, a training in proportion to its tokens. The
    estimate is None where nothing is known of a class.
    """
    spent: dict[str, tuple[float, float]] = {}
    for cell in plan.cells:
        if (record := records[cell.name]).state == "done":
            seconds, size = spent.get(cell_type(cell), (0.0, 0.0))
            spent[cell_type(cell)] = (seconds + record.seconds, size + _size(cell))
    total, left = sum(seconds for seconds, _ in spent.values()), 0.0
    for cell in plan.cells:
        if records[cell.name].state in ("done", "blocked"):
            continue
        name, size = cell_type(cell), _size(cell)
        if name in spent:
            left += spent[name][0] / spent[name][1] * size
        elif name in _SECONDS:
            left += _SECONDS[name] * size / _FULL.get(name, 1)
        else:
            return total / 3600, None
    return total / 3600, left / 3600


_FULL = {"fit": 1000 * 16 * 128, "training": 250, "heuristics": 1024 * 4, "measured": 1024}  # what `_SECONDS` is for


def _size(cell: Any) -> float:
    """A cell -> its work in a unit of its class: tokens or rounds of a training, problems of a sweep, else 1."""
    if isinstance(cell, Training):
        return cell.run.learn.rounds
    if isinstance(cell, Heuristics | Measured):
        return cell.arena.count * (len(cell.blocks) if isinstance(cell, Heuristics) else 1)
    if not isinstance(cell, Fit):
        return 1.0
    train = cell.run.train
    return (train.steps or 0) * train.batch * cell.run.data.length
