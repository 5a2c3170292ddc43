"""Nothing of the user's is overwritten or mistaken: what is written, ~ in paths, and names that are paths too."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import unmask
from unmask.cli.main import main
from unmask.cli.watch import Tracing
from unmask.config import to_path
from unmask.data.sources import open_source
from unmask.disk.files import LOCK_FILE, atomic_text, run_lock
from unmask.disk.folders import bundled, locate_policy, refuse_foreign_file
from unmask.disk.json import read_text, read_toml
from unmask.errors import ConfigError, RequestError
from unmask.eval.report import check_plot
from unmask.hf.names import locate
from unmask.plots import new_figure, save_figure
from unmask.policies.pace import read_pace
from unmask.tasks import make
from unmask.text.build import byte_tokenizer
from unmask.text.tokenizer import Tokenizer

TINY = [
    *("--data.source", "text.txt", "--data.tokenizer", "byte", "--data.length", "16", "--model.width", "32"),
    *("--model.blocks", "1", "--model.heads", "2", "--threads", "1", "--dtype", "float32"),
    *("--train.batch", "4", "--train.steps", "1", "--train.eval-draws", "2"),
]
SWEEP = [
    *("frontier", "automaton", "--task", "automaton", "--count", "1", "--blocks", "full", "--workers", "1"),
    *("--policies", "threshold:threshold=0.5"),
]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder; the working folder is another."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    Path("text.txt").write_text("to be or not to be.\n\n" * 100)
    return tmp_path / "home"


# ---- folders and files of the user -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["train", *TINY],
        ["learn", "automaton", "--learn.rounds", "1", "--learn.pool", "2"],
        ["learn", "automaton", "--seeds", "1", "2"],
        SWEEP,
        ["reproduce", "policies-transfer", "--fast"],
        ["demo", "--puzzles", "1"],
    ],
    ids=lambda words: words[0],
)
def test_a_folder_with_files_of_somebody_else_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    for name in ("metrics.jsonl", "frontier.csv", "thesis.md"):
        (Path("mine") / name).write_text("my own")
    assert main([*words, "--out", "mine"]) == 2
    assert (
        "has files that unmask did not write there (frontier.csv, metrics.jsonl, thesis.md)" in capsys.readouterr().err
    )
    assert sorted(path.name for path in Path("mine").iterdir()) == ["frontier.csv", "metrics.jsonl", "thesis.md"]
    assert {path.read_text() for path in Path("mine").iterdir()} == {"my own"}


def test_folders_that_may_be_written() -> None:
    for make_folder in (
        lambda path: None,
        lambda path: path.mkdir(),
        lambda path: (path.mkdir(), (path / ".DS").touch()),
    ):
        folder = Path(f"new-{len(list(Path().iterdir()))}")
        make_folder(folder)
        with run_lock(folder):
            (folder / "metrics.jsonl").write_text("ours")
        with run_lock(folder):
            pass
    assert (folder / LOCK_FILE).exists()
    (folder / LOCK_FILE).unlink()
    with pytest.raises(ConfigError, match="has files that unmask did not write"), run_lock(folder):
        raise AssertionError


@pytest.mark.parametrize(
    ("entry", "command", "words"),
    [
        ("checkpoints", "train or learn", SWEEP),
        ("checkpoints", "train or learn", ["reproduce", "policies-transfer", "--fast"]),
        ("checkpoints", "train or learn", ["learn", "automaton", "--seeds", "1", "2"]),
        ("checkpoints", "train or learn", ["demo", "--puzzles", "1"]),
        ("outcomes.jsonl", "frontier", ["train", *TINY]),
        ("outcomes.jsonl", "frontier", ["reproduce", "policies-transfer", "--fast"]),
        ("cells", "reproduce", SWEEP),
        ("cells", "reproduce", ["learn", "automaton", "--learn.rounds", "1", "--learn.pool", "2"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_a_folder_with_results_of_another_command_is_refused(
    entry: str, command: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The control, a command in a folder with its own results, is below."""
    Path("run").mkdir()
    (Path("run") / LOCK_FILE).touch()
    (Path("run") / entry).mkdir()
    assert main([*words, "--out", "run"]) == 2
    assert f"run holds the results of unmask {command}: choose another folder." in capsys.readouterr().err
    assert {path.name for path in Path("run").iterdir()} == {LOCK_FILE, entry}


