"""A cell about masked diffusion on text -> its result; see `reproduce.work`, which calls this in a worker process."""

__all__ = ["SEED", "TEXT_RESULTS", "model_of", "perform_text", "text_of"]

import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.errors import ConfigError
from unmask.output import show
from unmask.ranges import Count
from unmask.reproduce.dna import DNA_RESULTS, Composition, Probed, compose, probe_windows
from unmask.reproduce.general import GENERAL_RESULTS, Swept, sweep_cell
from unmask.reproduce.holes import HOLE_RESULTS, Spanned, measure_spans
from unmask.reproduce.masks import MASK_RESULTS, MaskProbed, probe_cell
from unmask.reproduce.plan import DEVICE, DTYPE
from unmask.reproduce.representations import REPRESENTATION_RESULTS, Classified, classify
from unmask.reproduce.rules import RULE_RESULTS, Filtered, Tuned, train_filter, tune
from unmask.reproduce.seconds import SECONDS_RESULTS, PassTimed, time_passes
from unmask.reproduce.soft import SOFT_RESULTS, Solved, solve_tests
from unmask.reproduce.text import BUNDLED, Bounded, Fit, Spread, TextCell
from unmask.run.loop import Listener

if TYPE_CHECKING:
    from unmask.api import Model
    from unmask.data.packed import Corpus
    from unmask.objective.bound import Bound

SEED = 0
"""Of the maskings of a measurement, and of written texts."""


@dataclass(frozen=True, slots=True)
class _Figures:
    """The part of a bound that reports read."""

    nats_per_token: float
    stderr: float | None
    tokens: Count


@dataclass(frozen=True, slots=True)
class _Bounded:
    """The result of a `Bounded`."""

    bound: _Figures


@dataclass(frozen=True, slots=True)
class _Fitted(_Bounded):
    """The result of a `Fit`."""

    steps: Count
    tokens: Count
    parameters: Count
    seconds: float
    curve: list[tuple[Count, float]]
    """Steps, and the bound on validation rows in nats a token."""


@dataclass(frozen=True, slots=True)
class _Varied:
    """The result of a `Spread`."""

    mean: float
    error: float
    variance: float


@dataclass(frozen=True, slots=True)
class _Judged:
    """The result of a `Judged`: measures by the name of the judge."""

    written: dict[str, dict[str, Any]]
    held_out: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Written(_Judged):
    """The result of a `Wrote`."""

    passes: float
    seconds: float
    rows: list[list[int]]


@dataclass(frozen=True, slots=True)
class _Diverged:
    """The result of a `Diverged`."""

    mauve: float
    held_out: float
    texts: Count


@dataclass(frozen=True, slots=True)
class _Lengthened:
    """The result of a `Lengthened`: measures by window."""

    windows: list[dict[str, float]]
    held_out: list[dict[str, float]]


TEXT_RESULTS: dict[str, type[Any]] = {
    "fit": _Fitted,
    "bounded": _Bounded,
    "spread": _Varied,
    "wrote": _Written,
    "judged": _Judged,
    "diverged": _Diverged,
    "lengthened": _Lengthened,
    "raced": _Written,
    **DNA_RESULTS,
    **HOLE_RESULTS,
    **GENERAL_RESULTS,
    **MASK_RESULTS,
    **REPRESENTATION_RESULTS,
    **RULE_RESULTS,
    **SECONDS_RESULTS,
    **SOFT_RESULTS,
}
"""What the reports read of the result of each class of cells, by the names of `plan.CELLS`."""


def perform_text(cell: TextCell, folder: Path, runs: Path) -> dict[str, Any]:
    """A cell, the folder of its own run, and that of all trainings -> its result.

    Raises KeyboardInterrupt if a training is interrupted; the next call resumes it.
    """
    match cell:
        case Fit():
            return _fit(cell, folder)
        case Solved():
            return solve_tests(cell, runs, DEVICE, DTYPE)
        case Bounded():
            return _bound(cell, runs)
        case Spread():
            return _spread(cell, runs)
        case Composition():
            model = model_of(runs, cell.training)
            return compose(cell, model, text_of(model))
        case MaskProbed():
            model = model_of(runs, cell.training)
            return probe_cell(cell, model, lambda: text_of(model, length=cell.length).valid.after(cell.skip))
        case Spanned():
            return measure_spans(cell, lambda model: text_of(model).valid, DEVICE, DTYPE)
        case Classified():
            return classify(cell, lambda training: model_of(runs, training))
        case Tuned():
            return tune(cell, folder, runs)
        case PassTimed():
            return time_passes(cell)
        case Swept():
            return sweep_cell(cell, folder, runs)
        case Filtered():
            return train_filter(cell, folder)
        case Probed():
            model = model_of(runs, cell.training)
            return probe_windows(cell, model, text_of(model))
        case _:
            from unmask.reproduce.generation_work import perform_generation

            return perform_generation(cell, runs)


class _FitLog(Listener[Any, "Bound"]):
    """The listener of a training: prints a line for each validation."""

    def message(self, text: str) -> None:
        show(text)

    def validated(self, step: int, figure: "Bound", best: bool) -> None:
        show(f"step {step}: {figure.nats_per_token:.4f} nats/token{' (best so far)' if best else ''}")


