"""Policies and problems -> rollouts: decoded rows with their scores, and the trajectory of all decoding passes.

A trajectory holds the inputs of the policy network and its actions, and nothing of the denoiser, so that the
log-probabilities of all passes can be computed again in one batch. The module also has the experts, heuristics that a
policy imitates in its warm start or that join its groups (arXiv:2512.09106, appendix F), and the world of a training:
the frozen denoiser and the problems with their verifier. Shapes: R rows, N passes of all rows, A positions, as many as
the row with the most positions has to fill.
"""

__all__ = [
    "Expert",
    "Leftmost",
    "Rollout",
    "Trajectory",
    "World",
    "experts",
    "joined",
    "keep_passes",
    "log_prob",
    "make_world",
    "merged",
    "roll_out",
    "trajectory_bytes",
    "typed_form",
]

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.api import Model
from unmask.batch import ceil_div
from unmask.decode.loop import Decoder, Step
from unmask.decode.options import RowOptions
from unmask.decode.rows import decode_rows
from unmask.denoiser import Denoiser
from unmask.noise import derive
from unmask.policies.base import Decision, Needs, State, UnmaskingPolicy, View, needs_of
from unmask.policies.hiding import RCR, Saber
from unmask.policies.learned.network import (
    FilterNetwork,
    Observation,
    PolicyNetwork,
    bernoulli_log_prob,
    plackett_luce_log_prob,
    plackett_luce_rank,
)
from unmask.policies.learned.policy import Learned, changeable, observe
from unmask.policies.prefix import Prefix
from unmask.policies.threshold import Threshold
from unmask.solve.problems import Problem, fitting, most_holes, scored
from unmask.tasks.base import Task, examples_of
from unmask.tasks.registry import make
from unmask.text.tokenizer import Tokenizer


class Trajectory(NamedTuple):
    """N passes of all rows."""

    seen: Observation
    eligible: Tensor  # (N, A) bool: may be revealed, or hidden again by a policy that can
    action: Tensor  # (N, A) int64: 0 stays as it is, else revealed or hidden again; for a ranking 1, 2, ... in order
    log_prob: Tensor  # (N,) of the action under the policy that drew it
    row: Tensor  # (N,) int64, the row of the pass


def trajectory_bytes(trajectory: Trajectory) -> int:
    """A trajectory -> its size in memory in bytes."""
    return sum(part.nbytes for part in (*trajectory.seen, *trajectory[1:]))


class Rollout(NamedTuple):
    """R decoded rows with the scores of the verifier."""

    trajectory: Trajectory | None
    scores: Tensor  # (R,)
    passes: Tensor  # (R,)
    lengths: Tensor  # (R,) positions that were to fill
    decode_seconds: float  # of all processes together
    judge_seconds: float
    rows: list[list[int]]  # the decoded tokens, template included


def roll_out(
    denoiser: Denoiser,
    policy: UnmaskingPolicy,
    task: Task,
    problems: Sequence[Problem],
    tokenizer: Tokenizer,
    seeds: Sequence[int],
    dials: Sequence[float],
    *,
    learner: Learned,
    record: bool = True,
    block_size: int | None = None,
    device: torch.device,
    batch: int = 256,
) -> Rollout:
    """Decode problems greedily with `policy`, the learner itself or an expert -> scores, passes and the trajectory.

    With `record` the trajectory has the inputs of the network of `learner` in each pass; dials have to be at most
    `TRAINED_DIAL` then, because above it the log-probability of an action is not that of the network.
    """
    start = time.perf_counter()
    chosen = policy if policy is learner else Expert(policy, learner.needs)
    decoder = Decoder(denoiser, chosen, 0.0, block_size=block_size)
    rows = [problem.row for problem in problems]
    stream = decode_rows(
        decoder, rows, seeds, pad_id=tokenizer.pad_id, batch=batch, device=device, options=RowOptions(dial=dials)
    )
    parts: list[Trajectory] = []
    while True:
        try:
            snapshot = next(stream)
        except StopIteration as end:
            filled = end.value
            break
        if record:
            rows_of_batch = torch.tensor(snapshot.rows, device=device)
            parts.append(_trajectory(snapshot.step, rows_of_batch[snapshot.step.rows], learner))
    middle = time.perf_counter()
    scores = scored(task, problems, [row.tokens for row in filled], tokenizer)
    return Rollout(
        joined(parts) if record else None,
        torch.tensor(scores, dtype=torch.float32, device=device),
        torch.tensor([row.passes for row in filled], dtype=torch.float32, device=device),
        torch.tensor([len(problem.holes) for problem in problems], dtype=torch.float32, device=device),
        middle - start,
        time.perf_counter() - middle,
        [row.tokens for row in filled],
    )


