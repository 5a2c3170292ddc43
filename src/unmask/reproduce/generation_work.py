"""A cell about texts that models write -> its result; see `reproduce.text_work`."""

__all__ = ["perform_generation"]

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from unmask.decode.rows import Written, decode_rows, run_to_end, slide
from unmask.errors import RequestError
from unmask.eval.text import Judge, ModelJudge, Text, Trigram, measure_texts, open_judge, repetition, words_of
from unmask.noise import derive, row_seeds
from unmask.reproduce.text import Diverged, Judged, Lengthened, Raced, TextCell, Wrote
from unmask.reproduce.text_work import SEED, model_of, text_of

if TYPE_CHECKING:
    from unmask.api import Model

_BATCH = 32  # rows of a pass


def perform_generation(cell: TextCell, runs: Path) -> dict[str, Any]:
    """A cell and the folder of all trainings -> its result."""
    match cell:
        case Wrote():
            return _write(cell, runs)
        case Judged():
            return _judge(cell, runs)
        case Diverged():
            return _diverge(cell, runs)
        case Lengthened():
            return _lengthen(cell, runs)
        case Raced():
            return _race(cell, runs)
        case _:
            raise TypeError(f"There is no work for cells such as {cell}.")


@dataclass(frozen=True, slots=True)
class _Reference:
    """What written texts are compared with: the text of the training, and its held-out part."""

    trigram: Trigram
    words: frozenset[str]
    held_out: list[list[int]]

    @classmethod
    def of(cls, model: "Model", count: int, length: int) -> "_Reference":
        """A model -> the reference with `count` rows of `length` held-out tokens, or as many as there are."""
        import numpy as np

        corpus = text_of(model)
        train = [row[:last].tolist() for row, last in zip(corpus.train.ids, corpus.train.last, strict=True)]
        words = frozenset(words_of(model.tokenizer.decode([token for row in train for token in row])))
        whole = corpus.valid.ids[np.asarray(corpus.valid.last) >= length][:count, :length]
        return cls(Trigram(train, model.tokenizer.vocab_size), words, whole.tolist())

    def measures(self, model: "Model", rows: Sequence[Sequence[int]], *judges: Judge) -> dict[str, dict[str, Any]]:
        """Rows of tokens of the model -> their measures by the name of the judge."""
        texts = [Text((), row, model.tokenizer.decode(row)) for row in rows]
        measures = {judge.name: measure_texts(texts, judge, self.words) for judge in judges}
        return {name: asdict(values) | {"perplexity": values.perplexity} for name, values in measures.items()}


def _write(cell: Wrote, runs: Path) -> dict[str, Any]:
    """Texts from the empty prompt, their measures under both judges, and those of as many held-out texts."""
    model, judge = model_of(runs, cell.training), ModelJudge(model_of(runs, cell.judge), cell.judge)
    reference = _Reference.of(model, cell.texts, cell.length)
    began, start = time.process_time(), time.perf_counter()
    rows = _texts_of(cell, model)
    spent, elapsed = time.process_time() - began, time.perf_counter() - start
    written = [row.tokens[row.prompt :] for row in rows]
    passes = sum(row.passes for row in rows) / len(rows)
    return _result(reference, model, judge, written) | {"passes": passes, "seconds": spent, "elapsed": elapsed}


