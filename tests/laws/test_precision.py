"""The maximum over Gumbel noise: exact in float64; with uniforms of few bits rare tokens lose as the formula says."""

import math
from typing import Any

import pytest
import torch

from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.eval.precision import ancestral_by_race, race, truncation
from unmask.model.dit import DiT
from unmask.model.settings import DiTSettings
from unmask.noise import generator
from unmask.policies.ancestral import Ancestral
from unmask.process import Linear

DRAWS = 400_000


def test_the_largest_weight_over_noise_has_the_law_of_the_weights() -> None:
    weights = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64).expand(DRAWS, 4)
    drawn = race(weights, torch.rand(DRAWS, 4, dtype=torch.float64, generator=generator(1)))
    shares = drawn.bincount(minlength=4) / DRAWS
    assert shares.tolist() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=4 * math.sqrt(0.25 / DRAWS))


@pytest.mark.parametrize("a", [0.3, 1.0, 4.0])
def test_uniforms_of_few_bits_make_rare_tokens_lose_as_the_formula_says(a: float) -> None:
    """Ten bits: odds of a / 1024 against MASK. The control are uniforms of 53 bits, with which it wins as it should."""
    bits, odds = 10, a / 2**10
    weights = torch.tensor([odds, 1.0], dtype=torch.float64).expand(DRAWS, 2)
    whole = torch.rand(DRAWS, 2, dtype=torch.float64, generator=generator(2))
    coarse = (whole * 2**bits).floor() / 2**bits
    wins = {name: float((race(weights, u) == 0).double().mean()) for name, u in (("53", whole), ("10", coarse))}
    error = 4 * math.sqrt(odds / DRAWS)
    assert wins["53"] == pytest.approx(odds / (1 + odds), abs=error)
    assert wins["10"] == pytest.approx(truncation(odds, bits) * odds, abs=error + 0.01 * odds)
    assert truncation(odds, bits) == pytest.approx(1 / (a * math.expm1(1 / a)))
    if a <= 1:
        assert wins["53"] > wins["10"] + 2 * error


def test_float32_uniforms_have_24_bits_and_lose_as_the_formula_says() -> None:
    """In the arithmetic of float32, given that the token has one of the 40 largest uniforms; no other can win."""
    u = torch.rand(DRAWS, generator=generator(3))
    assert torch.equal(u * 2**24, (u * 2**24).round())
    a = 0.8
    weights = torch.tensor([a / 2**24, 1.0])
    top = 1 - torch.arange(1, 41) / 2**24
    noise = torch.rand(200_000, generator=generator(4))
    wins = [race(weights.expand(len(noise), 2), torch.stack([k.expand(len(noise)), noise], 1)) == 0 for k in top]
    probability = sum(float(won.double().mean()) for won in wins) / 2**24
    assert probability / (a / 2**24) == pytest.approx(truncation(a / 2**24), rel=0.03)


def network() -> DiT:
    torch.manual_seed(0)
    model = DiT(DiTSettings(5, 4, 8, 16, 1, 2)).eval()
    torch.nn.init.normal_(model.head.weight, std=1.0)
    for name, value in model.named_parameters():
        if name.endswith("out.weight"):
            torch.nn.init.normal_(value, std=1.0)  # so that a position depends on the others
    return model


def law(tokens: torch.Tensor) -> dict[tuple[int, ...], float]:
    rows, counts = tokens.unique(dim=0, return_counts=True)
    return {tuple(row): count / len(tokens) for row, count in zip(rows.tolist(), counts.tolist(), strict=True)}


@pytest.mark.slow
def test_the_race_and_our_sampler_write_texts_of_the_same_law() -> None:
    """Two positions, four tokens, four steps: the shares of all 16 texts. The control is another number of steps."""
    model, count = network(), 20_000
    masked = torch.full((count, 2), 4)
    raced = law(ancestral_by_race(model, Linear(), masked, 4, torch.float64, 7))

    def ours(steps: int) -> dict[tuple[int, ...], float]:
        decoder = Decoder(model, Ancestral(steps), temperature=1.0)
        return law(decoder.decode(Canvas.start(masked, torch.arange(count))).tokens)

    def distance(left: Any, right: Any) -> float:
        return sum(abs(left.get(text, 0) - right.get(text, 0)) for text in {*left, *right}) / 2

    assert 4 not in {token for text in raced for token in text}
    assert distance(raced, ours(4)) < 0.02 < distance(raced, ours(1))
