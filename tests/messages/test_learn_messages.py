"""The sentences of learned policies, word for word."""

import math
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

import unmask
from unmask.disk.checkpoint import write_checkpoint
from unmask.disk.files import LOCK_FILE
from unmask.disk.folders import step_folder
from unmask.errors import ConfigError, RequestError, UnmaskError
from unmask.policies.learned.network import PolicyNetwork
from unmask.policies.learned.policy import Calibration, Learned
from unmask.policies.learned.settings import PolicySettings
from unmask.policies.registry import make
from unmask.rl.session import open_learning, recorded_learning
from unmask.rl.settings import LearnRun, LearnSettings
from unmask.solve.sweep import open_bench
from unmask.tasks.base import Example, Task, examples_of
from unmask.train.checkpoint import refuse_taken

PLAIN = PolicySettings(features=("confidence",))
CALIBRATION = Calibration("sudoku", None, 8, 30.0, (0.0, 0.5, 1.0), (12.0, 6.0, 2.0), (1.0, 0.9, 0.2))
CASES: list[tuple[Callable[[], object], type[UnmaskError], str]] = [
    (
        lambda: LearnSettings(group=1),
        ConfigError,
        "group is 1; give a whole number of at least 2 (a rollout is compared with others of its problem).",
    ),
    (
        lambda: LearnSettings(alphas=(1.0, -1.0)),
        ConfigError,
        "a value of alphas is -1.0; give a number from 0 to 1000000 (0 is accuracy alone).",
    ),
    (
        lambda: LearnSettings(alphas=(1.0, math.inf)),
        ConfigError,
        "a value of alphas is inf; give a number from 0 to 1000000 (0 is accuracy alone).",
    ),
    (lambda: LearnSettings(entropy=-1), ConfigError, "entropy is -1; give a number from 0 to 1000."),
    (lambda: LearnSettings(lr=math.nan), ConfigError, "lr is nan; give a number above 0 and of at most 10."),
    (
        lambda: LearnSettings(betas=(1.0, 1.0)),
        ConfigError,
        "a value of betas is 1.0; give a number of at least 0 and below 1 (usually 0.9 0.99).",
    ),
    (
        lambda: LearnRun(policy=PolicySettings(priced=False)),
        ConfigError,
        "A policy without policy.priced is trained for one alpha, and there are 7; give one alpha, or policy.priced.",
    ),
    (
        lambda: LearnRun(policy=PolicySettings(head="plackett-luce")),
        ConfigError,
        "entropy is 0.02, a bonus for Bernoulli draws, and a ranking has none; give learn.entropy 0.",
    ),
    (
        lambda: PolicySettings(features=("hidden",)),
        ConfigError,
        "hidden is 0; give the denoiser's width with the feature hidden, else 0.",
    ),
    (
        lambda: Learned(PolicyNetwork(PLAIN), dial=1.5),
        ConfigError,
        "dial is 1.5; give a number from 0 to 1 (0 is accurate, 1 is fast).",
    ),
    (
        lambda: make("learned"),
        RequestError,
        "learned needs its folder; write for example learned:from=runs/learn-1, or a bundled name.",
    ),
    (
        lambda: CALIBRATION.dial_for(1.5),
        RequestError,
        "1.5 passes are too few: this policy takes 2.0 at its fastest on sudoku; give at least that.",
    ),
    (
        lambda: unmask.load("automaton").decoder("random", passes=3),
        RequestError,
        "'random' cannot keep to 3 passes; a calibrated learned policy can (inside a compound: ",
    ),
    (
        lambda: unmask.load("automaton").fill("a[4]", policy="learned:from=automaton", passes=3, dial=0.1),
        RequestError,
        "A dial and a number of passes were given, and each decides the speed; give one of the two.",
    ),
    (
        lambda: make("learned:from=automaton,passes=3,dial=0.1"),
        RequestError,
        "passes sets the dial of a calibrated policy; give one of the two, dial or passes.",
    ),
    (
        lambda: make("learned:automaton"),
        RequestError,
        "'automaton' in the policy 'learned:automaton' is not key=value; write for example learned:dial=0.",
    ),
    (
        lambda: make("pc:unigram=nowhere.json"),
        RequestError,
        "unigram is 'nowhere.json'; give a JSON file with a list of one number a token id, none below 0.",
    ),
    (
        lambda: make("threshold:threshold=nan"),
        RequestError,
        "threshold is nan; give a finite number (for example 0.9).",
    ),
    (
        lambda: open_bench("automaton", "sudoku", "test", 2, 0, 0.0),
        RequestError,
        "The problems of sudoku:side=6,clues=0 have characters for which automaton has no tokens; name the model ",
    ),
]


