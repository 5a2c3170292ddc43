"""Atomic writes: a reader sees the old file or folder or the complete new one, never a part of it. One writer a folder.

`run_lock` keeps a second command out of the folder that a command writes. Commands that only read take no lock.
"""

__all__ = [
    "LOCK_FILE",
    "as_os_error",
    "atomic_bytes",
    "atomic_folder",
    "atomic_text",
    "explained",
    "file_sha256",
    "reason_of",
    "refuse_foreign_folder",
    "remove_folder",
    "remove_leftovers",
    "replace_folder",
    "run_lock",
    "sync_tree",
    "temporary_name",
]

import ctypes
import errno
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from unmask.config import to_path
from unmask.errors import ConfigError, FolderHeldError, RunError, no_space

_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_WRONG_PATH = frozenset({errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ENOENT, errno.ELOOP})
LOCK_FILE = ".unmask-lock"
"""Name of the file in a run folder that `run_lock` locks; it stays there, and is free when no process holds it."""
_RESULTS = {"checkpoints": "train or learn", "outcomes.jsonl": "frontier", "cells": "reproduce"}
"""Entry of a run folder -> the commands that write it."""
_HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})  # what a lock that another process has answers
_UNSUPPORTED = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})  # some network file systems
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)  # it is written to
_LOCK_TEXT = 400  # bytes of the text in a lock file that are shown
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<host>[0-9a-f]{6})-(?P<pid>\d+)-[0-9a-f]{8}\.(?P<role>tmp|old)")


@contextmanager
def explained(path: Path) -> Generator[None]:
    """Context that turns an OSError while writing `path` into one sentence.

    Raises RunError for a disk that is full or fails and for a file that is too large, ConfigError for a path that
    cannot be written; other errors pass.
    """
    try:
        yield
    except OSError as error:
        reason = reason_of(error)
        if failure := no_space(str(path), error):
            raise failure from error
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
def as_os_error() -> Generator[None]:
    """Context that turns a system error that safetensors reports, such as a full disk, into an OSError."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Generator[Path]:
    """Context of an empty temporary folder, which replaces `path` when the block ends without an error.

    When the block fails, the temporary folder is deleted and an older `path` stays unchanged.
    Raises RunError for a full disk and ConfigError for a path that cannot be written.
    """
    target = Path(os.path.abspath(to_path(path)))
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not target.is_dir():
            raise ConfigError(f"{target} is a file, and a folder is to be written there: choose another path.")
        remove_leftovers(target.parent)
        temporary = temporary_name(target, "tmp")
        temporary.mkdir()
        try:
            yield temporary
            sync_tree(temporary)
            replace_folder(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def file_sha256(path: Path) -> str:
    """A file -> the sha256 of its content, in hexadecimal; a gigabyte takes about a second. Raises OSError."""
    from hashlib import file_digest  # here, as in `_host`, for the sake of the start time

    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def atomic_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8, as `atomic_bytes` does."""
    atomic_bytes(path, text.encode("utf-8"))


