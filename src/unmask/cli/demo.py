"""`unmask demo`: the main job in a minute, offline, on the bundled models."""

__all__ = ["DemoArguments", "run"]

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.cli.options import MachineOptions, OutputOptions
from unmask.cli.parse import Flat, Positional, parse
from unmask.cli.show import note, print_json
from unmask.errors import ConfigError, DataError, PluginError, RequestError

if TYPE_CHECKING:
    from rich.console import Console

    from unmask.api import Model
    from unmask.policies.base import UnmaskingPolicy
    from unmask.solve.race import Course, Place, Puzzles, Runner

_BUNDLED = "shakespeare"
_SEQUENCES, _PATIENCE = 16, 5.0  # at most so many sequences, and no further pass over them after so many seconds
_LENGTH, _PAUSE = 120, 0.03
_STEPS, _GAMMA = 32, 16.0  # so many nats a pass come to about as many passes; at 1 nat there are 113
_TEMPLATES = ("ROMEO.\nBut, soft! what [6] through yonder window breaks?", "The [3] of the [2].", "[2]")
_PUZZLES, _OUT = 24, "runs/demo"


@dataclass(frozen=True, slots=True)
class DemoArguments:
    """See it work in a minute: the same puzzles by several unmasking policies, a dial turned, a text, a hole filled.

    With a checkpoint it shows that model alone: held-out text measured, a text written, a hole filled.
    With --dtype auto puzzles are solved in float32, so that their figures are the same on every machine.
    """

    checkpoint: Positional[str | None] = None
    """Show this model, a checkpoint or run folder or a bundled name, and no puzzles."""
    puzzles: int | None = None
    """How many automaton traces, with half as many Sudokus; by default 24."""
    prompt: str = ""
    """What the generated text begins with."""
    template: str | None = None
    """The text with holes to fill; by default a line of Romeo's, or what fits into the model's window."""
    seed: int = 0
    """The same seed shows the same puzzles and texts."""
    out: str | None = None
    """Where the picture and the page go; by default runs/demo."""
    machine: Flat[MachineOptions] = MachineOptions()
    output: Flat[OutputOptions] = OutputOptions()

    def __post_init__(self) -> None:
        if self.puzzles is not None and self.puzzles < 1:
            raise ConfigError(f"puzzles is {self.puzzles}; give how many to solve, at least 1.")
        if self.checkpoint is not None and (self.puzzles is not None or self.out is not None):
            raise RequestError(
                f"--puzzles and --out go with the bundled puzzles, which are not shown with '{self.checkpoint}'; "
                "leave the checkpoint out, or these."
            )


@dataclass(slots=True)
class _Shown:
    """What became of one set of puzzles."""

    course: "Course"
    puzzles: "Puzzles"
    runners: "list[Runner]"
    dial: "list[Place]" = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """For programs."""
        return {
            "checkpoint": self.course.checkpoint,
            "task": self.puzzles.task.name,
            "puzzles": len(self.puzzles.problems),
            "policies": [one.facts() for one in self.runners],
            "dial": [place._asdict() for place in self.dial],
        }


def run(argv: Sequence[str]) -> int:
    """Show everything, and what to type next."""
    arguments = parse(DemoArguments, argv, "demo")
    began = time.perf_counter()

    from rich.console import Console

    from unmask.disk.files import explained

    console = Console(stderr=arguments.output.json, highlight=False)
    told: dict[str, Any] = {}
    if arguments.checkpoint is None:
        folder = Path(arguments.out or _OUT)
        with explained(folder):  # now, rather than after the work
            folder.mkdir(parents=True, exist_ok=True)
        shown = _solve(console, arguments)
        told["puzzles"] = {one.course.title: one.facts() for one in shown}
        told["files"] = [str(path) for path in _write(shown, folder, arguments.seed)]
    name = arguments.checkpoint or _BUNDLED
    model = arguments.machine.load(name)
    console.rule("A text, written in no particular order", align="left", style="dim")
    console.print(f"{name}: {model!r}", markup=False)
    told |= {
        "checkpoint": name,
        "generated": [
            _generate(model, console, arguments, label, policy) for label, policy in _writers(arguments.checkpoint)
        ],
        "filled": _fill(model, console, arguments),
        "bound": _measure(model, console),
    }
    told["seconds"] = time.perf_counter() - began
    if arguments.output.json:
        print_json(told)
        return 0
    for path in told.get("files", ()):
        console.print(f"written: {path}", markup=False, soft_wrap=True)
    console.print(f"\n{told['seconds']:.0f} s in all. Try next:\n{_next(arguments.checkpoint)}", markup=False)
    return 0


def _next(checkpoint: str | None) -> str:
    """What to type after the demo."""
    name = checkpoint or _BUNDLED
    lines = [
        f"  unmask generate {name} 'HAMLET.' --length 400 --watch",
        f"  unmask fill {name} 'My kingdom for a [3]!' --count 5",
        "  unmask train --data.source YOUR.txt",
    ]
    if checkpoint is None:
        lines.append("  unmask learn automaton_eos")
    return "\n".join(lines)


# ---- puzzles ---------------------------------------------------------------------------------------------------------


