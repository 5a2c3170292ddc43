"""What is asked is bounded: memory is estimated before work starts, and an error of the machine is one sentence."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from unmask import limits
from unmask.cli import main as cli
from unmask.errors import ConfigError, RequestError, RunError
from unmask.limits import available_bytes, bytes_text, failure_of, require_memory, sentences

GB = 10**9


# ---- how much there is -----------------------------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`machine(own, groups)`: a machine of 8 GB available whose files say this of control groups."""
    monkeypatch.setattr(limits, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(limits, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(limits, "_MEMINFO", tmp_path / "meminfo")

    def write(own: str = "", groups: dict[str, tuple[str, str, str]] | None = None, swap: int = 0) -> None:
        (tmp_path / "meminfo").write_text(f"MemAvailable: {8 * GB >> 10} kB\nSwapFree: {swap >> 10} kB\nX: 1\n")
        (tmp_path / "own").write_text(own)
        for folder, (limit, usage, stat) in (groups or {}).items():
            group = tmp_path / "cgroup" / folder
            group.mkdir(parents=True, exist_ok=True)
            first = ("memory.limit_in_bytes", "memory.usage_in_bytes") if "memory" in folder.split("/") else None
            names = first or ("memory.max", "memory.current")
            for name, text in zip((*names, "memory.stat"), (limit, usage, stat), strict=True):
                (group / name).write_text(text + "\n")

    return write


def test_the_machine_without_groups(machine: Callable[..., None]) -> None:
    machine()
    assert available_bytes() == pytest.approx(8 * GB, abs=1024)
    machine(swap=2 * GB)  # what swap space would hold is not refused
    assert available_bytes() == pytest.approx(10 * GB, abs=2048)


def test_nested_groups_of_version_2(machine: Callable[..., None]) -> None:
    """The group above has less left than the own one; its copies of files count as free; "max" is no limit."""
    stat = f"anon 5\ninactive_file {GB}\nactive_file 0"
    groups = {"a/b": ("max", str(GB), stat), "a": (str(4 * GB), str(3 * GB), stat)}
    machine("0::/a/b\n", groups)
    assert available_bytes() == 2 * GB
    machine("0::/\n", groups)  # a negative control: the process is outside of these groups
    assert available_bytes() == pytest.approx(8 * GB, abs=1024)


def test_groups_of_version_1(machine: Callable[..., None]) -> None:
    stat = "total_inactive_file 0\ntotal_active_file 0"
    groups = {"memory/x": (str(3 * GB), str(GB), stat), "memory": (str(2**63 - 4096), "5", stat)}
    machine("4:cpu,memory:/x/not-visible\n0::/\n", groups)
    assert available_bytes() == 2 * GB


def test_a_machine_that_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """macOS has no /proc: all its memory is the limit, and never less than what is available."""
    monkeypatch.setattr(limits, "_MEMINFO", tmp_path / "missing")
    assert available_bytes() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.delattr(os, "sysconf")
    assert available_bytes() == sys.maxsize


def test_the_sentence(machine: Callable[..., None]) -> None:
    machine()
    require_memory(7 * GB, "This", "ask for less")
    with pytest.raises(RequestError) as error:
        require_memory(4e13, "This", "ask for less")
    assert str(error.value) == "This needs at least 40.0 TB of memory, and 8.0 GB are available: ask for less."
    with pytest.raises(RequestError, match="more than 1000 EB"):
        require_memory(10**400, "This", "ask for less")


@pytest.mark.parametrize("count, text", [(5, "5 B"), (10**7, "10.0 MB"), (4e12, "4.0 TB")])
def test_bytes(count: float, text: str) -> None:
    assert bytes_text(count) == text


# ---- errors of the machine -------------------------------------------------------------------------------------------


def _recurse() -> None:
    _recurse()


def _raise(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


MACHINE: list[tuple[Callable[[], object], str]] = [
    (lambda: torch.empty(10**13), "not enough memory (40.0 TB at once): ask for less"),
    (lambda: torch.empty(10**10, 10**10), "not enough memory (Storage size calculation overflowed"),
    (lambda: np.empty(10**14), "not enough memory (Unable to allocate 728. TiB"),
    (lambda: np.empty((10**10, 10**10)), "not enough memory (array is too big"),
    (lambda: [1] * 10**15, "not enough memory: ask for less"),
    (_raise(torch.OutOfMemoryError("CUDA out of memory. Tried")), "not enough memory (CUDA out of memory"),
    (lambda: [1] * 10**30, "A number is too large for this machine"),
    (lambda: torch.tensor([10**30]), "A number is too large for this machine"),
    (lambda: open("a\0b"), "A path has a NUL character"),  # noqa: SIM115
    (lambda: open("a" * 5000), "cannot be used (file name too long)"),  # noqa: SIM115
    (lambda: open("/dev/null/x"), "/dev/null/x cannot be used (not a directory)"),  # noqa: SIM115
    (_raise(OSError(errno.EMFILE, "", "f")), "f could not be opened (too many open files): close other programs"),
    (_raise(OSError(errno.ENOSPC, "")), "A file could not be written because the disk is full"),
    (_raise(OSError(errno.EROFS, "", "f")), "f cannot be used (read-only file system): choose another place"),
    (_raise(OSError(errno.ENOMEM, "")), "There was not enough memory"),
    (lambda: "\udcff".encode(), "has characters that cannot be read or written"),
    (_recurse, "nested too deeply, or calls itself without end"),
]


@pytest.mark.parametrize("act, sentence", MACHINE)
def test_errors_of_the_machine(act: Callable[[], object], sentence: str) -> None:
    """In the Python API they are errors of this library."""
    with pytest.raises((RunError, ConfigError)) as error, sentences():
        act()
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), RuntimeError("x"), ValueError("x"), KeyError("x")])
def test_faults_of_the_program_are_not_hidden(error: Exception) -> None:
    assert failure_of(error) is None
    with pytest.raises(type(error)), sentences():
        raise error


def test_the_command_line_prints_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def lies(_: list[str]) -> int:
        raise MemoryError

    monkeypatch.setattr(cli, "_dispatch", lies)
    assert cli.main(["generate"]) == 1
    assert capsys.readouterr().err.startswith("unmask: There was not enough memory")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(cli, "_dispatch", lambda _: Path.cwd())  # pyright: ignore[reportUnknownLambdaType]
    assert cli.main(["generate"]) == 1
    assert "The folder that this command runs in does not exist any more" in capsys.readouterr().err
    monkeypatch.setattr(cli, "_dispatch", lambda _: 1 // 0)  # pyright: ignore[reportUnknownLambdaType]
    assert cli.main(["generate"]) == 1
    assert "Traceback" in capsys.readouterr().err, "a fault of the program is not explained away"
