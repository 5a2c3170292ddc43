"""What the machine cannot give: memory that is estimated before work starts, and failures of the machine as sentences.

An estimate counts only what is certainly needed, so that no work is refused that would run. Imports no torch.
"""

__all__ = [
    "available_bytes",
    "bytes_text",
    "failure_of",
    "is_shortage",
    "require_finite",
    "require_memory",
    "require_rows",
    "sentences",
]

import errno
import math
import os
import re
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from unmask.disk.files import reason_of
from unmask.errors import ConfigError, RequestError, RunError, UnmaskError, no_space

if TYPE_CHECKING:
    from torch import Tensor

_SMALL = 64 << 20  # bytes that are not worth a look at the machine
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS, _MEMINFO = Path("/proc/self/cgroup"), Path("/proc/meminfo")


# ---- memory ----------------------------------------------------------------------------------------------------------


def require_memory(needed: float, what: str, remedy: str, device: object = "cpu") -> None:
    """Bytes that `what` certainly needs on `device` -> nothing, if they are available.

    Raises RequestError otherwise, with the estimate, the limit and the `remedy` (an imperative).
    """
    if needed <= _SMALL:
        return
    available = available_bytes(device)
    if needed > available:
        raise RequestError(
            f"{what} needs at least {bytes_text(needed)} of memory, and {bytes_text(available)} are available: "
            f"{remedy}."
        )


_ROW_BYTES, _TOKEN_BYTES = 500, 40  # of a finished row and of each of its tokens, as Python objects


def require_rows(rows: int, tokens: int) -> None:
    """Numbers of rows and of tokens in each -> nothing, if there is memory for them. Raises RequestError otherwise."""
    require_memory(
        rows * (_ROW_BYTES + tokens * _TOKEN_BYTES),
        f"A request of {rows:,} texts of {tokens:,} tokens",
        "ask for fewer texts, or for shorter ones",
    )