def _solve(console: "Console", arguments: DemoArguments) -> list[_Shown]:
    """Each set of puzzles by every policy, live, and by the learned one at places of its dial."""
    from unmask.cli.live import Panel, dial_table, race_table
    from unmask.solve.race import COURSES, LEARNED, open_puzzles, race, runners_of, turn_dial

    found: list[_Shown] = []
    for course in COURSES:
        puzzles = open_puzzles(
            course,
            arguments.puzzles or _PUZZLES,
            arguments.seed,
            device=arguments.machine.device,
            dtype="float32" if arguments.machine.dtype == "auto" else arguments.machine.dtype,
            threads=arguments.machine.threads,
        )
        runners, count = runners_of(course), len(puzzles.problems)
        console.rule(f"{course.title}: the same {count} puzzles by every policy", align="left", style="dim")
        with Panel(course, puzzles, runners, console) as panel:
            panel.follow(race(puzzles, runners))
        console.print(race_table(runners), markup=False)
        shown = _Shown(course, puzzles, runners)
        if runners[-1].label == LEARNED:
            shown.dial = turn_dial(puzzles, runners[-1].policy)
            console.print(f"\n  one network, its dial turned from accurate to fast\n{dial_table(shown.dial)}")
        error = 0.5 / count**0.5
        console.print(f"  standard errors up to {error:.2f}: `unmask frontier` takes more puzzles\n", style="dim")
        found.append(shown)
    return found


def _write(shown: Sequence[_Shown], folder: Path, seed: int) -> list[Path]:
    """The picture, where it can be drawn, and the page; each replaces an older one whole."""
    from unmask.disk.files import atomic_text
    from unmask.plots import can_draw
    from unmask.trace.events import to_html

    found: list[Path] = []
    if not can_draw():
        note("No picture is drawn: that needs a package that is missing, pip install 'unmask[plots]'.")
    else:
        _draw(shown, folder / "policies.png", seed)
        found.append(folder / "policies.png")
    last = shown[-1]
    runner = last.runners[-1]
    right = (number for number, score in sorted(runner.verdicts.items()) if score == 1)
    example = last.puzzles.problems[next(right, 0)].example
    options: Mapping[str, Any] = {"policy": runner.policy, "temperature": 0.0, "seed": seed, "alternatives": 5}
    trace = last.puzzles.model.fill(example.template, trace=True, **options).trace
    assert trace is not None
    atomic_text(folder / "sudoku.html", to_html(trace))
    return [*found, folder / "sudoku.html"]


def _draw(shown: Sequence[_Shown], path: Path, seed: int) -> None:
    from unmask.eval.report import Point, plot_points

    panels = {
        f"{one.course.title} ({len(one.puzzles.problems)} puzzles)": (
            [Point(mine.label, mine.mean_passes, mine.accuracy) for mine in one.runners],
            [Point(f"{place.dial:g}", place.passes, place.accuracy) for place in one.dial],
        )
        for one in shown
    }
    plot_points(panels, f"The same puzzles by every policy (seed {seed})", path)


# ---- text ------------------------------------------------------------------------------------------------------------


def _writers(checkpoint: str | None) -> "list[tuple[str, UnmaskingPolicy]]":
    """The two ways to write, with what to call them; the bundled pace is that of the bundled model alone.

    It was written by `unmask pace shakespeare --data.length 120 --steps 8 16 32 64 --sequences 16 --dtype float32
    --threads 1 --out src/unmask/assets/paces/shakespeare.json`.
    """
    from unmask.policies.entropy_bound import EntropyBound
    from unmask.policies.pace import read_pace
    from unmask.policies.top_k import SCORES, TopK, linear

    random = SCORES["random"]
    if checkpoint is None:
        path = resources.files("unmask.assets") / "paces" / f"{_BUNDLED}.json"
        paced = (
            f"random order, optimal pace of {_STEPS} passes",
            TopK(random, _STEPS, read_pace(str(path), _STEPS)),
        )
    else:
        paced = (f"random order, {_STEPS} equal passes", TopK(random, _STEPS, linear))
    return [(f"entropy bound, {_GAMMA:g} nats a pass", EntropyBound(_GAMMA)), paced]


def _generate(
    model: "Model", console: "Console", arguments: DemoArguments, label: str, policy: "UnmaskingPolicy"
) -> dict[str, Any]:
    """A text, shown while it is written."""
    from unmask.api import unigram_entropy
    from unmask.cli.live import LiveText

    length = min(_LENGTH, model.window)
    console.print(f"\n{label}", style="bold", markup=False)
    prompt = model.tokenizer.encode(arguments.prompt)
    stream = model.stream(
        arguments.prompt,
        length=length,
        policy=policy,
        seed=arguments.seed,
        temperature=0.8,
        top_p=0.95,
        stop_at_eos=False,
    )
    began = time.perf_counter()
    with LiveText(model.tokenizer, console, prompt=prompt, total=length, pause=_PAUSE) as live:
        row = live.follow(stream)[0]
    seconds, entropy = time.perf_counter() - began, unigram_entropy([row.tokens[row.prompt :]])
    console.print(f"{length} tokens in {row.passes} passes; unigram entropy {entropy:.2f} nats\n", style="dim")
    return {
        "label": label,
        "policy": repr(policy),
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


def _measure(model: "Model", console: "Console") -> dict[str, Any] | None:
    """The bound on the first held-out sequences of what the model was trained on; None where that is not known."""
    from unmask.config import from_dict
    from unmask.data.settings import DataSettings
    from unmask.train.problems import corpus_of

    record = (model.checkpoint.run if model.checkpoint else None) or {}
    if "settings" not in record:
        note("The checkpoint does not say what it was trained on, so nothing is measured.")
        return None
    settings = from_dict(DataSettings, record["settings"]["data"], "run.json")
    try:
        corpus = corpus_of(settings, model.tokenizer)
    except (DataError, PluginError, RequestError) as error:
        note(f"What it was trained on is not here, so nothing is measured: {error}")
        return None
    console.print()
    console.rule("How well it knows held-out text", align="left", style="dim")
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
