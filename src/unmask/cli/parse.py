"""Words of the command line -> a frozen dataclass, or one sentence about what is wrong."""

__all__ = [
    "Field",
    "Flat",
    "Positional",
    "choices_of",
    "fields_of",
    "parse",
    "refuse",
    "typed_options",
    "typed_positionals",
    "written",
]

import dataclasses
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, cast

from unmask.errors import ConfigError, did_you_mean
from unmask.output import show_text
from unmask.ranges import Range, range_of, shown

Arguments = TypeVar("Arguments")
_Value = TypeVar("_Value")

_POSITIONAL, _FLAT = "positional", "flat"
Positional = Annotated[_Value, _POSITIONAL]
"""Marks a field whose value is a word without an option name."""
Flat = Annotated[_Value, _FLAT]
"""Marks a dataclass field whose options are written without the name of that field: --seed."""

_SHORT = {"-v": "--verbose"}
_LAST_PARTS = ("--device", "--dtype", "--minutes", "--sample-every", "--threads")
"""Options that may be typed without the name of their group where only one group has them: --threads for
--train.threads."""
_NUMBER = re.compile(r"-\.?\d.*|-inf")
_NAMES: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", types.NoneType: "None"}


class Field(NamedTuple):
    """A leaf of the arguments of a verb: an option or a positional word."""

    name: str  # dotted, with underscores: train.eval_every
    path: tuple[str, ...]  # the names of the attributes from the root to it
    type: Any  # its annotation, without marks
    marks: tuple[Any, ...]  # those of its annotation
    owner: Any  # the dataclass whose field it is
    default: Any  # dataclasses.MISSING where a value has to be typed

    @property
    def positional(self) -> bool:
        """Whether it is a word without an option name."""
        return _POSITIONAL in self.marks

    @property
    def required(self) -> bool:
        """Whether a value has to be typed."""
        return self.default is dataclasses.MISSING

    @property
    def limits(self) -> Range | None:
        """The range of its numbers."""
        return next((mark for mark in self.marks if isinstance(mark, Range)), None)


class _Option(NamedTuple):
    field: Field
    words: list[str]  # its values as typed
    on: bool = True  # False for the --no-... of a switch


class _Scan(NamedTuple):
    options: list[_Option]
    positionals: list[str]
    help: bool


def parse(cls: type[Arguments], argv: Sequence[str], verb: str, default: Arguments | None = None) -> Arguments:
    """The words after a verb -> its arguments. Options that are left out have their values from `default`.

    Raises ConfigError, in one sentence, for an unknown option, a missing or wrong value, too many or too few words;
    errors of the settings classes pass unchanged. Prints the help and raises SystemExit for --help.
    """
    scan = _scan(cls, argv, verb)
    if scan.help:
        from unmask.cli.help import help_page

        show_text(help_page(cls, verb))
        raise SystemExit(0)
    values = _values(scan) | _positional_values(cls, scan, verb)
    return _build(cls, default, values, ())


def typed_options(cls: type, argv: Sequence[str], verb: str) -> set[str]:
    """Words after a verb -> the dotted names (with underscores) of its options. Raises ConfigError as `parse` does."""
    return {option.field.name for option in _scan(cls, argv, verb).options}


def typed_positionals(cls: type, argv: Sequence[str], verb: str) -> list[str]:
    """Words after a verb -> those that belong to no option. Raises ConfigError as `parse` does."""
    return _scan(cls, argv, verb).positionals


def refuse(names: Iterable[str], reason: str) -> None:
    """Raise ConfigError for the first of these dotted names, as typed: "--NAME does not go with REASON"."""
    for name in sorted(names):
        raise ConfigError(f"{written(name)} does not go with {reason}")


def written(name: str) -> str:
    """Dotted name -> the option as it is typed."""
    return "--" + name.replace("_", "-")


# ---- which options there are -----------------------------------------------------------------------------------------


