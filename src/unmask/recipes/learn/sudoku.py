"""Sudoku 6x6: order matters, and every sure-first rule knows it.

unmask learn sudoku
"""

__all__ = ["recipe"]

from unmask.rl.settings import LearnRun


def recipe() -> LearnRun:
    """The run."""
    return LearnRun("sudoku", "sudoku")