def merged(parts: Sequence[tuple[Tensor, Rollout]]) -> Rollout:
    """Rollouts with the places of their rows among R rows in all, which are disjoint -> the rollout of all rows.

    Its passes are in the order of the rows, and those of a row in the order of time, however the rows were divided.
    """
    order = torch.cat([rows for rows, _ in parts]).argsort()
    scores, passes, lengths = (
        torch.cat([getattr(part, name) for _, part in parts])[order] for name in ("scores", "passes", "lengths")
    )
    moved = [part.trajectory._replace(row=rows[part.trajectory.row]) for rows, part in parts if part.trajectory]
    decode, judge = (sum(getattr(part, name) for _, part in parts) for name in ("decode_seconds", "judge_seconds"))
    unordered = [row for _, part in parts for row in part.rows]
    rows = [unordered[n] for n in order.tolist()]
    trajectory = None
    if moved:
        trajectory = joined(moved)
        trajectory = keep_passes(trajectory, trajectory.row.argsort(stable=True))
    return Rollout(trajectory, scores, passes, lengths, decode, judge, rows)


def _trajectory(step: Step, row: Tensor, learner: Learned) -> Trajectory:
    """One pass of the decoding loop and the row of each view (N,) -> its trajectory."""
    view, decision = step.view, step.decision
    assert view.dial is not None
    seen = observe(view, learner.settings, learner.cost(view.dial))
    open_ = changeable(view, learner.settings)
    action = (decision.reveal if decision.remask is None else decision.reveal | decision.remask & open_).long()
    if learner.settings.head == "plackett-luce":
        if decision.log_prob is None:  # an expert's set is ranked by confidence
            action = plackett_luce_rank(view.confidence, decision.reveal, None) * decision.reveal
        else:
            with torch.no_grad():
                logits = learner.logits(view) / learner.temperature
            action = plackett_luce_rank(logits, view.eligible, view.noise if learner.sample else None)
    log_prob = torch.zeros(len(row), device=row.device) if decision.log_prob is None else decision.log_prob
    return Trajectory(seen, open_.gather(1, seen.positions), action.gather(1, seen.positions), log_prob, row)


def joined(parts: Sequence[Trajectory]) -> Trajectory:
    """Trajectories of different widths -> one trajectory, without the columns in which no row has a position."""
    width = max(int(part.seen.present.sum(-1).max()) for part in parts)

    def padded(x: Tensor) -> Tensor:
        x = x[:, :width]
        return torch.cat([x, x.new_zeros(len(x), width - x.shape[1], *x.shape[2:])], 1)

    def observed(name: str) -> Tensor:
        return torch.cat([padded(getattr(part.seen, name)) for part in parts])

    time, cost = (torch.cat([getattr(part.seen, name) for part in parts]) for name in ("time", "cost"))
    return Trajectory(
        Observation(observed("features"), observed("state"), observed("present"), time, cost, observed("positions")),
        torch.cat([padded(part.eligible) for part in parts]),
        torch.cat([padded(part.action) for part in parts]),
        torch.cat([part.log_prob for part in parts]),
        torch.cat([part.row for part in parts]),
    )


def keep_passes(trajectory: Trajectory, which: Tensor) -> Trajectory:
    """A trajectory and a mask or indices of passes -> the trajectory of these passes."""
    seen = Observation(*(part[which] for part in trajectory.seen))
    return Trajectory(
        seen, trajectory.eligible[which], trajectory.action[which], trajectory.log_prob[which], trajectory.row[which]
    )


