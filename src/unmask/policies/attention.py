"""Rules that read the attention of the network: positions that attend to each other are not revealed together.

`View.attention` is the mean over heads, and over the last layers where the published rule takes several. The published
numbers are of models with 32 layers and rows of hundreds of positions; here layers are a share of all, and the share of
attention that makes a sink is a multiple of the mean, 1 / L.
"""

__all__ = ["ADAS", "DAWN"]

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from unmask.policies.base import Decision, Needs, State, View, take_best
from unmask.policies.top_k import linear, quota
from unmask.ranges import Count, check_numbers, real

_LAST = 1e-9  # a share of the layers of which there is one, the last
_EIGHTH = 1 / 8  # layers 28 to 31 of 32


@dataclass(frozen=True, slots=True)
class ADAS:
    """Reveals as many positions as `steps` passes need, one after the other, each away from the unsure ones before it.

    ADAS, arXiv:2606.10829. Next is always the position i with the highest c_i - `alpha` sum of A_is (1 - c_s) over the
    positions s that are chosen in this pass, where A_is is the attention that i pays to s in the last layer, averaged
    over heads. In the paper any rule decides how many; here a linear pace does, with one position a pass without
    `steps`. Its alpha of 40 was chosen on rows of hundreds of positions; attention is larger in short rows, so that it
    has to be tuned. Does not sample the joint law.
    """

    steps: Count | None = None
    alpha: Annotated[float, real(0)] = 40.0

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def looks(self) -> bool:
        return True

    @property
    def needs(self) -> Needs:
        return Needs(attention=_LAST, noise=False)

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        assert view.attention is not None
        steps = view.total.clamp(min=1) if self.steps is None else view.total.clamp(min=1, max=self.steps)
        count = quota(linear, view.total, view.eligible.sum(-1), view.step, steps)
        chosen, sure = torch.zeros_like(view.eligible), view.confidence.double()
        for number in range(int(count.max())):
            doubt = torch.where(chosen, 1 - sure, 0)
            score = sure - self.alpha * (view.attention.double() @ doubt[..., None]).squeeze(-1)
            chosen |= take_best(score, view.eligible & ~chosen, (number < count).long())
        return Decision(chosen), None


@dataclass(frozen=True, slots=True)
class DAWN:
    """Reveals sure positions, less sure ones that attend to sure tokens, and of the rest a set without attention.

    DAWN, arXiv:2602.06953. An edge goes from i to j where i pays j an attention of at least `edge`, in the mean of
    heads and of the last eighth of the layers; j is no sink, to which positions pay on average more than `sink` / L.
    Revealed are positions with a confidence of at least `high`; of at least `low` with an edge to a written token of
    the block whose probability in this pass is at least `high`; and of the others with at least `low` those that a
    greedy choice by confidence takes, without an edge in either direction between two of them. Where there is none,
    the most confident position is. The published sink is a mean above .01 in rows of about 500 positions, five times
    1 / L. The probability of a written token is that of the token that the pass would write there. Does not sample the
    joint law.
    """

    high: Annotated[float, real(0, 1)] = 0.9
    low: Annotated[float, real(0, 1)] = 0.7
    edge: Annotated[float, real(0, 1)] = 0.07
    sink: Annotated[float, real(0, above=True)] = 5.0

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def looks(self) -> bool:
        return True

    @property
    def needs(self) -> Needs:
        return Needs(attention=_EIGHTH, written=True, noise=False)

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        assert view.attention is not None
        assert view.fresh is not None
        edges = self._edges(view.attention)
        sure = (view.confidence >= self.high) & view.eligible
        anchors = view.erasable & (view.fresh >= self.high)
        likely = (view.confidence >= self.low) & view.eligible & ~sure
        tied = likely & (edges & anchors[:, None]).any(-1)
        alone = _independent(view.confidence, likely & ~tied, edges | edges.transpose(1, 2))
        best = take_best(view.confidence, view.eligible, torch.ones_like(view.step))
        reveal = sure | tied | alone
        return Decision(torch.where(reveal.any(-1, keepdim=True), reveal, best)), None

    def _edges(self, attention: Tensor) -> Tensor:
        """Attention (B, L, L), zero in rows and columns of padding -> (B, L, L) bool."""
        used = (attention.sum(-1) > 0).sum(-1)[:, None].clamp(min=1)  # positions that are no padding
        sinks = attention.sum(1) / used > self.sink / used
        return (attention >= self.edge) & ~sinks[:, None]


def _independent(score: Tensor, among: Tensor, edges: Tensor) -> Tensor:
    """Scores, (B, L) bool and symmetric edges -> the greedy independent set by score, the left of equals first."""
    taken, left = torch.zeros_like(among), among
    while bool(left.any()):
        best = take_best(score, left, left.any(-1).long())
        taken = taken | best
        left = left & ~best & ~(edges & best[:, None]).any(-1)
    return taken
