"""The automaton's trace, then fine-tuned on short ones: it believes in an early end (bundled).

    unmask train automaton_eos --init automaton

98 % of the traces have at most 10 places: as instruction tuning does to LLaDA, it makes the end of the text likely
everywhere, long before the trace is known. The fine-tune is fixed in steps.
"""

__all__ = ["recipe"]

from unmask.data.settings import DataSettings
from unmask.train.settings import TextRun, TrainSettings


def recipe() -> TextRun:
    """The run; give it the checkpoint to start from."""
    return TextRun(
        data=DataSettings("task:automaton:traces=short@75000", tokenizer="char", length=49, eos="none"),
        train=TrainSettings(steps=1200, batch=128, lr=1e-3, ema=0.99, patience=0, eval_every=200, dtype="float32"),
    )
