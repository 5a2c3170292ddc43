"""Rollouts: problems decoded by a policy, and a tape of what it saw and did.

The tape holds what the network is told and nothing of the denoiser, so that all passes are scored again in one batch.
Shapes: R rows, N passes of all of them, A positions, as many as the fullest row has to fill.

Heuristics as teachers: they warm a policy up, or join its groups (arXiv:2512.09106, appendix F).

What does not learn: the frozen denoiser, and problems with their verifier.
"""

__all__ = [
    "Expert",
    "Leftmost",
    "Rollout",
    "Tape",
    "World",
    "experts",
    "joined",
    "keep_passes",
    "load_world",
    "log_prob",
    "roll_out",
    "tape_bytes",
]

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.api import load
from unmask.decode.loop import Decoder, Step
from unmask.decode.rows import RowOptions, decode_rows
from unmask.denoiser import Denoiser
from unmask.noise import derive
from unmask.policies.base import Decision, Needs, State, UnmaskingPolicy, View, needs_of
from unmask.policies.learned.network import (
    Observation,
    PolicyNetwork,
    bernoulli_log_prob,
    plackett_luce_log_prob,
    plackett_luce_rank,
)
from unmask.policies.learned.policy import Learned, observe
from unmask.policies.prefix import Prefix
from unmask.policies.threshold import Threshold
from unmask.run.machine import DtypeName
from unmask.solve.problems import Problem, fitting, most_holes, scored
from unmask.tasks import make
from unmask.tasks.base import Task
from unmask.text.tokenizer import Tokenizer


class Tape(NamedTuple):
    """N passes, whatever row they belong to."""

    seen: Observation
    eligible: Tensor  # (N, A) bool
    action: Tensor  # (N, A) int64: 0 hidden, else revealed; of a ranking 1, 2, ... in order
    log_prob: Tensor  # (N,) of the action, when it was drawn
    row: Tensor  # (N,) int64, the row it belongs to


def tape_bytes(tape: Tape) -> int:
    """What a tape takes in memory."""
    return sum(part.nbytes for part in (*tape.seen, *tape[1:]))


class Rollout(NamedTuple):
    """R rows that were decoded and judged."""

    tape: Tape | None
    scores: Tensor  # (R,)
    passes: Tensor  # (R,)
    lengths: Tensor  # (R,) positions that were to fill
    decode_seconds: float
    judge_seconds: float


