"""What a policy in training is worth on validation problems, and what its dial means. Shapes: K alphas.

The loop that trains a policy: warm start, rounds, validation, calibration; it stops politely and goes on exactly.
"""

__all__ = ["ValidationResult", "calibrate", "fit", "validate"]

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.disk.checkpoint import load_tensors
from unmask.disk.folders import step_folder
from unmask.noise import derive
from unmask.policies.learned.policy import TRAINED_DIAL, Calibration, Learned
from unmask.rl.checkpoint import save, write_policy
from unmask.rl.learner import Learner, RoundReport
from unmask.rl.rollout import Rollout, roll_out
from unmask.rl.warm import choose_teachers, imitate
from unmask.run.loop import Cadence, Listener, RunResult, Standing, Validation, drive
from unmask.run.optim import adamw
from unmask.solve.pareto import hypervolume
from unmask.solve.problems import Problem

_VALID = 3
_BEYOND = tuple(round(TRAINED_DIAL + (1 - TRAINED_DIAL) * n / 8, 3) for n in range(1, 9))
_DIALS = (*(round(TRAINED_DIAL * n / 16, 3) for n in range(17)), *_BEYOND)


class ValidationResult(NamedTuple):
    """A validation: (K,) each."""

    reward: Tensor
    accuracy: Tensor
    passes: Tensor

    @property
    def value(self) -> float:
        """The mean reward over the alphas."""
        return float(self.reward.mean())


def validate(learner: Learner) -> ValidationResult:
    """The policy, cutting at one half, on the validation problems at every alpha."""
    given = learner.world.valid[: learner.settings.valid_prompts]
    count = len(learner.alphas)
    which = torch.arange(count).repeat_interleave(len(given))
    found = _cut(learner, learner.policy(), given * count, [learner.dials[k] for k in which.tolist()])
    worth = learner.worth(found, which)
    return ValidationResult(*(x.view(count, -1).mean(-1) for x in (worth, found.scores, found.passes)))


def calibrate(learner: Learner) -> Calibration:
    """What each place of the dial gives on the validation problems."""
    given = learner.world.valid[: learner.settings.calibrated]
    last = _last(learner)
    policy = replace(learner.policy(), last=last)
    passes, accuracy = (x.tolist() for x in _curve(learner, policy, given, _DIALS))
    name, block = learner.world.task.name, learner.settings.block_size
    return Calibration(name, block, len(given), last, _DIALS, tuple(passes), tuple(accuracy))


