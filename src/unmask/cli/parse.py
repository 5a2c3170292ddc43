"""Words of the command line -> a frozen dataclass, or one sentence about what is wrong. tyro prints the help alone."""

__all__ = ["Flat", "Positional", "option_names", "parse", "typed_options", "typed_positionals"]

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, TypeVar, cast

from unmask.errors import ConfigError, did_you_mean

Arguments = TypeVar("Arguments")
_Value = TypeVar("_Value")

_POSITIONAL, _FLAT = "positional", "flat"
Positional = Annotated[_Value, _POSITIONAL]
"""Marks a field that is given by its place and not by its name."""
Flat = Annotated[_Value, _FLAT]
"""Marks a dataclass whose options are written without the name of the field that holds it: --seed."""

_NUMBER = re.compile(r"-\.?\d.*|-inf")
_NAMES: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", types.NoneType: "None"}


class _Field(NamedTuple):
    name: str  # dotted, with underscores, as it is written
    path: tuple[str, ...]  # attributes that lead to it
    type: Any  # its annotation, without marks
    positional: bool
    required: bool


class _Option(NamedTuple):
    field: _Field
    words: list[str]  # its values as typed
    on: bool = True  # False for the --no-... of a switch


class _Scan(NamedTuple):
    options: list[_Option]
    positionals: list[str]
    help: bool


def parse(cls: type[Arguments], argv: Sequence[str], verb: str, default: Arguments | None = None) -> Arguments:
    """The words after a verb -> its arguments. `default` gives the values of what is not named.

    Raises ConfigError, in one sentence, for an unknown option, a missing or wrong value, too many or too few words;
    what the settings themselves refuse passes unchanged. Prints the help and raises SystemExit where it is asked for.
    """
    scan = _scan(cls, argv, verb)
    if scan.help:
        _print_help(cls, verb)
    values = _values(scan) | _positional_values(cls, scan, verb)
    return _build(cls, default, values, ())


def option_names(cls: type) -> list[str]:
    """Every option that a verb has, as it is written: --train.eval-every."""
    return [_written(field.name) for field in _fields(cls) if not field.positional]


def typed_options(cls: type, argv: Sequence[str], verb: str) -> set[str]:
    """The dotted names (with underscores) of the options that were typed. Raises ConfigError as `parse` does."""
    return {option.field.name for option in _scan(cls, argv, verb).options}


def typed_positionals(cls: type, argv: Sequence[str], verb: str) -> list[str]:
    """The words that belong to no option. Raises ConfigError as `parse` does."""
    return _scan(cls, argv, verb).positionals


def _written(name: str) -> str:
    return "--" + name.replace("_", "-")


# ---- which options there are -----------------------------------------------------------------------------------------


@cache
def _hints(cls: type) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """The fields of a dataclass -> annotation without marks, and marks."""
    hints = typing.get_type_hints(cls, include_extras=True)
    parts = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    marked = {name: typing.get_args(hint) for name, hint in parts.items() if typing.get_origin(hint) is Annotated}
    return {name: (marked[name][0], marked[name][1:]) if name in marked else (hint, ()) for name, hint in parts.items()}


@cache
def _fields(cls: type, prefix: str = "", path: tuple[str, ...] = ()) -> tuple[_Field, ...]:
    """The leaves of a tree of dataclasses."""
    fields: list[_Field] = []
    for field in dataclasses.fields(cls):
        hint, marks = _hints(cls)[field.name]
        here = (*path, field.name)
        if dataclasses.is_dataclass(hint):
            inner = prefix if _FLAT in marks else f"{prefix}{field.name}."
            fields += _fields(cast(type, hint), inner, here)
            continue
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        fields.append(_Field(prefix + field.name, here, hint, _POSITIONAL in marks, required))
    return tuple(fields)


# ---- sorting the words -----------------------------------------------------------------------------------------------


def _scan(cls: type, argv: Sequence[str], verb: str) -> _Scan:
    """Sort the words into options with their values, and the rest."""
    fields = _fields(cls)
    options: list[_Option] = []
    positionals: list[str] = []
    words, at = list(argv), 0
    while at < len(words):
        word = words[at]
        at += 1
        if word in ("-h", "--help"):
            return _Scan(options, positionals, True)
        if not _is_option(word):
            positionals.append(word)
            continue
        name, equals, value = word.partition("=")
        field, on = _named(fields, name, verb)
        if equals:
            options.append(_Option(field, [value], on))
            continue
        count = _count(field.type)
        end = at
        while end < len(words) and (count is None or end - at < count) and not _is_option(words[end]):
            end += 1
        options.append(_Option(field, words[at:end], on))
        at = end
    return _Scan(options, positionals, False)


def _is_option(word: str) -> bool:
    return len(word) > 1 and word[0] == "-" and not _NUMBER.fullmatch(word) and not any(c.isspace() for c in word)


def _named(fields: Sequence[_Field], name: str, verb: str) -> tuple[_Field, bool]:
    """The field of an option as typed, and False for --no-...; ConfigError where there is none."""
    by_name = {_written(field.name): field for field in fields if not field.positional}
    off = {re.sub(r"([^.-][^.]*)$", r"no-\1", key): field for key, field in by_name.items() if field.type is bool}
    wanted = name.replace("_", "-")
    if wanted in by_name:
        return by_name[wanted], True
    if wanted in off:
        return off[wanted], False
    last = [key for key in by_name if key.endswith(f".{wanted.lstrip('-')}")]
    hint = f"did you mean '{last[0]}'?" if len(last) == 1 else did_you_mean(wanted, by_name)
    if not hint.startswith("did"):
        hint = f"see unmask {verb} --help."
    raise ConfigError(f"{verb} has no option '{name}'; {hint}")


