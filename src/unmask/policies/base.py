"""The UnmaskingPolicy protocol: View -> Decision. Heuristics and learned networks implement it alike.

A policy gets a View and never the model, so that its input can be recorded and replayed. Shapes: B rows, L positions,
V tokens, D width of the network.
"""

__all__ = [
    "Decided",
    "Decision",
    "Needs",
    "State",
    "UnmaskingPolicy",
    "View",
    "decide",
    "needs_of",
    "pair_of",
    "parts_of",
    "plain_pair_of",
    "refuse_pairs",
    "take_best",
    "take_prefix",
]

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from unmask.batch import Checks
from unmask.errors import PluginError, RequestError, plugin_failure

State = Any  # what a policy gets back at its next call: a tensor or a tuple of tensors, batch first; None at the start


@dataclass(frozen=True, slots=True)
class Needs:
    """The optional fields of a View that a policy requires; a policy has it as an attribute `needs`."""

    top: int = 0
    """Number of the highest probabilities of each position in `View.top`."""
    log_probs: bool = False
    """The whole distribution of each position: V numbers each, so set it only where `top` does not suffice."""
    hidden: bool = False
    """The network's output at each position, before the vocabulary head."""
    mass: bool = False
    """`View.mass`."""
    written: bool = False
    """`View.fresh`: the vocabulary head runs at the written positions of the block too. No cache has these."""
    ahead: bool = False
    """`View.ahead`: the policy proposes candidate canvases (`Decision.candidates`). No cache has these."""
    attention: float = 0.0
    """`View.attention`: of this share of the layers, the last ones, at least one; 0: of none. No cache has it."""
    noise: bool = True
    """The uniforms of `View.noise`; without it they are nan, since a hash of every position takes time."""

    def __or__(self, other: "Needs") -> "Needs":
        """The union of two requirements."""
        return Needs(
            max(self.top, other.top),
            self.log_probs or other.log_probs,
            self.hidden or other.hidden,
            self.mass or other.mass,
            self.written or other.written,
            self.ahead or other.ahead,
            max(self.attention, other.attention),
            self.noise or other.noise,
        )


