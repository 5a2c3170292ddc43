"""The tasks of lm-evaluation-harness (`lm_eval`) on a model of ours -> their metrics, with the errors of the bounds.

`harness_class` is the model class of the harness, which `simple_evaluate(model=...)` takes. The entry point
`lm_eval.models` names it (`UnmaskLM`) for versions of the harness that read entry points, those after 0.4.13.
"""

__all__ = ["harness_class", "run_tasks"]

import functools
import importlib
import logging
import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from unmask.api import Model, load
from unmask.config import to_path
from unmask.errors import RequestError, did_you_mean, reason_in_words
from unmask.eval.scorer import HarnessOptions, Scored, Scorer


def _library(name: str = "lm_eval") -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RequestError("--task lm-eval:NAME needs lm-evaluation-harness: pip install 'unmask[harness]'.") from error


@contextmanager
def _quiet() -> Generator[None]:
    """Context in which the harness logs errors alone; else each default value of a task is a warning."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@functools.cache
def harness_class() -> Any:
    """-> the subclass of `lm_eval.api.model.LM`. Raises RequestError where lm_eval is missing.

    Its constructor takes the name or folder of a model, or a `Model`, and the fields of `HarnessOptions`.
    """
    base: Any = _library("lm_eval.api.model").LM

    class UnmaskLM(base):
        """A model of this library, as lm-evaluation-harness uses models."""

        def __init__(
            self,
            pretrained: Any = "wordnet",
            device: str | None = None,
            batch_size: Any = None,
            max_batch_size: Any = None,
            **options: Any,
        ) -> None:
            super().__init__()
            model = pretrained if isinstance(pretrained, Model) else load(pretrained, device=device or "auto")
            if str(batch_size or "").isdigit():
                options["batch"] = int(batch_size)
            self.scorer = Scorer(model, HarnessOptions(**options))
            self.answers: dict[str, list[tuple[Scored, int]]] = {}

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            """See lm_eval.api.model.LM; log_prob is a bound where `Scored.exact` is False."""
            scored = self.scorer.conditionals([request.args for request in requests])
            self._keep(requests, scored)
            return [(answer.log_prob, answer.greedy) for answer in scored]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            """See lm_eval.api.model.LM and `Scorer.rolling`."""
            scored = self.scorer.rolling([request.args[0] for request in requests])
            self._keep(requests, scored)
            return [answer.log_prob for answer in scored]

        def generate_until(self, requests: list[Any]) -> list[str]:
            """See lm_eval.api.model.LM and `Scorer.written`."""
            return self.scorer.written([request.args for request in requests])

        def _keep(self, requests: list[Any], scored: list[Scored]) -> None:
            for request, answer in zip(requests, scored, strict=True):
                size = len(str(request.args[-1]).encode())
                self.answers.setdefault(str(request.task_name), []).append((answer, size))

    return UnmaskLM


def __getattr__(name: str) -> Any:
    """`UnmaskLM`, which the entry point names, is made when it is asked for: lm_eval is imported then."""
    if name == "UnmaskLM":
        return harness_class()
    raise AttributeError(f"module {__name__} has no attribute {name}")


def run_tasks(
    model: Model,
    names: Sequence[str],
    options: HarnessOptions,
    *,
    include: str | None = None,
    limit: int | None = None,
    shots: int | None = None,
) -> dict[str, Any]:
    """A model and names of tasks of the harness -> their metrics, and the error of the bounds behind them.

    `include` is a folder with more tasks (YAML), `limit` the number of examples of a task, `shots` that of worked
    examples in a prompt. Raises RequestError for a task that the harness does not have or whose data cannot be loaded.
    """
    library, manager = _library(), _task_manager(names, include)
    for name in names:
        _check_task(manager, name)
    runner = harness_class()(model, **{name: getattr(options, name) for name in HarnessOptions.__slots__})
    with _quiet():
        result = library.simple_evaluate(
            model=runner,
            tasks=list(names),
            task_manager=manager,
            limit=limit,
            num_fewshot=shots,
            log_samples=False,
            random_seed=options.seed,
            numpy_random_seed=options.seed % 2**32,
            torch_random_seed=options.seed,
            fewshot_random_seed=options.seed,
        )
    return {
        "results": {name: _metrics(values) for name, values in result["results"].items()},
        "bounds": {name: _errors(answers) for name, answers in runner.answers.items()},
        "examples": {name: counts["effective"] for name, counts in result["n-samples"].items()},
        "shots": dict(result["n-shot"]),
        "task_versions": dict(result["versions"]),
        "ignored": sorted(runner.scorer.ignored),
        "window": model.window,
    }


def _task_manager(names: Sequence[str], include: str | None) -> Any:
    """Names of tasks and a folder -> the index of tasks: of the folder alone where it has all, which takes no time."""
    make = _library("lm_eval.tasks").TaskManager
    if include is None:
        return make()
    if not to_path(include).is_dir():
        raise RequestError(
            f"There is no folder {include}: give one with the YAML files of tasks, or leave --include out."
        )
    own = make(include_path=include, include_defaults=False)
    return own if set(names) <= set(own.all_tasks) else make(include_path=include)


def _check_task(manager: Any, name: str) -> None:
    """Raise RequestError for a task that the harness does not have, or whose data cannot be loaded."""
    if name not in manager.all_tasks:
        raise RequestError(f"lm-evaluation-harness has no task '{name}'; {_near(name, manager.all_tasks)}")
    try:
        with _quiet():
            manager.load([name])
    except Exception as error:  # of data sets, their hosts, and the code of a task
        raise RequestError(
            f"The data of the task '{name}' cannot be loaded ({reason_in_words(error)}): see whether its data set is "
            "in the cache of the datasets library, and whether there is a network."
        ) from error


def _near(name: str, known: Sequence[str]) -> str:
    """An unknown name and the known ones -> the end of a sentence: the nearest, never all of several thousand."""
    near = did_you_mean(name, known)
    return near if near.startswith("did") else "`lm-eval ls tasks` lists them; --include FOLDER adds your own."


def _metrics(values: Mapping[str, Any]) -> dict[str, Any]:
    """The results of a task -> its numbers by name; a metric of the filter "none" has no filter in its name."""
    kept = {name.removesuffix(",none"): value for name, value in values.items() if name != "alias"}
    return {name: value for name, value in kept.items() if isinstance(value, int | float)}


def _errors(answers: Sequence[tuple[Scored, int]]) -> dict[str, Any]:
    """The answers of a task with their bytes -> how many are exact, and the errors of the others."""
    total = math.sqrt(sum(answer.stderr**2 for answer, _ in answers))
    return {
        "requests": len(answers),
        "exact": sum(answer.exact for answer, _ in answers),
        "nats": -sum(answer.log_prob for answer, _ in answers) / len(answers),
        "stderr": total / math.sqrt(len(answers)),
        "bits_per_byte_stderr": total / math.log(2) / max(1, sum(size for _, size in answers)),
    }