def _fit(cell: Fit, folder: Path) -> dict[str, Any]:
    """Train from the newest checkpoint, if there is one -> figures of the training."""
    from unmask.disk.folders import latest
    from unmask.run.metrics import read_metrics
    from unmask.train.session import open_session, plan_session, recorded_run

    resumed = latest(folder) is not None
    if resumed and replace(recorded_run(folder), data=cell.run.data) != cell.run:  # a run records absolute paths
        raise ConfigError(f"{folder} was trained with other settings; choose another folder with --out.")
    out, resume = (None, folder) if resumed else (folder, None)
    start = None
    if cell.start is not None and not resumed:
        name = cell.start.removeprefix(BUNDLED)
        start = name if name != cell.start else folder.parent / name
    began = time.process_time()
    with closing(open_session(plan_session(cell.run, out=out, resume=resume, init=start, note=show))) as session:
        trainer = session.trainer
        result = trainer.fit(_FitLog())
        if result.reason == "interrupted":
            raise KeyboardInterrupt
        plan, length = session.plan, session.corpus.train.length
        assert trainer.best is not None
        return {
            "bound": trainer.best.to_dict(),
            "steps": result.step,
            "tokens": result.step * cell.run.train.batch * length,
            "parameters": plan.parameters,
            "seconds": time.process_time() - began,
            "fingerprint": session.corpus.fingerprint,
            "scalars": [float(x.detach()) for x in mask.scalars()]
            if (mask := getattr(trainer.model, "soft_mask", None))
            else [],
            "curve": [
                (line["step"], line["valid"]) for line in read_metrics(folder / "metrics.jsonl") if "valid" in line
            ],
        }


def model_of(runs: Path, name: str) -> "Model":
    """The name of a training -> its model, on one thread."""
    from unmask.api import load

    return load(runs / name, device=DEVICE, dtype=DTYPE, threads=1)


def text_of(model: "Model", source: str | None = None, length: int | None = None) -> "Corpus":
    """A model -> the text of its training, split as then, or all of another text, by its tokenizer, in rows."""
    from unmask.train.plan import corpus_of
    from unmask.train.settings import trained_on

    assert model.checkpoint is not None
    trained = trained_on(model.checkpoint)
    assert trained is not None
    data = replace(trained.data, tokenizer="auto", vocab_size=None, length=length or trained.data.length)
    if source is None:
        return corpus_of(data, model.tokenizer, show, trained=trained)
    return corpus_of(replace(data, source=source, valid=None), model.tokenizer, show)


def _bound(cell: Bounded, runs: Path) -> dict[str, Any]:
    """The bound on a text: of the held-out part, or of another text."""
    from unmask.eval.perplexity import estimator, some_rows
    from unmask.objective.masked import objective_of
    from unmask.objective.strands import over_both_strands

    model = model_of(runs, cell.training)
    if cell.both_strands:
        model.denoiser = over_both_strands(model.denoiser, model.tokenizer)
    if cell.grid is not None:
        model.objective = objective_of("subs", model.process, steps=cell.grid)
    corpus = text_of(model, cell.source, cell.length)
    part, skip = (corpus.valid, cell.skip) if cell.source is None else (corpus.train, 0)
    part = some_rows(part, model.tokenizer, cell.limit, skip)
    bound = model.bound_packed(part, draws=cell.draws, seed=SEED)
    named = {
        "estimator": estimator(model.objective, cell.draws, bound.two_pass),
        "length": part.length,
        "eos": corpus.facts.eos,
    }
    return {"bound": bound.to_dict(), "fingerprint": corpus.fingerprint} | named


def _spread(cell: Spread, runs: Path) -> dict[str, Any]:
    """The mean of one draw of the bound a token, and its variance within a sequence, by times of the schedule."""
    import torch

    from unmask.data.packed import Packed
    from unmask.model.soft import two_pass
    from unmask.noise import derive
    from unmask.objective.base import Rows
    from unmask.objective.masked import Masked
    from unmask.process import make_schedule

    model = model_of(runs, cell.training)
    process = replace(model.process, schedule=make_schedule(cell.schedule))
    part: Packed = text_of(model).valid.after(cell.skip)
    count = min(len(part), cell.limit or len(part))
    rows = Rows(*map(torch.from_numpy, part.batch(range(count)))).part(slice(None), model.device)
    objective, index, nats = Masked(process, "uniform"), torch.arange(count), list[torch.Tensor]()
    with torch.no_grad():
        for draw in range(cell.draws):
            drawn = objective.draw(derive(SEED, draw), 0, index, count, rows.maskable)
            parts = [slice(at, at + 32) for at in range(0, count, 32)]
            losses = [
                objective.loss(two_pass(model.denoiser), rows.part(rows_, model.device), tuple(x[rows_] for x in drawn))
                for rows_ in parts
            ]
            nats.append(torch.cat([loss.nats / loss.tokens.clamp(min=1) for loss in losses]).double())
    table = torch.stack(nats)  # (draws, sequences), nats a token
    error = float(table.mean(0).std() / count**0.5)
    return {"mean": float(table.mean()), "error": error, "variance": float(table.var(0).mean())}
