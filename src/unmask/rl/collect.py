"""A policy and attempts at problems -> their rollouts, wherever they are decoded: one protocol, four implementations.

The denoiser is frozen, and every process that decodes loads it once. The policy, some 90 kB, travels with each call, so
that no process is ever behind. What is given away is a whole group, all attempts at one problem; what comes back is put
in the order of problem and attempt. The seed of an attempt belongs to it and not to a process. Therefore the rollouts
are the same in this process (`InProcess`), in a pool of worker processes or actors of Ray (`Pooled`), and in the
processes of torchrun (`Ranks`); and work that is lost with a process is done again in another one.

Policies, attempts and rollouts travel as JSON and safetensors. Shapes: R rows, N passes.
"""

__all__ = [
    "FINAL",
    "LEARNER",
    "Attempts",
    "Collector",
    "InProcess",
    "Pooled",
    "Ranks",
    "answer_calls",
    "policy_bytes",
    "rules_of",
]

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Protocol

import safetensors.torch
import torch
from torch import Tensor

from unmask.config import adapter, to_dict
from unmask.disk.json import parse_json
from unmask.errors import RunError
from unmask.policies.base import UnmaskingPolicy
from unmask.policies.learned.network import Observation, make_network
from unmask.policies.learned.policy import Learned
from unmask.policies.learned.settings import PolicySettings
from unmask.rl.final import label_final
from unmask.rl.rollout import Rollout, Trajectory, World, experts, merged, roll_out
from unmask.rl.settings import LearnRun
from unmask.run.parallel import Group
from unmask.run.workers import Pool

