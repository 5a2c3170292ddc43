"""The network against published sizes, and its fast layers against plain twins of stock functions."""

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.model import layers
from unmask.model.dit import DiT
from unmask.model.layers import Rotary, Tables, add_branch, attention, site_keys
from unmask.model.load import build, freeze_time, parameter_count
from unmask.model.settings import SIZES, DiTSettings
from unmask.noise import DROPOUT, row_keys

Modulation = Literal["none", "constant", "time"]
MODULATIONS: list[Modulation] = ["none", "constant", "time"]


@pytest.mark.parametrize(
    "size, vocabulary, count",
    [
        ("tiny", 50_258, 80_061_266),
        ("small", 50_258, 169_627_218),
        ("medium", 50_258, 424_477_010),
        ("small", 30_522, 139_292_986),
    ],
)
def test_published_parameter_counts(size: str, vocabulary: int, count: int) -> None:
    width, blocks, heads = SIZES[size]
    assert parameter_count(DiTSettings(vocabulary, 0, 1024, width, blocks, heads, modulation="time")) == count


def test_parameter_count_of_the_benchmark_shape() -> None:
    settings = DiTSettings(1024, 1023, 128, 256, 6, 4, modulation="time")
    assert parameter_count(settings) == 6_559_232
    assert sum(p.numel() for p in build(settings).parameters()) == 6_559_232


# ---- pieces --------------------------------------------------------------------------------------------------------


