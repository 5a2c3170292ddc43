"""Caches against the uncached pass: equal where they are exact, close elsewhere, and the contract of all."""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from unmask.api import Model
from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.denoiser import Denoiser, Guided, Place, Suppressed
from unmask.errors import PluginError, RequestError
from unmask.model.cache import CACHES, Cache, DelayedCache, DualCache, PrefixCache, cached
from unmask.model.dit import DiT
from unmask.model.inference import LowPrecision
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.policies.base import Decision, State, View, take_best
from unmask.policies.entries import ENTRIES
from unmask.policies.options import Context
from unmask.policies.registry import make
from unmask.process import MaskedDiffusion
from unmask.testing import TableDenoiser, check_policy, random_language
from unmask.text.build import byte_tokenizer

NAMES = sorted({*CACHES} - {"causal"})
VOCABULARY, MASK, LENGTH = 11, 10, 48


def network(
    causal_block: int = 0, modulation: Literal["none", "time"] = "none", absolute: bool = False, seed: int = 0
) -> DiT:
    """Every weight random, so that positions depend on each other."""
    settings = DiTSettings(
        VOCABULARY, MASK, LENGTH, 32, 2, 2, modulation=modulation, absolute=absolute, causal_block=causal_block, cond=8
    )
    model = build(settings).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * (0.3 if value.ndim > 1 else 0.5))
    return model


def canvas(rows: int = 3, prompt: int = 5) -> Canvas:
    """Prompts of 0, 5, 10 .. tokens, and padding behind the last row."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(MASK, (rows, LENGTH), generator=generator)
    place = torch.arange(LENGTH)
    valid = place.expand(rows, -1) < torch.tensor([*[LENGTH] * (rows - 1), LENGTH - 7])[:, None]
    tokens[(place >= prompt * torch.arange(rows)[:, None]) & valid] = MASK
    return Canvas.start(tokens, torch.arange(rows), valid)


def decoded(denoiser: Denoiser, policy: str = "confidence:steps=4", block_size: int | None = 16) -> Canvas:
    return Decoder(denoiser, make(policy), 1.0, block_size=block_size).decode(canvas())


def differs(canvas: Canvas, other: Canvas) -> bool:
    """Whether any bit of the tokens or of their log-probabilities differs."""
    return not (
        torch.equal(canvas.tokens, other.tokens)
        and torch.equal(canvas.log_prob.nan_to_num(), other.log_prob.nan_to_num())
    )


# ---- where they are exact ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{}, {"modulation": "time"}, {"absolute": True}, {"causal_block": 12}])
def test_a_refresh_at_every_pass_is_exact(name: str, options: dict[str, object]) -> None:
    """In every bit, with random and ragged rows; the control is the same cache without it."""
    model = network(**options)  # pyright: ignore[reportArgumentType]
    whole = decoded(model)
    assert not differs(decoded(cached(model, f"{name}:refresh=1")), whole)
    assert differs(decoded(cached(model, f"{name}:refresh=none")), whole)


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("name", ["dual", "prefix"])
def test_prefix_and_dual_are_exact_under_block_causal_attention(name: str, absolute: bool) -> None:
    """Up to rounding, with any prompt; the controls are full attention, and blocks that do not fit the attention's."""
    fits = network(16, absolute=absolute)
    assert _largest_gap(fits, name, 16) < 1e-5
    assert _largest_gap(fits, name, 5) < 1e-5
    assert _largest_gap(network(12), name, 16) > 1e-2
    assert _largest_gap(network(absolute=absolute), name, 16) > 1e-2


@pytest.mark.parametrize("prompt", [0, 5, 16])
def test_the_causal_cache_is_exact_and_runs_each_position_once(prompt: int) -> None:
    """Up to rounding, with blocks of the attention's size or not; the control of the count is the dual cache."""
    for block in (8, 16):
        assert _largest_gap(network(block), "causal", prompt) < 1e-5
    counted = Counted(network(16))
    decoded(cached(counted.model, "causal"), block_size=16)  # 4 passes a block; 2 rows of 48 positions, one of 41
    count = counted.positions
    # passes of the first block: 16; of the others 32, then 16; rows whose prompt ends in the block have no pass less
    assert count == 3 * (4 * 16 + 2 * (32 + 3 * 16))
    decoded(cached(counted.model, "dual"), block_size=16)
    assert counted.positions - count > 1.2 * count
    counted.close()
    with pytest.raises(RequestError, match="for block-causal attention, and this model attends to all positions"):
        cached(network(), "causal")


