"""The bundled model: 38 plays of Shakespeare, a micro network, 1400 steps.

    unmask train shakespeare

The time it takes here: `unmask train shakespeare --dry`. The score it reached: the card beside the bundled weights,
which `unmask info shakespeare` prints.
"""

__all__ = ["recipe"]

from unmask.data.settings import DataSettings
from unmask.train.settings import ModelChoice, TextRun, TrainSettings


def recipe() -> TextRun:
    """The run."""
    return TextRun(
        data=DataSettings("shakespeare"),
        model=ModelChoice(size="micro"),
        train=TrainSettings(steps=1400, batch=16, lr=1.2e-3, patience=0, eval_every=250, dtype="float32"),
    )
