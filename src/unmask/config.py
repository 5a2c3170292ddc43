"""Settings as plain data: frozen dataclasses to and from JSON, TOML files, and the record of where a run took place.

Nothing here needs torch, and pydantic is imported only when settings are checked.
"""

__all__ = [
    "adapter",
    "first_problem",
    "from_dict",
    "library_versions",
    "merge",
    "processor_facts",
    "read_toml",
    "run_record",
    "to_dict",
]

import dataclasses
import json
import os
import platform
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from unmask.errors import ConfigError, UnmaskError, did_you_mean

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError
    from pydantic_core import ErrorDetails

Settings = TypeVar("Settings")

_SOURCE = Path(__file__).resolve().parents[2]
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


@cache
def adapter(cls: type[Settings]) -> "TypeAdapter[Settings]":
    """Type -> what pydantic reads and writes it with; it is costly to make, so made once."""
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def to_dict(settings: object) -> dict[str, Any]:
    """The settings as what JSON knows (tuples become lists, paths texts); `from_dict` gives them back unchanged."""
    return adapter(type(settings)).dump_python(settings, mode="json")


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
        return adapter(cls).validate_json(text, strict=True)
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
    import tomllib

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
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deep: give tables within tables a few levels deep.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {_lower_first(str(error))}.") from error


def library_versions() -> dict[str, str]:
    """Versions of this library, Python, and of torch, numpy, safetensors and tokenizers where installed."""
    from unmask import __version__

    versions = {"unmask": __version__, "python": platform.python_version()}
    return versions | {name: _version(name) for name in ("torch", "numpy", "safetensors", "tokenizers")}


def run_record() -> dict[str, Any]:
    """Where and with what a run takes place, for run.json; torch's threads are asked for only if it is imported.

    The commit is that of this library's own checkout; None where it runs from anywhere else.
    """
    torch = sys.modules.get("torch")
    return {
        "versions": library_versions(),
        "platform": platform.platform(),
        "processor": processor_facts().get("model name") or platform.processor() or platform.machine(),
        "threads": torch.get_num_threads() if torch is not None else os.cpu_count(),
        "commit": _commit(_SOURCE),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def processor_facts() -> dict[str, str]:
    """What Linux reports of the first processor ("model name", "flags"); empty on other systems."""
    try:
        first = Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


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
    """The first thing pydantic refused, as one sentence: the key, what was given, what is possible."""
    own = error.errors()[0].get("ctx", {}).get("error")
    if isinstance(own, UnmaskError):
        return own
    key, given, possible = first_problem(error, data)
    if not possible:
        return ConfigError(f"{where}: the setting '{key}' is missing: give it a value.")
    name = f"the setting '{key}'" if key else "the whole"
    return ConfigError(f"{where}: {name} cannot be {given}: give {possible}.")


def first_problem(error: "ValidationError", data: object) -> tuple[str, str, str]:
    """What pydantic refused first in `data`: dotted key, the value there as JSON, what is possible ("" if missing)."""
    details = error.errors()
    first = details[0]
    key, value = _locate(first["loc"], data)
    text = json.dumps(value, default=str, ensure_ascii=False)
    if first["type"] == "missing":
        return key, text, "a longer list" if isinstance(first["loc"][-1], int) else ""
    same = [detail for detail in details if _locate(detail["loc"], data)[0] == key]
    return key, text, " or ".join(dict.fromkeys(_possible(detail) for detail in same))


def _locate(location: tuple[int | str, ...], data: object) -> tuple[str, object]:
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
    """An installed package's version, or "not installed"."""
    from importlib import metadata  # a tenth of the time that `unmask info` takes, and only writers need it

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


@cache
def _commit(source: Path) -> str | None:
    """The commit that the git checkout `source` stands at; None where it is none itself, or git cannot say."""
    if not (source / ".git").exists():  # else git would look into the folders around it, which are not this library's
        return None
    import subprocess

    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(source), "rev-parse", "HEAD"]
    try:
        asked = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip()
