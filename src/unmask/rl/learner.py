"""The learner: a policy in training -> rounds of rollouts, rewards and updates (arXiv:2512.09106, section 3).

Everything random in round r is a function of (seed, r, rank). Shapes: R rows, P problems, G rollouts of each, K alphas,
N passes.
"""

__all__ = ["Learner", "RoundReport"]

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.noise import derive, generator
from unmask.policies.base import UnmaskingPolicy
from unmask.policies.learned.network import PolicyNetwork, bernoulli_entropy
from unmask.policies.learned.policy import Learned
from unmask.rl.grpo import advantages, objective, rewards, steered
from unmask.rl.rollout import Rollout, Trajectory, World, joined, keep_passes, log_prob, roll_out, trajectory_bytes
from unmask.rl.settings import LearnRun
from unmask.run.loop import Standing
from unmask.run.machine import peak_bytes
from unmask.run.optim import adamw, clip, learning_rate, set_learning_rate
from unmask.run.parallel import Group
from unmask.solve.problems import Problem

_DRAW, _ROLL = 0, 1
_FINAL = 0.1  # share of the learning rate at the end


class RoundReport(NamedTuple):
    """The measurements of a round, on this process's share of the problems."""

    round: int
    reward: float
    accuracy: float
    passes: float
    entropy: float  # of the action of a pass, in nats
    silent: float  # share of problems whose rollouts all have the same reward
    clipped: float  # share of passes whose ratio was clipped
    roll_seconds: float
    judge_seconds: float
    update_seconds: float
    trajectory_bytes: float
    peak_bytes: float  # maximum so far, see `run.machine.peak_bytes`

    def values(self) -> dict[str, float]:
        """The numbers for metrics.jsonl."""
        return {name: value for name, value in self._asdict().items() if name != "round"}


