"""Diffusion transformers as published (MDLM, BD3-LM, SEDD) against a slow twin in float64."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.parity.published import dit_config, write_dit
from torch import Tensor

import unmask
from unmask.errors import CheckpointError
from unmask.model.load import load_denoiser

MODELS = ["mdlm", "bd3lm", "sedd"]


def layer_norm(x: Tensor, weight: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def twin(state: dict[str, Tensor], tokens: list[int], sigma: float, block: int = 0) -> Tensor:
    """Token ids of one row and sigma -> logits (L, V), by the published equations."""
    state = {name.removeprefix("backbone."): value.double() for name, value in state.items()}

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", torch.tensor(0.0))

    def silu(x: Tensor) -> Tensor:
        return x / (1 + (-x).exp())

    angles = sigma * torch.exp(-math.log(10_000) * torch.arange(128, dtype=torch.float64) / 128)
    time = torch.cat([angles.cos(), angles.sin()])
    cond = silu(linear("sigma_map.mlp.2", silu(linear("sigma_map.mlp.0", time))))
    x, length = state["vocab_embed.embedding"][tokens], len(tokens)
    for n in range(2):
        shift, scale, gate, *mlp = linear(f"blocks.{n}.adaLN_modulation", cond).chunk(6)
        qkv = linear(f"blocks.{n}.attn_qkv", layer_norm(x, state[f"blocks.{n}.norm1.weight"]) * (1 + scale) + shift)
        q, k, v = qkv.view(length, 3, 2, 16).unbind(1)
        turns = torch.arange(length)[:, None] * 10_000.0 ** (-torch.arange(8, dtype=torch.float64) / 8)
        spin = torch.polar(torch.ones_like(turns), turns)[:, None]
        q, k = (torch.complex(part[..., :8], part[..., 8:]) * spin for part in (q, k))
        scores = torch.einsum("ahd,bhd->hab", q, k.conj()).real / 4
        if block:
            places = torch.arange(length) // block
            scores = scores.masked_fill(places[None] > places[:, None], -torch.inf)
        heads = torch.einsum("hab,bhd->ahd", scores.softmax(-1), v).flatten(1)
        x = x + gate * linear(f"blocks.{n}.attn_out", heads)
        inner = linear(f"blocks.{n}.mlp.0", layer_norm(x, state[f"blocks.{n}.norm2.weight"]) * (1 + mlp[1]) + mlp[0])
        inner = inner * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        x = x + mlp[2] * linear(f"blocks.{n}.mlp.2", inner)
    shift, scale = linear("output_layer.adaLN_modulation", cond).chunk(2)
    final = layer_norm(x, state["output_layer.norm_final.weight"]) * (1 + scale) + shift
    return linear("output_layer.linear", final)


def sigma_of(tokens: Tensor, mask_id: int) -> float:
    """The log-linear sigma at which the expected share of masked tokens is that of `tokens`."""
    return -math.log1p(-(1 - 1e-3) * float((tokens == mask_id).double().mean()))


@pytest.mark.parametrize("model", MODELS)
def test_logits_are_those_of_the_twin(model: str, tmp_path: Path) -> None:
    """The controls are another sigma and, for BD3-LM, full attention."""
    state = write_dit(model, tmp_path)
    network: Any = load_denoiser(str(tmp_path)).denoiser
    tokens = torch.randint(256, (1, 22), generator=torch.Generator().manual_seed(1))
    tokens[:, 5::2] = network.mask_id
    share = (tokens == network.mask_id).float().mean(-1)
    sigma, block = (sigma_of(tokens, network.mask_id) if model == "sedd" else 0.0), 4 if model == "bd3lm" else 0
    assert network.time_conditioned == (model == "sedd")
    with torch.no_grad():
        logits = network(tokens, time=share)[0]
    expected = twin(state, tokens[0].tolist(), sigma, block)
    assert float((logits - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    for changed in ((sigma + 1, block), (sigma, 0 if block else 4)):
        assert float((logits - twin(state, tokens[0].tolist(), *changed)).abs().max()) > 1e-2


@pytest.mark.parametrize("model", MODELS)
def test_a_folder_as_published_loads_and_generates(model: str, tmp_path: Path, capsys: Any) -> None:
    from unmask.cli.main import main

    write_dit(model, tmp_path)
    assert main(["info", str(tmp_path)]) == 0
    assert f"{model}: " in capsys.readouterr().out
    assert main(["generate", str(tmp_path), "ab", "--length", "12"]) == 0
    loaded = unmask.load(tmp_path, device="cpu", dtype="float32")
    assert loaded.network.mask_id == 257 not in loaded.generate("ab", length=30, stop_at_eos=False).tokens[0]
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json; copy it from openai-community/gpt2"):
        unmask.load(tmp_path)


def test_a_time_input_that_is_used_is_refused(tmp_path: Path) -> None:
    import json

    write_dit("mdlm", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(dit_config("mdlm", time_conditioning=True)))
    with pytest.raises(CheckpointError, match="has time_conditioning True, and the family 'mdlm' is implemented for"):
        load_denoiser(str(tmp_path))
