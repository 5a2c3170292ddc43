"""What a policy in training is worth on validation problems, and what its dial means. Shapes: K alphas."""

__all__ = ["Found", "calibrate", "validate"]

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.noise import derive
from unmask.policies.learned.policy import PRICED, Calibration, Learned
from unmask.rl.learner import Learner
from unmask.rl.tape import Rollout, roll_out
from unmask.solve.pareto import hypervolume
from unmask.solve.sweep import Problem

_VALID = 3
_BEYOND = tuple(round(PRICED + (1 - PRICED) * n / 8, 3) for n in range(1, 9))
_DIALS = (*(round(PRICED * n / 16, 3) for n in range(17)), *_BEYOND)


class Found(NamedTuple):
    """A validation: (K,) each."""

    reward: Tensor
    accuracy: Tensor
    passes: Tensor

    @property
    def value(self) -> float:
        """The mean reward over the alphas."""
        return float(self.reward.mean())


def validate(learner: Learner) -> Found:
    """The policy, cutting at one half, on the validation problems at every alpha."""
    given = learner.world.valid[: learner.settings.valid_prompts]
    count = len(learner.alphas)
    which = torch.arange(count).repeat_interleave(len(given))
    found = _cut(learner, learner.policy(), given * count, [learner.dials[k] for k in which.tolist()])
    worth = learner.worth(found, which)
    return Found(*(x.view(count, -1).mean(-1) for x in (worth, found.scores, found.passes)))


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
