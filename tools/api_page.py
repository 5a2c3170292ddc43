"""The public names of the library -> docs/api.md: their signatures and docstrings, in Markdown.

python tools/api_page.py            # write the page (make api)
python tools/api_page.py --check    # exit code 1 if the page is not what this program writes
"""

__all__ = ["PAGE", "SECTIONS", "main", "page"]

import inspect
import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from unmask.fill.matching import Constraining

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
WIDTH = 100
"""Characters in a line of the page."""
HEAD = """\
# The Python API

`make api` writes this page from the signatures and docstrings of the code.

A signature shows the types and the defaults of the arguments. A number outside its range, an
argument of the wrong type and an unknown name are errors of one sentence (`UnmaskError`). Shapes of
tensors: B rows, L positions, V tokens of the vocabulary, D numbers for each position inside the
network.
"""
SECTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Models": (
        "Start here: `unmask.load` returns a `Model`, which writes, fills, compares and measures.",
        ("unmask.load", "unmask.bundled", "unmask.Model"),
    ),
    "Results": (
        "What the methods of a model return.",
        (
            "unmask.Generation",
            "unmask.Filling",
            "unmask.fill.holes.Attempt",
            "unmask.Choice",
            "unmask.Bound",
            "unmask.Snapshot",
        ),
    ),
    "Traces": (
        "A trace is the list of all changes of a text while it was written.",
        (
            "unmask.trace.events.Trace",
            "unmask.trace.events.Event",
            "unmask.trace.events.replay",
            "unmask.trace.events.read",
            "unmask.trace.events.to_jsonl",
            "unmask.trace.page.to_html",
            "unmask.trace.picture.to_svg",
        ),
    ),
    "Policies": (
        "A policy decides which masked positions are revealed in a pass. `check_policy` tests your own.",
        (
            "unmask.policies.names",
            "unmask.policies.make",
            "unmask.policies.base.UnmaskingPolicy",
            "unmask.policies.base.View",
            "unmask.policies.base.Decision",
            "unmask.policies.base.Needs",
            "unmask.testing.check_policy",
        ),
    ),
    "Tasks": (
        "A task has problems and a verifier. `check_task` tests your own.",
        (
            "unmask.tasks.names",
            "unmask.tasks.make",
            "unmask.tasks.Task",
            "unmask.tasks.Example",
            "unmask.tasks.Verdict",
            "unmask.tasks.judge",
            "unmask.testing.check_task",
        ),
    ),
    "Decoding loop": (
        "For programs that decode rows which join and leave, such as a server (see [decoding.md](decoding.md)).",
        (
            "unmask.Decoder",
            "unmask.decode.canvas.Canvas",
            "unmask.decode.canvas.Running",
            "unmask.decode.canvas.join",
            "unmask.decode.canvas.leave",
            "unmask.decode.constraint.Constraint",
        ),
    ),
    "Other networks": (
        "A network of your own becomes loadable by a name in `config.json`.",
        ("unmask.model.load.register", "unmask.denoiser.Denoiser", "unmask.denoiser.Trainable"),
    ),
    "Tests": (
        "An exact denoiser for tests, small enough to enumerate.",
        ("unmask.testing.TableDenoiser", "unmask.testing.random_language"),
    ),
    "Errors": (
        "Each message is one sentence. `exit_code` is that of the command line.",
        (
            "unmask.UnmaskError",
            "unmask.errors.ConfigError",
            "unmask.errors.DataError",
            "unmask.errors.CheckpointError",
            "unmask.errors.RequestError",
            "unmask.errors.ArgumentError",
            "unmask.errors.PluginError",
            "unmask.errors.RunError",
            "unmask.errors.Interrupted",
            "unmask.UnmaskWarning",
        ),
    ),
}
"""Heading -> (a sentence, dotted names in the order of the page)."""


INTERNAL = {"of", "of_fills", "combined", "checked", "filler", "bound_packed", "typed"}
"""Methods that only the library itself calls."""