def test_what_the_causal_cache_computes() -> None:
    """Blocks of 2: the block before is computed again where a token of it changed, what is behind never."""
    tokens = torch.tensor([[1, 2, 3, 4, MASK, MASK, MASK, MASK]])
    block = torch.tensor([[0, 0, 0, 0, 1, 1, 0, 0]]).bool()
    place, cache = Place(block, tokens == MASK, torch.tensor([0])), cached(network(2), "causal")
    for before, stale in (
        ([1, 2, 3, 4, -1, -1, -1, -1], [0, 0, 0, 0, 1, 1, 0, 0]),
        ([1, 2, 3, MASK, -1, -1, -1, -1], [0, 0, 1, 1, 1, 1, 0, 0]),
        ([-1, -1, -1, -1, -1, -1, -1, -1], [1, 1, 1, 1, 1, 1, 0, 0]),
    ):
        assert cache.stale(tokens, place, torch.tensor([before])).int().tolist() == [stale]


def _largest_gap(model: DiT, name: str, prompt: int) -> float:
    """The largest difference of log-probabilities at any eligible position, along the uncached decoding."""
    gap, memory, cache = 0.0, None, cached(model, name)
    for done, step in Decoder(model, make("confidence:steps=4"), 1.0, block_size=16).steps(canvas(2, prompt)):
        if len(step.rows) < len(done.seed):
            break
        before = torch.where(step.revealed, MASK, done.tokens)
        place = Place(step.view.eligible | step.view.erasable, step.view.masked, step.view.step)
        hidden, memory = cache.recall(before, place, memory, valid=done.valid)
        exact = model.hidden(before, valid=done.valid)
        difference = (model.logits(hidden) - model.logits(exact)).abs()
        gap = max(gap, float(difference[step.view.eligible].max().detach()))
    return gap


@pytest.mark.parametrize("name", NAMES)
def test_a_cache_computes_fewer_positions(name: str) -> None:
    counted = Counted(network())
    decoded(cached(counted.model, name))
    count = counted.positions
    decoded(cached(counted.model, f"{name}:refresh=1"))
    assert count < 0.8 * (counted.positions - count)
    counted.close()


class Counted:
    """A network whose first layer counts its positions."""

    def __init__(self, model: DiT) -> None:
        self.model, self.positions = model, 0
        self.close = model.embedding.register_forward_pre_hook(self._count).remove

    def _count(self, _: object, inputs: tuple[Tensor, ...]) -> None:
        self.positions += inputs[0].numel()


def test_what_is_stale() -> None:
    tokens = torch.tensor([[1, 2, 3, MASK, 4, MASK, MASK, 5]])
    block = torch.tensor([[0, 0, 1, 1, 0, 1, 0, 0]]).bool()
    place = Place(block, tokens == MASK, torch.tensor([1]))
    before = torch.where(torch.arange(8) == 2, MASK, tokens)
    model = network()
    assert PrefixCache(model).stale(tokens, place, before).int().tolist() == [[0, 0, 1, 1, 1, 1, 1, 1]]
    assert DualCache(model).stale(tokens, place, before).int().tolist() == [[0, 0, 1, 1, 1, 1, 0, 0]]
    assert DelayedCache(model).stale(tokens, place, before).int().tolist() == [[0, 0, 1, 1, 0, 1, 1, 0]]


def test_a_pass_over_some_positions_is_part_of_the_whole() -> None:
    """With keys and values of the same tokens nothing is stale: any subset agrees, and replaces its entries alone."""
    model = network()
    start = canvas(2)
    whole, kept = model.hidden_at(start.tokens, valid=start.valid)
    with torch.no_grad():
        assert torch.equal(whole, model.hidden(start.tokens, valid=start.valid))
    at = torch.tensor([[3, 7, 20, 31], [0, 1, 2, 40]])
    some, after = model.hidden_at(start.tokens.gather(-1, at), at, kept, valid=start.valid)
    torch.testing.assert_close(some, whole.gather(1, at[..., None].expand(-1, -1, 32)), rtol=1e-5, atol=1e-5)
    changed = start.tokens.gather(-1, at).fill_(3)
    _, after = model.hidden_at(changed, at, kept, valid=start.valid)
    moved = torch.stack([(a != b).flatten(2).any(-1) for a, b in zip(after, kept, strict=True)]).any(0)
    assert torch.equal(moved, torch.zeros_like(moved).scatter(1, at, True))


