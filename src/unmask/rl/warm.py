"""The warm start of a policy: imitation of the best heuristic for each alpha, or of the final text (Learn2PD)."""

__all__ = ["choose_teachers", "imitate", "label_final"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.batch import pad_ids, padded_size
from unmask.errors import RunError
from unmask.noise import derive, generator
from unmask.policies.base import Decision, Needs, State, UnmaskingPolicy, View
from unmask.policies.learned.network import WRITTEN
from unmask.policies.top_k import SCORES, TopK
from unmask.rl.learner import Learner
from unmask.rl.rollout import Trajectory, experts, joined, keep_passes, log_prob, typed_form
from unmask.run.optim import clip
from unmask.solve.problems import Problem

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
    problems = world.train[: settings.scored]
    size = min(world.length, settings.block_size or world.length)
    candidates = experts(size, learner.run.policy.hides > 0, settings.fastest)
    rewards: list[torch.Tensor] = []
    best = 0.0
    for teacher in candidates:
        rollout = learner.roll(teacher, problems, [0] * len(problems), range(len(problems)), pair=m, record=False)
        indices = torch.arange(len(learner.alphas))
        rewards.append(
            torch.stack([learner.rewards_of(rollout, index.expand(len(problems))).mean() for index in indices])
        )
        best = max(best, float(rollout.scores.max()))
        if stopping():
            return None
    return candidates, torch.stack(rewards), best


def _unsolved(learner: Learner, m: int) -> None:
    """Leave out a pair of which no heuristic solves a problem. Raises RunError if there is no other pair."""
    pair, count = learner.pair(m), len(learner.worlds[m].train[: learner.settings.scored])
    if len(learner.pairs) == 1:
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
    problems = [learner.problem(m, pick) for pick in picks]
    seeds = [derive(s.seed, _WARM, round_, n) for n in range(count)]
    if s.teacher == "final":
        trajectory = label_final(learner, problems, seeds, pair=m)
    else:
        which = [n * len(learner.alphas) // count for n in range(count)] if s.mixed else [k] * count
        trajectory = _of_heuristics(learner, m, problems, which, seeds)
    loss = torch.zeros(())
    for _ in range(_INNER[s.teacher]):
        chosen, _ = log_prob(learner.network, trajectory)
        loss = -chosen.sum() / trajectory.eligible.sum()
        loss.backward()
        learner.group.mean_gradients(learner.params)
        clip(learner.params, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    learner.warmed += 1
    return float(loss.detach())


def _of_heuristics(
    learner: Learner, m: int, problems: Sequence[Problem], which: Sequence[int], seeds: Sequence[int]
) -> Trajectory:
    """Problems of a pair and their alphas -> passes of the heuristic of each alpha.

    A rule that never hides a token says nothing about hiding.
    """
    parts: list[Trajectory] = []
    for alpha in dict.fromkeys(which):
        rows = [n for n in range(len(problems)) if which[n] == alpha]
        share, own = [problems[n] for n in rows], [seeds[n] for n in rows]
        teacher = learner.teachers[m * len(learner.alphas) + alpha]
        trajectory = learner.roll(teacher, share, [alpha] * len(rows), own, pair=m).trajectory
        assert trajectory is not None
        if not (trajectory.action.bool() & (trajectory.seen.state == WRITTEN)).any():  # a rule that hides nothing
            trajectory = trajectory._replace(eligible=trajectory.eligible & (trajectory.seen.state != WRITTEN))
        parts.append(trajectory)
    return parts[0] if len(parts) == 1 else joined(parts)


@dataclass(frozen=True, slots=True, eq=False)
class _Final:
    """Reveals every position whose prediction is the final token; all of a row where a pass before had none."""

    tokens: Tensor  # (B, L) int64: the final texts of the rows of the canvas, in their order

    @property
    def looks(self) -> bool:
        return True

    @property
    def needs(self) -> Needs:
        return Needs(noise=False)

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        final, stuck = (self.tokens, torch.zeros_like(view.step).bool()) if state is None else state
        right = view.eligible & (view.proposal == final)
        reveal = torch.where(stuck[:, None], view.eligible, right)
        return Decision(reveal), (final, stuck | ~right.any(-1))


def label_final(learner: Learner, problems: Sequence[Problem], seeds: Sequence[int], *, pair: int = 0) -> Trajectory:
    """Problems -> passes whose actions are the labels of Learn2PD: is a prediction that of the final text?

    The final text is that of a decoding of one token a pass by confidence. It is decoded again, and every right
    prediction is revealed (arXiv:2509.25188). A row ends, for the labels, with the first pass that has no right
    prediction; that pass is kept.
    """
    world, which = learner.worlds[pair], [0] * len(problems)
    one_a_pass = TopK(SCORES["confidence"])
    final = learner.roll(one_a_pass, problems, which, seeds, pair=pair, record=False).rows
    sizes = [padded_size(len(row)) for row in final]
    parts: list[Trajectory] = []
    for size in sorted(set(sizes)):  # rows of one canvas, in the order in which a policy gets them
        lines = [n for n, each in enumerate(sizes) if each == size]
        for group in (lines[at : at + learner.settings.batch] for at in range(0, len(lines), learner.settings.batch)):
            tokens, _ = pad_ids([final[n] for n in group], world.tokenizer.pad_id, world.device)
            chosen, some = [problems[n] for n in group], [seeds[n] for n in group]
            part = learner.roll(_Final(tokens), chosen, which[: len(group)], some, pair=pair).trajectory
            assert part is not None
            parts.append(part._replace(row=torch.tensor(group, device=world.device)[part.row]))
    return _until_stuck(joined(parts), len(problems))


def _until_stuck(trajectory: Trajectory, rows: int) -> Trajectory:
    """A trajectory in the order of time -> the same up to the first pass of each row that has no action."""
    order = torch.arange(len(trajectory.row), device=trajectory.row.device)
    empty = ~trajectory.action.bool().any(-1)
    last = order.new_full((rows,), len(order)).scatter_reduce(0, trajectory.row[empty], order[empty], "amin")
    return keep_passes(trajectory, order <= last[trajectory.row])
