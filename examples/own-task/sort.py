"""A task in a file: sort the letters of a word.

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
        """`count` problems, which depend on split and seed alone."""
        generator = Random(f"{split}-{seed}")
        words = ("".join(generator.choices("abcdefghij", k=LENGTH)) for _ in range(count))
        return [Example(f"{word}>[{LENGTH}]", "".join(sorted(word))) for word in words]

    def verify(self, example: Example, completion: str) -> Verdict:
        """Right if every letter is right; a partly right answer has a score of 0."""
        return Verdict(float(completion == example.answer))

    def pairs(self, split: str, count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
        """Prompts and answers to train a denoiser on; the prompt is never masked."""
        return ((example.template.split("[")[0], example.answer) for example in self.examples(split, count, seed))
