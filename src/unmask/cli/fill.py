"""`unmask fill`: fill the holes of a text."""

__all__ = ["FillArguments", "hole_texts", "run"]

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import tyro

from unmask.cli.parse import given_positionals, parse
from unmask.cli.show import note, print_json

if TYPE_CHECKING:
    from unmask.api import Model
    from unmask.windows import Written


@dataclass(frozen=True, slots=True)
class FillArguments:
    """Fill the holes of a text: [5] stands for five tokens, and \\\\[ for a bracket that is text.

    With one word alone it is the template, and the bundled model fills it.
    """

    checkpoint: tyro.conf.Positional[str]
    """A checkpoint or run folder, or the name of a bundled model."""
    template: tyro.conf.Positional[str]
    """The text with holes."""
    count: int = 1
    """How many fillings."""
    policy: str = "random"
    """Which tokens appear when: a name, or name:key=value (`unmask list policies`)."""
    temperature: float = 1.0
    """0 takes the most probable token; 1 samples from the model."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens that has this share of the probability."""
    seed: int = 0
    """The same seed gives the same fillings."""
    watch: bool = False
    """Show the text while it is filled."""
    trace: str | None = None
    """Record what happened in FILE.jsonl, for `unmask watch`, or as a page that plays it in FILE.html."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network."""
    threads: int | None = None
    """Processor threads; by default torch's own choice."""
    json: bool = False
    """Print one JSON object on stdout."""


def run(argv: Sequence[str]) -> int:
    """Fill and print."""
    words = list(argv)
    if len(given_positionals(FillArguments, words, "fill")) == 1:
        words = ["shakespeare", *words]
    arguments = parse(FillArguments, words, "fill")

    from rich.console import Console

    import unmask
    from unmask.cli.canvas import Canvas, follow
    from unmask.cli.tracing import Tracing

    tracing = Tracing(arguments.trace)
    model = unmask.load(arguments.checkpoint, device=arguments.device, dtype=arguments.dtype, threads=arguments.threads)
    began = time.perf_counter()
    row = model.canvas_of(arguments.template)
    holes = sum(token == model.tokenizer.mask_id for token in row)
    stream = model.stream_fill(
        arguments.template,
        policy=arguments.policy,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        count=arguments.count,
        seed=arguments.seed,
        alternatives=tracing.alternatives,
    )
    stream = tracing.record(model, stream)
    live = sys.stdout.isatty() and not arguments.json
    if arguments.watch:
        with Canvas(model.tokenizer, Console(stderr=not live), prompt=(), total=holes) as canvas:
            rows = follow(stream, canvas.show)
    else:
        rows = follow(stream)
    tracing.save(rows, policy=arguments.policy, seed=arguments.seed)
    fills = [_described(model, row, one) for one in rows]
    if arguments.json:
        seconds = time.perf_counter() - began
        print_json({"fills": fills, "policy": arguments.policy, "seed": arguments.seed, "seconds": seconds})
        return 0
    for number, fill in enumerate(fills, start=1):
        if not (arguments.watch and live and number == 1):
            print(fill["text"])
        shown = " | ".join(f"{text!r}" for text in fill["holes"])
        note(f"  filled {shown}: {fill['nats']:.2f} nats in all, {fill['passes']} passes")
    return 0


def hole_texts(model: "Model", template: Sequence[int], tokens: Sequence[int]) -> list[str]:
    """What was written into each run of MASKs of `template` (L,), from the filled `tokens` (L,)."""
    holes: list[list[int]] = []
    for at, (before, now) in enumerate(zip(template, tokens, strict=True)):
        if before == model.tokenizer.mask_id:
            if at == 0 or template[at - 1] != model.tokenizer.mask_id:
                holes.append([])
            holes[-1].append(now)
    return [model.tokenizer.decode(hole) for hole in holes]


def _described(model: "Model", template: Sequence[int], row: "Written") -> dict[str, Any]:
    """A filling for programs; `nats` is minus the sum of the log-probabilities of the tokens when they were written."""
    wanted = [p for token, p in zip(template, row.log_probs, strict=True) if token == model.tokenizer.mask_id]
    return {
        "text": model.tokenizer.decode(row.tokens),
        "holes": hole_texts(model, template, row.tokens),
        "log_probs": wanted,
        "nats": -sum(wanted),
        "passes": row.passes,
    }
