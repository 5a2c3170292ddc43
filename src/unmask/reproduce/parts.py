"""Pieces that several questions are made of; no torch here."""

__all__ = [
    "ALPHAS",
    "AUTOMATON",
    "COARSE",
    "Kind",
    "contest",
    "heuristics",
    "kinds",
    "measured",
    "other_kinds",
    "trained",
]

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from unmask.policies.learned.settings import LEAST_ALPHA, PolicySettings
from unmask.reproduce.plan import Arena, Blocked, Cell, Heuristics, Measured, Options, Training, plain
from unmask.rl.settings import LearnRun, LearnSettings


def _finer(alphas: Sequence[float], steps: int) -> tuple[float, ...]:
    """Each way from one alpha to the next in so many steps, equal on the dial."""
    ways = [(a + LEAST_ALPHA, (b + LEAST_ALPHA) / (a + LEAST_ALPHA)) for a, b in pairwise(alphas)]
    found = [start * factor ** (n / steps) - LEAST_ALPHA for start, factor in ways for n in range(steps)]
    return tuple(float(f"{alpha:.4g}") for alpha in (*found, alphas[-1]))


_DIAL = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 4.5, 6.0, 8.0, 10.0, 14.0, 20.0, 30.0, 45.0, 67.0, 100.0, 150.0)
ALPHAS = _finer(_DIAL, 4)
"""Where policies are measured, most of them never trained on: about as many as heuristics have settings. Above 30 lies
the end of the dial, where the cut falls (`policies.learned.policy.PRICED`)."""
COARSE = ALPHAS[::2]
"""Where there are many measurements."""
_QUICK_ALPHAS = (0.0, 1.0, 30.0)
_QUICK_POLICIES = ("threshold:threshold=0.9", "confidence", "prefix:threshold=0.9", "left-to-right:steps=12")
_QUICK_COUNT = 16
_OTHERS = ("sudoku", "arithmetic", "countdown")


@dataclass(frozen=True, slots=True)
class Kind:
    """A task: what policies train on, what they are tested on (in distribution first), and the size of its blocks."""

    train: str
    tests: tuple[str, ...]
    block: int


AUTOMATON = Kind("automaton:traces=mixed", ("automaton", "automaton:traces=long"), 6)


def kinds(options: Options) -> list[tuple[str, Kind]]:
    """Every denoiser that was given, with its task."""
    automata = [(checkpoint, AUTOMATON) for checkpoint in (*options.denoisers, *options.calibrated)]
    pairs = (text.rpartition("=") for text in options.others)
    return [*automata, *((checkpoint, _kind(task)) for task, _, checkpoint in pairs)]


def other_kinds(options: Options) -> list[Cell]:
    """A cell with the reason for each task of the questions that has no denoiser here."""
    given = {text.partition("=")[0].partition(":")[0] for text in options.others}
    return [
        Blocked(f"measure-{task}", f"no denoiser was given; train one and add --others {task}=CHECKPOINT")
        for task in _OTHERS
        if task not in given
    ]


def _kind(task: str) -> Kind:
    return Kind(task, (task,), 6)


def trained(
    options: Options,
    label: str,
    checkpoint: str,
    task: str,
    seed: int,
    policy: PolicySettings | None = None,
    learn: LearnSettings | None = None,
) -> Training:
    """A training with one seed, on one thread of the processor."""
    learn = replace(learn or LearnSettings(), seed=seed, device="cpu", threads=1)
    if options.rounds is not None:
        learn = replace(learn, rounds=options.rounds)
    name = f"{plain(label)}-{plain(Path(checkpoint).name)}-seed-{seed}"
    if options.quick:
        alphas = learn.alphas if len(learn.alphas) == 1 else _QUICK_ALPHAS
        small = {"warm": min(learn.warm, 2), "prompts": 4, "group": 4, "scored": 8, "pool": 32, "valid_prompts": 4}
        small |= {"calibrated": 4}
        learn = replace(learn, rounds=options.rounds or 2, alphas=alphas, valid_every=1, save_every=1, **small)
    return Training(name, LearnRun(checkpoint, task, policy or PolicySettings(), learn))


def heuristics(options: Options, checkpoint: str, task: str, block: int | None = None) -> Heuristics:
    """All heuristics on one test set."""
    count = min(options.count, _QUICK_COUNT) if options.quick else options.count
    arena = Arena(checkpoint, task, count, options.test_seed)
    blocks = ("full", "1/4") if options.quick else options.blocks
    known = block is None or (task in AUTOMATON.tests and "1/4" in blocks)  # of 24 places it is 6
    own = () if known else (str(block),)
    name = f"heuristics-{arena.name}" + (f"-{block}" if own else "")
    return Heuristics(name, arena, _QUICK_POLICIES if options.quick else (), (*blocks, *own))


def measured(
    options: Options,
    label: str,
    trainings: Sequence[Training],
    against: Heuristics,
    *,
    seed: int,
    block_size: int | None = None,
    alphas: tuple[float, ...] = ALPHAS,
) -> Measured:
    """Policies of one seed on a test set."""
    name = f"{plain(label)}-on-{against.arena.name}-seed-{seed}"
    alphas = _QUICK_ALPHAS if options.quick else alphas
    names = tuple(one.name for one in trainings)
    return Measured(name, against.arena, label, seed, names, alphas, block_size, against.name)


def contest(options: Options, *, in_blocks: bool) -> list[Cell]:
    """Policies of every denoiser and seed, trained and measured in its blocks or on the whole canvas, and its rules."""
    trainings: list[Cell] = []
    rules: list[Cell] = []
    policies: list[Cell] = []
    for checkpoint, kind in kinds(options):
        size = kind.block if in_blocks else None
        label, name = (f"blocks of {size}",) * 2 if in_blocks else ("full canvas", "full")
        learn = LearnSettings(block_size=size)
        found = [trained(options, name, checkpoint, kind.train, seed, learn=learn) for seed in options.seeds]
        trainings += found
        for task in kind.tests:
            against = heuristics(options, checkpoint, task, size)
            rules.append(against)
            for seed, one in zip(options.seeds, found, strict=True):
                policies.append(measured(options, label, [one], against, seed=seed, block_size=size))
    return [*trainings, *rules, *policies, *other_kinds(options)]
