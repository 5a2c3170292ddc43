"""`unmask probe`: how well the labels of texts follow from what a model computes of them. Imports no torch."""

__all__ = ["ProbeArguments", "run"]

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from unmask.cli.common import MachineOptions, OutputOptions, duration, print_json, table
from unmask.cli.parse import Flat, Positional, parse, refuse, typed_options
from unmask.errors import ConfigError, RequestError
from unmask.hf.packages import labelled_file
from unmask.output import note, show
from unmask.ranges import Count, Seed, real, whole

if TYPE_CHECKING:
    from unmask.eval.probe import ProbeResult

_OF_TUNING = {"rates", "epochs", "batch"}


@dataclass(frozen=True, slots=True)
class ProbeArguments:
    """Classify texts by a logistic regression on the features of a model, or by fine-tuning it.

    The feature of a text is the mean of its final hidden states, from one pass that sees all of it and no MASK; a text
    is cut to the model's window. The accuracy is that of cross-validation, with its standard error over the folds: the
    penalty or learning rate, too, is chosen on the other folds. A text that occurs again is left out.
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
