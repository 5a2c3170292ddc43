"""Few-shot questions: choose one of three words by a rule that only the examples in the prompt show.

The rule is a category of words, such as animals. A relevant example has three words of three categories, one of them of
the rule's, and that word as its answer; so has the question. Distractors are examples of another rule, the smallest or
the largest of three digits, and say nothing about the question. With the rule "colours" a prompt may be
` cat red Spain: red. 4 9 2: 9. hope bread blue:`, and its answer is ` blue`. The form is that of the probes of
arXiv:2511.21338 (appendix B), with words of our own.
"""

__all__ = ["MIXED", "FewShot"]

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Annotated

from unmask.errors import RequestError
from unmask.noise import derive
from unmask.ranges import Count, check_numbers, whole
from unmask.tasks.base import Example, Verdict, check_split

_CATEGORIES = {
    "animals": "cat dog horse cow lion bear wolf rabbit mouse tiger",
    "body": "hand foot nose ear arm leg knee neck finger shoulder",
    "colours": "red blue green yellow black white brown pink purple gray",
    "countries": "France Spain Italy China Japan India Brazil Mexico Canada Egypt",
    "emotions": "joy fear anger love pride shame grief hope envy guilt",
    "food": "bread rice cheese soup cake butter honey sugar salt egg",
}
_STREAM = 0xF5
_MOST = 10_000
MIXED = -1
"""The `gap` of examples in random order."""


@dataclass(frozen=True, slots=True)
class FewShot:
    """Choose one of three words by a rule that only the examples in the prompt show, some of which mislead.

    `relevant` examples follow the rule of the question, `distractors` another one. They are mixed (`gap`
    -1), or the relevant ones are a block with `gap` distractors between it and the question. A category has `words`
    words. `length` is the tokens of the hole: two are enough where a word is a token and EOS follows.
    """

    relevant: Annotated[int, whole(1, _MOST)] = 4
    distractors: Annotated[int, whole(0, _MOST)] = 8
    gap: Annotated[int, whole(MIXED)] = MIXED
    words: Annotated[int, whole(1, 10)] = 10
    length: Count = 2

    def __post_init__(self) -> None:
        check_numbers(self, error=RequestError)
        if self.gap > self.distractors:
            raise RequestError(
                f"gap is {self.gap}, but there are {self.distractors} distractors; give a gap of at most as many."
            )

    @property
    def name(self) -> str:
        place = "" if self.gap == MIXED else f"gap={self.gap},"
        sizes = f"relevant={self.relevant},distractors={self.distractors}"
        return f"few-shot:{sizes},{place}words={self.words},length={self.length}"

    def examples(self, split: str, count: int, seed: int = 0) -> Sequence[Example]:
        """Problems; `facts` holds the "category", the "options", and the "distance".

        The distance is the number of characters between the last relevant example and the answer. Problems that differ
        in `gap` alone have the same examples in another order.
        """
        return list(self._drawn(split, count, seed))

    def verify(self, example: Example, completion: str) -> Verdict:
        """Right if it is the word of the category."""
        word = completion.strip()
        if word == example.answer.strip():
            return Verdict(1.0)
        return Verdict(0.0, "another of the words" if word in example.facts.get("options", ()) else "none of the words")

    def pairs(self, split: str, count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
        """The examples with the question, and the word."""
        return ((example.template.split("[")[0], example.answer) for example in self._drawn(split, count, seed))

    def _drawn(self, split: str, count: int, seed: int) -> Iterator[Example]:
        """The problems of `examples`, one after the other."""
        generator = Random(derive(seed, _STREAM, check_split(split), self.relevant, self.distractors, self.words))
        return (self._draw(generator) for _ in range(count))

    def _draw(self, generator: Random) -> Example:
        category = generator.choice(tuple(_CATEGORIES))
        smallest = generator.random() < 0.5
        relevant = [self._choice(generator, category) for _ in range(self.relevant)]
        distractors = [_distractor(generator, smallest) for _ in range(self.distractors)]
        options, answer = self._choice(generator, category)
        order = [*([True] * self.relevant), *([False] * self.distractors)]
        generator.shuffle(order)
        if self.gap != MIXED:
            before = [False] * (self.distractors - self.gap)
            order = [*before, *([True] * self.relevant), *([False] * self.gap)]
        shown = [(relevant if of_the_rule else distractors).pop() for of_the_rule in order]
        lines = [f" {' '.join(words)}: {word}." for words, word in shown]
        question = f" {' '.join(options)}:"
        after = lines[len(lines) - order[::-1].index(True) :]
        distance = len("".join([*after, question]))
        facts = {"category": category, "options": options, "distance": distance, "unique": True}
        return Example(f"{''.join(lines)}{question}[{self.length}]", f" {answer}", facts)

    def _choice(self, generator: Random, category: str) -> tuple[list[str], str]:
        """Three words of three categories in random order, and that of `category`."""
        rest = generator.sample([name for name in _CATEGORIES if name != category], 2)
        answer, *wrong = (generator.choice(_CATEGORIES[name].split()[: self.words]) for name in (category, *rest))
        options = [answer, *wrong]
        generator.shuffle(options)
        return options, answer


def _distractor(generator: Random, smallest: bool) -> tuple[list[str], str]:
    """Three digits, and the smallest or the largest."""
    digits = generator.sample("123456789", 3)
    return digits, (min if smallest else max)(digits)
