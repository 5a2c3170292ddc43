"""`unmask probe`: how well labels follow from features of texts; `probe masks`, `probe holes`: MASKs behind and in one.

Imports no torch.
"""

__all__ = ["ProbeArguments", "ProbeHolesArguments", "ProbeMasksArguments", "run", "run_holes", "run_masks"]

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from unmask.cli.common import MachineOptions, OutputOptions, TrustOptions, duration, print_json, table
from unmask.cli.parse import Flat, Positional, parse, refuse, typed_options
from unmask.config import to_path
from unmask.errors import ConfigError, RequestError
from unmask.hf.packages import labelled_file
from unmask.output import markdown_table, note, show
from unmask.ranges import Count, Natural, Seed, real, whole

if TYPE_CHECKING:
    from unmask.api import Model
    from unmask.eval.masks import Curves, Estimate, Point
    from unmask.eval.probe import ProbeResult

_OF_TUNING = {"rates", "epochs", "batch"}


@dataclass(frozen=True, slots=True)
class ProbeArguments:
    """Classify texts by a logistic regression on the features of a model, or by fine-tuning it.

    The feature of a text is the mean of its final hidden states, from one pass that sees all of it and no MASK; a text
    is cut to the model's window. The accuracy is that of cross-validation, with its standard error over the folds: the
    penalty or learning rate, too, is chosen on the other folds. A text that occurs again is left out.

    `unmask probe masks CHECKPOINT` measures something else: how the first token of an answer depends on the MASKs
    behind it (unmask probe masks --help); `unmask probe holes CHECKPOINT`: how the confidence in a hole depends on its
    length. A checkpoint in a folder named masks or holes is written ./masks.
    """

    checkpoint: Positional[str]
    """A checkpoint or run folder, or the name of a model."""
    data: str
    """A file of rows (.jsonl, .json, .csv, .tsv, also as .gz), or vader-movies or headline-sarcasm (see unmask
    fetch)."""
    text_key: str = "text"
    """The column (key) of the texts."""
    label_key: str = "label"
    """The column (key) of the labels: texts or whole numbers."""
    limit: Count | None = None
    """Use only this many texts, drawn by the seed."""
    folds: Annotated[int, whole(2)] = 5
    """Number of folds; the shares of the labels are alike in all."""
    pooling: Literal["mean", "last"] = "mean"
    """The feature: the mean over positions, or the state of the last token, which has seen the whole text in an
    autoregressive model."""
    finetune: bool = False
    """Train all weights of the model, with a linear classifier on the mean, instead of the regression alone."""
    rates: Annotated[tuple[float, ...], real(0, 1, above=True)] = (3e-4, 1e-3, 3e-3)
    """With --finetune: learning rates, of which a part of the training texts chooses one in each fold."""
    epochs: Count = 3
    """With --finetune: how often each training text is seen."""
    batch: Count = 32
    """With --finetune: texts of a step."""
    seed: Seed = 0
    """Seed of the folds and of the order of the texts."""
    machine: Flat[MachineOptions] = MachineOptions()
    output: Flat[OutputOptions] = OutputOptions()


@dataclass(frozen=True, slots=True)
class ProbeMasksArguments:
    """Accuracy and entropy at the first token of an answer, against the number of MASKs behind it and the distance of
    the relevant context (arXiv:2511.21338).

    One pass a question, in which the answer and all behind it are MASK. The task few-shot varies the distance by the
    place of the examples that follow the rule of the question. For a text the question is the next token; there the
    distance is that of the first copy of a passage that is repeated, and "none" is another passage in its place.
    (`unmask probe CHECKPOINT --data FILE` classifies texts by the features of a model.)
    """

    checkpoint: Positional[str]
    """A checkpoint or run folder, or the name of a model."""
    source: str | None = None
    """A text (held-out part) or task:NAME (test problems), as --data.source of train; by default that of the training,
    or task:few-shot where none is recorded."""
    counts: tuple[Natural, ...] = (0, 1, 2, 5, 10, 20, 50, 100, 200)
    """Numbers of MASKs behind the answer; where the window has no space for so many, it is filled."""
    count: Annotated[int, whole(2)] = 400
    """Questions, at most."""
    context: Annotated[int | None, whole(2)] = None
    """Of a text: tokens before the question; by default a quarter of the window."""
    out: str | None = None
    """Draw both curves to this PNG file."""
    seed: Seed = 0
    """Seed of the questions."""
    batch: Count = 32
    """Questions in a batch."""
    machine: Flat[MachineOptions] = MachineOptions()
    trust: Flat[TrustOptions] = TrustOptions()
    output: Flat[OutputOptions] = OutputOptions()


