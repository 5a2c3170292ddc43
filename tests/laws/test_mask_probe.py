"""The probe of MASKs behind an answer: what is asked, how far the relevant context is, and figures computed by hand."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unmask.data.packed import Packed
from unmask.errors import RequestError
from unmask.eval.masks import curve, first_tokens, probe_task, probe_text, task_questions
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.tasks.few_shot import FewShot
from unmask.tasks.registry import make
from unmask.text.build import char_tokenizer

TOKENIZER = char_tokenizer(["abcdefghijklmnopqrstuvwxyzBCEFIJMS0123456789 .:+-*=_"])
TASK = FewShot(relevant=2, distractors=3, words=3)


@dataclass
class Rule:
    """A denoiser that gives a token, a function of the row, the probability 0.9 at every position."""

    rule: Callable[[list[int]], int]
    vocab_size: int = TOKENIZER.vocab_size
    mask_id: int = TOKENIZER.mask_id
    max_length: int = 400
    time_conditioned: bool = False

    def hidden(self, tokens: Tensor, *, valid: Tensor, **_: Any) -> Tensor:
        chosen = torch.tensor([self.rule(row[keep].tolist()) for row, keep in zip(tokens, valid, strict=True)])
        return chosen[:, None, None].expand(*tokens.shape, 1)

    def logits(self, hidden: Tensor) -> Tensor:
        p = torch.full((*hidden.shape[:-1], self.vocab_size), 0.1 / (self.vocab_size - 2))
        return p.scatter(-1, hidden, 0.9).log()


def model_of(denoiser: Any) -> Any:
    """What the probe uses of a model."""
    defaults = SimpleNamespace(chat=None)
    facts = {"tokenizer": TOKENIZER, "window": denoiser.max_length, "device": torch.device("cpu"), "checkpoint": None}
    return SimpleNamespace(denoiser=denoiser, defaults=defaults, **facts)


def network(**attention: Any) -> Any:
    model = build(DiTSettings(TOKENIZER.vocab_size, TOKENIZER.mask_id, 400, 16, 2, 2, dropout=0.0, **attention), 1)
    with torch.no_grad():
        for param in model.parameters():
            param += 0.2 * torch.randn(param.shape, generator=torch.Generator().manual_seed(param.numel()))
    return model.eval()


def masks_in(row: list[int]) -> int:
    return row.count(TOKENIZER.mask_id)


def test_a_rule_that_counts_masks_is_seen() -> None:
    """The space before a word is its first character: right up to 7 MASKs, of which two are the answer's."""
    space, wrong = TOKENIZER.encode(" e")
    model = model_of(Rule(lambda row: space if masks_in(row) <= 7 else wrong))
    curves = probe_task(model, TASK, counts=(0, 5, 6, 50), count=20)
    assert [point.place for point in curves.masks] == [0, 5, 6, 50]
    assert [point.accuracy[0] for point in curves.masks] == [1, 1, 0, 0]
    assert [point.change for point in curves.masks] == [(0, 0), (0, 0), (-1, 0), (-1, 0)]
    assert [round(point.variation[0], 6) for point in curves.masks[:2]] == [0, 0]
    small = 0.1 / (TOKENIZER.vocab_size - 2)
    assert curves.masks[3].variation[0] == pytest.approx(0.9 - small, abs=1e-6)
    assert curves.masks[0].nats[0] == pytest.approx(-math.log(0.9), abs=1e-6)
    assert curves.masks[3].nats[0] == pytest.approx(-math.log(small), abs=1e-5)
    entropy = -0.9 * math.log(0.9) - 0.1 * math.log(small)
    assert curves.masks[0].entropy == pytest.approx((entropy, 0), abs=1e-5)


def test_a_causal_network_is_flat_and_a_bidirectional_one_is_not() -> None:
    variations: list[float] = []
    for attention in ({"causal_block": 1}, {"causal_block": 1, "shift": True}, {}):
        curves = probe_task(model_of(network(**attention)), TASK, counts=(0, 30), count=8)
        variations.append(curves.masks[1].variation[0])
    assert max(variations[:2]) < 1e-5
    assert variations[2] > 1e-3