def roll_out(
    denoiser: Denoiser,
    policy: UnmaskingPolicy,
    task: Task,
    given: Sequence[Problem],
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
    """Decode problems greedily with `policy` (the learner itself, or an expert), and tape what `learner` would see.

    What is taped to be learned from has dials up to `TRAINED_DIAL`: beyond, likelihoods are not the network's.
    """
    began = time.perf_counter()
    chosen = policy if policy is learner else Expert(policy, learner.needs)
    decoder = Decoder(denoiser, chosen, 0.0, block_size=block_size)
    rows = [problem.row for problem in given]
    stream = decode_rows(
        decoder, rows, seeds, pad_id=tokenizer.pad_id, batch=batch, device=device, options=RowOptions(dial=dials)
    )
    parts: list[Tape] = []
    while True:
        try:
            snapshot = next(stream)
        except StopIteration as end:
            filled = end.value
            break
        if record:
            places = torch.tensor(snapshot.rows, device=device)
            parts.append(_taped(snapshot.step, places[snapshot.step.rows], learner))
    middle = time.perf_counter()
    scores = scored(task, given, [row.tokens for row in filled], tokenizer)
    return Rollout(
        joined(parts) if record else None,
        torch.tensor(scores, dtype=torch.float32, device=device),
        torch.tensor([row.passes for row in filled], dtype=torch.float32, device=device),
        torch.tensor([len(problem.holes) for problem in given], dtype=torch.float32, device=device),
        middle - began,
        time.perf_counter() - middle,
    )


def _taped(step: Step, row: Tensor, learner: Learned) -> Tape:
    view, decision = step.view, step.decision
    assert view.dial is not None
    seen = observe(view, learner.settings, learner.cost(view.dial))
    action = decision.reveal.long()
    if learner.settings.head == "plackett-luce":
        if decision.log_prob is None:  # an expert: by its confidence
            action = plackett_luce_rank(view.confidence, decision.reveal, None) * decision.reveal
        else:
            with torch.no_grad():
                logits = learner.logits(view) / learner.temperature
            action = plackett_luce_rank(logits, view.eligible, view.noise if learner.sample else None)
    nothing = torch.zeros(len(row), device=row.device)
    log_prob = nothing if decision.log_prob is None else decision.log_prob
    return Tape(seen, view.eligible.gather(1, seen.positions), action.gather(1, seen.positions), log_prob, row)


def joined(parts: Sequence[Tape]) -> Tape:
    """Tapes of different widths as one, without the columns in which no row has a position."""
    width = max(int(part.seen.present.sum(-1).max()) for part in parts)

    def wide(x: Tensor) -> Tensor:
        x = x[:, :width]
        return torch.cat([x, x.new_zeros(len(x), width - x.shape[1], *x.shape[2:])], 1)

    def every(name: str) -> Tensor:
        return torch.cat([wide(getattr(part.seen, name)) for part in parts])

    time, cost = (torch.cat([getattr(part.seen, name) for part in parts]) for name in ("time", "cost"))
    return Tape(
        Observation(every("features"), every("state"), every("present"), time, cost, every("positions")),
        torch.cat([wide(part.eligible) for part in parts]),
        torch.cat([wide(part.action) for part in parts]),
        torch.cat([part.log_prob for part in parts]),
        torch.cat([part.row for part in parts]),
    )


def keep_passes(tape: Tape, which: Tensor) -> Tape:
    """Some of the passes, by a mask or indices."""
    seen = Observation(*(part[which] for part in tape.seen))
    return Tape(seen, tape.eligible[which], tape.action[which], tape.log_prob[which], tape.row[which])


def log_prob(network: PolicyNetwork, tape: Tape, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """(N,) log-probabilities of the taped actions under the network as it is now, and the logits (N, A)."""
    logits = network(tape.seen).float() / temperature
    if network.settings.head == "plackett-luce":
        return plackett_luce_log_prob(logits, tape.eligible, tape.action), logits
    return bernoulli_log_prob(logits, tape.eligible, tape.action > 0), logits


_BARS = (0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.998, 0.9995)


@dataclass(frozen=True, slots=True)
class Leftmost:
    """`inner` within the leftmost unfinished run of `size` positions to fill, while the canvas stays open as a whole.

    What blocks do, seen from a policy that looks at everything: so it can be imitated where there are no blocks.
    """

    inner: UnmaskingPolicy
    size: int

    @property
    def looks(self) -> bool:
        return True

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        mine = view.masked | view.written
        block = (mine.long().cumsum(-1) - 1).div(self.size, rounding_mode="floor")
        first = torch.where(view.eligible, block, block.shape[-1]).amin(-1, keepdim=True)
        return self.inner(replace(view, eligible=view.eligible & (block == first)), state)


@dataclass(frozen=True, slots=True)
class Expert:
    """`inner`, with a View that has what a learner wants to see too."""

    inner: UnmaskingPolicy
    also: Needs

    @property
    def looks(self) -> bool:
        return True

    @property
    def needs(self) -> Needs:
        return needs_of(self.inner) | self.also

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        return self.inner(view, state)


def experts(length: int) -> list[UnmaskingPolicy]:
    """Thresholds on confidence over the whole canvas, over its leftmost quarter and eighth, and over a prefix."""
    sizes = sorted({max(1, round(length / share)) for share in (4, 8)} - {length}, reverse=True)
    rules = [Threshold(bar) for bar in _BARS]
    blocks = [Leftmost(rule, size) for size in sizes for rule in rules]
    return [*rules, *blocks, *(Prefix(bar) for bar in _BARS)]


class World(NamedTuple):
    """A denoiser, problems to train on and others to validate with."""

    denoiser: Denoiser
    task: Task
    tokenizer: Tokenizer
    train: list[Problem]
    valid: list[Problem]
    device: torch.device
    width: int  # D of the denoiser's hidden states

    @property
    def length(self) -> int:
        """The most positions that a problem has to fill."""
        return most_holes(self.train)


def load_world(
    checkpoint: str,
    task: str,
    *,
    train: int,
    valid: int,
    seed: int,
    device: str = "auto",
    dtype: DtypeName = "float32",
) -> World:
    """The bundled or saved denoiser and so many problems. Raises RequestError where a problem does not fit it."""
    model, chosen = load(checkpoint, device=device, dtype=dtype), make(task)
    sets = [
        fitting(chosen, chosen.examples(split, count, derive(seed, number)), model.tokenizer, model.window, checkpoint)
        for number, (split, count) in enumerate((("train", train), ("valid", valid)))
    ]
    return World(model.denoiser, chosen, model.tokenizer, sets[0], sets[1], model.device, model.network.width)
