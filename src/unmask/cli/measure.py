"""`unmask eval` and `unmask pace`: the bound on -log p of a text, and the best pace for a number of passes."""

__all__ = ["EvalArguments", "PaceArguments", "TaskOptions", "run_eval", "run_pace"]

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from unmask.cli.common import MachineOptions, OutputOptions, TrustOptions, duration, print_json, table
from unmask.cli.parse import Flat, Positional, parse, refuse, typed_options
from unmask.config import to_path
from unmask.data.settings import FIXED, DataSettings
from unmask.errors import RequestError
from unmask.output import note, show
from unmask.ranges import Count, Natural, Seed, Temperature, real, whole

if TYPE_CHECKING:
    from unmask.api import Model
    from unmask.data.packed import Corpus
    from unmask.eval.pace import PaceComparison
    from unmask.eval.perplexity import Policy
    from unmask.objective.bound import Bound


_TEXT = {"data.source", "data.valid", "data.text_key", "data.prompt_key", "data.answer_key"}
"""Options that name a text; `data.valid_share` alone is about the text of the training."""
_DRAWS = 4  # of a sequence
_OF_TASKS = {"task", "include", "shots", "policy", "temperature"}
_SECONDS_BETWEEN_LINES = 10.0
_FORMAT = 1  # of the file that `unmask pace --out` writes

