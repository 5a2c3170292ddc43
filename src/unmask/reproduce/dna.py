"""The cells of the question about DNA (MDLM, Tables 6 and 7), their work, and its section of the report.

Imports no torch.
"""

__all__ = [
    "DNA_CELLS",
    "DNA_RESULTS",
    "Composition",
    "Probed",
    "compose",
    "dna_sections",
    "draw_composition",
    "probe_windows",
]

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, Literal

from unmask.errors import RequestError
from unmask.output import markdown_table
from unmask.plots import can_draw, new_figure, plain_ticks, save_figure
from unmask.ranges import Count, Natural
from unmask.reproduce.text import TextCell

if TYPE_CHECKING:
    from unmask.api import Model
    from unmask.data.packed import Corpus
    from unmask.eval.dna import Window

_SEED = 0  # of what is written


@dataclass(frozen=True, slots=True)
class Composition(TextCell):
    """Sequences that a trained model writes: their k-mers and GC content, and those of real and of shuffled ones."""

    training: str
    policy: str
    texts: Count
    length: Count
    skip: Natural
    """Held-out rows before the test."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The training."""
        return (self.training,)


@dataclass(frozen=True, slots=True)
class _Composed:
    """The result of a `Composition`."""

    written: dict[str, Any]
    real: dict[str, Any]
    shuffled: dict[str, Any]
    passes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Probed(TextCell):
    """The accuracy of a logistic regression on frozen features of windows of DNA: of a model, or k-mer counts.

    "species": E. coli (test rows) against yeast. "coding": windows of yeast that code for proteins as a whole against
    those without a coding position.
    """

    training: str
    """The model, and the training whose test rows are those of E. coli."""
    task: Literal["species", "coding"]
    length: Count
    count: Count
    """Windows of each species at most, or twice as many of yeast where the task is coding."""
    skip: Natural
    """Held-out rows of E. coli before the test."""
    kmer: Natural = 0
    """k of the k-mers whose counts are the features; 0 for those of the model."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The training."""
        return (self.training,)


@dataclass(frozen=True, slots=True)
class _Probe:
    """The result of a `Probed`."""

    accuracy: float
    stderr: float
    base: float
    count: Count


DNA_CELLS: dict[str, type[Any]] = {"composition": Composition, "probed": Probed}
DNA_RESULTS: dict[str, type[Any]] = {"composition": _Composed, "probed": _Probe}


