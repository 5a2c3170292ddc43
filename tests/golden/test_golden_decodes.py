"""Five seeds of each policy on a model made by hand: what is written, in how many passes, must not drift unnoticed."""

from collections.abc import Callable

import torch

from unmask.decode import Canvas, Decoder
from unmask.policies.registry import make, names
from unmask.testing import TableDenoiser

LENGTH, VOCABULARY = 6, 3


def by_hand() -> TableDenoiser:
    """A joint without random numbers and without ties: weights 1 + (7 n^2 + 3 n modulo 101)."""
    n = torch.arange(VOCABULARY**LENGTH)
    weights = 1 + (7 * n * n + 3 * n) % 101 + n.double() / 1000
    return TableDenoiser((weights / weights.sum()).view((VOCABULARY,) * LENGTH))


def test_decodes(golden: Callable[..., None]) -> None:
    """Temperature 0: an argmax does not depend on the last bit of a processor's arithmetic."""
    found: dict[str, list[list[int]]] = {}
    for name in names():
        for steps in ("inf", "2"):
            tokens = torch.full((5, LENGTH), VOCABULARY)
            tokens[:, 2] = 1
            done = Decoder(by_hand(), make(f"{name}:steps={steps}")).decode(Canvas.start(tokens, torch.arange(5)))
            found[f"{name}:steps={steps}"] = [
                [*row, int(p)] for row, p in zip(done.tokens.tolist(), done.passes, strict=True)
            ]
    golden("decodes", found)
