"""`unmask demo`: the main job in a minute, offline, on the bundled model."""

__all__ = ["DemoArguments", "run"]

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import tyro

from unmask.cli.parse import parse
from unmask.cli.show import note, print_json
from unmask.errors import RequestError

if TYPE_CHECKING:
    from rich.console import Console

    from unmask.api import Model

_SEQUENCES, _PATIENCE = 64, 12.0  # at most so many sequences, and no further pass over them after so many seconds
_LENGTH, _PAUSE = 120, 0.03
_TEMPLATES = ("ROMEO.\nBut, soft! what [6] through yonder window breaks?", "The [3] of the [2].", "[2]")


@dataclass(frozen=True, slots=True)
class DemoArguments:
    """See it work in a minute: measure held-out text, watch a text appear, fill a hole."""

    checkpoint: tyro.conf.Positional[str] = "shakespeare"
    """A checkpoint or run folder, or the name of a bundled model."""
    prompt: str = ""
    """What the generated text begins with."""
    template: str | None = None
    """The text with holes to fill; by default a line of Romeo's, or what fits into the model's window."""
    seed: int = 0
    """The same seed shows the same texts."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network."""
    threads: int | None = None
    """Processor threads; by default torch's own choice."""
    json: bool = False
    """Print one JSON object on stdout."""


def run(argv: Sequence[str]) -> int:
    """Show the three things, and what to type next."""
    arguments = parse(DemoArguments, argv, "demo")
    began = time.perf_counter()

    from rich.console import Console

    import unmask

    console = Console(stderr=arguments.json, highlight=False)
    model = unmask.load(arguments.checkpoint, device=arguments.device, dtype=arguments.dtype, threads=arguments.threads)
    console.print(f"{arguments.checkpoint}: {model!r}", markup=False)
    told = {
        "checkpoint": arguments.checkpoint,
        "bound": _measure(model, console),
        "generated": _generate(model, console, arguments),
        "filled": _fill(model, console, arguments),
        "seconds": time.perf_counter() - began,
    }
    if arguments.json:
        print_json(told)
        return 0
    name = arguments.checkpoint
    console.print(
        f"\n{told['seconds']:.0f} s in all. Try next:\n"
        f"  unmask generate {name} 'HAMLET.' --length 400 --watch\n"
        f"  unmask fill {name} 'My kingdom for a [3]!' --count 5\n"
        "  unmask train --data.source YOUR.txt",
        markup=False,
    )
    return 0


def _measure(model: "Model", console: "Console") -> dict[str, Any] | None:
    """The bound on the first held-out sequences of what the model was trained on; None where that is not known."""
    from unmask.config import from_dict
    from unmask.data.prepare import prepare
    from unmask.data.settings import DataSettings

    record = (model.checkpoint.run if model.checkpoint else None) or {}
    if "settings" not in record:
        note("The checkpoint does not say what it was trained on, so nothing is measured.")
        return None
    console.rule("How well it knows held-out text", align="left", style="dim")
    settings = from_dict(DataSettings, record["settings"]["data"], "run.json")
    corpus = prepare(settings, model.tokenizer)
    began = time.perf_counter()
    model.bound_packed(corpus.valid, limit=4)  # tells how fast this machine is
    each = (time.perf_counter() - began) / min(4, len(corpus.valid))
    count = max(8, min(_SEQUENCES, len(corpus.valid), int(_PATIENCE / each / 2)))
    found = model.bound_packed(corpus.valid, limit=count, draws=2)
    error = "" if found.stderr is None else f" ± {found.stderr:.3f}"
    console.print(
        f"{found.nats_per_token:.3f}{error} nats/token: perplexity at most {found.perplexity:.1f} "
        f"({found.tokens:,} tokens of {settings.source} that were kept out of training, {found.draws} maskings each)\n",
        markup=False,
    )
    return asdict(found) | {"perplexity": found.perplexity}


def _generate(model: "Model", console: "Console", arguments: DemoArguments) -> dict[str, Any]:
    """A text, shown while it is written."""
    from unmask.api import unigram_entropy
    from unmask.cli.canvas import Canvas, follow

    length = min(_LENGTH, model.window)
    console.rule("A text, written in no particular order", align="left", style="dim")
    prompt = model.tokenizer.encode(arguments.prompt)
    stream = model.stream(
        arguments.prompt, length=length, seed=arguments.seed, temperature=0.8, top_p=0.95, stop_at_eos=False
    )
    began = time.perf_counter()
    with Canvas(model.tokenizer, console, prompt=prompt, total=length, pause=_PAUSE) as canvas:
        row = follow(stream, canvas.show)[0]
    seconds, entropy = time.perf_counter() - began, unigram_entropy([row.tokens[row.prompt :]])
    console.print(f"unigram entropy {entropy:.2f} nats\n", style="dim")
    return {
        "text": model.tokenizer.decode(row.tokens),
        "passes": row.passes,
        "seconds": seconds,
        "entropy": entropy,
    }


def _fill(model: "Model", console: "Console", arguments: DemoArguments) -> list[dict[str, Any]]:
    """Three fillings of a template, the likeliest first."""
    console.rule("Filling a hole, with text on both sides", align="left", style="dim")
    text = arguments.template or _fitting(model)
    console.print(text, markup=False)
    found = model.fill(text, count=6, seed=arguments.seed, temperature=0.8)
    pairs = zip(found.holes, found.log_probs, strict=True)
    fills: list[dict[str, Any]] = [{"holes": holes, "log_prob": sum(log_probs)} for holes, log_probs in pairs]
    fills.sort(key=lambda fill: -fill["log_prob"])
    for fill in fills[:3]:
        shown = " … ".join(text.strip().replace("\n", " / ") for text in fill["holes"])
        console.print(f"  {shown}   (log-probability {fill['log_prob']:.1f})", markup=False)
    return fills[:3]


def _fitting(model: "Model") -> str:
    """The first of our templates that the window holds."""
    for text in _TEMPLATES[:-1]:
        try:
            model.canvas_of(text)
        except RequestError:
            continue
        return text
    return _TEMPLATES[-1]
