"""A resumed run equals an uninterrupted one: every loss and every tensor, bit for bit."""

import json
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unmask.data.packed import Corpus, Facts, Packed, PartFacts, Split
from unmask.data.settings import DataSettings
from unmask.denoiser import Denoiser
from unmask.disk.folders import latest
from unmask.model.load import build
from unmask.noise import generator, row_keys
from unmask.objective.base import Draw, Loss, Objective, Rows, Turn
from unmask.objective.bound import Bound
from unmask.objective.masked import nelbo
from unmask.run.loop import Listener
from unmask.run.optim import optimizer_tensors
from unmask.run.parallel import Group
from unmask.text.build import char_tokenizer
from unmask.train import loop
from unmask.train.checkpoint import training_tensors
from unmask.train.loop import StepReport, Trainer
from unmask.train.plan import make_plan
from unmask.train.session import run_objective
from unmask.train.settings import ModelChoice, TextRun, TrainSettings

STEPS, LENGTH = 12, 16
LETTERS = "abcdefgh"


def packed(rows: int, seed: int) -> Packed:
    """Rows of a small Markov chain, the last of them padded."""
    generator = np.random.default_rng(seed)
    ids = np.zeros((rows, LENGTH), np.uint16)
    for row in ids:
        token = int(generator.integers(8))
        for place in range(LENGTH):
            row[place] = 1 + token
            token = (token + int(generator.integers(1, 3))) % 8
    last = np.full(rows, LENGTH, np.int32)
    last[-1] = 9
    return Packed(ids, np.zeros(rows, np.int32), last, int(last.sum()), int(last.sum()))


def corpus() -> Corpus:
    part = PartFacts(1, 100, 100, 20)
    facts = Facts("memory", False, "char", 12, LENGTH, "none", part, part, 26)
    return Corpus(char_tokenizer([LETTERS]), packed(20, 1), packed(6, 2), "0" * 64, (), facts, Split(2, "", None))


def settings(**changes: Any) -> TextRun:
    train = TrainSettings(
        steps=STEPS, batch=8, eval_every=4, save_every=3, eval_draws=12, ema=0.9, dtype="float32", patience=0, lr=3e-3
    )
    model = ModelChoice(width=16, blocks=2, heads=2, dropout=0.2)
    return TextRun(DataSettings(length=LENGTH), model, replace(train, **changes))


def trainer(run: TextRun, folder: Path, objective: Objective | None = None, group: Group | None = None) -> Trainer:
    data = corpus()
    plan = make_plan(run, data)
    model = build(plan.model, run.train.seed)
    objective = objective or run_objective(run, data)
    return Trainer(run, plan, data, model, objective, folder, group or Group(), torch.float32)


class Watcher(Listener[StepReport, Bound]):
    """Keeps the reports, and calls `after` after each step."""

    def __init__(self, after: Callable[[int], None] = lambda step: None) -> None:
        self.losses: dict[int, float] = {}
        self.bounds: dict[int, float] = {}
        self.after = after

    def stepped(self, report: StepReport) -> None:
        self.losses[report.step] = report.loss
        self.after(report.step)

    def validated(self, step: int, figure: Bound, best: bool) -> None:
        self.bounds[step] = figure.nats_per_token

    def saved(self, folder: Path) -> None:
        assert folder.is_dir()


def everything(run: Trainer) -> dict[str, torch.Tensor]:
    return training_tensors(run) | {"updates": torch.tensor(run.ema.updates)}


def same(first: Trainer, second: Trainer) -> bool:
    a, b = everything(first), everything(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Watcher]:
    """The run that was never interrupted."""
    run, watcher = trainer(settings(), tmp_path_factory.mktemp("whole") / "run"), Watcher()
    assert run.fit(watcher).reason == "finished"
    assert list(watcher.losses) == list(range(1, STEPS + 1))
    return run, watcher


