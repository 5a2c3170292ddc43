"""What a dry run prints is arithmetic: it equals what is counted on networks, and tiny models have published names."""

import json
from pathlib import Path

import pytest
import torch
from tests.parity.published import SPECS, shapes
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import unmask
from unmask.cli.about import describe
from unmask.disk.tensors import read_shards
from unmask.errors import RequestError
from unmask.model.load import build, parameter_count
from unmask.model.settings import TransformerSettings
from unmask.model.zoo.read import FAMILIES, read_model
from unmask.model.zoo.tiny import PUBLISHED, Published, published_network, write_tiny
from unmask.solve.needs import RATE, needs_of

SETTINGS = TransformerSettings(60, 59, 64, 32, 3, 4, 2, 8, 48, qkv_bias=True)


def operations(rows: int, length: int, looked_at: int) -> float:
    """Operations of the matrix products of a pass over a row, and of the head at some positions, as torch counts."""
    network = build(SETTINGS).eval()
    tokens = torch.zeros(rows, length, dtype=torch.int64)
    # with gradients and in plain products, which torch counts
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network.logits(network.hidden(tokens)[:, :looked_at])
    return counter.get_total_flops() / rows


def test_operations_are_those_that_torch_counts() -> None:
    needs = needs_of(SETTINGS, length=24, block=8, batch=2, prompt=8)
    assert needs.pass_operations == pytest.approx(operations(2, 32, 8), rel=1e-6)
    assert needs.pass_operations != pytest.approx(operations(2, 32, 24), rel=1e-3)
    assert needs.hours(10, 24) == pytest.approx(10 * 24 * needs.pass_operations / RATE / 3600)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_of_the_network(name: str) -> None:
    settings, network = published_network(PUBLISHED[name], name)
    needs = needs_of(settings, length=256, block=32, batch=32)
    assert needs.parameters == parameter_count(settings)
    assert network.tokens["mask"] == settings.mask_id
    assert needs_of(SETTINGS, length=8, block=8, batch=1).parameters == parameter_count(SETTINGS)


def test_llada_has_the_size_of_its_published_files() -> None:
    settings, _ = published_network(PUBLISHED["GSAI-ML/LLaDA-8B-Instruct"], "LLaDA")
    needs = needs_of(settings, length=256, block=32, batch=1)
    assert needs.parameters == 8_015_581_184
    assert needs.weights["bfloat16"] == 16_031_162_368  # total_size of its index


def test_bytes_are_those_that_info_prints(tmp_path: Path) -> None:
    write_tiny(PUBLISHED["GSAI-ML/LLaDA-8B-Instruct"], tmp_path / "tiny")
    checkpoint = read_model(tmp_path / "tiny")
    settings = TransformerSettings(**checkpoint.config["model"])
    needs, memory = needs_of(settings, length=256, block=32, batch=1), describe(checkpoint)["memory"]
    assert needs.weights == {name: memory[name] for name in ("bfloat16", "int8")}
    assert needs.cache == 456 * memory["cache"]


@pytest.mark.parametrize("family", SPECS)
def test_a_tiny_model_has_the_published_names_and_decodes(family: str, tmp_path: Path) -> None:
    spec = SPECS[family]
    tokens = {name: 256 + number for number, name in enumerate(spec.special)}
    write_tiny(Published(spec.config, tokens), tmp_path / "tiny")
    stored = {name for tensors in read_shards(tmp_path / "tiny").values() for name in tensors}
    assert stored == set(shapes(spec))
    if family in ("llama", "qwen2", "qwen3"):
        return  # causal models: made masked ones by training
    model = unmask.load(tmp_path / "tiny", device="cpu")
    assert len(model.generate("a text", length=8, policy="confidence:steps=2", temperature=0).tokens[0]) == 14


def test_the_published_config_is_read_as_data() -> None:
    for name, published in PUBLISHED.items():
        assert json.loads(json.dumps(dict(published.config))) == published.config
        assert name in [repository for family in FAMILIES.values() for repository in family.repositories]


def test_a_family_that_is_no_transformer_has_no_tiny_model(tmp_path: Path) -> None:
    config = {"model_type": "mdlm", "architectures": ["MDLM"]}
    with pytest.raises(RequestError, match="There is no tiny model of"):
        write_tiny(Published(config, {}), tmp_path / "tiny")