Arguments = TypeVar("Arguments", "EvalArguments", "PaceArguments")


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Tasks of lm-evaluation-harness."""

    task: str | None = None
    """lm-eval:NAME, or lm-eval:NAME,NAME for several."""
    include: str | None = None
    """A folder with tasks of your own (YAML); code that they name is run."""
    shots: Natural | None = None
    """Worked examples before each question; by default as the task says."""
    policy: str | None = None
    """Which tokens appear when, in what the model writes; by default that of the model."""
    temperature: Temperature | None = None
    """Of what the model writes; by default as the task says."""


@dataclass(frozen=True, slots=True)
class EvalArguments:
    """The bound on -log p of a text: nats/token, perplexity, bits/byte; or the tasks of lm-evaluation-harness.

    By default the text is the part that was held out when the checkpoint was trained. With --task the model answers the
    questions of lm-evaluation-harness (pip install 'unmask[harness]'): a masked model by the bound of each answer, of
    which the error is printed beside the metrics.
    """

    checkpoint: Positional[str]
    """A checkpoint or run folder, or the name of a bundled model."""
    data: DataSettings = field(default_factory=DataSettings)
    """The text; options that are left out have their values from training."""
    split: Literal["valid", "train", "all"] = "valid"
    """Which part of the text."""
    draws: Count | None = None
    """Number of random maskings of each sequence (default: 4), or of each answer to a task (default: 32)."""
    stride: Count | None = None
    """Measure long documents by windows that slide by so many tokens: a token after the first window has at least the
    rest of a window before it. Without it, rows share nothing; with --task the default is half a window."""
    limit: Count | None = None
    """Measure only this many sequences of each part, or examples of each task, from its start."""
    both_strands: bool = False
    """DNA: average the prediction over a sequence and its reverse complement; each pass costs two."""
    batch: Count = 32
    """Sequences in a batch."""
    seed: Seed = 0
    """Seed of the maskings."""
    tasks: Flat[TaskOptions] = TaskOptions()
    machine: Flat[MachineOptions] = MachineOptions()
    trust: Flat[TrustOptions] = TrustOptions()
    output: Flat[OutputOptions] = OutputOptions()


@dataclass(frozen=True, slots=True)
class PaceArguments:
    """The number of tokens to reveal in each of k passes of random order, from the information curve of a text.

    By default the text is the part that was held out when the checkpoint was trained. The curve is measured on some
    sequences and the paces that follow from it on others; predicted and measured bounds are printed side by side.
    """

    checkpoint: Positional[str]
    """A checkpoint or run folder, or the name of a bundled model."""
    data: DataSettings = field(default_factory=DataSettings)
    """The text; options that are left out have their values from training."""
    steps: tuple[Count, ...] = (4, 8, 16, 32, 64)
    """Numbers of passes; a pace is made for each."""
    prompt: Annotated[float, real(0, 1, below=True)] = 0.0
    """The share of each sequence, from its start, that is visible."""
    sequences: Annotated[int, whole(2)] = 10
    """Number of sequences for the curve, and of those for the check."""
    out: str | None = None
    """Write the curve, the table and the optimal paces to this file, for --policy random:pace=FILE.json,steps=K."""
    plot: str | None = None
    """Draw the curve and the table to this PNG file."""
    batch: Count = 16
    """Sequences in a batch."""
    seed: Seed = 0
    """Seed of the sequences and of the orders."""
    machine: Flat[MachineOptions] = MachineOptions()
    trust: Flat[TrustOptions] = TrustOptions()
    output: Flat[OutputOptions] = OutputOptions()


# ---- the text --------------------------------------------------------------------------------------------------------


def _over_training(cls: type[Arguments], argv: Sequence[str], verb: str) -> tuple[Arguments, bool]:
    """Words of a verb -> its arguments, and whether they name a text of their own.

    Data options that are left out have their values from the training.
    """
    first: Any = parse(cls, argv, verb)
    first.trust.apply()
    typed = typed_options(cls, argv, verb)
    refuse(typed & {f"data.{name}" for name in FIXED}, f"{verb}: the tokenizer is the checkpoint's.")

    from unmask.hf.names import locate
    from unmask.model.zoo.read import read_model
    from unmask.train.settings import trained_on

    checkpoint = read_model(locate(first.checkpoint))
    trained = trained_on(checkpoint)
    if trained is not None:
        base = trained.data
    elif "data.source" in typed:
        base = DataSettings(length=checkpoint.network_fact("max_length") or 256)
    else:
        raise RequestError(f"{checkpoint.folder} does not say what it was trained on; give a text with --data.source.")
    if "data.source" in typed and "data.valid" not in typed:
        base = replace(base, valid=None)
    return parse(cls, argv, verb, replace(first, data=base)), bool(typed & _TEXT)


def _load(arguments: "EvalArguments | PaceArguments", own: bool) -> "tuple[Model, Corpus]":
    """Arguments -> the model and the text, which is that of the training unless it is the user's `own`.

    Raises RequestError where sequences are longer than the model's window, or the text of the training has changed.
    """
    from unmask.train.plan import corpus_of
    from unmask.train.settings import trained_on

    model, data = arguments.machine.load(arguments.checkpoint), arguments.data
    if data.length > model.window:
        raise RequestError(
            f"data.length is {data.length}, but the model's window is {model.window} tokens; "
            f"set --data.length {model.window} or less."
        )
    data = replace(data, tokenizer="auto", vocab_size=None)
    trained = None if model.checkpoint is None else trained_on(model.checkpoint)
    advice = None if own else "or measure another text with --data.source FILE"
    return model, corpus_of(data, model.tokenizer, note, trained=trained, advice=advice)


# ---- eval ------------------------------------------------------------------------------------------------------------


def run_eval(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; prints the bound on a text, or the metrics of tasks."""
    typed = typed_options(EvalArguments, argv, "eval")
    if "task" in typed:
        from unmask.cli.score import run_harness

        of_text = {name for name in typed if name.startswith("data.")} | typed & {"split", "both_strands"}
        refuse(of_text, "--task, which has texts of its own.")
        return run_harness(parse(EvalArguments, argv, "eval"))
    refuse(typed & _OF_TASKS, "eval without --task.")
    arguments, own = _over_training(EvalArguments, argv, "eval")

    from unmask.eval.perplexity import Policy, estimator, first_rows, sliding
    from unmask.model.soft import runs_twice
    from unmask.objective.strands import over_both_strands

    model, corpus = _load(arguments, own)
    if arguments.both_strands:
        model.denoiser = over_both_strands(model.denoiser, model.tokenizer)
    policy = Policy.of(arguments.data, corpus.facts, arguments.stride)
    parts = {"valid": [corpus.valid], "train": [corpus.train], "all": [corpus.train, corpus.valid]}[arguments.split]
    policy.check(sum(part.tokens for part in parts), arguments.data.source, arguments.split)
    if policy.stride is not None:
        parts = [sliding(part, policy.stride, model.tokenizer, policy.eos) for part in parts]
    parts = first_rows(parts, model.tokenizer, arguments.limit)
    draws, count = arguments.draws or _DRAWS, sum(map(len, parts))
    policy.check_sequences(count, arguments.data.source, arguments.split, arguments.limit)
    estimated = estimator(model.objective, draws, runs_twice(model.denoiser))
    note(f"measuring {count:,} sequences of {arguments.data.source}: {estimated}.")
    began = time.perf_counter()
    result = model.bound_packed(parts, draws=draws, seed=arguments.seed, batch=arguments.batch)
    _print_bound(model, arguments, policy, result, time.perf_counter() - began)
    return 0


def _print_bound(model: "Model", arguments: EvalArguments, policy: "Policy", result: "Bound", seconds: float) -> None:
    """Print the bound as a table or as JSON."""
    from unmask.eval.perplexity import estimator

    estimated = estimator(model.objective, result.draws, result.two_pass)
    if arguments.output.json:
        print_json(
            {
                "checkpoint": str(model.checkpoint.folder) if model.checkpoint else arguments.checkpoint,
                "source": arguments.data.source,
                "split": arguments.split,
                "estimator": estimated,
                "both_strands": arguments.both_strands,
                **result.to_dict(),
                **asdict(policy),
                "seconds": seconds,
            }
        )
        return
    missing = "none: the text has characters outside the model's alphabet, so that no bound for it is known"
    if result.known:
        missing = "none: the first token of each sequence counts as known, since the network does not predict it"
    elif arguments.limit is not None:
        missing = "only on whole parts (no --limit), since the tokenizer changes the text or lacks characters of it"
    rows = {
        "text": f"{arguments.data.source} ({arguments.split})",
        "estimator": estimated,
        **_interval_rows(result),
        "bits/byte": missing if result.bits_per_byte is None else f"{result.bits_per_byte:.4f}, of the raw text",
        **policy.lines(),
        "measured": f"{result.tokens:,} tokens in {result.sequences:,} sequences, {duration(seconds)}",
    }
    show(*table(rows))


