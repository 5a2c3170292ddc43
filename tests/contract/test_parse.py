"""Words of the command line -> the values of the arguments; what is not typed keeps its default."""

from functools import reduce
from typing import Any

import pytest

from unmask.cli.about import ListArguments
from unmask.cli.bench import BenchArguments
from unmask.cli.demo import DemoArguments
from unmask.cli.frontier import FrontierArguments
from unmask.cli.learn import LearnArguments
from unmask.cli.parse import fields_of, parse
from unmask.cli.reproduce import ReproduceArguments
from unmask.cli.train import TrainArguments
from unmask.cli.write import GenerateArguments

WORDS: list[tuple[type, str, dict[str, Any]]] = [
    (ListArguments, "", {}),
    (ListArguments, "policies --json", {"category": "policies", "json": True}),
    (
        BenchArguments,
        "scaling --plot a.png --no-compile --rounds 3",
        {"what": "scaling", "plot": "a.png", "rounds": 3},
    ),
    (DemoArguments, "", {}),
    (DemoArguments, "None --seed 4 --out=x=y", {"seed": 4, "out": "x=y"}),
    (
        FrontierArguments,
        "model --task sudoku --policies a b:c=1 --blocks full 1/2 --workers None --temperature .5",
        {
            "checkpoint": "model",
            "task": "sudoku",
            "policies": ("a", "b:c=1"),
            "blocks": ("full", "1/2"),
            "temperature": 0.5,
        },
    ),
    (  # what takes any number of values adds up; of the others the last one counts
        FrontierArguments,
        "model --policies a --task t --policies b c --task u",
        {"checkpoint": "model", "task": "u", "policies": ("a", "b", "c")},
    ),
    (FrontierArguments, "--policies --task t model", {"checkpoint": "model", "task": "t"}),
    (
        LearnArguments,
        "--learn.alphas 0 1e-3 2 --seeds 1 2 --policy.features confidence margin",
        {"learn.alphas": (0.0, 0.001, 2.0), "seeds": (1, 2), "policy.features": ("confidence", "margin")},
    ),
    (
        LearnArguments,
        "--policy.no-mask --learn.betas 0.5 0.75 --learn.track wandb --learn.lr 1",
        {"policy.mask": False, "learn.betas": (0.5, 0.75), "learn.track": ("wandb",), "learn.lr": 1.0},
    ),
    (LearnArguments, "--device cuda --threads=2", {"learn.device": "cuda", "learn.threads": 2}),
    (
        ReproduceArguments,
        "policies-full --seeds 3 --others --rounds 4 --rounds 5",
        {"name": "policies-full", "seeds": (3,), "others": (), "rounds": 5},
    ),
    (GenerateArguments, "sudoku --seed 3 -- --json", {"checkpoint": "sudoku", "prompt": "--json", "seed": 3}),
    (FrontierArguments, "--task t --policies a -- model", {"checkpoint": "model", "task": "t", "policies": ("a",)}),
    (
        TrainArguments,
        "text --train.eval_every 4 --train.compile --data.valid None --model.width=64",
        {"train.eval_every": 4, "train.compile": True, "model.width": 64},
    ),
]


def values(cls: type, words: str) -> dict[str, Any]:
    """Words -> the value of each option and positional word, by its dotted name."""
    arguments = parse(cls, words.split(), "verb")
    return {field.name: reduce(getattr, field.path, arguments) for field in fields_of(cls)}


@pytest.mark.parametrize("cls, words, typed", WORDS, ids=[f"{cls.__name__} {words}" for cls, words, _ in WORDS])
def test_words_become_values(cls: type, words: str, typed: dict[str, Any]) -> None:
    expected = {field.name: field.default for field in fields_of(cls)} | typed
    assert values(cls, words) == expected
    assert all(type(value) is type(expected[name]) for name, value in values(cls, words).items())


def test_another_word_is_another_value() -> None:
    assert values(BenchArguments, "train") != values(BenchArguments, "decode")
