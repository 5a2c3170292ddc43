"""`unmask fill`: fill the holes of a text, or tell which of some choices belongs there."""

__all__ = ["FillArguments", "run"]

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from unmask.cli.parse import Positional, parse, typed_positionals
from unmask.cli.show import note, print_json
from unmask.errors import RequestError

if TYPE_CHECKING:
    from unmask.api import Model
    from unmask.fill.holes import Fill


@dataclass(frozen=True, slots=True)
class FillArguments:
    r"""Fill the holes of a text, several at once, or compare choices for one.

    [5] is a hole of five tokens. [1-8] has 1 to 8, whichever length gives the whole text the best bound. [=old words]
    writes these words anew in as many tokens, [4=old words] in 4, [1-8=old words] in 1 to 8. [?] is the place of the
    --choices. \[ and \] are brackets that are text. Put the space before a word into its brackets: "My[= king] is".

    Shorter texts have the advantage that a likelihood gives them: each token more has to be paid for.

    With one word alone it is the template, and the bundled model fills it.
    """

    checkpoint: Positional[str]
    """A checkpoint or run folder, or the name of a bundled model."""
    template: Positional[str]
    """The text with holes."""
    choices: tuple[str, ...] = ()
    """Texts that may stand at [?]: tells how probable each is there, and fills nothing."""
    count: int = 1
    """How many fillings."""
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
    """Fill so many positions before the next begin; by default all at once."""
    cache: str | None = None
    """Keep keys and values between passes: prefix, dual (both with blocks) or delayed."""
    only: str | None = None
    """Write only tokens that are made of these characters, such as 0123456789."""
    draws: int = 32
    """Random maskings that tell the best of several lengths, or orders of a choice's tokens where it has many."""
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
    if len(typed_positionals(FillArguments, words, "fill")) == 1:
        words = ["shakespeare", *words]
    arguments = parse(FillArguments, words, "fill")

    if arguments.choices and arguments.trace:
        raise RequestError("--choices writes nothing that could be recorded; leave --trace out.")

    from rich.console import Console

    import unmask
    from unmask.cli.canvas import LiveText, follow
    from unmask.cli.tracing import Tracing

    tracing = Tracing(arguments.trace)
    model = unmask.load(arguments.checkpoint, device=arguments.device, dtype=arguments.dtype, threads=arguments.threads)
    began = time.perf_counter()
    if arguments.choices:
        return _compare(model, arguments, began)
    first = model.canvas_of(arguments.template)
    stream = model.stream_fill(
        arguments.template,
        policy=arguments.policy,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        block_size=arguments.block_size,
        dial=arguments.dial,
        passes=arguments.passes,
        cache=arguments.cache,
        count=arguments.count,
        seed=arguments.seed,
        draws=arguments.draws,
        constraint=None if arguments.only is None else model.only(arguments.only),
        alternatives=tracing.alternatives,
    )
    stream = tracing.record(model, stream, arguments.template)
    live = sys.stdout.isatty() and not arguments.json
    if arguments.watch:
        holes = sum(token == model.tokenizer.mask_id for token in first)
        with LiveText(model.tokenizer, Console(stderr=not live), prompt=(), total=holes) as canvas:
            rows = follow(stream, canvas.show)
    else:
        rows = follow(stream)
    tracing.save(rows, policy=arguments.policy, seed=arguments.seed, block_size=arguments.block_size)
    fills = [_described(model, one) for one in rows]
    if arguments.json:
        seconds = time.perf_counter() - began
        print_json({"fills": fills, "policy": arguments.policy, "seed": arguments.seed, "seconds": seconds})
        return 0
    for number, fill in enumerate(fills, start=1):
        if not (arguments.watch and live and number == 1) or fill["attempts"]:
            print(fill["text"])
        shown = " | ".join(f"{text!r}" for text in fill["holes"])
        note(f"  filled {shown}: {fill['nats']:.2f} nats in all, {fill['passes']} passes")
        if fill["attempts"]:
            note(_attempt_table(fill["attempts"]))
    return 0


def _compare(model: "Model", arguments: FillArguments, began: float) -> int:
    """Print how probable each choice is, the most probable first."""
    found = model.score(arguments.template, arguments.choices, orders=arguments.draws, seed=arguments.seed)
    if arguments.json:
        seconds = time.perf_counter() - began
        print_json({"choices": [asdict(one) for one in found], "seed": arguments.seed, "seconds": seconds})
        return 0
    width = max(len(repr(one.text)) for one in found)
    print(f"{'':{width}}  probability    nats          tokens")
    for one in sorted(found, key=lambda one: -one.probability):
        print(
            f"{one.text!r:{width}}  {one.probability:11.4f}  {one.nats:6.2f} ± {one.stderr:<5.2f}  {one.tokens:>6}",
        )
    return 0


def _attempt_table(attempts: list[dict[str, Any]]) -> str:
    """What each combination of lengths came to, the best first."""
    width = max(len(_lengths(one)) for one in attempts)
    lines = [f"  {'tokens':>{max(width, 6)}}  nats of the whole text  behind the best"]
    for one in attempts:
        behind = f"{one['behind']:7.2f} ± {one['behind_stderr']:.2f}" if one is not attempts[0] else f"{'':12}"
        holes = " | ".join(f"{text!r}" for text in one["holes"])
        lines.append(
            f"  {_lengths(one):>{max(width, 6)}}  {one['nats']:12.2f} ± {one['stderr']:<7.2f}  {behind:<15}  {holes}"
        )
    return "\n".join(lines)


def _lengths(attempt: dict[str, Any]) -> str:
    return " + ".join(map(str, attempt["lengths"]))


def _described(model: "Model", row: "Fill") -> dict[str, Any]:
    """A filling for programs; `nats` is minus the sum of the log-probabilities of the tokens when they were written."""
    return {
        "text": model.tokenizer.decode(row.tokens),
        "holes": [model.tokenizer.decode(hole) for hole in row.holes],
        "log_probs": row.hole_log_probs,
        "nats": -sum(row.log_probs),
        "passes": row.passes,
        "attempts": [
            {
                "lengths": one.lengths,
                "text": model.tokenizer.decode(one.tokens),
                "holes": [model.tokenizer.decode(hole) for hole in one.holes],
                "nats": one.nats,
                "stderr": one.stderr,
                "behind": one.behind,
                "behind_stderr": one.behind_stderr,
                "passes": one.passes,
            }
            for one in row.attempts
        ],
    }
