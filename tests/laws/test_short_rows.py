"""Rows padded to the longest of a micro-batch train like rows padded to the window, to rounding."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.batch import parts_by_length, used_length
from unmask.data.packed import Corpus, Facts, Packed, PartFacts, Split, batch_indices
from unmask.data.settings import DataSettings
from unmask.model.load import build
from unmask.objective import masked
from unmask.objective.base import Rows
from unmask.run.optim import optimizer_tensors
from unmask.run.parallel import Group
from unmask.text.build import char_tokenizer
from unmask.train import loop
from unmask.train.loop import Trainer
from unmask.train.plan import make_plan
from unmask.train.session import run_objective
from unmask.train.settings import ModelChoice, TextRun, TrainSettings

WINDOW = 96
LETTERS = "abcdefgh"


def pairs(count: int, seed: int) -> Packed:
    """Prompts of 2 to 6 letters with answers of 1 to 80, most of them short."""
    generator = np.random.default_rng(seed)
    first = generator.integers(2, 7, count).astype(np.int32)
    last = (first + np.minimum(80, 1 + generator.geometric(0.06, count))).astype(np.int32)
    tokenizer = char_tokenizer([LETTERS])
    ids = np.full((count, WINDOW), tokenizer.pad_id, np.uint16)
    for row, end in zip(ids, last, strict=True):
        row[:end] = np.resize(tokenizer.encode(LETTERS[int(generator.integers(8)) :] + LETTERS), end)
    size = int((last - first).sum())
    return Packed(ids, first, last, size, size)


def trainer(folder: Path, *, model: dict[str, Any] | None = None, **changes: Any) -> Trainer:
    tokenizer = char_tokenizer([LETTERS])
    train, valid = pairs(200, 1), pairs(20, 2)
    part = PartFacts(1, 1, 1, 1)
    facts = Facts("memory", True, "char", tokenizer.vocab_size, WINDOW, "none", part, part, 1)
    data = Corpus(tokenizer, train, valid, "0" * 64, (), facts, Split(2, "", None))
    choice = replace(ModelChoice(width=16, blocks=2, heads=2, dropout=0.2), **(model or {}))
    chosen = TrainSettings(steps=12, batch=16, eval_draws=40, ema=0.9, dtype="float32", lr=3e-3)
    run = TextRun(DataSettings(length=WINDOW), choice, replace(chosen, **changes))
    plan = make_plan(run, data)
    return Trainer(
        run, plan, data, build(plan.model, 1).train(), run_objective(run, data), folder, Group(), torch.float32
    )


def four_steps(run: Trainer) -> torch.Tensor:
    """Losses, gradient norms and AdamW's first moments of four steps, and the bound after them."""
    steps = [run.take_step() for _ in range(4)]
    moments = [value.flatten() for name, value in optimizer_tensors(run.optimizer).items() if name.endswith("exp_avg")]
    bound = torch.tensor([run.validate().nats_per_token])
    return torch.cat([torch.stack([part for loss, norm, _ in steps for part in (loss, norm)]), *moments, bound])


def distance(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).abs().max())


def whole_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pad every row to the window, all in one part."""
    monkeypatch.setattr(masked, "used_length", lambda valid: valid.shape[1])
    monkeypatch.setattr(
        loop, "parts_by_length", lambda lengths, most, least: list(torch.arange(len(lengths)).split(most))
    )


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ({}, {}),
        ({"absolute": True}, {"accumulate": 2}),
        ({"time_conditioned": True}, {"estimator": "stratified"}),
    ],
)
def test_the_longest_of_the_batch_is_as_good_as_the_window(
    model: dict[str, Any], changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss, gradient and bound agree to 1e-6 with dropout on. The controls: a row is cut; padding is attended to."""
    monkeypatch.setattr(loop, "_LEAST_ON_CPU", 16)  # many parts
    make: Callable[[], Trainer] = lambda: trainer(tmp_path, model=model, **changes)  # noqa: E731
    short = four_steps(make())
    monkeypatch.setattr(masked, "used_length", lambda valid: max(16, used_length(valid) - 16))
    cut = four_steps(make())
    whole_window(monkeypatch)
    whole = four_steps(make())
    assert distance(short, whole) < 1e-6
    assert distance(cut, whole) > 1e-4
    nelbo = masked.nelbo
    monkeypatch.setattr(masked, "nelbo", lambda *words, valid, **options: nelbo(*words, valid=None, **options))
    assert distance(four_steps(make()), whole) > 1e-4


