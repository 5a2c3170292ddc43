"""A row that joins others, leaves them, waits and goes on among yet others is the row alone, in every bit.

So it is for each policy and cache, and where rows of one batch have their own temperature, top-p, dial and constraint.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from unmask.api import Model
from unmask.decode import loop
from unmask.decode.canvas import Canvas, Running, join, leave
from unmask.decode.constraint import Vocabulary
from unmask.decode.loop import Decoder
from unmask.decode.propose import propose
from unmask.errors import RequestError
from unmask.model.cache import CACHES, cached
from unmask.model.dit import DiT
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.policies.base import State, UnmaskingPolicy
from unmask.policies.learned.network import PolicyNetwork
from unmask.policies.learned.policy import Learned
from unmask.policies.learned.settings import PolicySettings
from unmask.policies.registry import make
from unmask.process import MaskedDiffusion
from unmask.text.build import byte_tokenizer

VOCABULARY, MASK, LENGTH, BLOCK, ROWS = 11, 10, 32, 16, 5


@cache
def network(causal_block: int = 0) -> DiT:
    """Every weight random, so that positions depend on one another."""
    model = build(DiTSettings(VOCABULARY, MASK, LENGTH, 32, 2, 2, causal_block=causal_block)).eval()
    _randomise(model, 0)
    with torch.no_grad():
        model.head.weight.mul_(0.5)  # so that no token is certain
    return model


def _randomise(module: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * (0.3 if value.ndim > 1 else 0.5))


def learned() -> Learned:
    """A policy network with random weights that draws what it reveals."""
    net = PolicyNetwork(PolicySettings(width=16, unit=8.0, features=("confidence",)))
    _randomise(net, 1)
    return Learned(net.eval(), sample=True)


POLICIES: dict[str, Callable[[], UnmaskingPolicy]] = {
    "random": lambda: make("random:steps=4"),
    "threshold": lambda: make("threshold:threshold=0.5"),
    "klass": lambda: make("klass:kl=2,threshold=0.2,history=2"),  # remembers distributions
    "remdm": lambda: make("remdm:steps=6,eta=0.3"),  # hides tokens again, and has turns without a pass
    "ancestral": lambda: make("ancestral:steps=6"),  # decides before the pass, and remembers times
    "learned": learned,
}


def start(**options: Tensor) -> Canvas:
    """Five rows with prompts of 0, 3, .. tokens, padding behind the last."""
    tokens = torch.randint(MASK, (ROWS, LENGTH), generator=torch.Generator().manual_seed(5))
    place = torch.arange(LENGTH)
    valid = place.expand(ROWS, -1) < torch.tensor([*[LENGTH] * (ROWS - 1), LENGTH - 7])[:, None]
    tokens[(place >= 3 * torch.arange(ROWS)[:, None]) & valid] = MASK
    return Canvas.start(tokens, 100 + torch.arange(ROWS), valid, **options)


class Engine:
    """One batch that is stepped; what is finished leaves it. `keep` is applied to the state of a row that waits."""

    def __init__(self, decoder: Decoder, keep: Callable[[State], State] = lambda state: state) -> None:
        self.decoder, self.keep = decoder, keep
        self.done: dict[int, Canvas] = {}
        self.running: Running | None = None

    def join(self, rows: Running) -> None:
        self.running = rows if self.running is None else join(self.running, rows)

    def leave(self, seed: int) -> Running:
        assert self.running is not None
        self.running, gone = leave(self.running, self.running.canvas.seed == seed)
        return Running(gone.canvas, self.keep(gone.state))

    def step(self, passes: int = -1) -> None:
        while self.running is not None and len(self.running.canvas.seed) and passes != 0:
            canvas, state, _ = self.decoder.step(*self.running)
            self.running, gone = leave(Running(canvas, state), ~self.decoder.unfinished(canvas))
            self.done |= {int(seed): gone.canvas.keep(gone.canvas.seed == seed) for seed in gone.canvas.seed}
            passes -= 1


def travelled(engine: Engine, canvas: Canvas) -> dict[int, Canvas]:
    """Row 2 joins rows 0 and 1 midway, leaves after two turns, waits, and goes on with the fresh rows 3 and 4."""
    engine.join(Running(canvas.keep(torch.tensor([0, 1]))))
    engine.step(1)
    engine.join(Running(canvas.keep(torch.tensor([2]))))
    engine.step(2)
    away = engine.leave(102)
    assert len(away.canvas.seed) == 1, "the row was finished before it could leave"
    engine.step(1)
    engine.join(Running(canvas.keep(torch.tensor([4, 3]))))
    engine.step(1)
    engine.join(away)
    engine.step()
    return engine.done


def differing(decoder: Decoder, canvas: Canvas, results: dict[int, Canvas]) -> list[tuple[int, str]]:
    """Which rows differ from themselves alone, and in what."""
    pairs = [(int(s), decoder.decode(canvas.keep(canvas.seed == s)), results[int(s)]) for s in canvas.seed]
    return [
        (seed, name)
        for seed, alone, row in pairs
        for name in ("tokens", "log_prob", "margin", "entropy", "passes", "turn")
        if not torch.equal(getattr(alone, name).nan_to_num(-1), getattr(row, name).nan_to_num(-1))
    ]


def decoder_of(policy: str, kept: str | None = None, block_size: int | None = BLOCK) -> Decoder:
    denoiser = network() if kept is None else cached(network(8 if kept == "causal" else 0), kept)
    return Decoder(denoiser, POLICIES[policy](), 1.0, 1.0, block_size)


@pytest.mark.parametrize("kept", [None, *sorted(CACHES)])
@pytest.mark.parametrize("policy", list(POLICIES))
def test_a_row_that_travels_is_the_row_alone(policy: str, kept: str | None) -> None:
    decoder, canvas = decoder_of(policy, kept), start()
    assert differing(decoder, canvas, travelled(Engine(decoder), canvas)) == []


@pytest.mark.parametrize("policy", ["klass", "ancestral", "remdm"])
def test_a_row_travels_in_a_single_block(policy: str) -> None:
    decoder, canvas = decoder_of(policy, block_size=None), start()
    assert differing(decoder, canvas, travelled(Engine(decoder), canvas)) == []


@pytest.mark.parametrize(("policy", "kept"), [("klass", None), ("ancestral", None), ("threshold", "dual")])
def test_control_a_row_that_waits_without_its_state_is_another(policy: str, kept: str | None) -> None:
    """Of the policy, or of the cache."""
    decoder, canvas = decoder_of(policy, kept), start()
    results = travelled(Engine(decoder, keep=lambda state: None), canvas)
    assert {seed for seed, _ in differing(decoder, canvas, results)} == {102}


def test_control_noise_by_place_in_the_batch_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    canvas, decoder = start(), decoder_of("random")
    drawn = loop.uniform
    monkeypatch.setattr(loop, "uniform", lambda seed, *rest: drawn(torch.arange(len(seed))[:, None], *rest))
    assert differing(decoder, canvas, travelled(Engine(decoder), canvas)) != []


def test_rows_of_different_lengths_do_not_join() -> None:
    short = Canvas.start(torch.full((1, 16), MASK), torch.tensor([1]))
    with pytest.raises(RequestError, match="Rows of 16 and 32 positions cannot decode together"):
        join(Running(start()), Running(short))


def test_what_leaves_and_joins_again_is_whole() -> None:
    """Fields and nested state, the ones before the first pass (None) included; an empty part is no obstacle."""
    decoder, canvas = decoder_of("klass", "dual"), start()
    canvas, state, _ = decoder.step(canvas)
    stay, gone = leave(Running(canvas, state), torch.tensor([False, True, False, False, True]))
    assert (stay.canvas.seed.tolist(), gone.canvas.seed.tolist()) == ([100, 102, 103], [101, 104])
    both = join(stay, gone, Running(start().keep(torch.tensor([0]))))
    (_, calm), (memory, feedback) = both.state
    assert feedback is None
    assert len(calm) == len(memory[1]) == len(both.canvas.seed) == 6
    assert not memory[1][5].any()  # a row of zeros remembers nothing
    nobody, everybody = leave(both, torch.ones(6, dtype=torch.bool))
    assert torch.equal(join(nobody, everybody).canvas.tokens, both.canvas.tokens)


# ---- options of a row ----------------------------------------------------------------------------------------------

NAN = float("nan")
OPTIONS = {
    "temperature": torch.tensor([0.0, 1.0, 0.7, NAN, 0.7]),
    "top_p": torch.tensor([1.0, 0.6, 0.6, NAN, 1.0]),
    "dial": torch.tensor([0.0, 0.3, 0.6, NAN, 0.9]),
    "constraint": torch.tensor([0, 1, 2, 0, 1]),
}
RULES = (None, Vocabulary(torch.arange(VOCABULARY) < 6), Vocabulary(torch.arange(VOCABULARY) > 3))


def with_options(policy: str, kept: str | None = None) -> Decoder:
    denoiser = network() if kept is None else cached(network(8 if kept == "causal" else 0), kept)
    return Decoder(denoiser, POLICIES[policy](), 1.0, 0.9, BLOCK, constraints=RULES)


@pytest.mark.parametrize("kept", [None, "dual"])
@pytest.mark.parametrize("policy", list(POLICIES))
def test_rows_with_options_of_their_own_are_as_alone(policy: str, kept: str | None) -> None:
    decoder, canvas = with_options(policy, kept), start(**OPTIONS)
    done = travelled(Engine(decoder), canvas)
    assert differing(decoder, canvas, done) == []
    written = [set(row.tokens[row.written].tolist()) for _, row in sorted(done.items())]
    assert written[1] <= set(range(6))
    assert written[2] <= set(range(4, 10))
    assert written[4] <= set(range(6))


@pytest.mark.parametrize("name", list(OPTIONS))
def test_control_each_option_counts(name: str) -> None:
    """Without one of the options some row is another; and those are rows that said something else than the decoder."""
    decoder, canvas = with_options("learned"), start(**OPTIONS)
    rest = start(**{key: value for key, value in OPTIONS.items() if key != name})
    done = decoder.decode(rest)
    pairs = differing(decoder, canvas, {100 + row: done.keep(torch.tensor([row])) for row in range(ROWS)})
    assert pairs
    assert 103 not in {seed for seed, _ in pairs}


def test_control_the_temperature_of_another_row_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that draws the whole batch as its first row says."""
    decoder, canvas = with_options("random"), start(**OPTIONS)
    alone = decoder.decode(canvas.keep(torch.tensor([2])))

    def first(logits: Tensor, mask_id: int, u: Tensor, temperature: Tensor, top_p: Tensor, *rest: Any) -> object:
        return propose(logits, mask_id, u, float(temperature[0]), float(top_p[0]), *rest)

    monkeypatch.setattr(loop, "propose", first)
    canvas, _, step = decoder.step(canvas)
    assert not torch.equal(canvas.tokens[2][step.revealed[2]], alone.tokens[0][step.revealed[2]])


