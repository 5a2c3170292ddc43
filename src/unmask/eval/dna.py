"""Sequences of DNA -> their k-mers and GC content, how far k-mers are apart, and labelled windows of annotated genomes.

A k-mer is k letters in a row. A model that has learned a genome writes k-mers as often as the genome has them; a
shuffled sequence has the letters of a real one and nothing else of it.
"""

__all__ = [
    "KMERS",
    "DnaMeasures",
    "Window",
    "coding_positions",
    "gc_content",
    "jensen_shannon",
    "kmer_counts",
    "measure_dna",
    "read_fasta",
    "shuffled",
    "windows",
]

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unmask.data.documents import fasta_letters
from unmask.disk.json import read_lines
from unmask.errors import DataError, RequestError
from unmask.text.build import refuse_foreign

KMERS = (3, 4, 5, 6)
"""Values of k."""
_RESAMPLES = 50
_CODES = np.full(256, 4, np.int64)
_CODES[np.frombuffer(b"ACGTacgt", np.uint8)] = [0, 1, 2, 3, 0, 1, 2, 3]


@dataclass(frozen=True, slots=True)
class DnaMeasures:
    """Measures of some sequences; the pairs are a value and its standard error over sequences."""

    sequences: int
    letters: int
    """A, C, G and T in all sequences."""
    gc: tuple[float, float]
    """Share of G and C."""
    divergence: dict[int, tuple[float, float]]
    """k -> Jensen-Shannon divergence of the k-mers from those of the reference, in bits."""


def kmer_counts(sequence: str, size: int) -> np.ndarray:
    """A sequence -> how often each of the 4**size k-mers of A, C, G, T occurs; others do not count."""
    codes = _CODES[np.frombuffer(sequence.encode("ascii", "replace"), np.uint8)]
    count = len(codes) - size + 1
    if count < 1:
        return np.zeros(4**size, np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(codes, size)
    whole = windows[(windows < 4).all(-1)]
    return np.bincount(whole @ 4 ** np.arange(size), minlength=4**size)


def gc_content(sequence: str) -> float:
    """A sequence -> the share of G and C among its A, C, G, T; NaN without any."""
    a, c, g, t = kmer_counts(sequence, 1)
    return float((c + g) / (a + c + g + t)) if a + c + g + t else float("nan")


def jensen_shannon(first: np.ndarray, second: np.ndarray) -> float:
    """Counts of the same events in two samples -> the Jensen-Shannon divergence of their frequencies, 0 to 1 bit.

    It is the mean of the two relative entropies to the average of both (Lin 1991, equation 4.1 with equal weights).
    """
    p, q = first / first.sum(), second / second.sum()
    return _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2


def _entropy(p: np.ndarray) -> float:
    some = p[p > 0]
    return float(-(some * np.log2(some)).sum())


def shuffled(sequences: Sequence[str], seed: int) -> list[str]:
    """Sequences -> each with its letters in random order."""
    generator = np.random.default_rng(seed)
    return ["".join(generator.permutation(list(sequence))) for sequence in sequences]


def measure_dna(sequences: Sequence[str], reference: dict[int, np.ndarray], seed: int = 0) -> DnaMeasures:
    """Sequences and the k-mer counts of a reference, by k -> their measures.

    A divergence of a finite sample is not 0 even where the law is the same: compare it with that of as many real
    sequences of the same length. Errors are the standard deviation over resampled sets of whole sequences (bootstrap).
    Raises RequestError for less than two sequences with a k-mer.
    """
    longest = max(reference, default=1)
    sequences = [text for text in sequences if kmer_counts(text, longest).any()]
    if len(sequences) < 2:
        raise RequestError(
            f"There are {len(sequences)} sequences of at least {longest} letters A, C, G, T: an error needs two."
        )
    generator = np.random.default_rng(seed)
    picks = generator.multinomial(len(sequences), np.full(len(sequences), 1 / len(sequences)), _RESAMPLES)
    divergence: dict[int, tuple[float, float]] = {}
    for size, real in reference.items():
        counts = np.stack([kmer_counts(text, size) for text in sequences])
        value = jensen_shannon(counts.sum(0), real)
        divergence[size] = value, float(np.std([jensen_shannon(pick @ counts, real) for pick in picks], ddof=1))
    letters = np.stack([kmer_counts(text, 1) for text in sequences])
    strong = letters[:, 1] + letters[:, 2]
    share = strong.sum() / letters.sum()
    residual = strong - share * letters.sum(1)
    error = float(np.sqrt((residual**2).sum() * len(sequences) / (len(sequences) - 1)) / letters.sum())
    return DnaMeasures(len(sequences), int(letters.sum()), (float(share), error), divergence)


# ---- labelled windows ------------------------------------------------------------------------------------------------


class Window(NamedTuple):
    """A window of a sequence."""

    letters: str
    region: str
    """The part of the sequence that it lies in. Neighbours are alike: a region is on one side of a cross-validation."""
    coding: float
    """The share of its positions that code for proteins; NaN without an annotation."""


def read_fasta(path: Path) -> dict[str, str]:
    """A FASTA file -> its sequences in upper case by their names, the first words of the headers.

    Raises DataError where it is no FASTA, a name is repeated, or a letter stands for no nucleotide.
    """
    lines = read_lines(path, DataError, "FASTA")
    names = [line[1:].split()[0] for line in lines if line.startswith(">") and line[1:].split()]
    records = itertools.groupby(fasta_letters(line + "\n" for line in lines), key=lambda part: part[0])
    sequences = ["".join(letters for _, letters in parts).upper() for _, parts in records]
    if not names or len(names) != len(sequences) or len(set(names)) < len(names):
        raise DataError(f"{path} is not FASTA: give each sequence a header, > and a name of its own, and letters.")
    for name, letters in zip(names, sequences, strict=True):
        refuse_foreign(letters, f"{path}, sequence {name},")
    return dict(zip(names, sequences, strict=True))


def coding_positions(path: Path, sequences: Mapping[str, str]) -> dict[str, np.ndarray]:
    """A GFF3 file and the sequences that it annotates -> where these code for proteins: name -> (length,) bool.

    Features of type CDS count, on either strand. Raises DataError for a line that is no feature, or lies outside.
    """
    coding = {name: np.zeros(len(letters), dtype=bool) for name, letters in sequences.items()}
    for number, line in enumerate(read_lines(path, DataError, "GFF3"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split("\t")
        if len(fields) < 9 or not (fields[3].isdecimal() and fields[4].isdecimal()):
            raise DataError(f"{path}, line {number} is no feature of GFF3: it needs 9 fields, between tabs.")
        if fields[2] != "CDS" or fields[0] not in coding:
            continue
        first, last = int(fields[3]), int(fields[4])  # from 1 on, both included
        if not 1 <= first <= last <= len(coding[fields[0]]):
            raise DataError(f"{path}, line {number} lies outside of {fields[0]}: give the sequence that it annotates.")
        coding[fields[0]][first - 1 : last] = True
    return coding


def windows(name: str, letters: str, length: int, region: int, coding: np.ndarray | None = None) -> list[Window]:
    """A sequence -> its windows of `length` letters that follow each other, in regions of `region` letters.

    None lies in two regions. Windows with letters beside A, C, G, T are left out.
    """
    rows: list[Window] = []
    for start in range(0, len(letters), region):
        for at in range(start, min(start + region, len(letters)) - length + 1, length):
            part = letters[at : at + length]
            share = float("nan") if coding is None else float(coding[at : at + length].mean())
            if set(part) <= set("ACGT"):
                rows.append(Window(part, f"{name} {start // region}", share))
    return rows
