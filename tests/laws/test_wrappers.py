"""Guidance is its formula, suppressed tokens are never written, and what does not go together is refused."""

import pytest
import torch
from torch import Tensor

from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.denoiser import Guided, Suppressed
from unmask.errors import RequestError
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.policies.registry import make
from unmask.testing import TableDenoiser, check_policy, random_language

V, LENGTH = 3, 4
JOINT = random_language(V, LENGTH, seed=3)
TABLE = TableDenoiser(JOINT)


def by_hand(tokens: list[int], prompt: list[int], place: int, scale: float) -> Tensor:
    """log p(x_place | given) by summing the joint, with the prompt and without, in the published form."""

    def conditional(row: list[int]) -> Tensor:
        index = tuple(slice(None) if token == V or i == place else token for i, token in enumerate(row))
        law = JOINT[index]
        axis = sum(isinstance(part, slice) for part in index[:place])
        law = law.sum([other for other in range(law.ndim) if other != axis])
        return (law / law.sum()).log()

    with_prompt = conditional(tokens)
    without = conditional([V if i in prompt else token for i, token in enumerate(tokens)])
    return without + (scale + 1) * (with_prompt - without)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_guidance_is_its_formula(scale: float) -> None:
    """Two rows with prompts of their own; written tokens, which are no prompt, stay in both passes."""
    tokens = torch.tensor([[1, V, 2, V], [V, 0, V, V]])
    prompt = torch.tensor([[True, False, False, False], [False, True, False, False]])
    guided = Guided(TABLE, scale)
    logits = guided.logits(guided.hidden(tokens, prompt=prompt))[..., :V]
    for row, known, places in ((0, [0], (1, 3)), (1, [1], (0, 2, 3))):
        for place in places:
            wanted = by_hand(tokens[row].tolist(), known, place, scale)
            torch.testing.assert_close(logits[row, place], wanted, rtol=1e-9, atol=1e-12)
            control = by_hand(tokens[row].tolist(), known, place, scale - 1)  # w in place of w + 1
            assert float((logits[row, place] - control).abs().max()) > 1e-3


def test_guidance_of_zero_is_none() -> None:
    tokens, prompt = torch.tensor([[1, V, 2, V]]), torch.tensor([[True, False, False, False]])
    zero, some = Guided(TABLE, 0.0), Guided(TABLE, 1.0)
    inner = TABLE.logits(TABLE.hidden(tokens))
    assert torch.equal(zero.logits(zero.hidden(tokens, prompt=prompt)), inner)
    assert not torch.equal(some.logits(some.hidden(tokens, prompt=prompt)), inner)  # the control
    nobody = torch.zeros_like(prompt)
    assert torch.equal(some.logits(some.hidden(tokens, prompt=nobody)), inner)  # without a prompt there is no pull


def test_what_is_impossible_stays_impossible() -> None:
    """-inf minus -inf is no number, and no reason to write a token."""
    joint = torch.zeros(2, 2, 2)
    joint[0, 0, 1] = joint[1, 1, 0] = joint[1, 0, 0] = 1 / 3
    table = TableDenoiser(joint)
    guided = Guided(table, 3.0)
    tokens, prompt = torch.tensor([[0, 2, 2]]), torch.tensor([[True, False, False]])
    logits = guided.logits(guided.hidden(tokens, prompt=prompt))
    assert not bool(logits.isnan().any())
    assert logits[0, 1, :2].exp().tolist() == [1.0 * logits[0, 1, 0].exp(), 0.0]
    assert logits[0, 2, :2].exp()[0] == 0


@pytest.mark.parametrize("policy", ["random:steps=4", "confidence:steps=3", "ancestral:steps=4"])
def test_wrappers_keep_the_contract(policy: str) -> None:
    network = build(DiTSettings(5, 4, 32, 16, 1, 2)).eval()
    with torch.no_grad():
        torch.nn.init.normal_(network.head.weight)
    check_policy(lambda: make(policy), temperature=1.0, block_size=16, denoiser=Guided(Suppressed(network, (1,)), 1.5))


def test_guidance_tells_both_passes_the_time() -> None:
    table = TableDenoiser(JOINT, time_conditioned=True)
    tokens = torch.full((2, LENGTH), V)
    Guided(table, 1.0).hidden(tokens, time=torch.tensor([0.25, 0.5]), prompt=tokens < V)
    assert table.times[0].tolist() == [0.25, 0.5, 0.25, 0.5]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_suppressed_tokens_are_never_written(temperature: float) -> None:
    """And the others keep their odds. The control writes them."""
    start = Canvas.start(torch.full((64, LENGTH), V), torch.arange(64))
    likely = int(Decoder(TABLE, make("random")).decode(start).tokens.mode().values.mode().values)
    quiet = Suppressed(TABLE, (likely,))
    for denoiser, wanted in ((TABLE, True), (quiet, False)):
        done = Decoder(denoiser, make("random"), temperature).decode(start)
        assert bool((done.tokens == likely).any()) is wanted
    hidden = TABLE.hidden(start.tokens[:1])
    kept = [token for token in range(V) if token != likely]
    assert torch.equal(quiet.logits(hidden)[..., kept], TABLE.logits(hidden)[..., kept])


def test_what_wrappers_refuse() -> None:
    for call, sentence in (
        (lambda: Guided(TABLE, -1.0), "guidance is -1.0; give a number from 0 to 10000"),
        (lambda: Guided(TABLE, 1.0).hidden(torch.zeros(1, LENGTH).long()), "which tokens are the prompt"),
        (lambda: Guided(TABLE, 1.0).hidden_at(torch.zeros(1, LENGTH).long()), "A cache cannot serve guidance"),
        (lambda: Suppressed(TABLE, (7,)), "ids run from 0 to 3"),
        (lambda: Suppressed(TABLE, (0, 1, 2)), "leave at least one"),
    ):
        with pytest.raises(RequestError, match=sentence):
            call()
