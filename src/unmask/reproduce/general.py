"""The cells of the question about one policy for every task, and their work.

Rules and policies are measured alike: all settings on validation problems, by which settings are chosen, and on test
problems. Imports no torch.
"""

__all__ = [
    "GENERAL_CELLS",
    "GENERAL_RESULTS",
    "TRAINED",
    "Policied",
    "Swept",
    "alpha_at",
    "in_folder",
    "rule_settings",
    "sweep_cell",
]

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.output import show
from unmask.policies.learned.settings import LEAST_ALPHA
from unmask.ranges import Count, Natural
from unmask.reproduce.text import TextCell
from unmask.rl.settings import LearnRun, Pair

if TYPE_CHECKING:
    from unmask.solve.settings import Setting
    from unmask.solve.sweep import Bench

TRAINED = "trained:"
"""Begins the checkpoint of a denoiser that is trained in a cell; the name of the cell follows."""
_VALID_SEED, _TEST_SEED = 5001, 9101
_DIALS = tuple(round(n / 24, 4) for n in range(25))
_ORDER_DIAL, _ORDER_COUNT = 0.4, 40  # of the picture of orders: a middle dial value, and problems


@dataclass(frozen=True, slots=True)
class Policied(TextCell):
    """A policy to train on one pair or several, in the folder runs/NAME."""

    run: LearnRun

    @property
    def needs(self) -> tuple[str, ...]:
        """The denoisers that are trained in cells."""
        return tuple(dict.fromkeys(_trained(pair.checkpoint) for pair in self.run.pairs if _trained(pair.checkpoint)))


