"""The automaton's trace: a denoiser that is honest about the end of it (bundled).

    unmask train automaton

Two blocks of width 64, on 400 000 problems whose length falls as it falls. docs/log.md has what it is for: on this one
thresholds are hard to beat.
"""

__all__ = ["recipe"]

from unmask.data.settings import DataSettings
from unmask.train.settings import ModelChoice, TextRun, TrainSettings


def recipe() -> TextRun:
    """The run."""
    return TextRun(
        data=DataSettings("task:automaton@400000", tokenizer="char", length=49, eos="none"),
        model=ModelChoice(width=64, blocks=2, heads=2, dropout=0.0),
        train=TrainSettings(steps=4000, batch=128, lr=2e-3, ema=0.99, patience=0, eval_every=500, dtype="float32"),
    )
