"""The entropy-bounded sampler: as many positions as an error budget in nats permits (EB-Sampler, arXiv:2505.24857)."""

__all__ = ["EntropyBound"]

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor

from unmask.policies.base import Decision, Needs, State, View, take_prefix
from unmask.ranges import check_numbers, real


@dataclass(frozen=True, slots=True)
class EntropyBound:
    """Reveals the longest run, best first, whose entropies except the largest sum to at most `gamma` nats; at least 1.

    Sum minus maximum bounds the mutual information that is lost when the tokens are drawn independently. `order` sorts
    by low entropy, high confidence or high margin. A smaller gamma is stricter. At 0 only tokens of entropy 0 are
    revealed together with another, so that the joint law is kept (with `order` entropy or margin; confidence depends on
    the sample).
    """

    gamma: Annotated[float, real(0)] = 0.1
    order: Literal["entropy", "confidence", "margin"] = "entropy"

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def looks(self) -> bool:
        return True

    @property
    def needs(self) -> Needs:
        return Needs(noise=False)

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        score = -view.entropy if self.order == "entropy" else getattr(view, self.order)
        return Decision(take_prefix(score, view.eligible, self._within_budget, view.entropy)), None

    def _within_budget(self, entropy: Tensor) -> Tensor:
        # Positions that are not eligible are sorted last and may be nan; no run includes them.
        entropy = entropy.nan_to_num(0).double()
        return entropy.cumsum(-1) - entropy.cummax(-1).values <= self.gamma
