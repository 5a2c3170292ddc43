"""`unmask generate`: write text after prompts."""

__all__ = ["GenerateArguments", "run"]

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unmask.cli.parse import Positional, parse
from unmask.cli.show import note, print_json
from unmask.errors import RequestError


@dataclass(frozen=True, slots=True)
class GenerateArguments:
    """Write text: continue a prompt, or begin from nothing."""

    checkpoint: Positional[str] = "shakespeare"
    """A checkpoint or run folder, or the name of a bundled model."""
    prompt: Positional[str] = ""
    """What the text begins with."""
    prompts: str | None = None
    """A file with a prompt on each line."""
    length: int = 128
    """Tokens to write after each prompt; beyond the model's window, in windows that slide."""
    count: int = 1
    """Texts for each prompt."""
    policy: str = "random"
    """Which tokens appear when: a name, or name:key=value (`unmask list policies`)."""
    temperature: float = 1.0
    """0 takes the most probable token; 1 samples from the model."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens that has this share of the probability."""
    dial: float | None = None
    """From 0 (accurate) to 1 (one pass), for a learned policy (learned:from=FOLDER); 0.25 where nothing is said."""
    passes: float | None = None
    """The passes that a learned policy may spend on average: its dial is set by its calibration."""
    block_size: int | None = None
    """Fill blocks of so many positions from left to right."""
    cache: str | None = None
    """Keep keys and values between passes: prefix, dual (both with blocks) or delayed; an option is written
    dual:refresh=8. Faster, and only nearly the same text."""
    guidance: float = 0.0
    """Scale of classifier-free guidance towards the prompt; each pass then costs two."""
    suppress: tuple[str, ...] = ()
    """Tokens that are never written: texts of one token each, or names of special tokens."""
    stride: int | None = None
    """Tokens that each later window adds; by default half a window."""
    seed: int = 0
    """The same seed gives the same text."""
    watch: bool = False
    """Show the text while it is written."""
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
    """Generate and print."""
    arguments = parse(GenerateArguments, argv, "generate")
    prompts = [text for text in _prompts(arguments) for _ in range(arguments.count)]

    from rich.console import Console

    import unmask
    from unmask.api import unigram_entropy
    from unmask.cli.canvas import LiveText, follow
    from unmask.cli.tracing import Tracing

    tracing = Tracing(arguments.trace)
    model = unmask.load(arguments.checkpoint, device=arguments.device, dtype=arguments.dtype, threads=arguments.threads)
    began = time.perf_counter()
    stream = model.stream(
        prompts,
        length=arguments.length,
        policy=arguments.policy,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        block_size=arguments.block_size,
        dial=arguments.dial,
        passes=arguments.passes,
        cache=arguments.cache,
        guidance=arguments.guidance,
        suppress=arguments.suppress,
        stride=arguments.stride,
        seed=arguments.seed,
        alternatives=tracing.alternatives,
    )
    stream = tracing.record(model, stream)
    live = sys.stdout.isatty() and not arguments.json
    if arguments.watch:
        console = Console(stderr=not live, soft_wrap=not sys.stderr.isatty() and not live)
        first = model.tokenizer.encode(prompts[0])
        with LiveText(model.tokenizer, console, prompt=first, total=arguments.length) as canvas:
            rows = follow(stream, canvas.show)
            canvas.finish(rows[0])
    else:
        rows = follow(stream)
    seconds = time.perf_counter() - began
    tracing.save(rows, policy=arguments.policy, seed=arguments.seed, block_size=arguments.block_size)
    texts = [model.tokenizer.decode(row.tokens) for row in rows]
    written = [row.tokens[row.prompt :] for row in rows]
    tokens, entropy = sum(map(len, written)), unigram_entropy(written)
    if arguments.json:
        print_json(
            {
                "texts": texts,
                "prompts": prompts,
                "token_ids": [row.tokens for row in rows],
                "log_probs": [row.log_probs for row in rows],
                "policy": arguments.policy,
                "seed": arguments.seed,
                "passes": [row.passes for row in rows],
                "tokens": tokens,
                "seconds": seconds,
                "tokens_per_second": tokens / seconds,
                "entropy": entropy,
            }
        )
    else:
        _print(texts, skip_first=arguments.watch and live)
    note(
        f"\n{tokens:,} tokens in {sum(row.passes for row in rows):,} passes of a row, {seconds:.1f} s "
        f"({tokens / seconds:,.0f} tokens/s); unigram entropy {entropy:.2f} of at most "
        f"{math.log(max(tokens, 1)):.2f} nats"
    )
    return 0


def _prompts(arguments: GenerateArguments) -> list[str]:
    """The prompts asked for. Raises RequestError for both forms at once, a missing file, or a count below 1."""
    if arguments.count < 1:
        raise RequestError(f"count is {arguments.count}; give the number of texts for each prompt, at least 1.")
    if arguments.prompts is None:
        return [arguments.prompt]
    if arguments.prompt:
        raise RequestError("A prompt and a file of prompts were both given; give one of them.")
    try:
        lines = Path(arguments.prompts).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise RequestError(
            f"{arguments.prompts} cannot be read; give a text file with a prompt on each line."
        ) from None
    if not lines:
        raise RequestError(f"{arguments.prompts} is empty; give a text file with a prompt on each line.")
    return lines


def _print(texts: list[str], *, skip_first: bool) -> None:
    """The texts on stdout, under headings where there are several."""
    for number, text in enumerate(texts, start=1):
        if skip_first and number == 1:
            continue
        if len(texts) > 1:
            print(f"{'' if number == 1 else chr(10)}=== {number} of {len(texts)} ===")
        print(text)
