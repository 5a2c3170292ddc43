"""What a constraint forbids is never written, by any policy; what is left is the conditional law."""

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from unmask.api import Model
from unmask.decode.canvas import Canvas
from unmask.decode.constraint import Vocabulary
from unmask.decode.loop import Decoder
from unmask.decode.propose import propose
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.policies.base import needs_of
from unmask.policies.entries import ENTRIES, Knob
from unmask.policies.options import Context
from unmask.policies.registry import make
from unmask.process import MaskedDiffusion
from unmask.testing import TableDenoiser, random_language
from unmask.text.build import byte_tokenizer

V, L = 4, 4
CONTEXT = Context(unigram=lambda: torch.ones(V + 1) / (V + 1))
TABLE = TableDenoiser(random_language(V, L, seed=2))
TOKENIZER = byte_tokenizer()


@dataclass(frozen=True)
class Differs:
    """A token is not that of its left neighbour: a rule that goes by the canvas, place by place."""

    def __call__(self, tokens: Tensor, where: Tensor) -> Tensor:
        beside = torch.full((*tokens.shape, 2), V)
        beside[:, 1:, 0] = tokens[:, :-1]
        beside[:, :-1, 1] = tokens[:, 1:]
        allowed = (torch.arange(V + 1) != beside[..., :1]) & (torch.arange(V + 1) != beside[..., 1:])
        return allowed[where]


def alike(tokens: Tensor) -> int:
    """How many tokens equal their left neighbour."""
    return int((tokens[:, 1:] == tokens[:, :-1]).sum())


ONE_BY_ONE = [
    name for name, entry in ENTRIES.items() if entry.knob == Knob("steps") and entry.nested and name != "dream"
]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if not entry.needs_folder])
def test_every_policy_keeps_to_the_vocabulary(name: str, temperature: float) -> None:
    canvas = Canvas.start(torch.full((64, L), V), torch.arange(64))
    allowed = torch.tensor([True, False, True, False, False])
    kept = Decoder(TABLE, make(name, CONTEXT), temperature, constraints=(Vocabulary(allowed),))
    assert set(kept.decode(canvas).tokens.flatten().tolist()) == {0, 2}
    free = Decoder(TABLE, make(name, CONTEXT), temperature).decode(canvas).tokens  # the control
    assert temperature == 0 or set(free.flatten().tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_one_by_one_a_rule_that_goes_by_the_canvas_is_kept(name: str, temperature: float) -> None:
    canvas = Canvas.start(torch.full((64, L), V), torch.arange(64))
    free = Decoder(TABLE, make(name, CONTEXT), temperature)
    kept = Decoder(TABLE, make(name, CONTEXT), temperature, constraints=(Differs(),))
    if temperature:
        assert alike(free.decode(canvas).tokens) > 0
    done = kept.decode(canvas)
    assert alike(done.tokens) == 0
    alone = kept.decode(canvas.keep(torch.tensor([5])))
    assert torch.equal(alone.tokens[0], done.tokens[5])


class Once:
    """A token occurs once in a row: where all are written, nothing is allowed any more."""

    def __call__(self, tokens: Tensor, where: Tensor) -> Tensor:
        used = (tokens[..., None] == torch.arange(V + 1)).any(1, keepdim=True)
        return ~used.expand(*tokens.shape, V + 1)[where]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "name", [name for name in ENTRIES if name not in ("learned", "filter") and needs_of(make(name, CONTEXT)).written]
)
def test_a_written_token_is_allowed_where_it_is(name: str, temperature: float) -> None:
    """Rules that read predictions at written positions: no row ends because nothing else is allowed there."""
    canvas = Canvas.start(torch.full((64, L), V), torch.arange(64))
    done = Decoder(TABLE, make(name), temperature, constraints=(Once(),)).decode(canvas)
    assert not (done.tokens == V).any()
    if name == "p2":  # a table is sure of what is written: nothing is hidden, one position a pass
        assert (done.tokens.sort(-1).values == torch.arange(V)).all()
    assert not Once()(torch.arange(V)[None], torch.ones(1, L).bool())[:, :V].any()  # the control


