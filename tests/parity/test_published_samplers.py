"""The published samplers, in plain Python on recorded distributions, against policies of ours: the same positions.

Our loop never proposes MASK and draws a token by the inverse of its distribution, so that tokens are compared at
temperature 0 and positions at any temperature.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.policies.registry import make
from unmask.policies.top_k import front, linear, sizes_of
from unmask.testing import TableDenoiser, random_language

L, V = 8, 3
MODEL = TableDenoiser(random_language(V, L, seed=8, sharpness=2.5))
ROWS = 10

Passes = list[tuple[list[int], list[int]]]  # tokens before a pass, and the positions that it writes


def law(tokens: list[int]) -> list[list[float]]:
    """The clean distribution at each position."""
    hidden = MODEL.hidden(torch.tensor([tokens]))
    logits = MODEL.logits(hidden)[0].double()
    logits[:, V] = -math.inf
    return logits.softmax(-1).tolist()


def recorded(policy: str, block_size: int | None, temperature: float, seed: int, prompt: list[int]) -> Passes:
    """What our loop does with one row."""
    tokens = torch.tensor([[*prompt, *[V] * (L - len(prompt))]])
    decoder, passes, before = Decoder(MODEL, make(policy), temperature, block_size=block_size), Passes(), tokens[0]
    for canvas, step in decoder.steps(Canvas.start(tokens, torch.tensor([seed]))):
        passes.append((before.tolist(), step.revealed[0].nonzero().flatten().tolist()))
        before = canvas.tokens[0]
    return passes


def llada(steps: int, block: int, prompt: int, proposals: Callable[[list[int]], list[int]]) -> Passes:
    """LLaDA's generate: blocks, `steps` divided among them, n // k a step and one more in the first n % k."""
    tokens, passes = [*PROMPT[:prompt], *[V] * (L - prompt)], Passes()
    blocks = (L - prompt) // block
    for number in range(blocks):
        start, end = prompt + number * block, prompt + (number + 1) * block
        base, more = divmod(block, steps // blocks)
        for step in range(steps // blocks):
            p, x0 = law(tokens), proposals(tokens)
            confidence = {i: p[i][x0[i]] for i in range(start, end) if tokens[i] == V}
            count = base + (step < more)
            chosen = sorted(confidence, key=lambda i: (-confidence[i], i))[:count]
            passes.append((list(tokens), sorted(chosen)))
            for i in chosen:
                tokens[i] = x0[i]
    return passes


def filtered(p: list[float], temperature: float, top_p: float, top_k: int) -> list[float]:
    """Temperature, then top-p, then top-k, as Dream's sample_tokens."""
    logits = [math.log(x) / (temperature or 1.0) if x else -math.inf for x in p]
    total = sum(math.exp(x) for x in logits)
    order = sorted(range(len(p)), key=lambda i: -logits[i])
    mass, kept = 0.0, set[int]()
    for i in order:
        if not kept or mass <= top_p:
            kept.add(i)
        mass += math.exp(logits[i]) / total
    kept &= set(order[:top_k])
    weights = [math.exp(x) if i in kept else 0.0 for i, x in enumerate(logits)]
    return [w / sum(weights) for w in weights]


def dream(steps: int, temperature: float, top_p: float, top_k: int, prompt: int, argmax: bool) -> Passes:
    """Dream's _sample with alg entropy: int(n (1 - s/t)) positions a step, the last step all; no empty steps here."""
    tokens, passes = [*PROMPT[:prompt], *[V] * (L - prompt)], Passes()
    times = torch.linspace(1, 1e-3, steps + 1, dtype=torch.double).tolist()
    for step in range(steps):
        left = [i for i in range(L) if tokens[i] == V]
        count = len(left) if step == steps - 1 else int(len(left) * (1 - times[step + 1] / times[step]) + 1e-9)
        if not count:
            continue
        p = law(tokens)
        spread = {}
        for i in left:
            probabilities = filtered(p[i], temperature, top_p, top_k)
            spread[i] = sum(x * math.log(x + 1e-10) for x in probabilities)
        chosen = sorted(left, key=lambda i: (-spread[i], i))[:count]
        passes.append((list(tokens), sorted(chosen)))
        for i in chosen:
            tokens[i] = max(range(V), key=lambda v: p[i][v]) if argmax else -1
    return passes


PROMPT = [0, 2, 1, 1, 0, 2, 1, 0]


@pytest.mark.parametrize("steps, block, prompt", [(4, 4, 0), (6, 4, 0), (3, 8, 0), (6, 3, 2), (2, 2, 4), (8, 8, 0)])
def test_lladas_low_confidence_with_its_quota(steps: int, block: int, prompt: int) -> None:
    """Greedy. The control is the linear pace, whose sizes are others where they are not equal."""

    def greedy(tokens: list[int]) -> list[int]:
        return [max(range(V), key=lambda v: p[v]) for p in law(tokens)]

    expected = llada(steps, block, prompt, greedy)
    each = steps // ((L - prompt) // block)
    assert recorded(f"confidence:steps={each},pace=front", block, 0.0, 1, PROMPT[:prompt]) == expected
    if sizes_of(front, block, each) != sizes_of(linear, block, each):
        assert recorded(f"confidence:steps={each},pace=linear", block, 0.0, 1, PROMPT[:prompt]) != expected


@pytest.mark.parametrize("seed", range(ROWS))
def test_lladas_confidence_is_of_the_token_that_was_drawn(seed: int) -> None:
    """At temperature 2: its untempered probability."""
    tokens, canvas = [V] * L, Canvas.start(torch.full((1, L), V), torch.tensor([seed]))
    for after, step in Decoder(MODEL, make("confidence:steps=4,pace=front"), 2.0).steps(canvas):
        p, x0 = law(tokens), step.view.proposal[0].tolist()
        left = [i for i in range(L) if tokens[i] == V]
        chosen = sorted(left, key=lambda i: (-p[i][x0[i]], i))[:2]
        assert step.revealed[0].nonzero().flatten().tolist() == sorted(chosen)
        tokens = after.tokens[0].tolist()


@pytest.mark.parametrize("prompt", [0, 3])
@pytest.mark.parametrize("steps", [3, 8, 20])
@pytest.mark.parametrize("filters", [(0.0, 1.0, V), (0.7, 0.8, V), (1.3, 0.9, 2), (0.5, 1.0, 1)])
def test_dreams_entropy_after_its_filters(filters: tuple[float, float, int], steps: int, prompt: int) -> None:
    """Positions at greedy tokens; the entropy is that after the filters. The control is the clean entropy."""
    temperature, top_p, top_k = filters
    expected = dream(steps, temperature, top_p, top_k, prompt, argmax=True)
    policy = f"dream:steps={steps},temperature={temperature},top_p={top_p},top_k={top_k}"
    assert recorded(policy, None, 0.0, 1, PROMPT[:prompt]) == expected


def test_control_filters_change_the_order() -> None:
    plain = [dream(8, 0.0, 1.0, V, n, argmax=True) for n in range(4)]
    assert plain != [dream(8, 0.7, 0.6, V, n, argmax=True) for n in range(4)]


def _weights(tokens: list[int], alg_temp: float) -> dict[int, float]:
    """A canvas -> Dream's probability of each masked position: softmax of the negative entropy over alg_temp."""
    spread = {i: sum(x * math.log(x + 1e-10) for x in p) for i, p in enumerate(law(tokens)) if tokens[i] == V}
    powers = {i: math.exp(value / alg_temp) for i, value in spread.items()}
    return {i: power / sum(powers.values()) for i, power in powers.items()}


@pytest.mark.parametrize("seed", range(ROWS))
@pytest.mark.parametrize("alg_temp", [0.05, 0.4, 3.0])
def test_dreams_random_choice_of_positions(alg_temp: float, seed: int) -> None:
    """Replayed with torch.multinomial's race: the largest p / q, q exponential, here -log of the pass's uniforms."""
    tokens, sizes = [V] * L, list[int]()
    canvas = Canvas.start(torch.full((1, L), V), torch.tensor([seed]))
    for after, step in Decoder(MODEL, make(f"dream:steps=4,alg_temp={alg_temp}"), 0.0).steps(canvas):
        weights, uniforms = _weights(tokens, alg_temp), step.view.noise[0].tolist()
        revealed = step.revealed[0].nonzero().flatten().tolist()
        best = sorted(weights, key=lambda i: -weights[i] / -math.log(uniforms[i]))[: len(revealed)]
        assert revealed == sorted(best)
        sizes.append(len(revealed))
        tokens = after.tokens[0].tolist()
    assert sizes == [len(chosen) for _, chosen in dream(4, 0.0, 1.0, V, 0, argmax=True)]


def test_dreams_positions_are_drawn_with_their_probabilities() -> None:
    rows = 3000
    canvas = Canvas.start(torch.full((rows, L), V), torch.arange(rows))
    _, step = next(iter(Decoder(MODEL, make(f"dream:steps={L},alg_temp=0.3"), 0.0).steps(canvas)))
    assert (step.revealed.sum(-1) == 1).all()
    shares = step.revealed.double().mean(0)

    def distance(alg_temp: float) -> float:
        expected = torch.tensor([_weights([V] * L, alg_temp)[i] for i in range(L)], dtype=torch.double)
        return float(((shares - expected) ** 2 / expected).sum()) * rows

    assert distance(0.3) < 30 < distance(0.1)  # chi-squared with L - 1 degrees of freedom; the control


def slow_ancestral(steps: int, uniforms: Tensor, prompt: int, block: int) -> Passes:
    """MDLM's and BD3-LM's _ddpm_update on a grid of `steps` a block, with one uniform a position for all steps.

    A masked position stays masked from t to s with probability s / t. With the same uniform u in every step it becomes
    visible at the first s < u: the law of each position is that of fresh uniforms.
    """
    tokens, passes = [*PROMPT[:prompt], *[V] * (L - prompt)], Passes()
    for start in range(prompt, L, block):
        for step in range(steps):
            s = 1 - (step + 1) / steps
            inside = [i for i in range(start, min(start + block, L)) if tokens[i] == V]
            chosen = [i for i in inside if float(uniforms[i]) > s]
            if chosen:
                passes.append((list(tokens), chosen))
                p = law(tokens)
                for i in chosen:
                    tokens[i] = max(range(V), key=lambda v: p[i][v])
    return passes


@pytest.mark.parametrize("block", [L, 4, 2])
@pytest.mark.parametrize("steps", [2, 5, 40])
def test_ancestral_sampling_on_a_grid_and_in_blocks(steps: int, block: int) -> None:
    from unmask.noise import POLICY, uniform

    for seed in range(ROWS):
        rows = recorded(f"ancestral:steps={steps}", block, 0.0, seed, [])
        turns, uniforms = 0, torch.zeros(L, dtype=torch.double)
        for number in range(L // block):  # the uniforms that the loop gives at the first turn of each block
            drawn = uniform(torch.tensor([[seed]]), torch.tensor([[turns]]), torch.arange(L)[None], POLICY)[0]
            places = slice(number * block, (number + 1) * block)
            uniforms[places] = 1 - drawn[places]
            turns += len({math.ceil(float(u) * steps) for u in uniforms[places]})
        assert rows == slow_ancestral(steps, uniforms, 0, block)
