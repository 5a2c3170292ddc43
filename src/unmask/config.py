"""Settings as plain data: frozen dataclasses to and from JSON, TOML files, and the record of where a run took place.

Nothing here needs torch, and pydantic is imported only when settings are checked.
"""

__all__ = ["from_dict", "library_versions", "merge", "read_toml", "run_record", "to_dict"]

import dataclasses
import json
import os
import platform
import sys
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from unmask.errors import ConfigError, UnmaskError, did_you_mean

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError
    from pydantic_core import ErrorDetails

Settings = TypeVar("Settings")

_POSSIBLE = {
    "bool_type": "true or false",
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "list_type": "a list",
    "none_required": "nothing",
    "path_type": "a path",
    "string_type": "a text",
    "tuple_type": "a list",
    "dataclass_type": "a table of settings",
    "dict_type": "a table",
}


def to_dict(settings: object) -> dict[str, Any]:
    """The settings as what JSON knows (tuples become lists, paths texts); `from_dict` gives them back unchanged."""
    return _adapter(type(settings)).dump_python(settings, mode="json")


def from_dict(cls: type[Settings], data: Mapping[str, Any], where: str) -> Settings:
    """Build the frozen dataclass `cls` from plain data; `where` says in errors whose data it is.

    Raises ConfigError for a key that `cls` does not have, at any depth, for a missing one, and for a value of the
    wrong type; an error that `cls` raises about its own values passes unchanged.
    """
    from pydantic import ValidationError

    for key, name, known in _unknown_keys(cls, data, ""):
        raise ConfigError(f"{where}: there is no setting '{key}': {did_you_mean(name, known)}")
    text = json.dumps(data, default=str)  # JSON rules: lists for tuples, and no text that stands for a number
    try:
        return _adapter(cls).validate_json(text, strict=True)
    except ValidationError as error:
        raise _as_config_error(error, data, where) from error


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over` in place of its own, table within table; neither is changed."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(cast(Mapping[str, Any], old), cast(Mapping[str, Any], value)) if both else value
    return merged


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The tables of a TOML file; ConfigError if it is missing, unreadable, or wrong (with the line)."""
    try:
        text = Path(path).read_bytes().decode("utf-8")
        return tomllib.loads(text)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist: give the path of a TOML file.") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"{path} cannot be read ({reason}): give the path of a TOML file.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file: give the path of a TOML file.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {_lower_first(str(error))}.") from error


def library_versions() -> dict[str, str]:
    """Versions of this library, Python, and of torch, numpy, safetensors and tokenizers where installed."""
    versions = {"unmask": _version("unmask"), "python": platform.python_version()}
    return versions | {name: _version(name) for name in ("torch", "numpy", "safetensors", "tokenizers")}


def run_record() -> dict[str, Any]:
    """Where and with what a run takes place, for run.json; torch's threads are asked for only if it is imported."""
    torch = sys.modules.get("torch")
    return {
        "versions": library_versions(),
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads() if torch is not None else os.cpu_count(),
        "commit": _commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def _adapter(cls: type[Settings]) -> "TypeAdapter[Settings]":
    """pydantic's reader and writer of one settings class; it is costly to make, so made once."""
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _unknown_keys(annotation: Any, value: object, prefix: str) -> Iterator[tuple[str, str, list[str]]]:
    """(dotted key, its last name, names that exist there) for each key that no dataclass at that place has."""
    if dataclasses.is_dataclass(annotation) and isinstance(value, Mapping):
        hints = _hints(cast(type, annotation))
        for name, inner in cast(Mapping[str, object], value).items():
            if name in hints:
                yield from _unknown_keys(hints[name], inner, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", name, list(hints)
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType):
        tables = [choice for choice in typing.get_args(annotation) if dataclasses.is_dataclass(choice)]
        yield from min((list(_unknown_keys(table, value, prefix)) for table in tables), key=len, default=[])
    elif typing.get_origin(annotation) in (list, tuple) and isinstance(value, list | tuple):
        inner_types = [kind for kind in typing.get_args(annotation) if kind is not Ellipsis]
        for index, item in enumerate(cast(list[object], value)):
            yield from _unknown_keys(inner_types[min(index, len(inner_types) - 1)], item, f"{prefix}{index}.")
    elif typing.get_origin(annotation) is dict and isinstance(value, Mapping):
        for name, item in cast(Mapping[str, object], value).items():
            yield from _unknown_keys(typing.get_args(annotation)[1], item, f"{prefix}{name}.")


@cache
def _hints(cls: type) -> dict[str, Any]:
    """Types of the fields that may be given, by name."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _as_config_error(error: "ValidationError", data: Mapping[str, Any], where: str) -> UnmaskError:
    """The first thing pydantic found, as one sentence: the key, what was given, what is possible."""
    details = error.errors()
    first = details[0]
    own = first.get("ctx", {}).get("error")
    if isinstance(own, UnmaskError):
        return own
    key, given = _locate(first["loc"], data)
    given_text = json.dumps(given, default=str, ensure_ascii=False)
    if first["type"] == "missing" and isinstance(first["loc"][-1], int):
        return ConfigError(f"{where}: the setting '{key}' cannot be {given_text}: give a longer list.")
    if first["type"] == "missing":
        return ConfigError(f"{where}: the setting '{key}' is missing: give it a value.")
    same = [detail for detail in details if _locate(detail["loc"], data)[0] == key]
    possible = " or ".join(dict.fromkeys(_possible(detail) for detail in same))
    name = f"the setting '{key}'" if key else "the whole"
    return ConfigError(f"{where}: {name} cannot be {given_text}: give {possible}.")


def _locate(location: tuple[int | str, ...], data: Mapping[str, Any]) -> tuple[str, object]:
    """The dotted key and the value there; parts that pydantic adds for the branches of a union are left out."""
    keys: list[str] = []
    value: Any = data
    for position, part in enumerate(location):
        if isinstance(value, Mapping) and part in value:
            value = cast(Mapping[str | int, Any], value)[part]
        elif isinstance(value, list | tuple) and isinstance(part, int) and part < len(cast(list[Any], value)):
            value = cast(list[Any], value)[part]
        elif not (isinstance(value, Mapping) and position == len(location) - 1):
            continue
        keys.append(str(part))
    return ".".join(keys), value


def _possible(detail: "ErrorDetails") -> str:
    """What could have been given instead, as the end of a sentence."""
    context = detail.get("ctx", {})
    if detail["type"] in ("literal_error", "enum"):
        return f"one of {context['expected']}"
    if detail["type"] == "value_error":
        return str(context["error"]).removesuffix(".")
    return _POSSIBLE.get(detail["type"], "") or f"another value ({_lower_first(detail['msg'])})"


def _lower_first(text: str) -> str:
    """The text with a small first letter, to stand inside a sentence."""
    return text[:1].lower() + text[1:]


def _version(name: str) -> str:
    """An installed package's version, or "not installed" (for unmask itself: used straight from its source)."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """The processor's model as Linux names it, elsewhere as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit this library's source stands at, or else that of the working folder; None outside of git."""
    source = Path(__file__).resolve().parents[2]
    for folder in (source, *(Path.cwd() / "here").parents):
        git = folder / ".git"
        if git.exists():
            try:
                return _head(git)
            except (OSError, ValueError):
                return None
    return None


def _head(git: Path) -> str | None:
    """The commit of a .git folder's HEAD, read from its files; `git` is a file in a linked working tree."""
    if git.is_file():
        git = (git.parent / git.read_text().partition(":")[2].strip()).resolve()
    head = (git / "HEAD").read_text().strip()
    if not head.startswith("ref:"):
        return head
    name = head.partition(":")[2].strip()
    common = git / (git / "commondir").read_text().strip() if (git / "commondir").exists() else git
    for folder in (git, common):
        if (folder / name).is_file():
            return (folder / name).read_text().strip()
    packed = common / "packed-refs"
    lines = packed.read_text().splitlines() if packed.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {name}")), None)
