"""Dream's own rule: positions of low entropy after temperature, top-p and top-k (arXiv:2508.15487, its program).

Other rules read confidence and entropy of the model's own distribution; this one reads the entropy of the distribution
that tokens are drawn from. Give the request the same temperature and top-p. Two differences from the published
program: the number of positions is that of each row, not of the mean of its batch; and steps that reveal nothing, which
leave the canvas as it is, take no pass. Equal entropies are taken from the left. With `alg_temp` positions are drawn
without replacement with probabilities softmax(-entropy / alg_temp), by the same race of exponential variables as
torch.multinomial, one for each position.
"""

__all__ = ["ALL", "Dream"]

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.policies.base import Decision, Needs, State, View, take_best
from unmask.ranges import Count, Temperature, TopP, check_numbers

ALL = 2**31
"""More tokens than any vocabulary has."""


@dataclass(frozen=True, slots=True)
class Dream:
    """Reveals int(n (1 - s/t)) of the n masked positions from time t to s, of `steps` times from 1 down to 0.001."""

    steps: Count = 512
    temperature: Temperature = 0.0
    top_p: TopP = 1.0
    top_k: Count = ALL
    alg_temp: Temperature = 0.0
    """0 takes the positions of the lowest entropy."""

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def looks(self) -> bool:
        return True

    @property
    def needs(self) -> Needs:
        return Needs(log_probs=True, noise=self.alg_temp > 0)

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        assert view.log_probs is not None
        step = torch.zeros_like(view.step) if state is None else torch.where(view.step == 0, 0, state)
        count, step = self._count(view.eligible.sum(-1), step)
        p = self._filtered(view.log_probs[view.eligible].double())
        spread = torch.zeros_like(view.log_probs[..., 0], dtype=torch.double)
        spread[view.eligible] = (p * (p + 1e-10).log()).sum(-1)
        if self.alg_temp > 0:
            spread = spread / self.alg_temp - (-view.noise.log()).log()
        return Decision(take_best(spread, view.eligible, count)), step + 1

    def _count(self, left: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Masked positions (B,) and the next step (B,) -> the positions to reveal, and the step that reveals them."""
        times = torch.linspace(1, 1e-3, self.steps + 1, dtype=torch.double, device=left.device)
        share = 1 - times[1:] / times[:-1]
        share[-1] = 1.0  # the last step reveals all
        counts = (left[:, None] * share + 1e-9).long()
        later = torch.arange(self.steps, device=left.device) >= step[:, None]
        busy = ((counts > 0) & later).byte().argmax(-1)  # the last step at the latest
        busy = torch.maximum(busy, step.clamp(max=self.steps - 1))
        return counts.gather(1, busy[:, None]).squeeze(1), busy

    def _filtered(self, log_probs: Tensor) -> Tensor:
        """Clean log-probabilities (N, V) -> the probabilities that tokens are drawn from."""
        log_probs = log_probs / self.temperature if self.temperature > 0 else log_probs
        if self.top_p < 1:
            ordered, ids = log_probs.sort(dim=-1, descending=True, stable=True)
            total = ordered.softmax(-1).cumsum(-1)
            out = (total - ordered.softmax(-1)) > self.top_p
            log_probs = log_probs.masked_fill(torch.zeros_like(out).scatter(-1, ids, out), -torch.inf)
        if self.top_k < log_probs.shape[-1]:
            least = log_probs.topk(self.top_k, -1).values[:, -1:]
            log_probs = log_probs.masked_fill(log_probs < least, -torch.inf)
        return log_probs.softmax(-1)