# ---- the contract --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, "dual:refresh=2", "causal"])
@pytest.mark.parametrize("policy", ["random:steps=4", "confidence:steps=3"])
def test_caches_keep_the_contract(name: str, policy: str) -> None:
    """A row alone, in a batch, joining midway or resumed has the same bits, with a cache too."""
    model = network(8 if name == "causal" else 0)
    check_policy(lambda: make(policy), temperature=1.0, block_size=16, denoiser=cached(model, name))


def _quick(name: str) -> str:
    """A policy by name, with an option that needs few passes."""
    knob = ENTRIES[name].knob
    return f"{name}:{knob.option}={knob.values[0] if knob.values else 3}" if knob else name


WRITTEN = ["adas", "dawn", "info-gain", "p2", "saber", "wino"]  # read predictions that caches do not have
EVERY = [name for name, entry in ENTRIES.items() if not entry.needs_folder and name not in WRITTEN]
TURNS = [(name, NAMES[n % len(NAMES)], float(n % 2)) for n, name in enumerate(EVERY)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cache", "temperature"), TURNS)
def test_every_policy_keeps_the_contract_with_a_cache(name: str, cache: str, temperature: float) -> None:
    """Each policy with one of the caches: 4 seconds each, so not with all."""
    context = Context(unigram=lambda: torch.arange(VOCABULARY).flip(0) / 55.0)
    denoiser = cached(network(), cache)
    check_policy(lambda: make(_quick(name), context), temperature=temperature, block_size=16, denoiser=denoiser)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_cache_is_refused_by_rules_that_read_more_than_it_computes(name: str) -> None:
    with pytest.raises(RequestError, match=r"reads .*, and a cache computes none there"):
        Decoder(cached(network(), "dual"), make(name))
    Decoder(cached(network(), "dual"), make("rcr"))


@pytest.mark.slow
@pytest.mark.parametrize("text", [*map(_quick, WRITTEN[:-1]), "wino:draft=0.3,most=3"])
def test_these_rules_keep_the_contract_with_a_network(text: str) -> None:
    """What they read has the same bits in any batch: attention, written positions, candidate canvases."""
    check_policy(lambda: make(text), temperature=1.0, block_size=16, denoiser=network())


@pytest.mark.slow
def test_self_speculation_keeps_the_contract_with_a_network() -> None:
    check_policy(lambda: make("freedave over confidence:steps=6"), block_size=16, denoiser=network())


class Clinging(DualCache):
    """Keeps its memory: a row that joins uses the keys and values of another row."""

    def recall(self, tokens: Tensor, place: Place, memory: Any, **options: Any) -> Any:
        return super().recall(tokens, *self._clung(place, memory), **options)

    def sizes(self, tokens: Tensor, place: Place, memory: Any) -> Tensor:
        return super().sizes(tokens, *self._clung(place, memory))

    @staticmethod
    def _clung(place: Place, memory: Any) -> tuple[Place, Any]:
        if memory is None:
            return place, None
        return place._replace(step=place.step + 1), (*memory[:2], place.block, memory[3])


class Mixing(DualCache):
    """Computes, in rows with different numbers of stale positions, the largest number."""

    def _sizes(self, stale: Tensor, place: Place, before: Any) -> Tensor:
        sizes = super()._sizes(stale, place, before)
        return sizes.amax().expand_as(sizes)


@pytest.mark.parametrize("broken", [Clinging, Mixing])
def test_control_a_broken_cache_is_noticed(broken: type[Cache]) -> None:
    with pytest.raises(PluginError, match="writes a row differently"):
        check_policy(lambda: make("confidence:steps=3"), temperature=1.0, block_size=16, denoiser=broken(network()))


class Pausing:
    """Decides before the pass, and reveals nothing in every other turn, the first of each block included."""

    looks = False

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        count = torch.where((view.step + view.total) % 2 == 1, 4, 0)
        reveal = take_best(view.noise, view.eligible, count)
        return Decision(reveal, done=~(view.eligible & ~reveal).any(-1)), None


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_turns_without_a_pass(name: str) -> None:
    """A row that pauses runs no pass, and does not get the memory of the row that was at its index."""
    check_policy(Pausing, temperature=1.0, block_size=16, denoiser=cached(network(), name))


@pytest.mark.parametrize("name", NAMES)
def test_a_cache_goes_around_the_other_wrappers(name: str) -> None:
    model = network()
    quiet = decoded(cached(Suppressed(LowPrecision(model, torch.bfloat16), (1, 2)), f"{name}:refresh=1"))
    assert not differs(quiet, decoded(Suppressed(LowPrecision(model, torch.bfloat16), (1, 2))))
    assert not bool(torch.isin(quiet.tokens[quiet.written], torch.tensor([1, 2])).any())
    for refused in (Guided(model, 1.0), Suppressed(Guided(model, 1.0), (1,))):
        with pytest.raises(RequestError, match="A cache cannot serve guidance"):
            cached(refused, name)
    with pytest.raises(RequestError, match="a cache is the outermost wrapper"):
        Suppressed(cached(model, name), (1,))
    with pytest.raises(RequestError, match="TableDenoiser keeps no keys and values"):
        cached(TableDenoiser(random_language(2, 2)), name)


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("daul", "did you mean 'dual'"),
        ("dual:refresh=often", "refresh is 'often'; give a whole number of at least 1"),
        ("dual:size=3", "its one option is refresh"),
        ("dual:refresh=0", "refresh is 0"),
    ],
)
def test_impossible_caches_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        cached(network(), text)


