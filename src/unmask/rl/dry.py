"""A dry run: every part of a training or an evaluation once, with a tiny random model of the family.

The published model itself is not needed. Where the problems of the task are not there, a few of our own stand in for
them, in the published layout; answers are shorter. The scores of the random model are all 0, from which nothing can be
learned: after the verifier was called, drawn scores take their place.
"""

__all__ = ["Measured", "PairHours", "Walk", "estimate", "measure", "real_network", "walk"]

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from unmask.config import to_path
from unmask.disk.folders import latest
from unmask.disk.json import read_json
from unmask.errors import CheckpointError, RequestError
from unmask.hf.names import downloaded, is_name, locate
from unmask.model.load import stored_settings
from unmask.model.settings import TransformerSettings
from unmask.model.zoo.read import read_model
from unmask.model.zoo.tiny import PUBLISHED, Published, published_network, write_tiny
from unmask.policies.threshold import Threshold
from unmask.rl.collect import LEARNER, InProcess
from unmask.rl.learner import Learner, RoundReport
from unmask.rl.loop import DIALS, ValidationResult, fit
from unmask.rl.rollout import experts, log_prob
from unmask.rl.session import open_learning
from unmask.rl.settings import LearnRun, LearnSettings
from unmask.run.loop import Listener
from unmask.run.machine import DtypeName
from unmask.solve.problems import most_holes
from unmask.solve.settings import Setting, block_sizes, settings_of
from unmask.solve.sweep import open_bench, stamps, sweep
from unmask.tasks.base import Example, Task, Verdict
from unmask.tasks.registry import dry_task
from unmask.text.published import read_vocabulary

_PROBLEMS, _GROUP = 2, 2


@dataclass(frozen=True, slots=True)
class Walk:
    """What a dry run of a training did."""

    network: str
    """The network that decoded."""
    rollouts: int
    passes: float
    """Mean passes of a rollout."""
    prompt: int
    """Most tokens of a prompt, by the tokenizer that was used."""
    parameters: int
    """Of the policy."""
    changed: bool
    """Whether the update changed the policy."""
    checkpoint_bytes: int
    settings: int
    """Settings that were measured afterwards."""
    seconds: float


@dataclass(frozen=True, slots=True)
class PairHours:
    """What a pair of a mixture will take, in processor hours on this machine."""

    pair: str
    rules: float
    """Comparing the heuristics."""
    warm: float
    rounds: float
    validations: float
    calibration: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.rules + self.warm + self.rounds + self.validations + self.calibration


@dataclass(frozen=True, slots=True)
class Measured:
    """What a dry run of an evaluation did."""

    network: str
    settings: int
    problems: int
    passes: float
    """Mean passes of a problem."""
    seconds: float


def real_network(checkpoint: str) -> tuple[Published | None, TransformerSettings | None]:
    """The name or folder of a model -> what is published of it, and its settings; None for what is no such model.

    Nothing is downloaded. Raises RequestError for the name of a model whose config.json is not known here.
    """
    if checkpoint in PUBLISHED and not to_path(checkpoint).exists():
        return PUBLISHED[checkpoint], published_network(PUBLISHED[checkpoint], checkpoint)[0]
    if not (to_path(checkpoint).exists() or is_name(checkpoint) or checkpoint in downloaded()):
        raise RequestError(
            f"There is no checkpoint at '{checkpoint}', and its config.json is not known here: give a folder, or one "
            f"of {', '.join(PUBLISHED)}."
        )
    record = read_model(locate(checkpoint))
    settings = stored_settings(record)
    if not isinstance(settings, TransformerSettings):
        return None, None
    if "family" not in record.config:
        return None, settings
    config = read_json(record.folder / "config.json", dict[str, Any], CheckpointError)
    return Published(config, read_vocabulary(record.folder).ids), settings