def _last(learner: Learner) -> float:
    """The alpha from which a lower cut gives more than a higher price: the largest area, on validation problems.

    Some trainings fall to one pass from one alpha to the next; a lower cut before that has what lies between.
    """
    given = learner.world.valid[: max(1, learner.settings.valid_prompts // 2)]
    ends = sorted({alpha for alpha in learner.settings.alphas if alpha > 0})
    if len(ends) < 2:
        return learner.run.policy.largest
    prices = [learner.policy().dial_of(alpha) for alpha in (0.0, *ends)]
    priced = torch.stack(_curve(learner, learner.policy(), given, prices))
    areas: list[float] = []
    for n, end in enumerate(ends):
        beyond = torch.stack(_curve(learner, replace(learner.policy(), last=end), given, _BEYOND))
        passes, accuracy = torch.cat([priced[:, : n + 2], beyond], -1).double().cpu().numpy()
        areas.append(hypervolume(passes, accuracy, learner.world.length))
    return max(zip(areas, ends, strict=True))[1]


def _curve(
    learner: Learner, policy: Learned, given: Sequence[Problem], dials: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """(D,) the mean passes and the mean score at each of D places of the dial."""
    found = _cut(learner, policy, list(given) * len(dials), [dial for dial in dials for _ in given])
    return found.passes.view(len(dials), -1).mean(-1), found.scores.view(len(dials), -1).mean(-1)


def _cut(learner: Learner, policy: Learned, given: Sequence[Problem], dials: Sequence[float]) -> Rollout:
    w = learner.world
    return roll_out(
        w.denoiser,
        policy,
        w.task,
        given,
        w.tokenizer,
        [derive(learner.settings.seed, _VALID, n) for n in range(len(given))],
        dials,
        learner=policy,
        record=False,
        block_size=learner.settings.block_size,
        device=w.device,
    )


class _PolicyRun:
    """A learner as a run that `run.loop.drive` takes the steps of; a step is a round."""

    def __init__(self, learner: Learner, listener: Listener[RoundReport, ValidationResult]) -> None:
        self.learner, self.listener = learner, listener
        self.folder, self.group, self.device = learner.folder, learner.group, learner.world.device

    @property
    def step(self) -> int:
        return self.learner.step

    @property
    def standing(self) -> Standing:
        return self.learner.standing

    def begin(self, stopping: Callable[[], bool]) -> bool:
        """Imitate the best heuristics, unless that was done; False where an interrupt ended it."""
        learner, s = self.learner, self.learner.settings
        if learner.warmed:
            return True
        self.listener.noted(f"Best heuristic for each alpha, with its reward: {choose_teachers(learner)}")
        optimizer = adamw(learner.params, s.warm_lr, s.betas, 1e-8, 0.0)
        for index in range(s.warm):
            loss = imitate(learner, index, optimizer)
            if stopping():
                return False
            if index % 10 == 9 or index == s.warm - 1:
                self.listener.noted(f"warm start {index + 1} of {s.warm}: {loss:.4f} nats a position")
        learner.warmed = True
        return True

    def take(self) -> RoundReport:
        return self.learner.take_round()

    def evaluate(self) -> Validation[ValidationResult] | None:
        """Validate in the first process."""
        if not self.group.first:
            return None
        figure = validate(self.learner)
        values = {"valid_reward": figure.value}
        for k, alpha in enumerate(self.learner.settings.alphas):
            values |= {f"accuracy_{alpha:g}": float(figure.accuracy[k]), f"passes_{alpha:g}": float(figure.passes[k])}
        return Validation(figure, figure.value, values)

    def save(self) -> Path:
        if self.group.first:
            save(self.learner)
        return step_folder(self.folder, self.step)

    def save_best(self, figure: ValidationResult | None) -> Path:
        if self.group.first:
            write_policy(self.learner, None)
        return self.folder / "policy"


def fit(learner: Learner, listener: Listener[RoundReport, ValidationResult]) -> tuple[RunResult, Calibration | None]:
    """Warm up and train to the last round, to where validation no longer rises, or to an interrupt; always saved.

    An interrupt during the warm start, which takes less than a minute, leaves nothing to go on from. A run that
    is over has its best policy calibrated, in the first process. A run that patience has ended goes no further.
    """
    s, exhausted = learner.settings, "no better policy"
    cadence = Cadence(s.rounds, s.valid_every, s.save_every, s.patience)
    if 0 < s.patience <= learner.standing.stale:
        standing = learner.standing
        result = RunResult(learner.step, exhausted, standing.merit, standing.best_step, learner.folder)
    else:
        result = drive(_PolicyRun(learner, listener), listener, cadence, exhausted=exhausted, track=s.track)
    calibration = None
    if result.reason != "interrupted" and learner.run.policy.priced and learner.group.first:
        listener.noted("Calibrating the dial on validation problems ...")
        calibration = _calibrate_best(learner)
    learner.group.barrier()
    return result, calibration


def _calibrate_best(learner: Learner) -> Calibration:
    """Calibrate the policy of the best validation and write it again; the learner keeps its weights."""
    kept = {name: value.clone() for name, value in learner.network.state_dict().items()}
    learner.network.load_state_dict(load_tensors(learner.folder / "policy", str(learner.world.device)))
    calibration = calibrate(learner)
    write_policy(learner, calibration)
    learner.network.load_state_dict(kept)
    return calibration
