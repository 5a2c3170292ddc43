"""A sweep: many settings over the same problems, in worker processes, with a record from which it can be continued.

Problems, seeds and verifier are the same for all settings, so that settings are compared problem by problem.
"""

__all__ = ["Bench", "Outcome", "open_bench", "recorded", "stamps", "sweep"]

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch

from unmask.api import load
from unmask.decode.loop import Decoder
from unmask.disk.files import atomic_text, explained
from unmask.disk.folders import locate_policy, reading
from unmask.disk.json import NotJson, json_lines
from unmask.errors import ConfigError
from unmask.hf.names import locate
from unmask.policies.registry import learned_names
from unmask.ranges import Natural, real
from unmask.run.machine import DtypeName
from unmask.run.workers import Pool, open_pool
from unmask.solve.problems import Problem, fitting, solve
from unmask.solve.settings import Setting
from unmask.tasks.base import Task, examples_of
from unmask.tasks.registry import fingerprint
from unmask.tasks.registry import make as make_task
from unmask.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Outcome:
    """The results of a setting: score and passes of each problem, in the order of the problems."""

    setting: Setting
    scores: list[Annotated[float, real(0, 1)]]
    passes: list[Natural]
    seconds: Annotated[float, real(0)]
    """Processor seconds for all problems together, with the verifier."""
    row_passes: list[Natural] = field(default_factory=list[int])
    """Canvases that went through the network for each problem, candidates included; empty in old records."""

    @property
    def accuracy(self) -> float:
        """Mean score."""
        return sum(self.scores) / len(self.scores)

    @property
    def mean_passes(self) -> float:
        """Mean number of forward passes of a problem."""
        return sum(self.passes) / len(self.passes)

    @property
    def mean_row_passes(self) -> float:
        """Mean number of canvases of a problem that went through the network."""
        return sum(self.row_passes or self.passes) / len(self.passes)


class Bench(NamedTuple):
    """What a worker needs to measure settings; each worker makes it once."""

    decoder: Callable[[Setting], Decoder]
    task: Task
    problems: list[Problem]
    tokenizer: Tokenizer
    seed: int
    device: torch.device
    batch: int = 256
    """Problems that go through the network at once; results do not depend on it."""


def _measurer(build: Callable[..., Bench], arguments: Mapping[str, Any]) -> Callable[[Setting], Outcome]:
    """Make the Bench, on one thread -> a function from a setting to its outcome."""
    torch.set_num_threads(1)
    return partial(_measure, build(**arguments))


def _measure(bench: Bench, setting: Setting) -> Outcome:
    """Decode and score all problems with a setting -> its outcome."""
    began = time.process_time()
    decoder = bench.decoder(setting)
    options: dict[str, Any] = {"device": bench.device, "seed": bench.seed, "batch": bench.batch}
    scores, passes, row_passes = solve(decoder, bench.task, bench.problems, bench.tokenizer, **options)
    return Outcome(setting, scores, passes, time.process_time() - began, row_passes)


def sweep(
    build: Callable[..., Bench],
    arguments: Mapping[str, Any],
    settings: Sequence[Setting],
    *,
    workers: int | None,
    ray: str | None = None,
    record: Path | None = None,
    stamp: Callable[[Setting], str] = lambda _: "",
) -> Iterator[Outcome]:
    """Settings -> their outcomes, in the order in which they finish; those in `record` (a .jsonl file) come first.

    `build(**arguments)` makes the Bench in each of `workers` processes (it has to be importable, its arguments
    picklable), or of as many actors of the Ray cluster at the address `ray`, None for one a GPU or processor; with one
    worker and without Ray it is made in this process. The record starts with the arguments; a recorded outcome is
    used only where its `stamp` equals the present stamp of its setting, and computed again elsewhere.
    Raises ConfigError for a record with other arguments.
    """
    known = recorded(record, arguments, settings, stamp)
    yield from (known[setting.key] for setting in settings if setting.key in known)
    missing = [setting for setting in settings if setting.key not in known]
    if not missing:
        return
    setup = partial(_measurer, build, dict(arguments))
    if ray is None and (workers == 1 or len(missing) == 1):
        before = torch.get_num_threads()
        try:
            measure = setup()
            for setting in missing:
                yield _append(measure(setting), record, stamp)
        finally:
            torch.set_num_threads(before)
        return
    jobs = ((f"{setting.key} on {arguments['task']}", setting) for setting in missing)
    count = None if workers is None else min(workers, len(missing))
    opened: Pool[Outcome] = open_pool(count, ray, setup=setup, device=arguments.get("device", "cpu"))
    with opened as pool:
        for answer in pool.answers(jobs):
            yield _append(answer.result(), record, stamp)


