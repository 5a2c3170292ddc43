"""A model before the problems of a task, as sweeps want it: importable, so that any process can make it."""

__all__ = ["open_bench"]

from unmask.api import load
from unmask.decode import Decoder
from unmask.sweep import Bench, Setting, fitting
from unmask.tasks import make


def open_bench(checkpoint: str, task: str, split: str, count: int, seed: int, temperature: float) -> Bench:
    """A saved or bundled model, in float32 on the processor, and `count` problems.

    Raises RequestError where a problem does not fit the model's window.
    """
    chosen = make(task)
    model = load(checkpoint, device="cpu", dtype="float32")
    given = fitting(chosen, chosen.examples(split, count, seed), model.tokenizer, model.window, checkpoint)

    def decoder(setting: Setting) -> Decoder:
        return model.decoder(setting.policy, temperature=temperature, block_size=setting.block_size)

    return Bench(decoder, chosen, given, model.tokenizer, seed)