def test_positions_with_temperatures_of_their_own_are_drawn_as_alone() -> None:
    """`propose` with one temperature and top-p a position, against one call each."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(64, 200, generator=generator)
    u = torch.rand(64, generator=generator, dtype=torch.double)
    temperature = torch.tensor([0.0, 0.5, 1.0, 1.5]).double().repeat(16)
    top_p = torch.tensor([1.0, 0.5]).double().repeat_interleave(32)
    whole = propose(logits, 3, u, temperature, top_p)
    for at in range(64):
        each = propose(logits[at : at + 1], 3, u[at : at + 1], float(temperature[at]), float(top_p[at]))
        assert int(each.tokens) == int(whole.tokens[at])
        assert torch.equal(each.log_probs[0], whole.log_probs[at])
    assert not torch.equal(propose(logits, 3, u, 1.0, 1.0).tokens, whole.tokens)


# ---- from above ----------------------------------------------------------------------------------------------------


@cache
def bytes_model() -> Model:
    tokenizer = byte_tokenizer()
    model = build(DiTSettings(tokenizer.vocab_size, tokenizer.mask_id, 48, 32, 2, 2))
    _randomise(model, 2)
    return Model(model, MaskedDiffusion(tokenizer.mask_id), tokenizer, None, torch.device("cpu"))


def test_generate_takes_one_number_a_row() -> None:
    """In windows that slide, too; the control is the row with another's temperature."""
    model, prompts = bytes_model(), ["To be", "or not", "x" * 20]
    own: dict[str, Any] = {"temperature": [0.0, 0.4, 1.0], "top_p": [1.0, 0.5, 0.9]}
    rest: dict[str, Any] = {"length": 40, "policy": "random:steps=6", "stop_at_eos": False}
    whole = model.generate(prompts, seed=[1, 2, 3], **own, **rest)
    for row in range(3):
        mine: dict[str, Any] = {name: values[row] for name, values in own.items()}
        alone = model.generate(prompts[row], seed=[row + 1], **mine, **rest)
        assert (alone.tokens[0], alone.log_probs[0]) == (whole.tokens[row], whole.log_probs[row])
    other = model.generate(prompts[1], seed=[2], temperature=1.0, top_p=0.5, **rest)
    assert other.tokens[0] != whole.tokens[1]


