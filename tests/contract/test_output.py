"""What the one printer promises: control characters are visible, and a write that fails loses no work."""

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from unmask.cli import main as cli
from unmask.cli.common import print_json, table
from unmask.errors import RequestError
from unmask.output import HIDDEN, OutputLost, Stream, console, note, show, show_text, standard_streams, visible

EVIL = "a\x1b[2Jb\x9b31mc\u202ed\u2066e\x07\x00\x7f\u2028f\udc80"
FORGED = "x\nunmask: all is well\r\x85unmask: so it is\u2028unmask: yes"


class Broken(io.StringIO):
    """A stream whose reader has gone after some texts."""

    def __init__(self, number: int, accepted: int = 0) -> None:
        super().__init__()
        self.number, self.accepted = number, accepted

    def write(self, text: str) -> int:
        if self.accepted == 0:
            raise OSError(self.number, os.strerror(self.number))
        self.accepted -= 1
        return super().write(text)


def clean(text: str) -> bool:
    return HIDDEN.search(text.replace("\n", "").replace("\t", "")) is None


def test_control_characters_become_escapes() -> None:
    assert visible("\x1b[31m\x9b\u202e\n\t\udc80") == r"\x1b[31m\x9b\u202e\n\t\udc80"
    assert visible("a\n\tb", keep="\n\t") == "a\n\tb"
    assert visible("für 漢字 \u200d ½") == "für 漢字 \u200d ½"
    assert not clean(EVIL), "the control: the text has what the others must not"


@pytest.mark.parametrize("print_", [note, show, show_text, lambda text: console().print(text)])
def test_every_way_to_print_is_clean(print_: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    print_(EVIL)
    out, err = capsys.readouterr()
    assert clean(out + err)
    assert r"a\x1b[2Jb" in out + err


def test_what_others_print_is_clean_inside_the_streams(capsys: pytest.CaptureFixture[str]) -> None:
    print("raw \x1b[1m")  # the control: outside of the streams it stays
    with standard_streams():
        print("of a plug-in \x1b[2J")
        sys.stderr.write("\x9b31m")
    out, err = capsys.readouterr()
    assert "raw \x1b[1m\n" in out
    assert "of a plug-in \\x1b[2J\n" in out
    assert err == "\\x9b31m"


def test_a_sentence_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    note(f"There is no '{FORGED}'.", *table({FORGED: FORGED}))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert not any(line.startswith("unmask:") for line in lines)
    assert len(str(RequestError(FORGED)).splitlines()) == 1
    assert len(FORGED.splitlines()) > 3, "the control"


@pytest.mark.parametrize(
    "words",
    [
        ["info", FORGED],
        [FORGED],
        ["train", f"--{FORGED}"],
        ["train", "--train.steps", FORGED],
        ["generate", "wordnet", "a", "--policy", f"random:{FORGED}=1"],
        ["train", "--data.source", f"{EVIL}.txt"],
        ["frontier", "automaton", "--task", EVIL],
    ],
)
def test_an_error_of_a_command_is_one_clean_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("unmask: ")
    assert len(err.splitlines()) == 1
    assert clean(err)


def test_keys_and_tensor_names_of_a_file_are_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({EVIL.replace("\udc80", ""): 1, "architecture": EVIL[:-1]}))
    header = json.dumps({"\x1b[2J\n": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\0\0")
    (folder / "card.md").write_text("card \x1b[2J\n")
    for words in (["info", str(folder)], ["generate", str(folder), "a"], ["eval", str(folder)]):
        cli.main(words)
        out, err = capsys.readouterr()
        assert out + err
        assert clean(out + err)


def test_json_escapes_what_json_need_not(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({EVIL: [EVIL, "漢"]})
    out = capsys.readouterr().out
    assert clean(out)
    assert json.loads(out) == {EVIL: [EVIL, "漢"]}


# ---- output that fails -----------------------------------------------------------------------------------------------


def test_a_long_command_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(errno.EPIPE, accepted=1))
    reached = False
    with standard_streams() as streams:
        for _ in range(3):
            print("a line", flush=True)
        reached = True
    assert reached
    assert streams.exit_code(0) == 141
    assert streams.exit_code(2) == 2, "an error of the work stays what it is"


def test_a_short_command_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(errno.EPIPE))
    with pytest.raises(OutputLost), standard_streams(ends=True):
        print("a line", flush=True)


@pytest.mark.parametrize(("number", "code"), [(errno.EPIPE, 141), (errno.ENOSPC, 1), (errno.EIO, 1)])
@pytest.mark.parametrize("words", [["list", "corpora"], ["--version"], [], ["list", "--json"], ["train", "--help"]])
def test_a_command_without_its_output(
    words: list[str], number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(number))
    assert cli.main(words) == code
    err = capsys.readouterr().err
    assert ("could not be written" in err) == (code == 1)
    assert len(err.splitlines()) <= 1


def test_notes_that_nobody_reads(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fill", "wordnet", "a [3] b", "--temperature", "0", "-v"]
    assert cli.main(words) == 0
    whole = capsys.readouterr().out
    monkeypatch.setattr(sys, "stderr", Broken(errno.EPIPE))
    assert cli.main(words) == 141
    assert capsys.readouterr().out == whole, "the result is printed all the same"


def test_streams_that_are_closed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stderr", None)  # as after 2>&-, and in pythonw
    assert cli.main(["list", "corpora"]) == 0
    assert cli.main(["no-such-verb"]) == 2
    assert "sotu" in capsys.readouterr().out
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(["list", "corpora"]) == 1
    assert cli.main(["train", "--help"]) == 1


def test_what_an_encoding_lacks_is_an_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding="ascii"))
    assert cli.main(["info", "漢"]) == 2
    assert raw.getvalue().startswith(b"unmask: There is no checkpoint at '\\u6f22';")


