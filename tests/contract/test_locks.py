"""One writer a run folder: a second one is refused, a dead one holds nothing, readers are never refused."""

import errno
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from unmask.cli.main import main
from unmask.config import to_dict
from unmask.data.prepare import prepare
from unmask.data.settings import DataSettings
from unmask.disk import files
from unmask.disk.checkpoint import read_checkpoint, write_checkpoint
from unmask.disk.files import LOCK_FILE, atomic_text, run_lock
from unmask.disk.folders import step_folder
from unmask.errors import ConfigError, RunError
from unmask.rl.settings import LearnRun
from unmask.train.settings import TextRun

SRC = Path(__file__).parents[2] / "src"
COMMAND = re.escape(shlex.join(["unmask", *sys.argv[1:]]))
HELD = rf"is being written by process {os.getpid()} on \S+ since .* \({COMMAND}\): wait until that ends, end it there, "


def test_a_second_writer_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for _ in range(2):  # free again after the block
        with run_lock(folder), pytest.raises(ConfigError, match=HELD), run_lock(folder):
            pass
    with run_lock(folder), run_lock(tmp_path / "other"):  # the control: another folder
        assert sorted(entry.name for entry in folder.iterdir()) == [LOCK_FILE]


HOLDER = """
    import os, subprocess, sys, time
    from pathlib import Path
    from unmask.disk import files
    with files.run_lock(Path(sys.argv[1])):
        if sys.argv[2] == "keep":  # as if nothing closed the copy in a forked process
            files._LOCKS.clear()
        started = subprocess.Popen(["sleep", "60"], close_fds=False)
        ready, begun = os.pipe()
        forked = os.fork()
        if not forked:
            os.write(begun, b"x")
        else:
            os.read(ready, 1)  # what a forked process does first is done
            print(started.pid, forked, flush=True)
        time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="links of POSIX")
def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    """What it leads to would be overwritten by the text of the lock. The control is a lock that is a file."""
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK_FILE).symlink_to(tmp_path / "mine.txt")
    with pytest.raises(ConfigError, match="run cannot be written"), run_lock(tmp_path / "run"):
        pass
    assert (tmp_path / "mine.txt").read_text() == "mine"
    (tmp_path / "run" / LOCK_FILE).unlink()
    with run_lock(tmp_path / "run"):
        assert "process" in (tmp_path / "run" / LOCK_FILE).read_text()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a forked process, which POSIX has")
@pytest.mark.parametrize("fork", ["close", "keep"])
def test_a_killed_writer_holds_nothing_though_its_children_live(tmp_path: Path, fork: str) -> None:
    """The control: a forked process that keeps its copy of the lock holds it after the death of its parent."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path), fork]
    holder = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(SRC)}, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    children = [int(word) for word in holder.stdout.readline().split()]
    try:
        with pytest.raises(ConfigError, match=f"process {holder.pid} on "), run_lock(tmp_path):
            pass
        holder.kill()
        holder.wait()
        for child in children:
            os.kill(child, 0)  # they live
        if fork == "close":
            with run_lock(tmp_path):
                pass
        else:
            with pytest.raises(ConfigError), run_lock(tmp_path):
                pass
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
        holder.stdout.close()


def test_a_file_system_without_locks_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(number: int) -> None:
        def fail(descriptor: int) -> None:
            raise OSError(number, "")

        monkeypatch.setattr(files, "_try_lock", fail)

    notes: list[str] = []
    for number in (errno.ENOLCK, errno.EOPNOTSUPP):
        answer(number)
        with run_lock(tmp_path, notes.append):
            pass
    assert len(notes) == 2
    assert all(note.startswith(f"{tmp_path} is on a file system without locks (") for note in notes)
    answer(errno.EIO)  # the control: another error is no missing lock
    with pytest.raises((OSError, RunError)), run_lock(tmp_path, notes.append):
        pass
    assert len(notes) == 2


