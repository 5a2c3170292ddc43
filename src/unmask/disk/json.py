"""Strict reading of text, JSON and TOML: UTF-8, limited size and depth, finite numbers, values of a known type.

A byte order mark is no part of a text, and lines end by LF, CRLF or CR. JSON has no NaN and no repeated keys.
"""

__all__ = [
    "JSON_BYTES",
    "JSON_DEPTH",
    "LINES_BYTES",
    "NotJson",
    "Shape",
    "fact_of",
    "json_lines",
    "parse_json",
    "read_json",
    "read_lines",
    "read_text",
    "read_toml",
]

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, NoReturn, TypeVar, cast, get_args, get_origin

from unmask.config import adapter, first_problem, to_path
from unmask.disk.files import reason_of
from unmask.errors import ConfigError, UnmaskError

Shape = TypeVar("Shape")

JSON_BYTES = 64 << 20
"""The largest JSON file that is read, in bytes."""
LINES_BYTES = 1 << 30
"""The largest line in a file of JSON lines, and the largest such file that is read into memory whole, in bytes."""
JSON_DEPTH = 100
"""The deepest nesting of lists and objects that is read."""
_AGAIN = "copy or write the file again"


class NotJson(ValueError):
    """The reason why a text is not JSON of the expected type.

    `reason` is the predicate of a sentence ("is not JSON"); `detail` is the message of the parser, or ""; `cut` is true
    where the text is no JSON at all, such as a line that was cut off while it was written.
    """

    def __init__(self, reason: str, detail: str = "", *, cut: bool = False) -> None:
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason, self.detail, self.cut = reason, detail, cut


def read_json(
    path: str | os.PathLike[str],
    shape: type[Shape],
    error: type[UnmaskError],
    advice: str = _AGAIN,
    limit: int = JSON_BYTES,
) -> Shape:
    """File -> its JSON value, of type `shape` (see `parse_json`).

    Raises `error` in one sentence that names the file, what is wrong (with the field), and `advice`.
    """
    try:
        return parse_json(read_text(path, limit), shape)
    except OSError as problem:
        raise error(f"{os.fspath(path)} cannot be read ({reason_of(problem)}): {advice}.") from problem
    except NotJson as problem:
        raise error(f"{os.fspath(path)} is damaged: it {problem.reason}; {advice}.") from problem


def fact_of(
    record: Mapping[str, Any],
    names: Sequence[str],
    shape: type[Shape],
    path: str | os.PathLike[str],
    error: type[UnmaskError],
    advice: str = _AGAIN,
) -> Shape | None:
    """The object in a JSON file and names of nested fields -> the value there, of type `shape`; None without one.

    Raises `error` as `read_json` does for a value of another type.
    """
    value: object = record
    try:
        for depth, name in enumerate(names):
            outer = _shaped("", value, dict[str, Any], names[:depth])
            if outer.get(name) is None:
                return None
            value = outer[name]
        return _shaped(json.dumps(value), value, shape, names)
    except NotJson as problem:
        raise error(f"{os.fspath(path)} is damaged: it {problem.reason}; {advice}.") from problem


def read_text(path: str | os.PathLike[str], limit: int = JSON_BYTES) -> str:
    """File -> its text without a byte order mark, every line ended by LF.

    Raises OSError where it cannot be opened, NotJson where it is larger than `limit` bytes or not UTF-8.
    """
    with open(to_path(path), "rb") as file:
        return _decoded(file.read(limit + 1), limit)


def read_lines(path: str | os.PathLike[str], error: type[UnmaskError], content: str) -> list[str]:
    """Text file -> its lines, without the empty one after the last line end; `content` says what it should hold.

    Raises `error` where it cannot be read, is too large or not UTF-8, or is empty.
    """
    try:
        lines = read_text(path, LINES_BYTES).split("\n")
    except OSError as problem:
        raise error(f"{os.fspath(path)} cannot be read ({reason_of(problem)}); give {content}.") from problem
    except NotJson as problem:
        raise error(f"{os.fspath(path)} {problem}; give {content}.") from problem
    lines = lines if lines[-1] else lines[:-1]
    if not lines:
        raise error(f"{os.fspath(path)} is empty; give {content}.")
    return lines


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """TOML file -> its tables. Raises ConfigError where it cannot be read, or is not TOML (with the line)."""
    import tomllib

    advice = "give the path of a TOML file"
    try:
        value = tomllib.loads(read_text(path))
        _check_depth(value)
        return value
    except OSError as error:
        raise ConfigError(f"{os.fspath(path)} cannot be read ({reason_of(error)}): {advice}.") from error
    except RecursionError as error:
        raise ConfigError(f"{os.fspath(path)} {_TOO_DEEP}: give tables within tables a few levels deep.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{os.fspath(path)} is not valid TOML: {str(error)[:1].lower()}{str(error)[1:]}.") from error
    except NotJson as error:
        raise ConfigError(f"{os.fspath(path)} {error}: {advice}.") from error
    except ValueError as error:
        raise ConfigError(f"{os.fspath(path)} {_TOO_LONG}: {advice}.") from error


