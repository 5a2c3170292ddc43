"""Options -> the cells that several questions share.

A cell is one unit of work of a question: a training, a measurement, a timing, or the reason why there is none. An arena
is a denoiser with its test problems; results in one arena can be compared. Imports no torch.
"""

__all__ = [
    "ALPHAS",
    "AUTOMATON",
    "CELLS",
    "COARSE",
    "DEVICE",
    "DTYPE",
    "Arena",
    "Blocked",
    "Cell",
    "Heuristics",
    "Measured",
    "Plan",
    "Question",
    "QuestionOptions",
    "TaskSetup",
    "Timed",
    "Training",
    "cell_type",
    "cells_of_setups",
    "heuristics",
    "measured",
    "missing_tasks",
    "needs",
    "plain",
    "setups",
    "trained",
]

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from unmask.errors import ConfigError
from unmask.policies.learned.settings import LEAST_ALPHA, PolicySettings
from unmask.ranges import Count, Seed, check_numbers
from unmask.reproduce.dna import DNA_CELLS
from unmask.reproduce.general import GENERAL_CELLS
from unmask.reproduce.holes import HOLE_CELLS
from unmask.reproduce.masks import MASK_CELLS
from unmask.reproduce.representations import REPRESENTATION_CELLS
from unmask.reproduce.rules import RULE_CELLS
from unmask.reproduce.seconds import SECONDS_CELLS
from unmask.reproduce.soft import SOFT_CELLS
from unmask.reproduce.text import TEXT_CELLS, TextCell, TextQuestion
from unmask.rl.settings import LearnRun, LearnSettings


@dataclass(frozen=True, slots=True)
class QuestionOptions:
    """What `unmask reproduce` can be asked for. Raises ConfigError for a value that is not possible."""

    denoisers: tuple[str, ...] = ("automaton_eos",)
    """EOS-heavy automata: names or folders; a claim needs several seeds."""
    calibrated: tuple[str, ...] = ("automaton",)
    """Calibrated automata: names or folders, or none."""
    others: tuple[str, ...] = ("sudoku=sudoku",)
    """Denoisers of other tasks (sudoku, arithmetic, countdown), TASK=CHECKPOINT each, or none."""
    twice: str | None = None
    """A denoiser for automata of 48 positions, twice as many as policies are trained on, for policies-transfer."""
    large: str = "wordnet"
    """A denoiser of 5 million parameters or more, trained or not, for the time of a pass in policies-seconds."""
    blocks: tuple[str, ...] = ("full", "1/2", "1/4", "1/8")
    """Block sizes that heuristics are tuned over: full, a number of positions, or a share of the positions to fill."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Seeds of the policies."""
    rounds: Count | None = None
    """Rounds of GRPO; by default the recipe's number."""
    count: Count = 1024
    """Number of test problems."""
    test_seed: Seed = 7001
    """Seed of the test problems; problems that a claim rests on must not be used to choose anything."""
    fast: bool = False
    """Make everything small, to see that it works; the figures mean nothing. `unmask reproduce`
    takes one seed then, unless --seeds is given."""

    def __post_init__(self) -> None:
        for name in ("calibrated", "others"):
            if getattr(self, name) == ("none",):  # an option of the command line has at least one word
                object.__setattr__(self, name, ())
        if not self.denoisers or not self.seeds:
            raise ConfigError("There is nothing to train: give at least one of --denoisers and one of --seeds.")
        check_numbers(self)
        for text in self.others:
            task, equals, checkpoint = text.rpartition("=")
            if not (task and equals and checkpoint):
                raise ConfigError(f"--others has '{text}'; write TASK=CHECKPOINT, for example sudoku=sudoku.")
        if "full" not in self.blocks:
            raise ConfigError(
                f"blocks are {', '.join(self.blocks) or 'none'}; full, the whole canvas, has to be among them."
            )
        paths = [*self.denoisers, *self.calibrated, *(text.rpartition("=")[2] for text in self.others)]
        paths += [self.twice] if self.twice else []
        labels = Counter(plain(Path(path).name) for path in dict.fromkeys(paths))
        if repeated := [label for label, count in labels.items() if count > 1]:
            raise ConfigError(
                f"Two denoisers are called {repeated[0]}; rename the folder of one, because cells have this name."
            )


@dataclass(frozen=True, slots=True)
class Arena:
    """A denoiser and its test problems: results in one arena can be compared."""

    checkpoint: str
    task: str
    count: int
    seed: int

    @property
    def name(self) -> str:
        """The name of the denoiser and the task, as part of a file's name."""
        return f"{plain(Path(self.checkpoint).name)}-{plain(self.task)}"