@cache
def _hints(cls: type) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Dataclass -> (annotation without marks, marks, the range of its numbers among them) of each field."""
    marked, plain = typing.get_type_hints(cls, include_extras=True), typing.get_type_hints(cls)
    hints: dict[str, tuple[Any, tuple[Any, ...]]] = {}
    for name in (field.name for field in dataclasses.fields(cls)):
        hint, limits = marked[name], range_of(marked[name])
        marks = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
        marks = tuple(mark for mark in marks if not isinstance(mark, Range))
        hints[name] = plain[name], marks if limits is None else (*marks, limits)
    return hints


@cache
def fields_of(cls: type, prefix: str = "", path: tuple[str, ...] = ()) -> tuple[Field, ...]:
    """Nested dataclasses -> their leaf fields, in order; `prefix` and `path` lead from the root to `cls`."""
    fields: list[Field] = []
    for field in dataclasses.fields(cls):
        hint, marks = _hints(cls)[field.name]
        here = (*path, field.name)
        if dataclasses.is_dataclass(hint):
            inner = prefix if _FLAT in marks else f"{prefix}{field.name}."
            fields += fields_of(cast(type, hint), inner, here)
            continue
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        fields.append(Field(prefix + field.name, here, hint, marks, cls, default))
    return tuple(fields)


# ---- sorting the words -----------------------------------------------------------------------------------------------


def _scan(cls: type, argv: Sequence[str], verb: str) -> _Scan:
    """Words -> the options with their values, and the other words; no word after "--" is an option."""
    fields = fields_of(cls)
    options: list[_Option] = []
    positionals: list[str] = []
    words, at = list(argv), 0
    while at < len(words):
        word = words[at]
        at += 1
        if word in ("-h", "--help"):
            return _Scan(options, positionals, True)
        if word == "--":
            return _Scan(options, [*positionals, *words[at:]], False)
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
    """Whether a word is an option, and not a negative number or a text with spaces."""
    return len(word) > 1 and word[0] == "-" and not _NUMBER.fullmatch(word) and not any(c.isspace() for c in word)


def _named(fields: Sequence[Field], name: str, verb: str) -> tuple[Field, bool]:
    """Option as typed -> its field, and False for --no-..., else True. Raises ConfigError for an unknown option."""
    by_name = {written(field.name): field for field in fields if not field.positional}
    off = {re.sub(r"([^.-][^.]*)$", r"no-\1", key): field for key, field in by_name.items() if field.type is bool}
    wanted = _SHORT.get(name, name.replace("_", "-"))
    if wanted in by_name:
        return by_name[wanted], True
    if wanted in off:
        return off[wanted], False
    last = [key for key in by_name if key.endswith(f".{wanted.lstrip('-')}")]
    if len(last) == 1 and wanted in _LAST_PARTS:
        return by_name[last[0]], True
    hint = f"did you mean '{last[0]}'?" if len(last) == 1 else did_you_mean(wanted, by_name)
    if not hint.startswith("did"):
        hint = f"see unmask {verb} --help."
    raise ConfigError(f"{verb} has no option '{name}'; {hint}")


# ---- from words to values --------------------------------------------------------------------------------------------


def _values(scan: _Scan) -> dict[tuple[str, ...], Any]:
    """The value of each typed option, by its path. Raises ConfigError for a wrong or missing value."""
    values: dict[tuple[str, ...], Any] = {}
    for field, words, on in scan.options:
        name, count = written(field.name), _count(field.type)
        if count == 0 and words:
            raise ConfigError(f"{name} is a switch and takes no value; leave '{words[0]}' out.")
        if count is not None and len(words) < count:
            raise ConfigError(f"{name} lacks {'its value' if not words else 'a value'}; give {_possible(field)}.")
        read = [_read(_element(field.type, index), word, field) for index, word in enumerate(words)]
        if count is None:  # given again, such an option adds to its values; any other one replaces its value
            values[field.path] = (*values.get(field.path, ()), *read)
        elif typing.get_origin(field.type) is tuple:
            values[field.path] = tuple(read)
        else:
            values[field.path] = read[0] if count else on
    return values


def _positional_values(cls: type, scan: _Scan, verb: str) -> dict[tuple[str, ...], Any]:
    """The values of positional fields, by path. Raises ConfigError for too many or too few words, or a wrong one."""
    positional = [field for field in fields_of(cls) if field.positional]
    needed = [field for field in positional if field.required]
    words = scan.positionals
    values = {field.path: _read(field.type, word, field) for field, word in zip(positional, words, strict=False)}
    if positional and typing.get_origin(positional[-1].type) is tuple:  # the last one takes all further words
        last, count = positional[-1], len(positional) - 1
        values.pop(last.path, None)
        if read := tuple(_read(_element(last.type, 0), word, last) for word in words[count:]):
            values[last.path] = read
    elif len(words) > len(positional):
        raise ConfigError(
            f"'{words[len(positional)]}' is a word too many for {verb}; "
            "put a text of several words between quotation marks."
        )
    if len(words) < len(needed):
        raise ConfigError(f"{verb} needs a {needed[len(words)].name.upper()}; see unmask {verb} --help.")
    return values


def _read(type_: Any, word: str, field: Field) -> Any:
    """Word -> its value: that of the first member of the type that accepts the word. Raises ConfigError for none."""
    for choice in (types.NoneType, *(choice for choice in choices_of(type_) if choice is not types.NoneType)):
        if choice is types.NoneType:
            if word == "None" and types.NoneType in choices_of(type_):
                return None
        elif typing.get_origin(choice) is Literal:
            if word in (by_text := {str(value): value for value in typing.get_args(choice)}):
                return by_text[word]
        else:
            try:
                value = choice(word)
            except ValueError:
                continue
            if _holds(field, choice, value):
                return value
    name = field.name.upper() if field.positional else written(field.name)
    raise ConfigError(f"{name} cannot be {shown(word)}; give {_possible(field, word)}.")


def _holds(field: Field, type_: Any, value: Any) -> bool:
    """Whether a value of a type is possible: numbers in the range of the field; "" only where a text is required."""
    if type_ is str:
        return bool(value) or types.NoneType not in choices_of(field.type)
    return field.limits is None or field.limits.holds(value)


def choices_of(type_: Any) -> list[Any]:
    """Type -> the members of a union, or the type itself."""
    members = typing.get_args(type_) if typing.get_origin(type_) in (types.UnionType, typing.Union) else (type_,)
    return [typing.get_args(member)[0] if typing.get_origin(member) is Annotated else member for member in members]


def _count(type_: Any) -> int | None:
    """Type -> the number of words after its option; None for any number."""
    if typing.get_origin(type_) is tuple:
        inner = typing.get_args(type_)
        return None if Ellipsis in inner else len(inner)
    return 0 if type_ is bool else 1


def _element(type_: Any, index: int) -> Any:
    """Type of an option -> the type of its value with this index."""
    if typing.get_origin(type_) is not tuple:
        return type_
    inner = typing.get_args(type_)
    return inner[0] if Ellipsis in inner else inner[min(index, len(inner) - 1)]


def _possible(field: Field, word: str | None = None) -> str:
    """Field -> the possible values, as the end of a sentence about `word`."""
    type_, count = field.type, 1
    if typing.get_origin(type_) is tuple:
        inner = [member for member in typing.get_args(type_) if member is not Ellipsis]
        type_, count = inner[0], len(inner)
    parts: list[str] = []
    for choice in choices_of(type_):
        if typing.get_origin(choice) is Literal:
            parts.append(f"one of {', '.join(map(str, typing.get_args(choice)))}")
        elif field.limits is not None and choice in (int, float):
            parts.append(field.limits.possible(_number(word or "")))
        elif choice is str and word == "":
            parts.append("a text that is not empty")
        elif choice is not types.NoneType:
            parts.append(_NAMES.get(choice, str(choice)))
    each = " or ".join(parts)
    return each if count == 1 else f"{count} values, each {each}"


def _number(word: str) -> float | None:
    """Word -> its number; None where it is none."""
    try:
        return float(word)
    except ValueError:
        return None


def _build(
    cls: type[Arguments], default: Arguments | None, values: Mapping[tuple[str, ...], Any], path: tuple[str, ...]
) -> Arguments:
    """Values at and below `path` -> the dataclass; other fields have the values of `default`, or their own defaults."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(cast(Any, cls)):
        here = (*path, field.name)
        if here in values:
            changes[field.name] = values[here]
        elif any(key[: len(here)] == here for key in values):
            changes[field.name] = _build(_hints(cls)[field.name][0], _inner(default, field), values, here)
    return cls(**changes) if default is None else dataclasses.replace(cast(Any, default), **changes)


def _inner(default: Any, field: "dataclasses.Field[Any]") -> Any:
    """The value of a field in `default`, or else the default of the field; None where it has neither."""
    if default is not None:
        return getattr(default, field.name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default
