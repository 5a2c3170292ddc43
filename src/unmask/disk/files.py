"""Atomic writes: a reader sees the old file or folder or the complete new one, never a part of it."""

__all__ = [
    "atomic_bytes",
    "atomic_folder",
    "atomic_text",
    "explained",
    "reason_of",
    "remove_folder",
    "remove_leftovers",
]

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
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<host>[0-9a-f]{6})-(?P<pid>\d+)-[0-9a-f]{8}\.(?P<role>tmp|old)")


@contextmanager
def explained(path: Path) -> Generator[None]:
    """Context that turns an OSError while writing `path` into one sentence.

    Raises RunError for a full disk or a failing one, ConfigError for a path that cannot be written; other errors pass.
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
    """Context of an empty temporary folder, which replaces `path` when the block ends without an error.

    When the block fails, the temporary folder is deleted and an older `path` stays unchanged.
    Raises RunError for a full disk and ConfigError for a path that cannot be written.
    """
    target = Path(os.path.abspath(path))
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not target.is_dir():
            raise ConfigError(f"{target} is a file, and a folder is to be written there: choose another path.")
        remove_leftovers(target.parent)
        temporary = _temporary(target, "tmp")
        temporary.mkdir()
        try:
            yield temporary
            _sync_tree(temporary)
            _replace_folder(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def atomic_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8, as `atomic_bytes` does."""
    atomic_bytes(path, text.encode("utf-8"))


def atomic_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file, complete or not at all; its folder is created. The errors are those of `atomic_folder`."""
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
    """Delete a folder. It is renamed first, so that no reader sees a part of it."""
    with explained(path):
        doomed = _temporary(path, "tmp")
        os.rename(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(parent: Path) -> None:
    """Delete the temporary files and folders in `parent` of processes of this machine that have ended.

    A folder that such a process had renamed to ".old" and not replaced gets its name back.
    """
    for entry in list(parent.iterdir()):
        match = _TEMPORARY.fullmatch(entry.name)
        if match is None or match["host"] != _host() or _alive(int(match["pid"])):
            continue
        with suppress(OSError):
            if match["role"] == "old" and not (parent / match["name"]).exists():
                os.rename(entry, parent / match["name"])
            elif entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _temporary(target: Path, role: str) -> Path:
    """Path of a hidden file or folder beside `target`; its name holds the host, the process and the role."""
    return target.with_name(f".{target.name}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.{role}")


@cache
def _host() -> str:
    """Six hexadecimal digits for this machine, because process ids of other machines mean nothing here."""
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
    """Rename `temporary` to `target`; the old folder, if any, is deleted afterwards."""
    if not target.exists():
        os.rename(temporary, target)
        _sync(target.parent)
        return
    if _exchange(temporary, target):  # the old folder has the temporary name now, and the caller deletes it
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
    """Exchange two names in one step (Linux renameat2); False where the system or file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if renameat2 is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0


def _sync_tree(folder: Path) -> None:
    """Flush a folder and every file and folder below it to the disk."""
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            _sync(Path(root) / name)
        _sync(Path(root))


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk; folders are skipped where they cannot be opened (Windows)."""
    if os.name != "posix" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reason_of(error: OSError) -> str:
    """OSError -> the reason that the system gives, as a part of a sentence."""
    return os.strerror(error.errno).lower() if error.errno else str(error)
