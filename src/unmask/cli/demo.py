"""`unmask demo`: what the library does, shown in about a minute, offline, on the bundled models."""

__all__ = ["DemoArguments", "dial_table", "policy_table", "run"]

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.cli.common import MachineOptions, OutputOptions, TrustOptions, print_json
from unmask.cli.parse import Flat, Positional, parse
from unmask.config import to_path
from unmask.disk.folders import DEFAULT_MODEL
from unmask.errors import DataError, PluginError, RequestError
from unmask.output import console as screen
from unmask.output import note
from unmask.ranges import Count, Seed

if TYPE_CHECKING:
    from rich.console import Console

    from unmask.api import Model
    from unmask.solve.puzzles import DialPoint, PolicyRun, Puzzles, PuzzleSet

_SEQUENCES, _PATIENCE = 16, 5.0  # the most sequences to measure, and the seconds that measuring may take, about
_LENGTH, _PAUSE = 120, 0.03
_RULES = ("entropy-bound:gamma=16", "random:steps=32")  # of models that are not bundled
_PROMPTS = ("river:", "teacher:", "music:")
_DEFINITIONS = "garden: a[2] where[2] grow"
_LOOKUP = (
    "a large natural stream of water",
    "a person who teaches",
    "sounds that are played or sung",
    "with speed; in a hurry",
)
_WORDS = ("river", "teacher", "music", "quickly")
_TEMPLATES = (_DEFINITIONS, "The [3] of the [2].", "[2]")
_PUZZLES, _OUT = 104, "runs/demo"


@dataclass(frozen=True, slots=True)
class DemoArguments:
    """A demonstration of a minute: puzzles by several unmasking policies and dial values, texts, filled holes, words
    for definitions.

    With a checkpoint it shows that model alone: a text, a filled hole, and the bound on held-out text.
    With --dtype auto puzzles are solved in float32, so that their figures are the same on every machine.
    """

    checkpoint: Positional[str | None] = None
    """Show this model, a checkpoint or run folder or a bundled name, and no puzzles."""
    puzzles: Count | None = None
    """Number of puzzles of each set; by default 104, or what this machine decodes in 30 s, but at least 24."""
    prompt: str = ""
    """The start of the generated text; by default there are three texts."""
    template: str | None = None
    """The text with holes to fill; by default a definition, or a shorter text for a model with a short window."""
    seed: Seed = 0
    """The same seed gives the same puzzles and texts."""
    out: str | None = None
    """Folder of the picture and the page; by default runs/demo."""
    machine: Flat[MachineOptions] = MachineOptions()
    trust: Flat[TrustOptions] = TrustOptions()
    output: Flat[OutputOptions] = OutputOptions()

    def __post_init__(self) -> None:
        if self.checkpoint is not None and (self.puzzles is not None or self.out is not None):
            raise RequestError(
                f"--puzzles and --out go with the bundled puzzles, which are not shown with '{self.checkpoint}'; "
                "leave the checkpoint out, or these."
            )


@dataclass(slots=True)
class _Result:
    """The results on one puzzle set: a run of each policy, and the points of the learned policy's dial."""

    puzzle_set: "PuzzleSet"
    puzzles: "Puzzles"
    runs: "list[PolicyRun]"
    dial: "list[DialPoint]" = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """The results as plain data, for JSON."""
        return {
            "checkpoint": self.puzzle_set.checkpoint,
            "task": self.puzzles.task.name,
            "puzzles": len(self.puzzles.problems),
            "policies": [run.facts() for run in self.runs],
            "dial": [point._asdict() for point in self.dial],
        }


