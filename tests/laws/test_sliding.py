"""Perplexity of documents that are longer than the window: each token once, with context, and bytes of the raw text."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from tests.laws.test_harness import Table, model_of
from torch import Tensor

from unmask.batch import spans
from unmask.data.packed import Facts, Packed, PartFacts
from unmask.data.settings import DataSettings
from unmask.errors import RequestError
from unmask.eval.perplexity import Policy, estimator, sliding, some_rows
from unmask.eval.scorer import HarnessOptions, Scorer
from unmask.model.dit import DiT
from unmask.model.settings import DiTSettings
from unmask.objective.bound import Bound
from unmask.objective.masked import objective_of
from unmask.process import MaskedDiffusion
from unmask.text.build import bpe_tokenizer, byte_tokenizer, char_tokenizer, dna_tokenizer
from unmask.text.tokenizer import Tokenizer

WINDOW, LENGTH = 4, 9
LETTERS = char_tokenizer(["ab"])


def chain(order: int) -> Tensor:
    """The law of texts of `LENGTH` letters of a stationary Markov chain of this order, (2,) * LENGTH."""
    source = torch.Generator().manual_seed(1)
    after = (3 * torch.randn((2,) * (order + 1), generator=source, dtype=torch.float64)).softmax(-1)
    past = torch.full((2,) * order, 0.5**order, dtype=torch.float64)
    for _ in range(500):
        past = (past[..., None] * after).sum(0)
    joint = past
    for _ in range(LENGTH - order):
        joint = joint[..., None] * after
    return joint


def mean_nats(joint: Tensor, stride: int) -> float:
    """The mean over the language of the bound in windows that slide by `stride`, of the exact posterior."""
    table = model_of(Table(joint.sum(tuple(range(WINDOW, LENGTH)))), LETTERS)
    texts = ["".join(letters) for letters in product("ab", repeat=LENGTH)]
    answers = Scorer(table, HarnessOptions(draws=2**WINDOW, stride=stride, batch=512)).rolling(texts)
    assert all(answer.exact for answer in answers)
    return -sum(float(p) * answer.log_prob for p, answer in zip(joint.flatten(), answers, strict=True))


def test_sliding_lies_between_the_truth_and_independent_windows() -> None:
    """For a chain of order 2: a context of one letter is less than it needs, and one of two letters is enough."""
    joint = chain(2)
    truth = -float((joint * joint.log()).sum())
    alone, first, second = (mean_nats(joint, WINDOW - context) for context in range(3))
    assert alone > first + 1e-3 > truth + 2e-3
    assert second == pytest.approx(truth, abs=1e-5)


def test_a_context_of_the_order_of_the_chain_is_enough() -> None:
    """For a chain of order 1 one letter is; the control are windows without context."""
    joint = chain(1)
    truth = -float((joint * joint.log()).sum())
    assert mean_nats(joint, WINDOW - 1) == pytest.approx(truth, abs=1e-5)
    assert mean_nats(joint, WINDOW) > truth + 1e-3


def test_the_drawn_bound_of_sliding_windows_has_the_same_mean() -> None:
    joint = chain(2)
    table = model_of(Table(joint.sum(tuple(range(WINDOW, LENGTH)))), LETTERS)
    texts = ["".join("ab"[(n * n + i) % 3 % 2] for i in range(LENGTH)) for n in range(40)]
    for stride in (2, 4):
        answers = Scorer(table, HarnessOptions(draws=16, stride=stride)).rolling(texts)
        exact = -sum(answer.log_prob for answer in answers)
        bounds = [table.bound(texts, draws=16, seed=seed, stride=stride) for seed in range(8)]
        sums = torch.tensor([bound.nats_per_token * bound.tokens for bound in bounds])
        assert abs(float(sums.mean()) - exact) < 4 * float(sums.std()) / math.sqrt(len(sums)) + 1e-3
        assert {bound.tokens for bound in bounds} == {40 * LENGTH}


def causal() -> DiT:
    settings = DiTSettings(LETTERS.vocab_size, LETTERS.mask_id, 6, 32, 2, 2, dropout=0, causal_block=1, shift=True)
    network = DiT(settings).eval()
    with torch.no_grad():
        source = torch.Generator().manual_seed(3)
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source) * 0.3)
    return network


@pytest.mark.parametrize("stride", [1, 2, 4, 6])
def test_an_autoregressive_model_has_the_exact_conditional_of_each_window(stride: int) -> None:
    """-log p(new | context) = -log p(context, new) + log p(context), from bounds of short texts."""
    model, text = model_of(causal(), LETTERS), "abbabaabbaababbab"

    def nats(part: str) -> float:
        bound = model.bound(part) if part else None
        return bound.nats_per_token * bound.tokens if bound else 0.0

    windows = list(spans(len(text), 6, stride))
    assert [token for _, new, end in windows for token in range(new, end)] == list(range(len(text)))
    expected = sum(nats(text[start:end]) - nats(text[start:new]) for start, new, end in windows)
    bound = model.bound(text, stride=stride)
    assert bound.nats_per_token * bound.tokens == pytest.approx(expected, abs=1e-3)
    assert bound.stderr is not None
    wrong = sum(nats(text[start:end]) for start, _, end in windows)
    assert (abs(wrong - expected) > 1e-2) == (stride < 6)


def test_windows_of_a_stream_stay_in_their_documents() -> None:
    """Each token is new once, in order, and context is of the same document; without EOS there is one document."""
    tokenizer, eos = LETTERS, LETTERS.eos_id
    assert eos is not None
    a, b = tokenizer.encode("ab")
    stream = [a, b, a, a, b, eos, b, eos, a, a, a, b, b, a, eos]
    rows = [stream[at : at + WINDOW] for at in range(0, len(stream), WINDOW)]
    part = Packed.of(rows, WINDOW, tokenizer.pad_id, 12)
    for marked in (True, False):
        windows = sliding(part, 1, tokenizer, marked)
        batch = windows.batch(range(len(windows)))
        assert batch.ids[batch.maskable].tolist() == stream
        assert (windows.tokens, windows.bytes) == (part.tokens, 12)
        crossed = [eos in row[:first].tolist() for row, first in zip(windows.ids, windows.first, strict=True)]
        assert any(crossed) != marked
        assert all(first in (0, 1, 2, 3) for first in windows.first)


# ---- bytes ---------------------------------------------------------------------------------------------------------


TEXT = "The king's café — a long story.\n" * 3
TOKENIZERS = {
    "byte": byte_tokenizer(),
    "char": char_tokenizer([TEXT]),
    "bpe": bpe_tokenizer([TEXT], 270),
}


def packed(tokenizer: Tokenizer, texts: list[str], length: int = 8) -> Packed:
    assert tokenizer.eos_id is not None
    stream = [token for text in texts for token in [*tokenizer.encode(text), tokenizer.eos_id]]
    rows = [stream[at : at + length] for at in range(0, len(stream), length)]
    return Packed.of(rows, length, tokenizer.pad_id, sum(len(text.encode()) for text in texts))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_first_rows_have_the_bytes_of_their_text(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    part = packed(tokenizer, [TEXT, "story", TEXT])
    for count, skip in ((1, 0), (5, 0), (len(part) - 1, 0), (4, 3), (None, 2)):
        some = some_rows(part, tokenizer, count, skip)
        last = len(part) if count is None else skip + count
        ids = [
            token for row in part.batch(range(skip, last)).ids.tolist() for token in row if token != tokenizer.pad_id
        ]
        assert some.bytes == sum(
            len(tokenizer.part(i) or tokenizer.piece(i).encode()) for i in ids if i != tokenizer.eos_id
        )
        assert (len(some), some.tokens) == (last - skip, len(ids))
    assert some_rows(part, tokenizer) is part


def test_bytes_are_unknown_where_the_tokenizer_drops_characters() -> None:
    tokenizer = dna_tokenizer()
    assert some_rows(packed(tokenizer, ["ACGT\nACGTTTTT\nACGTACGTA"]), tokenizer, 1).bytes == 0
    assert some_rows(packed(tokenizer, ["ACGTACGTTTTTACGTACGTA"]), tokenizer, 1).bytes == 8


# ---- what is said --------------------------------------------------------------------------------------------------


def facts(paired: bool = False, eos: str = "append") -> Facts:
    part = PartFacts(1, 1, 1, 1)
    return Facts("a.txt", paired, "byte", 259, 8, eos, part, part, 1)


def test_a_policy_is_said_in_words() -> None:
    plain = Policy.of(DataSettings(), facts(), None)
    assert plain.lines() == {
        "rows": "of 8 tokens without context, documents one after another, cut where a row ends",
        "EOS": "after each document, counted as a token of no bytes",
    }
    assert Policy.of(DataSettings(), facts(eos="none"), 2).lines() == {
        "windows": "of 8 tokens that slide by 2 in each document; after the first, at least 6 tokens of context",
        "EOS": "none",
    }
    with pytest.raises(RequestError, match=r"--stride is for --data\.rows stream, and these rows are pairs"):
        Policy.of(DataSettings(), facts(paired=True), 2)
    with pytest.raises(RequestError, match="stride is 9; give 1 to 8 tokens"):
        Policy.of(DataSettings(), facts(), 9)


def test_an_estimator_has_a_name() -> None:
    process = MaskedDiffusion(3)
    names = [estimator(objective_of(name, process), 4) for name in ("ar", "subs", "sedd", "d3pm")]
    assert names == [
        "-log p by the chain rule, exact",
        "NELBO in continuous time, an upper bound on -log p, 4 maskings a sequence",
        "score entropy, an upper bound on -log p, 4 maskings a sequence",
        "NELBO of 1000 steps, an upper bound on -log p, 4 maskings a sequence",
    ]


def test_an_interval_needs_two_sequences() -> None:
    single, two = (Bound.of(torch.tensor(nats), torch.tensor([4.0] * len(nats)), 1) for nats in ([8.0], [8.0, 9.0]))
    assert single.interval is None
    assert two.interval is not None
    assert two.stderr is not None
    assert np.diff(two.interval)[0] == pytest.approx(2 * 1.959964 * two.stderr)
