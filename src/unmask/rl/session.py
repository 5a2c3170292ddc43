"""Settings -> a run of `unmask learn` that is ready to start or to resume, and several runs in parallel processes."""

__all__ = ["LearnSession", "learn_side_by_side", "open_learning", "recorded_learning", "separate_runs"]

import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import torch

from unmask.api import Model, load
from unmask.config import absolute_path, from_dict, moved, run_record, to_dict, to_path
from unmask.disk.checkpoint import read_checkpoint, resuming
from unmask.disk.files import file_sha256, run_lock
from unmask.disk.folders import bundled, resolve, resume_point
from unmask.errors import CheckpointError, ConfigError, RequestError, UnmaskError
from unmask.hf.names import locate
from unmask.limits import require_rows
from unmask.policies.learned.settings import PolicySettings
from unmask.rl.checkpoint import restore
from unmask.rl.collect import Pooled, answer_calls
from unmask.rl.learner import Learner, RoundReport
from unmask.rl.loop import ValidationResult, fit
from unmask.rl.rollout import World, make_world
from unmask.rl.settings import LearnRun, LearnSettings
from unmask.run.agree import require_same
from unmask.run.loop import Interrupt, Listener
from unmask.run.machine import fastest_threads, prepare, set_threads
from unmask.run.parallel import Group, enter_group
from unmask.run.workers import Workers, open_pool
from unmask.train.checkpoint import agreed_folder, refuse_taken
from unmask.train.session import claim, set_newer_aside


@dataclass(frozen=True, slots=True, eq=False)
class LearnSession:
    """A run that is ready for `rl.loop.fit`."""

    run: LearnRun
    learner: Learner
    folder: Path
    group: Group
    held: ExitStack

    def close(self) -> None:
        """Free the run folder for other commands and leave the group of processes."""
        self.held.close()


def open_learning(
    run: LearnRun,
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    workers: int | None = None,
    ray: str | None = None,
    note: Callable[[str], None] = lambda sentence: None,
) -> LearnSession:
    """Settings -> a session with the denoiser, the problems and the learner; nothing is trained yet.

    `out` is the folder to write, by default the next free runs/learn-NAME-N. `resume` is the folder of a run to resume,
    or one of its checkpoints: `run` is then the result of `recorded_learning`. Rollouts are decoded in this process, or
    in `workers` processes of one thread each, or by that many actors of the Ray cluster at the address `ray` (by
    default one for each GPU or processor). `note` gets sentences for the terminal.
    The session holds the folder until it is closed. Raises ConfigError, RequestError or CheckpointError.
    """
    if out is not None:
        refuse_taken(to_path(out))
    prepare()
    set_threads(run.learn.threads or fastest_threads())
    with ExitStack() as held:
        group, device = enter_group(held, run.learn.device, run.learn.prompts, _LONGEST)
        _check_place(workers, ray, group, device)
        require_rows(run.learn.prompts * (run.learn.group + run.learn.steering), 1)
        point = None if resume is None else _resume_point(to_path(resume))
        folder = None if point is None else claim(point.parents[1], held, group, note)
        origins = _origins(run, point)
        worlds = _worlds(run, str(device))
        run = replace(run, policy=_fitted(run, worlds))
        _require_same(run, group, origins, worlds, point)
        collector = None
        if workers is not None or ray is not None:
            asked = run.learn.device if ray else "cpu"
            setup = partial(_answers, run, asked, [origin["weights"] for origin in origins], _mark(worlds))
            pool = held.enter_context(open_pool(workers, ray, setup=setup, device=asked))
            collector = Pooled(pool, device)
        if folder is None:
            folder = agreed_folder(out, f"learn-{Path(run.checkpoint).name}", group, device)
            folder = claim(folder, held, group, note)
        learner = Learner(run, worlds, folder, group, collector)
        learner.origins = origins
        if point is not None:
            with resuming(point, "learn"):
                restore(learner, point)
            if group.first:
                set_newer_aside(point, note)
        return LearnSession(run, learner, folder, group, held.pop_all())


_LONGEST = 2 * 3600.0  # seconds that a process of torchrun waits for the rollouts of the others
_OWN = {"device", "threads", "batch", "track"}  # settings that may differ between processes


def _require_same(
    run: LearnRun, group: Group, origins: Sequence[dict[str, str]], worlds: Sequence[World], point: Path | None
) -> None:
    """Raise ConfigError, in all processes of torchrun, where they would not do the same training.

    `point` is the checkpoint that it goes on from.
    """
    settings = {name: value for name, value in to_dict(run.learn).items() if name not in _OWN}
    facts: dict[str, dict[str, Any]] = {
        "settings": settings | to_dict(run.policy),
        "versions": run_record()["versions"],
        "denoisers": {pair.name: origin["weights"] for pair, origin in zip(run.pairs, origins, strict=True)},
        "problems": {"their hash": _mark(worlds)},
        "checkpoints": {"the run goes on from": None if point is None else point.name},
    }
    require_same(group, worlds[0].device, facts)


