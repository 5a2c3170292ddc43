"""Weights in int8: quantised as they are read, close to the stored ones; what `unmask info` says of their memory."""

import importlib
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.extras import library
from tests.parity.published import write, write_dit
from torch import nn

import unmask
from unmask.cli.about import describe
from unmask.cli.main import main
from unmask.disk.checkpoint import FORMAT, Checkpoint
from unmask.disk.tensors import TensorFacts
from unmask.errors import RequestError
from unmask.model.load import load_denoiser, model_config
from unmask.model.settings import TransformerSettings
from unmask.model.transformer import Transformer
from unmask.run.machine import bfloat16_works


def test_layers_are_quantised_as_they_are_read(tmp_path: Path) -> None:
    """When a layer is quantised, no weight of those before it exists any more. The control keeps what was read."""
    write("llada-moe", tmp_path)
    read: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def quantise(layer: nn.Linear) -> None:
        alive.append(sum(weight() is not None for weight in read))
        read.append(weakref.ref(layer.weight))
        layer.weight = nn.Parameter(layer.weight.detach().to(torch.int8), requires_grad=False)

    network: Any = load_denoiser(str(tmp_path), dtype=torch.bfloat16, quantise=quantise).denoiser
    matrices = {name: value.dtype for name, value in network.named_parameters() if value.ndim == 2}
    rest = {name for name, dtype in matrices.items() if dtype != torch.int8}
    assert rest == {"embedding.weight", "head.weight", *(f"blocks.{n}.feed.router.weight" for n in range(2))}
    assert len(alive) == len(matrices) - len(rest)
    assert max(alive) == 0
    kept: list[torch.Tensor] = []
    read.clear()
    alive.clear()

    def keeping(layer: nn.Linear) -> None:
        kept.append(layer.weight)
        quantise(layer)

    load_denoiser(str(tmp_path), dtype=torch.bfloat16, quantise=keeping)
    assert max(alive) > 0


@pytest.mark.extras
@pytest.mark.parametrize("family", ["llada", "dream", "llada2"])
def test_the_function_of_int8_weights(family: str, tmp_path: Path) -> None:
    """Within the rounding of a weight, half a step of its row; the control is a network with other weights."""
    library("torchao", "int8")
    if not bfloat16_works():
        pytest.skip("this processor cannot compute in bfloat16")
    write(family, tmp_path / "a")
    write(family, tmp_path / "b", seed=1)
    plain, other = (unmask.load(tmp_path / name, device="cpu", dtype="bfloat16") for name in "ab")
    model = unmask.load(tmp_path / "a", device="cpu", dtype="int8")
    assert isinstance(model.network, Transformer)
    assert isinstance(plain.network, Transformer)
    for (name, value), stored in zip(model.network.named_parameters(), plain.network.parameters(), strict=True):
        if type(value) is not nn.Parameter:
            full: Any = value
            error = (full.dequantize(torch.float32) - stored.float()).abs()
            assert bool((error <= full.scale * 0.51 + stored.float().abs() * 2**-8).all()), name
    tokens = torch.randint(256, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, expected, far = (
            each.denoiser.logits(each.denoiser.hidden(tokens))[..., :256] for each in (model, plain, other)
        )
    assert float((logits - expected).abs().mean()) < 0.2 * float((far - expected).abs().mean())
    assert len(model.generate("ab", length=8).texts) == 1


@pytest.mark.extras
def test_inductor_is_left_alone() -> None:
    library("torchao", "int8")
    config: Any = importlib.import_module("torch._inductor.config")
    before = config.save_config()
    int8: Any = importlib.import_module("unmask.hf.int8")
    layer = nn.Linear(32, 1030).bfloat16()
    weight = layer.weight.detach().float()
    int8.int8_weights()(layer)
    assert config.save_config() == before
    quantised: Any = layer.weight
    assert quantised.qdata.dtype == torch.int8
    assert quantised.scale.shape == (1030, 1)
    assert float((quantised.dequantize(torch.float32) - weight).abs().max()) < 2 * float(quantised.scale.max())


def test_what_is_not_held_in_int8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("llada", tmp_path / "llada")
    write_dit("mdlm", tmp_path / "mdlm")
    with pytest.raises(RequestError, match=r"int8 are for transformers, and .* is none: leave out --dtype int8"):
        load_denoiser(str(tmp_path / "mdlm"), quantise=lambda layer: None)
    monkeypatch.setitem(importlib.import_module("sys").modules, "torchao", None)
    monkeypatch.setitem(importlib.import_module("sys").modules, "torchao.quantization", None)
    with pytest.raises(RequestError, match=r"needs torchao: pip install 'unmask\[int8\]'"):
        unmask.load(tmp_path / "llada", device="cpu", dtype="int8")


def test_what_info_says_of_llada_8b(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By arithmetic: 16.0 GB in bfloat16 fit 24, and 9.1 GB in int8 fit 12, each with the cache of a whole window."""
    settings = TransformerSettings(126464, 126336, 4096, 4096, 32, 32, 32, 128, 12288)
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in Transformer(settings).named_parameters()}
    tensors = {name: TensorFacts(shape, "BF16") for name, shape in shapes.items()}
    checkpoint = Checkpoint(tmp_path, FORMAT, {}, model_config(settings, "linear"), None, None, None, tensors, {})
    memory = describe(checkpoint)["memory"]
    matrices = 32 * (4 * 4096**2 + 3 * 4096 * 12288)
    rows = 32 * (4 * 4096 + 2 * 12288 + 4096)
    assert memory["bfloat16"] == 2 * 8_015_581_184
    assert memory["int8"] == 2 * (8_015_581_184 - matrices) + matrices + 4 * rows
    assert memory["bfloat16"] + 4096 * memory["cache"] < 24e9
    assert memory["int8"] + 4096 * memory["cache"] < 12e9
    write("llada", tmp_path / "llada")
    assert main(["info", str(tmp_path / "llada")]) == 0
    assert " in int8" in capsys.readouterr().out
