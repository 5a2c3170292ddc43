"""`unmask reproduce`: answer the questions of the two papers with experiments on this machine."""

__all__ = ["ReproduceArguments", "run"]

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from unmask.cli.common import OutputOptions, keeping, print_json, table
from unmask.cli.parse import Flat, Positional, parse, refuse, typed_options
from unmask.config import to_path
from unmask.errors import ConfigError
from unmask.output import note, show, show_text
from unmask.ranges import Threads
from unmask.reproduce import questions, text_questions
from unmask.reproduce.plan import Plan, QuestionOptions
from unmask.reproduce.text import TextOptions

_OF_POLICIES = {field.name for field in fields(QuestionOptions)} - {"seeds"}


@dataclass(frozen=True, slots=True)
class ReproduceArguments(QuestionOptions):
    """Answer a question of the two papers: train, measure on fresh data, and write tables and a plot.

    The folder holds the cells of all questions, each made once, and for each question a folder with report.md,
    table.csv and a picture, written again after each cell. Repeat the command to continue after a stop or a failure.
    Null results are printed like the others. --scale is for the questions mdlm-...; the other options but --seeds are
    for policies-....
    """

    name: Positional[str] = ""
    """The question; `--list` prints the questions, and with a name its cells and their states."""
    list: bool = False
    """Print the questions, or the cells of the named question, and end."""
    scale: Literal["small", "fast", "published"] = "small"
    """Sizes of the experiments of mdlm-...: for two cores, for a look at whether all works, or those of the paper."""
    out: str = "runs/reproduce"
    """The folder to write."""
    workers: Threads | None = None
    """Number of processes, each with one thread; by default one for each processor."""
    output: Flat[OutputOptions] = OutputOptions()


def run(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; runs the cells that are missing. 1: a cell failed; 128 + a signal."""
    args = parse(ReproduceArguments, argv, "reproduce")
    typed = typed_options(ReproduceArguments, argv, "reproduce")
    if args.list:
        refuse(typed & {"workers"}, "--list, which runs nothing.")
    if not args.name:
        if args.list:
            refuse(typed - {"list", "json"}, "--list without the name of a question, which prints the questions.")
        if not args.list:
            raise ConfigError(f"reproduce lacks the name of a question; give one of {', '.join(_names())}.")
        print_json({"questions": _names()}) if args.output.json else show(*table(_names()))
        return 0
    folder = to_path(args.out)
    plan = _plan(args, typed, folder)
    if args.list:
        return _list(plan, folder, args.output.json)

    from unmask.reproduce.report import report_folder
    from unmask.reproduce.run import reproduce

    workers = args.workers or os.cpu_count() or 1
    note(f"{plan.name}: {plan.about}")
    note(f"{len(plan.cells)} cells, {workers} processes of one thread each, in {folder}")
    again = shlex.join(["unmask", "reproduce", *argv])
    with keeping(lambda: f"the cells that are done are kept in {folder}; go on with: {again}"):
        results = reproduce(plan, folder, workers=workers, note=note, again=again)
    reports = report_folder(plan, folder)
    states = {cell.name: results.state(cell) for cell in plan.cells}
    if args.output.json:
        print_json({"folder": str(reports), "cells": states})
    else:
        show_text((reports / "report.md").read_text(encoding="utf-8"))
    picture = ", frontier.png" if (reports / "frontier.png").exists() else ""
    note(f"written to {reports}: report.md, table.csv{picture}")
    ended = {record.state for record in results.records.values()}
    if results.exit_code and ended & {"stopped", "not run"}:
        note(f"Stopped. Go on with: {again}")
        return results.exit_code
    return 1 if "failed" in ended else 0


def _names() -> dict[str, str]:
    """The name of every question with the line that describes it."""
    return text_questions.names() | questions.names()


def _plan(args: ReproduceArguments, typed: set[str], folder: Path) -> Plan:
    """Arguments, and the names of those that were typed -> the plan of the question."""
    if args.name in text_questions.names():
        refuse(typed & _OF_POLICIES, f"{args.name}, which trains no policies.")
        return text_questions.plan_of(args.name, TextOptions(args.scale, args.seeds))
    refuse(typed & {"scale"}, "questions about policies; it is for those about masked diffusion, mdlm-....")
    plan = questions.plan_of(args.name, args)
    questions.check(plan, folder)
    return plan


def _list(plan: Plan, folder: Path, as_json: bool) -> int:
    """Print the state of each cell -> exit code 0."""
    from unmask.reproduce.plan import Blocked
    from unmask.reproduce.results import read

    states: dict[str, Any] = {}
    for cell in plan.cells:
        state = f"not run: {cell.reason}" if isinstance(cell, Blocked) else read(folder, cell).state
        states[cell.name] = state
    print_json({"question": plan.name, "cells": states}) if as_json else show(*table(states))
    return 0
