"""The honest automaton: tuned thresholds are hard to beat here.

unmask learn automaton
"""

__all__ = ["recipe"]

from unmask.rl.settings import LearnRun


def recipe() -> LearnRun:
    """The run."""
    return LearnRun("automaton", "automaton:traces=mixed")