def run(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; shows puzzles, a text, a filled hole and a bound."""
    arguments = parse(DemoArguments, argv, "demo")
    arguments.trust.apply()
    began = time.perf_counter()

    from unmask.disk.files import run_lock

    console = screen(stderr=arguments.output.json)
    report: dict[str, Any] = {}
    if arguments.checkpoint is None:
        folder = to_path(arguments.out or _OUT)
        with run_lock(folder, note):  # before the work, so that a wrong folder fails at once
            results = _solve(console, arguments)
            report["puzzles"] = {result.puzzle_set.title: result.facts() for result in results}
            report["files"] = [str(path) for path in _write(results, folder, arguments.seed)]
    name = arguments.checkpoint or DEFAULT_MODEL
    model = arguments.machine.load(name)
    console.rule("A text, written in no particular order", align="left", style="dim")
    console.print(f"{name}: {model!r}", markup=False)
    report |= {
        "checkpoint": name,
        "generated": _texts(model, console, arguments),
        "filled": _fill(model, console, arguments),
        "words": [] if arguments.checkpoint else _words(model, console),
        "bound": _measure(model, console),
    }
    report["seconds"] = time.perf_counter() - began
    if arguments.output.json:
        print_json(report)
        return 0
    for path in report.get("files", ()):
        console.print(f"written: {path}", markup=False, soft_wrap=True)
    console.print(f"\n{report['seconds']:.0f} s in all. Try next:\n{_next(arguments.checkpoint)}", markup=False)
    return 0


def _next(checkpoint: str | None) -> str:
    """Checkpoint -> lines with commands to try after the demo."""
    name = checkpoint or DEFAULT_MODEL
    lines = [
        f"  unmask generate {name} 'music:' --watch",
        f"  unmask fill {name} 'teacher: a person who[5]' --count 5",
        "  unmask train --data.source YOUR.txt",
    ]
    if checkpoint is None:
        lines.append("  unmask learn automaton_eos")
    return "\n".join(lines)


# ---- puzzles ---------------------------------------------------------------------------------------------------------


def _solve(console: "Console", arguments: DemoArguments) -> list[_Result]:
    """Solve each puzzle set by every policy, shown live, and by the learned policy at several dial values."""
    from unmask.cli.live import Panel
    from unmask.solve.puzzles import LEARNED, PUZZLE_SETS, decode_in_turn, dial_points, open_puzzles, policy_runs

    results: list[_Result] = []
    for puzzle_set in PUZZLE_SETS:
        puzzles = open_puzzles(
            puzzle_set,
            arguments.puzzles or _PUZZLES,
            arguments.seed,
            device=arguments.machine.device,
            dtype="float32" if arguments.machine.dtype == "auto" else arguments.machine.dtype,
            threads=1 if arguments.machine.threads is None else arguments.machine.threads,  # the networks are tiny
        )
        runs, count = policy_runs(puzzle_set), len(puzzles.problems)
        console.rule(f"{puzzle_set.title}: the same {count} puzzles by every policy", align="left", style="dim")
        with Panel(puzzle_set, puzzles, runs, console) as panel:
            panel.follow(decode_in_turn(puzzles, runs, limited=arguments.puzzles is None))
        if len(puzzles.problems) < count:
            console.print(f"  {len(puzzles.problems)} of them, so that it does not take too long", style="dim")
        console.print(policy_table(runs), markup=False)
        result = _Result(puzzle_set, puzzles, runs)
        if runs[-1].label == LEARNED:
            console.print("\n  one learned network at several dial values, from accurate to fast")
            with console.status("decoding the puzzles at each dial value"):
                result.dial = dial_points(puzzles, runs[-1].policy)
            console.print(dial_table(result.dial))
        console.print()
        results.append(result)
    return results


def policy_table(runs: "Sequence[PolicyRun]") -> str:
    """Runs -> a table of accuracy with its 95 % interval, and passes, a line for each policy."""
    lines = [f"  {'policy':<32}  accuracy [95 %]     passes"]
    for run in runs:
        name, (low, high) = f"{run.label}, {run.options}", run.interval
        lines.append(f"  {name:<32}  {run.accuracy:8.2f} [{low:.2f}, {high:.2f}]  {run.mean_passes:5.1f}")
    return "\n".join(lines)


def dial_table(points: "Sequence[DialPoint]") -> str:
    """Points -> a table with a line for each dial value; bars show the accuracy and the number of passes."""
    most = max(point.passes for point in points)
    lines = [f"  dial  {'accuracy [95 %]':<40}  passes"]
    for point in points:
        right, passes = "━" * round(20 * point.accuracy), "━" * round(20 * point.passes / most)
        low, high = point.interval
        accuracy = f"{point.accuracy:.2f} [{low:.2f}, {high:.2f}]"
        lines.append(f"  {point.dial:4.2f}  {right:<20} {accuracy:<19}  {passes:<20} {point.passes:6.1f}")
    return "\n".join(lines)


def _write(results: Sequence[_Result], folder: Path, seed: int) -> list[Path]:
    """Write the picture, where it can be drawn, and the page -> their paths. Each file is replaced atomically."""
    from unmask.disk.files import atomic_text
    from unmask.plots import can_draw
    from unmask.trace.page import to_html

    paths: list[Path] = []
    if not can_draw():
        note("No picture is drawn: that needs a package that is missing, pip install 'unmask[plots]'.")
    else:
        _plot(results, folder / "policies.png", seed)
        paths.append(folder / "policies.png")
    last = results[-1]
    run = last.runs[-1]
    right = (number for number, score in sorted(run.verdicts.items()) if score == 1)
    example = last.puzzles.problems[next(right, 0)].example
    trace = last.puzzles.model.fill(example.template, policy=run.policy, temperature=0.0, seed=seed, trace=True).trace
    assert trace is not None
    atomic_text(folder / "sudoku.html", to_html(trace))
    return [*paths, folder / "sudoku.html"]


def _plot(results: Sequence[_Result], path: Path, seed: int) -> None:
    from unmask.eval.report import Point, plot_points

    panels = {
        f"{result.puzzle_set.title} ({len(result.puzzles.problems)} puzzles)": (
            [Point(run.label, run.mean_passes, run.accuracy, run.interval) for run in result.runs],
            [Point(f"{point.dial:g}", point.passes, point.accuracy, point.interval) for point in result.dial],
        )
        for result in results
    }
    plot_points(panels, f"The same puzzles by every policy (seed {seed})", path)


# ---- text ------------------------------------------------------------------------------------------------------------


def _texts(model: "Model", console: "Console", arguments: DemoArguments) -> list[dict[str, Any]]:
    """Texts, shown while they are written -> their facts. A model that is not bundled writes by two rules."""
    if arguments.checkpoint is None:
        prompts = (arguments.prompt,) if arguments.prompt else _PROMPTS
        label = f"{model.defaults.policy}, blocks of {model.defaults.block_size}"
        return [_generate(model, console, arguments, prompt, label, {}) for prompt in prompts]
    return [
        _generate(
            model, console, arguments, arguments.prompt, rule, {"policy": rule, "temperature": 0.8, "top_p": 0.95}
        )
        for rule in _RULES
    ]


def _generate(
    model: "Model", console: "Console", arguments: DemoArguments, start: str, label: str, decoding: dict[str, Any]
) -> dict[str, Any]:
    """Write a text after `start`, shown while it is written -> its facts. `decoding` has keywords of `stream`."""
    from unmask.cli.live import LiveText
    from unmask.decode.rows import unigram_entropy

    prompt = model.tokenizer.encode(start)
    length = min(_LENGTH, model.window - len(prompt)) if len(prompt) < model.window else _LENGTH
    console.print(f"\n{label}", style="bold", markup=False)
    stream = model.stream(start, length=length, seed=arguments.seed, **decoding)
    with LiveText(model.tokenizer, console, prompt=prompt, total=length, pause=_PAUSE) as live:
        row = live.follow(stream)[0]
    entropy = unigram_entropy([row.tokens[row.prompt :]])
    written = len(row.tokens) - row.prompt
    console.print(f"{written} tokens in {row.passes} passes; unigram entropy {entropy:.2f} nats\n", style="dim")
    return {
        "label": label,
        "text": model.tokenizer.text(row.tokens, row.typed),
        "passes": row.passes,
        "entropy": entropy,
    }


def _fill(model: "Model", console: "Console", arguments: DemoArguments) -> list[dict[str, Any]]:
    """Fill the template six times -> the three fillings with the largest log-probability, the largest first."""
    console.rule("Filling a hole, with text on both sides", align="left", style="dim")
    text = arguments.template or _fitting(model)
    console.print(text, markup=False)
    result = model.fill(text, count=6, seed=arguments.seed, temperature=0.8 if arguments.checkpoint else None)
    pairs = zip(result.holes, result.log_probs, strict=True)
    fills: list[dict[str, Any]] = [{"holes": holes, "log_prob": sum(log_probs)} for holes, log_probs in pairs]
    fills.sort(key=lambda fill: -fill["log_prob"])
    for fill in fills[:3]:
        shown = " … ".join(text.strip().replace("\n", " / ") for text in fill["holes"])
        console.print(f"  {shown}   (log-probability {fill['log_prob']:.1f})", markup=False)
    return fills[:3]


def _words(model: "Model", console: "Console") -> list[dict[str, Any]]:
    """Definitions -> the probabilities of some words for each."""
    console.print()
    console.rule(f"The word for a definition, among {len(_WORDS)}", align="left", style="dim")
    answers: list[dict[str, Any]] = []
    for definition in _LOOKUP:
        choices = sorted(model.score(f"[?]: {definition}", _WORDS), key=lambda choice: -choice.probability)
        answers.append({"definition": definition, "words": {choice.text: choice.probability for choice in choices}})
        shown = ", ".join(f"{choice.text} {choice.probability:.0%}" for choice in choices)
        console.print(f"  {definition}: {shown}", markup=False)
    return answers


def _fitting(model: "Model") -> str:
    """The first of `_TEMPLATES` whose characters the model has and that fits into its window; the last always does."""
    for text in _TEMPLATES[:-1]:
        if model.tokenizer.unknown(re.sub(r"\[\d+\]", "", text)):
            continue
        try:
            model.canvas_of(text)
        except RequestError:
            continue
        return text
    return _TEMPLATES[-1]


def _measure(model: "Model", console: "Console") -> dict[str, Any] | None:
    """The bound on the first held-out sequences of the training text; None where that text is not known or missing."""
    from unmask.train.plan import corpus_of
    from unmask.train.settings import trained_on

    trained = trained_on(model.checkpoint) if model.checkpoint else None
    if trained is None:
        note("The checkpoint does not say what it was trained on, so nothing is measured.")
        return None
    settings = trained.data
    try:
        advice = "or measure another text with unmask eval --data.source FILE"
        corpus = corpus_of(settings, model.tokenizer, trained=trained, advice=advice)
    except (DataError, PluginError, RequestError) as error:
        note(f"What it was trained on is not here, so nothing is measured: {error}")
        return None
    console.print()
    console.rule("The bound on held-out text", align="left", style="dim")
    began = time.perf_counter()
    model.bound_packed(corpus.valid, limit=4)  # measures the speed of this machine
    each = (time.perf_counter() - began) / min(4, len(corpus.valid))
    count = max(8, min(_SEQUENCES, len(corpus.valid), int(_PATIENCE / each / 2)))
    bound = model.bound_packed(corpus.valid, limit=count, draws=2)
    error = "" if bound.stderr is None else f" ± {bound.stderr:.3f}"
    console.print(
        f"{bound.nats_per_token:.3f}{error} nats/token: perplexity at most {bound.perplexity:.1f} "
        f"({bound.tokens:,} tokens of {settings.source} that were kept out of training, {bound.draws} maskings each)\n",
        markup=False,
    )
    return bound.to_dict()