def walk(run: LearnRun, folder: Path) -> Walk:
    """The settings of a training and an empty folder -> what was done: each part of the training once, and a frontier.

    A checkpoint that is not published, such as a bundled model, decodes itself.
    """
    began = time.perf_counter()
    checkpoint, network = _decoding(run.checkpoint, folder)
    task = dry_task(run.task, ("train", "valid", "test"), folder / "problems")
    others: list[str] = []
    for n, pair in enumerate(run.pairs[1:]):
        (own := folder / f"pair-{n}").mkdir()
        others.append(
            f"{dry_task(pair.task, ('train', 'valid'), own / 'problems')}={_decoding(pair.checkpoint, own)[0]}"
        )
    small = replace(run, checkpoint=checkpoint, task=task, learn=_small(run), others=tuple(others))
    session = open_learning(small, out=folder / "run")
    with closing(session):
        learner = session.learner
        learner.worlds = tuple(world._replace(task=_Drawn(world.task)) for world in learner.worlds)
        learner.collector = InProcess(learner.run, learner.worlds)
        before = [parameter.detach().clone() for parameter in learner.params]
        listener = _Reports()
        fit(learner, listener)
        prompt = max(len(problem.row) - len(problem.holes) for world in learner.worlds for problem in world.train)
    point = latest(folder / "run")
    size = 0 if point is None else sum(file.stat().st_size for file in point.rglob("*") if file.is_file())
    blocks = ["full" if run.learn.block_size is None else str(run.learn.block_size)]
    policies = [f"learned:from={folder / 'run'}", "threshold:threshold=0.9"]
    measured = measure(checkpoint, task, policies, blocks, folder / "frontier", dtype=run.learn.dtype)
    return Walk(
        network,
        _PROBLEMS * _GROUP,
        listener.passes,
        prompt,
        sum(parameter.numel() for parameter in learner.params),
        not all(torch.equal(old, new) for old, new in zip(before, learner.params, strict=True)),
        size,
        measured.settings,
        time.perf_counter() - began,
    )


_TIMED = 64  # rows that are decoded to measure the seconds of a row


def estimate(run: LearnRun, folder: Path) -> list[PairHours]:
    """The settings of a mixture, and an empty folder -> the processor hours of each pair, by a few rows of each.

    The rows are decoded by the untrained policy, which takes more passes than a trained one, and by one rule.
    """
    s = run.learn
    least = replace(s, pool=_TIMED, valid_prompts=1, calibrated=1, threads=s.threads or 1)
    with closing(open_learning(replace(run, learn=least), out=folder / "timed")) as session:
        learner = session.learner
        return [_hours_of(learner, m, s) for m in range(len(learner.worlds))]


