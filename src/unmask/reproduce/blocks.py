"""In blocks: does a learned policy match tuned heuristics?

arXiv:2512.09106, section 5.1. Blocks of a quarter of the automaton's places, and of a row of the Sudoku; trained and
measured in them.
"""

__all__ = ["cells"]

from unmask.reproduce.plan import Cell, Options, contest


def cells(options: Options) -> list[Cell]:
    """Trainings, heuristics and measurements."""
    return contest(options, in_blocks=True)
