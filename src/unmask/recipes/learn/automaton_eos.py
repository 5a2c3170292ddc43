"""The EOS-heavy automaton, full canvas: where heuristics fail and a policy can win.

unmask learn automaton_eos
"""

__all__ = ["recipe"]

from unmask.rl.settings import LearnRun


def recipe() -> LearnRun:
    """The run."""
    return LearnRun("automaton_eos", "automaton:traces=mixed")
