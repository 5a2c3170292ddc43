"""Learn2PD's filter: a network that was taught which predictions are those of the final text (arXiv:2509.25188).

`unmask learn learn2pd` trains it by supervision (`rl.warm`): the rival of policies that learn from rewards.
"""

__all__ = ["Filter", "read_filter"]

from dataclasses import dataclass, replace
from typing import Annotated

import torch

from unmask.disk.folders import locate_policy
from unmask.errors import RequestError
from unmask.policies.base import Decision, Needs, State, View, take_best
from unmask.policies.learned.policy import Learned, read_policy
from unmask.ranges import check_numbers, real


@dataclass(frozen=True, slots=True, eq=False)
class Filter:
    """Reveals positions whose probability of being final is above `threshold`, and the most confident one.

    Learn2PD reads the confidences of written positions too: here those of the pass that wrote them. Its stop at the
    first certain end of a text is left out. On one View a stricter threshold reveals a subset. Does not sample the
    joint law. Raises RequestError for a network that reads the cost of a pass, which was trained on rewards.
    """

    inner: Learned
    threshold: Annotated[float, real(0, 1)] = 0.96

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.inner.settings.priced:
            name = self.inner.name.removeprefix("learned:from=")
            raise RequestError(f"'{name}' is no filter but a policy with a dial; write learned:from={name}.")

    def __repr__(self) -> str:
        return f"{self.inner.name.replace('learned', 'filter', 1)},threshold={self.threshold:g}"

    @property
    def looks(self) -> bool:
        return True

    @property
    def needs(self) -> Needs:
        return self.inner.needs

    @torch.no_grad()
    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        final = self.inner.logits(view).sigmoid() > self.threshold
        best = take_best(view.confidence, view.eligible, torch.ones_like(view.step))
        return Decision((final & view.eligible) | best), None


def read_filter(name: str | None, threshold: float) -> Filter:
    """The folder that `unmask learn` wrote -> the filter in it. Raises RequestError without a folder."""
    if name is None:
        raise RequestError("filter needs a folder that unmask learn learn2pd wrote; write filter:from=FOLDER.")
    return Filter(replace(read_policy(locate_policy(name)), name=f"learned:from={name}"), threshold)