def look_up(dotted: str) -> Any:
    """A dotted name -> the object. Raises AttributeError or ImportError if there is none."""
    module, _, name = dotted.rpartition(".")
    return getattr(import_module(module), name)


# ---- signatures ------------------------------------------------------------------------------------------------------


def type_text(annotation: Any) -> str:
    """An annotation -> the text that a reader expects: no module names, and no range marks."""
    if annotation is inspect.Parameter.empty:
        return ""
    if isinstance(annotation, str):
        return re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Z])", "", annotation).strip("'\"")
    if annotation is types.NoneType or annotation is None:
        return "None"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return type_text(arguments[0])
    if origin is typing.Literal:
        return " | ".join(f'"{value}"' if isinstance(value, str) else repr(value) for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(type_text(argument) for argument in arguments))
    if origin is not None:
        return f"{getattr(origin, '__name__', str(origin))}[{', '.join(map(type_text, arguments))}]"
    if isinstance(annotation, list):
        return f"[{', '.join(map(type_text, annotation))}]"
    if annotation is Ellipsis:
        return "..."
    if isinstance(annotation, typing.ForwardRef):
        return type_text(annotation.__forward_arg__)
    return getattr(annotation, "__name__", str(annotation))


def default_text(value: object) -> str:
    """A default -> its text."""
    return f'"{value}"' if isinstance(value, str) else "..." if "object at 0x" in repr(value) else repr(value)


def signature_text(name: str, function: Callable[..., Any]) -> str:
    """A function -> `name(arguments) -> result`, in lines that fit; `self` and `cls` are left out."""
    signature = inspect.signature(function)
    parts: list[str] = []
    starred = False
    for parameter in signature.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            parts.append("*")
            starred = True
        star = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        starred = starred or star == "*"
        text = type_text(parameter.annotation)
        part = f"{star}{parameter.name}{': ' + text if text else ''}"
        if parameter.default is not parameter.empty:
            part += f"{' = ' if text else '='}{default_text(parameter.default)}"
        parts.append(part)
    result = type_text(signature.return_annotation)
    end = f") -> {result}" if result else ")"
    flat = f"{name}({', '.join(parts)}{end}"
    if len(flat) <= WIDTH:
        return flat
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + end


# ---- docstrings ------------------------------------------------------------------------------------------------------


def wrapped(text: str) -> str:
    """Prose -> the same in lines of at most WIDTH characters, paragraphs and indented blocks kept."""
    blocks: list[str] = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if block.startswith("Args:"):
            entries = re.split(r"\n(?=    \w+: )", block)[1:]
            blocks.append("\n".join(hanging(f"- `{e.split(':')[0].strip()}`:{e.split(':', 1)[1]}") for e in entries))
        elif block.startswith("Raises:"):
            blocks.append(hanging("Raises " + " ".join(block.split()[1:]).replace(": ", " ", 1), ""))
        elif block.startswith("    "):
            blocks.append("```text\n" + textwrap.dedent(block) + "\n```")
        elif any(mark in block for mark in "├└│"):
            first, _, tree = block.partition("\n")
            blocks.append(f"```text\n{first}\n{tree}\n```")
        else:
            blocks.append(textwrap.fill(" ".join(block.split()), WIDTH, break_long_words=False, break_on_hyphens=False))
    return "\n\n".join(blocks)


def attribute_texts(cls: type[Any]) -> dict[str, str]:
    """A class -> its annotated attributes with the docstring or the comment that follows each, from the source."""
    texts: dict[str, str] = {}
    lines = textwrap.dedent(inspect.getsource(cls)).splitlines()
    pattern = re.compile(r" {4}(\w+): [^#]*?(?:#\s*(.*))?$")
    for number, line in enumerate(lines):
        if (match := pattern.match(line)) is None:
            continue
        rest = "\n".join(line.strip() for line in lines[number + 1 :])
        after = re.match(r'r?"""(.*?)"""', rest, re.DOTALL)
        texts[match[1]] = (after[1] if after else match[2]) or ""
    return texts


