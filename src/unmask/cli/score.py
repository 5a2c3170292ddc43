"""`unmask score`, and `unmask eval --task lm-eval:NAME`: how probable answers are, for a question and for a task."""

__all__ = ["ScoreArguments", "run", "run_harness"]

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from unmask.cli.common import MachineOptions, OutputOptions, duration, print_json
from unmask.cli.measure import EvalArguments
from unmask.cli.parse import Flat, Positional, parse
from unmask.errors import ConfigError
from unmask.output import note, show
from unmask.ranges import Draws, Seed

if TYPE_CHECKING:
    from unmask.fill.holes import Choice

_DRAWS = 32  # of an answer
_PREFIX = "lm-eval:"


@dataclass(frozen=True, slots=True)
class ScoreArguments:
    r"""Compare the answers to a question: log p of each after the same context, and a token and a byte of it.

    For a masked model log p is a bound, the mean over the orders in which the tokens can be revealed; for an
    autoregressive one it is exact. The answers follow the context, or are where it has [?]; \[ and \] are brackets that
    are text. Put the space before a word into the answer: --choices " yes" " no".
    """

    checkpoint: Positional[str]
    """A checkpoint or run folder, or the name of a model: bundled, in the cache, or of the Hugging Face hub."""
    context: Positional[str]
    """The text before the answers."""
    choices: tuple[str, ...] = ()
    """The answers."""
    draws: Draws = _DRAWS
    """Random orders of the tokens of a long answer; all orders are counted where the tokens are few."""
    seed: Seed = 0
    """Seed of the orders."""
    machine: Flat[MachineOptions] = MachineOptions()
    output: Flat[OutputOptions] = OutputOptions()


def run(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; prints log p of each answer, the best ones marked."""
    arguments = parse(ScoreArguments, argv, "score")
    if not arguments.choices:
        raise ConfigError('score compares answers: give them with --choices, such as --choices " yes" " no".')
    from unmask.text.template import Slot, parse_template

    template = f"{arguments.context}[?]"
    if sum(isinstance(part, Slot) for part in parse_template(template)) > 1:
        template = arguments.context
    model = arguments.machine.load(arguments.checkpoint)
    began = time.perf_counter()
    choices = model.score(template, arguments.choices, orders=arguments.draws, seed=arguments.seed)
    seconds = time.perf_counter() - began
    best = {name: min(range(len(choices)), key=lambda i: values[i]) for name, values in _measures(choices).items()}
    if arguments.output.json:
        rows = [
            asdict(choice) | {name: values[i] for name, values in _measures(choices).items() if name != "nats"}
            for i, choice in enumerate(choices)
        ]
        print_json({"choices": rows, "best": best, "seed": arguments.seed, "seconds": seconds})
        return 0
    show(*_table(choices, best))
    if not all(choice.exact for choice in choices):
        note(f"bounds from {arguments.draws} random orders, {duration(seconds)}; the log p of the model may be higher.")
    return 0


def _measures(choices: "Sequence[Choice]") -> dict[str, list[float]]:
    """Choices -> -log p of each: in total, a token, and a byte of the answer as it was typed."""
    return {
        "nats": [choice.nats for choice in choices],
        "nats_per_token": [choice.nats / choice.tokens for choice in choices],
        "nats_per_byte": [choice.nats / max(1, len(choice.text.encode())) for choice in choices],
    }


def _table(choices: "Sequence[Choice]", best: Mapping[str, int]) -> list[str]:
    """Choices and which is the best of each measure -> the lines of a table; a star marks the best."""
    width = max(len(repr(choice.text)) for choice in choices)
    lines = [f"{'':{width}}    log p              a token     a byte    share  tokens"]
    for i, choice in enumerate(choices):
        cells = []
        for name, values in _measures(choices).items():
            error = (" exact  " if choice.exact else f" ± {choice.stderr:<5.2f}") if name == "nats" else ""
            cells.append(f"{-values[i]:9.3f}{error}{'*' if best[name] == i else ' '}")
        lines.append(f"{choice.text!r:{width}}{'  '.join(cells)}  {choice.probability:6.3f}  {choice.tokens:>6}")
    return lines


# ---- the harness -----------------------------------------------------------------------------------------------------


def run_harness(arguments: EvalArguments) -> int:
    """Arguments of `unmask eval` with a task -> exit code; prints the metrics, and the errors of the bounds."""
    options = arguments.tasks
    task = options.task or ""
    names = [name.strip() for name in task.removeprefix(_PREFIX).split(",") if name.strip()]
    if not task.startswith(_PREFIX) or not names:
        raise ConfigError(f"--task is '{task}'; give lm-eval:NAME, a task of lm-evaluation-harness.")
    from unmask.eval.harness import run_tasks
    from unmask.eval.scorer import HarnessOptions

    settings = HarnessOptions(
        draws=arguments.draws or _DRAWS,
        seed=arguments.seed,
        batch=arguments.batch,
        stride=arguments.stride,
        policy=options.policy,
        temperature=options.temperature,
    )
    began = time.perf_counter()
    model = arguments.machine.load(arguments.checkpoint)
    result = run_tasks(model, names, settings, include=options.include, limit=arguments.limit, shots=options.shots)
    result |= {"checkpoint": arguments.checkpoint, **asdict(settings), "seconds": time.perf_counter() - began}
    if arguments.output.json:
        print_json(result)
        return 0
    for name, metrics in result["results"].items():
        show(*_task_lines(name, metrics, result, settings.draws))
    note(f"{duration(result['seconds'])}; window {model.window} tokens, seed {settings.seed}.")
    if result["ignored"]:
        note(f"options of the tasks without effect here: {', '.join(result['ignored'])}.")
    return 0


def _task_lines(name: str, metrics: Mapping[str, Any], result: Mapping[str, Any], draws: int) -> list[str]:
    """The metrics of a task -> lines: each with the error that the harness gives it, then those of the bounds."""
    count = result["examples"].get(name)
    lines = [f"{name}{'' if count is None else f' ({count} examples)'}"]
    for metric, value in metrics.items():
        base, _, filtered = metric.partition(",")
        if base.endswith("_stderr") or base == "sample_len":
            continue
        error = metrics.get(f"{base}_stderr{',' if filtered else ''}{filtered}")
        shown = f" ± {error:.4f}" if isinstance(error, float) and math.isfinite(error) else ""
        lines.append(f"  {metric:<20} {value:.4f}{shown}")
    bound = result["bounds"].get(name)
    if bound is None:
        return lines
    if bound["exact"] == bound["requests"]:
        return [*lines, f"  log p is exact in all {bound['requests']} requests"]
    drawn = bound["requests"] - bound["exact"]
    lines.append(f"  log p is a bound in {drawn} of {bound['requests']} requests, {draws} maskings each:")
    error = f"± {bound['stderr']:.3f} nats a request, ± {bound['bits_per_byte_stderr']:.4f} bits/byte in all"
    return [*lines, f"  {'':<20} {error}"]
