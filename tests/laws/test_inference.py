"""Passes without gradients: a row has the same bits in any batch, and packed weights are those of the network."""

import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unmask.denoiser import selection
from unmask.model import products
from unmask.model.dit import DiT
from unmask.model.inference import computing_in
from unmask.model.load import build
from unmask.model.settings import DiTSettings, EncoderSettings, TransformerSettings
from unmask.run.machine import bfloat16_works, processor_flags

SRC = Path(products.__file__).parents[2]
LENGTH, WIDTH = 48, 128  # the last product of a block has sums of 512 terms: too long in bfloat16
ARCHITECTURES = ("dit", "transformer", "encoder")
WIDER = 256  # and of 1,024 terms: too long in float32


def network(seed: int = 0, width: int = WIDTH) -> DiT:
    """Every weight random, so that each position depends on all."""
    model = randomized(DiTSettings(64, 63, LENGTH, width, 2, 2), seed)
    assert isinstance(model, DiT)
    return model


def settings(architecture: str, width: int) -> Any:
    """With a feed-forward of four times the width, as that of the DiT."""
    if architecture == "transformer":
        return TransformerSettings(64, 63, LENGTH, width, 2, 4, 2, width // 4, 4 * width)
    if architecture == "encoder":
        return EncoderSettings(64, 63, 61, 62, LENGTH + 2, width, 2, 2, 4 * width)
    return DiTSettings(64, 63, LENGTH, width, 2, 2)


def randomized(settings: Any, seed: int = 0) -> Any:
    model: Any = build(settings).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(
                torch.randn(value.shape, generator=generator) * (value.shape[-1] ** -0.5 if value.ndim > 1 else 1)
            )
    return model


def some_tokens(rows: int = 9) -> Tensor:
    return torch.randint(63, (rows, LENGTH), generator=torch.Generator().manual_seed(rows))


@torch.no_grad()
def differing(dtype: torch.dtype, width: int = WIDTH, architecture: str = "dit") -> list[str]:
    """Which ways of computing a row give it other bits than alone: in batches, and where few positions are needed."""
    denoiser, tokens = computing_in(randomized(settings(architecture, width)), dtype), some_tokens()
    alone = torch.cat([denoiser.hidden(row[None]) for row in tokens])
    where = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    ways = {
        "batch": denoiser.hidden(tokens),
        "part": torch.cat([denoiser.hidden(tokens[:4]), denoiser.hidden(tokens[4:])]),
    }
    bad = [name for name, value in ways.items() if not torch.equal(value, alone)]
    heads = torch.cat([denoiser.logits(row[:16]) for row in alone])
    if not torch.equal(denoiser.logits(alone[:, :16]).flatten(0, 1), heads):
        bad.append("head")
    if not torch.equal(denoiser.hidden(tokens, **selection(denoiser, where))[where], alone[where]):
        bad.append("where")
    return bad


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "width"), [("float32", WIDTH), ("float32", WIDER), ("bfloat16", WIDTH)])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("units", [True, False])
def test_a_row_has_the_bits_that_it_has_alone(dtype: str, width: int, threads: int, units: bool) -> None:
    """With packed weights, one and two threads, with and without the matrix units, each in a process of its own."""
    code = (
        "from unmask.run.machine import prepare; prepare()\n"
        "import torch; torch.set_num_threads(int(__import__('os').environ['OMP_NUM_THREADS']))\n"
        "from test_inference import ARCHITECTURES, differing\n"
        f"print([name for each in ARCHITECTURES for name in differing(torch.{dtype}, {width}, each)])"
    )
    environment = os.environ | {"PYTHONPATH": f"{SRC}:{Path(__file__).parent}", "OMP_NUM_THREADS": str(threads)}
    if not units:
        environment["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_BF16"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


bf16 = pytest.mark.skipif(not bfloat16_works(), reason="bfloat16 products are not possible on this machine")


@bf16
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_row_by_row_in_this_process(architecture: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert differing(dtype, architecture=architecture) == []


@bf16
@pytest.mark.skipif("amx_bf16" not in processor_flags(), reason="only matrix units divide long sums by the batch")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_control_long_sums_depend_on_the_batch(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "LONGEST_SUM", dict.fromkeys(products.LONGEST_SUM, 10**6))
    assert "batch" in differing(torch.bfloat16, architecture=architecture)


def written(model: DiT, other: DiT) -> None:
    model.load_state_dict(other.state_dict())


def trained(model: DiT, other: DiT) -> None:
    with torch.no_grad():
        for mine, its in zip(model.parameters(), other.parameters(), strict=True):
            mine.zero_().add_(its)


def replaced(model: DiT, other: DiT) -> None:
    for mine, its in zip(model.blocks, other.blocks, strict=True):
        for name in ("qkv", "out", "up", "down"):
            getattr(mine, name).weight = torch.nn.Parameter(getattr(its, name).weight.detach().clone())
    written(model, other)


def moved(model: DiT, other: DiT) -> None:
    model.float()
    written(model, other)
    model.lowered(torch.bfloat16)


def lowered_again(model: DiT, other: DiT) -> None:
    for mine, its in zip(model.parameters(), other.parameters(), strict=True):
        mine.data.copy_(its)
    model.lowered(torch.bfloat16)


@bf16
@pytest.mark.parametrize("change", [written, trained, replaced, moved, lowered_again])
@torch.no_grad()
def test_packed_weights_are_those_of_the_network(change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After any change the pass is that of a new network with these weights; the control never packs again."""
    tokens = some_tokens(2)
    other = network(1)
    fresh = computing_in(deepcopy(other), torch.bfloat16).hidden(tokens)
    lowered = deepcopy(other).lowered(torch.bfloat16)
    model = network(0)
    denoiser = computing_in(model, torch.bfloat16)
    before = denoiser.hidden(tokens)
    change(model, lowered if change in (trained, replaced) else other)
    assert torch.equal(denoiser.hidden(tokens), fresh)
    assert not torch.equal(before, fresh)


@bf16
@torch.no_grad()
def test_control_weights_that_are_not_packed_again_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, model = some_tokens(2), network(0)
    denoiser = computing_in(model, torch.bfloat16)
    before = denoiser.hidden(tokens)
    if model.packed is None or model.packed.of(model.blocks[0].qkv, 96) is None:  # pyright: ignore
        pytest.skip("this processor packs nothing")
    stale = {
        id(layer): model.packed.of(layer, 96)
        for block in model.blocks
        for layer in block.modules()
        if isinstance(layer, torch.nn.Linear)
    }
    monkeypatch.setattr(products.PackedWeights, "of", lambda self, layer, rows: stale[id(layer)])
    for block in model.blocks:
        block.qkv.weight.mul_(2)  # pyright: ignore
    assert torch.equal(denoiser.hidden(tokens), before)
    monkeypatch.undo()
    assert not torch.equal(denoiser.hidden(tokens), before)


@bf16
@torch.no_grad()
def test_without_memory_nothing_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass is then that of the plain weights, to rounding; a copy and a pickle pack anew."""
    tokens = some_tokens(2)
    packed = computing_in(network(), torch.bfloat16).hidden(tokens)
    monkeypatch.setattr(products, "available_bytes", lambda: 0)
    model = network()
    plain = computing_in(model, torch.bfloat16).hidden(tokens)
    assert model.packed is not None
    assert model.packed.of(model.blocks[0].qkv, 96) is None  # pyright: ignore
    assert float((plain - packed).abs().max()) < 0.05
    assert isinstance(deepcopy(model.packed), products.PackedWeights)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_large_networks_are_not_packed(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass has the same bits in float32; the control is the collection of the smaller network."""
    tokens, model = some_tokens(2), randomized(settings(architecture, WIDTH))
    packed = computing_in(model, torch.float32)
    assert model.packed is not None
    expected = [packed.hidden(tokens) for _ in range(4)][-1]
    monkeypatch.setattr(products, "_LARGEST", 1000)
    assert torch.equal(computing_in(model, torch.float32).hidden(tokens), expected)
    assert model.packed is None


mkl = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="float32 weights are packed by MKL")


@mkl
@pytest.mark.skipif("avx512f" not in processor_flags(), reason="other processors may divide no sum of 1,024 terms")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_control_long_float32_sums_depend_on_the_batch(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "LONGEST_SUM", dict.fromkeys(products.LONGEST_SUM, 10**6))
    assert "batch" in differing(torch.float32, WIDER, architecture)


@mkl
@torch.no_grad()
def test_float32_weights_are_packed_for_the_numbers_of_rows_that_return() -> None:
    """At the third use, for the three latest numbers; plain and packed weights give the same bits."""
    layer, packed = torch.nn.Linear(WIDER, 64), products.PackedWeights()
    x = torch.randn(96, WIDER, generator=torch.Generator().manual_seed(0))
    plain = products.product(layer, x, None)
    assert [packed.of(layer, 96) is None for _ in range(4)] == [True, True, False, False]
    assert torch.equal(products.product(layer, x, packed), plain)
    for rows in (16, 32, 48):
        assert [packed.of(layer, rows) is None for _ in range(3)] == [True, True, False]
    assert packed.of(layer, 96) is None  # the one that was not used for longest
    assert packed.bytes == 3 * layer.weight.nbytes
    layer.weight.mul_(2)
    assert [packed.of(layer, 48) is None for _ in range(3)] == [True, True, False]
    assert packed.bytes == layer.weight.nbytes
    assert torch.equal(products.product(layer, x[:48], packed), products.product(layer, x[:48], None))


@torch.no_grad()
def test_positions_that_are_not_needed_change_nothing() -> None:
    """The control: they are zero, so that a policy that reads hidden states is not served by it."""
    model, tokens = network(), some_tokens(3)
    where = torch.zeros(tokens.shape, dtype=torch.bool)
    where[0, 5] = where[2, 40:] = True
    whole, some = model.hidden(tokens), model.hidden(tokens, where=where)
    assert torch.equal(some[where], whole[where])
    assert not some[~where].any()