@pytest.mark.parametrize("stop", [1, 3, 4, 6, 8, 11])
def test_interrupted_and_resumed_is_uninterrupted(stop: int, whole: tuple[Trainer, Watcher], tmp_path: Path) -> None:
    """A signal after any step, across validations and saves; dropout and averaging are on."""
    first = trainer(settings(), tmp_path / "run")
    before = Watcher(lambda step: signal.raise_signal(signal.SIGINT) if step == stop else None)
    ended = first.fit(before)
    assert (ended.reason, ended.step) == ("interrupted", stop)
    torch.rand(5)  # draws from the global generator must not matter
    second, after = trainer(settings(), tmp_path / "run"), Watcher()
    assert second.restore()
    assert same(first, second)
    assert second.fit(after).reason == "finished"
    assert before.losses | after.losses == whole[1].losses
    assert not before.losses.keys() & after.losses.keys()
    assert same(second, whole[0])
    assert before.bounds | after.bounds == whole[1].bounds
    assert (second.standing, second.best) == (whole[0].standing, whole[0].best)


@pytest.mark.parametrize("stop", [2, 5, 10])
def test_killed_and_resumed_loses_the_steps_since_the_last_save(
    stop: int, whole: tuple[Trainer, Watcher], tmp_path: Path
) -> None:
    """Nothing is written on the way out; a best checkpoint newer than the last save does no harm."""

    def die(step: int) -> None:
        if step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(settings(save_every=3), tmp_path / "run").fit(Watcher(die))
    second, after = trainer(settings(), tmp_path / "run"), Watcher()
    assert second.restore() == (stop > 2)
    assert second.step == stop // 3 * 3
    second.fit(after)
    assert after.losses == {step: loss for step, loss in whole[1].losses.items() if step > stop // 3 * 3}
    assert same(second, whole[0])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(1, STEPS + 1))


@pytest.mark.parametrize("change", [{"seed": 2}, {"ema": 0.5}, {"lr": 2.9e-3}])
def test_control_a_changed_setting_is_seen(
    change: dict[str, Any], whole: tuple[Trainer, Watcher], tmp_path: Path
) -> None:
    first = trainer(settings(), tmp_path / "run")
    first.fit(Watcher(lambda step: signal.raise_signal(signal.SIGINT) if step == 5 else None))
    second = trainer(settings(**change), tmp_path / "run")
    assert second.restore()
    second.fit(Watcher())
    assert not same(second, whole[0])


def test_control_forgotten_moments_are_seen(whole: tuple[Trainer, Watcher], tmp_path: Path) -> None:
    first = trainer(settings(), tmp_path / "run")
    first.fit(Watcher(lambda step: signal.raise_signal(signal.SIGINT) if step == 5 else None))
    second = trainer(settings(), tmp_path / "run")
    folder = latest(tmp_path / "run")
    assert folder is not None
    weights = {name: value for name, value in training_tensors(second).items() if name.startswith("raw/")}
    moments = training_tensors(second).keys() - weights.keys()
    second.saver.load(folder, weights | {name: torch.zeros_like(training_tensors(second)[name]) for name in moments})
    second.step = 5
    second.fit(Watcher())
    assert not same(second, whole[0])


def softly(seed: int, share: float = 0.5) -> TextRun:
    """`settings` with soft masks; steps have two passes with this probability."""
    run = settings(seed=seed)
    return replace(run, model=replace(run.model, soft=3), train=replace(run.train, two_pass=share))


def passes(run: Trainer) -> str:
    """The number of passes of each step of a training with soft masks."""
    maskable = torch.ones(1, LENGTH, dtype=torch.bool)
    draws = [run.objective.draw(run.settings.seed, step, torch.arange(1), 1, maskable) for step in range(STEPS)]
    return "".join("2" if len(draw) == 4 else "1" for draw in draws)


@pytest.mark.parametrize("stop", [1, 2, 5, 8])
def test_a_training_with_soft_masks_is_resumed_to_the_same_bits(stop: int, tmp_path: Path) -> None:
    """Also before its scalars have had a gradient; the control is another share of steps with two passes."""
    whole, watcher = trainer(softly(2), tmp_path / "whole"), Watcher()
    whole.fit(watcher)
    assert passes(whole) == "111211112211"
    before = Watcher(lambda step: signal.raise_signal(signal.SIGINT) if step == stop else None)
    first = trainer(softly(2), tmp_path / "run")
    first.fit(before)
    second, after = trainer(softly(2), tmp_path / "run"), Watcher()
    assert second.restore()
    assert same(first, second)
    assert second.fit(after).reason == "finished"
    assert before.losses | after.losses == watcher.losses
    assert before.bounds | after.bounds == watcher.bounds
    assert same(second, whole)
    third = trainer(softly(2, 1.0), tmp_path / "third")
    third.fit(Watcher())
    assert not same(third, whole)