@pytest.mark.parametrize("make_it, error_type, sentence", CASES)
def test_sentences(make_it: Callable[[], object], error_type: type[UnmaskError], sentence: str) -> None:
    with pytest.raises(error_type) as error:
        make_it()
    assert str(error.value).startswith(sentence)


def test_a_number_of_passes_is_met_between_the_calibrated_dial_values() -> None:
    assert CALIBRATION.dial_for(20) == 0
    assert CALIBRATION.dial_for(9) == pytest.approx(0.25)
    assert CALIBRATION.dial_for(2) == pytest.approx(1)


@pytest.mark.parametrize(
    "checkpoint, policy, made",
    [
        ("automaton", PLAIN, [("valid", 2)]),  # a problem of sudoku does not fit
        ("sudoku", PolicySettings(top=999), []),
        ("sudoku", PLAIN, [("valid", 2), ("train", 4)]),  # the control
    ],
)
def test_what_does_not_fit_is_refused_before_the_problems_to_train_on_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: str, policy: PolicySettings, made: list[Any]
) -> None:
    calls: list[Any] = []

    def noted(task: Task, split: str, count: int, seed: int) -> list[Example]:
        calls.append((split, count))
        return examples_of(task, split, count, seed)

    monkeypatch.setattr("unmask.rl.rollout.examples_of", noted)
    run = LearnRun(checkpoint, "sudoku", policy, LearnSettings(pool=4, valid_prompts=2, calibrated=2))
    with pytest.raises(UnmaskError) if len(made) < 2 else nullcontext():
        open_learning(run, out=tmp_path / "run").close()
    assert calls == made


def test_more_probabilities_than_tokens(tmp_path: Path) -> None:
    run = LearnRun("automaton_eos", "automaton", PolicySettings(top=999), LearnSettings(pool=4, valid_prompts=2))
    with pytest.raises(ConfigError, match="is to read the 999 highest probabilities, but automaton_eos has"):
        open_learning(run, out=tmp_path / "run")


def test_what_was_half_written_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / ".step-00000010.abcdef-1-01234567.tmp").mkdir(parents=True)
    with pytest.raises(ConfigError, match="has files that unmask did not write"):
        refuse_taken(tmp_path)
    (tmp_path / LOCK_FILE).touch()  # the run that was killed had locked its folder
    refuse_taken(tmp_path)
    (tmp_path / "checkpoints" / "best-00000010").mkdir()
    with pytest.raises(ConfigError, match="holds a run already"):
        refuse_taken(tmp_path)


def test_the_hidden_states_of_another_denoiser(tmp_path: Path) -> None:
    narrow = PolicySettings(features=("confidence", "hidden"), hidden=5)
    run = LearnRun("automaton_eos", "automaton", narrow, LearnSettings(pool=4, valid_prompts=2))
    with pytest.raises(ConfigError, match=r"those of automaton_eos have 64; give --policy\.hidden 64"):
        open_learning(run, out=tmp_path / "run")
    policy = Learned(PolicyNetwork(PolicySettings(features=("confidence", "hidden"), hidden=5)))
    model = unmask.load("automaton", dtype="float32", device="cpu")
    with pytest.raises(RequestError, match="hidden states of width 5, and those of the denoiser are 64 wide"):
        model.fill("a[4]", policy=policy, temperature=0)
    fits = Learned(PolicyNetwork(PolicySettings(features=("confidence", "hidden"), hidden=64)))
    assert torch.tensor(model.fill("a[4]", policy=fits, temperature=0).passes).min() >= 1


def test_a_training_run_is_no_run_of_learn(tmp_path: Path) -> None:
    """A whole checkpoint of the wrong command: no other one of its run is offered. The control is in test_damaged."""
    write_checkpoint(
        step_folder(tmp_path, 2), {"a": torch.zeros(1)}, {}, run={"settings": {"train": {}}}, state_facts={"step": 2}
    )
    shutil.copytree(step_folder(tmp_path, 2), step_folder(tmp_path, 4))
    with pytest.raises(RequestError, match=r"is not a run of unmask learn; go on with it by unmask train --resume\.$"):
        recorded_learning(tmp_path)
