"""Sudoku 6x6: a denoiser that has seen grids with any cells hidden (bundled).

unmask train sudoku
"""

__all__ = ["recipe"]

from unmask.data.settings import DataSettings
from unmask.train.settings import ModelChoice, TextRun, TrainSettings


def recipe() -> TextRun:
    """The run."""
    return TextRun(
        data=DataSettings("task:sudoku:side=6@200000", tokenizer="char", length=36, eos="none"),
        model=ModelChoice(width=128, blocks=6, heads=4, dropout=0.0, absolute=True),
        train=TrainSettings(steps=3200, batch=128, lr=1.5e-3, ema=0.999, patience=0, eval_every=500, dtype="float32"),
    )
