"""A policy in training: rounds of rollouts and updates.

Everything random in round r is a function of (seed, r, rank). Shapes: R rows, P problems, G rollouts of each, K alphas.
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
from unmask.rl.rollout import Rollout, Tape, World, joined, keep_passes, log_prob, roll_out, tape_bytes
from unmask.rl.settings import LearnRun
from unmask.run.loop import Standing
from unmask.run.machine import peak_bytes
from unmask.run.optim import adamw, clip, learning_rate, set_learning_rate
from unmask.run.parallel import Group
from unmask.solve.problems import Problem

_DRAW, _ROLL = 0, 1
_FINAL = 0.1  # of the learning rate is left at the end


class RoundReport(NamedTuple):
    """What was measured in a round: on this process's share of the problems, where there are several."""

    round: int
    reward: float
    accuracy: float
    passes: float
    entropy: float  # of a pass's action, in nats
    silent: float  # share of problems whose rollouts are all worth the same
    clipped: float
    roll_seconds: float
    judge_seconds: float
    update_seconds: float
    tape_bytes: float
    peak_bytes: float  # so far, see `run.machine.peak_bytes`

    def values(self) -> dict[str, float]:
        """The numbers for metrics.jsonl."""
        return {name: value for name, value in self._asdict().items() if name != "round"}