def test_the_distance_is_that_of_the_relevant_examples() -> None:
    model = model_of(Rule(lambda row: 0))
    for gap in range(4):
        task = FewShot(relevant=2, distractors=3, words=3, gap=gap)
        for question, example in zip(task_questions(model, task, 5), task.examples("test", 5), strict=True):
            prompt = example.template.rpartition("[")[0]
            after = prompt[len(prompt) - question.distance :]
            assert after.count(".") == gap
            assert prompt[: -question.distance].endswith(".")
            relevant = prompt[: -question.distance].split(". ")[-1]
            assert not any(letter.isdigit() for letter in relevant)
            assert question.row[question.at :] == [TOKENIZER.mask_id] * 2
            assert TOKENIZER.decode([question.token]) == " "
    places = [point.place for point in probe_task(model, TASK, counts=(1,), count=5).distance]
    assert places == sorted(place for place in places if place is not None)
    assert len(places) == 4
    assert probe_task(model, make("arithmetic:length=3"), counts=(1,), count=5).distance == []


def copied(row: list[int]) -> int:
    """The token behind the first occurrence of the one before MASK."""
    before = row[row.index(TOKENIZER.mask_id) - 1]
    return row[row.index(before) + 1]


def test_the_relevant_context_of_a_text_is_a_copy() -> None:
    """A rule that copies is right wherever the copy is, and without one it is not."""
    generator = np.random.default_rng(0)
    ids = np.stack([generator.permutation(np.arange(3, 35)) for _ in range(12)]).astype(np.uint16)
    text = Packed(ids, np.zeros(12, np.int32), np.full(12, 32, np.int32), 384, 384)
    curves = probe_text(model_of(Rule(copied, max_length=80)), text, counts=(0, 3), context=8, count=12)
    assert curves.tokens == 9
    assert curves.behind == 8
    *known, without = curves.distance
    assert [point.place for point in known] == [3, 7, 11, 19, 35, 67]
    assert known[0].accuracy[0] == 1  # with a gap other passages may hold the token before too
    assert min(point.accuracy[0] for point in known) == 1
    assert without.place is None
    assert without.accuracy[0] < 0.5


def test_numbers_beyond_the_window_fill_it() -> None:
    model = model_of(Rule(lambda row: 0))
    longest = max(len(question.row) for question in task_questions(model, TASK, 5))
    model.window = longest + 7
    curves = probe_task(model, TASK, counts=(0, 5, 9, 200), count=5)
    assert [point.place for point in curves.masks] == [0, 5, 7]
    assert curves.left_out == [9, 200]
    model.window = longest
    with pytest.raises(RequestError, match="there is no space for MASKs behind it"):
        probe_task(model, TASK, count=5)


def test_figures_by_hand() -> None:
    first = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.5, 0.25]]).log()
    second = torch.tensor([[0.0, 1.0, 0.0], [0.25, 0.25, 0.5]]).log()
    points = curve({0: first, 3: second}, torch.tensor([1, 1]))
    assert points[0].accuracy == pytest.approx((0.5, 0.5))
    assert points[1].accuracy == pytest.approx((0.5, 0.5))
    assert points[1].change == pytest.approx((0.0, 1.0))
    assert points[1].variation == pytest.approx((0.375, 0.125))
    assert points[0].entropy[0] == pytest.approx((math.log(2) + 1.5 * math.log(2)) / 2)
    assert points[1].nats[0] == pytest.approx(math.log(4) / 2)


def test_a_batch_changes_nothing() -> None:
    model = model_of(network())
    questions = task_questions(model, TASK, 7)
    whole, parts = (first_tokens(model, questions, 4, batch) for batch in (7, 2))
    assert torch.allclose(whole, parts, atol=1e-5)
