"""From words typed to a frozen dataclass.

tyro does the reading and the help; what is wrong is found here before, so that it can be said in one sentence.
"""

__all__ = ["given_options", "given_positionals", "option_names", "parse"]

import contextlib
import dataclasses
import io
import re
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeVar, cast

import tyro

from unmask.errors import ConfigError, UnmaskError, did_you_mean

Arguments = TypeVar("Arguments")

_POSITIONAL = typing.get_args(tyro.conf.Positional[str])[1]
_NUMBER = re.compile(r"-\.?\d.*|-inf")
_KINDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", types.NoneType: "None"}


class _Field(NamedTuple):
    name: str  # dotted, with underscores
    kind: Any  # its annotation, without marks
    positional: bool
    required: bool


class _Scan(NamedTuple):
    options: list[tuple[_Field, list[str]]]
    positionals: list[str]
    help: bool


def parse(cls: type[Arguments], argv: Sequence[str], verb: str, default: Arguments | None = None) -> Arguments:
    """The arguments of a verb. `default` gives the values of what is not named.

    Raises ConfigError, in one sentence, for an unknown option, a missing or wrong value, too many or too few words.
    Prints the help and raises SystemExit where it is asked for.
    """
    scan = _scan(cls, argv, verb)
    if not scan.help:
        _check(cls, scan, verb)
    noise = io.StringIO()
    try:
        with contextlib.nullcontext() if scan.help else contextlib.redirect_stderr(noise):
            extra: dict[str, Any] = {} if default is None else {"default": default}
            return tyro.cli(cls, args=list(argv), prog=f"unmask {verb}", **extra)
    except SystemExit as end:
        if end.code in (0, None):
            raise
        own = _own_error(end)
        if own is not None:
            raise own from None
        told = " ".join(re.sub(r"[^\x20-\x7e]", " ", noise.getvalue()).split())
        raise ConfigError(f"{verb} does not understand this ({told}): see unmask {verb} --help.") from None


def _own_error(error: BaseException | None) -> UnmaskError | None:
    """The refusal of a settings class, which tyro has taken for an error of its own."""
    while error is not None:
        if isinstance(error, UnmaskError):
            return error
        error = error.__cause__ or error.__context__
    return None


def option_names(cls: type) -> list[str]:
    """Every option that a verb has, as it is written: --train.eval-every."""
    return [_written(field.name) for field in _fields(cls) if not field.positional]


def given_options(cls: type, argv: Sequence[str], verb: str) -> set[str]:
    """The dotted names (with underscores) of the options that were typed. Raises ConfigError as `parse` does."""
    return {field.name for field, _ in _scan(cls, argv, verb).options}


def given_positionals(cls: type, argv: Sequence[str], verb: str) -> list[str]:
    """The words that belong to no option. Raises ConfigError as `parse` does."""
    return _scan(cls, argv, verb).positionals


def _written(name: str) -> str:
    return "--" + name.replace("_", "-")


def _fields(cls: type, prefix: str = "") -> list[_Field]:
    """The leaves of a tree of dataclasses."""
    hints, found = typing.get_type_hints(cls, include_extras=True), list[_Field]()
    for field in dataclasses.fields(cls):
        kind, marks = hints[field.name], ()
        if typing.get_origin(kind) is typing.Annotated:
            kind, *marks = typing.get_args(kind)
        if dataclasses.is_dataclass(kind):
            found += _fields(cast(type, kind), f"{prefix}{field.name}.")
            continue
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        found.append(_Field(prefix + field.name, kind, _POSITIONAL in marks, required))
    return found


def _scan(cls: type, argv: Sequence[str], verb: str) -> _Scan:
    """Sort the words into options with their values, and the rest."""
    fields = _fields(cls)
    options: list[tuple[_Field, list[str]]] = []
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
        field = _named(fields, name, verb)
        if equals:
            options.append((field, [value]))
            continue
        count = _count(field.kind)
        taken = 0
        while at + taken < len(words) and (count is None or taken < count) and not _is_option(words[at + taken]):
            taken += 1
        options.append((field, words[at : at + taken]))
        at += taken
    return _Scan(options, positionals, False)


