"""A run that stopped goes on as if it had never stopped: every loss, every tensor, bit for bit."""

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unmask.data.packed import Corpus, Facts, Packed, PartFacts
from unmask.data.settings import DataSettings
from unmask.disk.checkpoint import load_state
from unmask.disk.folders import latest
from unmask.model.load import build
from unmask.objective.bound import Bound
from unmask.run.loop import Listener
from unmask.run.optim import optimizer_tensors
from unmask.run.parallel import Group
from unmask.text.build import char_tokenizer
from unmask.train.loop import StepReport, Trainer
from unmask.train.plan import make_plan
from unmask.train.session import objective_of
from unmask.train.settings import ModelChoice, TextRun, TrainSettings

STEPS, LENGTH = 12, 16
LETTERS = "abcdefgh"


def packed(rows: int, seed: int) -> Packed:
    """Rows of a small Markov chain, the last of them padded."""
    chance = np.random.default_rng(seed)
    ids = np.zeros((rows, LENGTH), np.uint16)
    for row in ids:
        token = int(chance.integers(8))
        for place in range(LENGTH):
            row[place] = 1 + token
            token = (token + int(chance.integers(1, 3))) % 8
    last = np.full(rows, LENGTH, np.int32)
    last[-1] = 9
    return Packed(ids, np.zeros(rows, np.int32), last, int(last.sum()), int(last.sum()))


def corpus() -> Corpus:
    part = PartFacts(1, 100, 100, 20)
    facts = Facts("memory", False, "char", 12, LENGTH, "none", part, part)
    return Corpus(char_tokenizer([LETTERS]), packed(20, 1), packed(6, 2), "0" * 64, (), facts)


def settings(**changes: Any) -> TextRun:
    train = TrainSettings(
        steps=STEPS, batch=8, eval_every=4, save_every=3, eval_draws=12, ema=0.9, dtype="float32", patience=0, lr=3e-3
    )
    model = ModelChoice(width=16, blocks=2, heads=2, dropout=0.2)
    return TextRun(DataSettings(length=LENGTH), model, replace(train, **changes))


def trainer(run: TextRun, folder: Path) -> Trainer:
    data = corpus()
    plan = make_plan(run, data)
    return Trainer(
        run,
        plan,
        data,
        build(plan.model, run.train.seed),
        objective_of(run.train, data),
        folder,
        Group(),
        torch.float32,
    )


class Watcher(Listener[StepReport, Bound]):
    """Keeps what it is told, and may do something after a step."""

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


def everything(one: Trainer) -> dict[str, torch.Tensor]:
    return {
        **{f"raw.{name}": value for name, value in one.model.state_dict().items()},
        **{f"optimizer.{name}": value for name, value in optimizer_tensors(one.optimizer).items()},
        **{f"ema.{name}": value for name, value in one.ema.state().items()},
    }


def same(one: Trainer, other: Trainer) -> bool:
    a, b = everything(one), everything(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Watcher]:
    """The run that was never interrupted."""
    one, watcher = trainer(settings(), tmp_path_factory.mktemp("whole") / "run"), Watcher()
    assert one.fit(watcher).reason == "finished"
    assert list(watcher.losses) == list(range(1, STEPS + 1))
    return one, watcher


@pytest.mark.parametrize("stop", [1, 3, 4, 6, 8, 11])
def test_interrupted_and_resumed_is_uninterrupted(stop: int, whole: tuple[Trainer, Watcher], tmp_path: Path) -> None:
    """A signal after any step, across validations and saves; dropout and averaging are on."""
    first = trainer(settings(), tmp_path / "run")
    before = Watcher(lambda step: signal.raise_signal(signal.SIGINT) if step == stop else None)
    ended = first.fit(before)
    assert (ended.reason, ended.step) == ("interrupted", stop)
    torch.rand(5)  # somebody else's draws must not matter
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
    parts, facts = load_state(folder, "cpu")
    second.model.load_state_dict(parts["raw"])
    second.step = facts["step"]
    second.fit(Watcher())
    assert not same(second, whole[0])


def test_accumulation_does_not_change_the_gradient(tmp_path: Path) -> None:
    """In two parts as in one, to 1e-6; the control: half of the batch does not."""
    found: list[torch.Tensor] = []
    for name, accumulate in (("one", 1), ("two", 2), ("four", 4)):
        one = trainer(settings(accumulate=accumulate), tmp_path / name)
        one.model.eval()  # no dropout: its draws differ between the parts
        one.take_step()
        one.take_step()
        moments = optimizer_tensors(one.optimizer)
        found.append(torch.cat([moments[key].flatten() for key in moments if key.endswith("exp_avg")]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-6)
    small = trainer(settings(batch=4), tmp_path / "small")
    small.model.eval()
    small.take_step()
    small.take_step()
    moments = optimizer_tensors(small.optimizer)
    half = torch.cat([moments[key].flatten() for key in moments if key.endswith("exp_avg")])
    assert float((half - found[0]).abs().max()) > 1e-4


def test_golden_losses(tmp_path: Path, golden: Callable[..., None]) -> None:
    """Twenty steps of a fixed small run, loose enough for another processor."""
    watcher = Watcher()
    trainer(settings(steps=20), tmp_path / "run").fit(watcher)
    golden("losses", [watcher.losses[step] for step in range(1, 21)], tolerance=1e-3)
    golden("bounds", list(watcher.bounds.values()), tolerance=1e-3)
