"""Settings as plain data: frozen dataclasses to and from JSON, and the record of a run's environment.

This module does not import torch, and imports pydantic only when settings are checked.
"""

__all__ = [
    "absolute_path",
    "adapter",
    "cache_folder",
    "first_problem",
    "from_dict",
    "is_typed",
    "library_versions",
    "merge",
    "moved",
    "processor_facts",
    "run_record",
    "to_dict",
    "to_path",
    "trust_recorded",
    "typed",
    "typed_files",
]

import dataclasses
import glob
import json
import os
import platform
import re
import sys
import types
import typing
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
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
    """Type -> the pydantic adapter that reads and writes it, made once a type because making it is slow."""
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def to_dict(settings: object) -> dict[str, Any]:
    """Settings -> JSON values (tuples become lists, paths become texts); `from_dict` is the inverse."""
    return adapter(type(settings)).dump_python(settings, mode="json")


def from_dict(
    cls: type[Settings], data: Mapping[str, Any], where: str, error: type[UnmaskError] = ConfigError
) -> Settings:
    """Plain data -> the frozen dataclass `cls`; `where` names the source of the data in errors.

    Raises `error` for a key that `cls` does not have, at any depth, for a missing key, for a value of the wrong type or
    out of its range, and for what `cls` itself refuses.
    """
    from pydantic import ValidationError

    for key, name, known in _unknown_keys(cls, data, ""):
        raise error(f"{where}: there is no setting '{key}': {did_you_mean(name, known)}")
    text = json.dumps(data, default=str)  # the rules of JSON: lists for tuples, and a text is no number
    try:
        return adapter(cls).validate_json(text, strict=True)
    except ValidationError as problem:
        raise error(f"{where}: {_sentence(problem, data)}") from problem


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Two tables -> `base` with its values replaced by those of `over`, in nested tables too; neither is changed."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(cast(Mapping[str, Any], old), cast(Mapping[str, Any], value)) if both else value
    return merged


def to_path(text: str | os.PathLike[str]) -> Path:
    """A path as a person wrote it -> the path: ~ and ~NAME at its start are home folders. Path("~/x") keeps the sign.

    Raises ConfigError for a text with the character NUL, which no path has, and for ~NAME without such a user.
    """
    name = os.fsdecode(text)
    if not name:
        raise ConfigError("A path is empty; give a file or a folder (. is the folder that you work in).")
    if "\0" in name:
        raise ConfigError(f"'{name}' is no path: it has the character NUL in it.")
    path = os.path.expanduser(name)
    if path == name and name.startswith("~") and not os.path.lexists(name.partition("/")[0]):
        user = name.partition("/")[0]
        raise ConfigError(f"'{name}' begins with {user}, and there is no home folder of that name: write ./{name}.")
    return Path(path)


def cache_folder() -> Path:
    """The folder of the cache: $UNMASK_CACHE, else ~/.cache/unmask."""
    setting = os.environ.get("UNMASK_CACHE")
    return to_path(setting) if setting else Path.home() / ".cache" / "unmask"


def absolute_path(typed: str) -> str:
    """A path or a pattern as it was typed -> the absolute one; a text that is neither, such as a name, is unchanged.

    Runs record this form, so that they can be used from any folder.
    """
    path = str(to_path(typed))
    return os.path.abspath(path) if os.path.exists(path) or glob.glob(path, recursive=True) else typed


def moved(what: str, recorded: str, typed: str | None, option: str) -> str:
    """A recorded path, where nothing is any more -> a sentence with what was typed and the option that gives it anew.

    `typed` is None in the record of a run that did not keep absolute paths.
    """
    place = (
        f"recorded as {recorded}, and nothing is there" if typed else f"and nothing of this name is in {os.getcwd()}"
    )
    return f"{what} was '{typed or recorded}', {place}: give its place with {option}."


def library_versions() -> dict[str, str]:
    """Versions of this library, Python, and of torch, numpy, safetensors and tokenizers where installed."""
    from unmask import __version__

    versions = {"unmask": __version__, "python": platform.python_version()}
    return versions | {name: _version(name) for name in ("torch", "numpy", "safetensors", "tokenizers")}


