"""A learner -> a trained and calibrated policy: warm start, rounds, validation, calibration of the dial.

An interrupted training resumes with the same bits. Shapes: K alphas, D dial values.

Of a mixture the policy with the best mean over its pairs is kept, where the reward of a pair is divided by that of its
best heuristics (`Learner.unit_of`), so that a pair of easy problems counts no more than one of hard problems.
"""

__all__ = ["DIALS", "ValidationResult", "calibrate", "fit", "validate"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.config import to_dict
from unmask.disk.checkpoint import load_tensors
from unmask.disk.folders import step_folder
from unmask.noise import derive
from unmask.policies.learned.policy import TRAINED_DIAL, Calibration, Learned
from unmask.rl.checkpoint import save, write_policy
from unmask.rl.collect import Attempts
from unmask.rl.learner import Learner, RoundReport
from unmask.rl.rollout import Rollout
from unmask.rl.warm import choose_teachers, imitate
from unmask.run.loop import Cadence, Listener, RunResult, Standing, Validation, drive
from unmask.solve.pareto import hypervolume

_VALID = 3
_BEYOND = tuple(round(TRAINED_DIAL + (1 - TRAINED_DIAL) * n / 8, 3) for n in range(1, 9))
DIALS = (*(round(TRAINED_DIAL * n / 16, 3) for n in range(17)), *_BEYOND)
"""Dial values at which a policy is calibrated."""


class ValidationResult(NamedTuple):
    """The figures of a validation, (K,) each: means over the validation problems at each alpha, and over pairs."""

    reward: Tensor
    """Of a mixture, in units of the mean reward of each pair's best heuristics."""
    accuracy: Tensor
    passes: Tensor
    by_pair: Mapping[str, float] = MappingProxyType({})
    """Of a mixture, the mean reward over the alphas of each pair, in its own units."""

    @property
    def value(self) -> float:
        """The mean reward over the alphas."""
        return float(self.reward.mean())


def validate(learner: Learner) -> ValidationResult:
    """Decode the validation problems at every alpha; positions with a probability above one half are revealed."""
    figures = {m: _validate_pair(learner, m) for m in learner.pairs}
    scaled = [torch.stack([f[0] / learner.unit_of(m), f[1], f[2]]) for m, f in figures.items()]
    reward, accuracy, passes = torch.stack(scaled).mean(0)
    mixed = len(learner.worlds) > 1
    return ValidationResult(
        reward, accuracy, passes, {learner.pair(m).name: float(f[0].mean()) for m, f in figures.items() if mixed}
    )


def _validate_pair(learner: Learner, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """A pair -> mean reward, score and passes of its validation problems at each alpha, (K,) each."""
    problems, count = len(learner.worlds[m].valid[: learner.settings.valid_prompts]), len(learner.alphas)
    rollout = _roll(learner, m, learner.policy(), problems, learner.dials)
    which = torch.arange(count, device=learner.device).repeat_interleave(problems)
    reward = learner.rewards_of(rollout, which)
    mean, score, passes = (x.view(count, -1).mean(-1) for x in (reward, rollout.scores, rollout.passes))
    return mean, score, passes


def calibrate(learner: Learner) -> tuple[Calibration, ...]:
    """Measure mean passes and accuracy of each dial value on the validation problems of each pair."""
    last = _last(learner)
    policy = replace(learner.policy(), last=last)
    tables: list[Calibration] = []
    for m in learner.pairs:
        problems = len(learner.worlds[m].valid[: learner.settings.calibrated])
        passes, accuracy = (tuple(x.tolist()) for x in _curve(learner, m, policy, problems, DIALS))
        name, block = learner.worlds[m].task.name, learner.settings.block_size
        name = f"{name} with {Path(learner.pair(m).checkpoint).name}" if learner.run.others else name
        tables.append(Calibration(name, block, problems, last, DIALS, passes, accuracy))
    return tuple(tables)


def _last(learner: Learner) -> float:
    """The alpha where the dial changes from a higher cost of a pass to a lower cut.

    It is the alpha with the largest mean hypervolume on validation problems. Some trainings fall to one pass from one
    alpha to the next; with a lower cut before that alpha the dial has points in between.
    """
    ends = sorted({alpha for alpha in learner.settings.alphas if alpha > 0})
    if len(ends) < 2:
        return learner.run.policy.largest
    areas = [_areas(learner, m, ends) for m in learner.pairs]
    return max(zip((sum(values) for values in zip(*areas, strict=True)), ends, strict=True))[1]


def _areas(learner: Learner, m: int, ends: Sequence[float]) -> list[float]:
    """A pair and the alphas where the cut may begin to fall -> the hypervolume with each, on validation problems."""
    problems = len(learner.worlds[m].valid[: max(1, learner.settings.valid_prompts // 2)])
    dials = [learner.policy().dial_of(alpha) for alpha in (0.0, *ends)]
    trained = torch.stack(_curve(learner, m, learner.policy(), problems, dials))
    areas: list[float] = []
    for n, end in enumerate(ends):
        beyond = torch.stack(_curve(learner, m, replace(learner.policy(), last=end), problems, _BEYOND))
        passes, accuracy = torch.cat([trained[:, : n + 2], beyond], -1).double().cpu().numpy()
        areas.append(hypervolume(passes, accuracy, learner.worlds[m].length))
    return areas


def _curve(learner: Learner, m: int, policy: Learned, count: int, dials: Sequence[float]) -> tuple[Tensor, Tensor]:
    """A number of problems of a pair and D dial values -> mean passes and mean score at each dial value, (D,) both."""
    rollout = _roll(learner, m, policy, count, dials)
    return rollout.passes.view(len(dials), -1).mean(-1), rollout.scores.view(len(dials), -1).mean(-1)


def _roll(learner: Learner, m: int, policy: Learned, count: int, dials: Sequence[float]) -> Rollout:
    """The first `count` validation problems of a pair at each dial value -> the rollout, dial value by dial value."""
    seed, places = learner.settings.seed, [(dial, n) for dial in dials for n in range(count)]
    groups = [Attempts(m, n, dial, (derive(seed, _VALID, row),), valid=True) for row, (dial, n) in enumerate(places)]
    return learner.collect(groups, policy, record=False)


class _PolicyRun:
    """A learner as a `run.loop.LongRun`; a step is a round."""

    saver = None  # its checkpoints are small

    def __init__(self, learner: Learner, listener: Listener[RoundReport, ValidationResult]) -> None:
        self.learner, self.listener = learner, listener
        self.folder, self.group, self.device = learner.folder, learner.group, learner.device

    @property
    def step(self) -> int:
        return self.learner.step

    @property
    def standing(self) -> Standing:
        return self.learner.standing

    def begin(self, stopping: Callable[[], bool]) -> bool:
        """Run the rest of the warm start, with checkpoints; False if an interrupt ended it."""
        learner, s = self.learner, self.learner.settings
        if learner.step or learner.warmed >= s.warm > 0 or not (s.warm or s.steering):  # nobody asks for heuristics
            return True
        if not learner.teachers and s.teacher == "rules":
            chosen = choose_teachers(learner, stopping)
            if chosen is None:
                return False
            for line in ("  alpha  reward   the best rule without training", *chosen):
                self.listener.message(line)
        while learner.warmed < s.warm:
            loss = imitate(learner)
            if stopping():
                return False
            last = learner.warmed == s.warm
            if learner.warmed % 10 == 0 or last:
                self.listener.message(f"warm start {learner.warmed} of {s.warm}: {loss:.4f} nats a position")
            if learner.warmed % s.save_every == 0 or last:
                self.save()
        return True

    def take(self) -> RoundReport:
        before = len(self.learner.left_out)
        report = self.learner.take_round()
        for sentence in list(self.learner.left_out.values())[before:]:
            self.listener.message(sentence)
        return report

    def evaluate(self) -> Validation[ValidationResult] | None:
        """Validate in all processes together."""
        figure = validate(self.learner)
        if not self.group.first:
            return None
        values = {"valid_reward": figure.value}
        for k, alpha in enumerate(self.learner.settings.alphas):
            values |= {f"accuracy_{alpha:g}": float(figure.accuracy[k]), f"passes_{alpha:g}": float(figure.passes[k])}
        values |= {f"reward of {name}": value for name, value in figure.by_pair.items()}
        return Validation(figure, figure.value, values)

    def save(self) -> Path:
        if self.group.first:
            save(self.learner)
        return step_folder(self.folder, self.step)

    def save_best(self, figure: ValidationResult | None) -> Path:
        if self.group.first:
            write_policy(self.learner, ())
        return self.folder / "policy"


def fit(
    learner: Learner, listener: Listener[RoundReport, ValidationResult]
) -> tuple[RunResult, tuple[Calibration, ...]]:
    """Train to the last round, the end of patience or an interrupt -> the result and the calibration for each pair.

    The last round is always saved, and so is an interrupted warm start, which has the checkpoints of round 0.
    When the run is over, the best policy is calibrated. A run that patience has ended does not continue.
    """
    s, exhausted = learner.settings, "no better policy"
    cadence = Cadence(s.rounds, s.valid_every, s.save_every, s.patience)
    if 0 < s.patience <= learner.standing.stale:
        standing = learner.standing
        result = RunResult(learner.step, exhausted, standing.merit, standing.best_step, learner.folder)
    else:
        target, facts = _PolicyRun(learner, listener), to_dict(learner.run)
        result = drive(target, listener, cadence, exhausted=exhausted, track=s.track, settings=facts)
    calibration: tuple[Calibration, ...] = ()
    if result.reason != "interrupted" and learner.run.policy.priced:
        listener.message("Calibrating the dial on validation problems ...")
        calibration = _calibrate_best(learner)
    learner.group.barrier()
    return result, calibration


def _calibrate_best(learner: Learner) -> tuple[Calibration, ...]:
    """Calibrate the policy of the best validation and write it with its calibration; the learner keeps its weights."""
    kept = {name: value.clone() for name, value in learner.network.state_dict().items()}
    if learner.group.first:
        learner.network.load_state_dict(load_tensors(learner.folder / "policy", str(learner.device)))
    learner.group.copy_first(learner.params)
    calibration = calibrate(learner)
    if learner.group.first:
        write_policy(learner, calibration)
    learner.network.load_state_dict(kept)
    return calibration
