"""The question about one policy for every task: options -> its pairs of a denoiser and a task, and its cells.

Imports no torch.
"""

__all__ = ["general_policy"]

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, NamedTuple

from unmask.errors import ConfigError
from unmask.ranges import Seed
from unmask.recipes.denoisers import RECIPES
from unmask.recipes.policies import general
from unmask.reproduce.general import TRAINED, Policied, Swept
from unmask.reproduce.plan import plain
from unmask.reproduce.text import Fit, TextCell, TextOptions
from unmask.reproduce.trainings import Planned
from unmask.rl.settings import MOST_PAIRS, LearnRun, Pair


class _Task(NamedTuple):
    """A pair of the mixture: a bundled denoiser or the recipe of one, the task, and the group of the task."""

    checkpoint: str
    task: str
    group: Literal["serial", "grid", "text", "other"]


def _of_recipe(name: str) -> str:
    """The recipe of a denoiser -> the task on whose problems it is trained."""
    return RECIPES[name]().data.source.removeprefix("task:").rpartition("@")[0]


_TASKS = {
    "automaton_eos": _Task("automaton_eos", "automaton:traces=mixed", "serial"),
    "automaton": _Task("automaton", "automaton:traces=mixed", "serial"),
    "automaton_long_eos": _Task("recipe", "automaton:length=48,traces=mixed", "serial"),
    "sudoku": _Task("sudoku", "sudoku", "grid"),
    "arithmetic": _Task("recipe", _of_recipe("arithmetic"), "serial"),
    "countdown": _Task("recipe", _of_recipe("countdown"), "other"),
    "infill": _Task("wordnet", "infill", "text"),
    "antibody": _Task("recipe", "antibody-cdr3:longest=12", "text"),
    "sums": _Task("recipe", _of_recipe("sums"), "serial"),
}
_HELD_OUT = {"serial": ("arithmetic", "sums", "automaton_eos"), "grid": ("sudoku",), "text": ("infill", "antibody")}
"""By group, the pair that a mixture is trained without: the first one that there is."""
_STARTS = {"automaton_long_eos": "automaton_long"}
_FAST = ("automaton_eos", "automaton")


def general_policy(options: TextOptions) -> Planned:
    """One policy for every task: is it as good as rules and policies of one task, and does it carry over?

    A mixture of at most nine pairs of a denoiser and a task (--pairs), with 22 thousand parameters for each seed and
    with 330 thousand; a policy for each pair alone; and for each group of tasks a mixture without one of its pairs.
    """
    tasks = _tasks(options)
    cells: list[TextCell] = [cell for name in tasks for cell in _denoiser(name, tasks[name])]
    seed = options.seeds[0]
    pairs = {name: _pair(name, task) for name, task in tasks.items()}
    rules = [_swept(options, "rules", name, pairs[name], None, 0) for name in tasks]
    policies = [_policied(options, "general", list(pairs.values()), s) for s in options.seeds]
    large = _policied(options, "general 330k", list(pairs.values()), seed, width=128)
    alone = {name: _policied(options, f"alone {name}", [pair], seed) for name, pair in pairs.items()}
    without: dict[str, Policied] = {}
    for held in (next((n for n in names if n in tasks), None) for names in _HELD_OUT.values()):
        if held is not None and len(pairs) > 1 and not (options.scale == "fast" and without):
            rest = [pair for name, pair in pairs.items() if name != held]
            without[held] = _policied(options, f"without {held}", rest, seed)
    trainings = [*policies, *without.values(), *alone.values(), large]  # the order in which they matter
    measures: list[TextCell] = []
    for name, pair in pairs.items():
        own = [*policies, alone[name], large, *([without[name]] if name in without else [])]
        measures += [_swept(options, policy.label, name, pair, policy, policy.seed) for policy in own]
    return [*cells, *rules, *trainings, *measures], []


def _tasks(options: TextOptions) -> dict[str, _Task]:
    """The pairs by name: those of this module, changed by `options.pairs`. Raises ConfigError for more than nine."""
    tasks = dict(_TASKS) if options.scale != "fast" else {name: _TASKS[name] for name in _FAST}
    for text in options.pairs:
        name, _, rest = text.partition("=")
        checkpoint, _, task = rest.partition("=")
        known = _TASKS.get(name)
        if not (name and checkpoint and (task or known or checkpoint == "none")):
            raise ConfigError(f"--pairs has '{text}'; write NAME=CHECKPOINT=TASK, or one of {', '.join(_TASKS)}=PATH.")
        if checkpoint == "none":
            tasks.pop(name, None)
        else:
            group = known.group if known else "other"
            tasks[name] = _Task(checkpoint, task or (known.task if known else ""), group)
    if len(tasks) > MOST_PAIRS:
        raise ConfigError(f"There are {len(tasks)} pairs of a denoiser and a task; give at most {MOST_PAIRS}.")
    if not tasks:
        raise ConfigError("--pairs leaves no pair of a denoiser and a task; leave one that is not none.")
    return tasks


def _pair(name: str, task: _Task) -> Pair:
    return Pair(f"{TRAINED}denoiser-{name}" if task.checkpoint == "recipe" else task.checkpoint, task.task)


def _denoiser(name: str, task: _Task) -> Iterator[Fit]:
    """A pair whose denoiser is a recipe -> its training, after that of the denoiser that it starts from."""
    if task.checkpoint != "recipe":
        return
    start = _STARTS.get(name)
    for recipe in (start, name) if start else (name,):
        run = RECIPES[recipe]()
        run = replace(run, train=replace(run.train, threads=1))
        before = f"denoiser-{start}" if start and recipe == name else None
        yield Fit(f"denoiser-{recipe}", f"denoiser {recipe}", 0, run, before)


def _policied(options: TextOptions, label: str, pairs: list[Pair], seed: Seed, width: int = 32) -> Policied:
    """A label, pairs and a seed -> the training of a policy; of one pair it has half the rounds."""
    run, first = general(), pairs[0]
    rounds = options.rounds or (run.learn.rounds if len(pairs) > 1 else run.learn.rounds // 2)
    warm = run.learn.warm if len(pairs) > 1 else run.learn.warm // 2
    learn = replace(run.learn, rounds=rounds, warm=warm, seed=seed, device="cpu", dtype="float32", threads=1)
    if options.scale == "fast":
        small = {"warm": 2, "scored": 1, "pool": 4, "valid_prompts": 1, "valid_every": 2, "calibrated": 1}
        learn = replace(learn, rounds=options.rounds or 2, prompts=2, group=2, alphas=(3.0,), **small)
    policy = replace(run.policy, width=width, heads=max(run.policy.heads, width // 32))
    others = tuple(pair.name for pair in pairs[1:])
    return Policied(
        f"{plain(label)}-seed-{seed}", label, seed, LearnRun(first.checkpoint, first.task, policy, learn, others)
    )


def _swept(options: TextOptions, label: str, name: str, pair: Pair, policy: Policied | None, seed: Seed) -> Swept:
    fast = options.scale == "fast"
    sizes = (4, 6, 12) if fast else (128, options.count or 384, 1)
    title = f"{label} on {name}"
    own = None if policy is None else policy.name
    return Swept(f"swept-{plain(title)}-seed-{seed}", title, seed, pair.checkpoint, pair.task, own, *sizes)