@dataclass(frozen=True, slots=True)
class _Recorded(Outcome):
    """A line of a record: an outcome, and the stamp of what it was computed from."""

    stamp: str = ""


def recorded(
    record: Path | None, arguments: Mapping[str, Any], settings: Sequence[Setting], stamp: Callable[[Setting], str]
) -> dict[str, Outcome]:
    """Record -> its usable outcomes by key; a missing file is created. Raises ConfigError for other arguments."""
    if record is None:
        return {}
    stamps = {setting.key: stamp(setting) for setting in settings}
    head = json.dumps(dict(arguments), sort_keys=True)
    if not record.exists():
        atomic_text(record, head + "\n")
        return {}
    outcomes: dict[str, Outcome] = {}
    with explained(record), record.open("rb") as file:
        if file.readline(len(head) + 2).rstrip() != head.encode():
            raise ConfigError(f"{record} holds the outcomes of another sweep; choose another folder with --out.")
        for _, line in json_lines(file, _Recorded):
            if isinstance(line, NotJson) or not 0 < len(line.scores) == len(line.passes):
                continue  # cut off or damaged: its setting is measured again
            if stamps.get(line.setting.key) == line.stamp:
                outcomes[line.setting.key] = Outcome(
                    line.setting, line.scores, line.passes, line.seconds, line.row_passes
                )
    return outcomes


def _append(outcome: Outcome, record: Path | None, stamp: Callable[[Setting], str]) -> Outcome:
    """Append an outcome to the record, if there is one -> the same outcome."""
    if record is not None:
        line = json.dumps({**asdict(outcome), "stamp": stamp(outcome.setting)})
        with explained(record), record.open("a", encoding="utf-8") as file:
            file.write("\n" * (not _ends_line(record)) + line + "\n")
    return outcome


def _ends_line(path: Path) -> bool:
    """Whether the last byte of a file is a line end."""
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def open_bench(
    checkpoint: str,
    task: str,
    split: str,
    count: int,
    seed: int,
    temperature: float,
    device: str = "auto",
    dtype: DtypeName = "float32",
    batch: int = 256,
) -> Bench:
    """Names of a saved or bundled model and of a task -> the Bench, with `count` problems of a split.

    The model computes in `dtype` on `device`, on `batch` problems at once.
    Raises RequestError where a problem does not fit the model's window.
    """
    chosen = make_task(task)
    model = load(checkpoint, device=device, dtype=dtype)
    examples = examples_of(chosen, split, count, seed)
    problems = fitting(chosen, examples, model.tokenizer, model.window, checkpoint, model.defaults.chat)

    def decoder(setting: Setting) -> Decoder:
        return model.decoder(setting.policy, temperature=temperature, block_size=setting.block_size)

    return Bench(decoder, chosen, problems, model.tokenizer, seed, model.device, batch)


def stamps(checkpoint: str, task: str) -> Callable[[Setting], str]:
    """A function from a setting to its stamp: a hash of the task's file and of the weights of model and policy."""
    fixed = [fingerprint(make_task(task)), _weights(Path(locate(checkpoint)))]

    @cache
    def stamp(policy: str) -> str:
        parts = [*fixed, *(_weights(locate_policy(name)) for name in learned_names(policy))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    return lambda setting: stamp(setting.policy)


def _weights(folder: Path) -> str:
    """Folder -> name, size and time of its weight files; reading the weights themselves can take too long."""
    facts = reading(folder, lambda checkpoint: {p.name: p.stat() for p in sorted(checkpoint.glob("*.safetensors"))})
    return ", ".join(f"{name} {fact.st_size} {fact.st_mtime_ns}" for name, fact in facts.items())
