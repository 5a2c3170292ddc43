"""Labels of Learn2PD (arXiv:2509.25188): problems -> passes whose actions say which predictions are final."""

__all__ = ["label_final", "until_stuck"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unmask.batch import pad_ids, padded_size
from unmask.policies.base import Decision, Needs, State, View
from unmask.policies.top_k import SCORES, TopK
from unmask.rl.rollout import Rollout, Trajectory, World, joined, keep_passes, roll_out
from unmask.solve.problems import Problem


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


def label_final(
    world: World, problems: Sequence[Problem], seeds: Sequence[int], dials: Sequence[float], **options: Any
) -> Rollout:
    """Problems of a world -> a rollout whose passes have the labels: is a prediction that of the final text?

    The final text is that of a decoding of one token a pass by confidence. It is decoded again, and every right
    prediction is revealed. A row ends, for the labels, with the first pass that has no right prediction; that pass is
    kept. Scores and passes are those of the first decoding. `options` are those of `roll_out`.
    """

    def decoded(policy: Any, rows: Sequence[int], record: bool) -> Rollout:
        return roll_out(
            world.denoiser,
            policy,
            world.task,
            [problems[n] for n in rows],
            world.tokenizer,
            [seeds[n] for n in rows],
            [dials[n] for n in rows],
            device=world.device,
            record=record,
            **options,
        )

    first = decoded(TopK(SCORES["confidence"]), range(len(problems)), False)
    sizes = [padded_size(len(row)) for row in first.rows]
    parts: list[Trajectory] = []
    for size in sorted(set(sizes)):  # rows of one canvas, in the order in which a policy gets them
        lines = [n for n, each in enumerate(sizes) if each == size]
        for group in (lines[at : at + options["batch"]] for at in range(0, len(lines), options["batch"])):
            tokens, _ = pad_ids([first.rows[n] for n in group], world.tokenizer.pad_id, world.device)
            part = decoded(_Final(tokens), group, True).trajectory
            assert part is not None
            parts.append(part._replace(row=torch.tensor(group, device=world.device)[part.row]))
    return first._replace(trajectory=until_stuck(joined(parts), len(problems)))


def until_stuck(trajectory: Trajectory, rows: int) -> Trajectory:
    """A trajectory in the order of time -> the same up to the first pass of each row that has no action."""
    order = torch.arange(len(trajectory.row), device=trajectory.row.device)
    empty = ~trajectory.action.bool().any(-1)
    last = order.new_full((rows,), len(order)).scatter_reduce(0, trajectory.row[empty], order[empty], "amin")
    return keep_passes(trajectory, order <= last[trajectory.row])
