"""How good texts are that a model wrote: their perplexity under a judge, and always beside it how varied they are.

A low perplexity alone means little: a text of one repeated word has the lowest (arXiv:2409.02908). So every measure of
quality comes with the entropy of single tokens, distinct n-grams and repetition. A judge is the corpus' own 3-gram
model, which needs no network, or a causal language model.
"""

__all__ = [
    "Judge",
    "ModelJudge",
    "Text",
    "TextMeasures",
    "Trigram",
    "distinct",
    "entropy",
    "known_words",
    "measure_texts",
    "open_judge",
    "repetition",
    "words_of",
]

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from unmask.batch import padded_size
from unmask.data.packed import Packed
from unmask.errors import RequestError
from unmask.model.soft import two_pass
from unmask.objective.base import Rows, Turn
from unmask.objective.bound import Bound

_WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*")
_BATCH = 8  # rows that a judge reads at once
_SPAN = 4  # tokens of the n-grams of `repetition`


class Text(NamedTuple):
    """A text that a model wrote after a prompt, which may be empty."""

    prompt: Sequence[int]
    tokens: Sequence[int]
    """The tokens after the prompt, by the tokenizer of the model."""
    string: str
    """The whole text."""


class Judge(Protocol):
    """A language model that gives texts a probability."""

    @property
    def name(self) -> str:
        """What the reports call it."""
        ...

    def nats(self, texts: Sequence[Text]) -> tuple[list[float], list[int]]:
        """Texts -> -log p of each in nats, and the number of tokens that this counts."""
        ...


class Trigram:
    """An interpolated 3-gram model of token ids with Witten-Bell smoothing (Witten and Bell 1991), a Judge.

    P(w | h) = (c(h w) + n(h) P(w | h')) / (c(h) + n(h)), where h' is h without its first token and n(h) the number of
    different tokens after h; below single tokens, all `size` ids are equally likely.
    """

    name = "3-gram"

    def __init__(self, rows: Iterable[Sequence[int]], size: int) -> None:
        self.size = size
        row, start = _joined(rows)
        grams = (np.unique(_codes(row, start, order, size), return_counts=True) for order in range(3))
        self.orders = [_Counts.of(codes, counts, size) for codes, counts in grams]

    def probability(self, token: int, history: Sequence[int]) -> float:
        """P(token | the last two of `history`)."""
        return float(self.probabilities([*history[-2:], token])[-1])

    def probabilities(self, row: Sequence[int]) -> np.ndarray:
        """Tokens of a row, (L,) -> P of each after the two before it, (L,) float64."""
        ids = np.asarray(row, np.int64)
        start = np.zeros(len(ids), np.int64)
        p = np.full(len(ids), 1 / self.size)
        for order, counts in enumerate(self.orders):
            p[order:] = counts.mixed(_codes(ids, start, order, self.size), p[order:], self.size)
        return p

    def nats(self, texts: Sequence[Text]) -> tuple[list[float], list[int]]:
        """See `Judge`; prompts are read and not counted."""
        rows = [self.probabilities([*text.prompt, *text.tokens])[len(text.prompt) :] for text in texts]
        return [-float(np.log(row).sum()) for row in rows], [len(text.tokens) for text in texts]


