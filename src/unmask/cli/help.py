"""The options of the verbs -> help pages. Imports no torch."""

__all__ = [
    "FIRST",
    "POLICIES",
    "TASKS",
    "arguments_of",
    "help_page",
    "sentence",
    "shown_fields",
    "switch",
    "texts_of",
]

import ast
import dataclasses
import inspect
import re
import shutil
import textwrap
import types
import typing
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from itertools import pairwise
from typing import Any, Literal

from unmask.cli.main import VERBS
from unmask.cli.parse import Field, choices_of, fields_of, written
from unmask.data.settings import FIXED, DataSettings

FIRST = {
    "demo": ("puzzles", "prompt", "out", "seed", "json"),
    "train": ("data.source", "train.minutes", "out", "resume", "dry"),
    "eval": ("data.source", "split", "stride", "task", "json"),
    "generate": ("length", "policy", "temperature", "seed", "watch"),
    "fill": ("choices", "length_rule", "policy", "temperature", "seed"),
    "serve": ("host", "port", "api_key", "allow_host", "queue"),
    "score": ("choices", "draws", "seed", "device", "json"),
    "watch": ("row", "html", "svg", "json"),
    "frontier": ("task", "policies", "blocks", "count", "out"),
    "learn": ("checkpoint", "task", "learn.rounds", "out", "resume"),
    "reproduce": ("list", "seeds", "out", "workers", "json"),
    "pace": ("data.source", "steps", "out", "plot", "json"),
    "probe": ("data", "folds", "finetune", "seed", "json"),
    "probe holes": ("source", "lengths", "count", "out", "json"),
    "probe masks": ("source", "counts", "count", "out", "json"),
    "fetch": ("wheel", "remove", "json"),
    "import": ("out", "tokenizer", "length", "raw", "json"),
    "export": ("out", "to", "json"),
    "data prepare": ("out", "data.tokenizer", "data.length", "data.workers", "json"),
    "data check": ("json",),
    "info": ("json", "verbose"),
    "list": ("json",),
    "bench": ("rounds", "device", "threads", "plot", "json"),
    "completion": (),
}
"""Verb -> the options that people use most; its help page begins with them."""

POLICIES = (
    *("adas", "ancestral", "best-confidence", "confidence", "credit", "dawn", "dream", "early-stop", "entropy"),
    "entropy-bound",
    *("entropy-threshold", "factor", "filter", "frechet", "freedave", "hierarchy", "info-gain", "klass", "learned"),
    *("left-to-right", "local-leap"),
    *("margin", "margin-threshold", "or", "p2", "pc", "prefix", "random", "rcr", "remdm", "reverse"),
    *("saber", "threshold", "wino"),
)
TASKS = (
    "antibody-cdr3",
    "arithmetic",
    "automaton",
    "countdown",
    "few-shot",
    "gsm8k",
    "gym",
    "humaneval",
    "infill",
    "math-500",
    "mbpp",
    "sudoku",
)
"""The names in the registries of policies and tasks, which cannot be imported without torch; a test compares them."""

_MEASURES = ("eval", "pace")

_NARROWEST, _WIDEST, _COLUMN = 40, 100, 28
_NUMBER = re.compile(r"^(0 or )?a (?:whole |finite )?number ?(?:of )?")  # what N and X say already
_METAVARS: dict[Any, str] = {int: "N", float: "X", str: "TEXT"}


def arguments_of(verb: str) -> type:
    """Verb -> the dataclass of its arguments; its module is imported."""
    module = VERBS[verb][0].partition(":")[0]
    return getattr(import_module(f"unmask.cli.{module}"), f"{verb.title().replace(' ', '')}Arguments")


# ---- help pages ------------------------------------------------------------------------------------------------------


def help_page(cls: type, verb: str) -> str:
    """The arguments of a verb -> its help, as wide as the terminal but between 40 and 100 characters."""
    width = min(max(shutil.get_terminal_size().columns, _NARROWEST), _WIDEST)
    fields = shown_fields(cls, verb)
    first = [field for name in FIRST.get(verb, ()) for field in fields if field.name == name]
    words = " ".join(field.name.upper() for field in fields if field.positional)
    usage = VERBS[verb][1] if verb in VERBS else words
    lines = [f"usage: unmask {verb} {usage} [OPTIONS]", "", *_paragraphs(cls.__doc__ or "", width)]
    lines += _section("arguments", [field for field in fields if field.positional], width)
    lines += _section("options that are used most", first, width)
    rest = [field for field in fields if not field.positional and field not in first]
    for owner in sorted(dict.fromkeys(field.owner for field in rest), key=lambda owner: owner is not cls):
        title = "more options" if owner is cls else sentence(owner.__doc__ or owner.__name__)
        title += ", by default as in training" if verb in _MEASURES and owner is DataSettings else ""
        lines += _section(title[:1].lower() + title[1:], [field for field in rest if field.owner is owner], width)
    return "\n".join(lines).rstrip()


