"""The numbers that a setting can have: finite, in their range, and of a size that fits their type.

The range is a mark in the annotation of a field, `steps: Annotated[int, whole(1)]`. Three places read it: the command
line (`cli.parse`), what reads files (pydantic calls `Range` itself), and Python code: `check_numbers` in a
`__post_init__`, `checked` around a function whose parameters have such marks. Imports neither torch nor pydantic.
"""

__all__ = [
    "LARGEST",
    "BlockSize",
    "Count",
    "Dial",
    "Draws",
    "Guidance",
    "Natural",
    "Passes",
    "Range",
    "Seed",
    "Temperature",
    "Threads",
    "TopP",
    "check_numbers",
    "check_value",
    "checked",
    "holds",
    "number_of",
    "range_of",
    "real",
    "shown",
    "whole",
]

import dataclasses
import functools
import inspect
import math
import operator
import os
import sys
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar, cast

from unmask.errors import ArgumentError, ConfigError, RequestError, UnmaskError, did_you_mean

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
LARGEST = 2**63 - 1
"""The largest whole number that a setting can have: 64 bits with a sign."""


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers that a setting can have, as a mark in its annotation; made by `whole` or `real`."""

    low: float
    high: float
    hint: str = ""
    """What else the sentence of an error says, such as "usually 0.5"."""
    above: bool = False
    """Whether `low` itself is excluded."""
    below: bool = False
    """Whether `high` itself is excluded."""
    zero: bool = False
    """Whether 0 is possible beside the range."""
    integer: bool = False

    def holds(self, value: object) -> bool:
        """Whether a value is a number of the range: finite, and a whole number where these are asked for."""
        if isinstance(value, bool) or not isinstance(value, Integral if self.integer else Real):
            return False
        try:
            number = int(value) if isinstance(value, Integral) else float(value)
        except OverflowError:  # a fraction of large whole numbers
            return False
        low = number > self.low if self.above else number >= self.low
        high = number < self.high if self.below else number <= self.high  # NaN fails every comparison
        return (self.zero and number == 0) or (low and high and abs(number) <= sys.float_info.max)

    def possible(self, value: object = None) -> str:
        """The possible numbers, as the end of a sentence about `value`."""
        widest = LARGEST if self.integer else math.inf
        bounded = self.high < widest or (isinstance(value, int | float) and value > self.high)
        low = f"{'above' if self.above else 'of at least'} {_digits(self.low)}" if self.low > -widest else ""
        high = f"{'below' if self.below else 'of at most'} {_digits(self.high)}" if bounded else ""
        if low and high and self.above == self.below:
            ends = f"between {_digits(self.low)} and" if self.above else f"from {_digits(self.low)} to"
            low, high = f"{ends} {_digits(self.high)}", ""
        zero = "0 or " if self.zero else ""
        what = "a whole number" if self.integer else "a number" if low or high else "a finite number"
        text = " ".join(filter(None, [f"{zero}{what}", " and ".join(filter(None, [low, high]))]))
        return f"{text} ({self.hint})" if self.hint else text

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> "CoreSchema":
        """The check where pydantic reads a file: an error whose message is `possible`."""
        from pydantic_core import core_schema

        def check(value: Any) -> Any:
            for number in _numbers(value):
                if number is not None and not self.holds(number):
                    raise ValueError(self.possible(number))
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))


def whole(low: int = 0, high: int = LARGEST, hint: str = "") -> Range:
    """Ends, both included -> the whole numbers between them; `hint` ends the sentence of an error."""
    return Range(low, high, hint, integer=True)


def real(
    low: float = -math.inf,
    high: float = math.inf,
    hint: str = "",
    *,
    above: bool = False,
    below: bool = False,
    zero: bool = False,
) -> Range:
    """Ends -> the finite numbers between them: above `low`, below `high` where these are set; with `zero` 0 too."""
    return Range(low, high, hint, above, below, zero)


Count = Annotated[int, whole(1)]
Natural = Annotated[int, whole(0)]
Draws = Annotated[int, whole(2, hint="their spread gives the error")]
Seed = Annotated[int, whole(0)]
Threads = Annotated[int, whole(1, 1024)]
Temperature = Annotated[float, real(1e-4, 1e4, zero=True)]
"""Divides the logits; 0 takes the most probable token. Below 1e-4 the rounding of float32 logits would decide."""
TopP = Annotated[float, real(0, 1, "1 keeps every token", above=True)]
Dial = Annotated[float, real(0, 1, "0 is accurate, 1 is fast")]
Passes = Annotated[float, real(0, above=True)]
BlockSize = Annotated[int, whole(1, hint="None is a single block")]
Guidance = Annotated[float, real(0, 1e4, "0 is none")]


def check_numbers(settings: object, prefix: str = "", error: type[UnmaskError] = ConfigError) -> None:
    """Check each field of a dataclass against its annotation, as `checked` does; call it in `__post_init__`.

    Raises `error` in a sentence with the name (after `prefix`), the value, and what is possible.
    """
    for name in _hints(type(settings)).keys() & {field.name for field in dataclasses.fields(cast(Any, settings))}:
        _check(f"{prefix}{name}", getattr(settings, name), type(settings), name, error, error)


def checked(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Function -> the same, which checks its arguments against its annotations; `help` shows these without ranges.

    Checked are the names of arguments, ranges, and texts, numbers, truth values and lists of these; values of other
    types are left to the function. Raises RequestError for a number outside of its range, and else ArgumentError, in a
    sentence with the name, the value, and what is possible.
    """
    signature = inspect.signature(function)
    free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())

    @functools.wraps(function)
    def call(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
        unknown = set[str]() if free else options.keys() - signature.parameters.keys()
        for name in sorted(unknown):
            known = [key for key in signature.parameters if key != "self"]
            raise ArgumentError(f"{function.__name__} has no argument '{name}'; {did_you_mean(name, known)}")
        try:
            values = signature.bind(*args, **options).arguments
        except TypeError as error:
            raise ArgumentError(f"{function.__name__} cannot be called like this: {error}.") from None
        for name, value in values.items():
            _check(name, value, function, name, RequestError, ArgumentError)
        return function(*args, **options)

    plain = [p.replace(annotation=_unmarked(p.annotation)) for p in signature.parameters.values()]
    cast(Any, call).__signature__ = signature.replace(parameters=plain)
    return call


def _unmarked(annotation: Any) -> Any:
    """Annotation -> the same without marks, at any depth: int for `Count`."""
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _unmarked(members[0])
    if origin in (typing.Union, types.UnionType):
        return functools.reduce(operator.or_, map(_unmarked, members))
    return Sequence[_unmarked(members[0])] if origin is Sequence else annotation


def _check(
    label: str, value: object, annotated: Any, name: str, range_error: type[UnmaskError], type_error: type[UnmaskError]
) -> None:
    """Check a value against the annotation of a field or parameter. Raises an error that calls it `label`."""
    hint, (limits, optional) = _hints(annotated).get(name), _ranges(annotated).get(name, (None, True))
    if limits is None:
        if not _fits(value, hint):
            raise type_error(f"{label} is {shown(value)}; give {' or '.join(_in_words(hint))}.")
        return
    if value is None and optional:
        return
    lists = [member for member in _members(hint) if typing.get_origin(member) in (tuple, list, Sequence)]
    if not lists or not _listed(value):
        if lists and not {int, float} & set(_members(hint)):
            raise type_error(f"{label} is {shown(value)}; give a list of numbers.")
        check_value(label, value, limits, range_error)
        return
    numbers, counts = cast(Sequence[object], value), {_length(member) for member in lists}
    if None not in counts and len(numbers) not in counts:
        raise range_error(
            f"{label} is {shown(value)}; give {' or '.join(map(str, sorted(filter(None, counts))))} numbers."
        )
    for number in numbers:
        if number is not None or not optional:
            check_value(f"a value of {label}", number, limits, range_error)


def _members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; another annotation itself."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def _length(annotation: Any) -> int | None:
    """The number of values of a tuple as it is annotated; None for any number."""
    members = typing.get_args(annotation)
    return None if typing.get_origin(annotation) is not tuple or Ellipsis in members else len(members)


def check_value(name: str, value: object, limits: Any, error: type[UnmaskError] = ConfigError) -> None:
    """Check one number against a Range, or against a type that is marked with one. Raises `error` in a sentence."""
    range_ = _range(limits)
    if not range_.holds(value):
        raise error(f"{name} is {shown(value)}; give {range_.possible(value)}.")


def holds(limits: Any, value: object) -> bool:
    """Whether a value is a number of a Range, or of a type that is marked with one."""
    return _range(limits).holds(value)


def number_of(name: str, text: str, limits: Any, error: type[UnmaskError] = RequestError) -> float:
    """The text of a number -> the number, checked as by `check_value`: an int for a range of whole numbers."""
    range_ = _range(limits)
    value: Any = text
    with suppress(ValueError):
        value = int(text) if range_.integer else float(text)
    check_value(name, value, range_, error)
    return value


def shown(value: object) -> str:
    """Value -> its text in a sentence, quoted where it is a text, and cut where it is long."""
    try:
        text = f"'{value}'" if isinstance(value, str) else str(value)
    except ValueError:  # Python refuses to print thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def range_of(annotation: Any) -> Range | None:
    """Annotation -> the Range that is a mark in it, at any depth; None without one."""
    if typing.get_origin(annotation) is Annotated:
        inner, *marks = typing.get_args(annotation)
        return next((mark for mark in marks if isinstance(mark, Range)), range_of(inner))
    return next(filter(None, map(range_of, typing.get_args(annotation))), None)


def _range(limits: Any) -> Range:
    range_ = limits if isinstance(limits, Range) else range_of(limits)
    assert range_ is not None, limits
    return range_


@functools.cache
def _ranges(annotated: Any) -> dict[str, tuple[Range, bool]]:
    """Dataclass or function -> the range of each field or parameter that has one, and whether it may be None."""
    hints = typing.get_type_hints(annotated, include_extras=True)
    ranges = {name: range_of(hint) for name, hint in hints.items()}
    return {name: (limits, _optional(hints[name])) for name, limits in ranges.items() if limits is not None}


def _optional(annotation: Any) -> bool:
    """Whether None is a member of the annotation."""
    return types.NoneType in typing.get_args(_unmarked(annotation))


def _numbers(value: object) -> Iterable[object]:
    """Number -> itself in a tuple; a list of numbers, or another sequence of them, is returned as it is."""
    return cast(Iterable[object], value) if _listed(value) else (value,)


@functools.cache
def _hints(annotated: Any) -> dict[str, Any]:
    return typing.get_type_hints(annotated)


_WORDS = {
    str: ("a text", "texts"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("True or False", "truth values"),
    types.NoneType: ("None", "None"),
    os.PathLike[str]: ("a path", "paths"),
}


def _fits(value: object, annotation: Any) -> bool:
    """Whether a value can have an annotation; True for annotations that are not checked."""
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (int, float):
        return isinstance(value, Integral if annotation is int else Real) and not isinstance(value, bool)
    if annotation in _WORDS:
        return isinstance(value, cast(type, origin or annotation))
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, member) for member in members)
    if origin is typing.Literal:
        return value in members
    if origin is Sequence or (origin is tuple and Ellipsis in members):
        return _listed(value) and all(_fits(entry, members[0]) for entry in cast(Sequence[object], value))
    return True


def _in_words(annotation: Any, plural: int = 0) -> list[str]:
    """The types of an annotation, in words: for a value, or with `plural` 1 for several."""
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _WORDS:
        return [_WORDS[annotation][plural]]
    if origin in (typing.Union, types.UnionType):
        return list(dict.fromkeys(word for member in members for word in _in_words(member, plural)))
    if origin is typing.Literal:
        return [f"{'one of ' if not plural else ''}{', '.join(map(shown, members))}"]
    if origin in (Sequence, tuple):
        each = [word for member in members if member is not Ellipsis for word in _in_words(member, 1)]
        return [f"a list of {' or '.join(each)}"]
    return [getattr(annotation, "__name__", str(annotation))]


def _listed(value: object) -> bool:
    """Whether a value is a list, a tuple, an array or another sequence, and no text."""
    sized = hasattr(value, "__len__") and hasattr(value, "__getitem__") and getattr(value, "ndim", 1) != 0
    return sized and not isinstance(value, str | bytes | dict)


def _digits(value: float) -> str:
    """End of a range -> its text, with every digit of a whole number."""
    return str(int(value)) if value == int(value) else f"{value:g}"