class _Counts(NamedTuple):
    """n-grams of one order by their code, sorted, with their counts; and the same of their histories."""

    grams: np.ndarray
    counts: np.ndarray
    histories: np.ndarray
    totals: np.ndarray
    """c(h), the sum of the counts of the n-grams after a history."""
    different: np.ndarray
    """n(h)."""

    @classmethod
    def of(cls, grams: np.ndarray, counts: np.ndarray, size: int) -> "_Counts":
        histories, first, different = np.unique(grams // size, return_index=True, return_counts=True)
        totals = np.add.reduceat(counts, first) if len(first) else counts
        return cls(grams, counts, histories, totals, different)

    def mixed(self, grams: np.ndarray, shorter: np.ndarray, size: int) -> np.ndarray:
        """Codes of n-grams and the probabilities of their last tokens without the first -> with it; see `Trigram`."""
        at, there = _position(self.histories, grams // size)
        where, seen = _position(self.grams, grams)
        if not there.any():
            return shorter
        count = np.where(seen, self.counts[where], 0)
        total, different = self.totals[at], self.different[at]
        return np.where(there, (count + different * shorter) / (total + different), shorter)


def _position(table: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A sorted table and values -> the index of each in it, and whether it is there."""
    at = np.searchsorted(table, values).clip(max=max(len(table) - 1, 0))
    return at, (table[at] == values if len(table) else np.zeros(len(values), bool))


def _joined(rows: Iterable[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Rows -> all of their tokens, (N,), and the position where the row of each begins, (N,)."""
    arrays = [np.asarray(row, np.int64) for row in rows]
    lengths = np.array([len(row) for row in arrays], np.int64)
    return np.concatenate([np.empty(0, np.int64), *arrays]), np.repeat(lengths.cumsum() - lengths, lengths)


def _codes(row: np.ndarray, start: np.ndarray, order: int, size: int) -> np.ndarray:
    """Tokens, the starts of their rows, and `order` tokens before each -> the code of each n-gram within its row."""
    at = np.arange(order, len(row))
    at = at[at - order >= start[order:]]
    code = np.zeros(len(at), np.int64)
    for before in range(order, -1, -1):
        code = code * size + row[at - before]
    return code


@dataclass(frozen=True, slots=True)
class ModelJudge:
    """A causal model (`api.Model`) as a Judge. It reads the whole text by its own tokenizer, the prompt included."""

    model: Any
    name: str

    def __post_init__(self) -> None:
        if getattr(self.model.network, "causal_block", 0) != 1:
            raise RequestError(
                f"{self.name} cannot judge texts: it is no causal language model, and has a bound alone; give one such "
                "as smollm2-135m-instruct-q4_1, a run of --model.parameterization ar, or 3-gram."
            )

    def nats(self, texts: Sequence[Text]) -> tuple[list[float], list[int]]:
        """See `Judge`. Raises RequestError for a text without a token to predict, and as `reads`."""
        self.reads("".join(text.string for text in texts))
        model = self.model
        ids = model.tokenizer.encode_batch([text.string for text in texts])
        before = model.defaults.first(model.network)
        width = min(model.window, padded_size(len(before) + max(map(len, ids))))
        packed = Packed.cut(ids, width, model.tokenizer.pad_id, 0, before)
        owner = [line for line, row in enumerate(ids) for _ in range(0, len(row), width - len(before))]
        nats, counts = [0.0] * len(texts), [0] * len(texts)
        for at in range(0, len(packed), _BATCH):
            part = range(at, min(at + _BATCH, len(packed)))
            rows = Rows(*map(torch.from_numpy, packed.batch(part))).part(slice(None), model.device)
            rows = rows.predicted(model.denoiser)
            loss = model.objective.bound(two_pass(model.denoiser), rows, Turn(0, torch.tensor(part), len(packed), 0, 1))
            for line, value, count in zip(part, loss.nats.tolist(), loss.tokens.tolist(), strict=True):
                nats[owner[line]] += value
                counts[owner[line]] += int(count)
        if not all(counts):
            raise RequestError(f"{self.name} cannot judge a text without a token to predict: give longer texts.")
        return nats, counts

    def reads(self, text: str) -> None:
        """Raise RequestError for a text of another alphabet: of one character in twenty or more there is no token.

        Fewer, which a model can write by chance, reach the judge as its unknown token, or not at all.
        """
        unknown = self.model.tokenizer.unknown(text)
        if 20 * unknown.total() > len(text):
            named = ", ".join(map(repr, list(unknown)[:3]))
            raise RequestError(
                f"{self.name} cannot judge these texts: it has no token for {named} ({unknown.total()} characters of "
                f"{len(text)}); give a judge of the same alphabet."
            )


def open_judge(name_or_path: str) -> ModelJudge:
    """Name or folder of a causal language model -> the judge, on the processor.

    A published causal model needs no id for MASK. Raises RequestError for a model that cannot judge texts.
    """
    from unmask.api import Model
    from unmask.hf.masked import load_any
    from unmask.hf.names import locate
    from unmask.model.load import load_denoiser
    from unmask.model.zoo.read import read_model

    path = locate(name_or_path)
    library = read_model(path, grow=True).config.get("library") == "transformers"
    loaded = load_any(path) if library else load_denoiser(path, "cpu", torch.float32, grow=True)
    model = Model(loaded.denoiser, loaded.process, loaded.tokenizer, loaded.checkpoint, torch.device("cpu"))
    return ModelJudge(model, name_or_path)


@dataclass(frozen=True, slots=True)
class TextMeasures:
    """Measures of some texts; the pairs are a mean over texts and its standard error."""

    texts: int
    tokens: float
    """Mean length in tokens of the model that wrote them."""
    nats: tuple[float, float | None]
    """-log p a token under the judge; the perplexity is its exponential."""
    entropy: tuple[float, float | None]
    """Of the frequencies of single tokens within a text, in nats."""
    distinct: tuple[float, float, float]
    """Different 1-, 2- and 3-grams of all texts, divided by the number of all."""
    repetition: tuple[float, float | None]
    """The share of 4-grams of a text that it has had before."""
    words: float | None
    """The share of words that the dictionary has; None without a word."""

    @property
    def perplexity(self) -> float:
        """exp(nats)."""
        return math.exp(min(self.nats[0], 700))


def measure_texts(texts: Sequence[Text], judge: Judge, dictionary: frozenset[str]) -> TextMeasures:
    """Texts, a judge and a dictionary -> their measures. Raises RequestError where no text has a token."""
    texts = [text for text in texts if len(text.tokens)]
    if not texts:
        raise RequestError("There is no text to judge: every text is empty.")
    nats, counts = judge.nats(texts)
    rate = Bound.of(torch.tensor(nats), torch.tensor(counts), 1)
    rows = [text.tokens for text in texts]
    return TextMeasures(
        len(texts),
        sum(map(len, rows)) / len(rows),
        (rate.nats_per_token, rate.stderr),
        _mean([entropy(row) for row in rows]),
        (distinct(rows, 1), distinct(rows, 2), distinct(rows, 3)),
        _mean([repetition(row) for row in rows]),
        known_words([text.string for text in texts], dictionary),
    )


def entropy(tokens: Sequence[int]) -> float:
    """Tokens -> the entropy of their frequencies, in nats."""
    return -sum(n / len(tokens) * math.log(n / len(tokens)) for n in Counter(tokens).values())


def distinct(rows: Iterable[Sequence[int]], size: int) -> float:
    """Rows of tokens -> the number of different n-grams of `size` tokens, divided by that of all; 0 without any."""
    grams = [gram for row in rows for gram in _grams(row, size)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(tokens: Sequence[int]) -> float:
    """Tokens -> the share of 4-grams that occurred before (seq-rep-4, arXiv:1908.04319); 0 below four tokens."""
    grams = _grams(tokens, _SPAN)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def words_of(text: str) -> list[str]:
    """A text -> its words in lower case: runs of letters, an apostrophe between letters included."""
    return [word.lower() for word in _WORD.findall(text)]


def known_words(texts: Iterable[str], dictionary: frozenset[str]) -> float | None:
    """Texts -> the share of their words that the dictionary has; None without a word."""
    words = [word for text in texts for word in words_of(text)]
    return sum(word in dictionary for word in words) / len(words) if words else None


def _grams(row: Sequence[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(row[at : at + size]) for at in range(len(row) - size + 1)]


def _mean(values: Sequence[float]) -> tuple[float, float | None]:
    """Values -> their mean and its standard error; None for a single one."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
