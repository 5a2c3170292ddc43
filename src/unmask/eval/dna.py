"""Sequences of DNA -> their k-mer spectrum and GC content, and how far spectra are apart, with errors by resampling.

A k-mer is k letters in a row. A model that has learned a genome writes k-mers as often as the genome has them; a
shuffled sequence has the letters of a real one and nothing else of it.
"""

__all__ = ["KMERS", "DnaMeasures", "gc_content", "jensen_shannon", "kmer_counts", "measure_dna", "shuffled"]

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unmask.errors import RequestError

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
