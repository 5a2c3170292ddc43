"""Five seeds of each policy on a model made by hand: what is written, in how many passes, must not drift unnoticed."""

from collections.abc import Callable

import torch

from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.policies.entries import ENTRIES
from unmask.policies.options import Context
from unmask.policies.registry import make
from unmask.testing import TableDenoiser

LENGTH, VOCABULARY = 6, 3


def by_hand() -> TableDenoiser:
    """A joint without random numbers and without ties: weights 1 + (7 n^2 + 3 n modulo 101)."""
    n = torch.arange(VOCABULARY**LENGTH)
    weights = 1 + (7 * n * n + 3 * n) % 101 + n.double() / 1000
    return TableDenoiser((weights / weights.sum()).view((VOCABULARY,) * LENGTH))


def test_decodes(golden: Callable[..., None]) -> None:
    """Temperature 0: an argmax does not depend on the last bit of a processor's arithmetic."""
    decodes: dict[str, list[list[int]]] = {}
    context = Context(unigram=lambda: torch.tensor([0.6, 0.3, 0.1, 0.0]))
    for name, entry in ENTRIES.items():
        if entry.needs_folder:
            continue
        steps = {"dream": (16, 2), "remdm": (16,), "reverse": (16,)}.get(name, ("inf", 2))
        paced = [f"{name}:steps={number}" for number in steps]
        for text in paced if "steps" in entry.options else [name]:
            tokens = torch.full((5, LENGTH), VOCABULARY)
            tokens[:, 2] = 1
            done = Decoder(by_hand(), make(text, context)).decode(Canvas.start(tokens, torch.arange(5)))
            decodes[text] = [[*row, int(p)] for row, p in zip(done.tokens.tolist(), done.passes, strict=True)]
    golden("decodes", decodes)
