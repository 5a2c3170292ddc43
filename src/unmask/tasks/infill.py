"""Infilling of text: rewrite one hole of a few tokens in a window of a text that was held out.

The tokenizer, the text and its split are those of a checkpoint, so that the windows of the splits "valid" and "test"
come from what its training held out (`data.split`), and those of "train" from the rest.

The score is the recovery: the share of the hole's tokens that are the true ones at their positions. A small model
hardly ever writes all tokens of a hole, so that with score=exact nearly every attempt has the same score, 0, and no
policy can learn from it. But the most probable token of each position alone has the highest expected recovery, whatever
the others are: one pass is best. With score=bigrams, the F1 of pairs of neighbouring tokens (ROUGE-2), tokens have to
fit together, and two passes score higher than one (docs/log.md). A score of 1 is the same with all three.
"""

__all__ = ["Infill"]

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice, pairwise
from random import Random
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from unmask.data.settings import SPLIT_RULE, DataSettings
from unmask.errors import DataError, RequestError, did_you_mean
from unmask.noise import derive
from unmask.ranges import check_numbers, whole
from unmask.tasks.base import Example, Verdict, check_split, escaped

if TYPE_CHECKING:
    from unmask.data.packed import Sources
    from unmask.disk.checkpoint import Checkpoint
    from unmask.text.tokenizer import Tokenizer

SCORES = ("recovery", "bigrams", "exact")
_STREAM, _TRIES, _MOST_UNITS = 0x1F11, 1000, 200_000
_CHARACTERS = 16  # of text that are encoded for a token of a window; more than any ordinary text has


