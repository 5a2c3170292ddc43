"""The first token of a row of a shifted network: it predicts each token at the position before, so that there is none.

With a start token before a text the bound is on -log p of the whole text; without one the first token counts as known.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from unmask.api import Model
from unmask.data.packed import Packed
from unmask.decode.options import Defaults
from unmask.denoiser import Denoiser, Wrapper
from unmask.errors import RequestError
from unmask.fill.holes import Filler
from unmask.model.load import build
from unmask.model.settings import TransformerSettings
from unmask.objective.bound import Bound, validate
from unmask.objective.masked import Masked
from unmask.process import Linear, MaskedDiffusion
from unmask.testing import TableDenoiser, random_language
from unmask.text.build import letter_tokenizer

IDS = [[4, 5, 6, 7, 5], [6, 6, 4], [7]]
START = 3


def network(shift: bool) -> Any:
    sizes = {"width": 16, "blocks": 1, "heads": 2, "kv_heads": 2, "head": 8, "inner": 16, "eps": 1e-6, "base": 1e4}
    settings = TransformerSettings(vocab_size=10, mask_id=8, max_length=8, shift=shift, **sizes)  # pyright: ignore[reportArgumentType]
    return build(settings, seed=1).eval()


@dataclass(frozen=True)
class Changed(Wrapper):
    """Another prediction for the first position."""

    def hidden(self, tokens: Tensor, **options: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden = super().hidden(tokens, **options).clone()
        hidden[:, 0] = hidden[:, 0].flip(-1) + 3
        return hidden


def measured(denoiser: Denoiser, rows: Sequence[Sequence[int]] = IDS) -> Bound:
    objective = Masked(MaskedDiffusion(8, Linear()))
    return validate(denoiser, objective, Packed.of(rows, 8, 0, 9), torch.device("cpu"), draws=4)


def test_a_bound_does_not_depend_on_a_prediction_that_there_is_not() -> None:
    """The control is a network that is not shifted."""
    shifted, plain = network(True), network(False)
    bound = measured(shifted)
    assert measured(Changed(shifted)) == bound
    assert (bound.tokens, bound.known, bound.bits_per_byte) == (6, 3, None)
    control = measured(plain)
    assert measured(Changed(plain)).nats_per_token != control.nats_per_token
    assert (control.tokens, control.known) == (9, 0)
    assert control.bits_per_byte is not None
    assert measured(shifted, [*IDS, *IDS]).known == 6
    with pytest.raises(RequestError, match="give a text of at least two tokens"):
        measured(shifted, [[7]])


class ShiftedTable(TableDenoiser):
    """The exact posterior of a language after a start token; nonsense at position 0, as shifted networks have."""

    shifted = True

    def hidden(self, tokens: Tensor, **options: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        length = self.max_length or 0
        after = super().hidden(tokens[:, 1 : length + 1])
        padding = after[:, :1].expand(-1, tokens.shape[1] - length - 1, -1)
        return torch.cat([torch.randn_like(after[:, :1]), after, padding], 1)


def test_scores_after_a_start_token_are_those_of_the_language() -> None:
    """Exact: the probabilities of all texts sum to 1. The control has no start token."""
    letters, length = "ab", 3
    joint = random_language(len(letters), length, seed=5, sharpness=2.0)
    tokenizer = letter_tokenizer([*letters, "[MASK]", "[UNK]", "[PAD]", "[CLS]"], "[UNK]", ["[MASK]", "[PAD]", "[CLS]"])
    assert tokenizer.mask_id == len(letters)
    filler = Filler(ShiftedTable(joint), tokenizer, 8, torch.device("cpu"), [5])
    texts = ["".join(word) for word in itertools.product(letters, repeat=length)]
    choices = filler.score("[?]", texts, orders=8, seed=0, batch=8)
    expected = [-float(joint[tuple(letters.index(letter) for letter in text)].log()) for text in texts]
    assert [choice.nats for choice in choices] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(RequestError, match="does not predict the first token of a text; put a text before"):
        Filler(filler.denoiser, tokenizer, 8, torch.device("cpu")).score("[?]", texts, orders=8, seed=0, batch=8)


def test_a_model_with_a_start_token_puts_it_before_a_text() -> None:
    """A text longer than the window is cut, and each part has it. The control is a model without one."""
    tokenizer = letter_tokenizer([*"abcdefg", "[UNK]", "[MASK]", "[PAD]"], "[UNK]", ["[MASK]", "[PAD]"])
    model = Model(network(True), MaskedDiffusion(8, Linear()), tokenizer, None, torch.device("cpu"))
    without = model.bound("abcdefgabc", draws=4)
    assert (without.tokens, without.known, without.sequences) == (8, 2, 2)
    model.defaults = Defaults(start=START)
    bound = model.bound("abcdefgabc", draws=4)
    assert (bound.tokens, bound.known, bound.sequences) == (10, 0, 2)
    assert bound.bits_per_byte is not None
    ids = tokenizer.encode("abcdefgabc")
    rows = Packed.of([[START, *ids[:7]], [START, *ids[7:]]], 8, tokenizer.pad_id, 10, first=1)
    assert model.bound_packed(rows, draws=4) == bound
    assert model.canvas_of("[2]ab") == [START, 8, 8, 0, 1]
    assert model.canvas_of("ab[2]") == [0, 1, 8, 8]
    assert model.fill("[2]ab").texts[0].endswith("ab")
    assert model.filler.old("[2=cd]ab") == {1: 2, 2: 3}
