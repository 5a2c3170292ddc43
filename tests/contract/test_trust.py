"""A file never makes code run: the Python file of a task runs only where its name was typed in the command."""

import json
import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from unmask.cli.common import resume_command
from unmask.cli.main import main
from unmask.config import is_typed, trust_recorded, typed
from unmask.errors import RequestError, UnmaskError
from unmask.run.workers import Workers
from unmask.tasks import make
from unmask.tasks.registry import make as make_recorded

EVIL = """
from pathlib import Path
from random import Random

from unmask.tasks import Example, Verdict

Path(__file__).with_name("ran").touch()


class T:
    name = "sum"

    def examples(self, split, count, seed=0):
        generator = Random(f"{split}-{seed}")
        pairs = [(generator.randrange(5), generator.randrange(5)) for _ in range(count)]
        return [Example(f"{a}+{b}=[2]", f"{a + b:02}") for a, b in pairs]

    def verify(self, example, completion):
        return Verdict(1.0)

    def pairs(self, split, count, seed=0):
        return ((e.template.split("[")[0], e.answer) for e in self.examples(split, count, seed))
"""
TINY = [
    *("--data.tokenizer", "char", "--data.length", "16", "--data.eos", "none", "--model.width", "32"),
    *("--model.blocks", "1", "--model.heads", "2", "--threads", "1", "--dtype", "float32"),
    *("--train.batch", "4", "--train.steps", "2", "--train.eval-draws", "4"),
]
LEARN = [
    *("--learn.rounds", "1", "--learn.prompts", "2", "--learn.group", "2", "--learn.warm", "0", "--learn.pool", "4"),
    *("--learn.valid-prompts", "2", "--learn.calibrated", "2", "--learn.scored", "2", "--learn.threads", "1"),
    *("--learn.alphas", "0", "1", "--policy.width", "16"),
]
FRONTIER = [
    *("--task", "arithmetic:modulus=10,length=3,shortest=2", "--count", "2", "--blocks", "full", "--workers", "1"),
    *("--policies", "learned:from=policy", "--out", "sweep"),
]
SOURCE = "task:model/evil.py:T@40"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a program that leaves a mark when it runs, and a denoiser and a policy of its task."""
    folder = tmp_path_factory.mktemp("trust")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("model").mkdir()
        Path("model/evil.py").write_text(EVIL)
        assert main(["train", "--data.source", SOURCE, *TINY, "--out", "run"]) == 0
        words = ["learn", "--checkpoint", "run", "--task", "model/evil.py:T", *LEARN, "--out", "policy"]
        assert main(words) == 0
        assert Path("model/ran").exists(), "the control: what was typed runs"
        Path("model/ran").unlink()
    return folder


@pytest.fixture(autouse=True)
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, in which the commands run; with other caches, so that problems are not simply read."""
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "here"


def ran() -> bool:
    return Path("model/ran").exists()


RECORDED: list[list[str]] = [
    ["eval", "run", "--limit", "2", "--draws", "1"],
    ["pace", "run", "--steps", "2", "--sequences", "2"],
    ["train", "--resume", "run", "--train.steps", "3"],
    ["train", "recipe.toml", *TINY],
    ["learn", "--resume", "policy", "--learn.rounds", "2"],
    ["learn", "policy.toml", *LEARN],
]
AGAIN = {"eval": ["--data.source", SOURCE], "pace": ["--data.source", SOURCE], "train": ["--data.source", SOURCE]}
AGAIN["learn"] = ["--task", "model/evil.py:T"]


def recipes() -> None:
    Path("recipe.toml").write_text(f'[data]\nsource = "{SOURCE}"\n')
    Path("policy.toml").write_text('checkpoint = "run"\ntask = "model/evil.py:T"\n')


