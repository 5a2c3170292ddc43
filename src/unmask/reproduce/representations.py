"""The cells of the question about representations (MDLM, Table 4), their work, and the section of the report.

Labelled texts are classified by what a trained model computes of them (`eval.probe`, `eval.finetune`). Imports no
torch.
"""

__all__ = [
    "REPRESENTATION_CELLS",
    "REPRESENTATION_RESULTS",
    "SIZES",
    "Classified",
    "Sizes",
    "accuracies",
    "classify",
    "representation_section",
]

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, Literal

from unmask.hf.packages import labelled_file
from unmask.output import markdown_table
from unmask.ranges import Count, Natural
from unmask.reproduce.text import TextCell

if TYPE_CHECKING:
    from torch import Tensor

    from unmask.api import Model

_SEED = 0  # of the texts that are drawn and of the folds: the same for every model
_LEAST = 5  # texts in which a word occurs that the baseline counts


@dataclass(frozen=True, slots=True)
class Sizes:
    """The numbers of a classification."""

    texts: Count | None
    """Texts of each set, drawn at random; None for all."""
    tuned: Count | None
    """The same for fine-tuning."""
    rates: tuple[float, ...]
    """Learning rates of fine-tuning, among which a part of the training texts chooses."""
    epochs: Count
    batch: Count
    folds: Count = 5


SIZES = {
    "full": Sizes(4000, 2000, (3e-4, 1e-3), 3, 32),
    "fast": Sizes(200, 100, (1e-3,), 1, 32),
    "published": Sizes(None, None, (1e-5, 2e-5, 5e-5), 3, 16),
}
"""By the name of the scale; at the published one, the batch and the epochs of MDLM's appendix D.6."""


@dataclass(frozen=True, slots=True)
class Classified(TextCell):
    """The accuracy of a classifier of labelled texts, made from a training or from the texts alone."""

    training: str | None
    data: str
    """A set of `unmask fetch`."""
    how: Literal["words", "frozen", "tuned"]
    """words: which words occur, without a model. frozen: features of the model. tuned: all weights are trained."""
    sizes: Sizes
    fold: Natural | None = None
    """The only fold that is tested, for fine-tuning; None for all."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The training, if there is one."""
        return (self.training,) if self.training else ()


@dataclass(frozen=True, slots=True)
class _Classification:
    """The result of a `Classified`."""

    folds: list[float]
    base: float
    count: Count
    chosen: list[float]
    seconds: float


REPRESENTATION_CELLS: dict[str, type[Any]] = {"classified": Classified}
REPRESENTATION_RESULTS: dict[str, type[Any]] = {"classified": _Classification}


# ---- work ------------------------------------------------------------------------------------------------------------


def classify(cell: Classified, model_of: Callable[[str], "Model"]) -> dict[str, Any]:
    """A cell, and a function from a training to its model -> accuracies of the test folds.

    Raises RequestError without the texts.
    """
    import time

    from unmask.eval.probe import features, probe, read_labelled

    count = cell.sizes.tuned if cell.how == "tuned" else cell.sizes.texts
    texts, labels = read_labelled(labelled_file(cell.data), limit=count, seed=_SEED)
    began = time.process_time()
    model = model_of(cell.training) if cell.training else None
    if model is not None and cell.how == "tuned":
        facts = _tuned(cell, model, texts, labels)
    else:
        x = _occurrences(texts) if model is None else features(model, texts)
        result = probe(x, labels, folds=cell.sizes.folds, seed=_SEED)
        facts = {name: value for name, value in asdict(result).items() if name != "classes"}
    return {**facts, "seconds": time.process_time() - began}


def _tuned(cell: Classified, model: "Model", texts: list[str], labels: list[str]) -> dict[str, Any]:
    """Fine-tune and test once, on the fold of the cell."""
    from unmask.eval.finetune import TuneSettings, finetune_fold
    from unmask.eval.probe import fold_indices, majority, numbered, token_rows

    sizes, test = cell.sizes, cell.fold or 0
    target, _ = numbered(len(texts), labels, sizes.folds)
    fold = fold_indices(target, sizes.folds, _SEED)
    settings = TuneSettings(sizes.rates, sizes.epochs, sizes.batch)
    result = finetune_fold(model, token_rows(model, texts), target, fold, test, cell.seed, None, settings)
    base = majority(target[fold != test], target[fold == test])
    return {"folds": [result.accuracy], "base": base, "count": len(texts), "chosen": [result.rate]}


def _occurrences(texts: list[str]) -> "Tensor":
    """Texts -> whether each word occurs in each of them (N, V) float32, for the words of at least five texts."""
    import torch

    from unmask.eval.text import words_of

    words = [set(words_of(text)) for text in texts]
    counts = Counter(word for each in words for word in each)
    number = {word: at for at, word in enumerate(sorted(word for word in counts if counts[word] >= _LEAST))}
    table = torch.zeros(len(texts), len(number))
    for line, each in enumerate(words):
        table[line, [number[word] for word in each if word in number]] = 1
    return table


# ---- report ----------------------------------------------------------------------------------------------------------

_ABOUT = """\
Accuracy of classifiers of labelled texts. Frozen: a logistic regression on the mean of the final hidden states, by
cross-validation. Tuned: all weights are trained, with the same epochs and the same learning rates to choose from for
every model; the network of the last step is tested once, on another fold for each seed. Words: a logistic regression
on which words occur, without a model. The mean over seeds of the training, and the standard deviation between them."""


def accuracies(done: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> dict[str, dict[int, float]]:
    """The results of the `Classified` cells, by label and seed -> accuracies by label and seed.

    A label is "MODEL HOW on DATA"; "MODEL HOW" gets the mean over sets, where a seed has all of them.
    """
    by_label = {label: {seed: mean(r["folds"]) for seed, r in results.items()} for label, results in done.items()}
    names = dict.fromkeys(label.partition(" on ")[0] for label in by_label)
    for name in names:
        sets = [values for label, values in by_label.items() if label.startswith(f"{name} on ")]
        seeds = set.intersection(*(set(values) for values in sets))
        by_label[name] = {seed: mean(values[seed] for values in sets) for seed in sorted(seeds)}
    return by_label


def representation_section(done: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[str]:
    """The results of the `Classified` cells, by label and seed -> the lines of the report; none without results."""
    if not done:
        return []
    values = accuracies(done)
    sets = list(dict.fromkeys(label.partition(" on ")[2] for label in done))
    rows = [
        [name, *(_figure(values.get(f"{name} on {data}")) for data in sets), _figure(values[name])]
        for name in values
        if " on " not in name
    ]
    first = {label: next(iter(results.values())) for label, results in done.items()}
    bases = [mean(r["base"] for label, r in first.items() if label.endswith(f" on {data}")) for data in sets]
    rows.append(["most frequent label", *(f"{base:.4f}" for base in bases), f"{mean(bases):.4f}"])
    for how in dict.fromkeys(label.partition(" on ")[0].split()[-1] for label in done):
        counts = [
            next((r["count"] for label, r in first.items() if label.endswith(f"{how} on {data}")), 0) for data in sets
        ]
        rows.append([f"texts, {how}", *(f"{count:,}" for count in counts), ""])
    return ["## Classification", "", _ABOUT, "", *markdown_table(("classifier", *sets, "mean"), rows)]


def _figure(values: Mapping[int, float] | None) -> str:
    """Accuracies by seed -> the mean and the standard deviation between seeds."""
    if not values:
        return "not run"
    every = list(values.values())
    return f"{mean(every):.4f}" + (f" ± {stdev(every):.4f}" if len(every) > 1 else "")
