"""The genome of E. coli K-12 by single bases, a mini network.

    unmask train dna

The time it takes here: `unmask train dna --dry`. No run of ours stands behind a score; four bases drawn evenly cost
ln 4 = 1.386 nats a token, and the bound must come out below that.
"""

__all__ = ["recipe"]

from unmask.data.settings import DataSettings
from unmask.train.settings import ModelChoice, TextRun, TrainSettings


def recipe() -> TextRun:
    """The run."""
    return TextRun(
        data=DataSettings("ecoli-k12", tokenizer="dna", length=512),
        model=ModelChoice(size="mini"),
        train=TrainSettings(steps=4000),
    )