def shown_fields(cls: type, verb: str) -> list[Field]:
    """The arguments of a verb -> its options; of a verb that measures, the options of the text have no default."""
    if verb not in _MEASURES:
        return [field for field in fields_of(cls) if verb != "data prepare" or field.name != "data.source"]
    kept = [field for field in fields_of(cls) if field.path[-1] not in FIXED]
    return [field._replace(default=None) if field.owner is DataSettings else field for field in kept]


def _paragraphs(text: str, width: int) -> Iterator[str]:
    """Docstring -> its paragraphs as lines of at most `width` characters, each followed by an empty line."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        yield from textwrap.wrap(paragraph, width, break_long_words=False, break_on_hyphens=False)
        yield ""


def _section(title: str, fields: Sequence[Field], width: int) -> Iterator[str]:
    """Title and fields -> a title line, an entry a field, an empty line; nothing where there are no fields."""
    if fields:
        yield from (f"{title}:", *(line for field in fields for line in _entry(field, width)), "")


def _entry(field: Field, width: int) -> list[str]:
    """Field -> the lines of its entry: how it is written, what it means, its default."""
    left = f"  {field.name.upper()}" if field.positional else f"  {switch(field)} {_metavar(field.type)}".rstrip()
    column = _COLUMN if width >= 2 * _COLUMN else 6
    body = textwrap.wrap(
        f"{texts_of(field.owner).get(field.path[-1], '')}{_facts(field)}",
        width - column,
        break_long_words=False,
        break_on_hyphens=False,
    )
    if body and len(left) < column - 1:
        return [f"{left:<{column}}{body[0]}", *(" " * column + line for line in body[1:])]
    return [left, *(" " * column + line for line in body)]


def switch(field: Field) -> str:
    """Field -> its option, such as --train.compile, with its short form; for a switch that is on, what turns it off."""
    if field.type is bool and field.default is True:
        head, _, last = field.name.rpartition(".")
        return written(f"{head}.no-{last}" if head else f"no-{last}")
    return "-v, --verbose" if field.name == "verbose" else written(field.name)


def _metavar(type_: Any) -> str:
    """Type -> what follows the option: N, X, TEXT, the possible words, or nothing for a switch."""
    if type_ is bool:
        return ""
    if typing.get_origin(type_) is tuple:
        inner = typing.get_args(type_)
        return f"{_metavar(inner[0])} ..." if Ellipsis in inner else " ".join(map(_metavar, inner))
    return "|".join(
        "|".join(map(str, typing.get_args(choice)))
        if typing.get_origin(choice) is Literal
        else _METAVARS.get(choice, "VALUE")
        for choice in choices_of(type_)
        if choice is not types.NoneType
    )


def _facts(field: Field) -> str:
    """Field -> the end of its entry: the range of its numbers, and its default; empty where the text says all."""
    if field.default is True:
        return " (default: on; this turns it off)"
    limits = "" if field.limits is None else _NUMBER.sub(r"\1", dataclasses.replace(field.limits, hint="").possible())
    if field.required:
        default = "" if field.positional else "required"
    elif field.default is None or field.default in ("", ()) or field.type is bool:
        default = ""
    else:
        values = field.default if isinstance(field.default, tuple) else (field.default,)
        default = f"default: {' '.join(map(str, values))}"
    facts = "; ".join(filter(None, [limits, default]))
    return f" ({facts})" if facts else ""


@cache
def texts_of(cls: type) -> dict[str, str]:
    """Dataclass -> the docstring below each of its fields, those of its base classes included, as one line."""
    docs = {
        name: text
        for base in reversed(cls.__bases__)
        if dataclasses.is_dataclass(base)
        for name, text in texts_of(base).items()
    }
    body = typing.cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]).body
    for node, after in pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr):
            docs[node.target.id] = " ".join(str(ast.literal_eval(after.value)).split())
    return docs


def sentence(text: str) -> str:
    """Docstring -> its first sentence, without the stop, as one line."""
    return " ".join(text.split("\n\n")[0].split()).split(". ")[0].removesuffix(".")