@dataclass(frozen=True, slots=True)
class View:
    """The input of a policy. Tensors are (B, L) where no other shape is stated.

    The features of an eligible position come from this pass; those of a written position stay as they were at the pass
    that wrote it. A policy with `looks = False` decides before the pass: for it, unwritten positions have features nan.
    """

    eligible: Tensor  # bool: may be revealed now
    masked: Tensor  # bool: still MASK, in this block or a later one
    written: Tensor  # bool: written by decoding, never the prompt
    erasable: Tensor  # bool: written positions of this block, which may be hidden again
    proposal: Tensor  # int64: the token that would be written
    confidence: Tensor  # clean probability of the proposal
    margin: Tensor  # best clean probability minus the second best
    entropy: Tensor  # of the clean distribution, in nats
    step: Tensor  # (B,) passes already spent in this block; 0 at its start
    total: Tensor  # (B,) positions that were eligible at the start of this block
    noise: Tensor  # float64 uniforms for the policy alone, new at each pass; nan where `Needs.noise` is False
    top: Tensor | None = None  # (B, L, k) the highest clean probabilities, descending; zero where not eligible
    log_probs: Tensor | None = None  # (B, L, V) clean; zero where not eligible
    hidden: Tensor | None = None  # (B, L, D)
    mass: Tensor | None = None  # what the model predicts for all tokens but MASK together (`denoiser.clean_mass`)
    fresh: Tensor | None = None
    """Clean probability of the token that this pass would write at each position of the block, written ones included;
    zero elsewhere. At written positions a masked model was not trained to predict: the figure is what its head says."""
    attention: Tensor | None = None
    """(B, L, L): how much the position of the second axis attends to that of the third, the mean over heads and layers;
    zero at padding."""
    hidings: Tensor | None = None  # int64: how often a position of this block was hidden again
    dial: Tensor | None = None  # (B,) from 0 (accurate) to 1 (fast); nan: the policy's own
    ahead: "tuple[View, ...] | None" = None
    """One View for each candidate canvas of the last decision, after this pass. In rows without that candidate nothing
    is eligible. The view itself has nan and zeros in rows whose canvas was a candidate of the last pass."""

    def keep(self, rows: Tensor) -> "View":
        """The view of the rows that an index or mask selects."""

        def selected(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(view.keep(rows) for view in value)
            return None if value is None else value[rows]

        return View(**{field.name: selected(getattr(self, field.name)) for field in fields(self)})

    def pick(self, picked: Tensor | None) -> "View":
        """In each row the view of the canvas (0) or of a candidate (1 ..): `picked` (B,) int64; None is all 0."""
        if picked is None or not self.ahead:
            return self
        rows = torch.arange(len(picked), device=picked.device)
        names = [field.name for field in fields(self) if isinstance(getattr(self, field.name), Tensor)]
        stacks = {name: torch.stack([getattr(view, name) for view in (self, *self.ahead)]) for name in names}
        return replace(self, **{name: stack[picked, rows] for name, stack in stacks.items()}, ahead=None)


class Decision(NamedTuple):
    """The output of a policy."""

    reveal: Tensor
    """(B, L) bool, within eligible. Where a row has none, the loop reveals the eligible position with the highest
    `fallback`, or without `fallback` the position with the highest confidence."""
    time: Tensor | None = None
    """(B,) the time passed to the network, from a policy that decides before the pass (see Denoiser.hidden)."""
    remask: Tensor | None = None
    """(B, L) bool, within erasable: positions that are hidden again after the pass."""
    done: Tensor | None = None
    """(B,) bool: whether a row has finished its block. Policies that hide tokens again, or for which a pass may reveal
    nothing, return it at every pass, others never. With it an empty `reveal` stays empty where there is no `fallback`,
    and needs no pass if it was decided before the pass."""
    fallback: Tensor | None = None
    """(B, L) scores, finite where eligible; used where `reveal` is empty."""
    picked: Tensor | None = None
    """(B,) int64: the candidate of `View.ahead`, from 1, that is the canvas now; 0 where none is. All else in a
    decision is then about this candidate and its View."""
    candidates: Tensor | None = None
    """(B, C, L) bool: of each candidate canvas the positions that are filled beyond this decision, with the proposals
    of the View; within what stays eligible. The next pass runs these canvases too, and `View.ahead` has their Views. A
    candidate without positions is not run; nor is the canvas itself where it was run and nothing is revealed."""
    log_prob: Tensor | None = None
    """(B,) log-probability of `reveal`, from a policy that samples; positions added by the loop do not count."""


class UnmaskingPolicy(Protocol):
    """View and state -> decision and new state.

    `state` is None at the first call and then the state that was returned last. A policy ignores the state of a row
    where `view.step == 0`.
    """

    @property
    def looks(self) -> bool:
        """Whether the decision depends on the model's output; true for a policy without this attribute, such as a plain
        function. If not, the pass runs after the decision, at its `time`, and the vocabulary head only at the positions
        that are revealed."""
        ...

    def __call__(self, view: View, state: State) -> tuple[Decision, State]: ...


def needs_of(policy: UnmaskingPolicy) -> Needs:
    """Policy -> its `needs`; the empty Needs where it has no such attribute."""
    return getattr(policy, "needs", Needs())


def refuse_pairs(denoiser: object, policy: UnmaskingPolicy, *, joint: bool) -> None:
    """Raise RequestError for a policy that cannot go with the cache, the soft masks or a constraint of a decoder.

    `joint`: whether a constraint is one that several tokens can break together.
    """
    needs = needs_of(policy)
    if (needs.written or needs.ahead or needs.attention) and hasattr(denoiser, "recall"):
        reads = "new predictions at written positions" if needs.written else "predictions for candidate canvases"
        reads = "the attention of whole rows" if needs.attention else reads
        raise RequestError(
            f"{policy!r} reads {reads}, and a cache computes none there; leave out the cache, or choose another policy."
        )
    if needs.ahead and getattr(denoiser, "soft", 0):
        raise RequestError(
            f"{policy!r} runs candidate canvases, for which there is no feedback of an earlier pass; "
            "turn feedback off, or choose another policy."
        )
    if needs.ahead and joint:
        raise RequestError(
            f"{policy!r} fills candidate canvases with several tokens at once, which nobody checks against the "
            "pattern; leave out the pattern, or choose another policy."
        )


def pair_of(answer: object) -> tuple[Decision, State]:
    """What a policy returned -> the same, decision and state. Raises TypeError for what is no such pair."""
    match answer:
        case (Decision() as decision, after) if not isinstance(answer, Decision):
            return decision, after
        case _:
            raise TypeError(f"it returned {type(answer).__name__}; return a pair, (Decision(reveal), state or None)")


def plain_pair_of(wrapper: str, inner: UnmaskingPolicy, view: View, state: State) -> tuple[Decision, State]:
    """A policy inside a wrapper, and what it is called with -> its decision and state.

    Raises RequestError where it ends its blocks itself, hides tokens again or looks ahead: a wrapper that changes its
    decision cannot keep that right.
    """
    decision, after = pair_of(inner(view, state))
    if decision.done is not None or decision.remask is not None or decision.candidates is not None:
        raise RequestError(
            f"'{wrapper}' cannot go with {inner!r}, which ends its blocks itself, hides tokens again or looks ahead; "
            "choose a policy that only reveals."
        )
    return decision, after


def take_best(score: Tensor, eligible: Tensor, count: Tensor) -> Tensor:
    """Scores (B, L) -> the `count` (B,) eligible positions of each row with the best scores; (B, L) bool.

    Of equal scores the left position is taken.
    """
    score = score.masked_fill(~eligible, -torch.inf)
    if score.device.type == "cpu" and score.dtype.is_floating_point and int(count.max()) <= 1:  # without a sort
        best = torch.zeros_like(eligible).scatter_(-1, score.argmax(-1, keepdim=True), count[:, None] > 0)
        return best & eligible
    order = score.argsort(dim=-1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        -1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order)
    )
    return (rank < count[:, None]) & eligible


