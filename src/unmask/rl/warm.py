"""The warm start of a policy: imitation of the best heuristic for each alpha, or of the final text (Learn2PD)."""

__all__ = ["choose_teachers", "imitate", "of_final"]

from collections.abc import Callable, Sequence

import torch

from unmask.errors import RunError
from unmask.noise import derive, generator
from unmask.policies.base import UnmaskingPolicy
from unmask.policies.learned.network import WRITTEN
from unmask.rl.collect import FINAL
from unmask.rl.learner import Learner
from unmask.rl.rollout import Trajectory, experts, log_prob, typed_form
from unmask.run.optim import clip

_WARM = 2
_INNER = {"rules": 3, "final": 50}  # steps of a round; labels cost more passes than they cost steps


def choose_teachers(learner: Learner, stopping: Callable[[], bool]) -> list[str] | None:
    """Set the learner's teachers, the best heuristic for each pair and alpha -> a line about each: its mean reward.

    None, with no teachers set, where `stopping` became true between two heuristics. A pair of a mixture of which no
    heuristic solves a problem is left out. Raises RunError if that is so of every pair: there is nothing to learn from.
    """
    lines: list[str] = []
    teachers: list[UnmaskingPolicy] = []
    for m in range(len(learner.worlds)):
        compared = _compare(learner, m, stopping)
        if compared is None:
            return None
        candidates, values, best = compared
        if best == 0:
            _unsolved(learner, m)
        chosen = values.argmax(0).tolist()
        teachers += [candidates[e] for e in chosen]
        learner.usual[m] = values.amax(0).mean()
        lines += [] if len(learner.worlds) == 1 else [learner.left_out.get(m, learner.pair(m).name)]
        pairs = zip(learner.settings.alphas, chosen, strict=True)
        if m not in learner.left_out:
            lines += [
                f"{alpha:7g}   {values[e, k]:.3f}   {typed_form(candidates[e])}" for k, (alpha, e) in enumerate(pairs)
            ]
    learner.teachers = teachers
    return lines


def _compare(
    learner: Learner, m: int, stopping: Callable[[], bool]
) -> tuple[list[UnmaskingPolicy], torch.Tensor, float] | None:
    """A pair -> heuristics, their mean rewards at each alpha (E, K), and the best score; None where it was stopped."""
    world, settings = learner.worlds[m], learner.settings
    count = len(world.train[: settings.scored])
    size = min(world.length, settings.block_size or world.length)
    candidates = experts(size, learner.run.policy.hides > 0, settings.fastest)
    rewards: list[torch.Tensor] = []
    best = 0.0
    for teacher in candidates:
        groups = [learner.attempts(m, n, 0, (n,), repr(teacher)) for n in range(count)]
        rollout = learner.collect(groups, record=False)
        indices = torch.arange(len(learner.alphas))
        rewards.append(torch.stack([learner.rewards_of(rollout, index.expand(count)).mean() for index in indices]))
        best = max(best, float(rollout.scores.max()))
        if stopping():
            return None
    return candidates, torch.stack(rewards), best


def _unsolved(learner: Learner, m: int) -> None:
    """Leave out a pair of which no heuristic solves a problem. Raises RunError if there is no other pair."""
    pair, count = learner.pair(m), len(learner.worlds[m].train[: learner.settings.scored])
    if learner.pairs == [m]:  # another pair may have been left out before an interrupt, and is compared again
        raise RunError(
            f"The denoiser {pair.checkpoint} solves none of {count} problems of {learner.worlds[m].task.name} with "
            "any heuristic, so there is nothing to learn from: train it further, or choose an easier task."
        )
    learner.leave_out(m, f"its denoiser solves none of {count} problems with any heuristic")


def imitate(learner: Learner) -> float:
    """Take the next round of the warm start -> its last loss in nats a position.

    The heuristic of a random pair and alpha decodes problems, or with `mixed` that of each alpha its share of them, or
    the final text does; and the network takes steps on the likelihood of the actions.
    """
    s, round_, optimizer = learner.settings, learner.warmed, learner.warm_optimizer
    draw = generator(s.seed, _WARM, round_)
    k = int(torch.randint(len(learner.alphas), (1,), generator=draw))
    count = s.prompts * s.group
    picks = torch.randint(learner.most, (count,), generator=draw).tolist()
    m = learner.pairs[int(torch.randint(len(learner.pairs), (1,), generator=draw))]
    numbers = [learner.number(m, pick) for pick in picks]
    seeds = [derive(s.seed, _WARM, round_, n) for n in range(count)]
    if s.teacher == "final":
        trajectory = of_final(learner, m, numbers, seeds)
    else:
        which = [n * len(learner.alphas) // count for n in range(count)] if s.mixed else [k] * count
        trajectory = _of_heuristics(learner, m, numbers, which, seeds)
    loss = torch.zeros(())
    for _ in range(_INNER[s.teacher]):
        chosen, _ = log_prob(learner.network, trajectory)
        loss = -chosen.sum() / trajectory.eligible.sum()
        loss.backward()
        clip(learner.params, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    learner.group.copy_first(learner.params)
    learner.warmed += 1
    return float(loss.detach())


def of_final(learner: Learner, m: int, numbers: Sequence[int], seeds: Sequence[int]) -> Trajectory:
    """Indices of training problems of a pair -> passes whose actions are the labels of `label_final`."""
    groups = [learner.attempts(m, n, 0, (seed,), FINAL) for n, seed in zip(numbers, seeds, strict=True)]
    trajectory = learner.collect(groups).trajectory
    assert trajectory is not None
    return trajectory


def _of_heuristics(
    learner: Learner, m: int, numbers: Sequence[int], which: Sequence[int], seeds: Sequence[int]
) -> Trajectory:
    """Indices of training problems of a pair and their alphas -> passes of the heuristic of each alpha.

    A rule that never hides a token says nothing about hiding.
    """
    names = [repr(learner.teachers[m * len(learner.alphas) + alpha]) for alpha in which]
    rows = zip(numbers, which, seeds, names, strict=True)
    trajectory = learner.collect(
        [learner.attempts(m, n, alpha, (seed,), name) for n, alpha, seed, name in rows]
    ).trajectory
    assert trajectory is not None
    hides = (trajectory.action.bool() & (trajectory.seen.state == WRITTEN)).any(-1)
    rule = torch.tensor([names.index(name) for name in names], device=hides.device)[trajectory.row]
    never = ~torch.zeros(len(names), device=hides.device).index_add(0, rule, hides.float()).bool()[rule]
    silent = never[:, None] & (trajectory.seen.state == WRITTEN)
    return trajectory._replace(eligible=trajectory.eligible & ~silent)