def _hours_of(learner: Learner, m: int, s: LearnSettings) -> PairHours:
    """A pair and the settings of the training -> its processor hours."""
    world = learner.worlds[m]
    rules = len(experts(min(world.length, s.block_size or world.length), learner.run.policy.hides > 0, s.fastest))
    alphas = len(s.alphas)
    pairs = len(learner.worlds)
    together = min(s.pairs, pairs, s.prompts)
    size = s.prompts * s.group // together
    by_rule, _ = _seconds_of_row(learner, m, Threshold(0.9), _TIMED)
    drawn, update = _seconds_of_row(learner, m, None, min(_TIMED, size))
    rows = {"rules": rules * s.scored * by_rule, "warm": s.warm / pairs * s.prompts * s.group * (by_rule + update)}
    rows["rounds"] = s.rounds * together / pairs * size * (drawn + s.inner * update)
    rows["validations"] = (1 + s.rounds // s.valid_every) * alphas * s.valid_prompts * by_rule
    dials = len(DIALS) * s.calibrated + (9 * alphas) * max(1, s.valid_prompts // 2)
    rows["calibration"] = dials * by_rule
    return PairHours(learner.pair(m).name, **{name: seconds / 3600 for name, seconds in rows.items()})


def _seconds_of_row(learner: Learner, m: int, rule: Threshold | None, count: int) -> tuple[float, float]:
    """A rule, or None for the learner -> processor seconds to decode a row of a pair, and of a row in an update."""
    who = LEARNER if rule is None else repr(rule)
    groups = [learner.attempts(m, learner.number(m, n), 0, (n,), who) for n in range(count)]
    began = time.process_time()
    rollout = learner.collect(groups)
    decoded = time.process_time()
    assert rollout.trajectory is not None
    log_prob(learner.network, rollout.trajectory)[0].sum().backward()
    ended = time.process_time()
    return (decoded - began) / count, (ended - decoded) / count


def measure(
    checkpoint: str,
    task: str,
    policies: Sequence[str],
    blocks: Sequence[str],
    folder: Path,
    *,
    temperature: float = 0.0,
    dtype: DtypeName = "float32",
) -> Measured:
    """A model, a task, policies and block sizes as of `unmask frontier` -> what was done, with two problems.

    Of the values of a policy's knob the one in the middle is measured. A published model has a tiny random one instead.
    """
    began = time.perf_counter()
    small, network = _decoding(checkpoint, folder)
    text = dry_task(task, ("test",), folder / "problems")
    arguments: dict[str, Any] = {"checkpoint": small, "task": text, "split": "test", "count": _PROBLEMS, "seed": 0}
    arguments |= {"temperature": temperature, "device": "cpu", "dtype": dtype}
    bench = open_bench(**arguments)
    length = most_holes(bench.problems)
    sizes = block_sizes(blocks, length)
    settings = [setting for name in policies for setting in _middle(name, sizes, length)]
    options: dict[str, Any] = {"record": folder / "outcomes.jsonl", "stamp": stamps(small, text)}
    outcomes = list(sweep(lambda **_: bench, arguments, settings, workers=1, **options))
    passes = [outcome.mean_passes for outcome in outcomes]
    seconds = time.perf_counter() - began
    return Measured(network, len(outcomes), len(bench.problems), sum(passes) / len(passes), seconds)


def _middle(policy: str, sizes: Sequence[int | None], length: int) -> Iterator[Setting]:
    """A policy and block sizes -> for each block size the setting in the middle of the values of its knob."""
    for size in sizes:
        settings = settings_of([policy], [size], length)
        yield settings[len(settings) // 2]


def _decoding(checkpoint: str, folder: Path) -> tuple[str, str]:
    """A model and a folder -> the model that decodes in a dry run, and what it is in words."""
    published, settings = real_network(checkpoint)
    if published is None:
        return checkpoint, "the model itself"
    assert settings is not None
    write_tiny(published, folder / "model")
    return str(folder / "model"), f"a tiny random {settings.family}"


def _small(run: LearnRun) -> Any:
    """The settings of a training -> the same for one round of two problems, on the processor."""
    return replace(
        run.learn,
        rounds=min(run.learn.rounds, 1),
        prompts=_PROBLEMS,
        group=_GROUP,
        alphas=run.learn.alphas[:2],
        warm=min(run.learn.warm, 1),
        warmup=0,
        scored=_PROBLEMS,
        pool=2 * _PROBLEMS,
        valid_prompts=1,
        valid_every=1,
        calibrated=1,
        save_every=1,
        batch=_PROBLEMS * _GROUP,
        device="cpu",
        threads=run.learn.threads or 1,
        track=(),
    )


class _Reports(Listener[RoundReport, ValidationResult]):
    """A listener that keeps the mean passes of a rollout."""

    passes = 0.0

    def stepped(self, report: RoundReport) -> None:
        self.passes = report.passes


class _Drawn:
    """A task whose verifier is called, and whose scores are drawn from the completion instead."""

    def __init__(self, task: Task) -> None:
        self._task = task

    @property
    def name(self) -> str:
        return self._task.name

    def examples(self, split: str, count: int, seed: int = 0) -> Sequence[Example]:
        return self._task.examples(split, count, seed)

    def pairs(self, split: str, count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
        return self._task.pairs(split, count, seed)

    def verify(self, example: Example, completion: str) -> Verdict:
        self._task.verify(example, completion)
        return Verdict(hashlib.sha256(completion.encode("utf-8", "replace")).digest()[0] / 255)
