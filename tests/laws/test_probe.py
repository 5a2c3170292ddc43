"""The linear probe and fine-tuning: what they can separate, what they cannot, and that no fold sees another's rows."""

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unmask.api import Model
from unmask.errors import RequestError
from unmask.eval.finetune import TuneSettings, finetune, finetune_fold
from unmask.eval.probe import LogisticRegression, features, fold_indices, probe, token_rows
from unmask.model.dit import DiT
from unmask.model.settings import DiTSettings
from unmask.process import MaskedDiffusion
from unmask.text.build import char_tokenizer

LABELS = [("no", "yes", "yes")[row % 3] for row in range(300)]


def table(seed: int = 0) -> Tensor:
    return torch.randn(300, 8, generator=torch.Generator().manual_seed(seed))


def separable() -> Tensor:
    x = table()
    x[:, 3] += torch.tensor([20.0 if label == "yes" else -20.0 for label in LABELS])
    return x


def test_separable_features_have_accuracy_1_and_shuffled_labels_the_base_rate() -> None:
    result = probe(separable(), LABELS)
    assert (result.accuracy, result.stderr) == (1.0, 0.0)
    assert result.base == pytest.approx(2 / 3)
    assert (result.classes, result.count) == (("no", "yes"), 300)
    shuffled = random.Random(1).sample(LABELS, len(LABELS))
    control = probe(separable(), shuffled)
    assert abs(control.accuracy - control.base) < 3 * (control.stderr + (2 / 9 / 300) ** 0.5)


def test_three_classes_and_a_feature_that_never_varies() -> None:
    labels = [row % 3 for row in range(300)]
    x = table()
    x[:, :3] += 20 * torch.nn.functional.one_hot(torch.tensor(labels), 3)
    x[:, 5] = 1e6
    assert probe(x, labels).accuracy == 1.0


def test_the_regression_is_at_the_minimum_that_it_claims() -> None:
    x, labels, penalty = separable(), torch.tensor([label == "yes" for label in LABELS]).long(), 0.1
    model = LogisticRegression.fitted(x, labels, 2, penalty)
    weight = model.weight.clone().requires_grad_()
    logits = ((x.double() - model.mean) / model.scale) @ weight + model.bias
    loss = torch.nn.functional.cross_entropy(logits, labels) + penalty / 2 * weight.square().sum()
    (slope,) = torch.autograd.grad(loss, weight)
    assert float(slope.abs().max()) < 1e-4
    from_other = LogisticRegression.fitted(x, labels, 2, penalty, LogisticRegression.fitted(x, labels, 2, 1.0))
    torch.testing.assert_close(from_other.weight, model.weight, atol=1e-3, rtol=0)