def test_the_text_of_a_lock_is_shown_without_control_characters(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        for text, shown in ((b"a\x1b[2Jb\nunmask: c\xff", "a [2Jb unmask: c\ufffd"), (b"", "another process")):
            (tmp_path / LOCK_FILE).write_bytes(text)
            with pytest.raises(ConfigError, match=re.escape(f"{tmp_path} is being written by {shown}: wait")):
                run_lock(tmp_path).__enter__()


def recorded(run: Path, settings: object) -> Path:
    """A run folder with a checkpoint of step 1 that records `settings` and holds no network."""
    record = {"settings": to_dict(settings), "plan": {}, "data": "", "dtype": "float32", "record": {}}
    write_checkpoint(step_folder(run, 1), {"w": torch.ones(1)}, {"policy": {}}, run=record, state={}, state_facts={})
    return run


def test_each_command_that_writes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before it reads or computes much; the same commands without the lock fail later, of other things."""
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question.\n\n" * 60)
    train, learn, new = (recorded(tmp_path / "t", TextRun()), recorded(tmp_path / "l", LearnRun()), tmp_path / "n")
    tiny = ["--data.source", str(tmp_path / "text.txt"), "--data.length", "16", "--model.width", "16", "--train.steps"]
    tiny += ["1", "--model.heads", "2", "--model.blocks", "1", "--train.batch", "2"]
    commands = {
        train: ["train", "--resume", str(train)],
        learn: ["learn", "--resume", str(learn)],
        new: ["train", *tiny, "--out", str(new)],
        tmp_path / "f": ["frontier", "automaton", "--task", "automaton", "--count", "1", "--out", str(tmp_path / "f")],
        tmp_path / "r": ["reproduce", "quick", "--out", str(tmp_path / "r")],
    }
    from unmask.reproduce.questions import names

    commands[tmp_path / "r"][1] = next(iter(names()))
    for folder, words in commands.items():
        with run_lock(folder, own="checkpoints"):
            assert main(words) == 2, words
            assert re.search(HELD, capsys.readouterr().err), words
            assert main(["info", str(train)]) == 0  # a reader
    capsys.readouterr()
    assert main(commands[train]) != 0  # the control
    assert "is being written" not in capsys.readouterr().err


def test_temporaries_of_ended_processes_are_swept_when_a_writer_begins(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    name = ".metrics.jsonl.{}-{}-00000000.tmp"
    parents = [tmp_path / "run", tmp_path / "run" / "checkpoints", tmp_path / "run" / "policy"]
    for parent in parents:
        parent.mkdir()
        for host, process in ((files._host(), dead.pid), (files._host(), os.getpid()), ("000000", dead.pid)):
            (parent / name.format(host, process)).write_text("")
        (parent / ".mine.tmp").write_text("")
    (tmp_path / "run" / LOCK_FILE).touch()
    with run_lock(tmp_path / "run", own="checkpoints"):
        pass
    kept = {name.format(files._host(), os.getpid()), name.format("000000", dead.pid), ".mine.tmp"}
    for parent in parents:
        assert {entry.name for entry in parent.iterdir() if entry.is_file()} - {LOCK_FILE} == kept
    (tmp_path / name.format(files._host(), dead.pid)).write_text("")
    atomic_text(tmp_path / "report.txt", "x")
    assert {entry.name for entry in tmp_path.iterdir()} == {"run", "report.txt"}


def test_a_checkpoint_is_read_while_its_run_is_written(tmp_path: Path) -> None:
    with run_lock(recorded(tmp_path / "t", TextRun()), own="checkpoints"):
        assert read_checkpoint(tmp_path / "t").config == {"policy": {}}


def test_a_data_cache_is_swept_though_nothing_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path))
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question.\n\n" * 60)
    settings = DataSettings(str(tmp_path / "text.txt"), tokenizer="byte", length=16)
    prepare(settings)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    kept, gone = (tmp_path / "data" / f".x.{files._host()}-{number}-00000000.tmp" for number in (os.getpid(), dead.pid))
    for folder in (kept, gone):
        folder.mkdir()
        (folder / "train.ids").write_bytes(bytes(10))
    notes: list[str] = []
    prepare(settings, note=notes.append)
    assert not any("encoding" in note for note in notes)
    assert (kept.exists(), gone.exists()) == (True, False)
