"""How the first token of an answer depends on the MASKs behind it, and on how far away the relevant context is.

A denoiser that writes a long text sees many MASKs, and they change what it predicts at the first of them, as does the
distance of what the answer follows from (arXiv:2511.21338, sections 3 and 4). Both are measured by one pass a question,
in which the answer and all behind it are MASK. The questions are problems of a task, or the next token of a text.
"""

__all__ = [
    "COUNTS",
    "Curves",
    "Point",
    "Question",
    "curve",
    "draw_curves",
    "first_tokens",
    "probe_masks",
    "probe_task",
    "probe_text",
    "task_questions",
    "text_questions",
]

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from unmask.batch import pad_ids
from unmask.data.packed import Packed
from unmask.decode.options import measuring
from unmask.denoiser import clean_log_probs, selection
from unmask.errors import RequestError
from unmask.eval.holes import held_out
from unmask.noise import generator
from unmask.plots import new_figure, save_figure
from unmask.solve.problems import fitting
from unmask.tasks.base import Task, examples_of
from unmask.tasks.registry import make
from unmask.train.settings import trained_on

if TYPE_CHECKING:
    from unmask.api import Model

COUNTS = (0, 1, 2, 5, 10, 20, 50, 100, 200)
"""Numbers of MASKs behind the answer, as in the paper up to 200."""
_DRAWN = 17  # of the seed: which rows of a text are read
_GAPS = 6  # distances, at most

Estimate = tuple[float, float]
"""A mean over questions and its standard error."""


class Question(NamedTuple):
    """A row of token ids that ends with the MASKs of its answer, and the first token of the answer."""

    row: list[int]
    at: int
    """The position of that token."""
    token: int
    distance: int = 0
    """Tokens between the relevant context and the answer."""


class Point(NamedTuple):
    """The figures of one number of MASKs, or of one distance."""

    place: float | None
    """The number of MASKs behind the answer, or the mean distance in tokens; None: there is no relevant context."""
    accuracy: Estimate
    """Share of questions whose most probable first token is right."""
    change: Estimate
    """The accuracy minus that of the first point, over the same questions."""
    entropy: Estimate
    """Of the prediction, in nats."""
    nats: Estimate
    """-log p of the right token."""
    variation: Estimate
    """Total variation between the prediction and that of the first point, from 0 to 1."""


class Curves(NamedTuple):
    """What was measured."""

    questions: int
    tokens: float
    """Mean tokens of a row without the MASKs behind the answer."""
    masks: list[Point]
    left_out: list[int]
    """Numbers of MASKs for which the window has no space; the last point then fills the window."""
    distance: list[Point]
    """Empty where the task has no distances."""
    behind: int
    """MASKs behind the answer where the distance is varied."""


# ---- questions -------------------------------------------------------------------------------------------------------


def task_questions(model: "Model", task: Task, count: int, seed: int = 0) -> list[Question]:
    """A task -> questions from its test split. The distance is from the fact "distance" of an example, in characters.

    Raises RequestError where the answer is not known, or does not stand at the end; else as `fitting`.
    """
    tokenizer, name = model.tokenizer, str(getattr(model.checkpoint, "folder", "the model"))
    examples = examples_of(task, "test", count, seed)
    rows = fitting(task, examples, tokenizer, model.window, name, model.defaults.chat)
    questions: list[Question] = []
    for example, row, holes, _ in rows:
        answer = tokenizer.encode(example.answer)
        if not answer:
            raise RequestError(f"The problems of {task.name} have no known answers; choose a task that has.")
        if holes != list(range(holes[0], len(row))):
            raise RequestError(f"The answers of {task.name} do not stand at the end; choose a task whose answers do.")
        after = example.facts.get("distance", 0)
        between = example.template.rpartition("[")[0][-after:] if after else ""
        questions.append(Question(row, holes[0], answer[0], len(tokenizer.encode(between))))
    return questions


def text_questions(model: "Model", text: Packed, context: int, count: int, seed: int = 0) -> list[Question]:
    """Packed rows -> questions: the token that follows `context` tokens at the beginning of a row drawn by the seed.

    Raises RequestError where no row is so long.
    """
    return [
        Question([*ids[:context], model.tokenizer.mask_id], context, ids[context])
        for ids in _rows(text, context + 1, count, seed)
    ]


def _rows(text: Packed, length: int, count: int, seed: int) -> list[list[int]]:
    """Packed rows -> at most `count` of those with `length` tokens, in random order, each cut to it."""
    order = torch.randperm(len(text), generator=generator(seed, _DRAWN)).tolist()
    long = [row for row in order if text.last[row] >= length][:count]
    if not long:
        raise RequestError(f"No row of the text has {length} tokens; give a longer text, or a smaller --context.")
    return [[int(token) for token in text.ids[row][:length]] for row in long]


