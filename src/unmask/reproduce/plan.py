"""What a question is made of: cells, each a training, a measurement, or the reason why it cannot be; no torch here.

Pieces that several questions are made of; no torch here.
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
    "Kind",
    "Measured",
    "Options",
    "Question",
    "Timed",
    "Training",
    "contest",
    "heuristics",
    "kind_of",
    "kinds",
    "measured",
    "needs",
    "other_kinds",
    "plain",
    "trained",
]

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from unmask.errors import ConfigError
from unmask.policies.learned.settings import LEAST_ALPHA, PolicySettings
from unmask.rl.settings import LearnRun, LearnSettings


@dataclass(frozen=True, slots=True)
class Options:
    """What a person chooses. Raises ConfigError for what cannot be."""

    denoisers: tuple[str, ...] = ("automaton_eos",)
    """EOS-heavy automata: names or folders, of several seeds for a claim."""
    calibrated: tuple[str, ...] = ("automaton",)
    """Honest automata: names or folders."""
    others: tuple[str, ...] = ("sudoku=sudoku",)
    """Denoisers of other tasks (sudoku, arithmetic, countdown), TASK=CHECKPOINT each."""
    twice: str | None = None
    """A denoiser for automata of 48 places, twice as many as policies are trained on, for policies-transfer."""
    blocks: tuple[str, ...] = ("full", "1/2", "1/4", "1/8")
    """Block sizes that heuristics are tuned over: full, a number of positions, or a share of what is to fill."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the policies."""
    rounds: int | None = None
    """Of GRPO; by default the recipe's number."""
    count: int = 1024
    """Test problems."""
    test_seed: int = 7001
    """Of the test problems; choose nothing on those that a claim rests on."""
    quick: bool = False
    """Shrink everything, to see it work; the figures mean nothing."""

    def __post_init__(self) -> None:
        if not self.denoisers or not self.seeds:
            raise ConfigError("There is nothing to train: give at least one of --denoisers and one of --seeds.")
        if self.count < 1 or (self.rounds is not None and self.rounds < 1):
            raise ConfigError(f"count is {self.count} and rounds {self.rounds}; give at least 1 of each.")
        for text in self.others:
            task, equals, checkpoint = text.rpartition("=")
            if not (task and equals and checkpoint):
                raise ConfigError(f"--others has '{text}'; write TASK=CHECKPOINT, for example sudoku=sudoku.")
        if "full" not in self.blocks:
            raise ConfigError(
                f"blocks are {', '.join(self.blocks) or 'none'}; full, the whole canvas, has to be among them."
            )
        every = [*self.denoisers, *self.calibrated, *(text.rpartition("=")[2] for text in self.others)]
        every += [self.twice] if self.twice else []
        labels = Counter(plain(Path(path).name) for path in dict.fromkeys(every))
        if twice := [label for label, count in labels.items() if count > 1]:
            raise ConfigError(f"Two denoisers are called {twice[0]}; rename the folder of one, as cells bear the name.")


@dataclass(frozen=True, slots=True)
class Arena:
    """A denoiser and fresh test problems: what is measured in one can be compared."""

    checkpoint: str
    task: str
    count: int
    seed: int

    @property
    def name(self) -> str:
        return f"{plain(Path(self.checkpoint).name)}-{plain(self.task)}"


@dataclass(frozen=True, slots=True)
class Training:
    """A policy to be trained, in the folder runs/NAME."""

    name: str
    run: LearnRun


@dataclass(frozen=True, slots=True)
class Heuristics:
    """Every policy that is not learned, with every knob and block size."""

    name: str
    arena: Arena
    policies: tuple[str, ...]
    """Names; none for all."""
    blocks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """What trained policies do: each at every alpha, or, where it is not told the price, as it is."""

    name: str
    arena: Arena
    label: str
    """What tells it from the others of the question; seeds share it."""
    seed: int
    trainings: tuple[str, ...]
    alphas: tuple[float, ...]
    """In the units of the training, from accurate to fast."""
    block_size: int | None
    against: str
    """The Heuristics of the same arena."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds of a policy, and of the heuristics that none beats in passes, in one process with nothing beside it."""

    name: str
    arena: Arena
    measured: str
    against: str
    batch: int
    rounds: int
    """The median of so many."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """What belongs to the question and cannot be done here."""

    name: str
    reason: str


Cell = Training | Heuristics | Measured | Timed | Blocked
CELLS: dict[str, type[Cell]] = {
    "training": Training,
    "heuristics": Heuristics,
    "measured": Measured,
    "timed": Timed,
    "blocked": Blocked,
}


@dataclass(frozen=True, slots=True)
class Question:
    """A question and all of its cells, in the order of work; what a cell needs comes before it."""

    name: str
    about: str
    cells: tuple[Cell, ...]
    options: Options


def kind_of(cell: Cell) -> str:
    """The name of a cell's kind."""
    return next(name for name, kind in CELLS.items() if isinstance(cell, kind))


def needs(cell: Cell) -> tuple[str, ...]:
    """Cells that have to be done before."""
    if isinstance(cell, Measured):
        return cell.trainings
    return (cell.measured, cell.against) if isinstance(cell, Timed) else ()


def plain(text: str) -> str:
    """Text as part of a file's name."""
    return "-".join("".join(sign if sign.isalnum() or sign in "._" else " " for sign in text).split())


def _finer(alphas: Sequence[float], steps: int) -> tuple[float, ...]:
    """Each way from one alpha to the next in so many steps, equal on the dial."""
    ways = [(a + LEAST_ALPHA, (b + LEAST_ALPHA) / (a + LEAST_ALPHA)) for a, b in pairwise(alphas)]
    found = [start * factor ** (n / steps) - LEAST_ALPHA for start, factor in ways for n in range(steps)]
    return tuple(float(f"{alpha:.4g}") for alpha in (*found, alphas[-1]))


_DIAL = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 4.5, 6.0, 8.0, 10.0, 14.0, 20.0, 30.0, 45.0, 67.0, 100.0, 150.0)
DEVICE, DTYPE = "cpu", "float32"
"""Every cell computes so, one thread each: results are compared between machines, and seconds are those of a thread."""
ALPHAS = _finer(_DIAL, 4)
"""Where policies are measured, most of them never trained on: about as many as heuristics have settings. Above 30 lies
the end of the dial, where the cut falls (`policies.learned.policy.TRAINED_DIAL`)."""
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
    learn = replace(learn or LearnSettings(), seed=seed, device=DEVICE, dtype=DTYPE, threads=1)
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
