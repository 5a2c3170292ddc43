"""Texts and labels -> the accuracy of a linear probe on the frozen features of a model, by cross-validation.

The features of a text are its final hidden states, from one pass that sees the whole text and no MASK: their mean over
positions, or that of the last token. The probe is a logistic regression with a penalty on its weights, whose strength
is chosen on a part of the training folds. No label of a test fold is used before its accuracy is computed.
"""

__all__ = [
    "PENALTIES",
    "LogisticRegression",
    "Pooling",
    "ProbeResult",
    "features",
    "final_states",
    "fold_indices",
    "majority",
    "numbered",
    "pooled",
    "probe",
    "read_labelled",
    "token_rows",
]

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from unmask.batch import pad_ids
from unmask.data.documents import json_rows, row_text, table_rows
from unmask.denoiser import Denoiser
from unmask.errors import DataError, RequestError
from unmask.noise import derive, generator

if TYPE_CHECKING:
    from unmask.api import Model

Pooling = Literal["mean", "last"]
PENALTIES = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001)
"""Strengths of the penalty among which the inner fold chooses, from strong to weak."""
_INNER, _DRAWN = 1, 3  # of the seed: the inner folds, the texts that are drawn
_STEPS = 200  # of L-BFGS, at most


# ---- features --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def features(
    model: "Model", texts: Sequence[str] | Sequence[Sequence[int]], *, pooling: Pooling = "mean", batch: int = 32
) -> Tensor:
    """Texts, or their token ids -> features (N, D) float32 on the processor; a text is cut to the model's window.

    Raises RequestError where there is no text, or one has no token.
    """
    rows = token_rows(model, texts)
    out = torch.empty(len(rows), model.network.width)
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))  # little padding in a batch
    for at in range(0, len(order), batch):
        index = order[at : at + batch]
        tokens, valid = pad_ids([rows[row] for row in index], model.tokenizer.pad_id, model.device)
        out[index] = pooled(final_states(model.denoiser, tokens, valid), valid, pooling).float().cpu()
    return out


def token_rows(model: "Model", texts: Sequence[str] | Sequence[Sequence[int]]) -> list[list[int]]:
    """Texts, or their token ids -> rows of ids, each cut to the model's window. Raises RequestError as `features`."""
    strings = [text for text in texts if isinstance(text, str)]
    ids = model.tokenizer.encode_batch(strings) if strings else texts
    rows = [[int(token) for token in row][: model.window] for row in ids]
    if not rows:
        raise RequestError("There is no text: give at least one.")
    if empty := [number for number, row in enumerate(rows, start=1) if not row]:
        raise RequestError(f"Text {empty[0]} is empty: leave out texts without a token.")
    return rows


def final_states(denoiser: Denoiser, tokens: Tensor, valid: Tensor) -> Tensor:
    """Tokens and valid (B, L) -> hidden states (B, L, D), each of the pass at its own position.

    A shifted network moves its states by one position, to that of the token they predict; with a position of padding
    behind the text they are moved back, so that the last state, which has seen the whole text, is there too. A
    time-conditioned network gets the least time of its training, that of one hidden token.
    """
    time = 1 / valid.sum(-1).float() if denoiser.time_conditioned else None
    if not getattr(denoiser, "shifted", False):
        return denoiser.hidden(tokens, valid=valid, time=time)
    hidden = denoiser.hidden(F.pad(tokens, (0, 1)), valid=F.pad(valid, (0, 1)), time=time)
    return hidden[:, 1:]


def pooled(states: Tensor, valid: Tensor, pooling: Pooling) -> Tensor:
    """Hidden states (B, L, D) and valid (B, L) -> (B, D): the mean over valid positions, or the last of these."""
    if pooling == "last":
        return states[torch.arange(len(states), device=states.device), valid.sum(-1) - 1]
    weight = valid[..., None].to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1)


# ---- folds -----------------------------------------------------------------------------------------------------------