def run_record() -> dict[str, Any]:
    """The environment of a run, for run.json: versions, platform, processor, threads, commit, time.

    The number of threads is that of torch where torch is imported. The commit is that of the checkout of this library;
    None where the library was installed.
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
    """Annotation and value -> (dotted key, its last name, existing names) of each key that the dataclasses lack."""
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
        inner_types = [member for member in typing.get_args(annotation) if member is not Ellipsis]
        for index, item in enumerate(cast(list[object], value)):
            yield from _unknown_keys(inner_types[min(index, len(inner_types) - 1)], item, f"{prefix}{index}.")
    elif typing.get_origin(annotation) is dict and isinstance(value, Mapping):
        for name, item in cast(Mapping[str, object], value).items():
            yield from _unknown_keys(typing.get_args(annotation)[1], item, f"{prefix}{name}.")


@cache
def _hints(cls: type) -> dict[str, Any]:
    """Dataclass -> the types of the fields that its constructor takes, by name."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _sentence(error: "ValidationError", data: object) -> str:
    """Pydantic error -> its first problem as a sentence: the key, the value, what is possible."""
    own = error.errors()[0].get("ctx", {}).get("error")
    if isinstance(own, UnmaskError):
        return str(own)
    key, value, possible = first_problem(error, data)
    if not possible:
        return f"the setting '{key}' is missing: give it a value."
    name = f"the setting '{key}'" if key else "the whole"
    return f"{name} cannot be {value}: give {possible}."


def first_problem(error: "ValidationError", data: object) -> tuple[str, str, str]:
    """Pydantic error -> its first problem: dotted key, the value as JSON, what is possible ("" for a missing key)."""
    details = error.errors()
    first = details[0]
    key, value = _locate(first["loc"], data)
    text = json.dumps(value, default=str, ensure_ascii=False)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    if first["type"] == "missing":
        return key, text, "a longer list" if isinstance(first["loc"][-1], int) else ""
    same = [detail for detail in details if _locate(detail["loc"], data)[0] == key]
    return key, text, " or ".join(dict.fromkeys(_possible(detail) for detail in same))


def _locate(location: tuple[int | str, ...], data: object) -> tuple[str, object]:
    """Location of a pydantic error -> the dotted key and its value, without the parts for the branches of a union."""
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
    """Pydantic error -> the possible values, as the end of a sentence."""
    context = detail.get("ctx", {})
    if detail["type"] in ("literal_error", "enum"):
        return f"one of {context['expected']}"
    if detail["type"] == "value_error":
        return str(context["error"]).removesuffix(".")
    return _POSSIBLE.get(detail["type"], "") or f"another value ({_lower_first(detail['msg'])})"


def _lower_first(text: str) -> str:
    """Text -> the same with a small first letter, for use inside a sentence."""
    return text[:1].lower() + text[1:]


def _version(name: str) -> str:
    """Package -> its version, or "not installed"."""
    from importlib import metadata  # it takes a tenth of the time of `unmask info`, which does not need it

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


@cache
def _commit(source: Path) -> str | None:
    """Folder of a git checkout -> its commit; None where the folder is no checkout or git fails."""
    if not (source / ".git").exists():  # git would search the parent folders, which belong to other projects
        return None
    import subprocess

    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(source), "rev-parse", "HEAD"]
    try:
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


# ---- files of code ---------------------------------------------------------------------------------------------------

_TYPED: ContextVar[Mapping[str, str] | None] = ContextVar("typed", default=types.MappingProxyType({}))
_PYTHON = re.compile(r"(?:--[^=]+=)?(?P<text>(?:task:)?(?P<path>.+?\.py)(?:[:@].*)?)", re.DOTALL)


@contextmanager
def typed(texts: Iterable[str], files: Mapping[str, str] | None = types.MappingProxyType({})) -> Generator[None]:
    """Context in which the Python files that these texts name, and `files`, may be run (see `typed_files`).

    A text is a word of a command or the name of a task: mine.py:Mine, task:mine.py:Mine@400, --task=mine.py:Mine.
    A setting that is read from a file is data: it can only name a file of code that a person typed in this command.
    """
    before = _TYPED.get()
    new = {_real(match["path"]): match["text"] for text in texts if (match := _PYTHON.fullmatch(text))}
    token = _TYPED.set(None if before is None or files is None else {**before, **files, **new})
    try:
        yield
    finally:
        _TYPED.reset(token)


def trust_recorded() -> None:
    """Let every Python file be run until the end of the present `typed` context."""
    _TYPED.set(None)


def typed_files() -> Mapping[str, str] | None:
    """The Python files that may be run: absolute path -> the text that named it; None for all.

    Worker processes take them over.
    """
    return _TYPED.get()


def is_typed(path: str | os.PathLike[str]) -> bool:
    """Whether a Python file may be run."""
    files = _TYPED.get()
    return files is None or _real(path) in files


def _real(path: str | os.PathLike[str]) -> str:
    return os.path.realpath(to_path(path))