def test_fewer_positions_are_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network runs on less than half of the window's positions; rows of full length are one part, in order."""
    monkeypatch.setattr(loop, "_LEAST_ON_CPU", 64)
    run, shapes = trainer(tmp_path), list[torch.Size]()
    hidden = run.model.hidden

    def watched(tokens: torch.Tensor, **options: Any) -> torch.Tensor:
        shapes.append(tokens.shape)
        return hidden(tokens, **options)

    monkeypatch.setattr(run.model, "hidden", watched)
    run.take_step()
    assert sum(shape[0] for shape in shapes) == 16
    assert sum(shape.numel() for shape in shapes) < 16 * WINDOW / 2
    full = parts_by_length(torch.full((16,), WINDOW), 16, 64)
    assert [part.tolist() for part in full] == [list(range(16))]


class Read:
    """Ids of rows that note which rows were asked for."""

    def __init__(self, ids: np.ndarray) -> None:
        self.ids, self.shape, self.rows = ids, ids.shape, list[int]()

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        self.rows += numbers.tolist()
        return self.ids[numbers]


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("model", [{}, {"parameterization": "ar"}])
def test_a_process_reads_the_ids_of_its_own_rows(size: int, model: dict[str, Any], tmp_path: Path) -> None:
    """And takes its part of the step: the losses of all processes are that of one. The control reads all rows."""
    plain = trainer(tmp_path, model=model)
    whole, total = plain.take_step()[0], torch.zeros(())
    numbers = batch_indices(plain.settings.seed, 0, 16, 200)
    for rank in range(size):
        run = trainer(tmp_path, model=model)
        ids = Read(np.asarray(run.corpus.train.ids))
        run.corpus = replace(run.corpus, train=replace(run.corpus.train, ids=ids))
        run.group = Group(rank, size)
        total += run._gradients()[0]
        assert ids.rows == numbers[run.group.share(16)].tolist()
        ids.rows.clear()
        run.corpus.train.batch(numbers)
        assert ids.rows == numbers.tolist()
    assert float(total) == pytest.approx(float(whole), abs=1e-6)


@pytest.mark.parametrize("shifted", [False, True])
def test_the_tokens_of_a_step_are_those_of_its_rows(shifted: bool) -> None:
    """With rows without a token to predict, and rows that may be masked from the start on."""
    data, model = pairs(200, 3), SimpleNamespace(shifted=shifted)
    first, last, numbers = np.array(data.first), np.array(data.last), np.arange(0, 200, 3)
    first[:40], first[40:80] = 0, last[40:80]
    data = replace(data, first=first)
    rows = Rows(*map(torch.from_numpy, data.batch(numbers))).predicted(model)
    tokens, lengths = loop.sizes_of(data, numbers, model)
    assert rows.valid is not None
    assert tokens == rows.maskable.sum()
    assert torch.equal(lengths, rows.valid.sum(-1))
    assert loop.sizes_of(data, numbers, SimpleNamespace(shifted=not shifted))[0] != tokens
    assert loop.sizes_of(data, np.array([41]), model)[0] == 1


@given(st.lists(st.integers(1, 300), min_size=1, max_size=64), st.integers(1, 64), st.integers(16, 5000))
@settings(max_examples=60, deadline=None)
def test_parts_hold_every_row_once(lengths: list[int], most: int, least: int) -> None:
    parts = parts_by_length(torch.tensor(lengths), most, least)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(lengths)))
    assert all(0 < len(part) <= most for part in parts)
    longest = [max(lengths[i] for i in part.tolist()) for part in parts]
    assert [-(-n // 16) for n in longest] == sorted((-(-n // 16) for n in longest), reverse=True)
