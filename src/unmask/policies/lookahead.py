"""Rules that run candidate canvases beside the canvas: self-speculation, information gain, drafts that are verified.

They count a pass as one pass, and in `Canvas.row_passes` each candidate as a pass of its own.
"""

__all__ = ["WINO", "FreeDave", "InfoGain"]

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from unmask.errors import ConfigError, RequestError
from unmask.policies.base import (
    Decision,
    Needs,
    State,
    UnmaskingPolicy,
    View,
    needs_of,
    parts_of,
    plain_pair_of,
    take_best,
)
from unmask.policies.top_k import linear, quota
from unmask.ranges import Count, check_numbers, real

_GOLDEN = 0.6180339887498949


def _why_not(inner: UnmaskingPolicy) -> str:
    """Policy -> why a draft of it cannot be compared with it; empty where it can be."""
    needs = needs_of(inner)
    if needs.noise:
        return "it draws random numbers, so that a second pass over the same canvas decides otherwise"
    if needs.ahead or needs.written:
        return "it reads more than the masked positions of one canvas"
    if any(hasattr(part, "dial") for part in parts_of(inner)):
        return "a trained network reads the features of written tokens, which a draft has from an earlier pass"
    return ""


@dataclass(frozen=True, slots=True)
class FreeDave:
    """Reveals what `inner` reveals at temperature 0, in fewer passes: drafts of its next steps are checked in one pass.

    FreeDave, arXiv:2510.00294. `drafts` canvases run in a pass: the canvas, and what it becomes when `inner` is applied
    repeatedly to the predictions at hand. A draft is accepted where it equals the canvas before it after the step
    that `inner` takes with that canvas's own predictions; the longest accepted chain counts, and one exact step more.
    The paper drafts the most confident tokens of a rule with one token a pass; here the rule itself is applied, so that
    every deterministic rule can be inside that keeps no state and reads no features of written tokens. The tokens, and
    the steps in which they are revealed, are those of `inner`, and it takes at most as many passes; a pass computes up
    to `drafts` canvases. The log-probability of an accepted token is that of the pass that drafted it.

    Raises ConfigError for a rule whose drafts cannot be compared with it; a state shows itself at the first pass, and
    is a RequestError.
    """

    inner: UnmaskingPolicy
    drafts: Count = 4

    def __post_init__(self) -> None:
        check_numbers(self)
        if reason := _why_not(self.inner):
            raise ConfigError(f"freedave cannot go around {self.inner!r}: {reason}. Choose a deterministic rule.")

    @property
    def looks(self) -> bool:
        return True

    @property
    def greedy(self) -> bool:
        """Whether it works at temperature 0 alone."""
        return True

    @property
    def needs(self) -> Needs:
        return needs_of(self.inner) | Needs(ahead=True, noise=False)

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        before = torch.zeros_like(view.step) if state is None else torch.where(view.step > 0, state, 0)
        last, picked, taken = view, torch.zeros_like(view.step), before
        reveal, alive = self._step(view, before), torch.ones_like(view.step, dtype=torch.bool)
        for number, draft in enumerate(view.ahead or (), 1):
            alive = alive & _equals(draft, last, reveal)
            picked, taken = torch.where(alive, number, picked), taken + alive
            last = view.pick(picked)
            reveal = self._step(last, taken)
        candidates = self._drafts(last, reveal, taken + 1) if self.drafts > 1 else None
        return Decision(reveal, picked=picked, candidates=candidates), taken + 1

    def _step(self, view: View, taken: Tensor) -> Tensor:
        """What `inner` reveals as its step number `taken` (B,) of the block: at least one position."""
        decision, state = plain_pair_of("freedave", self.inner, replace(view, step=taken, ahead=None), None)
        if state is not None:
            raise RequestError(
                f"freedave cannot go around {self.inner!r}: it remembers earlier passes, which drafts do not have. "
                "Choose a deterministic rule without memory."
            )
        stuck = ~decision.reveal.any(-1)
        score = view.confidence if decision.fallback is None else decision.fallback
        return decision.reveal | take_best(score, view.eligible, stuck.long())

    def _drafts(self, view: View, reveal: Tensor, taken: Tensor) -> Tensor:
        """The positions that each of the next `drafts` - 1 steps fills beyond `reveal`; none if the block is full."""
        sets, filled = list[Tensor](), torch.zeros_like(reveal)
        open_ = view.eligible & ~reveal
        for number in range(self.drafts - 1):
            new = reveal | filled
            places = {"masked": view.masked & ~new, "written": view.written | new, "erasable": view.erasable | new}
            seen = replace(view, eligible=open_, **places)
            step = self._step(seen, taken + number)
            filled, open_ = filled | step, open_ & ~step
            sets.append(filled & open_.any(-1, keepdim=True))
        return torch.stack(sets, 1)