def fold_indices(labels: Tensor, folds: int, seed: int, groups: Sequence[Hashable] | None = None) -> Tensor:
    """Labels (N,) int64 -> the fold of each row (N,) int64, with alike shares of the labels in all folds.

    Rows of a group are in one fold: the groups, large ones first, each go to the fold that has the smallest share of
    the labels of the group so far.
    """
    order = torch.randperm(len(labels), generator=generator(seed))
    if groups is None:
        order = order[labels[order].argsort(stable=True)]  # the rows of a label one after the other
        return torch.empty_like(labels).index_copy_(0, order, torch.arange(len(labels)) % folds)
    number = {name: at for at, name in enumerate(dict.fromkeys(groups[row] for row in order.tolist()))}
    group = torch.tensor([number[name] for name in groups])
    size = torch.zeros(len(number), int(labels.max()) + 1, dtype=torch.float64)
    size.index_put_((group, labels), torch.ones(len(labels), dtype=torch.float64), accumulate=True)
    size /= size.sum(0).clamp(min=1)  # shares of each label
    held, place = torch.zeros(folds, size.shape[1], dtype=torch.float64), torch.empty(len(number), dtype=torch.int64)
    for at in size.sum(-1).argsort(descending=True, stable=True).tolist():
        place[at] = (held @ size[at] + 1e-9 * held.sum(-1)).argmin()
        held[place[at]] += size[at]
    return place[group]


# ---- logistic regression ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LogisticRegression:
    """p(label | features): the softmax of a linear map of the centred and scaled features."""

    weight: Tensor  # (D, C) float64
    bias: Tensor  # (C,)
    mean: Tensor  # (D,)
    scale: Tensor  # (D,)

    @classmethod
    def fitted(
        cls, x: Tensor, labels: Tensor, classes: int, penalty: float, start: "LogisticRegression | None" = None
    ) -> "LogisticRegression":
        """Features (N, D), labels (N,) -> the minimum of the mean of -log p plus penalty / 2 times the squared weights.

        Features are centred and divided by their standard deviations over the N rows; one that does not vary there
        counts nothing. `start` is a solution for another penalty on the same rows, from which L-BFGS begins.
        """
        x = x.double()
        mean, deviation = x.mean(0), x.std(0, correction=0)
        scale = deviation.where(deviation > 1e-12 * (1 + mean.abs()), torch.inf)
        z = (x - mean) / scale
        zeros = torch.zeros(x.shape[1] + 1, classes, dtype=torch.float64)
        table = zeros if start is None else torch.cat([start.weight, start.bias[None]])
        table = table.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([table], max_iter=_STEPS, tolerance_grad=1e-5, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(z @ table[:-1] + table[-1], labels) + penalty / 2 * table[:-1].square().sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)
        table = table.detach()
        return cls(table[:-1], table[-1], mean, scale)

    def logits(self, x: Tensor) -> Tensor:
        """Features (N, D) -> logits (N, C)."""
        return (x.double() - self.mean) / self.scale @ self.weight + self.bias


def _chosen(x: Tensor, labels: Tensor, classes: int, inner: Tensor) -> float:
    """Training features and labels, of which `inner` (N,) bool are held out -> the penalty with the least -log p."""
    losses: list[float] = []
    model: LogisticRegression | None = None
    for penalty in PENALTIES:
        model = LogisticRegression.fitted(x[~inner], labels[~inner], classes, penalty, model)
        losses.append(float(F.cross_entropy(model.logits(x[inner]), labels[inner])))
    return PENALTIES[losses.index(min(losses))]


# ---- cross-validation ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Accuracies of the test folds, and what they are compared with."""

    folds: tuple[float, ...]
    """The accuracy of each test fold."""
    base: float
    """The accuracy of always answering the most frequent label of the training folds."""
    classes: tuple[str, ...]
    """The labels in the order of their numbers."""
    count: int
    """The number of texts."""
    chosen: tuple[float, ...]
    """The penalty, or the learning rate, that was chosen in each fold."""

    @property
    def accuracy(self) -> float:
        """The mean of the folds."""
        return sum(self.folds) / len(self.folds)

    @property
    def stderr(self) -> float:
        """The standard error of the mean over folds.

        Training sets of different folds overlap, so that it is somewhat too small as the error of another sample.
        """
        spread = sum((fold - self.accuracy) ** 2 for fold in self.folds) / (len(self.folds) - 1)
        return math.sqrt(spread / len(self.folds))


