"""What a question is made of: cells, each a training, a measurement, or the reason why it cannot be; no torch here."""

__all__ = [
    "CELLS",
    "Arena",
    "Blocked",
    "Cell",
    "Heuristics",
    "Measured",
    "Options",
    "Plan",
    "Timed",
    "Training",
    "kind_of",
    "needs",
    "plain",
]

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from unmask.errors import ConfigError
from unmask.rl.settings import LearnRun


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
class Plan:
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
