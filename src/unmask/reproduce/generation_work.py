"""A cell about texts that models write -> its result; see `reproduce.text_work`."""

__all__ = ["perform_generation"]

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.decode.rows import run_to_end, slide
from unmask.eval.text import Judge, ModelJudge, Text, Trigram, measure_texts, open_judge, words_of
from unmask.noise import row_seeds
from unmask.reproduce.text import Judged, TextCell, Wrote
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
        corpus = text_of(model)
        train = [row[:last].tolist() for row, last in zip(corpus.train.ids, corpus.train.last, strict=True)]
        words = frozenset(words_of(model.tokenizer.decode([token for row in train for token in row])))
        whole = corpus.valid.ids[corpus.valid.last >= length][:count, :length]
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
    window = cell.window or model.window
    began, start = time.process_time(), time.perf_counter()
    rows = run_to_end(
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
    spent, elapsed = time.process_time() - began, time.perf_counter() - start
    written = [row.tokens[row.prompt :] for row in rows]
    both = (reference.trigram, judge)
    return {
        "written": reference.measures(model, written, *both),
        "held_out": reference.measures(model, reference.held_out, *both),
        "passes": sum(row.passes for row in rows) / len(rows),
        "seconds": spent,
        "elapsed": elapsed,
        "rows": written,
        "samples": [model.tokenizer.decode(row) for row in written[:3]],
    }


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
