"""What a policy in training is worth on validation problems, and what its dial means. Shapes: K alphas.

The loop that trains a policy: warm start, rounds, validation, calibration; it stops politely and goes on exactly.
"""

__all__ = ["Found", "LearnOutcome", "Listener", "calibrate", "fit", "validate"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from unmask.disk.checkpoint import load_tensors
from unmask.noise import derive
from unmask.policies.learned.policy import PRICED, Calibration, Learned
from unmask.rl.checkpoint import save, write_policy
from unmask.rl.learner import Learner, RoundReport
from unmask.rl.rollout import Rollout, roll_out
from unmask.rl.warm import choose_teachers, imitate
from unmask.run.metrics import Metrics
from unmask.run.optim import adamw
from unmask.run.signals import Interrupt
from unmask.solve.pareto import hypervolume
from unmask.solve.problems import Problem

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


Log = Callable[[int, dict[str, Any]], None]


class Listener(Protocol):
    """Who watches: the terminal, a test, nobody."""

    def said(self, sentence: str) -> None: ...
    def rounded(self, report: RoundReport) -> None: ...
    def validated(self, round_: int, found: Found, best: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class LearnOutcome:
    """How a run ended."""

    round: int
    reason: str  # "finished", "no better policy", "interrupted"
    best: float
    best_round: int
    folder: Path
    calibration: Calibration | None


def fit(learner: Learner, listener: Listener) -> LearnOutcome:
    """Warm up and train to the last round, to where validation no longer rises, or to an interrupt; always saved.

    An interrupt during the warm start, which takes less than a minute, leaves nothing to go on from.
    """
    s, reason = learner.settings, "finished"
    log = Metrics(learner.folder, resumed_at=learner.round or None, track=s.track) if learner.group.first else None

    def noted(round_: int, values: dict[str, Any]) -> None:
        if log is not None:
            log.log(round_, values)

    try:
        with Interrupt() as interrupt:
            if not learner.warmed and not _warm_up(learner, listener, interrupt):
                return LearnOutcome(0, "interrupted", learner.best, 0, learner.folder, None)
            if _due(learner) and _agreed(learner, _check(learner, listener, noted)):  # or an interrupt came before it
                return _end(learner, "no better policy", listener)
            while learner.round < s.rounds:
                report = learner.take_round()
                noted(report.round, {k: v for k, v in report._asdict().items() if k != "round"})
                listener.rounded(report)
                if _agreed(learner, interrupt.requested):
                    reason = "interrupted"
                    break
                if _due(learner) and _agreed(learner, _check(learner, listener, noted)):
                    reason = "no better policy"
                    break
                if report.round % s.save_every == 0 and learner.group.first:
                    save(learner)
        return _end(learner, reason, listener)
    finally:
        if log is not None:
            log.close()


def _due(learner: Learner) -> bool:
    """Whether this is a round to validate after."""
    s = learner.settings
    return learner.round % s.valid_every == 0 or learner.round == s.rounds


def _warm_up(learner: Learner, listener: Listener, interrupt: Interrupt) -> bool:
    """Imitate the best heuristics; whether it was done to its end."""
    s = learner.settings
    listener.said(f"Best heuristic for each alpha, with its reward: {choose_teachers(learner)}")
    optimizer = adamw(learner.params, s.warm_lr, s.betas, 1e-8, 0.0)
    for round_ in range(s.warm):
        loss = imitate(learner, round_, optimizer)
        if _agreed(learner, interrupt.requested):
            return False
        if round_ % 10 == 9 or round_ == s.warm - 1:
            listener.said(f"warm start {round_ + 1} of {s.warm}: {loss:.4f} nats a position")
    learner.warmed = True
    return True


def _check(learner: Learner, listener: Listener, log: Log) -> bool:
    """Validate on the first process; whether patience is over."""
    s = learner.settings
    if not learner.group.first:
        return False
    if learner.validated_at == learner.round:
        return 0 < s.patience <= learner.stale
    learner.validated_at = learner.round
    found = validate(learner)
    better = learner.judge(found.value)
    if better:
        write_policy(learner, None)
    values: dict[str, Any] = {"valid_reward": found.value}
    for k, alpha in enumerate(s.alphas):
        values |= {f"accuracy_{alpha:g}": float(found.accuracy[k]), f"passes_{alpha:g}": float(found.passes[k])}
    log(learner.round, values)
    listener.validated(learner.round, found, better)
    return 0 < s.patience <= learner.stale


def _end(learner: Learner, reason: str, listener: Listener) -> LearnOutcome:
    """Save; and where the run is over, calibrate the best policy."""
    calibration = None
    if learner.group.first:
        save(learner)
        if reason != "interrupted" and learner.run.policy.priced:
            listener.said("Calibrating the dial on validation problems ...")
            kept = {name: value.clone() for name, value in learner.network.state_dict().items()}
            learner.network.load_state_dict(load_tensors(learner.folder / "policy", str(learner.world.device)))
            calibration = calibrate(learner)
            write_policy(learner, calibration)
            learner.network.load_state_dict(kept)
    learner.group.barrier()
    return LearnOutcome(learner.round, reason, learner.best, learner.best_round, learner.folder, calibration)


def _agreed(learner: Learner, wish: bool) -> bool:
    return learner.group.any(wish, learner.world.device)
