"""Pickles of published models become checkpoints; models leave as folders that other programs load, and come back."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.extras import library
from tests.parity.published import write, write_dit
from torch import Tensor

from unmask.cli.main import main
from unmask.disk.checkpoint import write_checkpoint
from unmask.errors import CheckpointError, RequestError
from unmask.hf.bring import import_model
from unmask.hf.export import export_model
from unmask.model.load import build, load_denoiser, model_config
from unmask.model.settings import DiTSettings, EncoderSettings, RotaryScaling, TransformerSettings
from unmask.text.build import byte_tokenizer

TOKENS = torch.randint(256, (2, 24), generator=torch.Generator().manual_seed(1))


class Node:
    """A node of omegaconf, as far as a pickle has one."""

    def __init__(self, **content: Any) -> None:
        self.content = content

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("a node was given state")


def logits(folder: Path) -> Tensor:
    network: Any = load_denoiser(str(folder), dtype=torch.float32).denoiser
    with torch.no_grad():
        return network(TOKENS)


def as_pickles(folder: Path, indexed: bool = True) -> None:
    """Replace the safetensors files of a folder by pickles."""
    places: dict[str, str] = {}
    for number, file in enumerate(sorted(folder.glob("*.safetensors")), start=1):
        name = f"pytorch_model-{number:05}-of-00002.bin"
        tensors = load_file(file)
        torch.save(tensors, folder / name)
        places |= dict.fromkeys(tensors, name)
        file.unlink()
    (folder / "model.safetensors.index.json").unlink()
    if indexed:
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))


@pytest.mark.parametrize("indexed", [True, False])
def test_a_folder_of_pickles(indexed: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Loading refuses the folder; what is imported computes the same as from safetensors, and generates."""
    write("llada", tmp_path / "llada")
    expected = logits(tmp_path / "llada")
    as_pickles(tmp_path / "llada", indexed)
    assert main(["info", str(tmp_path / "llada")]) == 2
    assert "unmask import" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "llada"), "--out", str(tmp_path / "out")]) == 0
    assert torch.equal(logits(tmp_path / "out"), expected)
    assert main(["generate", str(tmp_path / "out"), "ab", "--length", "8"]) == 0
    if indexed:
        next((tmp_path / "llada").glob("*-00002-of-00002.bin")).unlink()
        with pytest.raises(
            CheckpointError, match=r"names pytorch_model-00002-of-00002\.bin, which is not in the folder"
        ):
            import_model(tmp_path / "llada", tmp_path / "again")


def untrained(value: Tensor) -> Tensor:
    """A tensor of a run -> the same, but the weight of the time input as it began at the inputs that are 0."""
    if value.shape[1:] != (256,):
        return value
    return torch.cat([value[:, :128], value[:, 128:].clamp(-1 / 16, 1 / 16)], 1)


def lightning(folder: Path, state: dict[str, Tensor], shadows: list[Tensor] | None, timed: bool = False) -> Path:
    """Write the .ckpt of a run without time input, with a configuration and callbacks in it."""
    if not timed:
        state = {name: untrained(value) for name, value in state.items()}
        shadows = shadows and [untrained(value) for value in shadows]
    value: dict[str, Any] = {
        "epoch": 0,
        "state_dict": state,
        "hyper_parameters": {"config": Node(model=Node(length=64)), "tokenizer": Node()},
        "callbacks": {"ModelCheckpoint": {"best": Node(inner=[Node()])}},
    }
    if shadows is not None:
        value["ema"] = {"decay": 0.9999, "num_updates": 3, "shadow_params": shadows}
    torch.save(value, folder / "last.ckpt")
    return folder / "last.ckpt"


