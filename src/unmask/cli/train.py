"""`unmask train`: assemble a run, print what it will do, train, and print the commands that use the result."""

__all__ = ["TrainArguments", "TrainProgress", "run"]

import json
import math
import os
import shlex
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.cli.common import (
    Meter,
    OutputOptions,
    TrustOptions,
    draw_curves,
    duration,
    keeping,
    print_json,
    resume_command,
    size,
    table,
    typed_again,
)
from unmask.cli.parse import Flat, Positional, parse, refuse, typed_options, typed_positionals
from unmask.data.settings import DataSettings
from unmask.errors import ConfigError
from unmask.output import note, show
from unmask.recipes.denoisers import read
from unmask.run.loop import Listener
from unmask.train.settings import AdaptSettings, AgnosticSettings, ModelChoice, TextRun, TrainSettings

if TYPE_CHECKING:
    from unmask.objective.bound import Bound
    from unmask.run.loop import RunResult
    from unmask.train.loop import StepReport
    from unmask.train.sample import Sample
    from unmask.train.session import Planned, Session

_PARTS = ("data", "model", "train", "adapt", "agnostic")  # of a run
_OF_TOKENIZER = ("data.tokenizer", "data.vocab_size", "data.mask_token")
_SHAPE = {"width": "width {}", "blocks": "{} blocks", "heads": "{} heads"}  # where an architecture has them


@dataclass(frozen=True, slots=True)
class TrainArguments:
    """Train a masked diffusion language model on a text.

    Ctrl-C finishes the step, saves, and prints the command that continues. --device, --dtype and --threads are short
    for --train.device and so on.
    """

    recipe: Positional[str] = "text"
    """A name that `unmask list recipes` shows, or a .toml file with tables data, model, train, adapt, agnostic."""
    data: DataSettings = field(default_factory=DataSettings)
    """The text."""
    model: ModelChoice = field(default_factory=ModelChoice)
    """The network."""
    train: TrainSettings = field(default_factory=TrainSettings)
    """The training."""
    adapt: AdaptSettings = field(default_factory=AdaptSettings)
    """The conversion of a causal model."""
    agnostic: AgnosticSettings = field(default_factory=AgnosticSettings)
    """The mask-agnostic loss."""
    out: str | None = None
    """Folder of the run; by default the next free runs/NAME-N."""
    resume: str | None = None
    """Folder of a run to continue; of its settings only steps, patience and the like may change."""
    init: str | None = None
    """Checkpoint to fine-tune; the run takes its tokenizer and network."""
    dry: bool = False
    """Print what the run would do, its time and its memory, and end."""
    trust: Flat[TrustOptions] = TrustOptions()
    output: Flat[OutputOptions] = OutputOptions()


