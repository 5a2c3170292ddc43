"""Soft masks: off before training, feedback where the head ran and nowhere else, rows and caches as without them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unmask.decode.canvas import Canvas, Running, join, leave
from unmask.decode.loop import Decoder
from unmask.decode.options import make_decoder
from unmask.denoiser import Denoiser, Guided, Wrapper, clean_log_probs, selection
from unmask.disk.checkpoint import write_checkpoint
from unmask.errors import ConfigError, RequestError
from unmask.model.cache import cached
from unmask.model.dit import DiT
from unmask.model.load import build, load_denoiser, model_config
from unmask.model.settings import DiTSettings, TransformerSettings
from unmask.model.soft import Feedback, PlainMasks, TwoPass, best_tokens, feedback_at, runs_twice, two_pass
from unmask.objective.base import Rows, Turn
from unmask.objective.bound import bound
from unmask.objective.masked import Annealed, Masked, objective_of
from unmask.objective.soft import SoftMasked, soft_masked
from unmask.policies.base import UnmaskingPolicy
from unmask.policies.registry import make
from unmask.process import Linear, MaskedDiffusion
from unmask.text.build import byte_tokenizer, char_tokenizer
from unmask.train.settings import ModelChoice

VOCABULARY, MASK, LENGTH, BLOCK, ROWS, BEST = 11, 10, 32, 16, 4, 3
PLAIN = DiTSettings(VOCABULARY, MASK, LENGTH, 32, 2, 2, dropout=0.0)
TRAINED = torch.tensor([0.2, 0.1, 0.3])  # strength .96, slope 1.3, offset -3
LLAMA = TransformerSettings(VOCABULARY, MASK, LENGTH, width=32, blocks=2, heads=2, kv_heads=1, head=16, inner=48)


def randomised(settings: Any, *, trained: bool) -> Any:
    """A network with random matrices; a trained one mixes strongly."""
    network: Any = build(settings).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if value.ndim > 1:
                value.copy_(torch.randn(value.shape, generator=generator) * (0.2 if "head" in name else 0.3))
        if trained:
            network.soft_mask.raw.copy_(TRAINED)
    return network


@cache
def network(causal_block: int = 0, soft: int = BEST, *, trained: bool = True) -> DiT:
    return randomised(replace(PLAIN, causal_block=causal_block, soft=soft), trained=trained and soft > 0)


def canvas(rows: int = ROWS) -> Canvas:
    """Rows with prompts of 0, 3, .. tokens, the last with padding."""
    tokens = torch.randint(MASK, (ROWS, LENGTH), generator=torch.Generator().manual_seed(5))
    place = torch.arange(LENGTH)
    valid = place.expand(ROWS, -1) < torch.tensor([*[LENGTH] * (ROWS - 1), LENGTH - 7])[:, None]
    tokens[(place >= 3 * torch.arange(ROWS)[:, None]) & valid] = MASK
    return Canvas.start(tokens[:rows], 100 + torch.arange(rows), valid[:rows])


# ---- the network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [PLAIN, LLAMA], ids=["dit", "transformer"])
def test_before_training_it_is_the_plain_network_in_every_bit(settings: Any) -> None:
    """And its gradient is not zero, so that it can be trained."""
    plain = randomised(settings, trained=False)
    soft = randomised(replace(settings, soft=BEST), trained=False)
    tokens = canvas().tokens
    with torch.no_grad():
        assert torch.equal(TwoPass(soft).hidden(tokens), plain.hidden(tokens))
    TwoPass(soft).hidden(tokens).square().sum().backward()
    assert float(soft.soft_mask.raw.grad[0].abs()) > 0
    with torch.no_grad():
        soft.soft_mask.raw.copy_(TRAINED)  # the control
        assert not torch.allclose(TwoPass(soft).hidden(tokens), plain.hidden(tokens), atol=1e-3)


def test_the_input_is_the_formula() -> None:
    """The slow twin: position by position, with the whole distribution."""
    model, tokens = network(), canvas().tokens
    with torch.no_grad():
        hidden = model.hidden(tokens)
        log_probs = clean_log_probs(model.logits(hidden), MASK)
        where = tokens == MASK
        where[:, 20:] = False  # no feedback there
        feedback = feedback_at(where, log_probs[where], BEST)
        assert model.soft_mask is not None
        mixed = model.soft_mask(model.embedding(tokens), tokens == MASK, feedback, model.embedding)
        strength, slope, offset = (float(value) for value in model.soft_mask.scalars())
        table = model.embedding.weight
        for row in range(ROWS):
            for at in range(LENGTH):
                expected = table[tokens[row, at]]
                if where[row, at]:
                    p = log_probs[row, at].exp()
                    entropy = -(p * (p + 1e-10).log()).sum()
                    share = strength * torch.sigmoid(slope * (-entropy - offset))
                    best = p.sort(descending=True).indices[:BEST]
                    mean = (p[best] / p[best].sum()) @ table[best]
                    expected = (1 - share) * expected + share * mean
                assert torch.allclose(mixed[row, at], expected, atol=1e-5)


def test_the_fast_choice_of_tokens_is_that_of_topk() -> None:
    values = torch.randn(9, 5000, generator=torch.Generator().manual_seed(1))
    highest, ids = best_tokens(values, 5)
    assert torch.equal(ids, values.topk(5).indices)
    assert torch.equal(highest, values.gather(-1, ids))


# ---- decoding --------------------------------------------------------------------------------------------------------

POLICIES: dict[str, Callable[[], UnmaskingPolicy]] = {
    "random": lambda: make("random:steps=4"),
    "confidence": lambda: make("confidence:steps=6"),
    "threshold": lambda: make("threshold:threshold=0.5"),
    "klass": lambda: make("klass:kl=2,threshold=0.2,history=2"),
    "remdm": lambda: make("remdm:steps=6,eta=0.3"),
    "ancestral": lambda: make("ancestral:steps=6"),
    "reverse": lambda: make("reverse:steps=6"),
}


def ends(decoder: Decoder, start: Canvas) -> tuple[Tensor, Tensor]:
    final = decoder.decode(start)
    return final.tokens, torch.nan_to_num(final.log_prob)


@pytest.mark.parametrize(
    "name, block", [*((name, BLOCK) for name in POLICIES), ("confidence", None), ("ancestral", None)]
)
def test_a_row_is_the_row_alone(name: str, block: int | None) -> None:
    """Whether it is in a batch, or joins one later; the control is that feedback changes what is written."""
    decoder = Decoder(network(), POLICIES[name](), 1.0, block_size=block)
    tokens, log_prob = ends(decoder, canvas())
    alone = [ends(decoder, canvas().keep(torch.tensor([row]))) for row in range(ROWS)]
    assert torch.equal(tokens, torch.cat([pair[0] for pair in alone]))
    assert torch.equal(log_prob, torch.cat([pair[1] for pair in alone]))
    early = Running(canvas().keep(torch.tensor([0, 1])))
    for _ in range(2):
        early = Running(*decoder.step(*early)[:2])
    both = join(early, Running(canvas().keep(torch.tensor([2]))))
    done: dict[int, Tensor] = {}
    while len(both.canvas.seed):
        both = Running(*decoder.step(*both)[:2])
        both, gone = leave(both, ~decoder.unfinished(both.canvas))
        done |= dict(zip((gone.canvas.seed - 100).tolist(), gone.canvas.tokens, strict=True))
    assert all(torch.equal(done[row], tokens[row]) for row in range(3))
    assert not torch.equal(log_prob, ends(replace(decoder, denoiser=PlainMasks(network())), canvas())[1])


@dataclass(frozen=True)
class Heard(Wrapper):
    """A denoiser that records the tokens of each pass and where there was feedback."""

    passes: list[tuple[Tensor, Tensor]] = field(default_factory=list[tuple[Tensor, Tensor]])

    def hidden(self, tokens: Tensor, *, feedback: Feedback | None = None, **options: Any) -> Tensor:
        empty = torch.zeros_like(tokens, dtype=torch.bool)
        self.passes.append((tokens, empty if feedback is None else feedback.weights.sum(-1) > 0))
        return self.inner.hidden(tokens, **options, **selection(self.inner, None, feedback))


@pytest.mark.parametrize("block", [None, BLOCK])
@pytest.mark.parametrize("name", POLICIES)
def test_feedback_is_where_the_head_ran_in_the_last_pass(name: str, block: int | None) -> None:
    """At what was MASK in the block of the last pass; not at the first pass, not at what was hidden again."""
    heard = Heard(network())
    decoder = Decoder(heard, POLICIES[name](), 1.0, block_size=block)
    again, before = 0, torch.zeros(1, LENGTH, dtype=torch.bool)
    passes = 0
    for _, step in decoder.steps(canvas(1)):
        if len(heard.passes) == passes:
            continue  # a turn without a pass
        passes = len(heard.passes)
        tokens, where = heard.passes[-1]
        assert torch.equal(where, before)
        again += int(((tokens == MASK) & step.view.eligible & ~where).sum()) if passes > 1 else 0
        before = step.view.eligible
    assert passes > 2
    assert (again > 0) == (name == "remdm" or block is not None)  # hidden again, or a new block


def test_the_loop_is_that_of_a_plain_program() -> None:
    """Confidence, one token a pass, at temperature 0."""
    model, policy, differing = network(), make("confidence"), 0
    for row in range(3):
        start = canvas().keep(torch.tensor([row]))
        tokens, feedback = start.tokens.clone(), None
        with torch.no_grad():
            while bool((masked := tokens == MASK).any()):
                log_probs = clean_log_probs(model.logits(model.hidden(tokens, feedback=feedback)), MASK)
                feedback = feedback_at(masked, log_probs[masked], BEST)
                best = log_probs.amax(-1).masked_fill(~masked, -torch.inf).argmax(-1, keepdim=True)
                tokens = tokens.scatter(1, best, log_probs.argmax(-1).gather(1, best))
        assert torch.equal(Decoder(model, policy, 0.0).decode(start).tokens, tokens)
        differing += not torch.equal(Decoder(PlainMasks(model), policy, 0.0).decode(start).tokens, tokens)
    assert differing  # the control


@pytest.mark.parametrize("policy", ["confidence:steps=6", "ancestral:steps=6"])
@pytest.mark.parametrize(
    "name, causal", [("causal", 8), ("dual", 8), ("prefix", 8), ("dual:refresh=1", 0), ("delayed:refresh=1", 0)]
)
def test_a_cache_that_is_exact_stays_exact(name: str, causal: int, policy: str) -> None:
    """Under block-causal attention, or where every pass is a full one; a stale cache is the control."""
    model = network(causal)
    plain, kept = (Decoder(d, make(policy), 1.0, block_size=BLOCK) for d in (model, cached(model, name)))
    tokens, log_prob = ends(plain, canvas())
    tokens_kept, log_prob_kept = ends(kept, canvas())
    assert torch.equal(tokens, tokens_kept)
    assert torch.allclose(log_prob, log_prob_kept, atol=1e-5)
    stale = Decoder(cached(network(), "dual"), make(policy), 1.0, block_size=BLOCK)
    whole = Decoder(network(), make(policy), 1.0, block_size=BLOCK)
    assert not torch.allclose(ends(stale, canvas())[1], ends(whole, canvas())[1], atol=1e-5)


@pytest.mark.parametrize("name", ["dual", "prefix", "delayed", "causal"])
def test_with_a_cache_a_row_is_the_row_alone(name: str) -> None:
    decoder = Decoder(cached(network(8), name), make("confidence:steps=5"), 1.0, block_size=BLOCK)
    tokens, log_prob = ends(decoder, canvas())
    alone = [ends(decoder, canvas().keep(torch.tensor([row]))) for row in range(ROWS)]
    assert torch.equal(tokens, torch.cat([pair[0] for pair in alone]))
    assert torch.equal(log_prob, torch.cat([pair[1] for pair in alone]))


# ---- training and bounds ---------------------------------------------------------------------------------------------

OBJECTIVE = Masked(MaskedDiffusion(MASK))


def rows() -> Rows:
    ids = torch.randint(MASK, (8, LENGTH), generator=torch.Generator().manual_seed(3))
    return Rows(ids, torch.ones_like(ids, dtype=torch.bool), None)


def test_the_bound_is_that_of_the_model_in_two_passes() -> None:
    """Of `TwoPass` as of any denoiser; the control is that of one pass."""
    turn = Turn(1, torch.arange(8), 8)
    bound = SoftMasked(OBJECTIVE).bound(network(), rows(), turn)
    assert torch.equal(bound.nats, OBJECTIVE.bound(two_pass(network()), rows(), turn).nats)
    assert torch.equal(bound.nats, SoftMasked(OBJECTIVE).bound(TwoPass(network()), rows(), turn).nats)
    assert not torch.allclose(bound.nats, OBJECTIVE.bound(network(), rows(), turn).nats, atol=1e-2)
    assert two_pass(network(0, 0)) is network(0, 0)


def test_a_bound_says_whether_it_is_of_two_passes() -> None:
    """`bound` measures in two passes where there are soft masks, whatever the objective; a flag stands beside it."""
    for denoiser, twice in ((network(), True), (TwoPass(network()), True), (PlainMasks(network()), False)):
        figure = bound(denoiser, OBJECTIVE, [rows()], 8, 1)
        expected = OBJECTIVE.bound(
            TwoPass(network()) if twice else network(), rows(), Turn(1, torch.arange(8), 8, 0, 1)
        )
        assert figure.nats_per_token == pytest.approx(float(expected.nats.sum() / expected.tokens.sum()))
        assert figure.two_pass == runs_twice(denoiser) == twice
    assert not runs_twice(network(0, 0))


@pytest.mark.parametrize("share", [0.0, 0.8, 1.0])
def test_steps_have_two_passes_with_the_probability_of_the_setting(share: float) -> None:
    objective, maskable = SoftMasked(OBJECTIVE, share), torch.ones(4, LENGTH, dtype=torch.bool)
    lengths = [len(objective.draw(7, step, torch.arange(4), 8, maskable)) for step in range(400)]
    twice = lengths.count(4) / 400
    assert {3, 4} >= set(lengths)
    assert abs(twice - share) < 4 * (0.16 / 400) ** 0.5 * (0 < share < 1) + 1e-9
    once = OBJECTIVE.draw(7, 5, torch.arange(4), 8, maskable)  # the maskings are those of a plain training
    assert all(
        torch.equal(a, b) for a, b in zip(once, objective.draw(7, 5, torch.arange(4), 8, maskable), strict=False)
    )


def test_a_loss_has_one_pass_or_two_as_drawn() -> None:
    objective, data = SoftMasked(OBJECTIVE, 1.0), rows()
    drawn = objective.draw(1, 0, torch.arange(8), 8, data.maskable)
    twice, once = (objective.loss(network(), data, draw).nats for draw in (drawn, drawn[:3]))
    assert torch.allclose(twice, OBJECTIVE.loss(TwoPass(network()), data, drawn[:3]).nats)
    assert torch.equal(once, OBJECTIVE.loss(network(), data, drawn[:3]).nats)
    parts = [
        objective.loss(
            network(), data.part(slice(at, at + 4), data.ids.device), tuple(x[at : at + 4] for x in drawn)
        ).nats
        for at in (0, 4)
    ]
    assert torch.allclose(torch.cat(parts), twice, rtol=1e-5)


@pytest.mark.parametrize("plain", [PLAIN, LLAMA], ids=["dit", "transformer"])
def test_a_checkpoint_holds_the_mixture(plain: Any, tmp_path: Path) -> None:
    """What is loaded computes the same bits; the control is a checkpoint whose scalars are those of a start."""
    tokenizer, tokens = char_tokenizer(["abcdefgh"]), canvas().tokens
    settings = replace(plain, vocab_size=tokenizer.vocab_size, mask_id=tokenizer.mask_id, soft=BEST)
    tokens = torch.where(tokens == MASK, tokenizer.mask_id, tokens.clamp(min=4))
    models = [randomised(settings, trained=trained) for trained in (True, False)]
    same: list[bool] = []
    for number, model in enumerate(models):
        folder, config = tmp_path / str(number), model_config(settings, "linear")
        write_checkpoint(folder, model.state_dict(), config, tokenizer_json=tokenizer.backend.to_str())
        loaded = load_denoiser(str(folder), "cpu").denoiser
        with torch.no_grad():
            same.append(torch.equal(TwoPass(loaded).hidden(tokens), TwoPass(models[0]).hidden(tokens)))
    assert same == [True, False]


# ---- what is refused -------------------------------------------------------------------------------------------------


def decoder(denoiser: Denoiser, **options: Any) -> Decoder:
    return make_decoder(denoiser, byte_tokenizer(), Linear(), torch.device("cpu"), "confidence", **options)


def test_feedback_is_refused_where_it_cannot_be() -> None:
    with pytest.raises(RequestError, match=r"not trained with soft masks.*--init CHECKPOINT --model.soft 3"):
        decoder(network(0, 0), feedback=True)
    with pytest.raises(RequestError, match="trained with soft masks"):
        network(0, 0).hidden(canvas().tokens, feedback=feedback_at(canvas().tokens < 0, torch.zeros(0, 11), BEST))
    for options in ({}, {"feedback": True}):
        with pytest.raises(RequestError, match=r"Guidance does not go with soft masks.*feedback=False"):
            decoder(network(), guidance=1.0, **options)
    assert isinstance(decoder(network(), guidance=1.0, feedback=False).denoiser, Guided)  # the control
    with pytest.raises(RequestError, match="each prediction has two"):
        cached(TwoPass(network()), "dual").inner.hidden_at(canvas().tokens)  # pyright: ignore[reportAttributeAccessIssue]


def test_trainings_that_cannot_have_soft_masks_are_refused() -> None:
    with pytest.raises(ConfigError, match="soft masks are for subs"):
        ModelChoice(soft=3, parameterization="sedd")
    process = MaskedDiffusion(MASK)
    for objective in (objective_of("subs", process, steps=10), objective_of("sedd", process), Annealed(OBJECTIVE, 5)):
        with pytest.raises(ConfigError, match="continuous time"):
            soft_masked(objective, 0.8)