@pytest.mark.parametrize("grouped", [False, True])
def test_folds_have_alike_shares_of_each_label(grouped: bool) -> None:
    labels = torch.tensor([label == "yes" for label in LABELS]).long()
    groups = [row // 4 for row in range(300)] if grouped else None
    fold = fold_indices(labels, 5, 0, groups)
    counts = torch.stack([labels[fold == at].bincount(minlength=2) for at in range(5)])
    assert int(counts.sum()) == 300
    assert int((counts - counts.double().mean(0)).abs().max()) <= (4 if grouped else 1)
    if groups is not None:
        assert all(len(set(fold[torch.tensor(groups) == group].tolist())) == 1 for group in set(groups))
    assert not torch.equal(fold, fold_indices(labels, 5, 1, groups))


def test_rows_of_a_document_help_only_where_they_are_on_both_sides() -> None:
    """Features give the document alone, and documents have random labels: with groups nothing can be predicted."""
    source = random.Random(0)
    documents = [row // 10 for row in range(600)]
    of_document = [source.randrange(2) for _ in range(60)]
    labels = [of_document[document] for document in documents]
    x = torch.nn.functional.one_hot(torch.tensor(documents), 60).float()
    assert probe(x, labels).accuracy > 0.95
    grouped = probe(x, labels, groups=documents)
    assert grouped.accuracy < 0.6


def test_what_cannot_be_probed_is_refused() -> None:
    x = separable()
    with pytest.raises(RequestError, match="300 texts and 299 labels; give each text one"):
        probe(x, LABELS[:-1])
    with pytest.raises(RequestError, match="All labels are 'yes'; give texts of at least two"):
        probe(x, ["yes"] * 300)
    with pytest.raises(RequestError, match="'no' has 2 texts, fewer than the 5 folds"):
        probe(x[:6], LABELS[:6])
    with pytest.raises(RequestError, match="'no' has 2 groups of texts, fewer than the 5 folds"):
        probe(x, LABELS, groups=[row % 2 for row in range(300)])
    with pytest.raises(RequestError, match="folds is 1; give at least 2"):
        probe(x, LABELS, folds=1)


# ---- features --------------------------------------------------------------------------------------------------------

TOKENIZER = char_tokenizer("abcdef")


def a_model(*, ar: bool = False, timed: bool = False) -> Model:
    torch.manual_seed(0)
    settings = DiTSettings(
        vocab_size=TOKENIZER.vocab_size,
        mask_id=TOKENIZER.mask_id,
        max_length=32,
        width=16,
        blocks=2,
        heads=2,
        causal_block=int(ar),
        shift=ar,
        modulation="time" if timed else "none",
    )
    network = DiT(settings)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    process = MaskedDiffusion(TOKENIZER.mask_id)
    return Model(network, process, TOKENIZER, None, torch.device("cpu"), torch.float32)


TEXTS = ["abc", "fedcba" * 5 + "ab", "a"]


@pytest.mark.parametrize("timed", [False, True])
def test_features_are_the_means_of_the_final_states(timed: bool) -> None:
    model = a_model(timed=timed)
    for text, row in zip(TEXTS, features(model, TEXTS), strict=True):
        ids = torch.tensor([TOKENIZER.encode(text)])
        time = torch.tensor([1 / len(text)]) if timed else None
        torch.testing.assert_close(row, model.network.hidden(ids, time=time)[0].mean(0), atol=1e-5, rtol=1e-5)
    rows = TOKENIZER.encode_batch(TEXTS)
    torch.testing.assert_close(features(model, rows, batch=1), features(model, TEXTS), atol=1e-5, rtol=1e-5)


def test_the_last_state_of_an_ar_model_has_seen_the_whole_text() -> None:
    """The states of a shifted network are moved back; without that the last token would have no effect."""
    model = a_model(ar=True)
    last = features(model, TEXTS, pooling="last")
    ends = features(model, [text[:-1] + "f" for text in TEXTS], pooling="last")
    assert all(float((a - b).abs().max()) > 1e-3 for a, b in zip(last, ends, strict=True))
    ids = torch.tensor([TOKENIZER.encode(text) for text in ("abc", "abf")])
    moved = model.network.hidden(ids)[:, -1]
    torch.testing.assert_close(moved[0], moved[1])
    first = features(model, ["a"])
    torch.testing.assert_close(first, features(model, ["a"], pooling="last"))
    torch.testing.assert_close(first[0], model.network.hidden(ids)[0, 0], atol=1e-5, rtol=1e-5)


def test_a_text_is_cut_to_the_window_and_may_not_be_empty() -> None:
    model = a_model(ar=True)
    long = "abcdef" * 10
    torch.testing.assert_close(features(model, [long]), features(model, [long[:32]]))
    with pytest.raises(RequestError, match="Text 2 is empty"):
        features(model, ["a", ""])
    with pytest.raises(RequestError, match="There is no text"):
        features(model, [])


# ---- fine-tuning -----------------------------------------------------------------------------------------------------


def letters(count: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """Random texts, labelled by whether "a" comes before "b": the mean of embeddings does not depend on it."""
    source = random.Random(seed)
    texts = ["".join(source.sample("abcdef", 6)) for _ in range(count)]
    return texts, [int(text.index("a") < text.index("b")) for text in texts]


@pytest.mark.slow
@pytest.mark.parametrize("ar", [False, True])
def test_fine_tuning_learns_what_the_labels_follow_and_nothing_from_shuffled_ones(ar: bool) -> None:
    texts, labels = letters(600)
    model, settings = a_model(ar=ar), TuneSettings(rates=(1e-6, 1e-2), epochs=8, batch=16)
    before = [parameter.clone() for parameter in model.network.parameters()]
    result = finetune(model, texts, labels, folds=2, settings=settings)
    assert min(result.folds) > 0.75
    assert result.chosen == (1e-2, 1e-2)
    assert all(torch.equal(a, b) for a, b in zip(before, model.network.parameters(), strict=True))
    shuffled = random.Random(1).sample(labels, len(labels))
    control = finetune(model, texts, shuffled, folds=2, settings=replace(settings, epochs=1))
    assert abs(control.accuracy - 0.5) < 0.1


def test_the_test_fold_is_used_once_and_changes_nothing_before() -> None:
    """Labels of the test fold are replaced: the losses and the rate that is chosen are the same."""
    texts, labels = letters(60)
    model, settings = a_model(), TuneSettings(rates=(1e-3, 1e-2), epochs=1, batch=16)
    rows, target = token_rows(model, texts), torch.tensor(labels)
    fold = fold_indices(target, 3, 0)
    result = finetune_fold(model, rows, target, fold, 1, 0, None, settings)
    assert finetune_fold(model, rows, target, fold, 1, 0, None, settings) == result
    flipped = finetune_fold(model, rows, torch.where(fold == 1, 1 - target, target), fold, 1, 0, None, settings)
    assert (flipped.losses, flipped.rate) == (result.losses, result.rate)
    assert flipped.accuracy == pytest.approx(1 - result.accuracy)
    assert len(result.right) == int((fold == 1).sum())