LEARNER = ""
"""Who decodes: the policy that is in training. Else the `repr` of a rule, or FINAL."""
FINAL = "final text"
"""The final text decodes, so that actions are the labels of Learn2PD."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """The attempts at one problem, all by one policy: the smallest piece of work that is given away."""

    pair: int
    """Index of the pair of a denoiser and a task."""
    problem: int
    """Index among the training problems of the pair, or among the validation problems."""
    dial: float
    seeds: tuple[int, ...]
    """The seed of each attempt."""
    who: str = LEARNER
    valid: bool = False
    """Whether the problem is one of validation."""


class Collector(Protocol):
    """Where attempts are decoded."""

    def collect(self, policy: bytes, groups: Sequence[Attempts], *, record: bool = True) -> Rollout:
        """A policy (`policy_bytes`) and groups of attempts -> the rollouts, in the order of the groups.

        With `record` they have a trajectory: the passes of a row follow each other, in the order of the rows.
        """
        ...


# ---- what travels ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Manner:
    """What a policy is, beside its weights."""

    settings: PolicySettings
    sample: bool
    temperature: float
    last: float | None


@dataclass(frozen=True, slots=True)
class _Call:
    """The groups of a call, and whether passes are recorded."""

    groups: tuple[Attempts, ...]
    record: bool


def policy_bytes(policy: Learned) -> bytes:
    """A policy -> a line of JSON with its settings, and its weights as safetensors."""
    manner = _Manner(policy.settings, policy.sample, policy.temperature, policy.last)
    weights = {name: value.detach().cpu().contiguous() for name, value in policy.network.state_dict().items()}
    return json.dumps(to_dict(manner)).encode() + b"\n" + safetensors.torch.save(weights)


def _policy_of(data: bytes, device: torch.device) -> Learned:
    """The inverse of `policy_bytes`."""
    line, _, weights = data.partition(b"\n")
    manner = parse_json(line.decode(), _Manner)
    network = make_network(manner.settings, 0)
    network.load_state_dict(safetensors.torch.load(weights))
    return Learned(network.to(device), sample=manner.sample, temperature=manner.temperature, last=manner.last)


def _call_bytes(groups: Sequence[Attempts], record: bool) -> bytes:
    """The groups of a call -> JSON."""
    return adapter(_Call).dump_json(_Call(tuple(groups), record))


_OF_ROWS = ("scores", "passes", "lengths")


def _rollout_bytes(rollout: Rollout) -> bytes:
    """A rollout -> safetensors."""
    tensors = {name: getattr(rollout, name) for name in _OF_ROWS}
    tensors["seconds"] = torch.tensor([rollout.decode_seconds, rollout.judge_seconds], dtype=torch.double)
    tensors["sizes"] = torch.tensor([len(row) for row in rollout.rows])
    tensors["tokens"] = torch.tensor([token for row in rollout.rows for token in row])
    if rollout.trajectory is not None:
        seen, *others = rollout.trajectory
        tensors |= {f"seen.{name}": value for name, value in seen._asdict().items()}
        tensors |= dict(zip(Trajectory._fields[1:], others, strict=True))
    return safetensors.torch.save({name: value.cpu().contiguous() for name, value in tensors.items()})


def _rollout_of(data: bytes, device: torch.device) -> Rollout:
    """The inverse of `_rollout_bytes`."""
    stored = safetensors.torch.load(data)
    tensors = {name: value.to(device) for name, value in stored.items()}
    trajectory = None
    if "row" in tensors:
        seen = Observation(*(tensors[f"seen.{name}"] for name in Observation._fields))
        trajectory = Trajectory(seen, *(tensors[name] for name in Trajectory._fields[1:]))
    ends = list(accumulate(stored["sizes"].tolist(), initial=0))
    tokens = stored["tokens"].tolist()
    rows = [tokens[start:end] for start, end in pairwise(ends)]
    scores, passes, lengths = (tensors[name] for name in _OF_ROWS)
    decode, judge = stored["seconds"].tolist()
    return Rollout(trajectory, scores, passes, lengths, decode, judge, rows)


def _assembled(groups: Sequence[Attempts], parts: Sequence[tuple[Sequence[int], Rollout]]) -> Rollout:
    """Rollouts of some of the groups each, with the indices of these -> the rollout of all, in the order of groups."""
    first = list(accumulate((len(group.seeds) for group in groups), initial=0))
    placed: list[tuple[Tensor, Rollout]] = []
    for numbers, rollout in parts:
        rows = [row for n in numbers for row in range(first[n], first[n + 1])]
        placed.append((torch.tensor(rows, device=rollout.scores.device), rollout))
    return merged(placed)


# ---- in this process -------------------------------------------------------------------------------------------------


def rules_of(run: LearnRun, worlds: Sequence[World]) -> dict[str, UnmaskingPolicy]:
    """A run and its worlds -> the heuristics of all of them, by their `repr`."""
    s, hides = run.learn, run.policy.hides > 0
    lengths = [min(world.length, s.block_size or world.length) for world in worlds]
    return {repr(rule): rule for length in lengths for rule in experts(length, hides, s.fastest)}


class InProcess:
    """Decodes in this process."""

    def __init__(self, run: LearnRun, worlds: Sequence[World]) -> None:
        """A world for each pair of the run."""
        self.run, self.worlds = run, worlds
        self._rules: Mapping[str, UnmaskingPolicy] = rules_of(run, worlds)

    def collect(self, policy: bytes, groups: Sequence[Attempts], *, record: bool = True) -> Rollout:
        """See `Collector`. The rows of a pair and a policy are decoded together."""
        rows = [(group, seed) for group in groups for seed in group.seeds]
        alike: dict[tuple[int, str], list[int]] = {}
        for n, (group, _) in enumerate(rows):
            alike.setdefault((group.pair, group.who), []).append(n)
        learned = _policy_of(policy, self.worlds[0].device)
        return merged(
            [
                (
                    torch.tensor(own, device=self.worlds[0].device),
                    self._decoded([rows[n] for n in own], learned, record),
                )
                for own in alike.values()
            ]
        )

    def _decoded(self, rows: Sequence[tuple[Attempts, int]], learned: Learned, record: bool) -> Rollout:
        """Attempts of one pair, and by one policy, each with its seed -> their rollout."""
        s, who, world = self.run.learn, rows[0][0].who, self.worlds[rows[0][0].pair]
        problems = [(world.valid if group.valid else world.train)[group.problem] for group, _ in rows]
        seeds, dials = [seed for _, seed in rows], [group.dial for group, _ in rows]
        options: dict[str, Any] = {"learner": learned, "block_size": s.block_size, "batch": s.batch}
        if who == FINAL:
            return label_final(world, problems, seeds, dials, **options)
        policy = learned if who == LEARNER else self._rules[who]
        options |= {"record": record, "device": world.device}
        return roll_out(world.denoiser, policy, world.task, problems, world.tokenizer, seeds, dials, **options)


# ---- in several processes --------------------------------------------------------------------------------------------


class Ranks:
    """Each process of torchrun decodes its share of the groups; all of them get the rollouts of all groups."""

    def __init__(self, inner: Collector, group: Group, device: torch.device) -> None:
        self._inner, self._group, self._device = inner, group, device

    def collect(self, policy: bytes, groups: Sequence[Attempts], *, record: bool = True) -> Rollout:
        """See `Collector`. All processes call it with the same groups."""
        shares = [range(rank, len(groups), self._group.size) for rank in range(self._group.size)]
        mine = [groups[n] for n in shares[self._group.rank]]
        data = _rollout_bytes(self._inner.collect(policy, mine, record=record)) if mine else b""
        gathered = self._group.gather_bytes(data, self._device)
        parts = [
            (numbers, _rollout_of(each, self._device)) for numbers, each in zip(shares, gathered, strict=True) if each
        ]
        return _assembled(groups, parts)


_PARTS = 2  # parts of a call for each process: of more, the last ones to end would wait less, and batches be smaller
_TRIES = 3  # processes that may end at the same part of a call
_SILENT = 2 * 3600.0  # seconds without any answer, after which a call is given up


class Pooled:
    """Worker processes or actors of Ray decode, each some of the groups; a part that is lost is done again."""

    def __init__(self, pool: Pool[bytes], device: torch.device) -> None:
        """The pool has the setup of `answer_calls`; it is closed by who opened it."""
        self._pool, self._device = pool, device

    def collect(self, policy: bytes, groups: Sequence[Attempts], *, record: bool = True) -> Rollout:
        """See `Collector`.

        Raises RunError if the processes of the same part end again and again, or none answers for hours.
        """
        count = min(len(groups), _PARTS * self._pool.count)
        numbers = {f"attempts {c + 1} of {count}": range(c, len(groups), count) for c in range(count)}
        waiting, tries = list(numbers), Counter[str]()
        parts: list[tuple[Sequence[int], Rollout]] = []
        heard = time.monotonic()
        while waiting or self._pool.at_work:
            while waiting and len(self._pool.at_work) < self._pool.count:
                name = waiting.pop(0)
                self._pool.give(name, (policy, _call_bytes([groups[n] for n in numbers[name]], record)))
            answers = self._pool.collect()
            heard = time.monotonic() if answers else heard
            if time.monotonic() - heard > _SILENT:
                raise RunError(
                    f"The processes that decode {', '.join(self._pool.at_work)} sent no answer for "
                    f"{_SILENT / 3600:g} hours: see what stopped them, and go on with --resume."
                )
            for answer in answers:
                tries[answer.name] += 1
                if answer.lost and not self._pool.redoes and tries[answer.name] < _TRIES:
                    waiting.insert(0, answer.name)
                else:
                    parts.append((numbers[answer.name], _rollout_of(answer.result(), self._device)))
        return _assembled(groups, parts)


def answer_calls(run: LearnRun, worlds: Sequence[World]) -> Callable[[tuple[bytes, bytes]], bytes]:
    """What a process of a pool loads once -> the function from a call, policy and groups, to a rollout."""
    local = InProcess(run, worlds)

    def answer(call: tuple[bytes, bytes]) -> bytes:
        policy, groups = call
        asked = parse_json(groups.decode(), _Call)
        return _rollout_bytes(local.collect(policy, asked.groups, record=asked.record))

    return answer