# ---- from words to values --------------------------------------------------------------------------------------------


def _values(scan: _Scan) -> dict[tuple[str, ...], Any]:
    """The value of each option that was typed, by its path. Raises ConfigError for one that cannot be."""
    values: dict[tuple[str, ...], Any] = {}
    for field, words, on in scan.options:
        name, count = _written(field.name), _count(field.type)
        if count == 0 and words:
            raise ConfigError(f"{name} is a switch and takes no value; leave '{words[0]}' out.")
        if count is not None and len(words) < count:
            raise ConfigError(f"{name} lacks {'its value' if not words else 'a value'}; give {_possible(field.type)}.")
        read = [_read(_element(field.type, place), word, field) for place, word in enumerate(words)]
        values[field.path] = on if count == 0 else tuple(read) if typing.get_origin(field.type) is tuple else read[0]
    return values


def _positional_values(cls: type, scan: _Scan, verb: str) -> dict[tuple[str, ...], Any]:
    """The words without a name, by path of field. Raises ConfigError for too many, too few or a wrong one."""
    places = [field for field in _fields(cls) if field.positional]
    needed = [field for field in places if field.required]
    words = scan.positionals
    values = {field.path: _read(field.type, word, field) for field, word in zip(places, words, strict=False)}
    if len(words) > len(places):
        raise ConfigError(
            f"'{words[len(places)]}' is a word too many for {verb}; "
            "put a text of several words between quotation marks."
        )
    if len(words) < len(needed):
        raise ConfigError(f"{verb} needs a {needed[len(words)].name.upper()}; see unmask {verb} --help.")
    return values


def _read(type_: Any, word: str, field: _Field) -> Any:
    """A word as a value of that type, the first that fits where there are several. Raises ConfigError for none."""
    for choice in (types.NoneType, *(choice for choice in _choices(type_) if choice is not types.NoneType)):
        if choice is types.NoneType:
            if word == "None" and types.NoneType in _choices(type_):
                return None
        elif typing.get_origin(choice) is Literal:
            if word in (by_text := {str(value): value for value in typing.get_args(choice)}):
                return by_text[word]
        else:
            try:
                return choice(word)
            except ValueError:
                continue
    name = field.name.upper() if field.positional else _written(field.name)
    raise ConfigError(f"{name} cannot be '{word}'; give {_possible(field.type)}.")


def _choices(type_: Any) -> list[Any]:
    """The members of a union; a type alone is its own only member."""
    return list(typing.get_args(type_)) if typing.get_origin(type_) in (types.UnionType, typing.Union) else [type_]


def _count(type_: Any) -> int | None:
    """How many words follow the option; None for as many as there are."""
    if typing.get_origin(type_) is tuple:
        inner = typing.get_args(type_)
        return None if Ellipsis in inner else len(inner)
    return 0 if type_ is bool else 1


def _element(type_: Any, place: int) -> Any:
    if typing.get_origin(type_) is not tuple:
        return type_
    inner = typing.get_args(type_)
    return inner[0] if Ellipsis in inner else inner[min(place, len(inner) - 1)]


def _possible(type_: Any) -> str:
    """What could be given, as the end of a sentence."""
    if typing.get_origin(type_) is tuple:
        inner = [member for member in typing.get_args(type_) if member is not Ellipsis]
        each = _possible(inner[0])
        return each if len(inner) == 1 else f"{len(inner)} values, each {each}"
    parts: list[str] = []
    for choice in _choices(type_):
        if typing.get_origin(choice) is Literal:
            parts.append(f"one of {', '.join(map(str, typing.get_args(choice)))}")
        elif choice is not types.NoneType:
            parts.append(_NAMES.get(choice, str(choice)))
    return " or ".join(parts)


def _build(
    cls: type[Arguments], default: Arguments | None, values: Mapping[tuple[str, ...], Any], path: tuple[str, ...]
) -> Arguments:
    """A dataclass from the values at and below `path`, over `default` or over its own defaults."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(cast(Any, cls)):
        here = (*path, field.name)
        if here in values:
            changes[field.name] = values[here]
        elif any(key[: len(here)] == here for key in values):
            changes[field.name] = _build(_hints(cls)[field.name][0], _inner(default, field), values, here)
    return cls(**changes) if default is None else dataclasses.replace(cast(Any, default), **changes)


def _inner(default: Any, field: "dataclasses.Field[Any]") -> Any:
    """What a field holds in `default`, or without one by its own default; None where it has none."""
    if default is not None:
        return getattr(default, field.name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


# ---- help ------------------------------------------------------------------------------------------------------------


def _print_help(cls: type, verb: str) -> NoReturn:
    """Print what tyro makes of the dataclass and its docstrings, and raise SystemExit."""
    import tyro

    tyro.cli(_for_tyro(cls), args=["--help"], prog=f"unmask {verb}")
    raise SystemExit(0)


def _for_tyro(cls: type) -> type:
    """The same dataclass with tyro's marks in place of ours."""
    import tyro

    marks = {_POSITIONAL: tyro.conf.Positional[Any], _FLAT: tyro.conf.OmitArgPrefixes[Any]}
    hints = {
        name: Annotated[hint, *(typing.get_args(marks[mark])[1] for mark in own)] if own else hint
        for name, (hint, own) in _hints(cls).items()
    }
    return type(cls.__name__, (cls,), {"__annotations__": hints, "__doc__": cls.__doc__, "__module__": cls.__module__})
