"""Tasks of the `reasoning-gym` package (an extra): its generators make the problems, its own scorers judge them.

Its options are those of the data set: `gym:dataset=countdown,min_numbers=3,max_numbers=3`. Data sets without
reference answers (boxnet, graph_color, propositional_logic, rubiks_cube, rush_hour) can be measured and learned from by
reward, but not trained on as pairs. Scorers and generators are as they are. Some give a part of the score for an answer
of the right form. Of the 105 of version 0.1.25 two break the contract of a task: game_of_life_halting takes any text
for a no, and list_functions does not make the same problems twice.
"""

__all__ = ["Gym"]

import importlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from unmask.errors import PluginError, RequestError, did_you_mean
from unmask.noise import derive
from unmask.tasks.base import Example, Verdict, check_split, escaped

_STREAM = 0x69E3
_SEEDS = 2**30  # some data sets hand their seed to numpy, which takes 32 bits, and add the number of the problem to it
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class Gym:
    """A data set of the package reasoning-gym with its own scorer: dataset=countdown, leg_counting, zebra_puzzles, ...

    `size` is how many problems a split has for a seed, `length` the tokens of the hole for an answer; all other options
    are the data set's own. Raises RequestError where the package is missing, or a data set or option does not exist.
    """

    def __init__(self, dataset: str, size: int = 10_000, length: int = 64, **settings: Any) -> None:
        if size < 1 or length < 1:
            raise RequestError(f"size is {size} and length is {length}; give at least 1 for each.")
        self.dataset, self.size, self.length = dataset, size, length
        library = _library()
        known: dict[str, tuple[Any, Any]] = library.factory.DATASETS
        if dataset not in known:
            raise RequestError(f"reasoning-gym has no data set '{dataset}'; {did_you_mean(dataset, known)}")
        options = {field.name for field in fields(known[dataset][1])} - {"seed", "size"}
        for key in settings:
            if key not in options:
                raise RequestError(f"The data set '{dataset}' has no option '{key}'; {did_you_mean(key, options)}")
        self.settings = {key: _value(given) for key, given in sorted(settings.items())}
        self._library = library
        self._scorer = self._made(0)

    @property
    def name(self) -> str:
        options = {"dataset": self.dataset, "size": self.size, "length": self.length, **self.settings}
        return "gym:" + ",".join(f"{key}={value}" for key, value in options.items())

    @property
    def fingerprint(self) -> str:
        """The version of the package: another may make other problems."""
        return f"reasoning-gym {getattr(self._library, '__version__', 'unknown')}"

    def examples(self, split: str, count: int, seed: int = 0) -> Sequence[Example]:
        """The first problems of a split, at most `size`; `facts` has the package's own "entry" for the scorer."""
        source = self._made(derive(seed, _STREAM, check_split(split)) % _SEEDS)
        entries = [source[number] for number in range(min(count, self.size))]
        return [
            Example(escaped(_prompt(entry)) + f"[{self.length}]", entry["answer"] or "", {"entry": entry})
            for entry in entries
        ]

    def verify(self, example: Example, completion: str) -> Verdict:
        """The package's score of the completion, or of what stands in the last <answer> </answer> where there is one.

        A scorer that throws has met a text it cannot read, and that is no right answer.
        """
        tagged = _ANSWER.findall(completion)
        answer = (tagged[-1] if tagged else completion).strip()
        try:
            score = float(self._scorer.score_answer(answer, example.facts["entry"]))
        except Exception as error:
            return Verdict(0.0, f"the scorer cannot read the answer ({type(error).__name__})")
        return Verdict(score, "" if score == 1 else f"'{answer}' has a score of {score:g}")

    def pairs(self, split: str, count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
        """The question, then the reference answer. Raises RequestError where the data set knows none."""
        for example in self.examples(split, count, seed):
            if not example.answer:
                raise RequestError(
                    f"The data set '{self.dataset}' has no reference answers to train on; it can only be verified."
                )
            yield _prompt(example.facts["entry"]), example.answer

    def _made(self, seed: int) -> Any:
        """The package's data set."""
        try:
            return self._library.create_dataset(self.dataset, seed=seed, size=self.size, **self.settings)
        except Exception as error:  # assertions about ranges, and comparisons of what cannot be compared
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RequestError(
                f"The data set '{self.dataset}' refuses {self.settings or 'its options'}: {reason}."
            ) from error


def _prompt(entry: Any) -> str:
    return f"{entry['question']}\n"


def _library() -> Any:
    try:
        library: Any = importlib.import_module("reasoning_gym")
        importlib.import_module("reasoning_gym.factory")
    except ImportError as error:
        if error.name is not None and error.name.split(".")[0] != "reasoning_gym":
            raise PluginError(f"The package reasoning-gym cannot be imported: {error}.") from error
        raise RequestError("The task 'gym' needs the package reasoning-gym: pip install 'unmask[tasks]'.") from error
    return library


def _value(text: Any) -> Any:
    """What an option's text means; what is no text is meant as it is."""
    if not isinstance(text, str):
        return text
    if text in ("true", "True", "false", "False"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
