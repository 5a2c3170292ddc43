"""Data settings -> a corpus of the beginning of a text, with estimates of the sizes of the whole, in about a second.

For a plan that is only printed: a text of gigabytes is neither read to its end nor encoded.
"""

__all__ = ["SAMPLE", "SAMPLE_PAIRS", "estimate_corpus"]

import dataclasses
import hashlib
import time
from collections.abc import Callable
from typing import NamedTuple

from unmask.data.documents import Pair, Piece
from unmask.data.packed import Corpus, PartFacts, Sources
from unmask.data.prepare import automatic_vocab_size, open_sources, prepare, silent
from unmask.data.settings import DataSettings
from unmask.data.sources import CORPORA, Source
from unmask.data.split import utf8_size
from unmask.text.tokenizer import Tokenizer

SAMPLE = 400_000
"""Bytes of text that are encoded."""
SAMPLE_PAIRS = 2_000
"""Problems of a task that are made, at most."""
_LEAST_PAIRS = 100  # problems that are made of a task that is slow
_BUNDLED_BYTES = {
    "austen": 4_012_309,
    "ecoli-k12": 4_639_675,
    "shakespeare": 4_998_265,
    "sotu": 10_760_195,
    "wordnet": 3_510_708,
}
_SECONDS = 0.8  # of reading, the sample included, to count the text


def estimate_corpus(
    settings: DataSettings,
    tokenizer: Tokenizer | None = None,
    note: Callable[[str], None] = silent,
    sources: Sources | None = None,
) -> Corpus:
    """Data settings -> the corpus of the first `SAMPLE` bytes of text, whose facts are estimates for the whole text.

    The whole is read for less than a second; where that is not enough its size is that of the files, or the number of
    problems of a task. A text that is not larger than the sample is prepared as by `prepare`, whose arguments and
    errors are the same.
    """
    sources = sources or open_sources(settings)
    train_head, valid_head = _head(sources.source), None if sources.valid is None else _head(sources.valid)
    if train_head.times == 1 and (valid_head is None or valid_head.times == 1):
        return prepare(settings, tokenizer, note, sources)
    vocab_size = settings.vocab_size
    if vocab_size is None and settings.tokenizer in ("auto", "bpe", "words"):
        vocab_size = automatic_vocab_size(round(train_head.bytes * train_head.times))
    heads = Sources(train_head.source, None if valid_head is None else valid_head.source, sources.rule)
    corpus = prepare(dataclasses.replace(settings, vocab_size=vocab_size), tokenizer, silent, heads)
    note(
        f"sizes of the text are estimates: {train_head.bytes / 1e6:.1f} MB of about "
        f"{train_head.bytes * train_head.times / 1e6:.1f} MB were encoded."
    )
    times = train_head.times if valid_head is None else valid_head.times
    facts = corpus.facts
    if facts.tokenizer in ("bpe", "words") and vocab_size is not None:  # the sample may be too small for so many
        facts = dataclasses.replace(facts, vocab_size=vocab_size)
    facts = dataclasses.replace(
        facts, source=settings.source, train=_times(facts.train, train_head.times), valid=_times(facts.valid, times)
    )
    return dataclasses.replace(corpus, facts=facts)


class _Head(NamedTuple):
    """The beginning of a source as a source, its bytes of text, and how many times as large the whole is."""

    source: Source
    bytes: int
    times: float


def _head(source: Source) -> _Head:
    """A source -> its beginning."""
    kept, key = list[Pair | Piece](), hashlib.sha256()
    size = total = count = 0
    until = time.monotonic() + _SECONDS
    whole = True
    for item in source.pairs() if source.paired else source.pieces():
        text = item.prompt + item.answer if isinstance(item, Pair) else item.text
        if size < SAMPLE:
            kept.append(item)
            key.update(text.encode())
            size = total + utf8_size(text)
        total += utf8_size(text)
        count += 1
        enough = size >= SAMPLE or (source.count is not None and count >= _LEAST_PAIRS)
        if enough and time.monotonic() > until:
            whole = False
            break
    times = total / max(size, 1)
    if source.count is not None and (not whole or count >= min(SAMPLE_PAIRS, source.count)):
        times = source.count / len(kept)
    elif not whole:
        times = max(times, (_size(source) or 0) / size)
    pairs = [item for item in kept if isinstance(item, Pair)]
    pieces = [item for item in kept if isinstance(item, Piece)]
    if pieces and not pieces[-1].last_in_document:
        pieces[-1] = pieces[-1]._replace(last_in_document=True)
    return _Head(
        Source(source.name, key.hexdigest(), source.paired, lambda: pieces, lambda: pairs, source.taken), size, times
    )


def _size(source: Source) -> int | None:
    """About the bytes of a source's text; None if they are not known."""
    if source.name in CORPORA:
        return sum(_BUNDLED_BYTES[name] for name in CORPORA[source.name].files)
    return source.size


def _times(part: PartFacts, times: float) -> PartFacts:
    """The sizes of a part, multiplied."""
    return PartFacts(*(round(value * times) for value in dataclasses.astuple(part)))