@dataclass(frozen=True, slots=True)
class ProbeHolesArguments:
    """The mean confidence in a hole against its length: the bias by which `unmask fill --length-rule cal` divides
    (arXiv:2602.00476).

    Spans of held-out passages become holes of other lengths, one pass each; a hole at most 4 tokens longer or shorter
    than its span is left out. The curve a e^(-b n) + c e^(-d n) + rest is fitted to the means.
    """

    checkpoint: Positional[str]
    """A checkpoint or run folder, or the name of a model."""
    source: str | None = None
    """A text, as --data.source of train, of which the held-out part is read; by default that of the training."""
    lengths: tuple[Count, ...] = (1, 2, 4, 6, 12, 16, 24, 32, 48, 64, 96, 128)
    """Lengths of holes; those for which the window has no space are left out."""
    longest: Count = 12
    """Tokens of a span, at most."""
    size: Count | None = None
    """Tokens of a passage, its span included; by default three quarters of the window."""
    count: Count = 200
    """Passages."""
    out: str | None = None
    """Write the bias to this JSON file, for --length-rule cal:bias=FILE."""
    seed: Seed = 0
    """Seed of the spans."""
    machine: Flat[MachineOptions] = MachineOptions()
    trust: Flat[TrustOptions] = TrustOptions()
    output: Flat[OutputOptions] = OutputOptions()


