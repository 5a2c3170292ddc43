"""Before the rounds: which heuristic is best at each alpha, and imitation of it."""

__all__ = ["choose_teachers", "imitate"]

import torch

from unmask.errors import RunError
from unmask.noise import derive, generator
from unmask.rl.learner import Learner
from unmask.rl.rollout import experts, log_prob
from unmask.run.optim import clip

_WARM = 2
_INNER = 3


def choose_teachers(learner: Learner) -> str:
    """Give the learner the best heuristic for each alpha, and tell which.

    Raises RunError where the denoiser never gets anything right: there is nothing to learn from then.
    """
    world, settings = learner.world, learner.settings
    given = world.train[: settings.scored]
    known = experts(min(world.length, settings.block_size or world.length))
    worth: list[torch.Tensor] = []
    best = 0.0
    for teacher in known:
        found = learner.roll(teacher, given, [0] * len(given), range(len(given)), record=False)
        kinds = torch.arange(len(learner.alphas))
        worth.append(torch.stack([learner.worth(found, kind.expand(len(given))).mean() for kind in kinds]))
        best = max(best, float(found.scores.max()))
    if best == 0:
        raise RunError(
            f"The denoiser {learner.run.checkpoint} solves none of {len(given)} problems of {world.task.name} with any "
            "heuristic, so there is nothing to learn from: train it further, or choose an easier task."
        )
    values = torch.stack(worth)
    chosen = values.argmax(0).tolist()
    learner.teachers = [known[e] for e in chosen]
    told = zip(settings.alphas, chosen, strict=True)
    return "; ".join(f"alpha {alpha:g}: {known[e]!r} {values[e, k]:.3f}" for k, (alpha, e) in enumerate(told))


def imitate(learner: Learner, round_: int, optimizer: torch.optim.Optimizer) -> float:
    """A round of the warm start: one alpha, its best heuristic, some steps of likelihood; nats a position."""
    s = learner.settings
    chance = generator(s.seed, _WARM, round_)
    k = int(torch.randint(len(learner.alphas), (1,), generator=chance))
    count = s.prompts * s.group
    pool = learner.world.train
    given = [pool[i] for i in torch.randint(len(pool), (count,), generator=chance).tolist()]
    seeds = [derive(s.seed, _WARM, round_, n) for n in range(count)]
    tape = learner.roll(learner.teachers[k], given, [k] * count, seeds).tape
    assert tape is not None
    loss = torch.zeros(())
    for _ in range(_INNER):
        chosen, _ = log_prob(learner.network, tape)
        loss = -chosen.sum() / tape.eligible.sum()
        loss.backward()
        learner.group.mean_gradients(learner.params)
        clip(learner.params, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())
