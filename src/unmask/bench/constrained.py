"""The cost of a pattern: a pass whose tokens it restricts and checks, compared with the same pass without it."""

__all__ = ["bench_constraint", "constraint_cell", "random_pattern"]

import statistics
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from unmask.bench.decode import randomised
from unmask.bench.timing import PATTERN, Shape, side_by_side
from unmask.decode.automaton import Automaton
from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.decode.pattern import Pattern
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.noise import generator
from unmask.policies.registry import make

_BLOCK, _STATES, _GROUPS, _WAYS = 32, 100, 64, 8
_POLICIES = ("confidence", "confidence:steps=8")
"""One reveal a pass, and four, which are checked together."""


def random_pattern(vocab_size: int, mask_id: int, states: int = _STATES) -> Pattern:
    """A vocabulary -> a language of so many states: each allows 8 of 64 groups of tokens, and one in ten is an end."""
    random = generator(0)
    text = torch.tensor([token for token in range(vocab_size) if token != mask_id])
    edges = list[torch.Tensor]()
    for state in range(states):
        for group in torch.randperm(_GROUPS, generator=random)[:_WAYS].tolist():
            tokens = (text % _GROUPS == group).nonzero().squeeze(-1)
            after = torch.randint(states, (), generator=random)
            edges.append(torch.stack([torch.full_like(tokens, state), tokens, after.expand_as(tokens)], 1))
    options = {"start": 0, "begin": 0, "vocab_size": vocab_size}
    ids = [[token] for token in text.tolist()]
    return Pattern(Automaton.of(torch.cat(edges), ids, final=range(0, states, 10), **options), mask_id)


@torch.no_grad()
def constraint_cell(shape: Shape, policy: str, rounds: int) -> dict[str, Any]:
    """One cell: CPU-seconds of a pass with a pattern divided by those of a pass without one.

    Both write all positions in blocks, without a cache; with a pattern there can be more passes, so that seconds are
    divided by passes. A round is plain, with the pattern, with it, plain; its ratio is that of the sums.
    """
    sizes = shape.length, shape.width, shape.blocks, shape.heads
    network = randomised(build(DiTSettings(shape.vocab, shape.vocab - 1, *sizes)).eval())
    pattern = random_pattern(shape.vocab, network.mask_id)
    canvas = Canvas.start(torch.full((shape.batch, shape.length), network.mask_id), torch.arange(shape.batch))
    rule = make(policy)
    plain = Decoder(network, rule, 0.0, block_size=_BLOCK)
    bound = Decoder(network, rule, 0.0, block_size=_BLOCK, constraints=(pattern.at(range(shape.length)),))
    works = {"plain": plain, "pattern": bound, "pattern again": bound, "plain again": plain}
    passes = {name: float(decoder.decode(canvas).passes.double().mean()) for name, decoder in works.items()}
    seconds, rates = side_by_side({name: (lambda d=d: d.decode(canvas)) for name, d in works.items()}, rounds)
    pairs = {name: zip(seconds[name], seconds[f"{name} again"], strict=True) for name in ("plain", "pattern")}
    a_pass = {name: [sum(pair) / 2 / passes[name] for pair in values] for name, values in pairs.items()}
    shares = sorted(b / a - 1 for a, b in zip(a_pass["plain"], a_pass["pattern"], strict=True))
    return {
        "shape": asdict(shape),
        "work": f"pattern, {policy}",
        "parameters": sum(value.numel() for value in network.parameters()),
        "states": pattern.automaton.size,
        "edges": len(pattern.automaton.edges),
        "passes_per_row": passes["pattern"],
        "passes_per_row_without": passes["plain"],
        "plain_pass_ms": 1e3 * statistics.median(a_pass["plain"]),
        "pattern_pass_ms": 1e3 * statistics.median(a_pass["pattern"]),
        "pattern_share": statistics.median(shares),
        "least_share": shares[0],
        "largest_share": shares[-1],
        "fp32_rate": statistics.median(rates),
        "rounds": rounds,
    }


def bench_constraint(rounds: int) -> Iterator[dict[str, Any]]:
    """All cells: one reveal a pass and several, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for policy in _POLICIES:
            yield constraint_cell(PATTERN, policy, rounds)
    finally:
        torch.set_num_threads(threads)
