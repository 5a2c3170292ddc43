"""The memory of decoding in blocks grows linearly with the length, up to 4,096 positions.

Measured is the peak of what torch allocates during passes at the end of a long text: the first of a block, which
computes all positions, and one that computes the block alone.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from unmask.bench.timing import peak_allocated
from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.model import layers
from unmask.model.cache import cached
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.policies.registry import make

WIDTH, VOCABULARY, BLOCK = 64, 64, 32


def peak(length: int, cache: str | None, padding: int) -> int:
    """Bytes at the peak of two blocks of two passes each, behind a prompt, beside a row with padding."""
    torch.manual_seed(0)
    model = build(DiTSettings(VOCABULARY, VOCABULARY - 1, 4096, WIDTH, 1, 1)).eval()
    tokens = torch.randint(VOCABULARY - 1, (2, length))
    tokens[:, -2 * BLOCK - padding :] = VOCABULARY - 1
    valid = torch.arange(length).expand(2, -1) < torch.tensor([[length], [length - padding]])
    decoder = Decoder(model if cache is None else cached(model, cache), make("confidence:steps=2"), block_size=BLOCK)
    canvas = Canvas.start(tokens, torch.arange(2), valid)
    return peak_allocated(lambda: [None for _ in zip(range(4), decoder.steps(canvas), strict=False)])


def growth(cache: str | None, padding: int) -> float:
    """Growth of the peak from 2,048 to 4,096 positions over that from 1,024 to 2,048: 2 if linear, 4 if quadratic."""
    short, middle, long = (peak(length, cache, padding) for length in (1024, 2048, 4096))
    return (long - middle) / (middle - short)


@pytest.mark.parametrize(("cache", "padding"), [(None, 0), ("dual", 0), ("prefix", 16), ("delayed", 0)])
def test_the_memory_of_decoding_in_blocks_grows_linearly(cache: str | None, padding: int) -> None:
    assert growth(cache, padding) < 2.2


def test_control_attention_that_holds_all_scores_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def plain(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
        return (q @ k.transpose(-1, -2)).softmax(-1) @ v

    monkeypatch.setattr(layers.F, "scaled_dot_product_attention", plain)
    assert growth("dual", 0) > 3