class _Text(NamedTuple):
    """What a checkpoint was trained on."""

    tokenizer: "Tokenizer"
    sources: "Sources"
    valid_share: float
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Infill:
    """Rewrite a hole in a window of held-out text; the score is the share of its tokens that are the true ones.

    `model` is the name or the folder of a checkpoint: its tokenizer cuts the windows, and its text is read, or the
    text `source`. A hole has `shortest` to `longest` tokens, a window at most `window`, of which at least half are
    shown, at least one on either side. `score` is recovery, bigrams or exact.
    """

    model: str = "wordnet"
    source: str = ""
    shortest: Annotated[int, whole(1, 1000)] = 4
    longest: Annotated[int, whole(1, 1000)] = 12
    window: Annotated[int, whole(4, 100_000)] = 64
    score: str = "recovery"

    def __post_init__(self) -> None:
        check_numbers(self, error=RequestError)
        if self.score not in SCORES:
            raise RequestError(f"score is '{self.score}'; {did_you_mean(self.score, SCORES)}")
        if self.shortest > self.longest or 2 * self.shortest > self.window:
            raise RequestError(
                f"shortest is {self.shortest}, longest {self.longest} and window {self.window}; give a shortest hole "
                "that is not above the longest, and not above half of the window."
            )

    @property
    def name(self) -> str:
        place = f"model={self.model}" + (f",source={self.source}" if self.source else "")
        sizes = f"shortest={self.shortest},longest={self.longest},window={self.window}"
        return f"infill:{place},{sizes},score={self.score}"

    @property
    def fingerprint(self) -> str:
        """The sha256 of the tokenizer and of the text, in hexadecimal."""
        return _opened(self.model, self.source).fingerprint

    def examples(self, split: str, count: int, seed: int = 0) -> Sequence[Example]:
        """Windows with a hole. Raises DataError where the text of a split is too short for a window."""
        return list(islice(self._drawn(split, seed), count))

    def verify(self, example: Example, completion: str) -> Verdict:
        """The recovery, or the F1 of neighbouring pairs, or 1 for all and 0 for not all tokens; see the module.

        The recovery is a share of the larger of the two numbers of tokens.
        """
        tokenizer = _opened(self.model, self.source).tokenizer
        truth = tokenizer.encode(example.answer, inside=True)
        try:
            tokens = tokenizer.encode(completion, inside=True)
        except DataError as error:
            return Verdict(0.0, str(error))
        right = sum(a == b for a, b in zip(tokens, truth, strict=False))
        if tokens == truth:
            return Verdict(1.0)
        share = right / max(len(truth), len(tokens)) if self.score == "recovery" else 0.0
        if self.score == "bigrams":
            share = _bigram_f1(tokens, truth)
            share = share if share < 1 else 1 - 1 / len(truth)  # the pairs of "a b a" are those of "b a b"
        return Verdict(share, f"{right} of {len(truth)} tokens are right")

    def pairs(self, split: str, count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
        """An empty prompt and a whole window, so that a denoiser trains with any tokens masked."""
        return (("", example.facts["text"]) for example in islice(self._drawn(split, seed), count))

    def _drawn(self, split: str, seed: int) -> Iterator[Example]:
        """An infinite sequence of problems."""
        number, text = check_split(split), _opened(self.model, self.source)
        units = _units(self.model, self.source, split)
        generator = Random(derive(seed, _STREAM, number, self.shortest, self.longest, self.window))
        while True:
            tries = (self._draw(generator.choice(units), text.tokenizer, generator) for _ in range(_TRIES))
            example = next((example for example in tries if example is not None), None)
            if example is None:
                raise DataError(
                    f"no window with a hole of {self.shortest} tokens was found in the text of the split '{split}' of "
                    f"{self.name}; give a smaller shortest."
                )
            yield example

    def _draw(self, unit: str, tokenizer: "Tokenizer", generator: Random) -> Example | None:
        """A text -> a problem; None where it is too short, or where its parts alone have other tokens."""
        if len(unit) > (most := self.window * _CHARACTERS):
            unit = unit[generator.randrange(len(unit) - most // 2) :][:most].partition(" ")[2]
        ids = tokenizer.encode(unit)[: self.window]
        size = generator.randint(self.shortest, self.longest)
        if max(2 * size, size + 2) > len(ids):
            return None
        start = generator.randint(1, len(ids) - size - 1)  # a model puts EOS into a hole behind which nothing stands
        parts = (ids[:start], ids[start : start + size], ids[start + size :])
        before, hole, after = (tokenizer.decode(part, inside=at > 0) for at, part in enumerate(parts))
        texts = (before, hole, after)
        if any(tokenizer.encode(text, inside=at > 0) != parts[at] for at, text in enumerate(texts)):
            return None
        facts = {"text": "".join(texts), "unique": True}
        return Example(f"{escaped(before)}[{size}]{escaped(after)}", hole, facts)


def _bigram_f1(tokens: Sequence[int], truth: Sequence[int]) -> float:
    """Two lists of tokens -> the F1 of their pairs of neighbours, each counted as often as in both; 0 without pairs."""
    left, right = Counter(pairwise(tokens)), Counter(pairwise(truth))
    pairs = left.total() + right.total()
    return 2 * (left & right).total() / pairs if pairs else 0.0


@cache
def _opened(model: str, source: str) -> _Text:
    """A checkpoint, and the name of a text or "" -> the tokenizer and the text. Raises RequestError without them."""
    from unmask.data.packed import Sources
    from unmask.data.sources import open_source
    from unmask.disk.checkpoint import read_checkpoint
    from unmask.disk.folders import bundled
    from unmask.text.tokenizer import Tokenizer

    checkpoint = read_checkpoint(bundled().get(model, model))
    if checkpoint.tokenizer_json is None:
        raise RequestError(f"{model} has no tokenizer; give the model of a text, such as model=wordnet.")
    data, rule = _recorded(checkpoint, model, source)
    valid = None if data.valid is None else open_source(data.valid, data.columns, rule)
    sources = Sources(open_source(data.source, data.columns, rule), valid, rule)
    facts = [checkpoint.tokenizer_json, sources.split.source, str(sources.split.valid), f"{data.valid_share} {rule}"]
    fingerprint = hashlib.sha256("\0".join(facts).encode()).hexdigest()
    return _Text(Tokenizer.from_json(checkpoint.tokenizer_json, name=model), sources, data.valid_share, fingerprint)


def _recorded(checkpoint: "Checkpoint", model: str, source: str) -> tuple[DataSettings, int]:
    """A checkpoint -> the settings of its text, and the rule of its split; those of `source` where it is not ""."""
    from unmask.config import from_dict

    if source:
        return DataSettings(source), SPLIT_RULE
    record = checkpoint.fact(dict[str, Any], "run.json", "settings", "data")
    if record is None or str(record.get("source")).startswith("task:"):
        raise RequestError(f"{model} does not say on which text it was trained; give one: infill:model=...,source=...")
    data = from_dict(DataSettings, record, f"{checkpoint.folder}/run.json")
    return data, checkpoint.fact(int, "run.json", "split", "rule") or 1


@cache
def _units(model: str, source: str, split: str) -> list[str]:
    """A checkpoint, a text and a split -> its documents, or pieces of them, at most `_MOST_UNITS` of a side.

    What is held out is divided between "valid" and "test" by the sha256 of each document.
    """
    from unmask.data.split import plan_split

    text = _opened(model, source)
    side = (
        unit.text for unit in plan_split(text.sources, text.valid_share).units() if unit.valid == (split != "train")
    )
    units = list(islice(side, _MOST_UNITS))
    if split != "train":
        odd = split == "test"
        units = [unit for unit in units if hashlib.sha256(unit.encode()).digest()[0] % 2 == odd]
    if not units:
        raise DataError(f"The text of {model} has nothing for the split '{split}'; give a longer text as source.")
    return units