def bytes_text(count: float) -> str:
    """Number of bytes -> text: 12.3 MB, 4.0 TB; above 1000 EB only that."""
    count = float(min(count, 1e24))  # a request may ask for 10 ** 400
    for unit in ("B", "kB", "MB", "GB", "TB", "PB", "EB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return "more than 1000 EB"


def available_bytes(device: object = "cpu") -> int:
    """A device ("cpu", "cuda:0" or a torch.device) -> the bytes that a process can still allocate on it.

    On a processor: the least of the available memory of the machine and what each control group (Linux cgroups v1 and
    v2) above this process leaves, with memory that holds copies of files counted as free, and swap space. Where the
    system says nothing of this: all memory, or sys.maxsize.
    """
    if str(device).startswith("cuda"):
        import torch

        free, _ = torch.cuda.mem_get_info(str(device))
        held = torch.cuda.memory_reserved(str(device)) - torch.cuda.memory_allocated(str(device))
        return free + held
    facts = _meminfo()
    machine = facts.get("MemAvailable")
    if machine is None:
        return _physical_bytes()
    return min([machine, *_cgroup_rooms()]) + facts.get("SwapFree", 0)


def _physical_bytes() -> int:
    """All memory of the machine, where the system has no other figure (macOS); sys.maxsize where it has none."""
    with suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return sys.maxsize


def _meminfo() -> dict[str, int]:
    """The figures of /proc/meminfo in bytes; none on systems without it."""
    with suppress(OSError, ValueError):
        rows = (line.split() for line in _MEMINFO.read_text().splitlines())
        return {row[0].rstrip(":"): int(row[1]) << 10 for row in rows if len(row) == 3}
    return {}


def _cgroup_rooms() -> Iterator[int]:
    """The bytes that each control group of this process, and each above it, still leaves."""
    for root, path, limit, usage in _memory_cgroups():
        folder = root / path.lstrip("/")
        for group in (folder, *folder.parents):
            with suppress(OSError, ValueError):  # no limit is "max", or a file that the root group does not have
                most, used = (int((group / name).read_text()) for name in (limit, usage))
                yield max(most - used + _file_bytes(group), 0)
            if group == root:
                break


def _memory_cgroups() -> Iterator[tuple[Path, str, str, str]]:
    """(root, path, file of the limit, file of the usage) of the control groups of memory that this process is in."""
    with suppress(OSError):
        for line in _OWN_CGROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                yield _CGROUPS, path, "memory.max", "memory.current"
            elif "memory" in controllers.split(","):
                yield _CGROUPS / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes"


def _file_bytes(group: Path) -> int:
    """Bytes of a control group's usage that are copies of files, which the system drops when memory is needed."""
    rows = (line.split() for line in (group / "memory.stat").read_text().splitlines())
    facts = {row[0]: int(row[1]) for row in rows}
    prefix = "total_" if "total_inactive_file" in facts else ""  # v1: with the groups below it
    return sum(facts.get(f"{prefix}{name}", 0) for name in ("inactive_file", "active_file"))


# ---- numbers ---------------------------------------------------------------------------------------------------------


def require_finite(value: "Tensor", name: str, folder: str) -> None:
    """A stored tensor of weights, its name and its folder -> nothing. Raises RunError for NaN or infinity in it.

    The sum is not finite then; it costs one reading (0.1 s for 100 million), the test of each element twenty.
    """
    if value.is_floating_point() and not math.isfinite(value.sum().item()) and not bool(value.isfinite().all()):
        raise RunError(
            f"{folder} holds weights that are NaN or infinite (the first in '{name}'), so nothing can be computed "
            "with it: its training diverged; use an earlier checkpoint, or train again with a smaller rate."
        )


# ---- failures of the machine -----------------------------------------------------------------------------------------

_NO_MEMORY = re.compile(
    r"can't allocate memory|out of memory|OutOfMemory|cannot allocate|Storage size calculation overflowed"
    r"|numel: integer multiplication overflow|array is too big|Maximum allowed dimension exceeded"
    r"|exceeds the maximum size of a tensor|invalid buffer size"
)
_TOO_LARGE = re.compile(r"^OverflowError|^ValueError: Overflow when unpacking|converted to type .* without overflow")
_NUL = re.compile(r"embedded null (byte|character)")
_FILE_LIMIT = frozenset({errno.EMFILE, errno.ENFILE})
_SHORTAGE = _FILE_LIMIT | {errno.ENOMEM}
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_BAD_NAME = frozenset({errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ELOOP})


@contextmanager
def sentences() -> Generator[None]:
    """Context (or decorator) that turns a failure of the machine into its sentence, see `failure_of`; others pass."""
    try:
        yield
    except Exception as error:
        failure = failure_of(error)
        if failure is None or failure is error:
            raise
        raise failure from error


def failure_of(error: BaseException) -> UnmaskError | None:
    """Any error -> the error with its sentence, where the machine failed: memory, files, depth, text that is no text.

    None for every other error, which is a fault of the program.
    """
    if isinstance(error, UnmaskError):
        return error
    first = _shortened(" ".join(str(error).split("\n")[0].split()))
    named = f"{type(error).__name__}: {first}"
    if _TOO_LARGE.search(named):
        return RunError(f"A number is too large for this machine ({first}): give a smaller one.")
    if isinstance(error, MemoryError) or _NO_MEMORY.search(named):
        size = re.search(r"tried to allocate (\d+) bytes", first)
        detail = first if size is None else f"{bytes_text(int(size[1]))} at once"
        return RunError(
            f"There was not enough memory{f' ({detail})' if detail else ''}: ask for less (a smaller batch, length, "
            "count or model), or use a machine with more."
        )
    if isinstance(error, RecursionError):
        return RunError("Something was nested too deeply, or calls itself without end: give a simpler text or file.")
    if isinstance(error, OSError):
        return _file_failure(error)
    if isinstance(error, UnicodeError):
        return RunError(f"A text or a name has characters that cannot be read or written here ({first}): use UTF-8.")
    if isinstance(error, ValueError) and _NUL.search(first):
        return ConfigError("A path has a NUL character, which no system allows: write it without.")
    return None


def is_shortage(error: BaseException) -> bool:
    """Whether a file could not be read because the system had no descriptor or no memory left: it may be whole."""
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno in _SHORTAGE


def _file_failure(error: OSError) -> UnmaskError:
    """OSError -> a RunError, or a ConfigError for a name that no file can have."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    what = " and ".join(map(_shortened, names)) or "A file"
    reason = reason_of(error)
    if error.errno in _FILE_LIMIT:
        return RunError(f"{what} could not be opened ({reason}): close other programs, or raise 'ulimit -n'.")
    if error.errno == errno.ENOMEM:
        return RunError(f"There was not enough memory ({reason}): ask for less at once.")
    if error.errno == errno.ENOENT and _no_working_folder():
        return RunError("The folder that this command runs in does not exist any more: change to another one with cd.")
    if failure := no_space(what, error):
        return failure
    if error.errno in _FORBIDDEN:
        return RunError(f"{what} cannot be used ({reason}): choose another place, or change its permissions.")
    error_type = ConfigError if error.errno in _BAD_NAME else RunError
    return error_type(f"{what} cannot be used ({reason}): check the path and the system, or choose another place.")


def _shortened(text: str) -> str:
    """A text of at most 200 characters, its middle left out where it is longer."""
    return text if len(text) <= 200 else f"{text[:120]}...{text[-77:]}"


def _no_working_folder() -> bool:
    """Whether the current working folder was deleted."""
    try:
        os.getcwd()
    except OSError:
        return True
    return False