def _equals(draft: View, canvas: View, reveal: Tensor) -> Tensor:
    """Whether a draft is the canvas with `reveal` written by the canvas's own predictions, (B,) bool."""
    places = draft.written == (canvas.written | reveal)
    tokens = (draft.proposal == canvas.proposal) | ~draft.written
    return (places & tokens).all(-1) & draft.eligible.any(-1)


@dataclass(frozen=True, slots=True)
class InfoGain:
    """Compares `actions` sets of positions by a look-ahead pass, and reveals the one that leaves the least uncertainty.

    Info-Gain sampler, arXiv:2602.18176. An action is a set of as many positions as `steps` passes need (linear pace;
    without `steps` one position). The first has the positions of the highest confidence; the others are drawn without
    replacement, by confidence / `spread` plus Gumbel noise (the paper says that confidences are tempered by .1 to .2,
    and not whether their logarithms are: they are taken as they are). One pass runs the canvas after each action; the
    action with the highest -(sum of the entropies that it fills) - (mean entropy of what is then masked in the block)
    wins, and its pass serves the next choice. Where all masked positions are surer than `sure`, or one action completes
    the block, the first is taken without a look-ahead. The `actions` uniforms of a position are one uniform plus
    multiples of the golden ratio, modulo 1. Equal actions run once. Does not sample the joint law.
    """

    steps: Count | None = None
    actions: Count = 8
    spread: Annotated[float, real(0, above=True)] = 0.1
    sure: Annotated[float, real(0, 1)] = 0.9

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def looks(self) -> bool:
        return True

    @property
    def needs(self) -> Needs:
        return Needs(ahead=True)

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        before = torch.zeros_like(view.step) if state is None else torch.where(view.step > 0, state, 0)
        picked = self._best(view)
        chosen, taken = view.pick(picked), before + (picked > 0)
        left = chosen.eligible.sum(-1)
        steps = view.total.clamp(min=1) if self.steps is None else view.total.clamp(min=1, max=self.steps)
        count = quota(linear, view.total, left, torch.minimum(taken, steps - 1), steps)
        surest = torch.where(chosen.eligible, chosen.confidence, 1).amin(-1) >= self.sure
        direct = surest | (left <= count)
        first = take_best(chosen.confidence, chosen.eligible, count)
        candidates = self._actions(chosen, first, count) & ~direct[:, None, None]
        reveal = first & direct[:, None]
        done = ~(chosen.eligible & ~reveal).any(-1)
        return Decision(reveal, done=done, picked=picked, candidates=candidates), taken + direct

    def _best(self, view: View) -> Tensor:
        """The number of the best action that was run, from 1; 0 in rows without any, (B,)."""
        scores = [torch.full_like(view.step, -torch.inf, dtype=torch.double)]
        for after in view.ahead or ():
            filled = after.written & ~view.written
            spent = torch.where(filled, after.entropy, 0).double().sum(-1)
            rest = torch.where(after.eligible, after.entropy, 0).double().sum(-1) / after.eligible.sum(-1).clamp(min=1)
            scores.append(torch.where(after.eligible.any(-1), -spent - rest, -torch.inf))
        best = torch.stack(scores).max(0)
        return torch.where(best.values > -torch.inf, best.indices, 0)

    def _actions(self, view: View, first: Tensor, count: Tensor) -> Tensor:
        """The first action and others, (B, C, L) bool; what repeats an earlier one is empty."""
        sets = [first]
        for number in range(1, self.actions):
            uniform = (view.noise + number * _GOLDEN) % 1
            gumbel = -(-uniform.clamp(1e-300, 1 - 2**-53).log()).log()
            sets.append(take_best(view.confidence.double() / self.spread + gumbel, view.eligible, count))
        actions = torch.stack(sets, 1)
        equal = (actions[:, :, None] == actions[:, None]).all(-1)
        return actions & ~equal.tril(-1).any(-1)[..., None]