def five_steps(run: Trainer) -> dict[str, torch.Tensor]:
    """Losses and gradient norms of five steps, and AdamW's first moments after them."""
    steps = [run.take_step() for _ in range(5)]
    moments = optimizer_tensors(run.optimizer)
    return {
        "losses": torch.stack([loss for loss, _, _ in steps]),
        "norms": torch.stack([norm for _, norm, _ in steps]),
        "moments": torch.cat([moments[key].flatten() for key in moments if key.endswith("exp_avg")]),
    }


def distance(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    """The greatest difference of two results of `five_steps`."""
    return max(float((left[key] - right[key]).abs().max()) for key in left)


def dropping(p: float, **changes: Any) -> TextRun:
    """`settings` with another rate of dropout."""
    run = settings(**changes)
    return replace(run, model=replace(run.model, dropout=p))


@pytest.mark.parametrize("p", [0.0, 0.2])
def test_accumulation_changes_nothing(p: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient in parts equals that of the whole batch, to 1e-6.

    The controls: half of the batch, and dropout that counts rows within their part.
    """
    whole, two, four = (five_steps(trainer(dropping(p, accumulate=n), tmp_path / str(n))) for n in (1, 2, 4))
    assert max(distance(two, whole), distance(four, whole)) < 1e-6
    assert distance(five_steps(trainer(dropping(p, batch=4), tmp_path / "small")), whole) > 1e-3
    monkeypatch.setattr(loop, "row_keys", lambda seed, step, rows, stream: row_keys(seed, step, rows % 2, stream))
    local = five_steps(trainer(dropping(p, accumulate=4), tmp_path / "local"))
    assert (distance(local, whole) > 1e-3) == (p > 0)


# ---- another objective ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FixedRate:
    """A plain masked language model's objective: the likelihood of the 15 % of tokens that are hidden."""

    rate: float = 0.15

    def draw(self, seed: int, step: int, rows: torch.Tensor, total: int, maskable: torch.Tensor) -> Draw:
        u = torch.rand((total, maskable.shape[1]), generator=generator(seed, 7, step))
        return (maskable & (u[rows] < self.rate),)

    def loss(self, model: Denoiser, rows: Rows, draw: Draw) -> Loss:
        (hide,) = draw
        weight = torch.full((len(hide),), 1 / self.rate)
        return Loss(nelbo(model, rows.ids, hide, weight, valid=rows.valid), rows.maskable.sum(-1))

    @torch.no_grad()
    def bound(self, model: Denoiser, rows: Rows, turn: Turn) -> Loss:
        random = generator(turn.seed, int(turn.rows[0]), turn.draw)
        hide = rows.maskable & (torch.rand(rows.ids.shape, generator=random) < self.rate)
        return self.loss(model, rows, (hide,))


def test_the_trainer_fits_another_objective(whole: tuple[Trainer, Watcher], tmp_path: Path) -> None:
    """It trains, validates, saves and resumes with the same bits; the control: its losses differ from the bound."""
    run, watcher = trainer(settings(), tmp_path / "one", FixedRate()), Watcher()
    assert run.fit(watcher).reason == "finished"
    assert sum(watcher.losses[step] for step in (10, 11, 12)) < sum(watcher.losses[step] for step in (1, 2, 3))
    assert list(watcher.bounds) == [4, 8, 12]
    first = trainer(settings(), tmp_path / "two", FixedRate())
    first.fit(Watcher(lambda step: signal.raise_signal(signal.SIGINT) if step == 5 else None))
    second, after = trainer(settings(), tmp_path / "two", FixedRate()), Watcher()
    assert second.restore()
    assert second.fit(after).reason == "finished"
    assert after.losses == {step: loss for step, loss in watcher.losses.items() if step > 5}
    assert same(run, second)
    assert watcher.losses != whole[1].losses
    assert watcher.bounds != whole[1].bounds


def test_golden_losses(tmp_path: Path, golden: Callable[..., None]) -> None:
    """Twenty steps of a fixed small run, loose enough for another processor."""
    watcher = Watcher()
    trainer(settings(steps=20), tmp_path / "run").fit(watcher)
    golden("losses", [watcher.losses[step] for step in range(1, 21)], tolerance=1e-3)
    golden("bounds", list(watcher.bounds.values()), tolerance=1e-3)
