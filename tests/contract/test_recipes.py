"""The recipes of denoisers: their settings can be stored, rows fit, and the commands of their docstrings parse."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from tests.extras import library

from unmask.cli.parse import parse
from unmask.cli.train import TrainArguments
from unmask.config import cache_folder, from_dict, to_dict
from unmask.recipes.denoisers import RECIPES, names, read
from unmask.tasks import make
from unmask.train.settings import TextRun

OF_TASKS = sorted(name for name, recipe in RECIPES.items() if recipe().data.source.startswith("task:"))


def too_long(run: TextRun, problems: int = 200) -> list[str]:
    """A run on the problems of a task -> those of the first problems that are longer than a row of the run."""
    task, _, count = run.data.source.removeprefix("task:").rpartition("@")
    assert int(count) >= problems
    pairs = make(task).pairs("train", problems)
    return [prompt + answer for prompt, answer in pairs if len(prompt) + len(answer) > run.data.length]


def commands(name: str) -> list[list[str]]:
    """The words of the commands in the docstring of a recipe, without the program."""
    text = re.sub(r"\\\n\s*", " ", RECIPES[name].__doc__ or "")
    return [shlex.split(line)[1:] for line in re.findall(r"^ +(unmask train .*)$", text, re.MULTILINE)]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_stored_and_shows_a_command_that_parses(name: str) -> None:
    assert name in names()
    assert from_dict(TextRun, to_dict(read(name)), name) == read(name)
    for verb, *words in commands(name):
        assert verb == "train"
        assert parse(TrainArguments, words, "train").recipe in ("text", name)
    assert commands(name) or name == "mdlm_owt"  # that one runs under torchrun


@pytest.mark.parametrize("name", OF_TASKS)
def test_every_problem_fits_into_a_row(name: str, cache: Path) -> None:
    run = read(name)
    if ":gym:" in run.data.source:
        library("reasoning_gym", "tasks")
    if "antibody" in run.data.source:
        chains = cache_folder() / "texts" / "human-heavy-chains"
        chains.mkdir(parents=True)
        draw = Random(1)
        cdr3s = ("".join(draw.choices("ADGSWY", k=7)) for _ in range(500))
        rows = [{"sequence": f"{'Q' * 123}{cdr3}WGQGTLVTVSS", "cdr3": cdr3} for cdr3 in cdr3s]
        (chains / "chains.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert run.data.tokenizer == "char"
    assert too_long(run) == []
    assert too_long(replace(run, data=replace(run.data, length=run.data.length - 6))) != []


def test_a_recipe_of_fine_tuning_fits_the_denoiser_it_starts_from() -> None:
    for first, second in (("automaton", "automaton_eos"), ("automaton_long", "automaton_long_eos")):
        assert read(first).data.length == read(second).data.length
        assert ["train", second, "--init", first] == commands(second)[0][:4]
