"""Atomic writing: a reader sees the old file or folder, or the whole new one, and never a part of it."""

__all__ = ["atomic_bytes", "atomic_folder", "atomic_text", "explained", "reason_of", "remove_folder", "sweep"]

import ctypes
import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from unmask.errors import ConfigError, RunError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_WRONG_PATH = frozenset({errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ENOENT, errno.ELOOP})
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<host>[0-9a-f]{6})-(?P<pid>\d+)-[0-9a-f]{8}\.(?P<kind>tmp|old)")


@contextmanager
def explained(path: Path) -> Generator[None]:
    """Turn an OSError met while writing `path` into one sentence.

    A full disk is a RunError, a place where one may not or cannot write a ConfigError; anything else passes.
    """
    try:
        yield
    except OSError as error:
        reason = reason_of(error)
        if error.errno in _FULL:
            raise RunError(
                f"{path} could not be written because the disk is full: free some space and try again."
            ) from error
        if error.errno in _FORBIDDEN:
            raise ConfigError(
                f"{path} cannot be written ({reason}): choose another folder, or change its permissions."
            ) from error
        if error.errno in _WRONG_PATH:
            raise ConfigError(f"{path} cannot be written ({reason}): choose another path.") from error
        if error.errno == errno.EIO:
            raise RunError(f"{path} could not be written ({reason}): check the disk.") from error
        raise


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Generator[Path]:
    """Give an empty folder to fill; when the block ends well it becomes `path`, replacing what stood there.

    When the block fails, nothing is left behind and an older `path` is untouched.
    Raises RunError for a full disk and ConfigError for a place that cannot be written.
    """
    target = Path(os.path.abspath(path))
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not target.is_dir():
            raise ConfigError(f"{target} is a file, and a folder is to be written there: choose another path.")
        sweep(target.parent)
        temporary = _temporary(target, "tmp")
        temporary.mkdir()
        try:
            yield temporary
            _sync_tree(temporary)
            _replace_folder(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def atomic_text(path: str | os.PathLike[str], text: str) -> None:
    """`atomic_bytes` of a text in UTF-8."""
    atomic_bytes(path, text.encode("utf-8"))


def atomic_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file, whole or not at all; its folder is made. The errors are those of `atomic_folder`."""
    target = Path(os.path.abspath(path))
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(target, "tmp")
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
            _sync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Delete a folder so that no reader finds it half deleted: it is renamed away first."""
    with explained(path):
        doomed = _temporary(path, "tmp")
        os.rename(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Delete what dead processes of this machine left half-written in `parent`.

    A folder that such a process had moved aside and not replaced is put back.
    """
    for entry in list(parent.iterdir()):
        match = _TEMPORARY.fullmatch(entry.name)
        if match is None or match["host"] != _host() or _alive(int(match["pid"])):
            continue
        with suppress(OSError):
            if match["kind"] == "old" and not (parent / match["name"]).exists():
                os.rename(entry, parent / match["name"])
            elif entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _temporary(target: Path, kind: str) -> Path:
    """A hidden sibling of `target` whose name tells who writes it."""
    return target.with_name(f".{target.name}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.{kind}")


@cache
def _host() -> str:
    """Six hexadecimal digits for this machine: process ids of another one say nothing here."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def _alive(pid: int) -> bool:
    """Whether a process with this id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _replace_folder(temporary: Path, target: Path) -> None:
    """Put `temporary` in `target`'s place; the old folder, if any, is then deleted."""
    if not target.exists():
        os.rename(temporary, target)
        _sync(target.parent)
        return
    if _exchange(temporary, target):  # the old one now bears the temporary name, which the caller deletes
        _sync(target.parent)
        return
    aside = _temporary(target, "old")
    os.rename(target, aside)
    try:
        os.rename(temporary, target)
    except OSError:
        os.rename(aside, target)
        raise
    _sync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step (Linux renameat2); False where system or file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if renameat2 is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0


def _sync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder`, and itself, to the disk."""
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            _sync(Path(root) / name)
        _sync(Path(root))


def _sync(path: Path) -> None:
    """fsync one file or folder; systems that cannot open a folder (Windows) skip it."""
    if os.name != "posix" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reason_of(error: OSError) -> str:
    """What the system says of an error, as a part of a sentence."""
    return os.strerror(error.errno).lower() if error.errno else str(error)