class Learner:
    """The state of a training; `rl.loop.fit` takes its rounds, `rl.checkpoint` stores it."""

    def __init__(self, run: LearnRun, world: World, folder: Path, group: Group) -> None:
        """`run.policy.unit` has to be the world's length, see `rl.session`."""
        self.run, self.world, self.folder, self.group = run, world, folder, group
        self.settings = run.learn
        self.origin: dict[str, str] = {"checkpoint": run.checkpoint, "typed": run.checkpoint}
        """The denoiser for the records: its absolute path or its name, what was typed, and the hash of its weights."""
        self.network = PolicyNetwork(run.policy, derive(run.learn.seed)).to(world.device)
        self.params = list(self.network.parameters())
        s = self.settings
        self.optimizer = adamw(self.params, s.lr, s.betas, 1e-8, s.weight_decay)
        self.alphas = torch.tensor(s.alphas, device=world.device)
        self.dials = [self.policy().dial_of(alpha) for alpha in s.alphas]
        self.variance = torch.full((len(s.alphas),), math.nan, device=world.device)
        self.teachers: list[UnmaskingPolicy] = []  # the best heuristic for each alpha
        self.step = 0  # number of finished rounds
        self.standing = Standing(validated_at=-1)  # -1: validated before the first round too
        self.warmed = 0  # number of finished rounds of the warm start
        self.warm_optimizer = adamw(self.params, s.warm_lr, s.betas, 1e-8, 0.0)
        group.copy_first(self.params)

    # ---- decoding -------------------------------------------------------------------------------------------------

    def policy(self, *, sample: bool = False) -> Learned:
        """The policy with the current weights."""
        return Learned(self.network, sample=sample, temperature=self.settings.temperature if sample else 1.0)

    def roll(
        self,
        policy: UnmaskingPolicy | None,
        problems: Sequence[Problem],
        which: Sequence[int],
        seeds: Sequence[int],
        *,
        record: bool = True,
    ) -> Rollout:
        """Decode problems at their alphas (indices `which`) by a heuristic or, with None, by sampling the learner."""
        sampling = self.policy(sample=True)
        w = self.world
        return roll_out(
            w.denoiser,
            sampling if policy is None else policy,
            w.task,
            problems,
            w.tokenizer,
            seeds,
            [self.dials[k] for k in which],
            learner=sampling,
            record=record,
            block_size=self.settings.block_size,
            device=w.device,
            batch=self.settings.batch,
        )

    def rewards_of(self, rollout: Rollout, which: Tensor) -> Tensor:
        """A rollout and the index of each row's alpha (R,) -> the reward of each row (R,)."""
        return rewards(rollout.scores, rollout.passes, rollout.lengths, self.alphas[which], self.settings.reward)

    # ---- a round --------------------------------------------------------------------------------------------------

    def take_round(self) -> RoundReport:
        """Roll out this rank's share of the problems, compute rewards, and update the network."""
        s, r = self.settings, self.step
        draw = generator(s.seed, _DRAW, r)
        picks = torch.randint(len(self.world.train), (s.prompts,), generator=draw)[self.group.share(s.prompts)]
        drawn = torch.randint(len(self.alphas), (s.prompts,), generator=draw)[self.group.share(s.prompts)]
        drawn = drawn.to(self.world.device)
        size = s.group + s.steering
        which = drawn.repeat_interleave(s.group)
        problems = [self.world.train[int(i)] for i in picks for _ in range(s.group)]
        seeds = [derive(s.seed, _ROLL, r, self.group.rank, n) for n in range(len(problems))]
        rollout = self.roll(None, problems, which.tolist(), seeds)
        assert rollout.trajectory is not None
        reward = self.rewards_of(rollout, which).view(-1, s.group)
        trajectory, decode, judge = rollout.trajectory, rollout.decode_seconds, rollout.judge_seconds
        if s.steering:
            steered_by, more, seconds = self._steer(picks, drawn)
            own = trajectory._replace(row=_row_in_group(trajectory.row, s.group, size, 0))
            rows = _row_in_group(steered_by.row, s.steering, size, s.group)
            trajectory = joined([own, steered_by._replace(row=rows)])
            reward, decode, judge = torch.cat([reward, more], 1), decode + seconds[0], judge + seconds[1]
        advantage = advantages(reward, drawn, self.variance, s.scale, self.group.sum)
        self.variance = advantage.variance
        start = time.perf_counter()
        entropy, clipped = self._update(trajectory, advantage.values.flatten(), size)
        self.step += 1
        return RoundReport(
            self.step,
            float(reward[:, : s.group].mean()),
            float(rollout.scores.mean()),
            float(rollout.passes.mean()),
            entropy,
            advantage.silent,
            clipped,
            decode,
            judge,
            time.perf_counter() - start,
            trajectory_bytes(trajectory),
            peak_bytes(self.world.device),
        )

    def _steer(self, picks: Tensor, drawn: Tensor) -> tuple[Trajectory, Tensor, tuple[float, float]]:
        """Problems and their alphas -> the best heuristic's rollouts: a trajectory, rewards (P, E), seconds."""
        s = self.settings
        problems = [self.world.train[int(pick)] for pick in picks for _ in range(s.steering)]
        which = drawn.repeat_interleave(s.steering)
        reward = torch.zeros(len(problems), device=drawn.device)
        trajectories: list[Trajectory] = []
        decode = judge = 0.0
        for k in drawn.unique().tolist():
            rows = (which == k).nonzero().squeeze(-1)
            rollout = self.roll(
                self.teachers[k], [problems[i] for i in rows.tolist()], [k] * len(rows), range(len(rows))
            )
            assert rollout.trajectory is not None
            trajectories.append(rollout.trajectory._replace(row=rows[rollout.trajectory.row]))
            reward[rows] = self.rewards_of(rollout, which[rows])
            decode, judge = decode + rollout.decode_seconds, judge + rollout.judge_seconds
        return joined(trajectories), reward.view(-1, s.steering), (decode, judge)

    def _update(self, trajectory: Trajectory, advantage: Tensor, size: int) -> tuple[float, float]:
        """Update the network on the passes whose advantage is not 0 -> the mean entropy and the clipped share."""
        s = self.settings
        lengths = trajectory.row.bincount(minlength=len(advantage)).float()
        share = torch.ones_like(lengths) if s.weight == "passes" else 1 / lengths.clamp(min=1)
        total = self.group.sum(share[trajectory.row].sum())
        if s.steering:
            with torch.no_grad():
                old, _ = log_prob(self.network, trajectory, s.temperature)
            trajectory = trajectory._replace(
                log_prob=torch.where(trajectory.row % size < s.group, trajectory.log_prob, old)
            )
        trajectory = keep_passes(trajectory, (advantage[trajectory.row] != 0) | (s.entropy > 0))
        entropy = clipped = 0.0
        rate = _FINAL * s.lr + (1 - _FINAL) * learning_rate(
            self.step, base=s.lr, warmup=s.warmup, steps=s.rounds, shape="cosine"
        )
        set_learning_rate(self.optimizer, rate)
        expert = trajectory.row % size >= s.group
        for inner in range(s.inner):
            if len(trajectory.row) or self.group.size > 1:
                weight = share[trajectory.row] / total
                current, clipped = self._step(trajectory, advantage[trajectory.row], weight, expert)
                entropy = entropy if inner else current
        return entropy, clipped

    def _step(self, trajectory: Trajectory, advantage: Tensor, weight: Tensor, expert: Tensor) -> tuple[float, float]:
        """Take one step of the optimiser -> the mean entropy of a pass before it, and the share that was clipped."""
        s = self.settings
        new, logits = log_prob(self.network, trajectory, s.temperature)
        old = trajectory.log_prob
        if s.steering:
            new = torch.where(expert, steered(new, s.group, s.steering), new)
            old = torch.where(expert, steered(old, s.group, s.steering), old)
        update = objective(new, old, advantage, weight, s.clip)
        if self.run.policy.head == "bernoulli":
            entropy = bernoulli_entropy(logits, trajectory.eligible)
        else:
            entropy = -new  # an estimate for a ranking, which has no bonus
        loss = update.loss - s.entropy * (entropy * weight).sum()
        (loss * self.group.size).backward()
        self.group.mean_gradients(self.params)
        clip(self.params, s.max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return (float(entropy.detach().mean()), float(update.clipped)) if len(trajectory.row) else (0.0, 0.0)


def _row_in_group(row: Tensor, each: int, size: int, first: int) -> Tensor:
    """Row index p * each + n -> p * size + first + n, its index when every problem has `size` rows."""
    return row // each * size + row % each + first