def attributes(cls: type[Any]) -> list[str]:
    """A class -> a line of a list for each attribute that is its own and public."""
    if not (is_dataclass(cls) or hasattr(cls, "_fields") or getattr(cls, "_is_protocol", False)):
        return []
    annotations = inspect.get_annotations(cls)
    defaults = {f.name: f.default for f in fields(cls) if f.default is not MISSING} if is_dataclass(cls) else {}
    defaults |= getattr(cls, "_field_defaults", {})
    lines: list[str] = []
    for name, text in attribute_texts(cls).items():
        if name.startswith("_") or name not in annotations:
            continue
        label = f"`{name}: {type_text(annotations[name])}"
        label += f" = {default_text(defaults[name])}`" if name in defaults else "`"
        lines.append(hanging(f"- {label}{': ' + sentence(text) if text else ''}"))
    return lines


def sentence(text: str) -> str:
    """A docstring or a comment -> the same with a capital letter and a full stop."""
    text = text[:1].upper() + text[1:] if text[:1].isalpha() and not text.startswith("int64") else text
    return text if text.endswith(".") else f"{text}."


def hanging(text: str, indent: str = "  ") -> str:
    """An entry of a list -> the same in lines of at most WIDTH characters, later ones indented."""
    text = " ".join(text.split())
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def methods(cls: type[Any]) -> list[tuple[str, Any]]:
    """A class -> the public methods and properties that it defines itself and that have a docstring, in their order.

    Those of `Constraining` are methods of a model too.
    """
    members = [*(vars(Constraining).items() if issubclass(cls, Constraining) else ()), *vars(cls).items()]
    functions = (types.FunctionType, property, classmethod, staticmethod)
    public = [
        (name, member)
        for name, member in members
        if name == "__call__" or not (name.startswith("_") or name in INTERNAL)
    ]
    return [(name, m) for name, m in public if isinstance(m, functions) and (m.__doc__ or name == "__call__")]


# ---- the page --------------------------------------------------------------------------------------------------------


def entry(dotted: str) -> str:
    """A dotted name -> its part of the page."""
    thing = look_up(dotted)
    short = dotted.rpartition(".")[2]
    if not inspect.isclass(thing):
        return f"### `{dotted}`\n\n```text\n{signature_text(short, thing)}\n```\n\n{wrapped(thing.__doc__ or '')}"
    parts = [f"### `{dotted}`"]
    own = "__doc__" in vars(thing) and thing.__doc__ and not thing.__doc__.startswith(f"{thing.__name__}(")
    if own:
        parts.append(wrapped(thing.__doc__ or ""))
    if lines := attributes(thing):
        parts.append("\n".join(lines))
    for name, member in methods(thing):
        parts.append(method(short, name, member))
    return "\n\n".join(parts)


def method(cls: str, name: str, member: Any) -> str:
    """A method or a property of a class -> its part of the page."""
    label = f"{cls}.{name}" if name != "__call__" else f"{cls}"
    if isinstance(member, property):
        text = wrapped(member.__doc__ or "")
        return f"#### `{label}`\n\n{text}"
    function = getattr(member, "__func__", member)
    shown = name if name != "__call__" else "policy" if cls == "UnmaskingPolicy" else cls.lower()
    code = f"```text\n{signature_text(shown, function)}\n```"
    return "\n\n".join(filter(None, [f"#### `{label}`", code, wrapped(function.__doc__ or "")]))


def page() -> str:
    """The whole page. Raises AttributeError for a name of SECTIONS that does not exist."""
    contents = " · ".join(f"[{heading}](#{heading.lower().replace(' ', '-')})" for heading in SECTIONS)
    parts = [HEAD.strip(), wrapped(contents)]
    for heading, (sentence, names) in SECTIONS.items():
        parts += [f"## {heading}", wrapped(sentence), *[entry(name) for name in names]]
    return "\n\n".join(parts) + "\n"


def main(arguments: list[str]) -> int:
    """Write the page, or compare it with --check; the exit code."""
    text = page()
    if "--check" in arguments:
        return int(PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