def test_frontier_refuses_a_folder_before_it_loads_the_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("unmask.solve.sweep.open_bench", lambda **_: opened.append("model") or 1 / 0)
    Path("mine").mkdir()
    Path("mine/thesis.md").write_text("my own")
    assert main([*SWEEP, "--out", "mine"]) == 2
    assert opened == []
    assert main([*SWEEP, "--out", "new"]) == 1  # the control
    assert opened == ["model"]


def test_a_run_and_a_sweep_go_on_in_their_own_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SWEEP, "--out", "sweep"]) == 0
    Path("sweep/my-notes.txt").write_text("mine")
    assert main([*SWEEP, "--out", "sweep"]) == 0
    assert Path("sweep/my-notes.txt").read_text() == "mine"


def _write_trace(path: Path) -> None:
    assert main(["fill", "sudoku", "1[2]2", "--trace", str(path)]) == 0


WRITERS: list[tuple[str, Callable[[Path], Any], Callable[[str], Any]]] = [
    ("t.jsonl", _write_trace, Tracing),
    ("t.html", _write_trace, Tracing),
    ("p.png", lambda path: save_figure(path, new_figure(2, 2)), check_plot),
]


@pytest.mark.parametrize(("name", "write", "check"), WRITERS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_file_of_somebody_else_is_refused_before_the_work(
    name: str, write: Callable[[Path], Any], check: Callable[[str], Any]
) -> None:
    check(name)  # the control: nothing is there
    Path(name).write_text("")
    check(name)  # nothing is lost in an empty file
    write(Path(name))
    check(name)  # its own work may be replaced
    Path(name).write_text("my own words about unmask")
    with pytest.raises(ConfigError, match="unmask did not write it"):
        check(name)
    assert Path(name).read_text() == "my own words about unmask"


def test_commands_refuse_a_file_of_somebody_else(capsys: pytest.CaptureFixture[str]) -> None:
    _write_trace(Path("t.jsonl"))
    for name in ("page.html", "own.jsonl", "own.json", "own.png"):
        Path(name).write_text("mine")
    for words in (
        ["watch", "t.jsonl", "--html", "page.html"],
        ["generate", "sudoku", "1", "--length", "2", "--trace", "own.jsonl"],
        ["pace", "sudoku", "--out", "own.json"],
        ["pace", "sudoku", "--plot", "own.png"],
        ["bench", "scaling", "--plot", "own.png"],
    ):
        capsys.readouterr()
        assert main(words) == 2
        assert "unmask did not write it" in capsys.readouterr().err
    assert {Path(name).read_text() for name in ("page.html", "own.jsonl", "own.json", "own.png")} == {"mine"}


def test_a_pace_names_who_wrote_it() -> None:
    text = json.dumps({"generator": "unmask", "format": 1, "paces": {"1": [4]}})
    atomic_text("p.json", text)
    refuse_foreign_file(Path("p.json"))
    assert read_pace("p.json", 1).sizes == (4,)


# ---- ~ ---------------------------------------------------------------------------------------------------------------


def test_every_door_expands_the_home_folder(home: Path) -> None:
    assert to_path("~/a/b") == home / "a" / "b"
    assert to_path("a~/b") == Path("a~/b")
    with pytest.raises(ConfigError, match="NUL"):
        to_path("a\0b")
    with pytest.raises(ConfigError, match="begins with ~nobody-here, and there is no home folder of that name"):
        to_path("~nobody-here/x")
    Path("~nobody-here").mkdir()
    assert to_path("~nobody-here/x") == Path("~nobody-here/x")
    Path("~nobody-here").rmdir()
    shutil.copytree(bundled()["sudoku"], home / "model")
    shutil.copytree(Path(str(bundled()["sudoku"])).parents[1] / "policies" / "automaton_eos", home / "policy")
    (home / "r.toml").write_text("[data]\nlength = 8\n")
    (home / "t.txt").write_text("text")
    (home / "pace.json").write_text('{"paces": {"1": [4]}}')
    (home / "mine.py").write_text(
        "class T:\n    name = 'mine'\n    examples = verify = pairs = lambda *_: []\n    def __init__(self): pass\n"
    )
    byte_tokenizer().save("~/tokenizer")
    assert (home / "tokenizer" / "tokenizer.json").exists()
    assert locate("~/model") == str(home / "model")
    assert locate_policy("~/policy") == home / "policy"
    assert unmask.load("~/model").window
    assert read_toml("~/r.toml") == {"data": {"length": 8}}
    assert read_text("~/t.txt") == "text"
    assert [piece.text for piece in open_source("~/t.txt").pieces()] == ["text"]
    assert [piece.text for piece in open_source("~/*.txt").pieces()] == ["text"]
    assert read_pace("~/pace.json").sizes == (4,)
    assert Tokenizer.load("~/tokenizer").vocab_size
    assert make("~/mine.py:T").name == "mine"


def test_commands_expand_it_in_what_they_read_and_write(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "prompts.txt").write_text("1\n")
    Path("text.txt").rename(home / "text.txt")
    words = [word.replace("text.txt", "~/text.txt") for word in TINY]
    assert main(["train", *words, "--out", "~/run"]) == 0
    assert main(["train", "--resume", "~/run", "--train.steps", "2"]) == 0
    assert main(["info", "~/run"]) == 0
    assert main(["generate", "~/run", "--prompts", "~/prompts.txt", "--length", "2", "--trace", "~/t.jsonl"]) == 0
    assert main(["watch", "~/t.jsonl", "--html", "~/t.html"]) == 0
    assert main([*SWEEP, "--out=~/sweep"]) == 0
    assert {"run", "t.jsonl", "t.html", "sweep"} <= {path.name for path in home.iterdir()}
    assert not Path("~").exists()


# ---- names that are paths too ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("sudoku", locate),
        ("sudoku", unmask.load),
        ("automaton_eos", locate_policy),
        ("sotu", open_source),
        ("english", open_source),
    ],
)
def test_a_name_that_is_a_path_too_is_refused(name: str, use: Callable[[str], Any]) -> None:
    use(name)  # the control: no such path
    Path(name).mkdir()
    (Path(name) / "a.txt").write_text("a text")
    with pytest.raises(RequestError, match=rf"write \./{name} for the path"):
        use(name)