def test_fill_takes_one_number_a_text() -> None:
    """A text whose lengths are tried has its options in all of them."""
    model = bytes_model()
    rest: dict[str, Any] = {"policy": "random:steps=2", "draws": 2}
    whole = model.fill("ab[2-3]c", count=2, seed=[1, 2], temperature=[0.0, 1.0], top_p=[1.0, 0.5], **rest)
    for row, (temperature, top_p) in enumerate([(0.0, 1.0), (1.0, 0.5)]):
        alone = model.fill("ab[2-3]c", seed=[row + 1], temperature=temperature, top_p=top_p, **rest)
        assert [a.tokens for a in alone.attempts[0]] == [a.tokens for a in whole.attempts[row]]
    other = model.fill("ab[2-3]c", seed=[2], temperature=0.0, **rest)
    assert other.tokens[0] != whole.tokens[1]


def test_each_text_has_its_own_constraint() -> None:
    """In one request, a text gets what it gets alone; the control is the request with one constraint for all."""
    model = bytes_model()
    letters, digits = model.only("abcdefgh"), model.only("0123456789")
    rules = [letters, None, digits, letters]
    rest: dict[str, Any] = {"policy": "random:steps=2", "seed": [1, 2, 3, 4]}
    whole = model.fill("ab[4]c", count=4, constraint=rules, **rest)
    written = model.generate(["ab"] * 4, length=6, constraint=rules, **rest)
    for row, rule in enumerate(rules):
        alone: dict[str, Any] = {"policy": "random:steps=2", "seed": [row + 1], "constraint": rule}
        assert model.fill("ab[4]c", **alone).tokens[0] == whole.tokens[row]
        assert model.generate("ab", length=6, **alone).tokens[0] == written.tokens[row]
    assert whole.holes[2][0].isdigit()
    assert set(whole.holes[0][0]) <= set("abcdefgh")
    assert model.fill("ab[4]c", count=4, constraint=letters, **rest).tokens[2] != whole.tokens[2]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"constraint": [None]}, "1 constraints were given for 2 rows; give one, or one a row."),
        ({"temperature": [1.0]}, "1 temperatures were given for 2 rows; give one number, or one a row."),
        ({"top_p": [1.0] * 3}, "3 values of top_p were given for 2 rows; give one number, or one a row."),
        ({"temperature": [1.0, -1.0]}, "a value of temperature is -1.0; give 0 or a number from 0.0001 to 10000."),
        (
            {"top_p": [1.0, NAN]},
            "a value of top_p is nan; give a number above 0 and of at most 1 (1 keeps every token).",
        ),
    ],
)
def test_numbers_that_cannot_be_are_refused(options: dict[str, Any], sentence: str) -> None:
    for call in (
        lambda: bytes_model().generate(["a", "b"], **options),
        lambda: bytes_model().fill("a[2]", count=2, **options),
    ):
        with pytest.raises(RequestError) as error:
            call()
        assert str(error.value) == sentence


def test_a_constraint_that_is_not_there_is_refused() -> None:
    canvas = start(constraint=torch.tensor([0, 1, 0, 3, 1]))
    with pytest.raises(RequestError, match="names constraint 3 of the decoder, which has 3"):
        with_options("random").decode(canvas)
    with pytest.raises(RequestError, match=r"temperature is -2\.0"):
        start(temperature=torch.full((ROWS,), -2.0))
