"""The question about soft masks: options -> the cells that answer it. Imports no torch."""

__all__ = ["soft_masks"]

from dataclasses import replace
from typing import NamedTuple

from unmask.data.settings import DataSettings
from unmask.ranges import Count
from unmask.reproduce.generation import wrote_cell
from unmask.reproduce.plan import plain
from unmask.reproduce.soft import Solved, accuracy_label
from unmask.reproduce.text import BUNDLED, Bounded, Claim, Fit, TextCell, TextOptions
from unmask.reproduce.trainings import COMPARED, Planned, bounded, trained
from unmask.train.settings import ModelChoice, TextRun, TrainSettings

_BEST = 3  # tokens in a soft mask
_ARMS = {"plain masks": (0, 1.0), "plain masks, as long": (0, 1.27), "soft masks": (_BEST, 1.0)}
"""By label: tokens in a soft mask, and steps. A pass is a third of a step, and .8 of the steps have one more."""
_TASK = "sudoku:side=6"
_POLICIES, _SHARES = ("confidence", "margin", "random"), (0.25, 0.5, 1.0)
_TEST_SEED = 7001


class _Size(NamedTuple):
    """How long models are trained further, and the puzzles."""

    steps: Count
    """Of the text model."""
    puzzle_steps: Count
    grids: Count
    """Puzzles to train on."""
    tests: Count


_SIZES = {"full": _Size(1000, 800, 40_000, 512), "fast": _Size(20, 8, 600, 16)}


def soft_masks(options: TextOptions) -> Planned:
    """The same further training with plain and with soft masks: bound, puzzles, texts (arXiv:2510.17206).

    Of the text model of mdlm-baselines and of the bundled Sudoku denoiser, with the same rows, maskings and learning
    rate. The bound with soft masks is of the model in two passes. "as long": plain masks with as many operations. Texts
    are written with a quarter, half and all of the passes, by a rule that looks and by one that does not.
    """
    size = _SIZES.get(options.scale, _SIZES["full"])
    cells, claims = list[TextCell](), list[Claim]()
    for seed in options.seeds:
        text = _of_text(options, seed, size)
        puzzles = _of_puzzles(options, seed, size)
        cells += [*text, *puzzles]
    for arm in list(_ARMS)[:2]:
        for what in ("text", "Sudoku"):
            claims.append(Claim(f"{what}: bound of soft masks < {arm}", f"{what}: soft masks", f"{what}: {arm}"))
        for policy in _POLICIES:
            for share in _SHARES:
                low, high = (accuracy_label(f"Sudoku: {name}", policy, share) for name in (arm, "soft masks"))
                claims.append(Claim(f"{policy} at {share:g}: accuracy of {arm} < soft masks", low, high))
    return cells, claims


def _of_text(options: TextOptions, seed: int, size: _Size) -> list[TextCell]:
    """The trainings of the text model with one seed, their bounds and texts."""
    numbers = options.numbers
    base, judge = (trained(options, label, seed, COMPARED[label]) for label in ("MDLM", "AR"))
    cells: list[TextCell] = [base, judge]
    for label, (soft, longer) in _ARMS.items():
        train = _further(numbers.train, round(size.steps * longer), seed, numbers.rates["subs"])
        run = TextRun(numbers.data, replace(numbers.model, soft=soft), train)
        fit = _continued(f"text: {label}", seed, run, base.name)
        cells += [fit, bounded(options, fit)]
        for line in ("ancestral", "confidence"):
            for share in _SHARES:
                cells.append(
                    wrote_cell(options, fit, line, f"{line}:steps={round(numbers.written * share)}", 1.0, judge)
                )
    return cells


def _of_puzzles(options: TextOptions, seed: int, size: _Size) -> list[TextCell]:
    """The trainings of the Sudoku denoiser with one seed, their bounds and accuracies."""
    cells: list[TextCell] = []
    data = DataSettings(f"task:{_TASK}@{size.grids}", tokenizer="char", length=36, eos="none")
    settings = replace(options.numbers.train, batch=128, eval_draws=128, dtype="float32")
    for label, (soft, longer) in _ARMS.items():
        train = _further(settings, round(size.puzzle_steps * longer), seed, 5e-4)
        fit = _continued(
            f"Sudoku: {label}", seed, TextRun(data, ModelChoice(dropout=0.0, soft=soft), train), f"{BUNDLED}sudoku"
        )
        limit = None if options.scale != "fast" else options.numbers.limit
        bound = Bounded(f"bound-{fit.name}", fit.label, seed, fit.name, 16, limit, skip=settings.eval_draws)
        tests = (_TASK, size.tests, _TEST_SEED, _POLICIES, _SHARES)
        cells += [fit, bound, Solved(f"solved-{fit.name}", fit.label, seed, fit.name, *tests)]
    return cells


def _further(train: TrainSettings, steps: int, seed: int, rate: float) -> TrainSettings:
    """The settings of a training from the start -> those of a further one."""
    every = max(1, steps // 5)
    return replace(train, steps=steps, warmup=None, eval_every=every, save_every=every, seed=1000 + seed, lr=rate)


def _continued(label: str, seed: int, run: TextRun, start: str) -> Fit:
    return Fit(f"{plain(label)}-seed-{seed}", label, seed, run, start)