def test_a_run_of_mdlm(tmp_path: Path) -> None:
    """Moving averages are mapped to the parameters by their order; --raw takes the parameters."""
    raw = write_dit("mdlm", tmp_path / "raw", seed=0)
    averaged = write_dit("mdlm", tmp_path / "ema", seed=1)
    shadows = [value for name, value in averaged.items() if not name.endswith("inv_freq")]
    file = lightning(tmp_path, raw, shadows)
    import_model(file, tmp_path / "out", tokenizer=tmp_path / "ema", length=64)
    import_model(file, tmp_path / "out-raw", tokenizer=tmp_path / "ema" / "tokenizer.json", length=64, raw=True)
    assert torch.equal(logits(tmp_path / "out"), logits(tmp_path / "ema"))
    assert torch.equal(logits(tmp_path / "out-raw"), logits(tmp_path / "raw"))
    assert not torch.equal(logits(tmp_path / "out"), logits(tmp_path / "out-raw"))
    assert load_denoiser(str(tmp_path / "out")).denoiser.max_length == 64
    assert main(["generate", str(tmp_path / "out"), "ab", "--length", "8", "--policy", "confidence:steps=4"]) == 0
    import_model(lightning(tmp_path, raw, None), tmp_path / "out-none", tokenizer=tmp_path / "ema", length=64)
    assert torch.equal(logits(tmp_path / "out-none"), logits(tmp_path / "raw"))


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda shadows: shadows[1:], "there are 33 for 34|has another shape"),
        (lambda shadows: [shadows[1], shadows[0], *shadows[2:]], "has another shape"),
        (lambda shadows: [*shadows, shadows[0]], "there are"),
    ],
)
def test_averages_that_do_not_fit(change: Any, reason: str, tmp_path: Path) -> None:
    state = write_dit("mdlm", tmp_path / "raw")
    shadows = [value for name, value in state.items() if not name.endswith("inv_freq")]
    file = lightning(tmp_path, state, change(shadows))
    with pytest.raises(CheckpointError, match=rf"moving averages that do not fit.*({reason})"):
        import_model(file, tmp_path / "out", tokenizer=tmp_path / "raw")


@pytest.mark.parametrize(
    "value, reason",
    [
        ({"model": {}}, "has no state_dict"),
        ({"state_dict": {"net.weight": torch.zeros(2)}}, "no tensor 'backbone"),
        ({"state_dict": {"backbone.x": torch.zeros(2)}}, "no tensor 'backbone.vocab_embed.embedding'"),
        ({"state_dict": {"backbone.x": 1}}, "not a dictionary of tensors alone"),
    ],
)
def test_other_runs(value: Any, reason: str, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=reason):
        import_model(tmp_path / "x.ckpt", tmp_path / "out")


def test_runs_of_other_diffusions(tmp_path: Path) -> None:
    """Their tensors have the names and shapes of MDLM's. The control is the same file as a run without time input."""
    state = write_dit("mdlm", tmp_path / "raw")
    with pytest.raises(CheckpointError, match="time input that was trained: it is a run of Duo"):
        import_model(lightning(tmp_path, state, None, timed=True), tmp_path / "out", tokenizer=tmp_path / "raw")
    clipped = state | {"sampling_eps_min": torch.tensor(1e-3), "sampling_eps_max": torch.tensor(1.0)}
    with pytest.raises(CheckpointError, match="is a run of BD3-LM, whose block size is not in the file"):
        import_model(lightning(tmp_path, clipped, None), tmp_path / "out", tokenizer=tmp_path / "raw")
    import_model(lightning(tmp_path, state, None), tmp_path / "out", tokenizer=tmp_path / "raw")


def test_a_damaged_network_is_named(tmp_path: Path) -> None:
    """A tensor that is missing in the pickle is missing in the sentence of loading."""
    state = write_dit("mdlm", tmp_path / "raw")
    state.pop("backbone.output_layer.linear.bias")
    with pytest.raises(CheckpointError, match=r"output_layer\.linear\.bias"):
        import_model(lightning(tmp_path, state, None), tmp_path / "out", tokenizer=tmp_path / "raw")
    assert not (tmp_path / "out").exists()


# ---- export ----------------------------------------------------------------------------------------------------------

_SHAPE: dict[str, Any] = {"max_length": 64, "width": 32, "blocks": 2, "heads": 4}
_LLAMA = TransformerSettings(272, 256, **_SHAPE, kv_heads=2, head=8, inner=48, base=5e4)
NETWORKS: dict[str, Any] = {
    "llama scaled": replace(_LLAMA, scaling=RotaryScaling("llama3", 32.0, 64, 1.0, 4.0)),
    "llama": _LLAMA,
    "qwen2": replace(_LLAMA, qkv_bias=True, tied=True, shift=True),
    "qwen3": replace(_LLAMA, qk_norm=True, head=16, causal_block=4),
    "bert": EncoderSettings(264, 256, 257, 258, 40, 32, 2, 4, 48, eps=1e-5, first=2),
    "mdlm": DiTSettings(264, 256, **_SHAPE),
    "mdlm constant": DiTSettings(264, 256, **_SHAPE, modulation="constant", gelu="tanh"),
    "bd3lm": DiTSettings(264, 256, **_SHAPE, causal_block=4),
}