def _texts_of(cell: Wrote, model: "Model") -> list[Written]:
    """The texts of a setting, from the empty prompt, before they are judged."""
    window = cell.window or model.window
    return run_to_end(
        slide(
            model.decoder(cell.policy, temperature=cell.temperature),
            model.defaults.prompt_ids(model.tokenizer, model.network, [""] * cell.texts, False),
            [cell.length] * cell.texts,
            row_seeds(SEED, cell.texts),
            window=window,
            stride=max(1, window // 2),
            pad_id=model.tokenizer.pad_id,
            eos_id=None,
            batch=_BATCH,
            device=model.device,
        )
    )


def _diverge(cell: Diverged, runs: Path) -> dict[str, Any]:
    """MAUVE by the AR model's mean hidden states; that of two sets of held-out texts is the best that can be had."""
    import numpy as np

    from unmask.eval.divergence import mauve
    from unmask.eval.probe import features

    model, judge, count = model_of(runs, cell.wrote.training), model_of(runs, cell.wrote.judge), cell.wrote.texts
    valid = text_of(model).valid
    real = valid.ids[np.asarray(valid.last) >= cell.wrote.length][: 2 * count, : cell.wrote.length].tolist()
    if len(real) < 2 * count:
        raise RequestError(f"MAUVE needs {2 * count} held-out texts, and there are {len(real)}: take a longer text.")
    written = [row.tokens[row.prompt :] for row in _texts_of(cell.wrote, model)]
    ours, *both = (
        features(judge, [model.tokenizer.decode(row) or " " for row in rows])
        for rows in (written, real[::2], real[1::2])
    )
    values = (mauve(part, both[0], cell.clusters) for part in (ours, both[1]))
    return {**dict(zip(("mauve", "held_out"), values, strict=True)), "texts": count}


def _result(reference: _Reference, model: "Model", judge: Judge, rows: list[list[int]]) -> dict[str, Any]:
    """Written rows -> their measures under the 3-gram and the judge, those of held-out rows, and the rows."""
    both = (reference.trigram, judge)
    return {
        "written": reference.measures(model, rows, *both),
        "held_out": reference.measures(model, reference.held_out, *both),
        "rows": rows,
        "samples": [model.tokenizer.decode(row) for row in rows[:3]],
    }


def _race(cell: Raced, runs: Path) -> dict[str, Any]:
    """Texts by the published sampler, and their measures as in `_write`."""
    import torch

    from unmask.eval.precision import ancestral_by_race

    model, judge = model_of(runs, cell.training), ModelJudge(model_of(runs, cell.judge), cell.judge)
    reference = _Reference.of(model, cell.texts, cell.length)
    masked = torch.full((cell.texts, cell.length), model.network.mask_id)
    began = time.process_time()
    dtype = torch.float32 if cell.dtype == "float32" else torch.float64
    rows = ancestral_by_race(model.denoiser, model.process.schedule, masked, cell.steps, dtype, SEED).tolist()
    spent = time.process_time() - began
    return _result(reference, model, judge, rows) | {"passes": float(cell.steps), "seconds": spent}


# ---- texts of several windows ----------------------------------------------------------------------------------------


class _Long(NamedTuple):
    """Texts as they grow, and the passes and processor seconds so far after each part."""

    rows: list[list[int]]
    spent: list[tuple[int, float, float]]
    """Length of the texts, passes of a text, seconds of all."""


def _lengthen(cell: Lengthened, runs: Path) -> dict[str, Any]:
    """Texts part by part, and for each window of them the measures, with passes and seconds up to its end."""
    model, judge = model_of(runs, cell.training), ModelJudge(model_of(runs, cell.judge), cell.judge)
    reference = _Reference.of(model, cell.texts * cell.windows, model.window)
    written = _grown(cell, model)
    windows = _by_window(written.rows, model, reference, judge)
    for number, measures in enumerate(windows, 1):
        end = next(part for part in written.spent if part[0] >= number * model.window)
        measures |= {"passes": end[1], "seconds": end[2]}
    real = reference.held_out[: len(reference.held_out) // cell.windows * cell.windows]
    texts = [list(chain(*real[at : at + cell.windows])) for at in range(0, len(real), cell.windows)]
    held_out = _by_window(texts, model, reference, judge)
    return {"windows": windows, "held_out": held_out, "rows": written.rows}


def _grown(cell: Lengthened, model: "Model") -> _Long:
    """Write the texts: each part is filled on a canvas of the last tokens before it and the part, with nothing behind.

    An autoregressive model has its own cache, and slides by half a window as well.
    """
    causal = bool(getattr(model.network, "causal_block", 0))
    window, began = model.window, time.process_time()
    long, passes = _Long([[] for _ in range(cell.texts)], []), 0
    while (length := len(long.rows[0])) < cell.windows * window:
        size = window if cell.whole and not length else cell.block
        policy = "left-to-right" if causal else f"ancestral:steps={size // cell.pace}" if cell.pace > 1 else "ancestral"
        options: dict[str, Any] = {"cache": "prefix", "block_size": window} if cell.cached else {}
        filled = run_to_end(
            decode_rows(
                model.decoder(policy, temperature=1.0, **options),
                [[*row[max(0, length - window + size) :], *[model.network.mask_id] * size] for row in long.rows],
                [derive(seed, length) for seed in row_seeds(SEED, cell.texts)],
                pad_id=model.tokenizer.pad_id,
                batch=_BATCH,
                device=model.device,
            )
        )
        for row, part in zip(long.rows, filled, strict=True):
            row += part.tokens[-size:]
        passes += max(part.passes for part in filled)
        long.spent.append((length + size, passes, time.process_time() - began))
    return long


def _by_window(texts: Sequence[list[int]], model: "Model", reference: _Reference, judge: Judge) -> list[dict[str, Any]]:
    """Texts of equal lengths -> for each window of the model the measures of what the texts have there.

    "so_far" is the share of 4-grams from the beginning to the end of the window that occurred before.
    """
    size, windows = model.window, list[dict[str, Any]]()
    for end in range(size, len(texts[0]) + 1, size):
        first, second = reference.measures(
            model, [text[end - size : end] for text in texts], reference.trigram, judge
        ).values()
        windows.append(
            {
                "trigram": first["perplexity"],
                "judge": second["perplexity"],
                "entropy": first["entropy"][0],
                "repetition": first["repetition"][0],
                "so_far": sum(repetition(text[:end]) for text in texts) / len(texts),
            }
        )
    return windows


def _judge(cell: Judged, runs: Path) -> dict[str, Any]:
    """The measures of texts that another cell wrote, and of as many held-out ones, under one more judge."""
    from unmask.reproduce.results import read, read_cell

    model = model_of(runs, cell.training)
    judge = open_judge(cell.judge)
    rows = read(runs.parent, read_cell(runs.parent, cell.wrote)).result["rows"][: cell.texts]
    rows = [row[: cell.length] for row in rows]
    reference = _Reference.of(model, len(rows), len(rows[0]))
    began = time.process_time()
    measured = [reference.measures(model, some, judge) for some in (rows, reference.held_out)]
    return {"written": measured[0], "held_out": measured[1], "seconds": time.process_time() - began}
