"""`unmask pace`: the information curve of a model, and the best pace for so many passes."""

__all__ = ["PaceArguments", "run"]

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unmask.cli.evaluate import over_training
from unmask.cli.parse import Positional
from unmask.cli.show import duration, note, print_json
from unmask.data.settings import DataSettings
from unmask.errors import RequestError

if TYPE_CHECKING:
    from unmask.eval.pace import Comparison

_EVERY = 10.0  # seconds between lines of progress
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class PaceArguments:
    """How many tokens to reveal in each of k passes of random order, from what the model knows of a held-out text.

    By default of the text that was held out when the checkpoint was trained. The curve is measured on some sequences,
    the paces that follow from it on others: predicted and measured bounds stand side by side.
    """

    checkpoint: Positional[str]
    """A checkpoint or run folder, or the name of a bundled model."""
    data: DataSettings = field(default_factory=DataSettings)
    """The text; what is not given is as it was in training."""
    steps: tuple[int, ...] = (4, 8, 16, 32, 64)
    """Numbers of passes to make paces for."""
    prompt: float = 0.0
    """The share of each sequence, from its start, that is given."""
    sequences: int = 10
    """Sequences for the curve, and as many others for the check."""
    out: str | None = None
    """Write curve, table and optimal paces to this file, for --policy random:pace=FILE.json,steps=K."""
    plot: str | None = None
    """Draw the curve and the table to this PNG file."""
    batch: int = 16
    """Sequences measured together."""
    seed: int = 0
    """Seed of the choice of sequences and of the orders."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network."""
    threads: int | None = None
    """Processor threads; by default torch's own choice."""
    json: bool = False
    """Print one JSON object on stdout."""


def run(argv: Sequence[str]) -> int:
    """Measure, write, draw and print."""
    arguments = over_training(PaceArguments, argv, "pace")
    _check(arguments)

    import unmask
    from unmask.eval.curve import two_sets
    from unmask.eval.pace import compare_rules
    from unmask.noise import generator
    from unmask.train.problems import corpus_of

    model = unmask.load(arguments.checkpoint, device=arguments.device, dtype=arguments.dtype, threads=arguments.threads)
    if arguments.data.length > model.window:
        raise RequestError(
            f"data.length is {arguments.data.length}, but the model's window is {model.window} tokens; "
            f"set --data.length {model.window} or less."
        )
    corpus = corpus_of(replace(arguments.data, tokenizer="auto", vocab_size=None), model.tokenizer, note)
    fit, check = two_sets(
        corpus.valid,
        arguments.sequences,
        prompt=arguments.prompt,
        batch=arguments.batch,
        seed=arguments.seed,
        device=str(model.device),
    )
    total, each = int(fit[0].maskable[0].sum()), sum(len(rows.ids) for rows in fit)
    steps = sorted(set(arguments.steps))
    if steps[-1] > total:
        raise RequestError(f"steps is {steps[-1]}, but a sequence has {total} tokens to reveal; give at most as many.")
    note(f"the curve of {each} sequences of {arguments.data.source}, {total} tokens each; the check on {each} others.")
    began = time.perf_counter()
    found = compare_rules(model.denoiser, fit, check, steps, generator(arguments.seed, 6), _teller(each))
    report = _report(arguments, found, each, time.perf_counter() - began)
    _hand_over(arguments, found, report)
    return 0


def _check(arguments: PaceArguments) -> None:
    """RequestError for values that cannot be, before anything is computed."""
    if not arguments.steps or min(arguments.steps) < 1:
        raise RequestError("--steps needs numbers of passes of at least 1, for example --steps 8 16 32.")
    if not 0 <= arguments.prompt < 1:
        raise RequestError(f"prompt is {arguments.prompt}; give a share of at least 0 and below 1.")
    for name, least in (("sequences", 2), ("batch", 1)):
        if getattr(arguments, name) < least:
            raise RequestError(f"{name} is {getattr(arguments, name)}; give at least {least}.")
    if arguments.out is not None and not arguments.out.endswith(".json"):
        raise RequestError(f"--out is '{arguments.out}'; the name of the file has to end in .json.")
    if arguments.plot is not None:
        from unmask.eval.report import check_plot

        check_plot(arguments.plot)


