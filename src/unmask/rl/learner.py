"""The learner: a policy in training -> rounds of rollouts, rewards and updates (arXiv:2512.09106, section 3).

A policy is trained on one pair of a denoiser and a task, or on a mixture of several. All rollouts of a problem are of
its pair, a pass counts as a part of its pair, and a pair as much as it has problems in the round. Everything random in
round r is a function of (seed, r, rank). Shapes: R rows, P problems, G rollouts of each, K alphas, M pairs, N passes.
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
from unmask.rl.grpo import advantages, objective, rewards, steered
from unmask.rl.rollout import (
    Rollout,
    Trajectory,
    World,
    joined,
    keep_passes,
    log_prob,
    merged,
    roll_out,
    trajectory_bytes,
)
from unmask.rl.settings import LearnRun, Pair
from unmask.run.loop import Standing
from unmask.run.machine import peak_bytes
from unmask.run.optim import adamw, clip, learning_rate, set_learning_rate
from unmask.run.parallel import Group
from unmask.solve.problems import Problem

_DRAW, _ROLL, _SPREAD = 0, 1, 4
_FINAL = 0.1  # share of the learning rate at the end
_SILENT = 20  # groups of attempts, none of which has a signal, after which a pair of a mixture is left out
_LEAST = (
    0.05  # what a mean reward of rules counts at least, so that a pair that is hardly ever solved does not dominate
)


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

    def __init__(self, run: LearnRun, worlds: Sequence[World], folder: Path, group: Group) -> None:
        """A world for each of `run.pairs`. `run.policy.unit` has to be the largest length of a world, see `session`."""
        self.run, self.worlds, self.folder, self.group = run, tuple(worlds), folder, group
        self.settings = run.learn
        self.device = device = self.worlds[0].device
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

    def problem(self, m: int, pick: int) -> Problem:
        """The index of a pair and a draw below `most` -> one of its training problems."""
        train = self.worlds[m].train
        return train[pick * len(train) // self.most]

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
        self.groups = self.groups + self.group.sum(now)
        for m in self.pairs:
            count, alive = self.groups[:, m].tolist()
            if count >= _SILENT and not alive and len(self.pairs) > 1:
                self.leave_out(m, f"in each of its first {count:.0f} groups of attempts all rewards were equal")

    # ---- decoding -------------------------------------------------------------------------------------------------

    def policy(self, *, sample: bool = False) -> Learned:
        """The policy with the current weights."""
        return Learned(self.network, sample=sample, temperature=self.settings.temperature if sample else 1.0)

    def roll(
        self,
        policy: UnmaskingPolicy | None,
        problems: Sequence[Problem],
        which: Sequence[float],
        seeds: Sequence[int],
        *,
        pair: int = 0,
        record: bool = True,
    ) -> Rollout:
        """Decode problems of a pair at their alphas (indices `which`, or places between), with None by the learner."""
        sampling = self.policy(sample=True)
        w = self.worlds[pair]
        return roll_out(
            w.denoiser,
            sampling if policy is None else policy,
            w.task,
            problems,
            w.tokenizer,
            seeds,
            self._dials_at(torch.tensor(which)).tolist(),
            learner=sampling,
            record=record,
            block_size=self.settings.block_size,
            device=w.device,
            batch=self.settings.batch,
        )

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
        """Roll out this rank's share of the problems, compute rewards, and update the network."""
        s, r = self.settings, self.step
        pair, picks, drawn = self._draw()
        at = self._spread(drawn) if s.between else drawn
        size = s.group + s.steering
        which = at.repeat_interleave(s.group)
        seeds = [derive(s.seed, _ROLL, r, self.group.rank, n) for n in range(len(which))]
        rollout = self._roll_rows(pair, picks, at, seeds)
        assert rollout.trajectory is not None
        reward = self.rewards_of(rollout, which).view(-1, s.group)
        trajectory, decode, judge = rollout.trajectory, rollout.decode_seconds, rollout.judge_seconds
        if s.steering:
            steered_by, more, seconds = self._steer(pair, picks, drawn)
            own = trajectory._replace(row=_row_in_group(trajectory.row, s.group, size, 0))
            rows = _row_in_group(steered_by.row, s.steering, size, s.group)
            trajectory = joined([own, steered_by._replace(row=rows)])
            reward, decode, judge = torch.cat([reward, more], 1), decode + seconds[0], judge + seconds[1]
        advantage = advantages(reward, pair * len(self.alphas) + drawn, self.variance, s.scale, self.group.sum)
        self.variance = advantage.variance
        start = time.perf_counter()
        entropy, clipped = self._update(trajectory, advantage.values.flatten(), size, pair)
        self._count(pair, advantage.differ)
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
            peak_bytes(self.device),
        )

    def _spread(self, drawn: Tensor) -> Tensor:
        """Indices of this rank's alphas (P,) -> places up to half an interval beside them, within the dial."""
        s = self.settings
        offset = torch.rand(s.prompts, generator=generator(s.seed, _SPREAD, self.step), dtype=torch.double) - 0.5
        return (drawn.cpu() + offset[self.group.share(s.prompts)]).clamp(0, len(self.alphas) - 1)

    def _draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """For this rank's share of the round's problems: the pair, the draw of `problem`, and the alpha, (P,) each.

        A round of a mixture has at most `LearnSettings.pairs` pairs, each with as many problems as the others.
        """
        s, draw = self.settings, generator(self.settings.seed, _DRAW, self.step)
        picks = torch.randint(self.most, (s.prompts,), generator=draw)
        drawn = torch.randint(len(self.alphas), (s.prompts,), generator=draw)
        pairs = torch.tensor(self.pairs)[torch.randperm(len(self.pairs), generator=draw)[: s.pairs]]
        pair = pairs[torch.arange(s.prompts) * len(pairs) // s.prompts]
        share = self.group.share(s.prompts)
        return pair[share].to(self.device), picks[share], drawn[share].to(self.device)

    def _roll_rows(
        self, pair: Tensor, picks: Tensor, drawn: Tensor, seeds: Sequence[int], *, taught: bool = False
    ) -> Rollout:
        """Problems of several pairs (P,) -> the rollouts of each, as many as there are seeds, one after the other.

        Each pair is decoded by its own denoiser. With `taught` the best heuristics decode, else the learner.
        """
        times = len(seeds) // len(pair)
        part = pair * len(self.alphas) + drawn if taught else pair
        part, which = part.repeat_interleave(times), drawn.repeat_interleave(times).tolist()
        pairs = pair.repeat_interleave(times).tolist()
        problems = [self.problem(m, int(picks[n // times])) for n, m in enumerate(pairs)]
        parts: list[tuple[Tensor, Rollout]] = []
        for k in part.unique().tolist():
            rows = (part == k).nonzero().squeeze(-1)
            own = rows.tolist()
            rollout = self.roll(
                self.teachers[k] if taught else None,
                [problems[i] for i in own],
                [which[i] for i in own],
                [seeds[i] for i in own],
                pair=pairs[own[0]],
            )
            parts.append((rows, rollout))
        return merged(parts)

    def _steer(self, pair: Tensor, picks: Tensor, drawn: Tensor) -> tuple[Trajectory, Tensor, tuple[float, float]]:
        """Problems and their alphas -> the best heuristic's rollouts: a trajectory, rewards (P, E), seconds."""
        each = self.settings.steering
        rollout = self._roll_rows(pair, picks, drawn, range(each * len(drawn)), taught=True)
        assert rollout.trajectory is not None
        reward = self.rewards_of(rollout, drawn.repeat_interleave(each)).view(-1, each)
        return rollout.trajectory, reward, (rollout.decode_seconds, rollout.judge_seconds)

    def _weights(self, row: Tensor, size: int, pair: Tensor) -> Tensor:
        """The rows of N passes, rows of a problem, pairs of problems (P,) -> the weight of a pass of each row (R,).

        The weights of all passes of the round sum to 1 over all processes, those of a pair to its share of the
        problems: a pair with longer canvases counts no more for its passes.
        """
        lengths = row.bincount(minlength=size * len(pair)).float()
        share = torch.ones_like(lengths) if self.settings.weight == "passes" else 1 / lengths.clamp(min=1)
        none, of_row = share.new_zeros(len(self.worlds)), pair.repeat_interleave(size)
        total = self.group.sum(none.index_add(0, of_row[row], share[row]))
        problems = self.group.sum(none.index_add(0, pair, torch.ones_like(pair, dtype=share.dtype)))
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
            if len(trajectory.row) or self.group.size > 1:
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
        (loss * self.group.size).backward()
        self.group.mean_gradients(self.params)
        clip(self.params, s.max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return (float(entropy.detach().mean()), float(update.clipped)) if len(trajectory.row) else (0.0, 0.0)


def _row_in_group(row: Tensor, each: int, size: int, first: int) -> Tensor:
    """Row index p * each + n -> p * size + first + n, its index when every problem has `size` rows."""
    return row // each * size + row % each + first
