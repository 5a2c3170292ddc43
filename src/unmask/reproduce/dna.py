"""The cells of the question about DNA (MDLM, Tables 6 and 7), their work, and its section of the report.

Imports no torch.
"""

__all__ = ["DNA_CELLS", "DNA_RESULTS", "Composition", "compose", "dna_section"]

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from unmask.output import markdown_table
from unmask.ranges import Count, Natural
from unmask.reproduce.text import TextCell

if TYPE_CHECKING:
    from unmask.api import Model
    from unmask.data.packed import Corpus

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


DNA_CELLS: dict[str, type[Any]] = {"composition": Composition}
DNA_RESULTS: dict[str, type[Any]] = {"composition": _Composed}


def compose(cell: Composition, model: "Model", corpus: "Corpus") -> dict[str, Any]:
    """Sequences from the empty prompt, as many test rows and the same rows shuffled -> their measures.

    The reference of all three is the training text.
    """
    import time

    from unmask.decode.rows import run_to_end
    from unmask.eval.dna import KMERS, kmer_counts, measure_dna, shuffled

    decode = model.tokenizer.decode
    train = decode(corpus.train.ids.flatten().tolist())
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


_WRITTEN = """\
Jensen-Shannon divergence of the k-mers from those of the training text, in bits; GC content. The mean over seeds of the
training, and the standard deviation between them (with one seed, the error over sequences). Real sequences are as many
rows of the test, of the same length; their divergence is that of a sample of this size. Shuffled ones have their
letters in random order."""


def dna_section(done: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[str]:
    """The results of the `Composition` cells, by label and seed -> the lines of the report; none without results."""
    if not done:
        return []
    last = next(reversed(list(done.values())))
    rows = [[label, *_row([each["written"] for each in by_seed.values()])] for label, by_seed in done.items()]
    rows += [[name, *_row([next(iter(last.values()))[name.split()[0]]])] for name in ("real", "shuffled")]
    sizes = list(next(iter(last.values()))["real"]["divergence"])
    head = ["sequences", *(f"k = {size}" for size in sizes), "GC content", "number", "letters"]
    return ["## Composition", "", _WRITTEN, "", *markdown_table(head, rows)]


def _row(measures: list[Mapping[str, Any]]) -> list[str]:
    """The measures of each seed -> the cells of the table."""
    first = measures[0]
    pairs = [[each["divergence"][size] for each in measures] for size in first["divergence"]]
    pairs.append([each["gc"] for each in measures])
    return [*map(_value, pairs), f"{first['sequences']:,}", f"{first['letters']:,}"]


def _value(pairs: Iterable[tuple[float, float]]) -> str:
    values = [value for value, _ in pairs]
    error = stdev(values) if len(values) > 1 else next(iter(pairs))[1]
    return f"{mean(values):.4f} ± {error:.4f}"