def saved(settings: Any, folder: Path) -> Path:
    """Write a checkpoint of a network with weights that are not trivial."""
    network: Any = build(settings)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            weight.copy_(mean + 0.3 * torch.randn_like(weight))
    tokenizer = byte_tokenizer()
    return write_checkpoint(
        folder,
        network.state_dict(keep_vars=True),
        model_config(settings, "linear") | {"decoding": {"policy": "confidence:steps=4"}},
        tokenizer_json=tokenizer.to_json(),
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_exported_loads_back_equal(name: str, tmp_path: Path) -> None:
    saved(NETWORKS[name], tmp_path / "ours")
    export_model(str(tmp_path / "ours"), tmp_path / "theirs")
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert config["model_type"] == name.split()[0]
    assert torch.equal(logits(tmp_path / "theirs"), logits(tmp_path / "ours"))
    back = load_denoiser(str(tmp_path / "theirs"))
    assert back.tokenizer.special_ids == load_denoiser(str(tmp_path / "ours")).tokenizer.special_ids
    assert back.checkpoint.config["decoding"] == {"policy": "confidence:steps=4"}
    if not isinstance(NETWORKS[name], EncoderSettings):
        assert back.denoiser.settings == NETWORKS[name]
    shutil.copytree(tmp_path / "theirs", tmp_path / "changed")  # the control: a weight of the folder matters
    tensors = load_file(tmp_path / "changed" / "model.safetensors")
    key = next(key for key in sorted(tensors) if "norm" in key.lower() and key.endswith("weight"))
    save_file(tensors | {key: tensors[key] + 1}, tmp_path / "changed" / "model.safetensors")
    assert not torch.equal(logits(tmp_path / "changed"), logits(tmp_path / "ours"))


@pytest.mark.parametrize(
    "settings, reason",
    [
        (replace(_LLAMA, qk_norm=True, qkv_bias=True), "biases and norms"),
        (replace(_LLAMA, scaling=RotaryScaling("linear", 2.0)), "scaled positions"),
        (replace(_LLAMA, qkv_bias=True, head=16), "no size of a head"),
        (DiTSettings(264, 256, **_SHAPE, modulation="time"), "a time input"),
        (DiTSettings(264, 256, **_SHAPE, absolute=True), "learned positions"),
    ],
)
def test_what_is_not_exported(settings: Any, reason: str, tmp_path: Path) -> None:
    saved(settings, tmp_path / "ours")
    with pytest.raises(RequestError, match=reason):
        export_model(str(tmp_path / "ours"), tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()


@pytest.mark.extras
@pytest.mark.parametrize("name", ["llama", "llama scaled", "qwen2", "qwen3", "bert"])
def test_transformers_loads_what_is_exported(name: str, tmp_path: Path) -> None:
    """Needs the extra hf. An all-zero additive mask is full attention."""
    transformers: Any = library("transformers", "hf")
    settings = NETWORKS[name]
    saved(settings, tmp_path / "ours")
    export_model(str(tmp_path / "ours"), tmp_path / "theirs")
    if name == "bert":
        theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "theirs").eval()
        ids = torch.cat([torch.full((2, 1), 257), TOKENS, torch.full((2, 1), 258)], 1)
        with torch.no_grad():
            output = theirs(ids).logits[:, 1:-1]
        words = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
        assert words("ab")["input_ids"] == [257, 97, 98, 258]
    else:
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", dtype=torch.float32).eval()
        seen = torch.arange(24) // 4 if name == "qwen3" else torch.zeros(24)
        mask = torch.where(seen[None] > seen[:, None], -torch.inf, 0.0)[None, None].expand(2, 1, -1, -1)
        with torch.no_grad():
            output = theirs(TOKENS, attention_mask=mask).logits
        if settings.shift:
            output = torch.cat([output[:, :1], output[:, :-1]], 1)
    assert float((output - logits(tmp_path / "ours")).abs().max()) < 1e-4