def _interval_rows(result: "Bound") -> dict[str, str]:
    """A bound -> it and its perplexity, with their intervals, as text by label."""
    assert result.stderr is not None, "there are two sequences or more"
    assert result.interval is not None
    low, high = result.interval
    ends = math.exp(min(low, 700)), math.exp(min(high, 700))
    return {
        "bound": f"{result.nats_per_token:.4f} ± {result.stderr:.4f} nats/token (95 %: {low:.4f} to {high:.4f})",
        "perplexity": "{:.2f} (95 %: {:.2f} to {:.2f})".format(result.perplexity, *ends),
    }


# ---- pace ------------------------------------------------------------------------------------------------------------


def run_pace(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; prints, writes and draws the bounds of paces."""
    arguments, own = _over_training(PaceArguments, argv, "pace")
    _check(arguments)

    from unmask.eval.curve import two_sets
    from unmask.eval.pace import compare_rules
    from unmask.model.soft import two_pass
    from unmask.noise import derive

    model, corpus = _load(arguments, own)
    sets = two_sets(
        corpus.valid,
        arguments.sequences,
        prompt=arguments.prompt,
        batch=arguments.batch,
        seed=arguments.seed,
        device=str(model.device),
    )
    fit, check = ([rows.predicted(model.denoiser) for rows in part] for part in sets)
    total, each = int(fit[0].maskable[0].sum()), sum(len(rows.ids) for rows in fit)
    steps = sorted(set(arguments.steps))
    if steps[-1] > total:
        raise RequestError(f"steps is {steps[-1]}, but a sequence has {total} tokens to reveal; give at most as many.")
    note(f"the curve of {each} sequences of {arguments.data.source}, {total} tokens each; the check on {each} others.")
    began = time.perf_counter()
    comparison = compare_rules(two_pass(model.denoiser), fit, check, steps, derive(arguments.seed, 6), _progress(each))
    report = {
        "generator": "unmask",
        "format": _FORMAT,
        "checkpoint": arguments.checkpoint,
        "source": arguments.data.source,
        "prompt": arguments.prompt,
        "sequences": each,
        "seed": arguments.seed,
        **comparison.facts,
        "seconds": time.perf_counter() - began,
    }
    _report(arguments, comparison, report)
    return 0


def _check(arguments: PaceArguments) -> None:
    """Check the values before anything is computed. Raises RequestError for impossible ones."""
    if not arguments.steps:
        raise RequestError("--steps needs numbers of passes of at least 1, for example --steps 8 16 32.")
    if arguments.out is not None and not arguments.out.endswith(".json"):
        raise RequestError(f"--out is '{arguments.out}'; the name of the file has to end in .json.")
    if arguments.out is not None:
        from unmask.disk.folders import refuse_foreign_file

        refuse_foreign_file(to_path(arguments.out))
    if arguments.plot is not None:
        from unmask.eval.report import check_plot

        check_plot(arguments.plot)


def _progress(each: int) -> Callable[[str, int], None]:
    """Number of sequences -> a callback (what is measured, sequences done) that prints a line every ten seconds."""
    done: dict[str, int] = {}
    printed = time.monotonic()

    def advance(what: str, sequences: int) -> None:
        nonlocal printed
        done[what] = done.get(what, 0) + sequences
        if time.monotonic() - printed >= _SECONDS_BETWEEN_LINES or done[what] == each:
            printed = time.monotonic()
            note(f"{what}: {done[what]} of {each} sequences.")

    return advance


def _report(arguments: PaceArguments, comparison: "PaceComparison", report: dict[str, Any]) -> None:
    """Write the file and the picture that were asked for, then print the comparison."""
    from unmask.disk.files import atomic_text
    from unmask.eval.report import plot_paces

    if arguments.out is not None:
        atomic_text(arguments.out, json.dumps(report) + "\n")
    if arguments.plot is not None:
        plot_paces(comparison, to_path(arguments.plot))
    if arguments.output.json:
        print_json(report)
        return
    *lines, last = comparison.lines()
    show(*lines, f"{last} Measured in {duration(report['seconds'])}.")
    if arguments.out is not None:
        steps = f",steps={comparison.entries[-1].steps}" if len(report["paces"]) > 1 else ""
        note(f"written to {arguments.out}: use it with --policy random:pace={arguments.out}{steps}")