@dataclass(frozen=True, slots=True)
class Swept(TextCell):
    """All settings of the rules, or of a policy, on validation problems and on test problems of a pair."""

    checkpoint: str
    task: str
    policy: str | None
    """Name of the `Policied`; None for the rules."""
    valid: Count
    tests: Count
    every: Count = 1
    """Of the settings, every so manyth is measured."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The denoiser, if it is trained in a cell, and the policy."""
        return tuple(name for name in (_trained(self.checkpoint), self.policy) if name)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Outcomes of a `Swept`."""

    valid: list[dict[str, Any]]
    tests: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Swept:
    """The result of a `Swept`."""

    length: Count
    lengths: dict[str, list[Natural]]
    """Positions to fill of each problem."""
    names: list[str]
    """Of the settings: of a rule "FAMILY, the rest", the same for every task."""
    rows: _Rows
    order: list[list[int]]
    """Of some test problems, the pass that filled each position."""


@dataclass(frozen=True, slots=True)
class _Policied:
    """The result of a `Policied`."""

    rounds: Count
    best: float
    parameters: Count


GENERAL_CELLS: dict[str, type[TextCell]] = {"policied": Policied, "swept": Swept}
GENERAL_RESULTS: dict[str, type[Any]] = {"policied": _Policied, "swept": _Swept}


def _trained(checkpoint: str) -> str:
    """A checkpoint -> the name of the cell that trains it, or an empty text."""
    return checkpoint.removeprefix(TRAINED) if checkpoint.startswith(TRAINED) else ""


def in_folder(run: LearnRun, runs: Path) -> LearnRun:
    """A run, and the folder of all trainings -> the run with the folders of denoisers that are trained in cells."""
    first, *others = (Pair(_place(pair.checkpoint, runs), pair.task) for pair in run.pairs)
    return replace(run, checkpoint=first.checkpoint, others=tuple(pair.name for pair in others))


def _place(checkpoint: str, runs: Path) -> str:
    return str(runs / _trained(checkpoint)) if _trained(checkpoint) else checkpoint


# ---- work ------------------------------------------------------------------------------------------------------------

_BARS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.995, 0.999)
_NATS = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.005, 0.001)
_TOKENS = (1, 2, 3, 4, 6, 8, 12)
_RULES: dict[str, tuple[str, tuple[float, ...], tuple[int, ...]]] = {
    "threshold": ("threshold", _BARS, (1, 4)),
    "margin-threshold": ("threshold", _BARS, (1,)),
    "entropy-threshold": ("threshold", _NATS, (1,)),
    "entropy-bound": ("gamma", (1.0, 0.5, 0.3, 0.1, 0.05, 0.01, 0.003, 0.001), (1, 4)),
    "prefix": ("threshold", _BARS, (1,)),
    "confidence": ("steps", _TOKENS, (1, 4)),
    "margin": ("steps", _TOKENS, (1,)),
    "left-to-right": ("steps", _TOKENS, (1,)),
}
"""By rule: its knob, the values (of steps: tokens a pass), and the numbers of blocks of a canvas."""


def rule_settings(length: int) -> "dict[str, Setting]":
    """The most positions to fill -> by name the settings of all rules; a name means the same for every length."""
    from unmask.batch import ceil_div
    from unmask.solve.settings import Setting

    settings: dict[str, Setting] = {}
    for rule, (knob, values, parts) in _RULES.items():
        for blocks in parts:
            size = max(1, round(length / blocks))
            family = rule if blocks == 1 else f"{rule} in {blocks} blocks"
            for value in values:
                number = f"{ceil_div(size, int(value))}" if knob == "steps" else f"{value:g}"
                name = f"{family}, {value:g} " + ("tokens a pass" if knob == "steps" else knob)
                settings[name] = Setting(f"{rule}:{knob}={number}", None if blocks == 1 else size)
    return settings


def alpha_at(dial: float, largest: float = 30.0) -> float:
    """A dial value below the end of the costs (`TRAINED_DIAL`) -> alpha, as of a policy with this largest alpha."""
    return LEAST_ALPHA * ((1 + largest / LEAST_ALPHA) ** (dial / 0.8) - 1)


def sweep_cell(cell: Swept, folder: Path, runs: Path) -> dict[str, Any]:
    """A cell, the folder of its outcomes and that of all trainings -> the outcomes of its settings."""
    from unmask.reproduce.rules import bench_of, outcomes_of_sweep
    from unmask.solve.problems import most_holes
    from unmask.solve.settings import Setting

    checkpoint, rows, lengths = _place(cell.checkpoint, runs), dict[str, Any](), dict[str, list[int]]()
    names: list[str] = []
    length, order = 1, list[list[int]]()
    for split, count, seed in (("valid", cell.valid, _VALID_SEED), ("test", cell.tests, _TEST_SEED)):
        bench, arguments = bench_of(checkpoint, cell.task, split, count, seed)
        length = max(length, most_holes(bench.problems))
        if cell.policy is None:
            settings = rule_settings(length)
        else:
            text = f"learned:from={(runs / cell.policy).absolute()}"
            settings = {f"learned, {dial:g} dial": Setting(f"{text},dial={dial:g}") for dial in _DIALS}
        settings = dict(list(settings.items())[:: cell.every])
        outcomes = outcomes_of_sweep(bench, arguments, list(settings.values()), folder / f"{split}.jsonl")
        key = "tests" if split == "test" else "valid"
        names, rows[key] = list(settings), [asdict(outcome) for outcome in outcomes]
        lengths[key] = [len(problem.holes) for problem in bench.problems]
        if cell.policy is not None and split == "test":
            order = _order(bench, Setting(f"learned:from={(runs / cell.policy).absolute()},dial={_ORDER_DIAL}"))
            show(f"the order of {len(order)} problems")
    return {"length": length, "lengths": lengths, "names": names, "rows": rows, "order": order}


def _order(bench: "Bench", setting: "Setting") -> list[list[int]]:
    """A setting -> for some problems the pass, from 1 on, that filled each of their positions."""
    from unmask.decode.rows import decode_rows

    problems = bench.problems[:_ORDER_COUNT]
    mask = bench.tokenizer.mask_id
    passes = [[0] * len(problem.holes) for problem in problems]
    rows = [problem.row for problem in problems]
    stream = decode_rows(
        bench.decoder(setting), rows, range(len(rows)), pad_id=bench.tokenizer.pad_id, batch=64, device=bench.device
    )
    for snapshot in stream:
        tokens, spent = snapshot.canvas.tokens.tolist(), snapshot.canvas.passes.tolist()
        for line, row in enumerate(snapshot.rows):
            for n, at in enumerate(problems[row].holes):
                if not passes[row][n] and tokens[line][at] != mask:
                    passes[row][n] = int(spent[line])
    return passes