def take_prefix(score: Tensor, eligible: Tensor, keep: Callable[[Tensor], Tensor], *features: Tensor) -> Tensor:
    """Scores (B, L) -> the longest run of eligible positions, best score first, that `keep` accepts; (B, L) bool.

    `keep` gets each of `features` (B, L), sorted by score, and returns (B, L) bool: the run ends at the first False.
    The best position is always in. Of equal scores the left position is first; ineligible positions are last.
    """
    order = score.masked_fill(~eligible, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    good = keep(*(feature.gather(-1, order) for feature in features)) & eligible.gather(-1, order)
    run = good.cumprod(-1).bool()
    run[:, 0] = eligible.any(-1)
    return torch.zeros_like(eligible).scatter_(-1, order, run)


Decided = tuple[Decision, State, Tensor, Tensor]
"""Decision and state of a policy, what is really revealed (B, L), and the rows that the loop rescued (B,)."""


def decide(policy: UnmaskingPolicy, view: View, before: State, surest: Tensor, checks: Checks) -> Decided:
    """Policy, View and state -> its decision, checked, with the eligible position of the highest score `surest` (B, L)
    revealed where it reveals nothing.

    Raises PluginError, with the policy and its own message, where a policy of somebody else fails or returns what is no
    decision; on a GPU what the values of a decision break is raised by `checks.read`.
    """
    with plugin_failure(f"The policy {policy!r}") if _foreign(policy) else nullcontext():
        decision, after = pair_of(policy(view, before))
        if decision.reveal.shape != view.eligible.shape or decision.reveal.dtype != torch.bool:
            raise TypeError(f"reveal has to be bool {tuple(view.eligible.shape)}, as view.eligible")
        chosen = view.pick(decision.picked)
        if decision.picked is not None:
            _check_picked(policy, view, chosen, decision.picked, checks)
        return decision, after, *_settle(policy, chosen, decision, surest, checks)


def _settle(
    policy: UnmaskingPolicy, view: View, decision: Decision, surest: Tensor, checks: Checks
) -> tuple[Tensor, Tensor]:
    """What is really revealed: the decision, and in rows where that is nothing the surest eligible position."""
    revealed, stuck = decision.reveal, ~decision.reveal.any(-1)
    if decision.done is not None and decision.fallback is None:
        stuck = torch.zeros_like(stuck)
    elif stuck.device.type != "cpu" or bool(stuck.any()):  # a look that costs nothing on a CPU
        score = view.confidence if decision.picked is not None else surest
        score = score if decision.fallback is None else decision.fallback
        revealed = revealed | take_best(score, view.eligible, stuck.long())
    _check(policy, view, decision, revealed, checks)
    return revealed, stuck


def _check_picked(policy: UnmaskingPolicy, view: View, chosen: View, picked: Tensor, checks: Checks) -> None:
    """Refuse a candidate that the last pass did not run: one that fills nothing beyond the canvas."""
    error = PluginError(f"{policy!r} picked a candidate that was not run; a policy picks among view.ahead.")
    checks.refuse(((picked != 0) & ~(chosen.written & ~view.written).any(-1)).any(), lambda: error)


def _check(policy: UnmaskingPolicy, view: View, decision: Decision, revealed: Tensor, checks: Checks) -> None:
    """Refuse a decision outside of what the View allows; `revealed` (B, L) is what is really revealed."""

    def broken(what: str) -> Callable[[], PluginError]:
        return lambda: PluginError(f"{policy!r} {what}.")

    checks.refuse(
        (decision.reveal & ~view.eligible).any(),
        broken("revealed positions that were not eligible; a policy picks among view.eligible"),
    )
    if decision.remask is not None:
        checks.refuse(
            (decision.remask & ~view.erasable).any(),
            broken("hid positions again that it may not; a policy picks among view.erasable"),
        )
    if decision.candidates is not None:
        open_ = (view.eligible & ~decision.reveal)[:, None]
        checks.refuse(
            (decision.candidates & ~open_).any(),
            broken("proposed candidates with positions that are not open; a candidate fills what stays eligible"),
        )
    if decision.done is not None:
        left = (view.eligible & ~revealed).any(-1) | (decision.remask is not None and decision.remask.any(-1))
        checks.refuse(
            (decision.done & left).any(), broken("is done with a block in which a MASK is left; reveal it first")
        )


def parts_of(policy: object) -> list[object]:
    """A policy -> it, and the policies inside it and inside those, as fields of dataclasses."""
    inside = [getattr(policy, field.name) for field in fields(policy)] if is_dataclass(policy) else []
    return [policy, *(part for child in inside if hasattr(child, "looks") for part in parts_of(child))]


def _foreign(policy: object) -> bool:
    """Whether a policy, or one inside it, is not of this library; a fault of our own keeps its traceback."""
    return any(not type(part).__module__.startswith("unmask.") for part in parts_of(policy))