def compose(cell: Composition, model: "Model", corpus: "Corpus") -> dict[str, Any]:
    """Sequences from the empty prompt, as many test rows and the same rows shuffled -> their measures.

    The reference of all three is the training text.
    """
    import time

    import numpy as np

    from unmask.decode.rows import run_to_end
    from unmask.eval.dna import KMERS, kmer_counts, measure_dna, shuffled

    decode = model.tokenizer.decode
    train = decode(np.asarray(corpus.train.ids).flatten().tolist())
    reference = {size: kmer_counts(train, size) for size in KMERS}
    test = corpus.valid.after(cell.skip)
    step = max(1, len(test) // cell.texts)
    real = [decode(row[: cell.length].tolist()) for row in test.ids[::step][: cell.texts]]
    began = time.process_time()
    options: dict[str, Any] = {"length": cell.length, "policy": cell.policy, "temperature": 1.0}
    rows = run_to_end(model.stream([""] * cell.texts, seed=_SEED, stop_at_eos=False, **options))
    seconds = time.process_time() - began
    sets = {"written": [decode(row.tokens) for row in rows], "real": real, "shuffled": shuffled(real, _SEED)}
    measures = {name: asdict(measure_dna(texts, reference)) for name, texts in sets.items()}
    passes = sum(row.passes for row in rows) / len(rows)
    return {**measures, "passes": passes, "seconds": seconds, "samples": sets["written"][:3]}


_REGION = 5120  # letters of a region; it holds whole windows of 64, 128, 256 and 512 letters


def probe_windows(cell: Probed, model: "Model", corpus: "Corpus") -> dict[str, Any]:
    """A model and the text of its training -> the cross-validated accuracy of the features.

    Rows of a region are on one side of a split. Raises RequestError where yeast was not fetched.
    """
    import numpy as np
    import torch

    from unmask.eval.dna import kmer_counts
    from unmask.eval.probe import features, probe

    letters = model.tokenizer.decode(np.asarray(corpus.valid.after(cell.skip).ids).flatten().tolist())
    rows, labels = _labelled(cell, letters)
    texts = [row.letters for row in rows]
    if cell.kmer:
        x = torch.from_numpy(np.stack([kmer_counts(text, cell.kmer) for text in texts])).float()
    else:
        x = features(model, texts)
    result = probe(x, labels, groups=[row.region for row in rows], seed=_SEED)
    summary = {"accuracy": result.accuracy, "stderr": result.stderr, "base": result.base, "count": result.count}
    sizes = {"features": x.shape[1], "regions": len({row.region for row in rows})}
    return summary | sizes | {"folds": list(result.folds)}


def _labelled(cell: Probed, letters: str) -> "tuple[list[Window], list[str]]":
    """A cell and the test region of E. coli -> windows and their labels."""
    from unmask.config import cache_folder
    from unmask.eval.dna import coding_positions, read_fasta, windows

    folder = cache_folder() / "texts" / "yeast"
    if not folder.is_dir():
        raise RequestError("The probes need the genome of yeast: run unmask fetch yeast, then this command again.")
    genome = read_fasta(folder / "yeast.fasta")
    coding = coding_positions(folder / "genes.gff3", genome)
    yeast = [row for name in genome for row in windows(name, genome[name], cell.length, _REGION, coding[name])]
    if cell.task == "coding":
        rows = _spaced([row for row in yeast if row.coding in (0, 1)], 2 * cell.count)
        return rows, ["coding" if row.coding else "not" for row in rows]
    coli = windows("E. coli", letters, cell.length, _REGION)
    parts = [_spaced(part, cell.count) for part in (coli, yeast)]
    return [*parts[0], *parts[1]], ["E. coli"] * len(parts[0]) + ["yeast"] * len(parts[1])


def _spaced(rows: "list[Window]", count: int) -> "list[Window]":
    """Rows -> at most `count` of them, evenly spaced."""
    chosen = min(count, len(rows))
    return [rows[number * len(rows) // chosen] for number in range(chosen)]


_WRITTEN = """\
Jensen-Shannon divergence of the k-mers from those of the training text, in bits; GC content. The mean over seeds of the
training, and the standard deviation between them (with one seed, the error over sequences). Real sequences are as many
rows of the test, of the same length; their divergence is that of a sample of this size. Shuffled ones have their
letters in random order."""


_PROBED = """\
Accuracy of a logistic regression on the frozen features of windows (the mean of the last hidden states), 5-fold
cross-validated; windows of a region of 5,120 letters are on one side of every split. The mean over seeds of the
training and the standard deviation between them (with one seed, or for k-mers, the error over folds). The base is the
accuracy of the most frequent label."""


def dna_sections(
    composed: Mapping[str, Mapping[int, Mapping[str, Any]]], probed: Mapping[str, Mapping[int, Mapping[str, Any]]]
) -> list[str]:
    """The results of `Composition` and `Probed` cells, by label and seed -> the lines of the report."""
    lines: list[str] = []
    if composed:
        last = next(iter(list(composed.values())[-1].values()))
        rows = [[label, *_row([each["written"] for each in seeds.values()])] for label, seeds in composed.items()]
        rows += [[name, *_row([last[name]])] for name in ("real", "shuffled")]
        head = ["sequences", *(f"k = {size}" for size in last["real"]["divergence"]), "GC content", "number", "letters"]
        picture = ["![divergence of k-mers against k](kmers.png)", ""] if can_draw() else []
        lines += ["## Composition", "", _WRITTEN, "", *picture, *markdown_table(head, rows)]
    if probed:
        rows = [
            [label, _value([(each["accuracy"], each["stderr"]) for each in seeds.values()]), *_sizes(seeds)]
            for label, seeds in probed.items()
        ]
        head = ["features", "accuracy", "base", "windows"]
        lines += [*([""] if lines else []), "## Probes", "", _PROBED, "", *markdown_table(head, rows)]
    return lines


def draw_composition(composed: Mapping[str, Mapping[int, Mapping[str, Any]]], path: Path) -> None:
    """Draw the divergence of k-mers against k, a line for each label and for real and shuffled sequences."""
    if not composed or not can_draw():
        return
    lines = {label: [result["written"] for result in seeds.values()] for label, seeds in composed.items()}
    last = next(iter(list(composed.values())[-1].values()))
    figure = new_figure(8.6, 5.0)
    panel = figure.subplots()
    for number, (label, measures) in enumerate((lines | {name: [last[name]] for name in ("real", "shuffled")}).items()):
        pairs = {int(size): [each["divergence"][size] for each in measures] for size in measures[0]["divergence"]}
        middle, error = zip(*map(_middle, pairs.values()), strict=True)
        style = {"real": "k-", "shuffled": "k:"}.get(label, f"C{number}o-")
        places = [size + 0.04 * (number - len(lines) / 2) for size in pairs]  # so that errors do not cover each other
        panel.errorbar(places, middle, error, fmt=style, ms=4, lw=1, capsize=2, label=label)
    panel.set_xticks([int(size) for size in last["real"]["divergence"]])
    panel.set_xlabel("k")
    panel.set_ylabel("Jensen-Shannon divergence from the training text, bits")
    panel.set_yscale("log")
    plain_ticks(panel.yaxis)
    panel.grid(alpha=0.25)
    panel.legend(frameon=False)
    save_figure(path, figure)


def _middle(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """A value and its error for each seed -> the mean, and the deviation between seeds or the error of a single one."""
    values = [value for value, _ in pairs]
    return mean(values), stdev(values) if len(values) > 1 else pairs[0][1]


def _sizes(seeds: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """The results of a probe by seed -> the accuracy without features, and the number of windows."""
    result = next(iter(seeds.values()))
    return [f"{result['base']:.4f}", f"{result['count']:,}"]


def _row(measures: list[Mapping[str, Any]]) -> list[str]:
    """The measures of each seed -> the cells of the table."""
    first = measures[0]
    pairs = [[each["divergence"][size] for each in measures] for size in first["divergence"]]
    pairs.append([each["gc"] for each in measures])
    return [*map(_value, pairs), f"{first['sequences']:,}", f"{first['letters']:,}"]


def _value(pairs: Sequence[tuple[float, float]]) -> str:
    """As `_middle`, as text."""
    return "{:.4f} ± {:.4f}".format(*_middle(pairs))