# ---- block-causal attention, and the public functions ---------------------------------------------------------------


def test_block_causal_attention_looks_back_and_not_ahead() -> None:
    """Blocks of 16: a token changes its own block and later ones; the path with gradients gives the same numbers."""
    model, tokens = network(16), canvas(1).tokens
    other = tokens.clone()
    other[0, 20] = (other[0, 20] + 1) % MASK
    with torch.no_grad():
        moved = (model.hidden(tokens) - model.hidden(other)).abs().amax(-1)[0]
        free = (network().hidden(tokens) - network().hidden(other)).abs().amax(-1)[0]
        inferred = model.hidden(tokens)
    assert float(moved[:16].max()) == 0 < float(moved[16:].min())
    assert float(free.min()) > 0  # the control: with full attention every position changes
    torch.testing.assert_close(model.hidden(tokens), inferred, rtol=1e-5, atol=1e-5)
    layers = model.hidden(tokens)[0, :16].sum()
    (grad,) = torch.autograd.grad(layers, model.embedding.weight)
    assert bool(grad.isfinite().all())


def test_generation_takes_caches_guidance_and_suppressed_tokens() -> None:
    tokenizer = byte_tokenizer()
    settings = DiTSettings(tokenizer.vocab_size, tokenizer.mask_id, 64, 32, 2, 2)
    net = build(settings)
    with torch.no_grad():
        for value in net.parameters():
            value.copy_(0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel())))
    model = Model(net, MaskedDiffusion(tokenizer.mask_id), tokenizer, None, torch.device("cpu"))
    options: dict[str, Any] = {"length": 24, "block_size": 16, "policy": "confidence", "seed": 3, "stop_at_eos": False}
    plain = model.generate("To be", **options)
    for name in NAMES:
        assert model.generate("To be", cache=f"{name}:refresh=1", **options).tokens == plain.tokens
    often = max(set(plain.tokens[0][5:]), key=plain.tokens[0][5:].count)
    assert often not in model.generate("To be", suppress=[often], **options).tokens[0][5:]
    assert model.generate("To be", guidance=3.0, **options).tokens != plain.tokens
    special = tokenizer.piece(tokenizer.special_ids[0])
    assert model.decoder(suppress=["a", special]).denoiser.ids == (*tokenizer.encode("a"), tokenizer.special_ids[0])  # pyright: ignore
    for wrong, sentence in (
        ({"cache": "dual"}, "give block_size, or the cache 'delayed'"),
        ({"cache": "delayed", "guidance": 1.0}, "leave out one of them"),
        ({"suppress": ["ab"]}, "'ab' is 2 tokens"),
        ({"guidance": -1.0}, "guidance is -1.0"),
    ):
        with pytest.raises(RequestError, match=sentence):
            model.generate("To be", **wrong)  # pyright: ignore[reportArgumentType]