class Learner:
    """The state of a run; `rl.loop.fit` drives it, `rl.checkpoint` stores it."""

    def __init__(self, run: LearnRun, world: World, folder: Path, group: Group) -> None:
        """`run.policy.unit` has to be the world's length already, see `rl.session`."""
        self.run, self.world, self.folder, self.group = run, world, folder, group
        self.settings = run.learn
        self.network = PolicyNetwork(run.policy, derive(run.learn.seed)).to(world.device)
        self.params = list(self.network.parameters())
        s = self.settings
        self.optimizer = adamw(self.params, s.lr, s.betas, 1e-8, s.weight_decay)
        self.alphas = torch.tensor(s.alphas, device=world.device)
        self.dials = [self.policy().dial_of(alpha) for alpha in s.alphas]
        self.variance = torch.full((len(s.alphas),), math.nan, device=world.device)
        self.teachers: list[UnmaskingPolicy] = []  # the best heuristic for each alpha
        self.step = 0  # rounds that are done
        self.standing = Standing(validated_at=-1)  # the policy is validated before its first round
        self.warmed = False
        group.copy_first(self.params)

    # ---- decoding -------------------------------------------------------------------------------------------------

    def policy(self, *, sample: bool = False) -> Learned:
        """The policy as it is now."""
        return Learned(self.network, sample=sample, temperature=self.settings.temperature if sample else 1.0)

    def roll(
        self,
        policy: UnmaskingPolicy | None,
        given: Sequence[Problem],
        which: Sequence[int],
        seeds: Sequence[int],
        *,
        record: bool = True,
    ) -> Rollout:
        """Decode problems at their alphas (`which`), with a heuristic or, with None, by drawing from the learner."""
        drawing = self.policy(sample=True)
        w = self.world
        return roll_out(
            w.denoiser,
            drawing if policy is None else policy,
            w.task,
            given,
            w.tokenizer,
            seeds,
            [self.dials[k] for k in which],
            learner=drawing,
            record=record,
            block_size=self.settings.block_size,
            device=w.device,
        )

    def worth(self, found: Rollout, which: Tensor) -> Tensor:
        """(R,) the reward of each row."""
        return rewards(found.scores, found.passes, found.lengths, self.alphas[which], self.settings.reward)

    # ---- a round --------------------------------------------------------------------------------------------------

    def take_round(self) -> RoundReport:
        """Rollouts of this rank's share of the problems, judged, and the updates."""
        s, r = self.settings, self.step
        chance = generator(s.seed, _DRAW, r)
        picks = torch.randint(len(self.world.train), (s.prompts,), generator=chance)[self.group.share(s.prompts)]
        kinds = torch.randint(len(self.alphas), (s.prompts,), generator=chance)[self.group.share(s.prompts)]
        kinds = kinds.to(self.world.device)
        size = s.group + s.steering
        which = kinds.repeat_interleave(s.group)
        given = [self.world.train[int(i)] for i in picks for _ in range(s.group)]
        seeds = [derive(s.seed, _ROLL, r, self.group.rank, n) for n in range(len(given))]
        found = self.roll(None, given, which.tolist(), seeds)
        assert found.tape is not None
        worth = self.worth(found, which).view(-1, s.group)
        tape, seconds, judged = found.tape, found.decode_seconds, found.judge_seconds
        if s.steering:
            more, beside, times = self._steer(picks, kinds)
            own = tape._replace(row=_place(tape.row, s.group, size, 0))
            tape = joined([own, more._replace(row=_place(more.row, s.steering, size, s.group))])
            worth, seconds, judged = torch.cat([worth, beside], 1), seconds + times[0], judged + times[1]
        gained = advantages(worth, kinds, self.variance, s.scale, self.group.sum)
        self.variance = gained.variance
        began = time.perf_counter()
        entropy, clipped = self._update(tape, gained.values.flatten(), size)
        self.step += 1
        return RoundReport(
            self.step,
            float(worth[:, : s.group].mean()),
            float(found.scores.mean()),
            float(found.passes.mean()),
            entropy,
            gained.silent,
            clipped,
            seconds,
            judged,
            time.perf_counter() - began,
            tape_bytes(tape),
            peak_bytes(self.world.device),
        )

    def _steer(self, picks: Tensor, kinds: Tensor) -> tuple[Tape, Tensor, tuple[float, float]]:
        """The best heuristics' rollouts of each problem: a tape, (P, E) rewards, seconds."""
        s = self.settings
        given = [self.world.train[int(pick)] for pick in picks for _ in range(s.steering)]
        which = kinds.repeat_interleave(s.steering)
        worth = torch.zeros(len(given), device=kinds.device)
        tapes: list[Tape] = []
        decode = judge = 0.0
        for k in kinds.unique().tolist():
            mine = (which == k).nonzero().squeeze(-1)
            found = self.roll(self.teachers[k], [given[i] for i in mine.tolist()], [k] * len(mine), range(len(mine)))
            assert found.tape is not None
            tapes.append(found.tape._replace(row=mine[found.tape.row]))
            worth[mine] = self.worth(found, which[mine])
            decode, judge = decode + found.decode_seconds, judge + found.judge_seconds
        return joined(tapes), worth.view(-1, s.steering), (decode, judge)

    def _update(self, tape: Tape, advantage: Tensor, size: int) -> tuple[float, float]:
        """Some steps on the passes whose rollouts taught something; the entropy and the share that was clipped."""
        s = self.settings
        lengths = tape.row.bincount(minlength=len(advantage)).float()
        share = torch.ones_like(lengths) if s.weight == "passes" else 1 / lengths.clamp(min=1)
        total = self.group.sum(share[tape.row].sum())
        if s.steering:
            with torch.no_grad():
                old, _ = log_prob(self.network, tape, s.temperature)
            tape = tape._replace(log_prob=torch.where(tape.row % size < s.group, tape.log_prob, old))
        tape = keep_passes(tape, (advantage[tape.row] != 0) | (s.entropy > 0))
        entropy = clipped = 0.0
        rate = _FINAL * s.lr + (1 - _FINAL) * learning_rate(
            self.step, base=s.lr, warmup=s.warmup, steps=s.rounds, shape="cosine"
        )
        set_learning_rate(self.optimizer, rate)
        expert = tape.row % size >= s.group
        for inner in range(s.inner):
            if len(tape.row) or self.group.size > 1:
                now, clipped = self._step(tape, advantage[tape.row], share[tape.row] / total, expert)
                entropy = entropy if inner else now
        return entropy, clipped

    def _step(self, tape: Tape, advantage: Tensor, weight: Tensor, expert: Tensor) -> tuple[float, float]:
        """One step of the optimiser; the mean entropy of a pass before it, and the share that was clipped."""
        s = self.settings
        new, logits = log_prob(self.network, tape, s.temperature)
        old = tape.log_prob
        if s.steering:
            new = torch.where(expert, steered(new, s.group, s.steering), new)
            old = torch.where(expert, steered(old, s.group, s.steering), old)
        found = objective(new, old, advantage, weight, s.clip)
        coins = self.run.policy.head == "bernoulli"
        entropy = bernoulli_entropy(logits, tape.eligible) if coins else -new  # of a ranking: an estimate, no bonus
        loss = found.loss - s.entropy * (entropy * weight).sum()
        (loss * self.group.size).backward()
        self.group.mean_gradients(self.params)
        clip(self.params, s.max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return (float(entropy.detach().mean()), float(found.clipped)) if len(tape.row) else (0.0, 0.0)


def _place(row: Tensor, each: int, size: int, first: int) -> Tensor:
    """Where row p * each + n stands when every problem has `size` rows, these from `first` on."""
    return row // each * size + row % each + first