def test_no_descriptor_is_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def none_left(*arguments: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", none_left)
    assert cli.main(["list", "corpora"]) == 0
    assert "sotu" in capsys.readouterr().out


def test_a_closed_file_object_is_a_failure_too() -> None:
    target = io.StringIO()
    target.close()
    stream = Stream(target, needed=True)
    stream.write("text")
    assert stream.failure is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("(sleep 1; {} list) | true; exit ${{PIPESTATUS[0]}}", 141, ""),  # `true` has ended by then
        ("{} list >&-", 1, "could not be written"),
        ("{} list 2>&- >/dev/null", 0, ""),
        ("{} list >&- 2>&-", 1, ""),
        ("{} list >/dev/full", 1, "could not be written"),
        ("{} nothing 2>/dev/full", 2, ""),
    ],
)
def test_in_a_shell(line: str, code: int, says: str) -> None:
    command = f"{sys.executable} -m unmask.cli.main"
    done = subprocess.run(["bash", "-c", line.format(command)], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_the_estimate_of_resumed_work_counts_only_what_was_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """90 of 100 settings were measured before; then a setting takes 20 s, so that 8 settings take 160 s."""
    from unmask.cli import common

    now = 1000.0
    monkeypatch.setattr(common.time, "monotonic", lambda: now)
    with common.Meter("measuring", "setting", 100, 90, visible=True) as meter:
        for count in (91, 92):
            now += 20.0
            meter.moved(count, "")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("setting 92 ")]
    assert lines == ["setting 92 of 100    2:40 min left"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ending", "code"),
    [("2>&1 | true; exit ${PIPESTATUS[0]}", 141), (">&- 2>&-", 0), ("2>/dev/full", 1)],
)
def test_a_training_goes_on_without_its_output(ending: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("to be or not to be.\n\n" * 100)
    words = "train --data.source text.txt --data.tokenizer byte --data.length 16 --model.width 32 --model.blocks 1"
    words += " --model.heads 2 --train.batch 4 --train.steps 3 --threads 1 --dtype float32 --out run"
    line = f"{sys.executable} -m unmask {words} {ending}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == code
    assert (tmp_path / "run" / "checkpoints" / "step-00000003").is_dir()
