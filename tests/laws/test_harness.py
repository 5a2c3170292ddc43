"""The answers to lm-evaluation-harness: of an exact model they are the true probabilities. Needs no lm_eval."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from unmask.api import Model
from unmask.eval.scorer import HarnessOptions, Scorer
from unmask.model.dit import DiT
from unmask.model.settings import DiTSettings
from unmask.process import MaskedDiffusion
from unmask.testing import TableDenoiser, random_language
from unmask.text.build import char_tokenizer
from unmask.text.tokenizer import Tokenizer

LETTERS, WINDOW = "abc", 5
TOKENIZER = char_tokenizer([LETTERS])


class Table(nn.Module):
    """A table of the texts of some letters as a network: rows may be shorter or longer, what is beyond is padding.

    Its ids are those of the tokenizer; id 0 is the unknown token, which has no probability.
    """

    time_conditioned, width, settings, dropout_keys = False, 1, None, None

    def __init__(self, joint: Tensor) -> None:
        super().__init__()
        whole = joint.new_zeros(tuple(size + 1 for size in joint.shape))
        whole[(slice(1, None),) * joint.ndim] = joint
        self.table = TableDenoiser(whole)
        self.mask_id, self.vocab_size = self.table.mask_id, self.table.vocab_size
        self.max_length = self.table.max_length

    def lowered(self, dtype: torch.dtype) -> "Table":
        return self

    def hidden(self, tokens: Tensor, *, valid: Tensor | None = None, **_: object) -> Tensor:
        seen = tokens if valid is None else torch.where(valid, tokens, self.mask_id)
        length = min(tokens.shape[1], self.max_length)
        row = seen.new_full((len(tokens), self.max_length), self.mask_id)
        row[:, :length] = seen[:, :length]
        values = self.table.hidden(row)
        result = values.new_zeros((*tokens.shape, self.vocab_size))
        result[:, :length] = values[:, :length]
        return result

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden.clone()


def model_of(network: nn.Module, tokenizer: Tokenizer = TOKENIZER) -> Model:
    return Model(network, MaskedDiffusion(tokenizer.mask_id), tokenizer, None, torch.device("cpu"))  # pyright: ignore[reportArgumentType]


JOINT = random_language(3, WINDOW, seed=4)
EXACT, WRONG = (model_of(Table(joint)) for joint in (JOINT, random_language(3, WINDOW, seed=5)))


def true_log_prob(joint: Tensor, text: str) -> float:
    """log p of the texts that begin with `text`."""
    index = tuple(LETTERS.index(letter) for letter in text)
    return math.log(float(joint[index].sum()))


CONTEXTS = ("", "a", "bc")
PAIRS = [
    (context, "".join(letters)) for context in CONTEXTS for n in (1, 2, 3) for letters in product(LETTERS, repeat=n)
]


@pytest.mark.parametrize("draws", [2, 8, 200])
def test_of_the_exact_posterior_the_likelihood_is_the_true_one(draws: int) -> None:
    """Within its error, which is 0 where all orders were counted; the control is the table of another language."""
    right, wrong = (
        Scorer(model, HarnessOptions(draws=draws)).conditionals(PAIRS, greedy=False) for model in (EXACT, WRONG)
    )
    truth = [
        true_log_prob(JOINT, context + text) - true_log_prob(JOINT, context) if context else true_log_prob(JOINT, text)
        for context, text in PAIRS
    ]
    for answer, value, (_, text) in zip(right, truth, PAIRS, strict=True):
        assert answer.exact == (2 ** len(text) - 1 <= draws)
        if answer.exact:
            assert answer.log_prob == pytest.approx(value, abs=1e-5)
            assert answer.stderr == 0
    drawn = [(answer, value) for answer, value in zip(right, truth, strict=True) if not answer.exact]
    if drawn:
        mean = sum(answer.log_prob - value for answer, value in drawn) / len(drawn)
        error = max(answer.stderr for answer, _ in drawn)
        assert abs(mean) < 2 * error
    assert sum(abs(answer.log_prob - value) for answer, value in zip(wrong, truth, strict=True)) / len(truth) > 0.3


def test_a_drawn_bound_has_the_mean_of_the_counted_one() -> None:
    """Over seeds, by its own error; with weights that leave out a factor it has not."""
    pair, truth = [("a", "bcab")], true_log_prob(JOINT, "abcab") - true_log_prob(JOINT, "a")
    answers = [Scorer(EXACT, HarnessOptions(draws=4, seed=seed)).conditionals(pair, False)[0] for seed in range(200)]
    values = torch.tensor([answer.log_prob for answer in answers])
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean()) - truth) < 4 * error
    assert abs(float(values.mean()) * 0.8 - truth) > 4 * error
    assert float(values.std()) < 1.5 * math.sqrt(sum(answer.stderr**2 for answer in answers) / len(answers))


def test_rolling_counts_each_token_once() -> None:
    """A text of a window has its true probability; a longer one is the product of conditional ones."""
    scorer = Scorer(EXACT, HarnessOptions(draws=64, stride=2))
    short, long = scorer.rolling(["abcab", "abcabca"])
    assert short.log_prob == pytest.approx(true_log_prob(JOINT, "abcab"), abs=1e-5)
    step = true_log_prob(JOINT, "cabca") - true_log_prob(JOINT, "cab")
    assert long.log_prob == pytest.approx(true_log_prob(JOINT, "abcab") + step, abs=1e-5)
    assert short.exact
    assert long.exact
    alone = Scorer(EXACT, HarnessOptions(draws=64, stride=5)).rolling(["abcabca"])[0]
    assert alone.log_prob == pytest.approx(true_log_prob(JOINT, "abcab") + true_log_prob(JOINT, "ca"), abs=1e-5)
    assert abs(alone.log_prob - long.log_prob) > 1e-3


def test_the_answers_depend_on_no_batch_and_no_neighbour() -> None:
    all_ = Scorer(EXACT, HarnessOptions(draws=4, batch=7)).conditionals(PAIRS)
    alone = [Scorer(EXACT, HarnessOptions(draws=4)).conditionals([pair])[0] for pair in PAIRS]
    for first, second in zip(all_, alone, strict=True):
        assert first.log_prob == pytest.approx(second.log_prob, abs=1e-6)
        assert (first.greedy, first.exact) == (second.greedy, second.exact)


def test_what_greedy_decoding_writes_is_greedy() -> None:
    """For each context exactly one continuation of two letters, the one that is decoded."""
    for context in CONTEXTS:
        texts = ["".join(letters) for letters in product(LETTERS, repeat=2)]
        answers = Scorer(EXACT).conditionals([(context, text) for text in texts])
        written = EXACT.generate(context, length=2, policy="confidence", temperature=0.0, stop_at_eos=False).text
        assert [text for text, answer in zip(texts, answers, strict=True) if answer.greedy] == [written[len(context) :]]


def causal() -> Model:
    """An autoregressive model with random weights."""
    tokenizer = char_tokenizer([LETTERS])
    settings = DiTSettings(tokenizer.vocab_size, tokenizer.mask_id, 8, 32, 2, 2, dropout=0, causal_block=1, shift=True)
    network = DiT(settings).eval()
    with torch.no_grad():
        source = torch.Generator().manual_seed(3)
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source) * 0.3)
    return model_of(network, tokenizer)


def test_an_autoregressive_model_is_exact() -> None:
    """Equal to the chain rule by the model's own bound."""
    scorer = Scorer(causal())
    (answer,) = scorer.conditionals([("", "abcab")])
    bound = scorer.model.bound("abcab")
    assert answer.exact
    assert -answer.log_prob == pytest.approx(bound.nats_per_token * bound.tokens, abs=1e-4)
    whole, head = (scorer.conditionals([("", text)])[0].log_prob for text in ("abcab", "abc"))
    assert scorer.conditionals([("abc", "ab")])[0].log_prob == pytest.approx(whole - head, abs=1e-4)
    (rolled,) = scorer.rolling(["abcabcabcabc"])
    assert rolled.exact
    assert rolled.log_prob < whole


