"""The warm start of a policy: the best heuristic for each alpha, and its imitation."""

__all__ = ["choose_teachers", "imitate"]

from collections.abc import Callable

import torch

from unmask.errors import RunError
from unmask.noise import derive, generator
from unmask.rl.learner import Learner
from unmask.rl.rollout import experts, log_prob, typed_form
from unmask.run.optim import clip

_WARM = 2
_INNER = 3


def choose_teachers(learner: Learner, stopping: Callable[[], bool]) -> list[str] | None:
    """Set the learner's teachers, the best heuristic for each alpha -> a line about each: policy and mean reward.

    None, with no teachers set, where `stopping` became true between two heuristics.
    Raises RunError if no heuristic solves a problem, because then there is nothing to learn from.
    """
    world, settings = learner.world, learner.settings
    problems = world.train[: settings.scored]
    candidates = experts(min(world.length, settings.block_size or world.length))
    rewards: list[torch.Tensor] = []
    best = 0.0
    for teacher in candidates:
        rollout = learner.roll(teacher, problems, [0] * len(problems), range(len(problems)), record=False)
        indices = torch.arange(len(learner.alphas))
        rewards.append(
            torch.stack([learner.rewards_of(rollout, index.expand(len(problems))).mean() for index in indices])
        )
        best = max(best, float(rollout.scores.max()))
        if stopping():
            return None
    if best == 0:
        raise RunError(
            f"The denoiser {learner.run.checkpoint} solves none of {len(problems)} problems of {world.task.name} with "
            "any heuristic, so there is nothing to learn from: train it further, or choose an easier task."
        )
    values = torch.stack(rewards)
    chosen = values.argmax(0).tolist()
    learner.teachers = [candidates[e] for e in chosen]
    pairs = zip(settings.alphas, chosen, strict=True)
    return [f"{alpha:7g}   {values[e, k]:.3f}   {typed_form(candidates[e])}" for k, (alpha, e) in enumerate(pairs)]


def imitate(learner: Learner) -> float:
    """Take the next round of the warm start -> its last loss in nats a position.

    The heuristic of one random alpha decodes problems, and the network takes steps on the likelihood of its actions.
    """
    s, round_, optimizer = learner.settings, learner.warmed, learner.warm_optimizer
    draw = generator(s.seed, _WARM, round_)
    k = int(torch.randint(len(learner.alphas), (1,), generator=draw))
    count = s.prompts * s.group
    pool = learner.world.train
    problems = [pool[i] for i in torch.randint(len(pool), (count,), generator=draw).tolist()]
    seeds = [derive(s.seed, _WARM, round_, n) for n in range(count)]
    trajectory = learner.roll(learner.teachers[k], problems, [k] * count, seeds).trajectory
    assert trajectory is not None
    loss = torch.zeros(())
    for _ in range(_INNER):
        chosen, _ = log_prob(learner.network, trajectory)
        loss = -chosen.sum() / trajectory.eligible.sum()
        loss.backward()
        learner.group.mean_gradients(learner.params)
        clip(learner.params, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    learner.warmed += 1
    return float(loss.detach())