def _check_place(workers: int | None, ray: str | None, group: Group, device: torch.device) -> None:
    """Raise ConfigError for worker processes where they are no use."""
    if workers is None and ray is None:
        return
    if ray is not None:
        from unmask.run.cluster import check_address

        check_address(ray)  # now, before denoisers are loaded
    option = "--workers" if ray is None else "--ray"
    if group.size > 1:
        raise ConfigError(
            f"{option} does not go with torchrun, whose {group.size} processes share the rollouts already: leave one "
            "of them out."
        )
    if ray is None and device.type != "cpu":
        raise ConfigError(
            f"--workers are processes of one processor thread each, and the denoiser is on {device}: leave it out, or "
            "give --device cpu; for several GPUs use torchrun or --ray ADDRESS."
        )


def _answers(run: LearnRun, device: str, weights: Sequence[str], mark: str) -> Callable[[tuple[bytes, bytes]], bytes]:
    """Load the denoisers and the problems in a process of a pool -> the function that answers calls.

    Raises ConfigError where they are not those of the training: another machine may have other files.
    """
    torch.set_num_threads(1)
    prepare()
    worlds = _worlds(run, device)
    for pair, expected in zip(run.pairs, weights, strict=True):
        if _weights_of(pair.checkpoint) != expected:
            raise ConfigError(
                f"{pair.checkpoint} has other weights on {platform.node()} than where the training was started: copy "
                "it there."
            )
    if _mark(worlds) != mark:
        raise ConfigError(
            f"The problems are others on {platform.node()} than where the training was started: it needs the same "
            "version of the library and the same files of the tasks."
        )
    return answer_calls(run, worlds)


def _mark(worlds: Sequence[World]) -> str:
    """Worlds -> a hash of all their problems."""
    rows = [[problem.row for problem in (*world.train, *world.valid)] for world in worlds]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def _origins(run: LearnRun, point: Path | None) -> list[dict[str, str]]:
    """A run, and the checkpoint that it goes on from -> what is recorded about the denoiser of each of its pairs.

    Raises CheckpointError if nothing is at the path that was recorded, ConfigError if the weights are others.
    """
    stored = None if point is None else read_checkpoint(point)
    first = stored and stored.fact(dict[str, str], "run.json", "denoiser")
    others = (stored and stored.fact(list[dict[str, str]], "run.json", "others")) or []
    before = [first or {}, *others] if stored else [{} for _ in run.pairs]
    recorded = run.pairs
    if stored and point:
        recorded = from_dict(LearnRun, stored.fact(dict[str, Any], "run.json", "settings") or {}, str(point)).pairs
        if [pair.task for pair in recorded] != [pair.task for pair in run.pairs] or len(before) != len(recorded):
            raise ConfigError(f"{point} was trained on other pairs; to go on, name the same tasks in the same order.")
    pairs = zip(run.pairs, recorded, before, strict=True)
    options = ["--checkpoint PATH", *(f"--others ... {pair.task}=PATH ..." for pair in run.pairs[1:])]
    return [
        _origin(pair.checkpoint, point, facts, pair == old, option)
        for option, (pair, old, facts) in zip(options, pairs, strict=True)
    ]


def _origin(checkpoint: str, point: Path | None, before: dict[str, str], same: bool, option: str) -> dict[str, str]:
    """A denoiser, and what `point` recorded about it, `same` if it has the recorded place -> what is recorded now.

    `option` is how its new place can be typed.
    """
    if point is not None and same and checkpoint not in bundled() and not to_path(checkpoint).exists():
        what = f"The denoiser of {point.parents[1]}"
        raise CheckpointError(moved(what, checkpoint, before.get("typed"), option))
    weights = _weights_of(checkpoint)
    if before.get("weights") not in (None, weights):
        raise ConfigError(
            f"{checkpoint} is not, or no longer, the denoiser that {point} was trained with: give it as it was "
            f"with {option}, or start a new run."
        )
    place = checkpoint if checkpoint in bundled() else absolute_path(locate(checkpoint))
    typed = before.get("typed", checkpoint) if same else checkpoint
    return {"checkpoint": place, "typed": typed, "weights": weights}


def _weights_of(checkpoint: str) -> str:
    """A denoiser -> the hash of its files of weights."""
    weights = hashlib.sha256()
    for path in sorted(resolve(locate(checkpoint)).glob("*.safetensors")):
        weights.update(file_sha256(path).encode())
    return weights.hexdigest()


def _worlds(run: LearnRun, device: str) -> list[World]:
    """Settings -> the denoiser and the problems of each pair. Raises ConfigError or RequestError if these do not fit.

    All denoisers are looked at before problems are made.
    """
    s = run.learn
    valid = max(s.calibrated, s.valid_prompts)
    models = [load(pair.checkpoint, device=device, dtype=s.dtype) for pair in run.pairs]
    for pair, model in zip(run.pairs, models, strict=True):
        _check_features(run.policy, pair.checkpoint, model)
    return [
        make_world(model, pair.checkpoint, pair.task, train=s.pool, valid=valid, seed=s.seed)
        for pair, model in zip(run.pairs, models, strict=True)
    ]