def _repeated(model: "Model", passages: list[list[int]], gap: int, *, copied: bool = True) -> list[Question]:
    """Passages of equal length -> questions whose relevant context is a copy of the passage, `gap` tokens before it.

    What stands between are other passages; without `copied` the first, too, is another one.
    """
    size, questions = len(passages[0]), list[Question]()
    for number, passage in enumerate(passages):
        rest = passages[number + 1 :] + passages[:number]
        filler = [token for other in rest[1 : gap // size + 2] for token in other][:gap]
        row = [*(passage if copied else rest[0]), *filler, *passage[:-1], model.tokenizer.mask_id]
        questions.append(Question(row, len(row) - 1, passage[-1], gap + size - 1))
    return questions


# ---- passes ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def first_tokens(model: "Model", questions: Sequence[Question], masks: int, batch: int = 32) -> Tensor:
    """Questions, and a number of MASKs behind each -> log p of the first token of the answer (N, V), on the processor.

    Where a network is time-conditioned it gets the time 1: all that is to be written is MASK.
    """
    denoiser, parts = measuring(model.denoiser, model.tokenizer), list[Tensor]()
    for start in range(0, len(questions), batch):
        part = questions[start : start + batch]
        rows = [question.row + [model.tokenizer.mask_id] * masks for question in part]
        tokens, valid = pad_ids(rows, model.tokenizer.pad_id, model.device)
        at = torch.tensor([question.at for question in part], device=model.device)
        where = torch.arange(tokens.shape[1], device=model.device) == at[:, None]
        time = torch.ones(len(part), device=model.device) if denoiser.time_conditioned else None
        hidden = denoiser.hidden(tokens, valid=valid, time=time, **selection(denoiser, where))
        parts.append(clean_log_probs(denoiser.logits(hidden[where]), denoiser.mask_id).cpu())
    return torch.cat(parts)


def curve(places: Mapping[float | None, Tensor], targets: Tensor) -> list[Point]:
    """Places -> log p (N, V) of the questions there; right tokens (N,) -> the figures of each place."""
    first = next(iter(places.values()))
    points: list[Point] = []
    for place, log_p in places.items():
        p = log_p.exp()
        right, before = ((x.argmax(-1) == targets).double() for x in (log_p, first))
        entropy = -(p * log_p.clamp(min=-1e4)).sum(-1)
        nats = -log_p.gather(-1, targets[:, None]).squeeze(-1)
        variation = (p - first.exp()).abs().sum(-1) / 2
        points.append(Point(place, *map(_estimate, (right, right - before, entropy, nats, variation))))
    return points


def _estimate(values: Tensor) -> Estimate:
    """Values (N,) -> their mean and its standard error, NaN for a single one."""
    values = values.double()
    return float(values.mean()), float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan


# ---- both curves -----------------------------------------------------------------------------------------------------


def probe_masks(
    model: "Model", source: str | None = None, *, context: int | None = None, **options: Any
) -> tuple[str, Curves]:
    """A source as --data.source of `unmask train`, None for that of the training -> its name, and both curves.

    A text is measured on its held-out part. The options are those of `probe_task`. Raises RequestError for a text whose
    training part is not known, and as `probe_task` and `probe_text`.
    """
    trained = None if model.checkpoint is None else trained_on(model.checkpoint)
    name = source or ("task:few-shot" if trained is None else trained.data.source)
    if name.startswith("task:"):
        if context is not None:
            raise RequestError(f"--context is for texts, and {name} is a task; leave it out.")
        task = make(name.removeprefix("task:").rpartition("@")[0] or name.removeprefix("task:"))
        return f"task:{task.name}", probe_task(model, task, **options)
    return name, probe_text(model, held_out(model, source), context=context, **options)


def probe_task(
    model: "Model", task: Task, *, counts: Sequence[int] = COUNTS, count: int = 400, seed: int = 0, batch: int = 32
) -> Curves:
    """A task -> the curves of `count` test problems.

    The distance is varied where the task has a field `gap` (the examples between the relevant ones and the question)
    and a field `distractors`, its largest value. Raises RequestError as `task_questions` and where no MASK has space.
    """
    questions = task_questions(model, task, count, seed)
    most: int = getattr(task, "distractors", 0) if hasattr(task, "gap") else 0
    parts = min(most, _GAPS - 1)
    gaps = [round(part * most / parts) for part in range(parts + 1)] if most else []
    there: Any = task
    moved = [task_questions(model, replace(there, gap=gap), count, seed) for gap in gaps]
    return _curves(model, questions, moved, None, counts, batch)


def probe_text(
    model: "Model",
    text: Packed,
    *,
    counts: Sequence[int] = COUNTS,
    context: int | None = None,
    count: int = 400,
    seed: int = 0,
    batch: int = 32,
) -> Curves:
    """Packed rows -> the curves of the tokens that follow `context` tokens, by default a quarter of the window.

    For the distance a passage of half the context is repeated, and its last token is asked for: the relevant context
    is the first copy. As many MASKs as the context has tokens stand behind, since where nothing follows the next token
    is often the end of a text. Raises RequestError as `text_questions`, and where no MASK has space.
    """
    context = max(2, model.window // 4) if context is None else context
    questions = text_questions(model, text, context, count, seed)
    size = max(2, context // 2)
    passages = [question.row[:size] for question in questions]
    gaps = [gap for gap in (0, *(2**power for power in range(2, 20))) if gap + 2 * size + context <= model.window]
    if len(passages) < 3 or not gaps:
        return _curves(model, questions, [], None, counts, batch)
    moved = [_repeated(model, passages, gap) for gap in gaps]
    without = _repeated(model, passages, gaps[0], copied=False)
    return _curves(model, questions, moved, without, counts, batch, behind=context)


def _curves(
    model: "Model",
    questions: list[Question],
    moved: list[list[Question]],
    without: list[Question] | None,
    counts: Sequence[int],
    batch: int,
    behind: int = 0,
) -> Curves:
    """Questions, the same at several distances, and without relevant context -> both curves."""
    longest = max(len(question.row) for question in questions)
    wanted = sorted({0, *counts})
    space = model.window - longest
    left_out = [masks for masks in wanted if masks > space]
    possible = sorted({masks for masks in wanted if masks <= space} | ({space} if left_out else set[int]()))
    if space < 1:
        raise RequestError(
            f"A question has {longest} tokens and the model's window is {model.window}: there is no space for MASKs "
            "behind it; choose shorter questions (--source, --context)."
        )
    by_masks: dict[float | None, Tensor] = {masks: first_tokens(model, questions, masks, batch) for masks in possible}
    by_distance: dict[float | None, Tensor] = {}
    for some in (*moved, *([without] if without else [])):
        mean = None if some is without else sum(question.distance for question in some) / len(some)
        by_distance[mean] = first_tokens(model, some, behind, batch)
    tokens = sum(len(question.row) for question in questions) / len(questions)
    targets = [torch.tensor([question.token for question in some]) for some in (questions, *moved[:1])]
    return Curves(
        len(questions),
        tokens,
        curve(by_masks, targets[0]),
        left_out,
        curve(by_distance, targets[1]) if by_distance else [],
        behind,
    )


# ---- picture ---------------------------------------------------------------------------------------------------------


def draw_curves(results: Mapping[str, Curves], title: str, path: Path) -> None:
    """Curves by name -> a picture: accuracy and entropy against the number of MASKs, and against the distance.

    Bars are standard errors; a band is the figure without relevant context.
    Raises ConfigError or RunError if the file cannot be written.
    """
    names = [name for name in ("masks", "distance") if any(getattr(curves, name) for curves in results.values())]
    figure = new_figure(5.5 * len(names), 7)
    panels = figure.subplots(2, len(names), squeeze=False, sharex="col")
    for column, name in enumerate(names):
        for panel, (field, label) in zip(panels[:, column], _AXES.items(), strict=True):
            for number, (legend, curves) in enumerate(results.items()):
                _draw_line(panel, getattr(curves, name), field, legend, f"C{number}")
            panel.set_ylabel(label)
            panel.grid(alpha=0.25)
        panels[-1, column].set_xlabel(_PLACES[name])
    if len(results) > 1:
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.suptitle(title)
    save_figure(path, figure)


_AXES = {"accuracy": "accuracy at the first token", "entropy": "entropy there, nats"}
_PLACES = {"masks": "MASKs behind the answer", "distance": "tokens to the relevant context (band: without it)"}


def _draw_line(panel: Any, points: Sequence[Point], field: str, label: str, color: str) -> None:
    """Draw a figure of the points with its errors; that without relevant context apart."""
    known = [point for point in points if point.place is not None]
    means, errors = zip(*(getattr(point, field) for point in known), strict=True)
    panel.errorbar([point.place for point in known], means, errors, marker="o", ms=4, lw=1, color=color, label=label)
    for point in points:
        if point.place is None:
            mean, error = getattr(point, field)
            panel.axhspan(mean - error, mean + error, color=color, alpha=0.2, lw=0)
