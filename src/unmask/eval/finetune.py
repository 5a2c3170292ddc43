"""Texts and labels -> the accuracy of a model that is fine-tuned as a classifier, all of its weights trained.

The classifier is a linear map of the mean of the final hidden states (`eval.probe`). Every backbone has the same
budget: the same epochs, and the same learning rates to choose from. In each fold one part of the training texts is set
aside; the learning rate is the one whose last step has the least -log p there, and that network is tested, once.
"""

__all__ = ["TuneSettings", "Tuned", "finetune", "finetune_fold"]

import copy
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.batch import pad_ids
from unmask.errors import RequestError
from unmask.eval.probe import ProbeResult, final_states, fold_indices, majority, numbered, pooled, token_rows
from unmask.noise import derive, generator
from unmask.ranges import Count, check_numbers, real
from unmask.run.optim import adamw, clip, learning_rate, set_learning_rate

if TYPE_CHECKING:
    from unmask.api import Model

_INNER, _ORDER = 1, 2  # of the seed
_WARMUP = 10  # a step in so many
_CLIP = 1.0


@dataclass(frozen=True, slots=True)
class TuneSettings:
    """The budget of a fine-tuning, equal for all backbones."""

    rates: Annotated[tuple[float, ...], real(0, 1, above=True)] = (3e-4, 1e-3, 3e-3)
    """Peak learning rates among which the part of the training texts that is set aside chooses."""
    epochs: Count = 3
    """How often each training text is seen; the learning rate falls to zero at the end."""
    batch: Count = 32
    """Texts of a step."""

    def __post_init__(self) -> None:
        check_numbers(self, error=RequestError)
        if not self.rates:
            raise RequestError("There is no learning rate to train with; give at least one.")


class Tuned(NamedTuple):
    """The result of a fold."""

    accuracy: float
    """On the test fold."""
    rate: float
    """The learning rate that was chosen."""
    losses: tuple[float, ...]
    """-log p of a label of the part that was set aside, at the last step, for each learning rate."""
    right: tuple[bool, ...]
    """Of each test text, whether its label was predicted."""


class _Classifier(nn.Module):
    """A copy of a network with a linear classifier, which begins at zero, on the mean of its final states."""

    def __init__(self, model: "Model", classes: int) -> None:
        super().__init__()
        model.network.lowered(model.dtype)  # without copies of weights, which would be those of before the training
        self.network = cast(nn.Module, copy.deepcopy(model.network)).float()
        for parameter in self.network.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        self.head = nn.Linear(model.network.width, classes).to(model.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Tokens and valid (B, L) -> logits (B, C)."""
        return self.head(pooled(final_states(cast(Any, self.network), tokens, valid), valid, "mean"))


def finetune(
    model: "Model",
    texts: Sequence[str] | Sequence[Sequence[int]],
    labels: Sequence[str] | Sequence[int],
    *,
    folds: int = 5,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
    settings: TuneSettings | None = None,
) -> ProbeResult:
    """Texts and labels -> the accuracy of each test fold, by a network that is trained on the other folds.

    Raises RequestError as `eval.probe.probe`, and for a network whose weights are integers.
    """
    rows, settings = token_rows(model, texts), settings or TuneSettings()
    target, classes = numbered(len(rows), labels, folds, groups)
    fold = fold_indices(target, folds, seed, groups)
    results = [finetune_fold(model, rows, target, fold, at, seed, groups, settings) for at in range(folds)]
    bases = [majority(target[fold != at], target[fold == at]) for at in range(folds)]
    accuracies, rates = tuple(each.accuracy for each in results), tuple(each.rate for each in results)
    return ProbeResult(accuracies, sum(bases) / folds, classes, len(rows), rates)


def finetune_fold(
    model: "Model",
    rows: Sequence[Sequence[int]],
    target: Tensor,
    fold: Tensor,
    test: int,
    seed: int,
    groups: Sequence[Hashable] | None,
    settings: TuneSettings,
) -> Tuned:
    """Rows of ids, their labels and folds (N,) -> the result of the test fold `test`; see the module."""
    if not all(parameter.is_floating_point() for parameter in model.network.parameters()):
        raise RequestError("The weights of this model are integers, which cannot be trained; load it without int8.")
    folds, outside = int(fold.max()) + 1, (fold != test).nonzero().squeeze(-1)
    some = None if groups is None else [groups[row] for row in outside.tolist()]
    inner = fold_indices(target[outside], folds, derive(seed, _INNER, test), some) == 0
    train, chosen = outside[~inner].tolist(), outside[inner].tolist()
    best: tuple[float, float, _Classifier] | None = None
    losses = list[float]()
    for rate in settings.rates:
        network = _trained(model, rows, target, train, rate, derive(seed, _ORDER, test), settings)
        losses.append(float(F.cross_entropy(_logits(model, network, rows, chosen, settings.batch), target[chosen])))
        if best is None or losses[-1] < best[0]:
            best = losses[-1], rate, network
    assert best is not None
    tested = (fold == test).nonzero().squeeze(-1).tolist()
    right = _logits(model, best[2], rows, tested, settings.batch).argmax(-1) == target[tested]
    return Tuned(float(right.double().mean()), best[1], tuple(losses), tuple(right.tolist()))


def _trained(
    model: "Model",
    rows: Sequence[Sequence[int]],
    target: Tensor,
    train: list[int],
    rate: float,
    seed: int,
    settings: TuneSettings,
) -> _Classifier:
    """The classifier after the last step."""
    network = _Classifier(model, int(target.max()) + 1).train()
    params = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = adamw(params, rate, (0.9, 0.999), 1e-8, 0.0)
    steps = settings.epochs * -(-len(train) // settings.batch)
    for step, part in enumerate(_batches(train, seed, settings)):
        tokens, valid = pad_ids([rows[row] for row in part], model.tokenizer.pad_id, model.device)
        F.cross_entropy(network(tokens, valid), target[part].to(model.device)).backward()
        clip(params, _CLIP)
        set_learning_rate(
            optimizer, learning_rate(step, base=rate, warmup=max(1, steps // _WARMUP), steps=steps, shape="cosine")
        )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return network.eval()


def _batches(train: list[int], seed: int, settings: TuneSettings) -> Iterator[list[int]]:
    """Indices of training texts -> those of each step: each epoch has another order."""
    for epoch in range(settings.epochs):
        order = torch.randperm(len(train), generator=generator(seed, epoch)).tolist()
        for at in range(0, len(order), settings.batch):
            yield [train[place] for place in order[at : at + settings.batch]]


@torch.no_grad()
def _logits(model: "Model", network: _Classifier, rows: Sequence[Sequence[int]], part: list[int], batch: int) -> Tensor:
    """Logits (N, C) of some rows, on the processor."""
    logits = list[Tensor]()
    for at in range(0, len(part), batch):
        index = part[at : at + batch]
        tokens, valid = pad_ids([rows[row] for row in index], model.tokenizer.pad_id, model.device)
        logits.append(network(tokens, valid).float().cpu())
    return torch.cat(logits)