def test_what_is_left_is_renormalised() -> None:
    logits = torch.randn(7, V + 1, generator=torch.Generator().manual_seed(0))
    allowed = torch.tensor([[True, False, True, True, True]])
    u = torch.linspace(0.01, 0.99, 7, dtype=torch.float64)
    proposal = propose(logits, V, u, 1.0, 1.0, allowed)
    weights = logits.exp() * torch.tensor([1, 0, 1, 1, 0])
    assert torch.allclose(proposal.log_probs.exp(), weights / weights.sum(-1, keepdim=True), atol=1e-6)
    free = propose(logits, V, u, 1.0, 1.0)
    assert float(free.log_probs[:, 1].exp().min()) > 0
    assert torch.equal(propose(logits, V, u, 1.0, 1.0, torch.ones(1, V + 1).bool()).tokens, free.tokens)


def small(favourites: list[int]) -> Model:
    """A network of window 16 that wants to write `favourites` and nothing else."""
    settings = DiTSettings(TOKENIZER.vocab_size + 5, TOKENIZER.mask_id, max_length=16, width=16, blocks=1, heads=2)
    model = Model(build(settings), MaskedDiffusion(TOKENIZER.mask_id), TOKENIZER, None, torch.device("cpu"))

    @dataclass
    class Wants:
        vocab_size: int = TOKENIZER.vocab_size + 5
        mask_id: int = TOKENIZER.mask_id
        max_length: int = 16
        time_conditioned: bool = False

        def hidden(self, tokens: Tensor, *, valid: Tensor | None = None, **_: object) -> Tensor:
            logits = torch.zeros(*tokens.shape, self.vocab_size)
            logits[..., favourites] = 30.0
            return logits

        def logits(self, hidden: Tensor) -> Tensor:
            return hidden

    model.denoiser = Wants()
    return model


@pytest.mark.parametrize("policy", ["random", "confidence", "ancestral:steps=3"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_special_tokens_are_never_written_into_a_hole(policy: str, temperature: float) -> None:
    assert TOKENIZER.eos_id is not None
    banned = {*TOKENIZER.special_ids, *range(TOKENIZER.vocab_size, TOKENIZER.vocab_size + 5)}
    model = small(sorted(banned))
    filling = model.fill("a[6]b[1-2]", policy=policy, temperature=temperature, count=3, draws=2)
    assert not {token for row in filling.tokens for token in row} & banned
    open_ = model.decoder(policy, temperature=temperature)
    row = model.canvas_of("a[6]b[2]")
    done = open_.decode(Canvas.start(torch.tensor([row]), torch.tensor([0])))
    assert set(done.tokens[0].tolist()) & banned  # so the network does want them


def test_only_some_characters() -> None:
    model = small([])
    filling = model.fill("a[6]b[2]", constraint=model.only("0123456789"), count=5)
    assert all(hole.isdigit() for holes in filling.holes for hole in holes)
    assert [[len(hole) for hole in holes] for holes in filling.holes] == [[6, 2]] * 5
    free = model.fill("a[6]b[2]", count=5)
    assert not all(hole.isdigit() for holes in free.holes for hole in holes)
    chosen = {hole for holes in filling.holes for hole in itertools.chain(*holes)}
    assert len(chosen) > 5


def test_a_vocabulary_allows_the_same_everywhere() -> None:
    rule = Vocabulary(torch.tensor([True, False, False, True, True]))
    canvas = Canvas.start(torch.full((64, L), V), torch.arange(64))
    done = Decoder(TABLE, make("random"), 1.0, constraints=(rule,)).decode(canvas)
    assert set(done.tokens.unique().tolist()) == {0, 3}