def recorded_learning(folder: str | Path) -> LearnRun:
    """A run folder, or one of its checkpoints -> the settings of the newest one, or of this one.

    Raises CheckpointError without one, and for a damaged one; the sentence then names the one before.
    """
    point = _resume_point(to_path(folder))
    with resuming(point, "learn"):
        settings = read_checkpoint(point).fact(dict[str, Any], "run.json", "settings")
        if settings is None or "learn" not in settings:
            raise RequestError(f"{folder} is not a run of unmask learn; go on with it by unmask train --resume.")
        return from_dict(LearnRun, settings, f"{point}/run.json", CheckpointError)


def _resume_point(path: Path) -> Path:
    """A run folder, or one of its checkpoints -> the checkpoint to go on from. Raises CheckpointError without one."""
    point = resume_point(path)[1]
    if point is None:
        raise CheckpointError(f"{path} has no checkpoint of unmask learn; give the folder of a run that was saved.")
    return point


class _Listen(Protocol):
    """Settings and the name of a run -> its listener. Called in the process of the run: it must be picklable."""

    def __call__(
        self, settings: LearnSettings, *, name: str
    ) -> AbstractContextManager[Listener[RoundReport, ValidationResult]]: ...


def separate_runs(run: LearnRun, seeds: Sequence[int], *, each_alpha: bool) -> dict[str, LearnRun]:
    """A run and seeds -> by name a run of one thread for each seed and, with `each_alpha`, for each alpha.

    The policy of a single alpha does not have alpha as an input.
    """
    alphas: Sequence[float | None] = run.learn.alphas if each_alpha else (None,)
    runs: dict[str, LearnRun] = {}
    for alpha, seed in product(alphas, seeds):
        learn, policy = replace(run.learn, seed=seed, threads=1), run.policy
        if alpha is not None:
            learn, policy = replace(learn, alphas=(alpha,)), replace(policy, priced=False)
        name = f"seed-{seed}" if alpha is None else f"alpha-{alpha:g}-seed-{seed}"
        runs[name] = replace(run, policy=policy, learn=learn)
    return runs


def learn_side_by_side(
    runs: Mapping[str, LearnRun], folder: Path, *, workers: int, listen: _Listen, note: Callable[[str], None]
) -> dict[str, int]:
    """Runs -> the exit code of each, after it was trained in a process of its own in `folder`/NAME.

    After an interrupt the running ones save and stop and no other starts; their code is 128 plus the number of the
    signal. `note` gets a sentence for each run that failed, and one when the runs are to stop.
    """
    codes = dict.fromkeys(runs, _STOPPED)

    def announce() -> None:
        note("Stopping: the trainings at work save after their round. Ctrl-C again ends them at once.")

    with ExitStack() as held:
        held.enter_context(run_lock(folder, note))
        interrupt = held.enter_context(Interrupt(announce))
        pool = held.enter_context(Workers[int](workers, interrupt=interrupt))
        jobs = ((name, partial(_learn_one, name, run, folder / name, listen)) for name, run in runs.items())
        for answer in pool.answers(jobs):
            try:
                codes[answer.name] = answer.result()
            except UnmaskError as error:
                stopped = answer.code is not None and interrupt.requested
                codes[answer.name] = _STOPPED if stopped else error.exit_code
                if not stopped:
                    task = "" if answer.code is None else f" Its task is {runs[answer.name].task}."
                    note(f"unmask: {error}{task}")
    return {name: interrupt.exit_code if code == _STOPPED else code for name, code in codes.items()}


_STOPPED = 130


def _learn_one(name: str, run: LearnRun, folder: Path, listen: _Listen) -> int:
    """Train one run in a worker process -> its exit code, 0 or, after an interrupt, 130."""
    try:
        with closing(open_learning(run, out=folder)) as session, listen(run.learn, name=name) as listener:
            result, _ = fit(session.learner, listener)
    except UnmaskError as error:
        raise type(error)(f"{name}: {error}") from error
    except KeyboardInterrupt:
        return _STOPPED
    return _STOPPED if result.reason == "interrupted" else 0


def _check_features(policy: PolicySettings, checkpoint: str, model: Model) -> None:
    """Raise ConfigError for features of the policy that the denoiser does not have."""
    tokens = model.denoiser.vocab_size - 1
    if "top" in policy.features and policy.top > tokens:
        raise ConfigError(
            f"The policy is to read the {policy.top} highest probabilities, but {checkpoint} has "
            f"{tokens} tokens; give a smaller --policy.top."
        )
    if "hidden" in policy.features and policy.hidden != model.network.width:
        raise ConfigError(
            f"The policy is to read hidden states of width {policy.hidden}, but those of {checkpoint} have "
            f"{model.network.width}; give --policy.hidden {model.network.width}, or leave the feature out."
        )


def _fitted(run: LearnRun, worlds: Sequence[World]) -> PolicySettings:
    """The settings of the policy with its unit L, from the problems, and its largest alpha, from those of the run."""
    length = max(world.length for world in worlds)
    return replace(run.policy, unit=float(length), largest=max(run.policy.largest, *run.learn.alphas))
