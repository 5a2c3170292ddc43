"""`unmask reproduce`: answer the questions of the two papers with experiments on this machine."""

__all__ = ["ReproduceArguments", "run"]

import os
import shlex
import string
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.cli.common import OutputOptions, keeping, print_json, table
from unmask.cli.parse import Flat, Positional, parse, refuse, typed_options
from unmask.config import to_path
from unmask.errors import ConfigError, did_you_mean
from unmask.output import markdown_table, note, show, show_text
from unmask.ranges import Threads
from unmask.reproduce import questions, text_questions
from unmask.reproduce.plan import Plan, QuestionOptions
from unmask.reproduce.text import TextOptions

if TYPE_CHECKING:
    from unmask.reproduce.results import Record

_GENERAL = "kindred-general-policy"
_OF_POLICIES = {field.name for field in fields(QuestionOptions)} - {"seeds", "fast"}


@dataclass(frozen=True, slots=True)
class ReproduceArguments(QuestionOptions):
    """Answer a question of the two papers: train, measure on fresh data, and write tables and a plot.

    The folder holds the cells of all questions, each made once, and for each question a folder with report.md,
    index.html, table.csv, results.json and pictures, written again after each cell. Repeat the command to continue
    after a stop or a failure. Null results are printed like the others. --published is not for the questions
    policies-...; the options about denoisers, blocks, rounds and test problems are for these alone.
    """

    name: Positional[str] = ""
    """The question, or `list`, which prints the tables and figures of the papers and what of them has been run."""
    list: bool = False
    """Print the questions, or the cells of the named question and their states, and end."""
    full: bool = False
    """The size that fits two cores, with three seeds; this is what is run without --fast and --published."""
    published: bool = False
    """The size of the paper, for GPUs."""
    judge: str | None = None
    """A causal language model that judges the written texts of mdlm-generation too, by name or folder, such as
    smollm2-135m-instruct-q4_1 (unmask fetch)."""
    pairs: tuple[str, ...] = ()
    """Pairs for kindred-general-policy, NAME=CHECKPOINT=TASK each, or NAME=CHECKPOINT for one of its own, or NAME=none;
    by default bundled denoisers and some that are trained."""
    out: str = "runs/reproduce"
    """The folder to write."""
    workers: Threads | None = None
    """Number of processes, each with one thread; by default one for each processor."""
    ray: str | None = None
    """Make the cells on a Ray cluster: HOST:PORT of its head, auto for the cluster of this machine, or local for one
    that is started now. The folder has to be at the same place on every machine."""
    output: Flat[OutputOptions] = OutputOptions()


