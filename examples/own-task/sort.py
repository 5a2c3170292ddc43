"""A task of one's own: the letters of a word in alphabetical order.

unmask learn --checkpoint CHECKPOINT --task examples/own-task/sort.py:Sort
"""

from collections.abc import Iterator, Sequence
from random import Random

from unmask.tasks import Example, Verdict

LENGTH = 8


class Sort:
    """Words of eight letters, sorted."""

    name = "sort"

    def examples(self, split: str, count: int, seed: int = 0) -> Sequence[Example]:
        """The same for the same seed; no split depends on another's seed."""
        chance = Random(f"{split}-{seed}")
        words = ("".join(chance.choices("abcdefghij", k=LENGTH)) for _ in range(count))
        return [Example(f"{word}>[{LENGTH}]", "".join(sorted(word))) for word in words]

    def verify(self, example: Example, completion: str) -> Verdict:
        """Right where every letter is; partly right counts for nothing."""
        return Verdict(float(completion == example.answer))

    def pairs(self, split: str, count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
        """What the denoiser trains on: the prompt is always visible."""
        return ((one.template.split("[")[0], one.answer) for one in self.examples(split, count, seed))
