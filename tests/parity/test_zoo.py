"""Published folders against slow twins: logits, gradients, decodes with and without caches, padding, direction.

The twins compute in float64, one row, one head and one query at a time, from the tensors under their published names.
The same numbers were compared with the classes of the transformers library 5.24 (docs/log.md).
"""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.parity.published import SPECS, Spec, write
from torch import Tensor

import unmask
from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.errors import PluginError
from unmask.model.cache import cached
from unmask.model.inference import LowPrecision, computing_in
from unmask.model.load import load_denoiser
from unmask.model.transformer import Transformer
from unmask.policies.registry import make
from unmask.run.machine import bfloat16_works
from unmask.testing import check_policy

FAMILIES = sorted(SPECS)
LENGTH = 24


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def turned(x: Tensor, position: int, base: float, size: int = 0) -> Tensor:
    """A head -> pairs (i, i + d/2) of its first d = `size` channels turned by position * base^(-2i/d)."""
    size = size or len(x)
    half = size // 2
    angle = position * base ** (-2 * torch.arange(half, dtype=torch.float64) / size)
    value = torch.complex(x[:half], x[half:size]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([value.real, value.imag, x[size:]])


def experts_of(spec: Spec, logits: list[float], bias: list[float]) -> dict[int, float]:
    """The router's output at a position -> the chosen experts with their weights, two of them."""
    if spec.config["model_type"] == "llada":
        total = sum(math.exp(x) for x in logits)
        weights = {i: math.exp(x) / total for i, x in enumerate(logits)}
        return {i: weights[i] for i in sorted(weights, key=lambda i: -weights[i])[:2]}
    scores = [1 / (1 + math.exp(-x)) for x in logits]
    choice = [s + b for s, b in zip(scores, bias, strict=True)]
    group = max((0, 4), key=lambda start: sum(sorted(choice[start : start + 4])[-2:]))
    best = sorted(range(group, group + 4), key=lambda i: -choice[i])[:2]
    return {i: 2.5 * scores[i] / sum(scores[j] for j in best) for i in best}


def twin(
    spec: Spec, state: dict[str, Tensor], tokens: list[int], r: Callable[[Tensor], Tensor] = lambda x: x
) -> Tensor:
    """Token ids of one row -> logits (L, V) in float64, the shift of the family included; `r` rounds each result."""

    def get(role: str, block: int = 0, member: int = 0) -> Tensor:
        if spec.fused and role in ("q", "k", "v"):
            sizes = [spec.heads * spec.head, spec.kv * spec.head, spec.kv * spec.head]
            return get("qkv", block).split(sizes)["qkv".index(role)]
        return state[spec.names[role].format(block, member)].double()

    def swiglu(x: Tensor, end: str, block: int, member: int = 0) -> Tensor:
        gate = r(x @ get(f"gate{end}", block, member).T)
        inner = r(r(gate / (1 + (-gate).exp())) * r(x @ get(f"up{end}", block, member).T))
        return r(inner @ get(f"down{end}", block, member).T)

    def feed(x: Tensor, block: int) -> Tensor:
        if not spec.experts or block < spec.dense:
            return swiglu(x, "", block)
        logits, bias = x @ get("router", block).T, [0.0] * spec.experts
        if "router_bias" in spec.names:
            bias = get("router_bias", block).tolist()
        rows: list[Tensor] = []
        for row, scores in zip(x, logits.tolist(), strict=True):
            out = swiglu(row, "_shared", block) if "gate_shared" in spec.names else torch.zeros(32).double()
            for member, weight in experts_of(spec, scores, bias).items():
                out = out + weight * swiglu(row, "_expert", block, member)
            rows.append(r(out))
        return torch.stack(rows)

    x = torch.stack([get("embed")[token] for token in tokens])
    for block in range(2):
        normal = r(norm(x, get("norm_1", block), spec.eps))
        heads = {part: r(normal @ get(part, block).T) for part in "qkv"}
        if spec.bias:
            heads = {part: r(value + get(f"{part}_bias", block)) for part, value in heads.items()}
        heads = {part: value.unflatten(-1, (-1, spec.head)) for part, value in heads.items()}
        if spec.norms:
            heads |= {part: r(norm(heads[part], get(f"{part}_norm", block), spec.eps)) for part in "qk"}
        spun = {
            part: [[r(turned(x, at, spec.base, spec.rotary)) for x in row] for at, row in enumerate(heads[part])]
            for part in "qk"
        }
        rows: list[Tensor] = []
        for at in range(len(tokens)):
            end = (at // spec.block + 1) * spec.block if spec.block else len(tokens)
            parts: list[Tensor] = []
            for head in range(spec.heads):
                group = head // (spec.heads // spec.kv)
                query, keys = spun["q"][at][head], [row[group] for row in spun["k"][:end]]
                scores = torch.stack([query @ key for key in keys]) / math.sqrt(spec.head)
                parts.append(r(scores.softmax(0)) @ heads["v"][: len(keys), group])
            rows.append(r(torch.cat(parts)))
        x = r(x + r(torch.stack(rows) @ get("o", block).T))
        normal = r(norm(x, get("norm_2", block), spec.eps))
        x = r(x + feed(normal, block))
    logits = r(norm(x, get("norm"), spec.eps)) @ get("embed" if spec.tied else "lm_head").T
    return torch.cat([logits[:1], logits[:-1]]) if spec.shift else logits


def loaded(family: str, folder: Path, dtype: Any = torch.float32) -> tuple[Transformer, dict[str, Tensor]]:
    state = write(family, folder)
    network = load_denoiser(str(folder), dtype=dtype).denoiser
    assert isinstance(network, Transformer)
    return network, state


def some_tokens(network: Transformer, masked: bool = True, rows: int = 1) -> Tensor:
    tokens = torch.randint(256, (rows, LENGTH), generator=torch.Generator().manual_seed(3))
    if masked:
        tokens[:, 9::2] = network.mask_id
    return tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_twin(family: str, tmp_path: Path) -> None:
    """float32 within 1e-5 of the largest logit; the control is the twin without one of the family's facts."""
    network, state = loaded(family, tmp_path)
    tokens, spec = some_tokens(network), SPECS[family]
    expected = twin(spec, state, tokens[0].tolist())
    scale = float(expected.abs().max())
    with torch.no_grad():
        logits = network(tokens)[0]
    assert float((logits - expected).abs().max()) < 1e-5 * max(scale, 1)
    logits = network(tokens)[0].detach()  # by the operations with gradients
    assert float((logits - expected).abs().max()) < 1e-5 * max(scale, 1)
    for other in (
        replace(spec, shift=not spec.shift),
        replace(spec, block=0 if spec.block else 4),
        replace(spec, base=1e4),
    ):
        changed = twin(other, state, tokens[0].tolist())
        assert float((changed - expected).abs().max()) > 1e-2


@pytest.mark.parametrize("family", ["llada", "dream", "sdar"])
def test_gradients_are_those_of_the_twin(family: str, tmp_path: Path) -> None:
    network, state = loaded(family, tmp_path)
    tokens, spec = some_tokens(network), SPECS[family]
    state = {name: value.double().requires_grad_() for name, value in state.items()}
    loss = twin(spec, state, tokens[0].tolist()).log_softmax(-1)[:, 7].sum()
    names = [spec.names[role].format(1) for role in ("q", "k", "v", "o", "gate", "down", "norm_1", "embed")]
    expected = torch.autograd.grad(loss, [state[name] for name in names])
    network.train()
    network(tokens)[0].log_softmax(-1)[:, 7].sum().backward()
    block: Any = network.blocks[1]
    got = [
        block.query,
        block.key,
        block.value,
        block.out,
        block.feed.gate,
        block.feed.down,
        block.norm_1,
        network.embedding,
    ]
    for value, layer in zip(expected, got, strict=True):
        assert isinstance(layer.weight.grad, Tensor)
        error = (layer.weight.grad - value).abs().max() / value.abs().max()
        assert float(error) < 1e-4
    where = torch.zeros_like(tokens, dtype=torch.bool)
    where[0, [0, 1, 8, 23]] = True
    assert torch.allclose(network.hidden(tokens, where=where)[where], network.hidden(tokens)[where], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_stays_within_its_own_noise(family: str, tmp_path: Path) -> None:
    """Weights held as stored: the error is at most twice that of the twin with each of its results rounded."""
    if not bfloat16_works():
        pytest.skip("this processor cannot compute in bfloat16")
    network, state = loaded(family, tmp_path, "stored")
    assert {value.dtype for value in network.parameters()} == {torch.bfloat16}
    tokens = some_tokens(network)
    expected = twin(SPECS[family], state, tokens[0].tolist())
    low = LowPrecision(network.lowered(torch.bfloat16), torch.bfloat16)
    with torch.no_grad():
        error = float((low.logits(low.hidden(tokens))[0] - expected).abs().max())
    noise = twin(SPECS[family], state, tokens[0].tolist(), lambda x: x.bfloat16().double()) - expected
    assert 0.1 * float(noise.abs().max()) < error < 2 * float(noise.abs().max())


@pytest.mark.parametrize("place", ["rope_scaling", "rope_parameters"])
def test_frequencies_of_llama_3_2(place: str, tmp_path: Path) -> None:
    """Slow pairs of channels turn `factor` times slower, fast ones as before; the control is the plain table."""
    write("llama", tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    factor, low, high, original = 32.0, 1.0, 4.0, 400
    scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high}
    scaling |= {"original_max_position_embeddings": original, "rope_theta": config["rope_theta"]}
    plain = load_denoiser(str(tmp_path)).denoiser
    file.write_text(json.dumps(config | {place: scaling}))
    network = load_denoiser(str(tmp_path)).denoiser
    assert isinstance(network, Transformer)
    assert isinstance(plain, Transformer)
    expected: list[float] = []
    for value in plain.rotary.frequencies:
        length = 2 * math.pi / value
        share = (original / length - low) / (high - low)
        slow, fast = length > original / low, length < original / high
        expected.append(value / factor if slow else value if fast else (1 - share) * value / factor + share * value)
    assert network.rotary.frequencies == pytest.approx(expected)
    tokens = some_tokens(plain)
    with torch.no_grad():
        assert not torch.allclose(network(tokens), plain(tokens), atol=1e-3)
    assert len({round(value / base, 3) for value, base in zip(expected, plain.rotary.frequencies, strict=True)}) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_and_direction(family: str, tmp_path: Path) -> None:
    """Right padding changes nothing; a later token changes earlier logits, but not earlier blocks of the attention."""
    network, spec = loaded(family, tmp_path)[0], SPECS[family]
    tokens = some_tokens(network)
    padded = torch.cat([tokens, torch.full((1, 8), 65)], 1)
    valid = torch.arange(LENGTH + 8)[None] < LENGTH
    with torch.no_grad():
        plain = network(tokens)
        assert torch.allclose(network(padded, valid)[:, :LENGTH], plain, atol=1e-5)
        if not spec.block:  # the control
            assert not torch.allclose(network(padded)[:, :LENGTH], plain, atol=1e-2)
        changed = tokens.clone()
        changed[0, 17] = (changed[0, 17] + 1) % 256
        moved = (network(changed) - plain)[0].abs().amax(-1)
    start = 17 // spec.block * spec.block if spec.block else 0
    assert float(moved[start + spec.shift :].min()) > 0
    if spec.block:
        assert float(moved[: start + spec.shift].max()) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_decodes_are_the_uncached_ones(family: str, tmp_path: Path) -> None:
    """Greedy, in blocks: the caches that compute every pass whole, and the causal cache; first positions included."""
    network, spec = loaded(family, tmp_path)[0], SPECS[family]
    tokens = some_tokens(network, masked=False, rows=2)
    tokens = torch.cat([tokens, tokens.flip(1)], 1)  # 48 positions
    tokens[0, 5:], tokens[1, 16:] = network.mask_id, network.mask_id
    canvas = Canvas.start(tokens, torch.tensor([1, 2]))

    def decoded(denoiser: Any) -> Tensor:
        return Decoder(denoiser, make("confidence:steps=4"), 0.0, block_size=16).decode(canvas).tokens

    plain = decoded(network)
    names = ["prefix:refresh=1", "dual:refresh=1", "delayed:refresh=1"]
    if spec.block:
        names += ["prefix", "dual", "causal"]
    for name in names:
        assert torch.equal(decoded(cached(network, name)), plain), name
    if not spec.block:  # the control
        assert not torch.equal(decoded(cached(network, "dual")), plain)


@pytest.mark.parametrize(
    "family, cache",
    [("llada", None), ("dream", "dual"), ("sdar", "causal"), ("fast-dllm-v2", "causal"), ("llada-moe", None)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_has_its_bits_in_any_batch(family: str, cache: str | None, dtype: torch.dtype, tmp_path: Path) -> None:
    if dtype == torch.bfloat16 and not bfloat16_works():
        pytest.skip("this processor cannot compute in bfloat16")
    denoiser: Any = computing_in(loaded(family, tmp_path)[0], dtype)
    denoiser = denoiser if cache is None else cached(denoiser, cache)
    check_policy(lambda: make("confidence:steps=3"), temperature=1.0, block_size=16, denoiser=denoiser)


def test_control_products_of_any_number_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An expert multiplies as many rows as positions chose it."""
    monkeypatch.setattr("unmask.model.transformer.pad_rows", lambda rows: rows)
    mixture = loaded("llada-moe", tmp_path)[0]
    with pytest.raises(PluginError, match="writes a row differently"):
        check_policy(lambda: make("confidence:steps=3"), temperature=1.0, block_size=16, denoiser=mixture)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_as_published_loads_and_generates(family: str, tmp_path: Path, capsys: Any) -> None:
    """By the command line; ids without a token are never written, whatever their logits."""
    from unmask.cli.main import main

    write(family, tmp_path)
    assert main(["info", str(tmp_path)]) == 0
    assert family in capsys.readouterr().out
    assert main(["generate", str(tmp_path), "ab", "--length", "12"]) == 0
    model = unmask.load(tmp_path, device="cpu", dtype="float32")
    result = model.generate("ab", length=40, temperature=5.0, policy="random:steps=2", stop_at_eos=False)
    assert max(result.tokens[0]) < model.tokenizer.vocab_size < model.network.vocab_size
    assert model.network.mask_id not in result.tokens[0]