def _teller(each: int) -> Callable[[str, int], None]:
    """Progress as lines on stderr, now and then."""
    done: dict[str, int] = {}
    said = time.monotonic()

    def tell(what: str, sequences: int) -> None:
        nonlocal said
        done[what] = done.get(what, 0) + sequences
        if time.monotonic() - said >= _EVERY or done[what] == each:
            said = time.monotonic()
            note(f"{what}: {done[what]} of {each} sequences.")

    return tell


def _report(arguments: PaceArguments, found: "Comparison", each: int, seconds: float) -> dict[str, Any]:
    """Everything, for programs and for --out; `paces` is what pace=FILE reads. Nats of a whole sequence."""
    curve = found.curve
    fitted = curve.fitted()
    total = float(fitted.sum())
    return {
        "format": _FORMAT,
        "checkpoint": arguments.checkpoint,
        "source": arguments.data.source,
        "tokens": curve.total,
        "prompt": arguments.prompt,
        "sequences": each,
        "seed": arguments.seed,
        "paces": {str(one.steps): list(one.sizes) for one in found.entries if one.rule == "optimal"},
        "one_a_pass": total,
        "total_correlation": float(fitted[0]) * curve.total - total,
        "dual_total_correlation": total - float(fitted[-1]) * curve.total,
        "table": [one._asdict() for one in found.entries],
        "curve": {
            "revealed": list(curve.counts),
            "cross_entropy": curve.cross_entropy.mean(0).tolist(),
            "stderr": curve.stderr().tolist(),
            "entropy": curve.entropy.mean(0).tolist(),
            "fitted": fitted.tolist(),
        },
        "seconds": seconds,
    }


def _hand_over(arguments: PaceArguments, found: "Comparison", report: dict[str, Any]) -> None:
    """Write what was asked for, then print."""
    from unmask.disk.files import atomic_text
    from unmask.eval.report import plot_paces

    if arguments.out is not None:
        atomic_text(arguments.out, json.dumps(report) + "\n")
    if arguments.plot is not None:
        plot_paces(found, Path(arguments.plot))
    if arguments.json:
        print_json(report)
        return
    print("\n".join(_table(found)))
    n, gap = found.curve.total, (found.curve.cross_entropy - found.curve.entropy).mean(0).tolist()
    print(
        f"nats per token; one token a pass: {report['one_a_pass'] / n:.4f} predicted. "
        f"TC {report['total_correlation']:.1f}, DTC {report['dual_total_correlation']:.1f} nats a sequence. "
        f"Cross-entropy over predictive entropy: {gap[0]:+.3f} with nothing revealed, {gap[-1]:+.3f} with all but one "
        f"(0 is calibrated). Measured in {duration(report['seconds'])}."
    )
    if arguments.out is not None:
        steps = f",steps={found.entries[-1].steps}" if len(report["paces"]) > 1 else ""
        note(f"written to {arguments.out}: use it with --policy random:pace={arguments.out}{steps}")


def _table(found: "Comparison") -> list[str]:
    """A line for each pace, in nats per token."""
    n = found.curve.total
    lines = ["  passes  pace      predicted          measured           above optimal"]
    for one in found.entries:
        over = "" if one.rule == "optimal" else f"{one.excess / n:+.4f} ± {one.excess_stderr / n:.4f}"
        lines.append(
            f"  {one.steps:>6}  {one.rule:<8}  {one.predicted / n:.4f} ± {one.predicted_stderr / n:.4f}"
            f"    {one.measured / n:.4f} ± {one.measured_stderr / n:.4f}    {over}".rstrip()
        )
    return lines