@pytest.mark.parametrize("words", RECORDED, ids=lambda words: " ".join(words[:2]))
def test_a_recorded_program_is_refused_by_name(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    recipes()
    assert main(words) == 2
    assert not ran()
    last = capsys.readouterr().err.splitlines()[-1]
    assert "would run the program model/evil.py" in last
    assert "--task model/evil.py:T" in last
    assert "--trust-recorded-tasks" in last


@pytest.mark.parametrize(
    "words",
    [words if words[0] in ("eval", "pace") else pytest.param(words, marks=pytest.mark.slow) for words in RECORDED],
    ids=lambda words: " ".join(words[:2]),
)
@pytest.mark.parametrize("how", ["typed", "trusted"])
def test_it_runs_where_it_is_typed_or_trusted(words: list[str], how: str) -> None:
    recipes()
    assert main([*words, *(AGAIN[words[0]] if how == "typed" else ["--trust-recorded-tasks"])]) == 0
    assert ran()


def test_a_command_to_go_on_with_names_the_program_again() -> None:
    folder = Path("runs/a b")
    assert resume_command("train", folder) == "unmask train --resume 'runs/a b'"
    with typed([f"--data.source={SOURCE}"]):
        assert resume_command("train", folder) == f"unmask train --resume 'runs/a b' --data.source {SOURCE}"
    with typed(["--task", "model/evil.py:T"]):
        assert resume_command("learn", folder) == "unmask learn --resume 'runs/a b' --task model/evil.py:T"
        trust_recorded()
        assert resume_command("learn", folder) == "unmask learn --resume 'runs/a b' --trust-recorded-tasks"


def test_another_file_of_that_name_is_not_typed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("other").mkdir()
    Path("other/evil.py").write_text(EVIL)
    assert main(["eval", "run", "--data.valid", "task:other/evil.py:T"]) == 2
    assert not ran()
    assert "model/evil.py" in capsys.readouterr().err


def test_a_prompt_is_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    with typed(["see model/evil.py:T please", "--out=model", "model/evil.pyc"]):
        assert not is_typed("model/evil.py")
    with typed([f"{Path.cwd()}/model/../model/evil.py:T:key=1"]):
        assert is_typed("model/evil.py"), "a path is a path however it is written"


def test_demo_measures_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["demo", "run", "--template", "1+[2]"]
    assert main(words) == 0
    assert not ran()
    assert "would run the program" in capsys.readouterr().err
    assert main([*words, "--trust-recorded-tasks"]) == 0
    assert ran()


@pytest.mark.parametrize(
    "words",
    [
        ["info", "run"],
        ["info", "policy/policy"],
        ["generate", "run", "1+2", "--length", "4", "--policy", "learned:from=policy"],
        ["fill", "run", "1+[2]"],
        [
            "train",
            "--init",
            "run",
            "--data.source",
            "text.txt",
            "--train.steps",
            "1",
            "--train.batch",
            "2",
            "--data.length",
            "8",
        ],
        ["frontier", "run", *FRONTIER],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_what_needs_no_task_runs_none(words: list[str]) -> None:
    Path("text.txt").write_text("1+2=3 4+5=9\n\n" * 40)
    main(words)
    assert not ran()


def test_traces_outcomes_and_cells_name_programs_in_vain(tmp_path: Path) -> None:
    assert main(["generate", "run", "1+2", "--length", "4", "--trace", "t.jsonl"]) == 0
    trace = Path("t.jsonl").read_text().replace('"policy"', '"task": "model/evil.py:T", "policy"')
    Path("t.jsonl").write_text(trace)
    main(["watch", "t.jsonl"])
    words = ["frontier", "run", "--task", "model/evil.py:T", "--count", "2", "--blocks", "full", "--workers", "1"]
    words += ["--policies", "threshold:threshold=0.5", "--out", "sweep"]
    assert main(words) == 0
    assert ran(), "the control: it was typed"
    Path("model/ran").unlink()
    from unmask.reproduce.work import main as work

    cell: dict[str, Any] = {
        "cell": {
            "name": "c",
            "arena": {"checkpoint": "run", "task": "model/evil.py:T", "count": 2, "seed": 0},
            "policies": [],
            "blocks": ["full"],
        },
        "type": "heuristics",
    }
    Path("again/cells").mkdir(parents=True)
    Path("again/cells/c.json").write_text(json.dumps(cell))
    with suppress(UnmaskError):
        work("again", "c")
    assert not ran()


def test_in_python_the_text_of_the_caller_is_typed() -> None:
    with pytest.raises(RequestError, match="would run the program"):
        make_recorded("model/evil.py:T")
    assert not ran()
    assert make("model/evil.py:T").name == "sum"
    assert ran()


def test_worker_processes_take_over_what_was_typed() -> None:
    jobs = [(path, partial(is_typed, path)) for path in ("model/evil.py", "model/other.py")]
    with typed(["model/evil.py:T"]), Workers[bool](2) as pool:
        answers = {answer.name: answer.result() for answer in pool.answers(jobs)}
    assert answers == {"model/evil.py": True, "model/other.py": False}


def test_the_library_itself_never_uses_the_door_of_the_caller() -> None:
    source = Path(__file__).parents[2] / "src" / "unmask"
    users = [path.name for path in source.rglob("*.py") if "make_typed" in path.read_text("utf-8")]
    assert sorted(users) == ["__init__.py", "registry.py"]
    for path in source.rglob("*.py"):
        assert "from unmask.tasks import make" not in path.read_text("utf-8"), path
