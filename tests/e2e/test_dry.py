"""`--dry` of the recipes of published models: every part runs once with a tiny model, and the needs are printed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unmask.api import load
from unmask.cli import frontier
from unmask.cli.frontier import FrontierArguments
from unmask.cli.learn import LearnArguments
from unmask.cli.main import main
from unmask.cli.parse import parse
from unmask.config import from_dict, to_dict
from unmask.errors import ConfigError, RequestError
from unmask.model.zoo.tiny import PUBLISHED, write_tiny
from unmask.recipes.policies import RECIPES, names, read
from unmask.rl.dry import real_network, walk
from unmask.rl.rollout import make_world
from unmask.rl.settings import LearnRun
from unmask.solve.problems import Problem, problems, scored
from unmask.solve.sweep import open_bench
from unmask.tasks import make
from unmask.tasks.base import Example
from unmask.tasks.gsm8k import Gsm8k, request
from unmask.text.chat import chat_ids

OF_PUBLISHED = sorted(name for name, recipe in RECIPES.items() if recipe().checkpoint in PUBLISHED)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaDA, and problems, in a folder."""
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny(PUBLISHED["GSAI-ML/LLaDA-8B-Instruct"], folder / "llada")
    (folder / "gsm8k").mkdir()
    Gsm8k.write_sample(folder / "gsm8k")
    return folder


@pytest.mark.parametrize("name", OF_PUBLISHED)
def test_a_recipe_can_be_stored_and_shows_a_command_that_parses(name: str) -> None:
    assert from_dict(LearnRun, to_dict(read(name)), name) == read(name)
    verb, *words = (RECIPES[name].__doc__ or "").split("unmask ")[1].split()[:3]
    arguments = parse({"learn": LearnArguments, "frontier": FrontierArguments}[verb], words, verb)
    assert arguments.dry
    assert words[0] == name
    assert name in names()


def test_the_settings_are_those_of_the_paper() -> None:
    for name in OF_PUBLISHED:
        run = read(name)
        s, whole = run.learn, run.learn.block_size is None
        assert (s.group, s.prompts, s.inner, s.lr, s.clip, s.max_norm) == (8, 16, 2, 3e-5, 0.5, 0.2)
        assert (s.weight_decay, s.betas, s.entropy, s.warm) == (0.1, (0.9, 0.99), 0.0, 0)
        assert (s.scale, s.weight, s.steering) == ("none", "rollouts", 0)
        assert (s.block_size, s.temperature) == (None if whole else 32, 1.0 if whole else 0.5)
        assert (run.policy.width, run.policy.features, run.policy.scale) == (128, ("confidence",), "raw")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llada_8b_gsm8k", "dream_7b_gsm8k_whole"])
def test_learn_walks_through_every_part(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["learn", name, "--dry", "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    walked, needs = report["walked"], report["needs"]
    assert walked["changed"]
    assert walked["network"] == f"a tiny random {name.partition('_')[0]}"
    assert walked["settings"] == 2
    assert 1 <= walked["passes"] <= 64
    assert needs["parameters"] > 7e9
    assert needs["most"] == 256
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_nothing_is_learned_without_drawn_scores(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the scores of the random model are equal, so that the update changes nothing."""
    monkeypatch.setattr("unmask.rl.dry._Drawn", lambda task: task)
    run = replace(read("llada_8b_gsm8k"), checkpoint=str(tiny / "llada"))
    assert not walk(run, tmp_path / "walk").changed


@pytest.mark.slow
def test_frontier_takes_the_recipe_and_runs_dry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--dry", "--policies", "threshold", "dream", "--blocks", "full", "32"]
    assert main(["frontier", "dream_7b_math", *words]) == 0
    shown = capsys.readouterr().out
    assert "a tiny random dream" in shown
    assert "4 settings on 2 problems" in shown
    assert "Dream-org/Dream-v0-Instruct-7B: 7,615,616,512 parameters" in shown
    assert "TFLOP/s" in shown
    assert not list(tmp_path.iterdir())


def test_training_and_evaluation_have_the_same_prompts(tiny: Path) -> None:
    task = f"gsm8k:path={tiny / 'gsm8k'},prompt=chat,length=64"
    model = load(tiny / "llada", device="cpu")
    world = make_world(model, "llada", task, train=3, valid=3, seed=0)
    bench = open_bench(str(tiny / "llada"), task, "train", 99, 0, 0.0, "cpu")
    evaluated = {problem.example.message: problem for problem in bench.problems}
    assert len(evaluated) > 40
    assert all(problem == evaluated[problem.example.message] for problem in world.train)


def test_a_message_is_in_the_template_of_the_model_and_its_answer_ends_there(tiny: Path) -> None:
    model = load(tiny / "llada", device="cpu")
    tokenizer, chat = model.tokenizer, model.defaults.chat
    assert chat is not None
    example = Example("<reasoning>[4]", "", {"number": "5"}, request("How many?"))
    (problem,) = problems([example], tokenizer, chat)
    start = chat_ids(tokenizer, chat, [("user", request("How many?"))]) + tokenizer.encode("<reasoning>")
    assert problem.row == [*start, *[tokenizer.mask_id] * 4]
    end: int = tokenizer.backend.token_to_id("<|eot_id|>")  # pyright: ignore[reportAssignmentType]
    assert problem.end == end
    task = make(f"gsm8k:path={tiny / 'gsm8k'}")
    written = [*tokenizer.encode("5"), end, *tokenizer.encode("67")]
    assert scored(task, [problem], [[*start, *written]], tokenizer) == [1.0]
    plain = Problem(example, problem.row, problem.holes)  # the control: a text to continue ends at EOS alone
    assert scored(task, [plain], [[*start, *written]], tokenizer) == [0.0]


def test_a_model_without_conversations_is_refused(tiny: Path) -> None:
    with pytest.raises(RequestError, match="has no template of conversations; choose the task's option prompt=plain"):
        open_bench("wordnet", f"gsm8k:path={tiny / 'gsm8k'},prompt=chat,length=8", "test", 1, 0, 0.0, "cpu")


def test_what_cannot_run_dry_is_said() -> None:
    with pytest.raises(
        RequestError, match=r"its config\.json is not known here: give a folder, or one of GSAI-ML/LLaDA"
    ):
        real_network("no-such/model")
    assert real_network("automaton") == (None, None)
    with pytest.raises(ConfigError, match="frontier needs --task: give the problems"):
        frontier.run(["automaton_no_such"])