def run(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; prints the accuracy."""
    arguments = parse(ProbeArguments, argv, "probe")
    typed = typed_options(ProbeArguments, argv, "probe")
    if arguments.finetune:
        refuse(typed & {"pooling"}, "--finetune, which uses the mean.")
        if arguments.machine.dtype == "int8":
            raise ConfigError("--finetune trains all weights, and those of int8 cannot be trained; leave out --dtype.")
    else:
        refuse(typed & _OF_TUNING, "probe without --finetune.")
    file = labelled_file(arguments.data)

    from unmask.eval.probe import features, numbered, probe, read_labelled

    texts, labels = read_labelled(file, arguments.text_key, arguments.label_key, arguments.limit, arguments.seed)
    if not texts:
        raise RequestError(f"{file} has no text; give a file of rows with texts and labels.")
    numbered(len(texts), labels, arguments.folds)  # before the model is loaded
    model = arguments.machine.load(arguments.checkpoint)
    note(f"{len(texts):,} texts with {len(set(labels))} labels, {arguments.folds} folds.")
    began = time.perf_counter()
    if arguments.finetune:
        from unmask.eval.finetune import TuneSettings, finetune

        settings = TuneSettings(arguments.rates, arguments.epochs, arguments.batch)
        result = finetune(model, texts, labels, folds=arguments.folds, seed=arguments.seed, settings=settings)
    else:
        x = features(model, texts, pooling=arguments.pooling)
        result = probe(x, labels, folds=arguments.folds, seed=arguments.seed)
    _print(arguments, result, time.perf_counter() - began)
    return 0


def _print(arguments: ProbeArguments, result: "ProbeResult", seconds: float) -> None:
    """Print the result as a table or as JSON."""
    name = "all weights trained" if arguments.finetune else f"logistic regression on the {arguments.pooling} state"
    if arguments.output.json:
        figures = {"accuracy": result.accuracy, "stderr": result.stderr, **asdict(result)}
        print_json({"checkpoint": arguments.checkpoint, "data": arguments.data, "probe": name, **figures})
        return
    rows = {
        "texts": f"{result.count:,} of {arguments.data}, labels {', '.join(result.classes)}",
        "probe": name,
        "accuracy": f"{result.accuracy:.4f} ± {result.stderr:.4f} (standard error over {arguments.folds} folds)",
        "base rate": f"{result.base:.4f} (always the most frequent label)",
        "chosen": ", ".join(f"{value:g}" for value in result.chosen),
        "seconds": duration(seconds),
    }
    show(*table(rows))


# ---- masks -----------------------------------------------------------------------------------------------------------

_HEAD = ("accuracy", "change", "entropy, nats", "-log p, nats", "total variation")
_MASKS = (
    "At the first token of the answer, mean ± standard error over questions. Change and total variation are against",
    "the first row: the same questions without MASKs behind the answer, or with the relevant context nearest.",
)


def run_masks(argv: Sequence[str]) -> int:
    """Words after `unmask probe masks` -> exit code; prints and draws both curves."""
    arguments = parse(ProbeMasksArguments, argv, "probe masks")
    arguments.trust.apply()
    if arguments.out is not None:
        from unmask.eval.report import check_plot

        check_plot(arguments.out, "--out")
    model = arguments.machine.load(arguments.checkpoint)
    began = time.perf_counter()
    source, curves = _curves_of(model, arguments)
    seconds = time.perf_counter() - began
    if arguments.out is not None:
        from unmask.eval.masks import draw_curves

        draw_curves({arguments.checkpoint: curves}, source, to_path(arguments.out))
    _print_curves(arguments, source, curves, seconds)
    return 0


def _curves_of(model: "Model", arguments: ProbeMasksArguments) -> "tuple[str, Curves]":
    """Arguments -> the source of the questions, and what was measured."""
    from unmask.eval.masks import probe_masks

    options = {"counts": arguments.counts, "count": arguments.count, "seed": arguments.seed, "batch": arguments.batch}
    return probe_masks(model, arguments.source, context=arguments.context, **options)


def _print_curves(arguments: ProbeMasksArguments, source: str, curves: "Curves", seconds: float) -> None:
    """Print both curves as tables or as JSON."""
    if arguments.output.json:
        facts = {"checkpoint": arguments.checkpoint, "source": source, "questions": curves.questions}
        facts |= {"tokens": curves.tokens, "left_out": curves.left_out, "behind": curves.behind}
        parts = {"masks": curves.masks, "distance": curves.distance}
        figures = {name: [point._asdict() for point in points] for name, points in parts.items()}
        print_json({**facts, **figures, "seconds": seconds})
        return
    show(f"{curves.questions:,} questions of {source}, {curves.tokens:.0f} tokens each; {duration(seconds)}")
    show("", *_MASKS)
    show("", *markdown_table(("MASKs behind the answer", *_HEAD), [_figures(point) for point in curves.masks]))
    if curves.left_out:
        show("", f"The window has no space for {', '.join(map(str, curves.left_out))} MASKs; the last row fills it.")
    if curves.distance:
        rows = [_figures(point) for point in curves.distance]
        show(
            "",
            f"With {curves.behind} MASKs behind the answer:",
            "",
            *markdown_table(("tokens to the relevant context", *_HEAD), rows),
        )
    elif source.startswith("task:"):
        show("", "This task has no distances; task:few-shot has.")


def _figures(point: "Point") -> list[str]:
    """A point -> its place and its figures, as text."""
    place = "none" if point.place is None else f"{point.place:.0f}"
    return [place, *(_figure(value) for value in point[1:])]


def _figure(value: "Estimate") -> str:
    return f"{value[0]:.3f} ± {value[1]:.3f}"


# ---- holes -----------------------------------------------------------------------------------------------------------


def run_holes(argv: Sequence[str]) -> int:
    """Words after `unmask probe holes` -> exit code; prints and writes the bias."""
    arguments = parse(ProbeHolesArguments, argv, "probe holes")
    arguments.trust.apply()
    model = arguments.machine.load(arguments.checkpoint)

    from unmask.disk.files import atomic_text
    from unmask.eval.holes import held_out, measure_bias, spans_of

    size, began = arguments.size or model.window * 3 // 4, time.perf_counter()
    text, seed = held_out(model, arguments.source), arguments.seed
    spans = spans_of(text, range(1, arguments.longest + 1), size, count=arguments.count, seed=seed)
    bias, points = measure_bias(model, spans, arguments.lengths)
    facts = {"bias": asdict(bias), "confidence": points, "checkpoint": arguments.checkpoint}
    facts |= {"passages": arguments.count, "size": size, "seed": arguments.seed}
    if arguments.out is not None:
        atomic_text(to_path(arguments.out), json.dumps(facts, indent=1) + "\n")
    if arguments.output.json:
        print_json(facts | {"seconds": time.perf_counter() - began})
        return 0
    rows = [[str(n), f"{value:.3f}", f"{bias(n):.3f}"] for n, value in points.items()]
    show(f"{arguments.count:,} passages of {size} tokens; {duration(time.perf_counter() - began)}", "")
    show(*markdown_table(("tokens of the hole", "mean confidence", "fitted"), rows), "")
    show(f"{bias.a:.3f} e^(-{bias.b:.3f} n) + {bias.c:.3f} e^(-{bias.d:.3f} n) + {bias.rest:.3f}")
    if arguments.out is not None:
        note(f"written to {arguments.out}; use it with --length-rule cal:bias={arguments.out}")
    return 0