def log_prob(
    network: PolicyNetwork | FilterNetwork, trajectory: Trajectory, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """A trajectory -> log-probabilities (N,) of its actions under the current network, and the logits (N, A)."""
    logits = network(trajectory.seen).float() / temperature
    if network.settings.head == "plackett-luce":
        return plackett_luce_log_prob(logits, trajectory.eligible, trajectory.action), logits
    return bernoulli_log_prob(logits, trajectory.eligible, trajectory.action > 0), logits


_TOKENS = (1, 2, 3, 4, 6)  # tokens a pass of rules that hide again
_THRESHOLDS = (0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.998, 0.9995)


@dataclass(frozen=True, slots=True)
class Leftmost:
    """`inner` within the leftmost unfinished run of `size` positions to fill, on a canvas without blocks.

    It reveals what `inner` reveals in blocks, so that a policy of the whole canvas can imitate blocks.
    """

    inner: UnmaskingPolicy
    size: int

    @property
    def looks(self) -> bool:
        return True

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        fillable = view.masked | view.written
        block = (fillable.long().cumsum(-1) - 1).div(self.size, rounding_mode="floor")
        first = torch.where(view.eligible, block, block.shape[-1]).amin(-1, keepdim=True)
        return self.inner(replace(view, eligible=view.eligible & (block == first)), state)


@dataclass(frozen=True, slots=True)
class Expert:
    """`inner`, with views that also have what a learner needs."""

    inner: UnmaskingPolicy
    learner_needs: Needs

    @property
    def looks(self) -> bool:
        return True

    @property
    def needs(self) -> Needs:
        return needs_of(self.inner) | self.learner_needs

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        return self.inner(view, state)


def typed_form(expert: UnmaskingPolicy) -> str:
    """One of `experts` -> the option values that give the same policy on the command line.

    Leftmost blocks of a whole canvas are the blocks of --block-size.
    """
    inner, blocks = (expert.inner, f" --block-size {expert.size}") if isinstance(expert, Leftmost) else (expert, "")
    if isinstance(inner, Saber):
        return f"saber:least={inner.least}"
    if isinstance(inner, RCR):
        return f"rcr:steps={inner.steps}"
    assert isinstance(inner, Threshold | Prefix)
    return f"{type(inner).__name__.lower()}:threshold={inner.threshold:g}{blocks}"


def experts(length: int, hides: bool = False, fastest: bool = False) -> list[UnmaskingPolicy]:
    """Number of positions to fill -> the experts.

    Thresholds on confidence over the whole canvas, over its leftmost quarter and eighth, and over a prefix; for a
    policy that hides tokens again also Saber and RCR; with `fastest` also the rule that writes everything at once.
    """
    sizes = sorted({max(1, round(length / share)) for share in (4, 8)} - {length}, reverse=True)
    rules = [Threshold(threshold) for threshold in (0.0, *_THRESHOLDS)[not fastest :]]
    blocks = [Leftmost(rule, size) for size in sizes for rule in rules]
    steps = sorted({ceil_div(length, tokens) for tokens in _TOKENS})
    hiding = [*(Saber(least) for least in _TOKENS), *(RCR(count) for count in steps)] if hides else []
    return [*rules, *blocks, *(Prefix(threshold) for threshold in _THRESHOLDS), *hiding]


class World(NamedTuple):
    """A frozen denoiser, problems to train on and others to validate with."""

    denoiser: Denoiser
    task: Task
    tokenizer: Tokenizer
    train: list[Problem]
    valid: list[Problem]
    device: torch.device

    @property
    def length(self) -> int:
        """L, the most positions that a problem has to fill."""
        return most_holes(self.train)


def make_world(model: Model, checkpoint: str, task: str, *, train: int, valid: int, seed: int) -> World:
    """A denoiser, its name, a task by name and numbers of problems -> the world.

    Raises RequestError if a problem does not fit the denoiser: the few of validation are made before the many to train
    on, so that this does not take long.
    """
    chosen = make(task)

    def fitted(split: str, count: int, number: int) -> list[Problem]:
        examples = examples_of(chosen, split, count, derive(seed, number))
        return fitting(chosen, examples, model.tokenizer, model.window, checkpoint, model.defaults.chat)

    validating = fitted("valid", valid, 1)
    training = fitted("train", train, 0)
    return World(model.denoiser, chosen, model.tokenizer, training, validating, model.device)
