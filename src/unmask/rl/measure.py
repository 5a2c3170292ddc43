"""What a policy in training is worth on validation problems, and what its dial means. Shapes: K alphas."""

__all__ = ["Found", "calibrate", "validate"]

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.noise import derive
from unmask.policies.learned.policy import Calibration
from unmask.rl.learner import Learner
from unmask.rl.tape import Rollout, roll_out
from unmask.sweep import Problem

_VALID = 3
_DIALS = tuple(round(n / 20, 2) for n in range(21))


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
    found = _cut(learner, given * count, [learner.dials[k] for k in which.tolist()])
    worth = learner.worth(found, which)
    return Found(*(x.view(count, -1).mean(-1) for x in (worth, found.scores, found.passes)))


def calibrate(learner: Learner) -> Calibration:
    """What each place of the dial gives on the validation problems."""
    given = learner.world.valid[: learner.settings.calibrated]
    found = _cut(learner, given * len(_DIALS), [dial for dial in _DIALS for _ in given])
    passes, accuracy = (x.view(len(_DIALS), -1).mean(-1).tolist() for x in (found.passes, found.scores))
    name, block = learner.world.task.name, learner.settings.block_size
    return Calibration(name, block, len(given), _DIALS, tuple(passes), tuple(accuracy))


def _cut(learner: Learner, given: Sequence[Problem], dials: Sequence[float]) -> Rollout:
    policy, w = learner.policy(), learner.world
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
