"""Any text, sized to it: the defaults.

    unmask train --data.source FILE

Network, vocabulary and number of steps follow from the length of the text; training ends when the bound on held-out
text has not fallen for eight validations. `--dry` says what will be done and how long it takes on this machine.
"""

__all__ = ["recipe"]

from unmask.train.settings import TextRun


def recipe() -> TextRun:
    """The run."""
    return TextRun()
