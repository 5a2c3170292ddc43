"""Rules that hide written tokens again by how sure the model is of them: RCR, P2, Saber.

A token is hidden within the block that is being filled; the published programs of RCR and Saber can open earlier blocks
again. A position that a published program fills and hides in the same pass is not revealed here, which is the same.
"""

__all__ = ["P2", "RCR", "Saber"]

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.batch import ceil_div
from unmask.policies.base import Decision, Needs, State, View, take_best
from unmask.policies.top_k import Pace, front, linear
from unmask.ranges import Count, check_numbers


def _keep_best(view: View, score: Tensor, pace: Pace, steps: int | None) -> Decision:
    """Scores of the block (B, L) -> the decision after which the best ones are written, as many as the pace says."""
    block = view.eligible | view.erasable
    total = view.total.clamp(min=1) if steps is None else torch.full_like(view.total, steps)
    count = pace(view.total, (view.step + 1).clamp(max=total), total)
    kept = take_best(score, block, count)
    return Decision(view.eligible & kept, remask=view.erasable & ~kept, done=count >= view.total)


@dataclass(frozen=True, slots=True)
class RCR:
    """After pass i of `steps` the positions with the highest confidence are written, as many as LLaDA's program has.

    Running-confidence remasking, MDPO, arXiv:2508.13148, as its program does it: the confidence of a written token is
    that of the pass that wrote it (the formula of the paper has the maximum over all passes). A written token is hidden
    if positions that are still masked have become surer. Without `steps` there is one pass for each position. Ends when
    the block is full. Does not sample the joint law.
    """

    steps: Count | None = None

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def looks(self) -> bool:
        return True

    @property
    def needs(self) -> Needs:
        return Needs(noise=False)

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        return _keep_best(view, view.confidence, front, self.steps), None


@dataclass(frozen=True, slots=True)
class P2:
    """After pass i of `steps` the ceil(n i / steps) positions are written at which the model is surest in this pass.

    Path planning with the model's own scores, arXiv:2502.03540, as in the first author's program (Open-dLLM): the score
    of each position, written ones included, is the probability of the token drawn there in this pass. A written token
    that is kept stays as it is, although its score is that of a new draw. The paper also has an entropy term and a
    factor for written positions, with values for each task; the program has neither. Without `steps` there is one pass
    for each position. Does not sample the joint law.
    """

    steps: Count | None = None

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def looks(self) -> bool:
        return True

    @property
    def needs(self) -> Needs:
        return Needs(written=True, noise=False)

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        assert view.fresh is not None
        return _keep_best(view, view.fresh, linear, self.steps), None


@dataclass(frozen=True, slots=True)
class Saber:
    """Reveals positions surer than the mean of all earlier reveals, and hides tokens whose confidence fell.

    Saber, arXiv:2510.18165. Revealed are all positions with a confidence above the mean confidence of all tokens
    revealed so far, each at the pass that revealed it, or the best `least` where there are fewer; k in all. Unless the
    block is full then, min(max(least // 2, ceil(k / 8)), k - 1) positions are hidden, those whose confidence changed by
    the lowest amount since the last pass, just revealed ones included. The confidence of a written position is the
    probability of its most probable token in this pass. The state has the confidences of the last pass (0 at the
    start), the sum and the number of those of the reveals; it begins anew in each block, in the program it does not.
    Does not sample the joint law.
    """

    least: Count = 2

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def looks(self) -> bool:
        return True

    @property
    def needs(self) -> Needs:
        return Needs(written=True, noise=False)

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        assert view.fresh is not None
        sure = view.fresh.double()
        before, total, number = (torch.zeros_like(sure), sure.new_zeros(len(sure)), torch.zeros_like(view.step))
        if state is not None:
            going = view.step > 0
            before, total, number = state[0] * going[:, None], state[1] * going, state[2] * going
        mean = torch.where(number > 0, total / number.clamp(min=1), 1)
        above = (sure > mean[:, None]) & view.eligible
        few = above.sum(-1) < self.least
        taken = torch.where(few[:, None], take_best(sure, view.eligible, torch.full_like(view.step, self.least)), above)
        count = taken.sum(-1)
        done = ~(view.eligible & ~taken).any(-1)
        hidden = torch.minimum(ceil_div(count, 8).clamp(min=self.least // 2), count - 1).clamp(min=0)
        fallen = take_best(before - sure, taken | view.erasable, torch.where(done, 0, hidden))
        after = (sure, total + (sure * taken).sum(-1), number + count)
        return Decision(taken & ~fallen, remask=view.erasable & fallen, done=done), after
