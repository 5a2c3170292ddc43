"""Settings are unchanged after a conversion to JSON and back, and unknown keys are refused."""

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask import __version__, config
from unmask.config import from_dict, merge, run_record, to_dict
from unmask.disk.json import read_toml
from unmask.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Optimizer:
    """Settings inside settings."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    shape: Literal["constant", "cosine"] = "constant"

    def __post_init__(self) -> None:
        if self.lr < 0:
            raise ConfigError(f"optimizer.lr = {self.lr} is not possible: give 0 or more.")


@dataclass(frozen=True, slots=True)
class Run:
    """Settings as in a recipe."""

    name: str
    train: Optimizer = field(default_factory=Optimizer)
    warm: Optimizer | None = None
    many: tuple[Optimizer, ...] = ()
    length: int | Literal["auto"] = "auto"
    seed: int | None = None
    path: Path | None = None
    track: tuple[str, ...] = ()
    named: dict[str, Optimizer] = field(default_factory=dict)


optimizers = st.builds(
    Optimizer,
    lr=st.floats(min_value=0, allow_nan=False, allow_infinity=False),
    betas=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    shape=st.sampled_from(["constant", "cosine"]),
)
runs = st.builds(
    Run,
    name=st.text(),
    train=optimizers,
    warm=st.none() | optimizers,
    many=st.lists(optimizers, max_size=2).map(tuple),
    length=st.integers(-(2**40), 2**40) | st.just("auto"),
    seed=st.none() | st.integers(-(2**40), 2**40),
    path=st.none() | st.just(Path("a/b")),
    track=st.lists(st.text(), max_size=2).map(tuple),
    named=st.dictionaries(st.text(), optimizers, max_size=2),
)


@given(run=runs)
def test_settings_come_back_unchanged(run: Run) -> None:
    plain = json.loads(json.dumps(to_dict(run)))
    assert from_dict(Run, plain, "here") == run


def _tables(plain: Any) -> list[dict[str, Any]]:
    """Every table whose keys have to be names of settings."""
    inner = [plain["train"], *plain["many"], *plain["named"].values()]
    return [plain, *inner, *([plain["warm"]] if plain["warm"] else [])]


@given(run=runs, pick=st.integers(min_value=0))
def test_an_unknown_key_is_refused_at_any_depth(run: Run, pick: int) -> None:
    plain = to_dict(run)
    tables = _tables(plain)
    tables[pick % len(tables)]["bteas"] = 1
    with pytest.raises(ConfigError, match="bteas'"):
        from_dict(Run, plain, "here")


WRONG: list[dict[str, Any]] = [
    {"name": 1},
    {"name": "a", "seed": True},
    {"name": "a", "seed": 1.5},
    {"name": "a", "seed": "1"},
    {"name": "a", "length": "long"},
    {"name": "a", "train": {"betas": [0.9]}},
    {"name": "a", "train": {"betas": [0.9, 0.9, 0.9]}},
    {"name": "a", "train": {"shape": "square"}},
    {"name": "a", "track": "wandb"},
    {"name": "a", "many": {}},
]


@pytest.mark.parametrize("data", WRONG)
def test_a_value_of_the_wrong_type_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        from_dict(Run, data, "here")


def test_a_whole_number_is_a_number() -> None:
    assert from_dict(Run, {"name": "a", "train": {"lr": 1}}, "here").train.lr == 1.0


def test_merging_replaces_values_inside_tables_and_changes_neither() -> None:
    base, over = {"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": [2], "e": {"f": 1}}
    assert merge(base, over) == {"a": {"b": 3, "c": 2}, "d": [2], "e": {"f": 1}}
    assert base == {"a": {"b": 1, "c": 2}, "d": [1]}
    assert merge({"a": {"b": 1}}, {"a": 2}) == {"a": 2}
    assert merge({"a": 2}, {"a": {"b": 1}}) == {"a": {"b": 1}}


def test_toml_is_read(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('name = "a"\n[train]\nlr = 1\nbetas = [0.8, 0.9]\n')
    assert from_dict(Run, read_toml(path), str(path)).train == Optimizer(1.0, (0.8, 0.9))


def test_a_run_record_is_json() -> None:
    record = json.loads(json.dumps(run_record()))
    assert record.keys() == {"versions", "platform", "processor", "threads", "commit", "time"}
    assert record["threads"] >= 1
    assert record["time"].endswith("+00:00")


def test_the_package_version_is_always_recorded() -> None:
    assert run_record()["versions"]["unmask"] == __version__


@pytest.mark.parametrize("linked", [False, True])
def test_the_commit_is_that_of_the_checkout_itself(tmp_path: Path, monkeypatch, linked: bool) -> None:
    def git(*words: str, at: Path = tmp_path) -> str:
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", *names, *words], cwd=at, check=True, capture_output=True, text=True
        ).stdout.strip()

    try:
        git("init", "-q")
    except OSError:
        pytest.skip("git is not installed")
    assert config._commit(tmp_path) is None  # no commit yet
    config._commit.cache_clear()
    git("commit", "-q", "--allow-empty", "-m", "one")
    tree = tmp_path
    if linked:
        tree = tmp_path / "linked"
        git("worktree", "add", "-q", "-b", "other", str(tree))
        git("commit", "-q", "--allow-empty", "-m", "two", at=tree)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert (
        config._commit(tree)
        == subprocess.run(
            ["git", "--git-dir", str(tree / ".git"), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
        ).stdout.strip()
    )
    monkeypatch.delenv("GIT_DIR")
    inside = tree / "site-packages"  # installed in the checkout of another project
    inside.mkdir()
    assert git("rev-parse", "HEAD", at=inside)  # control: git itself gives the commit of the outer folder
    assert config._commit(inside) is None


def test_git_is_never_asked_about_the_working_folder(tmp_path: Path, monkeypatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        raise FileNotFoundError("no git")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()
    config._commit.cache_clear()
    assert run_record()["commit"] is None
    assert all(command[1:3] == ["-C", str(Path(config.__file__).parents[2])] for command in commands)
    config._commit.cache_clear()