def parse_json(text: str, shape: type[Shape]) -> Shape:
    """Text -> its JSON value, of type `shape`: dict[str, Any], or a type that pydantic checks by the rules of JSON.

    Fields that a dataclass does not have are ignored. Raises NotJson.
    """
    sampled = text[:: _DIGITS // 4]  # a number of so many digits has four characters there, and few texts have any
    decoder = _CAREFUL if _FOUR_DIGITS.search(sampled) and _LONG_NUMBER.search(text) else _DECODER
    try:
        value: object = decoder.decode(text)
    except RecursionError as error:
        raise NotJson(_TOO_DEEP) from error
    except NotJson:
        raise
    except json.JSONDecodeError as error:
        raise NotJson("is not JSON", error.msg.removesuffix(" at"), cut=True) from error
    except ValueError as error:
        raise NotJson(_TOO_LONG) from error
    if text.count("[") + text.count("{") > JSON_DEPTH:
        _check_depth(value)
    return _shaped(text, value, shape)


def json_lines(file: IO[bytes], shape: type[Shape], limit: int = LINES_BYTES) -> Iterator[tuple[int, Shape | NotJson]]:
    """Open file of JSON lines -> (line number from 1, value or NotJson) of each line that is not blank.

    It ends after a line of more than `limit` bytes.
    """
    number = 0
    while block := file.readline(limit + 1):
        lines = [block] if len(block) > limit else block.removesuffix(b"\n").removesuffix(b"\r").split(b"\r")
        for number, line in enumerate(lines, start=number + 1):
            try:
                text = _decoded(line, limit).strip()
                if text:
                    yield number, parse_json(text, shape)
            except NotJson as problem:
                yield number, problem
        if len(block) > limit:  # the start of the next line is unknown
            return


def _decoded(content: bytes, limit: int) -> str:
    """Bytes -> text. Raises NotJson for more than `limit` bytes, and for bytes that are not UTF-8."""
    if len(content) > limit:
        raise NotJson(f"is larger than {limit >> 20} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotJson("is not UTF-8 text", cut=True) from error
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Keys and values -> object. Raises NotJson for a repeated key."""
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise NotJson(f"has the key {next(key for key in keys if keys.count(key) > 1)!r} twice in one object")
    return value


def _constant(name: str) -> NoReturn:
    """Raise NotJson for NaN or infinity."""
    raise NotJson(f"holds {name}, which is no JSON number")


def _finite(text: str) -> float:
    """Text of a number -> the number. Raises NotJson where it is too large for a float."""
    value = float(text)
    if math.isinf(value):
        raise NotJson(f"holds {text[:40]}, which is too large for a number")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_finite)


def _whole(text: str) -> int:
    """Text of a whole number -> the number. Raises NotJson where it has more digits than a float can have."""
    if len(text) > _DIGITS:
        raise NotJson(_TOO_LONG)
    return int(text)


_DIGITS = 300
_FOUR_DIGITS = re.compile(r"\d{4}")
_LONG_NUMBER = re.compile(rf"\d{{{_DIGITS}}}")
_CAREFUL = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_finite, parse_int=_whole)
_TOO_LONG = "holds a number of hundreds of digits"
_TOO_DEEP = f"is nested deeper than {JSON_DEPTH} levels"


def _check_depth(value: object) -> None:
    """Raise NotJson for nesting deeper than `JSON_DEPTH`; without recursion, level by level."""
    level = [value]
    for _ in range(JSON_DEPTH):
        inner = [cast(dict[str, object], item).values() if isinstance(item, dict) else item for item in level]
        level = [part for parts in cast(list[list[object]], inner) for part in parts if isinstance(part, dict | list)]
        if not level:
            return
    raise NotJson(_TOO_DEEP)


def _shaped(text: str, value: object, shape: type[Shape], outer: Sequence[str] = ()) -> Shape:
    """Text and its parsed value -> the value of type `shape`. Raises NotJson, which names the field that is wrong.

    `outer` are the names of the fields that lead to the value.
    """
    if get_origin(shape) is dict and get_args(shape) == (str, Any):
        if not isinstance(value, dict):
            raise NotJson(f"has no JSON object in the field '{'.'.join(outer)}'" if outer else "is not a JSON object")
        return cast(Shape, value)

    from pydantic import ValidationError

    try:
        return adapter(shape).validate_json(text, strict=True)
    except ValidationError as error:
        field, content, possible = first_problem(error, value)
        field = ".".join(filter(None, [*outer, field]))
        where = f"in the field '{field}'" if field else "as the whole"
        reason = f"has {content} {where}, which has to be {possible}" if possible else f"has no field '{field}'"
        first = error.errors()[0]
        location = ".".join(map(str, first["loc"]))
        raise NotJson(reason, f"{location}: {first['msg']}" if location else first["msg"]) from error
