"""The reader of the command line against tyro, which prints the help: the same words give the same arguments."""

from collections.abc import Sequence
from typing import Any

import pytest
import tyro

from unmask.cli.about import ListArguments
from unmask.cli.bench import BenchArguments
from unmask.cli.demo import DemoArguments
from unmask.cli.frontier import FrontierArguments
from unmask.cli.learn import LearnArguments
from unmask.cli.parse import _for_tyro, parse
from unmask.cli.reproduce import ReproduceArguments
from unmask.cli.train import TrainArguments
from unmask.config import to_dict

WORDS: list[tuple[type, str]] = [
    (ListArguments, ""),
    (ListArguments, "policies --json"),
    (BenchArguments, "scaling --plot a.png --no-compile --rounds 3"),
    (DemoArguments, ""),
    (DemoArguments, "None --seed -4 --out=x=y"),
    (FrontierArguments, "model --task sudoku --policies a b:c=1 --blocks full 1/2 --workers None --temperature -.5"),
    (FrontierArguments, "--policies --task t model"),
    (LearnArguments, "--learn.alphas 0 1e-3 2 --seeds 1 2 --policy.features confidence margin"),
    (LearnArguments, "--policy.no-mask --learn.betas 0.5 0.75 --learn.track wandb --learn.lr 1"),
    (ReproduceArguments, "policies-full --seeds 3 --others --rounds 4 --rounds 5"),
    (
        TrainArguments,
        "text --train.eval_every 4 --train.compile --data.valid None --model.width=64",
    ),
]


def by_tyro(cls: type, words: Sequence[str]) -> Any:
    """What tyro makes of the words."""
    return tyro.cli(_for_tyro(cls), args=list(words))


@pytest.mark.parametrize("cls, words", WORDS, ids=[f"{cls.__name__} {words}" for cls, words in WORDS])
def test_the_same_words_give_the_same_arguments(cls: type, words: str) -> None:
    assert to_dict(parse(cls, words.split(), "verb")) == to_dict(by_tyro(cls, words.split()))


def test_the_comparison_notices_another_value() -> None:
    assert to_dict(parse(BenchArguments, ["train"], "verb")) != to_dict(by_tyro(BenchArguments, ["decode"]))
