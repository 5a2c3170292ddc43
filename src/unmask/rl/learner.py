"""The learner: a policy in training -> rounds of rollouts, rewards and updates (arXiv:2512.09106, section 3).

A policy is trained on one pair of a denoiser and a task, or on a mixture of several. All rollouts of a problem are of
its pair, a pass counts as a part of its pair, and a pair as much as it has problems in the round. Everything random in
round r is a function of (seed, r, problem, attempt). Rollouts come from a `rl.collect.Collector`, whose processes share
the work; the update is then the same in every process of torchrun, on the passes of the whole round, so that a training
does not depend on the number of processes. Shapes: R rows, P problems, G rollouts of each, K alphas, M pairs, N passes.
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
from unmask.policies.learned.network import bernoulli_entropy, make_network
from unmask.policies.learned.policy import Learned, alpha_of
from unmask.rl.collect import LEARNER, Attempts, Collector, InProcess, Ranks, policy_bytes
from unmask.rl.grpo import advantages, objective, rewards, steered
from unmask.rl.rollout import Rollout, Trajectory, World, keep_passes, log_prob, trajectory_bytes
from unmask.rl.settings import LearnRun, Pair
from unmask.run.loop import Standing
from unmask.run.machine import peak_bytes
from unmask.run.optim import adamw, clip, learning_rate, set_learning_rate
from unmask.run.parallel import Group

_DRAW, _ROLL, _SPREAD = 0, 1, 4
_FINAL = 0.1  # share of the learning rate at the end
_SILENT = 20  # groups of attempts, none of which has a signal, after which a pair of a mixture is left out
_LEAST = (
    0.05  # what a mean reward of rules counts at least, so that a pair that is hardly ever solved does not dominate
)


class RoundReport(NamedTuple):
    """The measurements of a round; seconds are those of all processes together."""

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

    def __init__(
        self, run: LearnRun, worlds: Sequence[World], folder: Path, group: Group, collector: Collector | None = None
    ) -> None:
        """A world for each of `run.pairs`. `run.policy.unit` has to be the largest length of a world, see `session`.

        Without a collector the processes of the group decode.
        """
        self.run, self.worlds, self.folder, self.group = run, tuple(worlds), folder, group
        self.settings = run.learn
        self.device = device = self.worlds[0].device
        self.collector: Collector = InProcess(run, self.worlds) if collector is None else collector
        if group.size > 1:
            self.collector = Ranks(self.collector, group, device)
        self.origins: list[dict[str, str]] = [{"checkpoint": p.checkpoint, "typed": p.checkpoint} for p in run.pairs]
        """The denoisers for the records: absolute path or name, what was typed, and the hash of the weights."""
        self.network = make_network(run.policy, derive(run.learn.seed)).to(device)
        self.params = list(self.network.parameters())
        s = self.settings
        self.optimizer = adamw(self.params, s.lr, s.betas, 1e-8, s.weight_decay)
        self.alphas = torch.tensor(s.alphas, device=device)
        self.dials = [self.policy().dial_of(alpha) for alpha in s.alphas]
        classes = len(run.pairs) * len(s.alphas)
        self.variance = torch.full((classes,), math.nan, device=device)  # of rewards, by pair and alpha
        self.teachers: list[UnmaskingPolicy] = []  # the best heuristic for each pair and alpha
        self.usual = torch.full((len(run.pairs),), math.nan, device=device)  # mean reward of a pair's best heuristics
        self.groups = torch.zeros(2, len(run.pairs), device=device)  # groups of attempts so far; those with a signal
        self.left_out: dict[int, str] = {}  # pairs that are not trained on, with the reason
        self.step = 0  # number of finished rounds
        self.standing = Standing(validated_at=-1)  # -1: validated before the first round too
        self.warmed = 0  # number of finished rounds of the warm start
        self.warm_optimizer = adamw(self.params, s.warm_lr, s.betas, 1e-8, 0.0)
        group.copy_first(self.params)

    # ---- pairs ----------------------------------------------------------------------------------------------------

    @property
    def pairs(self) -> list[int]:
        """The indices of the pairs that are trained on."""
        return [m for m in range(len(self.worlds)) if m not in self.left_out]

    def pair(self, m: int) -> Pair:
        """The pair of an index, with its denoiser as it was typed."""
        return Pair(self.origins[m]["typed"], self.run.pairs[m].task)

    @property
    def most(self) -> int:
        """The largest number of training problems of a pair; problems are drawn from as many."""
        return max(len(world.train) for world in self.worlds)

    def number(self, m: int, pick: int) -> int:
        """The index of a pair and a draw below `most` -> the index of one of its training problems."""
        return pick * len(self.worlds[m].train) // self.most

    def unit_of(self, m: int) -> float:
        """The reward that counts as 1 in validations of a mixture: the mean over alphas of a pair's best heuristics.

        1 for a single pair, and where no heuristics were compared.
        """
        usual = float(self.usual[m])
        return 1.0 if len(self.worlds) == 1 or math.isnan(usual) else max(usual, _LEAST)

    def leave_out(self, m: int, reason: str) -> None:
        """Go on without a pair; a policy that is validated on fewer pairs is not compared with earlier ones."""
        self.left_out[m] = f"{self.pair(m).name} is left out of the mixture: {reason}."
        self.standing = Standing(validated_at=self.standing.validated_at)

    def _count(self, pair: Tensor, differ: Tensor) -> None:
        """Count groups of attempts (P,) and those with a signal; leave out a pair of a mixture that never has one.

        It is left out when its first `_SILENT` groups, or more in the last round, all had equal rewards.
        """
        now = torch.zeros_like(self.groups).index_add(1, pair, torch.stack([torch.ones_like(differ), differ]).float())
        self.groups = self.groups + now
        for m in self.pairs:
            count, alive = self.groups[:, m].tolist()
            if count >= _SILENT and not alive and len(self.pairs) > 1:
                self.leave_out(m, f"in each of its first {count:.0f} groups of attempts all rewards were equal")

    # ---- decoding -------------------------------------------------------------------------------------------------

    def policy(self, *, sample: bool = False) -> Learned:
        """The policy with the current weights."""
        return Learned(self.network, sample=sample, temperature=self.settings.temperature if sample else 1.0)

    def attempts(self, m: int, number: int, place: float, seeds: Sequence[int], who: str = LEARNER) -> Attempts:
        """A pair, a training problem of it, the index of an alpha (or a place between two), seeds -> attempts."""
        dial = float(self._dials_at(torch.tensor([place]))[0])
        return Attempts(m, number, dial, tuple(seeds), who)

    def collect(self, groups: Sequence[Attempts], policy: Learned | None = None, *, record: bool = True) -> Rollout:
        """Groups of attempts -> their rollouts in this order, with None by the policy that samples."""
        return self.collector.collect(policy_bytes(policy or self.policy(sample=True)), groups, record=record)

    def rewards_of(self, rollout: Rollout, which: Tensor) -> Tensor:
        """A rollout and the index of each row's alpha (R,) -> the reward of each row (R,)."""
        if which.is_floating_point():
            alpha = alpha_of(self._dials_at(which.cpu()), self.run.policy.largest).to(self.alphas)
        else:
            alpha = self.alphas[which]
        return rewards(rollout.scores, rollout.passes, rollout.lengths, alpha, self.settings.reward)

    def _dials_at(self, which: Tensor) -> Tensor:
        """Indices of alphas (R,), or places between two -> dial values (R,) float64."""
        dials = torch.tensor(self.dials, dtype=torch.double)
        low = which.floor().long()
        return dials[low] + (which - low) * (dials[(low + 1).clamp(max=len(dials) - 1)] - dials[low])

    # ---- a round --------------------------------------------------------------------------------------------------

    def take_round(self) -> RoundReport:
        """Collect the attempts of the round's problems, compute rewards, and update the network."""
        s = self.settings
        pair, picks, drawn = self._draw()
        at = self._spread(drawn) if s.between else drawn
        size = s.group + s.steering
        rollout = self.collect(self._round(pair, picks, at, drawn))
        trajectory = rollout.trajectory
        assert trajectory is not None
        reward = self.rewards_of(rollout, at.repeat_interleave(size)).view(-1, size)
        advantage = advantages(reward, pair * len(self.alphas) + drawn, self.variance, s.scale)
        self.variance = advantage.variance
        start = time.perf_counter()
        entropy, clipped = self._update(trajectory, advantage.values.flatten(), size, pair)
        self._count(pair, advantage.differ)
        self.group.copy_first(self.params)  # ranks on unlike processors stay one policy
        self.step += 1
        own, score, passes = (x.view(-1, size)[:, : s.group] for x in (reward, rollout.scores, rollout.passes))
        return RoundReport(
            self.step,
            float(own.mean()),
            float(score.mean()),
            float(passes.mean()),
            entropy,
            advantage.silent,
            clipped,
            rollout.decode_seconds,
            rollout.judge_seconds,
            time.perf_counter() - start,
            trajectory_bytes(trajectory),
            peak_bytes(self.device),
        )

    def _round(self, pair: Tensor, picks: Tensor, at: Tensor, drawn: Tensor) -> list[Attempts]:
        """Problems of several pairs and their alphas (P,) -> the attempts at each, its steering after the policy's."""
        s, groups = self.settings, list[Attempts]()
        for p, (m, pick, place, k) in enumerate(
            zip(pair.tolist(), picks.tolist(), at.tolist(), drawn.tolist(), strict=True)
        ):
            seeds = [derive(s.seed, _ROLL, self.step, p, n) for n in range(s.group + s.steering)]
            groups.append(self.attempts(m, self.number(m, pick), place, seeds[: s.group]))
            if s.steering:
                teacher = repr(self.teachers[m * len(self.alphas) + k])
                groups.append(self.attempts(m, self.number(m, pick), place, seeds[s.group :], teacher))
        return groups

    def _spread(self, drawn: Tensor) -> Tensor:
        """Indices of alphas (P,) -> places up to half an interval beside them, within the dial."""
        s = self.settings
        offset = torch.rand(s.prompts, generator=generator(s.seed, _SPREAD, self.step), dtype=torch.double) - 0.5
        return (drawn.cpu() + offset).clamp(0, len(self.alphas) - 1)

    def _draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """For each problem of the round: the pair, the draw of `number`, and the alpha, (P,) each.

        A round of a mixture has at most `LearnSettings.pairs` pairs, each with as many problems as the others.
        """
        s, draw = self.settings, generator(self.settings.seed, _DRAW, self.step)
        picks = torch.randint(self.most, (s.prompts,), generator=draw)
        drawn = torch.randint(len(self.alphas), (s.prompts,), generator=draw)
        pairs = torch.tensor(self.pairs)[torch.randperm(len(self.pairs), generator=draw)[: s.pairs]]
        pair = pairs[torch.arange(s.prompts) * len(pairs) // s.prompts]
        return pair.to(self.device), picks, drawn.to(self.device)

    def _weights(self, row: Tensor, size: int, pair: Tensor) -> Tensor:
        """The rows of N passes, rows of a problem, pairs of problems (P,) -> the weight of a pass of each row (R,).

        The weights of all passes of the round sum to 1, those of a pair to its share of the problems: a pair with
        longer canvases counts no more for its passes.
        """
        lengths = row.bincount(minlength=size * len(pair)).float()
        share = torch.ones_like(lengths) if self.settings.weight == "passes" else 1 / lengths.clamp(min=1)
        none, of_row = share.new_zeros(len(self.worlds)), pair.repeat_interleave(size)
        total = none.index_add(0, of_row[row], share[row])
        problems = none.index_add(0, pair, torch.ones_like(pair, dtype=share.dtype))
        return share / total[of_row] * (problems / problems.sum())[of_row]

    def _update(self, trajectory: Trajectory, advantage: Tensor, size: int, pair: Tensor) -> tuple[float, float]:
        """Update the network on the passes whose advantage is not 0 -> the mean entropy and the clipped share."""
        s = self.settings
        weights = self._weights(trajectory.row, size, pair)
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
            if len(trajectory.row):
                weight = weights[trajectory.row]
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
        loss.backward()
        clip(self.params, s.max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(entropy.detach().mean()), float(update.clipped)
