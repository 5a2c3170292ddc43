"""In blocks: does a learned policy match tuned heuristics?

arXiv:2512.09106, section 5.1. Blocks of a quarter of the automaton's places, and of a row of the Sudoku; trained and
measured in them.
"""

__all__ = ["cells"]

from unmask.reproduce.parts import heuristics, kinds, measured, other_kinds, trained
from unmask.reproduce.plan import Cell, Options
from unmask.rl.settings import LearnSettings


def cells(options: Options) -> list[Cell]:
    """Trainings, heuristics and measurements."""
    trainings: list[Cell] = []
    rules: list[Cell] = []
    policies: list[Cell] = []
    for checkpoint, kind in kinds(options):
        label, learn = f"blocks of {kind.block}", LearnSettings(block_size=kind.block)
        found = [trained(options, label, checkpoint, kind.train, seed, learn=learn) for seed in options.seeds]
        trainings += found
        for task in kind.tests:
            against = heuristics(options, checkpoint, task, kind.block)
            rules.append(against)
            for seed, one in zip(options.seeds, found, strict=True):
                policies.append(measured(options, label, [one], against, seed=seed, block_size=kind.block))
    return [*trainings, *rules, *policies, *other_kinds(options)]