def _is_option(word: str) -> bool:
    return len(word) > 1 and word[0] == "-" and not _NUMBER.fullmatch(word) and not any(c.isspace() for c in word)


def _named(fields: list[_Field], name: str, verb: str) -> _Field:
    """The field of an option as typed, --no-... included; ConfigError where there is none."""
    by_name = {_written(field.name): field for field in fields if not field.positional}
    off = {re.sub(r"([^.-][^.]*)$", r"no-\1", key): field for key, field in by_name.items() if field.kind is bool}
    wanted = name.replace("_", "-")
    if wanted in by_name:
        return by_name[wanted]
    if wanted in off:
        return off[wanted]
    last = [key for key in by_name if key.endswith(f".{wanted.lstrip('-')}")]
    hint = f"did you mean '{last[0]}'?" if len(last) == 1 else did_you_mean(wanted, by_name)
    if not hint.startswith("did"):
        hint = f"see unmask {verb} --help."
    raise ConfigError(f"{verb} has no option '{name}'; {hint}")


def _check(cls: type, scan: _Scan, verb: str) -> None:
    """Refuse values that no field of that kind can have, and words too many or too few."""
    for field, values in scan.options:
        name, count = _written(field.name), _count(field.kind)
        if count == 0 and values:
            raise ConfigError(f"{name} is a switch and takes no value; leave '{values[0]}' out.")
        if count is not None and len(values) < count:
            raise ConfigError(f"{name} lacks {'its value' if not values else 'a value'}; give {_possible(field.kind)}.")
        for place, value in enumerate(values):
            if not _fits(_element(field.kind, place), value):
                raise ConfigError(f"{name} cannot be '{value}'; give {_possible(field.kind)}.")
    places = [field for field in _fields(cls) if field.positional]
    needed = [field for field in places if field.required]
    for field, value in zip(places, scan.positionals, strict=False):
        if not _fits(field.kind, value):
            raise ConfigError(f"{field.name.upper()} cannot be '{value}'; give {_possible(field.kind)}.")
    if len(scan.positionals) > len(places):
        extra = scan.positionals[len(places)]
        raise ConfigError(
            f"'{extra}' is a word too many for {verb}; put a text of several words between quotation marks."
        )
    if len(scan.positionals) < len(needed):
        missing = needed[len(scan.positionals)].name.upper()
        raise ConfigError(f"{verb} needs a {missing}; see unmask {verb} --help.")


def _choices(kind: Any) -> list[Any]:
    """The members of a union; a kind alone is its own only member."""
    return list(typing.get_args(kind)) if typing.get_origin(kind) in (types.UnionType, typing.Union) else [kind]


def _count(kind: Any) -> int | None:
    """How many words follow the option; None for as many as there are."""
    if kind is bool:
        return 0
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        return None if Ellipsis in inner else len(inner)
    return 1


def _element(kind: Any, place: int) -> Any:
    if typing.get_origin(kind) is not tuple:
        return kind
    inner = typing.get_args(kind)
    return inner[0] if Ellipsis in inner else inner[min(place, len(inner) - 1)]


def _fits(kind: Any, text: str) -> bool:
    """Whether a word can be read as that kind."""
    for choice in _choices(kind):
        if typing.get_origin(choice) is Literal:
            if text in map(str, typing.get_args(choice)):
                return True
        elif choice is types.NoneType:
            if text == "None":
                return True
        elif choice in (int, float):
            try:
                choice(text)
                return True
            except ValueError:
                continue
        else:
            return True
    return False


def _possible(kind: Any) -> str:
    """What could be given, as the end of a sentence."""
    if typing.get_origin(kind) is tuple:
        inner = [one for one in typing.get_args(kind) if one is not Ellipsis]
        each = _possible(inner[0])
        return each if len(inner) == 1 else f"{len(inner)} values, each {each}"
    parts: list[str] = []
    for choice in _choices(kind):
        if typing.get_origin(choice) is Literal:
            parts.append(f"one of {', '.join(map(str, typing.get_args(choice)))}")
        elif choice is not types.NoneType:
            parts.append(_KINDS.get(choice, str(choice)))
    return " or ".join(parts)