@dataclass(frozen=True, slots=True)
class Training:
    """A policy to train, in the folder runs/NAME."""

    name: str
    run: LearnRun


@dataclass(frozen=True, slots=True)
class Heuristics:
    """A sweep over the policies that are not learned: all their options and all block sizes."""

    name: str
    arena: Arena
    policies: tuple[str, ...]
    """Names of policies; empty for all."""
    blocks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """A measurement of trained policies: each at every alpha; one that has no dial at the alpha of its training."""

    name: str
    arena: Arena
    label: str
    """Name of the variant within the question; cells of other seeds have the same label."""
    seed: int
    trainings: tuple[str, ...]
    alphas: tuple[float, ...]
    """Exponents alpha of the reward, from accurate to fast."""
    block_size: int | None
    against: str
    """Name of the `Heuristics` cell of the same arena."""
    cut: bool = True
    """Whether the end of the dial lowers the cut; else it sets alphas up to the last of this cell, and no more."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds of a policy and of the heuristics on the frontier of passes, in one process while no other cell runs."""

    name: str
    arena: Arena
    measured: str
    against: str
    batch: int
    rounds: int
    """Repetitions, of which the median is reported."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """A part of the question that cannot be done with these options, with the reason."""

    name: str
    reason: str


Cell = Training | Heuristics | Measured | Timed | Blocked | TextCell
CELLS: dict[str, type[Cell]] = {
    "training": Training,
    "heuristics": Heuristics,
    "measured": Measured,
    "timed": Timed,
    **TEXT_CELLS,
    **DNA_CELLS,
    **HOLE_CELLS,
    **GENERAL_CELLS,
    **MASK_CELLS,
    **REPRESENTATION_CELLS,
    **RULE_CELLS,
    **SECONDS_CELLS,
    **SOFT_CELLS,
}


@dataclass(frozen=True, slots=True)
class Question:
    """A question and all of its cells in the order of work: a cell comes after the cells that it needs."""

    name: str
    about: str
    cells: tuple[Cell, ...]
    options: QuestionOptions


Plan = Question | TextQuestion


def cell_type(cell: Cell) -> str:
    """A cell -> the name of its class in `CELLS`."""
    return next(name for name, cls in CELLS.items() if type(cell) is cls)


def needs(cell: Cell) -> tuple[str, ...]:
    """A cell -> the names of the cells that have to be done before it."""
    if isinstance(cell, TextCell):
        return cell.needs
    if isinstance(cell, Measured):
        return cell.trainings
    return (cell.measured, cell.against) if isinstance(cell, Timed) else ()


def plain(text: str) -> str:
    """Text -> letters, digits, dots, underscores and hyphens, for a file's name."""
    return "-".join("".join(char if char.isalnum() or char in "._" else " " for char in text).split())


def _finer(alphas: Sequence[float], steps: int) -> tuple[float, ...]:
    """Alphas -> the same with each interval divided into `steps`, which are equal on the dial."""
    intervals = [(a + LEAST_ALPHA, (b + LEAST_ALPHA) / (a + LEAST_ALPHA)) for a, b in pairwise(alphas)]
    values = [start * factor ** (n / steps) - LEAST_ALPHA for start, factor in intervals for n in range(steps)]
    return tuple(float(f"{alpha:.4g}") for alpha in (*values, alphas[-1]))


_DIAL = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 4.5, 6.0, 8.0, 10.0, 14.0, 20.0, 30.0, 45.0, 67.0, 100.0, 150.0)
DEVICE, DTYPE = "cpu", "float32"
"""Every cell computes with these in one thread: results can be compared between machines, seconds are of one thread."""
ALPHAS = _finer(_DIAL, 4)
"""Alphas at which policies are measured, about as many as heuristics have settings; policies are trained on few of
them. Those above 30 belong to the end of the dial, where the cut falls (`policies.learned.policy.TRAINED_DIAL`)."""
COARSE = ALPHAS[::2]
"""Every other alpha, for questions with many measurements."""
_FAST_ALPHAS = (0.0, 1.0, 30.0)
_FAST_POLICIES = ("threshold:threshold=0.9", "confidence", "prefix:threshold=0.9", "left-to-right:steps=12")
_FAST_COUNT = 16
_OTHERS = ("sudoku", "arithmetic", "countdown")


@dataclass(frozen=True, slots=True)
class TaskSetup:
    """A task: the problems to train on, those to test on (in distribution first), and the size of its blocks."""

    train: str
    tests: tuple[str, ...]
    block: int