def run(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; runs the cells that are missing. 1: a cell failed; 128 + a signal."""
    args = parse(ReproduceArguments, argv, "reproduce")
    typed = typed_options(ReproduceArguments, argv, "reproduce")
    if sum([args.fast, args.full, args.published]) > 1:
        raise ConfigError("reproduce takes one of --fast, --full and --published.")
    if args.list or args.name == "list":
        refuse(typed & {"workers", "ray"}, "--list, which runs nothing.")
    if not args.name:
        if args.list:
            refuse(typed - {"list", "json"}, "--list without the name of a question, which prints the questions.")
        if not args.list:
            raise ConfigError(f"reproduce lacks the name of a question; give one of {', '.join(_names())}.")
        print_json({"questions": _names()}) if args.output.json else show(*table(_names()))
        return 0
    folder = to_path(args.out)
    if args.name == "list":
        return _papers(args, typed, folder)
    plan = _plan(args, typed, folder)
    if args.list:
        return _list(plan, folder, args.output.json)

    from unmask.reproduce.report import report_folder
    from unmask.reproduce.run import reproduce

    workers = args.workers if args.ray else args.workers or os.cpu_count() or 1
    place = f"the Ray cluster at {args.ray}" if args.ray else f"{workers} processes of one thread each"
    note(f"{plan.name}: {plan.about}")
    note(f"{len(plan.cells)} cells, {place}, in {folder}; {_time(plan, folder)}")
    again = shlex.join(["unmask", "reproduce", *argv])
    with keeping(lambda: f"the cells that are done are kept in {folder}; go on with: {again}"):
        results = reproduce(plan, folder, workers=workers, ray=args.ray, note=note, again=again)
    reports = report_folder(plan, folder)
    states = {cell.name: results.state(cell) for cell in plan.cells}
    if args.output.json:
        print_json({"folder": str(reports), "cells": states})
    else:
        show_text((reports / "report.md").read_text(encoding="utf-8"))
    note(f"written to {reports}: {', '.join(sorted(path.name for path in reports.iterdir()))}")
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
    if args.name not in _names():
        raise ConfigError(f"There is no question named '{args.name}'; {did_you_mean(args.name, _names())}")
    if args.fast and "seeds" not in typed:
        args = replace(args, seeds=args.seeds[:1])
    if args.name in text_questions.names():
        own = {"rounds", "count"} if args.name == _GENERAL else set[str]()
        refuse(typed & (_OF_POLICIES - own), f"{args.name}, which trains no policies.")
        if args.name != _GENERAL:
            refuse(typed & {"pairs"}, f"{args.name}; it is for {_GENERAL}.")
        scale = "fast" if args.fast else "published" if args.published else "full"
        if args.name not in ("mdlm-generation", text_questions.EVERY):
            refuse(typed & {"judge"}, f"{args.name}; it is for mdlm-generation, which writes texts.")
        options = TextOptions(scale, args.seeds, _judge(args.judge))
        if own:
            options = replace(
                options, pairs=args.pairs, rounds=args.rounds, count=args.count if "count" in typed else None
            )
        return text_questions.plan_of(args.name, options)
    refuse(
        typed & {"judge", "published", "pairs"},
        "questions about policies; it is for those about masked diffusion, mdlm-....",
    )
    plan = questions.plan_of(args.name, args)
    questions.check(plan, folder)
    return plan


def _judge(name: str | None) -> str | None:
    """The judge as it was typed -> its name, or its absolute path. Raises RequestError if it cannot judge texts."""
    if name is None:
        return None
    from unmask.eval.text import open_judge

    path = to_path(name)
    open_judge(name).reads(string.ascii_letters + string.punctuation)
    return str(path.absolute()) if path.exists() else name


def _records(plan: Plan, folder: Path) -> "dict[str, Record]":
    """A plan and a folder -> the records of its cells."""
    from unmask.reproduce.plan import Blocked
    from unmask.reproduce.results import Record, read

    return {c.name: Record("blocked", c.reason) if isinstance(c, Blocked) else read(folder, c) for c in plan.cells}


def _time(plan: Plan, folder: Path) -> str:
    """A plan and a folder -> the processor hours that it took and that it will take, in words."""
    from unmask.reproduce.publish import hours

    spent, left = hours(plan, _records(plan, folder))
    rest = "it is not known yet how long the rest takes" if left is None else f"{left:.1f} h are left"
    return f"{spent:.1f} processor hours spent, {rest}"


def _papers(args: ReproduceArguments, typed: set[str], folder: Path) -> int:
    """Print for each table and figure of the papers its question, what is done of it, and the time -> exit code."""
    from unmask.reproduce.papers import PLACES
    from unmask.reproduce.publish import hours

    facts: list[dict[str, Any]] = []
    for place in PLACES:
        plan = _plan(replace(args, name=place.question), typed, folder)
        try:
            records = _records(plan, folder)
        except ConfigError:  # a cell of another request; the folder has it, and this request would be refused
            facts.append({**place._asdict(), "done": "made with other settings", "spent": None, "left": None})
            continue
        done = sum(record.state == "done" for record in records.values())
        state = f"{done} of {len(records)} cells"
        spent, left = hours(plan, records)
        facts.append({**place._asdict(), "done": state, "spent": 60 * spent, "left": left and 60 * left})
    if args.output.json:
        print_json({"places": facts})
        return 0
    for paper in dict.fromkeys(place.paper for place in PLACES):
        rows = [
            [f["item"], f["subject"], f["question"], f["done"], *(_minutes(f[name]) for name in ("spent", "left"))]
            for f in facts
            if f["paper"] == paper
        ]
        show(paper, "", *markdown_table(_HEAD, rows), "")
    return 0


_HEAD = ("place", "subject", "unmask reproduce ...", "done", "minutes spent", "minutes left")


def _minutes(value: float | None) -> str:
    return "not known" if value is None else f"{value:.0f}"


def _list(plan: Plan, folder: Path, as_json: bool) -> int:
    """Print the state of each cell -> exit code 0."""
    records = _records(plan, folder)
    states = {name: f"not run: {r.reason}" if r.state == "blocked" else r.state for name, r in records.items()}
    print_json({"question": plan.name, "cells": states}) if as_json else show(*table(states))
    note(f"{len(states)} cells; {_time(plan, folder)}")
    return 0