@dataclass(frozen=True, slots=True)
class WINO:
    """Drafts all positions surer than `draft`, and hides again those that the others do not confirm by `verify`.

    WINO, arXiv:2507.18578. A draft has at most min(max(.7 n, 5), `most`) of the n masked positions, and at least the
    surest. In the next pass each drafted token is verified: it stays if its probability given all the other tokens, the
    drafted ones included, is at least `verify`. At most all but one are hidden, the least probable first. The same pass
    drafts again. The paper appends a block of MASKs that do not see the token at their own position; here each drafted
    token is masked in a canvas of its own, which is exact and costs as many row-passes as there are drafted tokens. The
    paper verifies all tokens of the block in every pass, here each one in the pass after its draft. A draft of a single
    token is written without verification, as in the paper. Does not sample the joint law.
    """

    draft: Annotated[float, real(0, 1)] = 0.6
    verify: Annotated[float, real(0, 1)] = 0.9
    most: Count = 20

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def looks(self) -> bool:
        return True

    @property
    def needs(self) -> Needs:
        return Needs(log_probs=True, ahead=True, noise=False)

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        drafted = torch.zeros_like(view.eligible) if state is None else state & (view.step > 0)[:, None]
        picked, hidden = torch.zeros_like(view.step), torch.zeros_like(drafted)
        if view.ahead:
            picked = torch.where(drafted.any(-1), len(view.ahead), 0)
            proof = self._proof(view.ahead, drafted)
            hidden = take_best(-proof, drafted & (proof < self.verify), (drafted.sum(-1) - 1).clamp(min=0))
        chosen = view.pick(picked)
        size = (7 * chosen.eligible.sum(-1)).div(10, rounding_mode="floor").clamp(min=5).clamp(max=self.most)
        sure = take_best(chosen.confidence, chosen.eligible & (chosen.confidence > self.draft), size)
        best = take_best(chosen.confidence, chosen.eligible, torch.ones_like(size))
        sure = torch.where(sure.any(-1, keepdim=True), sure, best)
        alone = (sure.sum(-1) == 1)[:, None]
        reveal, later = sure & alone, sure & ~alone
        done = ~(chosen.eligible & ~reveal).any(-1) & ~hidden.any(-1)
        return Decision(reveal, remask=hidden, done=done, picked=picked, candidates=self._candidates(later)), later

    def _candidates(self, drafted: Tensor) -> Tensor:
        """Drafted positions (B, L) -> the draft without each of its tokens, and last the whole draft; (B, C, L)."""
        rank = drafted.long().cumsum(-1)
        numbers = torch.arange(1, min(self.most, drafted.shape[-1]) + 1, device=drafted.device)
        without = drafted[:, None] & (rank[:, None] != numbers[:, None])
        without = without & (numbers <= rank[:, -1:])[..., None]
        return torch.cat([without, drafted[:, None]], 1)

    def _proof(self, ahead: tuple[View, ...], drafted: Tensor) -> Tensor:
        """The probability of each drafted token given all the others, (B, L); 0 elsewhere."""
        rank, tokens = drafted.long().cumsum(-1), ahead[-1].proposal
        proof = torch.zeros_like(ahead[-1].confidence)
        for number, view in enumerate(ahead[:-1], 1):
            assert view.log_probs is not None
            known = tokens.clamp(max=view.log_probs.shape[-1] - 1)[..., None]
            probability = view.log_probs.gather(-1, known).squeeze(-1).exp()
            proof = torch.where(drafted & (rank == number), probability.to(proof.dtype), proof)
        return proof