def test_choices_of_an_autoregressive_model_are_exact() -> None:
    """By the bounds of the whole texts, also where text follows; the control is the order of a masked model."""
    model = causal()

    def nats(text: str) -> float:
        bound = model.bound(text)
        return bound.nats_per_token * bound.tokens

    for after in ("", "ca"):
        choices = model.score(f"ab[?]{after}", ["a", "b", "cc"])
        wholes = [nats(f"ab{choice.text}{after}") for choice in choices]
        for choice, whole in zip(choices, wholes, strict=True):
            assert choice.nats == pytest.approx(whole - nats("ab"), abs=1e-4)
            assert (choice.stderr, choice.exact) == (0, True)
        shares = torch.tensor([-whole for whole in wholes]).softmax(-1).tolist()
        assert [choice.probability for choice in choices] == pytest.approx(shares, abs=1e-4)
    model.objective = EXACT.objective
    assert abs(model.score("ab[?]ca", ["a", "b", "cc"])[2].nats - choices[2].nats) > 1e-2


@pytest.mark.parametrize("length", [2, 5, 9])
def test_writing_ends_at_a_stop_string(length: int) -> None:
    options = {"until": [], "max_gen_toks": length, "do_sample": False}
    (whole,) = Scorer(EXACT).written([("a", options)])
    assert len(whole) == length
    stop = whole[1]
    (cut,) = Scorer(EXACT).written([("a", {**options, "until": [stop]})])
    assert cut == whole[: whole.index(stop)]


def test_options_without_effect_are_named() -> None:
    scorer = Scorer(EXACT)
    scorer.written([("a", {"until": ["b"], "max_gen_toks": 2, "num_beams": 4})])
    assert scorer.ignored == {"num_beams"}