def run(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; trains. It is 128 + signal where the run was interrupted and saved."""
    began = time.perf_counter()
    arguments = _arguments(list(argv))
    arguments.trust.apply()

    from unmask.train.session import open_session, plan_session

    run = TextRun(*(getattr(arguments, name) for name in _PARTS))
    options: dict[str, Any] = {name: getattr(arguments, name) for name in ("out", "resume", "init")}
    options |= {"note": note if os.environ.get("RANK", "0") == "0" else lambda sentence: None, "began": began}
    planned = plan_session(run, dry=arguments.dry, **options)
    if arguments.dry:
        with closing(planned):
            if planned.probe.group.first:
                _print_plan(planned, arguments.init, arguments.output.json)
        return 0
    with closing(open_session(planned)) as session:
        first = session.probe.group.first
        if first:
            note(*table(_rows(_facts(session, arguments.init)) | {"folder": str(session.folder)}))
        with keeping(lambda: _kept(session)):
            with TrainProgress(session, visible=first) as progress:
                result = session.trainer.fit(progress)
            return _finish(session, result, arguments.output.json) if first else result.exit_code


def _kept(session: "Session") -> str:
    """Session -> what of the run is on disk, and the command that goes on from there."""
    from unmask.disk.folders import latest

    point = latest(session.folder)
    if point is None:
        return "no step was saved"
    step = int(point.name.removeprefix("step-"))
    return f"step {step:,} is kept; go on with: {resume_command('train', session.folder)}"


def _print_plan(planned: "Planned", init: str | None, as_json: bool) -> None:
    """Print what a run would do, and its time."""
    facts, estimate = _facts(planned, init), planned.estimate
    assert estimate is not None
    if as_json:
        print_json(facts | asdict(estimate))
        return
    most = " at most, if patience does not end it before" if planned.run.train.patience > 0 else ""
    speed = f"{estimate.tokens_per_second:,.0f} tokens/s measured"
    show(*table(_rows(facts) | {"time": f"{duration(estimate.seconds)}{most} ({speed})"}))


def _facts(session: "Planned", init: str | None) -> dict[str, Any]:
    """Session, and the checkpoint that is fine-tuned -> what the run will do, as plain data."""
    from unmask.train.plan import memory_bytes

    plan, corpus, settings = session.plan, session.corpus, session.run
    rows = settings.train.batch // settings.train.accumulate // session.probe.group.size
    return {
        "run": str(session.folder),
        "source": settings.data.source,
        "tokenizer": corpus.facts.tokenizer,
        "vocab_size": corpus.facts.vocab_size,
        "train_tokens": plan.train_tokens,
        "valid_tokens": plan.valid_tokens,
        "train_rows": corpus.facts.train.rows,
        "valid_rows": corpus.facts.valid.rows,
        "estimated": corpus.facts.train.rows != len(corpus.train),
        "length": settings.data.length,
        "parameters": plan.parameters,
        "trained": plan.trained,
        **{name: getattr(plan.model, name) for name in _SHAPE if hasattr(plan.model, name)},
        "epochs": plan.epochs,
        "steps": plan.steps,
        "step": session.start.step,
        "minutes": settings.train.minutes,
        "batch": settings.train.batch,
        "lr": plan.lr,
        "init": init,
        "lr_is_default": settings.train.lr is None and plan.trained is None,
        "dtype": str(session.probe.dtype).removeprefix("torch."),
        "device": str(session.probe.device),
        "threads": session.threads,
        "processes": session.probe.group.size,
        "memory_bytes": memory_bytes(plan, rows),
    }


def _rows(facts: dict[str, Any]) -> dict[str, str]:
    """The facts of a run -> the rows of the table."""
    about = "about " if facts["estimated"] else ""
    trained = "" if facts["trained"] is None else f", of which {facts['trained']:,} are trained as low-rank terms"
    budget = "" if facts["minutes"] is None else f"in {facts['minutes']:g} min, about "
    return {
        "text": f"{facts['source']}: {about}{facts['train_tokens']:,} tokens to train on, "
        f"{facts['valid_tokens']:,} held out",
        "tokenizer": f"{facts['tokenizer']}, {facts['vocab_size']:,} ids; rows of {facts['length']} tokens: "
        f"{facts['train_rows']:,} and {facts['valid_rows']:,}",
        "network": f"{facts['parameters']:,} parameters{trained}: "
        + ", ".join(form.format(facts[name]) for name, form in _SHAPE.items() if name in facts),
        "training": f"{budget}{facts['steps']:,} steps of {facts['batch']} rows ({facts['epochs']:.1f} epochs), "
        f"peak rate {facts['lr']:g}"
        + (", a tenth because --init" if facts["init"] and facts["lr_is_default"] else "")
        + (f", from step {facts['step']:,}" if facts["step"] else ""),
        "machine": f"{facts['device']}, {facts['dtype']}, {facts['threads']} thread{'s' * (facts['threads'] != 1)}"
        + (f", {facts['processes']} processes" if facts["processes"] > 1 else ""),
        "memory": f"about {size(facts['memory_bytes'])}",
    }


def _arguments(words: list[str]) -> TrainArguments:
    """Words of the command line -> arguments: the recipe, recorded run or checkpoint with the changes of the words."""
    typed = typed_options(TrainArguments, words, "train")
    asked = parse(TrainArguments, words, "train")
    if asked.resume is not None:
        if typed_positionals(TrainArguments, words, "train"):
            raise ConfigError(f"--resume takes the recipe from the run; leave '{asked.recipe}' out.")
        from unmask.train.session import recorded_run

        base = recorded_run(asked.resume)
    else:
        base = _without_steps(read(asked.recipe), typed)
    if asked.init is not None:
        base = _fine_tuning(base, asked.init, typed)
    default = replace(TrainArguments(), **{name: getattr(base, name) for name in _PARTS})
    arguments = parse(TrainArguments, words, "train", default)
    if asked.resume is None:
        from unmask.data.folder import prepared_settings

        own = {name.removeprefix("data.") for name in typed}
        arguments = replace(arguments, data=prepared_settings(arguments.data, own))
    if not arguments.agnostic.masks:
        refuse([name for name in typed if name.startswith("agnostic.")], "a plain training: set --agnostic.masks too.")
    if arguments.adapt.tuning == "none":
        names = [name for name in typed if name.startswith("adapt.") and name != "adapt.tuning"]
        refuse(names, "a plain training: take the recipe adapt, or set --adapt.tuning lora or full.")
    elif asked.init is None and asked.resume is None:
        raise ConfigError(
            "train adapt needs --init: a causal checkpoint, such as a folder of Llama, Qwen2, Qwen3 or SmolLM, or "
            "smollm2-135m-instruct-q4_1 (unmask fetch)."
        )
    return arguments


def _without_steps(base: TextRun, typed: set[str]) -> TextRun:
    """Recipe -> the same without what says how long it takes, where the command line says it in another unit."""
    if "train.minutes" in typed:
        return replace(base, train=replace(base.train, steps=None, eval_every=None, save_every=None, warmup=None))
    if "train.steps" in typed:
        return replace(base, train=replace(base.train, minutes=None))
    return base


def _fine_tuning(base: TextRun, init: str, typed: set[str]) -> TextRun:
    """Recipe -> the same with window and soft masks of the checkpoint. Raises ConfigError for options of both."""
    own = {name for name in typed if name.startswith(("model.", *_OF_TOKENIZER))} - {"model.soft"}
    refuse(own, "--init: network and tokenizer are the checkpoint's.")
    from unmask.hf.names import locate
    from unmask.model.zoo.read import read_model

    checkpoint = read_model(locate(init), grow=base.adapt.tuning != "none")
    window, soft = checkpoint.network_fact("max_length") or base.data.length, checkpoint.network_fact("soft")
    data = replace(base.data, length=min(window, base.data.length))
    return replace(base, data=data, model=replace(base.model, soft=soft or base.model.soft))


def _finish(session: "Session", result: "RunResult", as_json: bool) -> int:
    """Draw the curves and print how the run ended -> exit code."""
    from unmask.disk.folders import latest, resolve

    folder, best = session.folder, session.trainer.best
    curves, about_curves = draw_curves(folder)
    interrupted = result.reason == "interrupted"
    if as_json:
        print_json(
            {
                "run": str(folder),
                "checkpoint": str(resolve(folder)),
                "latest": str(latest(folder)),
                "reason": result.reason,
                "step": result.step,
                "steps": session.plan.steps,
                "parameters": session.plan.parameters,
                "best": None if best is None else asdict(best),
                "perplexity": None if best is None else best.perplexity,
                "best_step": result.best_step,
                "curves": curves,
            }
        )
    if interrupted:
        note(f"Stopped after step {result.step}; saved. Go on with: {resume_command('train', folder)}")
        return result.exit_code
    of = f" of {session.plan.steps:,}" if session.plan.counted else ""  # a budget of time has no number of steps
    note(f"Done after step {result.step:,}{of} ({result.reason}).")
    if best is not None:
        note(f"Best on held-out text, at step {result.best_step:,}: {_figure(best)}, perplexity {best.perplexity:.2f}")
    note(*table({"model": str(resolve(folder)), "curves": about_curves}))
    note("", "Next:", *(f"  {shlex.join(words)}" for words in _next(session)))
    return 0


def _next(session: "Session") -> list[list[str]]:
    """Session -> the words of the commands that use its model: of one of pairs, to answer a held-out prompt."""
    folder, rows, sample = str(session.folder), session.corpus.train, session.trainer.sample
    measure = ["unmask", "eval", folder, *typed_again("--data.source")]
    if session.corpus.facts.paired:
        longest = max(1, *(int((last - first).max()) for first, last in rows.spans()))
        prompt = "PROMPT" if sample is None else sample[1].prompt
        answer = ["--length", str(longest), "--policy", "confidence", "--temperature", "0"]
        return [["unmask", "generate", folder, prompt, *answer], measure]
    return [["unmask", "generate", folder, "--watch"], measure, ["unmask", "fill", folder, "A text with [5] holes"]]


_SMOOTHING = 0.95


class TrainProgress(Meter, Listener["StepReport", "Bound"]):
    """The listener of a training that prints its progress; it prints nothing unless `visible`."""

    def __init__(self, session: "Session", *, visible: bool) -> None:
        self._trainer, self._seconds = session.trainer, session.plan.seconds
        spent, steps = session.trainer.clock.spent(), session.plan.steps
        if self._seconds is None:
            super().__init__("training", "step", steps, session.trainer.step, visible=visible)
        else:
            super().__init__("training", "second", round(self._seconds), round(spent), visible=visible)
        best = session.trainer.best
        self._best = math.inf if best is None else best.nats_per_token
        self._loss, self._weight = 0.0, 0.0

    def stepped(self, report: "StepReport") -> None:
        """Show running means of the loss, and what was looked at."""
        self._loss = _SMOOTHING * self._loss + (1 - _SMOOTHING) * report.loss
        self._weight = _SMOOTHING * self._weight + (1 - _SMOOTHING)
        best = f"bound {self._best:.4f}  " if math.isfinite(self._best) else ""
        figures = f"loss {self._loss / self._weight:.4f}  {best}{report.tokens_per_second:,.0f} tokens/s"
        if self._seconds is None:
            self.moved(report.step, figures)
        else:
            seconds = min(round(self._trainer.clock.spent()), round(self._seconds))
            self.moved(seconds, f"step {report.step:,}  {figures}")
        if report.look is not None and report.look.bound is not None:
            bound = report.look.bound
            self.line(f"step {report.step:,}: {_figure(bound)} ({bound.sequences * bound.draws} maskings)")
        if report.look is not None and report.look.sample is not None:
            self._show(report.look.sample)

    def stopping(self, folder: Path) -> None:
        """Print that the run saves, and the command that goes on with it."""
        self.line("Saving after this step; Ctrl-C again ends at once, without saving.")
        self.line(f"Go on with: {resume_command('train', folder)}")

    def validated(self, step: int, figure: "Bound", best: bool) -> None:
        """Print the bound, whether it is the best so far, and the sample that was written after it."""
        if best:
            self._best = figure.nats_per_token
        mark = "best so far" if best else f"best was {self._best:.4f}"
        self.line(f"step {step:,}: {_figure(figure)} ({mark})")
        if self._trainer.sample is not None and self._trainer.sample[0] == step:
            self._show(self._trainer.sample[1])

    def _show(self, sample: "Sample") -> None:
        """Print a sample as JSON strings, which keep line ends and spaces visible."""
        prompt, text = (json.dumps(part, ensure_ascii=False) for part in (sample.prompt, sample.text))
        right = "" if sample.answer is None else f"  (right: {json.dumps(sample.answer, ensure_ascii=False)})"
        self.line(f"  sample: {prompt} -> {text}{right}")


def _figure(bound: "Bound") -> str:
    """Bound -> text with its error."""
    error = "" if bound.stderr is None else f" ± {bound.stderr:.4f}"
    return f"bound {bound.nats_per_token:.4f}{error} nats/token"