def rotated(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary positions in complex numbers: x (B, L, H, head), positions (B or 1, L)."""
    head = x.shape[-1]
    rate = 10_000.0 ** (-torch.arange(0, head, 2, dtype=torch.float64) / head)
    turn = torch.polar(torch.ones(()).double(), positions.double()[..., None] * rate)[:, :, None]
    first, second = x.double().chunk(2, -1)
    result = torch.complex(first, second) * turn
    return torch.cat([result.real, result.imag], -1).to(x.dtype)


def plain_attention(qkv: Tensor, positions: Tensor, valid: Tensor | None) -> Tensor:
    """Stock attention, the fused kernel with its own scale: (B, L, 3, H, head) -> (B, L, H, head)."""
    q, k, v = qkv.unbind(2)
    q, k = rotated(q, positions), rotated(k, positions)
    mask = None if valid is None else valid[:, None, None, :]
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask)
    return out.transpose(1, 2)


def some_valid(batch: int, length: int) -> Tensor:
    return torch.arange(length) < torch.tensor([length - 3 * row for row in range(batch)])[:, None]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("own_positions", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_attention_equals_the_stock_one(
    padded: bool, own_positions: bool, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Value and gradient, by either path."""
    if fused:
        monkeypatch.setattr(layers, "PLAIN_SCORES", 0)
    batch, length, heads, head = 3, 11, 2, 8
    generator = torch.Generator().manual_seed(1)
    qkv = torch.randn(batch, length, 3, heads, head, generator=generator, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(batch, length, heads, head, generator=generator, dtype=torch.float64)
    places = torch.arange(length)[None] + (torch.tensor([[0], [5], [70]]) if own_positions else 0)
    valid = some_valid(batch, length) if padded else None
    tables = Rotary(head).tables(places if own_positions else length, qkv.device, qkv.dtype)
    fast, slow = attention(qkv, tables, valid), plain_attention(qkv, places, valid)
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-10)
    (a,) = torch.autograd.grad(fast, qkv, grad)
    (b,) = torch.autograd.grad(slow, qkv, grad)
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    assert (
        float((plain_attention(qkv, places * 2, valid) - slow).abs().max().detach()) > 1e-3
    )  # the control: other places


def test_rotations_by_matrices_equal_those_by_elements() -> None:
    """In float64, value and gradient; the control: the matrices of other positions. Bfloat16 takes them in training."""
    batch, length, heads, head = 3, 10, 2, 8
    generator = torch.Generator().manual_seed(4)
    qkv = torch.randn(batch, length, 3, heads, head, generator=generator, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(batch, length, heads, head, generator=generator, dtype=torch.float64)
    cos, sin, none = Rotary(head).tables(length, qkv.device, qkv.dtype)
    turns = layers._matrices(cos[0, 0], sin[0, 0])  # pyright: ignore[reportPrivateUsage]
    results = [attention(qkv, Tables(cos, sin, matrices), None) for matrices in (none, turns, turns.roll(1, 0) * 1.01)]
    assert none is None
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-12)
    slow, fast, other = (torch.autograd.grad(result, qkv, grad)[0] for result in results)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)
    assert float((other - slow).abs().max()) > 1e-3
    low = Rotary(head).tables(length, qkv.device, torch.bfloat16)
    assert low.turns is not None
    with torch.no_grad():
        assert Rotary(head).tables(length, qkv.device, torch.bfloat16).turns is None


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("gated", [None, "one", "each"])
def test_join_is_dropout_of_the_gated_branch(gated: str | None, pieces: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same formula for the mask that it drew, gradients included; and dropped at its rate."""
    if pieces:
        monkeypatch.setattr(layers, "_CACHED", 3 * 500 * 32)  # three rows, then one
    shape, p = (4, 500, 32), 0.1
    generator = torch.Generator().manual_seed(1)
    residual, branch = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    rows = {"one": 1, "each": 4, None: 0}[gated]
    gate = (torch.rand(rows, 1, 32, generator=generator, dtype=torch.float64) + 0.5).requires_grad_() if rows else None
    (keys,) = site_keys(row_keys(5, 0, torch.arange(4), DROPOUT), 1, torch.arange(500))
    fast = add_branch(residual, branch, gate, p, keys)
    kept = ((fast - residual).abs() > 1e-12).double()
    met = round(p * 2**16) / 2**16
    slow = residual + (branch if gate is None else gate * branch) * kept / (1 - met)
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-12)
    grad = torch.randn(shape, generator=generator, dtype=torch.float64)
    inputs = [residual, branch] if gate is None else [residual, branch, gate]
    for a, b in zip(torch.autograd.grad(fast, inputs, grad), torch.autograd.grad(slow, inputs, grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    dropped = 1 - float(kept.mean())
    deviation = math.sqrt(p * (1 - p) / kept.numel())
    assert abs(dropped - p) < 4.5 * deviation
    assert abs(dropped - 0.11) > 4.5 * deviation  # the control
    neighbours = float(((kept[..., 1:] - 0.9) * (kept[..., :-1] - 0.9)).mean()) / 0.09 * math.sqrt(kept.numel())
    assert abs(neighbours) < 4.5  # two elements share one hash, and are independent all the same


@pytest.mark.parametrize("gelu", ["none", "tanh"])
def test_mlp_equals_the_stock_one(gelu: str) -> None:
    """Value and every gradient in float64; in bfloat16 to its rounding. The control: the other form of GELU."""
    torch.manual_seed(5)
    up, down, x = nn.Linear(16, 64).double(), nn.Linear(64, 16).double(), torch.randn(3, 40, 16, dtype=torch.float64)
    x.requires_grad_()
    inputs, weights = [x, *up.parameters(), *down.parameters()], torch.randn(3, 40, 16, dtype=torch.float64)

    def gradients(out: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((out.double() * weights).sum(), inputs, retain_graph=True)

    slow = down(F.gelu(up(x), approximate=gelu))
    other = down(F.gelu(up(x), approximate="tanh" if gelu == "none" else "none"))
    fast = layers.mlp(x, up, down, gelu)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)
    differs = list[float]()
    for a, b, c in zip(gradients(fast), gradients(slow), gradients(other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
        differs.append(float((c - b).abs().max()))
    assert max(differs) > 1e-4
    with torch.autocast("cpu", torch.bfloat16):
        low = layers.mlp(x.float(), up, down, gelu)
    assert low.dtype == torch.bfloat16
    for a, b in zip((low, *gradients(low)), (slow, *gradients(slow)), strict=True):
        assert float((a - b).norm().detach() / b.norm().detach()) < 0.02


def test_join_without_dropout_is_a_sum() -> None:
    residual, branch, gate = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.randn(1, 1, 4)
    (keys,) = site_keys(row_keys(5, 0, torch.arange(2), DROPOUT), 1, torch.arange(3))
    for none, p in ((None, 0.5), (keys, 0.0)):
        torch.testing.assert_close(add_branch(residual, branch, gate, p, none), residual + gate * branch)
        assert torch.equal(add_branch(residual, branch, None, p, none), residual + branch)


# ---- the whole -----------------------------------------------------------------------------------------------------


def settings(modulation: Modulation, gelu: Literal["exact", "tanh"] = "exact") -> DiTSettings:
    return DiTSettings(13, 12, 16, 16, 2, 2, dropout=0.0, gelu=gelu, modulation=modulation, cond=8)


def lively(chosen: DiTSettings) -> DiT:
    """Every weight random: an untrained network is the identity and would hide errors."""
    model = build(chosen)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        for value in model.parameters():
            value.copy_(torch.randn_like(value) * 0.3)
    return model


def twin(model: DiT, tokens: Tensor, valid: Tensor | None, time: Tensor | None, gelu: str = "none") -> Tensor:
    """All logits, by stock functions alone, from the weights by name (MDLM, arXiv:2406.07524 D.4)."""
    w = dict(model.named_parameters())
    width, heads = model.settings.width, model.settings.heads
    places = torch.arange(tokens.shape[1])[None]
    embedded = None
    if time is not None:
        sigma = -torch.log1p(-(1 - 1e-3) * time)
        rates = torch.tensor([10_000.0 ** (-k / 128) for k in range(128)])
        waves = torch.cat([(sigma[:, None] * rates).cos(), (sigma[:, None] * rates).sin()], -1)
        first = F.silu(F.linear(waves, w["time.mlp.0.weight"], w["time.mlp.0.bias"]))
        embedded = F.silu(F.linear(first, w["time.mlp.2.weight"], w["time.mlp.2.bias"]))

    def vectors(name: str, parts: int) -> list[Tensor]:
        if model.settings.modulation == "none":  # shift 0, scale 0, gate 1
            return [torch.ones(1, 1, width) * (k % 3 == 2) for k in range(parts)]
        if embedded is None:
            return list(w[name].view(1, 1, -1).chunk(parts, -1))
        return list(F.linear(embedded, w[f"{name}.weight"], w[f"{name}.bias"])[:, None].chunk(parts, -1))

    x = F.embedding(tokens, w["embedding.weight"])
    for k in range(model.settings.blocks):
        b = f"blocks.{k}."
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = vectors(b + "modulation", 6)
        h = F.layer_norm(x, (width,), w[b + "norm_1.weight"]) * (1 + scale_a) + shift_a
        qkv = F.linear(h, w[b + "qkv.weight"]).view(*tokens.shape, 3, heads, width // heads)
        a = plain_attention(qkv, places, valid).flatten(2)
        x = x + gate_a * F.linear(a, w[b + "out.weight"])
        h = F.layer_norm(x, (width,), w[b + "norm_2.weight"]) * (1 + scale_m) + shift_m
        h = F.gelu(F.linear(h, w[b + "up.weight"], w[b + "up.bias"]), approximate=gelu)
        x = x + gate_m * F.linear(h, w[b + "down.weight"], w[b + "down.bias"])
    shift, scale = vectors("modulation", 2)
    x = F.layer_norm(x, (width,), w["norm.weight"]) * (1 + scale) + shift
    return F.linear(x, w["head.weight"], w["head.bias"])


@pytest.mark.parametrize("modulation", MODULATIONS)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("gelu", ["exact", "tanh"])
def test_network_equals_its_plain_twin(modulation: Modulation, padded: bool, gelu: Literal["exact", "tanh"]) -> None:
    model = lively(settings(modulation, gelu=gelu))
    tokens = torch.randint(13, (3, 12), generator=torch.Generator().manual_seed(2))
    valid = some_valid(3, 12) if padded else None
    time = torch.tensor([0.1, 0.5, 1.0]) if modulation == "time" else None
    seen = torch.ones(3, 12, dtype=torch.bool) if valid is None else valid
    fast = model(tokens, valid=valid, time=time)[seen]
    slow = twin(model, tokens, valid, time, "tanh" if gelu == "tanh" else "none")[seen]
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)
    weights = torch.randn(fast.shape, generator=torch.Generator().manual_seed(3))
    params = dict(model.named_parameters())
    a = torch.autograd.grad((fast * weights).sum(), list(params.values()), allow_unused=True)
    b = torch.autograd.grad((slow * weights).sum(), list(params.values()), allow_unused=True)
    for name, actual, expected in zip(params, a, b, strict=True):
        assert (actual is None) == (expected is None), name  # pyright: ignore[reportUnnecessaryComparison]
        if actual is not None:  # pyright: ignore[reportUnnecessaryComparison]
            scale = float(expected.abs().max()) + 1e-6
            assert float((actual - expected).abs().max()) < 2e-4 * scale, name


@pytest.mark.parametrize("modulation", MODULATIONS)
@pytest.mark.parametrize("padded", [False, True])
def test_a_training_pass_that_ends_at_some_positions(modulation: Modulation, padded: bool) -> None:
    """Values and gradients are those of the whole pass there, dropout included; the control: a position beside."""
    model = lively(replace(settings(modulation), dropout=0.3)).train()
    tokens = torch.randint(13, (3, 12), generator=torch.Generator().manual_seed(2))
    valid = some_valid(3, 12) if padded else None
    time = torch.tensor([0.1, 0.5, 1.0]) if modulation == "time" else None
    model.dropout_keys = row_keys(1, 4, torch.arange(3), DROPOUT)
    picked = torch.tensor([0, 3, 4, 12, 17, 24, 29])
    where = torch.zeros(36, dtype=torch.bool).index_fill(0, picked, True).view(3, 12)
    some = model.hidden(tokens, valid=valid, time=time, where=where).flatten(0, 1)
    assert not some[~where.flatten()].any()
    some = some[picked]
    whole = model.hidden(tokens, valid=valid, time=time).flatten(0, 1)
    torch.testing.assert_close(some, whole[picked], rtol=1e-5, atol=1e-5)
    assert float((some - whole[picked + 1]).abs().max().detach()) > 1e-2
    weights = torch.randn(some.shape, generator=torch.Generator().manual_seed(3))
    params = [parameter for name, parameter in model.named_parameters() if not name.startswith("head")]
    a = torch.autograd.grad((some * weights).sum(), params)
    b = torch.autograd.grad((whole[picked] * weights).sum(), params)
    for actual, expected in zip(a, b, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_control_the_twin_notices_a_small_change() -> None:
    model = lively(settings("none"))
    tokens = torch.randint(13, (3, 12), generator=torch.Generator().manual_seed(2))
    slow = twin(model, tokens, None, None)
    with torch.no_grad():
        model.blocks[1].out.weight[0, 0] += 0.05  # pyright: ignore
        assert float((model(tokens) - slow).abs().max().detach()) > 1e-3


def test_frozen_time_is_the_network_at_that_time() -> None:
    model = lively(settings("time"))
    tokens = torch.randint(13, (3, 12), generator=torch.Generator().manual_seed(2))
    frozen = freeze_time(model)
    assert not frozen.time_conditioned
    torch.testing.assert_close(frozen(tokens), model(tokens, time=torch.zeros(3)), rtol=1e-5, atol=1e-5)
    assert float((frozen(tokens) - model(tokens, time=torch.ones(3))).abs().max().detach()) > 1e-2
    assert freeze_time(frozen) is frozen


def test_padding_never_changes_what_is_valid() -> None:
    model = lively(settings("none"))
    tokens = torch.randint(12, (2, 16), generator=torch.Generator().manual_seed(2))
    valid = torch.arange(16).expand(2, 16) < 9
    hidden = model.hidden(tokens, valid=valid)[:, :9]
    other = tokens.clone()
    other[:, 9:] = 12
    assert torch.equal(model.hidden(other, valid=valid)[:, :9], hidden)
    torch.testing.assert_close(hidden, model.hidden(tokens[:, :9]), rtol=1e-4, atol=1e-4)
    assert (
        float((model.hidden(other)[:, :9] - hidden).abs().max().detach()) > 1e-3
    )  # the control: without valid it does


def test_a_shift_of_all_positions_changes_nothing() -> None:
    model = lively(settings("none"))
    tokens = torch.randint(13, (2, 12), generator=torch.Generator().manual_seed(2))
    places = torch.arange(12).expand(2, 12)
    still = model.hidden(tokens)
    torch.testing.assert_close(model.hidden(tokens, positions=places + 100), still, rtol=1e-4, atol=1e-4)
    assert float((model.hidden(tokens, positions=places * 2) - still).abs().max().detach()) > 1e-3


def test_an_untrained_network_repeats_a_visible_token_and_is_nearly_uniform_where_it_is_masked() -> None:
    """The head begins as the embedding / sqrt(D): at MASK logits are of order 1, so that the loss is near log V."""
    size = 512
    model = build(replace(settings("none"), vocab_size=size, width=64, heads=2), 1)
    tokens = torch.arange(size)[None]
    assert torch.equal(model(tokens).argmax(-1), tokens)

    @torch.no_grad()
    def loss() -> float:  # of a token that is equally likely to be any
        masked = model(torch.full((1, 1), size - 1))[0, 0, :-1]
        return float(torch.logsumexp(masked, 0) - masked.mean())

    assert math.log(size - 1) < loss() < math.log(size - 1) + 1
    with torch.no_grad():
        model.head.weight.mul_(8)  # the control: the embedding itself
    assert loss() > math.log(size - 1) + 1


def test_weights_depend_on_the_seed_alone() -> None:
    torch.rand(3)
    a, b, c = build(settings("none"), 1), build(settings("none"), 1), build(settings("none"), 2)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.embedding.weight, c.embedding.weight)