def test_the_path_and_the_demo_are_still_reached() -> None:
    Path("sotu").write_text("a text of mine")
    assert [piece.text for piece in open_source("./sotu").pieces()] == ["a text of mine"]
    shutil.copytree(bundled()["sudoku"], "sudoku")
    assert locate("./sudoku") == "sudoku"
    from unmask.solve.puzzles import PUZZLE_SETS, open_puzzles

    open_puzzles(PUZZLE_SETS[1], 1, 0, device="cpu", dtype="float32", threads=1)


@pytest.mark.parametrize(
    "words",
    [
        ["info", "sudoku"],
        ["generate", "sudoku", "1"],
        ["generate", "sudoku"],
        ["eval", "sudoku"],
        ["frontier", "sudoku", "--task", "sudoku"],
        ["learn", "--checkpoint", "sudoku", "--task", "sudoku"],
        ["train", "--init", "sudoku", "--data.source", "text.txt"],
        ["train", "--data.source", "sotu"],
        ["train", "--data.source", "text.txt", "--data.tokenizer", "char"],
        ["generate", "automaton", "1", "--policy", "learned:from=automaton_eos"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_commands_refuse_an_ambiguous_name(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("sudoku", "sotu", "char", "automaton_eos"):
        Path(name).mkdir()
    assert main(words) == 2
    assert "there is a path of that name here" in capsys.readouterr().err