def numbered(
    count: int, labels: Sequence[str] | Sequence[int], folds: int, groups: Sequence[Hashable] | None = None
) -> tuple[Tensor, tuple[str, ...]]:
    """The labels of `count` texts -> their numbers (N,) int64, and the labels by number.

    Raises RequestError where they are not as many as texts, all are equal, or a label has fewer texts (or groups of
    texts) than there are folds.
    """
    for name, values in (("labels", labels), ("groups", groups)):
        if values is not None and len(values) != count:
            raise RequestError(f"There are {count} texts and {len(values)} {name}; give each text one.")
    if folds < 2:
        raise RequestError(f"folds is {folds}; give at least 2, one to test on and one to train on.")
    classes = sorted(set(labels), key=lambda label: (isinstance(label, str), label))
    if len(classes) < 2:
        raise RequestError(f"All labels are '{classes[0]}'; give texts of at least two." if classes else "No labels.")
    for label in classes:
        rows = [row for row in range(count) if labels[row] == label]
        size = len(rows if groups is None else {groups[row] for row in rows})
        if size < folds:
            what = "texts" if groups is None else "groups of texts"
            raise RequestError(
                f"The label '{label}' has {size} {what}, fewer than the {folds} folds; give fewer folds or more texts."
            )
    number = {label: at for at, label in enumerate(classes)}
    return torch.tensor([number[label] for label in labels]), tuple(map(str, classes))


def probe(
    x: Tensor,
    labels: Sequence[str] | Sequence[int],
    *,
    folds: int = 5,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> ProbeResult:
    """Features (N, D) and N labels -> the accuracy of a logistic regression on each of `folds` test folds.

    `groups` names the document of each row: rows of one are never on both sides of a split. In each fold the penalty
    is chosen on one of `folds` parts of the training rows, and the regression is then fitted to all of them.
    Raises RequestError as `numbered`.
    """
    target, classes = numbered(len(x), labels, folds, groups)
    fold = fold_indices(target, folds, seed, groups)
    accuracies, bases, penalties = list[float](), list[float](), list[float]()
    for test in range(folds):
        train, tested = (fold != test).nonzero().squeeze(-1), fold == test
        some = None if groups is None else [groups[row] for row in train.tolist()]
        inner = fold_indices(target[train], folds, derive(seed, _INNER, test), some) == 0
        penalties.append(_chosen(x[train], target[train], len(classes), inner))
        model = LogisticRegression.fitted(x[train], target[train], len(classes), penalties[-1])
        accuracies.append(float((model.logits(x[tested]).argmax(-1) == target[tested]).double().mean()))
        bases.append(majority(target[train], target[tested]))
    return ProbeResult(tuple(accuracies), sum(bases) / folds, classes, len(x), tuple(penalties))


def majority(train: Tensor, test: Tensor) -> float:
    """Labels of training and test -> the accuracy of the most frequent one of training."""
    return float((test == train.bincount().argmax()).double().mean())


# ---- files -----------------------------------------------------------------------------------------------------------


def read_labelled(
    path: Path, text_key: str = "text", label_key: str = "label", limit: int | None = None, seed: int = 0
) -> tuple[list[str], list[str]]:
    """A file of rows (.jsonl, .json, .csv, .tsv, each also as .gz) -> its texts and their labels.

    Rows whose text an earlier row has are left out: a text may not be in two folds. With a `limit` so many of the rest
    are drawn by the seed. Raises DataError for rows without text or label.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}; give a file of rows with a text and a label.")
    name = path.name.lower().removesuffix(".gz")
    table = {".csv": ",", ".tsv": "\t"}.get(name[-4:])
    labels = dict[str, str]()
    for where, row in json_rows(path) if table is None else table_rows(path, table):
        text, label = row_text(row, text_key, where), row.get(label_key)
        if label is None or isinstance(label, float | list | dict):
            keys = ", ".join(map(str, row))
            raise DataError(f"{where} has no label, a text or a whole number, under '{label_key}' (its keys: {keys}).")
        labels.setdefault(text.strip(), str(label))
    labels.pop("", None)
    texts = list(labels)
    if limit is not None and limit < len(texts):
        order = torch.randperm(len(texts), generator=generator(seed, _DRAWN))[:limit].sort().values.tolist()
        texts = [texts[at] for at in order]
    return texts, [labels[text] for text in texts]