AUTOMATON = TaskSetup("automaton:traces=mixed", ("automaton", "automaton:traces=long"), 6)


def setups(options: QuestionOptions) -> list[tuple[str, TaskSetup]]:
    """Options -> every denoiser that they name, with its task."""
    automata = [(checkpoint, AUTOMATON) for checkpoint in (*options.denoisers, *options.calibrated)]
    pairs = (text.rpartition("=") for text in options.others)
    return [*automata, *((checkpoint, TaskSetup(task, (task,), 6)) for task, _, checkpoint in pairs)]


def missing_tasks(options: QuestionOptions) -> list[Cell]:
    """Options -> a `Blocked` cell for each task of the questions without a denoiser."""
    present = {text.partition("=")[0].partition(":")[0] for text in options.others}
    return [
        Blocked(f"measure-{task}", f"no denoiser was given; train one and add --others {task}=CHECKPOINT")
        for task in _OTHERS
        if task not in present
    ]


def trained(
    options: QuestionOptions,
    label: str,
    checkpoint: str,
    task: str,
    seed: int,
    policy: PolicySettings | None = None,
    learn: LearnSettings | None = None,
) -> Training:
    """A denoiser, a task and settings -> the cell of a training with one seed, in one thread on the CPU."""
    learn = replace(learn or LearnSettings(), seed=seed, device=DEVICE, dtype=DTYPE, threads=1)
    if options.rounds is not None:
        learn = replace(learn, rounds=options.rounds)
    name = f"{plain(label)}-{plain(Path(checkpoint).name)}-seed-{seed}"
    if options.fast:
        alphas = learn.alphas if len(learn.alphas) == 1 else _FAST_ALPHAS
        small = {"warm": min(learn.warm, 2), "prompts": 4, "group": 4, "scored": 8, "pool": 32, "valid_prompts": 4}
        small |= {"calibrated": 4}
        learn = replace(learn, rounds=options.rounds or 2, alphas=alphas, valid_every=1, save_every=1, **small)
    return Training(name, LearnRun(checkpoint, task, policy or PolicySettings(), learn))


def heuristics(options: QuestionOptions, checkpoint: str, task: str, block: int | None = None) -> Heuristics:
    """A denoiser and a task -> the cell that measures all heuristics there, also in blocks of `block` positions."""
    count = min(options.count, _FAST_COUNT) if options.fast else options.count
    arena = Arena(checkpoint, task, count, options.test_seed)
    blocks = ("full", "1/4") if options.fast else options.blocks
    included = block is None or (task in AUTOMATON.tests and "1/4" in blocks)  # a quarter of 24 positions is 6
    added = () if included else (str(block),)
    name = f"heuristics-{arena.name}" + (f"-{block}" if added else "")
    return Heuristics(name, arena, _FAST_POLICIES if options.fast else (), (*blocks, *added))


def measured(
    options: QuestionOptions,
    label: str,
    trainings: Sequence[Training],
    against: Heuristics,
    *,
    seed: int,
    block_size: int | None = None,
    alphas: tuple[float, ...] = ALPHAS,
) -> Measured:
    """Trainings of one seed and the heuristics of an arena -> the cell that measures the policies in this arena."""
    name = f"{plain(label)}-on-{against.arena.name}-seed-{seed}"
    alphas = _FAST_ALPHAS if options.fast else alphas
    names = tuple(training.name for training in trainings)
    return Measured(name, against.arena, label, seed, names, alphas, block_size, against.name)


def cells_of_setups(options: QuestionOptions, *, in_blocks: bool) -> list[Cell]:
    """Options -> for every denoiser the policy of each seed and the heuristics, in blocks or on the whole canvas."""
    trainings: list[Cell] = []
    rules: list[Cell] = []
    policies: list[Cell] = []
    for checkpoint, setup in setups(options):
        size = setup.block if in_blocks else None
        label, name = (f"blocks of {size}",) * 2 if in_blocks else ("full canvas", "full")
        learn = LearnSettings(block_size=size)
        by_seed = [trained(options, name, checkpoint, setup.train, seed, learn=learn) for seed in options.seeds]
        trainings += by_seed
        for task in setup.tests:
            against = heuristics(options, checkpoint, task, size)
            rules.append(against)
            for seed, training in zip(options.seeds, by_seed, strict=True):
                policies.append(measured(options, label, [training], against, seed=seed, block_size=size))
    return [*trainings, *rules, *policies, *missing_tasks(options)]
