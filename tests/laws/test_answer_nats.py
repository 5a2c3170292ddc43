"""-log p of reference answers under a policy's order: a distribution over all answers, and exact for an exact model."""

import itertools
import math
from dataclasses import dataclass
from typing import cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from unmask.decode.loop import Decoder
from unmask.errors import RequestError
from unmask.eval.answer import answer_nats
from unmask.policies.registry import make
from unmask.solve.problems import Problem
from unmask.tasks.base import Example
from unmask.testing import TableDenoiser, random_language
from unmask.text.tokenizer import Tokenizer

V, L = 3, 4
JOINT = random_language(V, L, seed=7, sharpness=2.0)
WORDS = list(itertools.product(range(V), repeat=L))
HOLES = [0, 1, 3]


class Wide(TableDenoiser):
    """A table for rows that are padded to more positions than it has."""

    def hidden(self, tokens: Tensor, **options: Tensor | None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return F.pad(super().hidden(tokens[:, :L]), (0, 0, 0, tokens.shape[1] - L))


TABLE = Wide(JOINT)


@dataclass
class Digits:
    """A tokenizer of digits."""

    pad_id: int = 0

    def encode(self, text: str) -> list[int]:
        return [int(sign) for sign in text]


def problems(prompt: int | None = None) -> list[Problem]:
    """Each word as an answer; with a prompt, position 2 shows it and the words with it are the answers."""
    if prompt is None:
        return [Problem(Example("", "".join(map(str, word))), [V] * L, list(range(L))) for word in WORDS]
    rows = [word for word in WORDS if word[2] == prompt]
    return [
        Problem(Example("", "".join(str(word[at]) for at in HOLES)), [V, V, prompt, V], list(HOLES)) for word in rows
    ]


TOKENIZER = cast(Tokenizer, Digits())


def nats(policy: str, of: list[Problem], batch: int = 256) -> torch.Tensor:
    decoder = Decoder(TABLE, make(policy))
    values, passes = answer_nats(decoder, of, TOKENIZER, device=torch.device("cpu"), batch=batch)
    assert all(1 <= count <= L for count in passes)
    return torch.tensor(values, dtype=torch.float64)


def total(policy: str, of: list[Problem]) -> float:
    return float((-nats(policy, of)).exp().sum())


@pytest.mark.parametrize(
    "policy",
    ["confidence:steps=2", "threshold:threshold=0.6", "entropy-bound:gamma=0.5", "left-to-right:steps=2", "prefix"],
)
def test_the_probabilities_of_all_answers_sum_to_one(policy: str) -> None:
    """Control: with the passes of another order they do not. A shown token is conditioned on."""
    assert total(policy, problems()) == pytest.approx(1, abs=1e-5)
    assert total(policy, problems(prompt=1)) == pytest.approx(1, abs=1e-5)
    mixed = torch.minimum(nats("left-to-right:steps=2", problems()), nats("confidence:steps=2", problems()))
    assert float((-mixed).exp().sum()) > 1.01


def test_an_exact_model_gives_the_exact_probability_in_any_order_of_single_tokens() -> None:
    """Control: two tokens a pass are drawn independently, and cost more."""
    exact = -JOINT.flatten().log()
    for policy in ("confidence", "random", "left-to-right"):
        assert torch.allclose(nats(policy, problems()), exact, atol=1e-5)
    fast = nats("confidence:steps=2", problems())
    assert float(((-exact).exp() * (fast - exact)).sum()) > 0.01
    shown = -torch.tensor([float(JOINT[word]) for word in WORDS if word[2] == 1], dtype=torch.float64).log()
    shown += math.log(float(JOINT[:, :, 1].sum()))
    assert torch.allclose(nats("confidence", problems(prompt=1)), shown, atol=1e-5)


def test_a_pass_at_once_is_the_product_of_the_marginals_and_batches_do_not_matter() -> None:
    marginals = [JOINT.sum([axis for axis in range(L) if axis != at]).log() for at in range(L)]
    expected = -torch.stack([sum(marginals[at][sign] for at, sign in enumerate(word)) for word in WORDS])  # type: ignore
    assert torch.allclose(nats("confidence:steps=1", problems()), expected, atol=1e-5)
    whole = nats("threshold:threshold=0.6", problems())
    assert torch.allclose(nats("threshold:threshold=0.6", problems(), batch=7), whole, atol=1e-6)


def test_what_has_no_single_probability_is_refused() -> None:
    with pytest.raises(RequestError, match="hides tokens again, so that an answer has no single probability"):
        nats("remdm:steps=64,eta=1", problems()[:8])
    short = [problems()[0]._replace(example=Example("", "01"))]
    with pytest.raises(RequestError, match="The answer '01' has 2 tokens, and its problem 4 positions to fill"):
        nats("confidence", short)
