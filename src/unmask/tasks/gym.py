"""Tasks of the package `reasoning-gym` (an extra): its generators make the problems, its scorers are the verifiers.

The options are those of the data set: `gym:dataset=countdown,min_numbers=3,max_numbers=3`. Data sets without reference
answers (boxnet, graph_color, propositional_logic, rubiks_cube, rush_hour) can be evaluated and used as a reward, but
give no pairs to train on. Scorers and generators are not changed; some scorers give a partial score for an answer of
the right form. Of the 105 data sets of version 0.1.25 two break the contract of a task: game_of_life_halting accepts
any text as the answer No, and list_functions does not make the same problems twice.
"""

__all__ = ["Gym"]

import importlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from unmask.errors import PluginError, RequestError, did_you_mean
from unmask.noise import derive
from unmask.ranges import Count, checked
from unmask.tasks.base import TAIL, Example, Verdict, check_split, escaped

_STREAM = 0x69E3
_SEEDS = 2**30  # some data sets pass seed + index of the problem to numpy, which accepts 32 bits
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class Gym:
    """A data set of the package reasoning-gym with its own scorer: dataset=countdown, leg_counting, zebra_puzzles, ...

    `size` is the number of problems of a split and a seed, `length` the tokens of the hole for an answer. With `tail`
    an answer is followed by underscores to this length, as in the tasks with a canvas of fixed width: so a denoiser
    trains on every position of the hole. All other options are passed to the data set.

    Raises:
        RequestError: if the package is missing, or a data set or option does not exist.
    """

    @checked
    def __init__(
        self, dataset: str, size: Count = 10_000, length: Count = 64, tail: bool = False, **settings: Any
    ) -> None:
        self.dataset, self.size, self.length, self.tail = dataset, size, length, tail
        library = _library()
        known: dict[str, tuple[Any, Any]] = library.factory.DATASETS
        if dataset not in known:
            raise RequestError(f"reasoning-gym has no data set '{dataset}'; {did_you_mean(dataset, known)}")
        options = {field.name for field in fields(known[dataset][1])} - {"seed", "size"}
        for key in settings:
            if key not in options:
                raise RequestError(f"The data set '{dataset}' has no option '{key}'; {did_you_mean(key, options)}")
        self.settings = {key: _value(value) for key, value in sorted(settings.items())}
        self._library = library
        self._scorer = self._dataset(0)

    @property
    def name(self) -> str:
        options = {"dataset": self.dataset, "size": self.size, "length": self.length}
        options |= {"tail": True} if self.tail else {}
        options |= self.settings
        return "gym:" + ",".join(f"{key}={value}" for key, value in options.items())

    @property
    def fingerprint(self) -> str:
        """The version of the package, because another version may make other problems."""
        return f"reasoning-gym {getattr(self._library, '__version__', 'unknown')}"

    def examples(self, split: str, count: int, seed: int = 0) -> Sequence[Example]:
        """The first problems of a split, at most `size`; `facts` holds the package's "entry" for the scorer."""
        source = self._dataset(derive(seed, _STREAM, check_split(split)) % _SEEDS)
        entries = [source[index] for index in range(min(count, self.size))]
        return [
            Example(escaped(_prompt(entry)) + f"[{self.length}]", self._written(entry), {"entry": entry})
            for entry in entries
        ]

    def verify(self, example: Example, completion: str) -> Verdict:
        """The package's score of the completion, or of the text in its last <answer> </answer> if there is one.

        A scorer that raises could not read the text: the score is 0.
        """
        tagged = _ANSWER.findall(completion)
        answer = (tagged[-1] if tagged else completion.rstrip(TAIL) if self.tail else completion).strip()
        try:
            score = float(self._scorer.score_answer(answer, example.facts["entry"]))
        except Exception as error:
            return Verdict(0.0, f"the scorer cannot read the answer ({type(error).__name__})")
        return Verdict(score, "" if score == 1 else f"'{answer}' has a score of {score:g}")

    def pairs(self, split: str, count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
        """The question and the reference answer. Raises RequestError if the data set has no reference answers."""
        for example in self.examples(split, count, seed):
            if not example.answer:
                raise RequestError(
                    f"The data set '{self.dataset}' has no reference answers to train on; it can only be verified."
                )
            yield _prompt(example.facts["entry"]), example.answer

    def _written(self, entry: Any) -> str:
        """An entry of the data set -> its reference answer as it stands in the hole, "" without one."""
        answer: str = entry["answer"] or ""
        return answer.ljust(self.length, TAIL) if answer and self.tail else answer

    def _dataset(self, seed: int) -> Any:
        """The data set of the package for a seed. Raises RequestError for options that it refuses."""
        try:
            return self._library.create_dataset(self.dataset, seed=seed, size=self.size, **self.settings)
        except Exception as error:  # assertions about ranges, and comparisons of values of different types
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
    """The text of an option -> its value as bool, int, float or str; other values are returned as they are."""
    if not isinstance(text, str):
        return text
    if text in ("true", "True", "false", "False"):
        return text.lower() == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
