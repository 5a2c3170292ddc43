"""The entropy-bounded sampler: as many positions as an error budget in nats allows (arXiv:2505.24857)."""

__all__ = ["EntropyBound"]

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from unmask.errors import ConfigError
from unmask.policies.base import Decision, State, View, take_prefix


@dataclass(frozen=True, slots=True)
class EntropyBound:
    """The longest run, best first, whose entropies without the largest sum to at most `gamma` nats; at least one.

    Sum minus maximum bounds the mutual information that is lost by drawing the tokens apart. `order` says what best
    means: low entropy, or high confidence or margin. A smaller gamma is stricter; at 0 only tokens that are certain
    come in company, so that the joint law is kept (with `order` entropy or margin, which do not peek at the sample).
    """

    gamma: float = 0.1
    order: Literal["entropy", "confidence", "margin"] = "entropy"

    def __post_init__(self) -> None:
        if self.gamma < 0:
            raise ConfigError(f"gamma is {self.gamma}; give a number of nats of at least 0, for example 0.1.")

    @property
    def looks(self) -> bool:
        return True

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        score = -view.entropy if self.order == "entropy" else getattr(view, self.order)
        return Decision(take_prefix(score, view.eligible, self._affordable, view.entropy)), None

    def _affordable(self, entropy: Tensor) -> Tensor:
        # What is not eligible comes last, and may be nan there: a run that reaches it has ended anyway.
        entropy = entropy.nan_to_num(0).double()
        return entropy.cumsum(-1) - entropy.cummax(-1).values <= self.gamma