def atomic_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file, complete or not at all; its folder is created. The errors are those of `atomic_folder`."""
    target = Path(os.path.abspath(to_path(path)))
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep_once(target.parent)
        temporary = temporary_name(target, "tmp")
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
        doomed = temporary_name(path, "tmp")
        os.rename(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


@cache
def _sweep_once(parent: Path) -> None:
    """`remove_leftovers` of a folder before the first file that this process writes there."""
    remove_leftovers(parent)


def remove_leftovers(parent: Path) -> None:
    """Delete the temporary files and folders in `parent` of processes of this machine that have ended.

    A folder that such a process had renamed to ".old" and not replaced gets its name back.
    """
    try:
        entries = list(parent.iterdir())
    except OSError:  # a folder that may be written and not listed
        return
    for entry in entries:
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


@contextmanager
def run_lock(folder: Path, note: Callable[[str], None] = lambda sentence: None, own: str = "") -> Generator[None]:
    """Context in which this process is the only writer of `folder`, which is created.

    The kernel frees the lock when the process ends, however it ends; a forked process does not keep it. At the start
    the temporary files are deleted that ended processes left in the folder and in the folders directly below it.
    Where the file system has no locks, `note` gets a sentence and the block runs without one.
    Raises FolderHeldError where another process holds the lock, and as `refuse_foreign_folder` and `explained` do.
    """
    path, owner = folder / LOCK_FILE, os.getpid()
    with explained(folder):
        refuse_foreign_folder(folder, own)
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, _LOCK_FLAGS, 0o666)
    try:
        _lock(descriptor, folder, note)
        _LOCKS.add(descriptor)
        for parent in (folder, *(entry for entry in folder.iterdir() if entry.is_dir() and not entry.is_symlink())):
            remove_leftovers(parent)
        yield
    finally:
        if os.getpid() == owner:  # in a forked process `_forget_locks` has closed it
            _LOCKS.discard(descriptor)
            os.close(descriptor)


def refuse_foreign_folder(folder: Path, own: str = "") -> None:
    """Raise ConfigError for a folder with files that no run wrote, or with results of another command.

    `own` is the entry of `_RESULTS` that the caller writes.
    """
    if not folder.is_dir():
        return
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    ours = (folder / LOCK_FILE).exists() or any(folder.glob("checkpoints/step-*/config.json"))
    if names and not ours:
        shown = f"{', '.join(names[:3])}{' and others' if len(names) > 3 else ''}"
        raise ConfigError(f"{folder} has files that unmask did not write there ({shown}): choose a new folder.")
    if commands := [command for name, command in _RESULTS.items() if name in names and name != own]:
        raise ConfigError(f"{folder} holds the results of unmask {commands[0]}: choose another folder.")


_LOCKS: set[int] = set()
"""Descriptors of the locks that this process holds."""


def _forget_locks() -> None:
    """In a forked process: close the copies of its parent's locks, which would hold them after the parent's death."""
    while _LOCKS:
        os.close(_LOCKS.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


def _lock(descriptor: int, folder: Path, note: Callable[[str], None]) -> None:
    """Lock an open file and write who holds it. Raises FolderHeldError where another process holds it."""
    try:
        _try_lock(descriptor)
    except OSError as error:
        if error.errno in _HELD:
            raise FolderHeldError(
                f"{folder} is being written by {_holder(descriptor)}: wait until that ends, end it there, or choose "
                "another folder."
            ) from None
        if error.errno not in _UNSUPPORTED:
            raise
        note(f"{folder} is on a file system without locks ({reason_of(error)}): let no other command write there.")
        return
    command = shlex.join(["unmask", *sys.argv[1:]])
    text = f"process {os.getpid()} on {os.uname().nodename} since {time.strftime('%Y-%m-%d %H:%M:%S')} ({command}"
    with suppress(OSError):  # the text is for the message alone: a full disk does not matter
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, text.encode("utf-8", "replace")[: _LOCK_TEXT - 1] + b")")


def _try_lock(descriptor: int) -> None:
    """Lock an open file, or raise OSError at once where another process has it."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # nobody can read the bytes that are locked: not those of the text
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(descriptor: int) -> str:
    """An open lock file -> its text, which says which process holds it."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    text = os.read(descriptor, _LOCK_TEXT).decode("utf-8", "replace")
    return "".join(sign if sign.isprintable() else " " for sign in text).strip() or "another process"


def temporary_name(target: Path, role: str) -> Path:
    """Path of a hidden file or folder beside `target`; its name holds the host, the process and the role."""
    return target.with_name(f".{target.name}.{_host()}-{os.getpid()}-{os.urandom(4).hex()}.{role}")


@cache
def _host() -> str:
    """Six hexadecimal digits for this machine, because process ids of other machines mean nothing here."""
    from hashlib import sha256

    return sha256(os.uname().nodename.encode()).hexdigest()[:6]


def _alive(pid: int) -> bool:
    """Whether a process with this id exists."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError, OverflowError) as error:
        return not isinstance(error, ProcessLookupError)
    return True


def replace_folder(temporary: Path, target: Path) -> None:
    """Rename `temporary` to `target`; the old folder, if any, is deleted afterwards."""
    if not target.exists():
        os.rename(temporary, target)
        _sync(target.parent)
        return
    if _exchange(temporary, target):  # the old folder has the temporary name now, and the caller deletes it
        _sync(target.parent)
        return
    aside = temporary_name(target, "old")
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
    return renameat2(-100, os.fsencode(first), -100, os.fsencode(second), 2) == 0  # AT_FDCWD, RENAME_EXCHANGE


def sync_tree(folder: Path) -> None:
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
