"""The encoder against a slow twin of BERT and RoBERTa, from folders laid out as published."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.parity.published import weights
from torch import Tensor

import unmask
from unmask.disk.torch_files import TorchFile
from unmask.hf.bring import import_model
from unmask.model.encoder import framed
from unmask.model.load import load_denoiser

LETTERS = "abcdefghij"
TOKENS = {
    "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS],
    "roberta": ["<s>", "<pad>", "</s>", "<unk>", *LETTERS, "<mask>"],
}
HEADS = {
    "bert": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"),
    "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
}


def shapes(model: str) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor by its published name: width 16, two blocks, 40 positions."""
    width, inner, rows = 16, 24, len(TOKENS[model])
    layers = {f"{model}.embeddings.LayerNorm": (width,), HEADS[model][0]: (width, width), HEADS[model][1]: (width,)}
    for n in range(2):
        layer = f"{model}.encoder.layer.{n}."
        layers |= {f"{layer}attention.self.{part}": (width, width) for part in ("query", "key", "value")}
        layers |= {f"{layer}attention.output.dense": (width, width), f"{layer}attention.output.LayerNorm": (width,)}
        layers |= {f"{layer}intermediate.dense": (inner, width), f"{layer}output.dense": (width, inner)}
        layers |= {f"{layer}output.LayerNorm": (width,)}
    sizes = {f"{name}.weight": size for name, size in layers.items()}
    sizes |= {f"{name}.bias": size[:1] for name, size in layers.items()}
    tables = {"word": rows, "position": 40, "token_type": 2}
    sizes |= {f"{model}.embeddings.{name}_embeddings.weight": (count, width) for name, count in tables.items()}
    return sizes | {HEADS[model][2]: (rows,)}


def write(model: str, folder: Path, old: bool = False) -> dict[str, Tensor]:
    """Write a folder as published -> its tensors; `old`: LayerNorm's names of 2018, a pickle, vocab.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    state = weights(shapes(model))
    config = {
        "model_type": model,
        "vocab_size": len(TOKENS[model]),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 24,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 40,
        "type_vocab_size": 2,
        "pad_token_id": 0 if model == "bert" else 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    extra = {f"{model}.pooler.dense.weight": torch.zeros(16, 16), f"{model}.pooler.dense.bias": torch.zeros(16)}
    if old:
        names = {name: name.replace("LayerNorm.weight", "LayerNorm.gamma") for name in state}
        names = {name: new.replace("LayerNorm.bias", "LayerNorm.beta") for name, new in names.items()}
        torch.save({names[name]: value for name, value in (state | extra).items() if name in names}, folder / "w")
        (folder / "w").rename(folder / "pytorch_model.bin")
        (folder / "vocab.txt").write_text("\n".join(TOKENS[model]) + "\n")
        return state
    save_file(state | extra, folder / "model.safetensors", {"format": "pt"})
    vocabulary = {token: number for number, token in enumerate(TOKENS[model])}
    flags = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    special = [{"id": number, "content": token, **flags} for token, number in vocabulary.items() if len(token) > 1]
    unknown = next(token for token in vocabulary if "unk" in token.lower())
    split = {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": False}
    record = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None}
    record |= {"pre_tokenizer": split, "post_processor": None, "decoder": {"type": "Fuse"}}
    record |= {"model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": unknown}}
    (folder / "tokenizer.json").write_text(json.dumps(record))
    return state


def twin(model: str, state: dict[str, Tensor], ids: list[int]) -> Tensor:
    """The ids of one text with its start and end token -> logits (L, V), by the published equations, in float64."""
    state = {name: value.double() for name, value in state.items()}

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def gelu(x: Tensor) -> Tensor:
        return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))

    first = 2 if model == "roberta" else 0
    tables = [state[f"{model}.embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")]
    x = tables[0][ids] + tables[1][first : first + len(ids)] + tables[2][0]
    x = norm(f"{model}.embeddings.LayerNorm", x)
    for n in range(2):
        layer, rows = f"{model}.encoder.layer.{n}.", []
        q, k, v = (linear(f"{layer}attention.self.{part}", x) for part in ("query", "key", "value"))
        for head in range(4):
            part = slice(4 * head, 4 * head + 4)
            rows.append((q[:, part] @ k[:, part].T / 2).softmax(-1) @ v[:, part])
        x = norm(f"{layer}attention.output.LayerNorm", x + linear(f"{layer}attention.output.dense", torch.cat(rows, 1)))
        inner = gelu(linear(f"{layer}intermediate.dense", x))
        x = norm(f"{layer}output.LayerNorm", x + linear(f"{layer}output.dense", inner))
    dense, layer_norm, bias = HEADS[model]
    return norm(layer_norm, gelu(linear(dense, x))) @ tables[0].T + state[bias]


@pytest.mark.parametrize("model", ["bert", "roberta"])
def test_logits_are_those_of_the_twin(model: str, tmp_path: Path) -> None:
    """Start and end token are added to each row, whatever its padding. The control leaves them out."""
    state = write(model, tmp_path)
    loaded = load_denoiser(str(tmp_path))
    network: Any = loaded.denoiser
    assert network.max_length == (38 if model == "bert" else 36)
    start, end = network.frame
    text, short = loaded.tokenizer.encode("abcdefghij"), loaded.tokenizer.encode("jihgf")
    text[3] = short[1] = network.mask_id
    tokens = torch.tensor([text, short + [loaded.tokenizer.pad_id] * 5])
    valid = torch.tensor([[True] * 10, [True] * 5 + [False] * 5])
    with torch.no_grad():
        logits = network(tokens, valid)
        alone = network(tokens[1:, :5])
    for row, ids in enumerate((text, short)):
        expected = twin(model, state, [start, *ids, end])[1:-1]
        assert float((logits[row, : len(ids)] - expected).abs().max()) < 1e-5 * float(expected.abs().max())
        assert float((logits[row, : len(ids)] - twin(model, state, ids)).abs().max()) > 1e-2
    assert float((logits[1, :5] - alone[0]).abs().max()) < 1e-5


def test_frames() -> None:
    tokens = torch.tensor([[7, 8, 9], [7, 8, 0], [0, 0, 0]])
    ids, seen = framed(tokens, tokens > 0, 1, 2)
    assert ids.shape == seen.shape == (3, 16)
    assert [row[mask].tolist() for row, mask in zip(ids, seen, strict=True)] == [[1, 7, 8, 9, 2], [1, 7, 8, 2], [1, 2]]
    ids, seen = framed(tokens, None, 1, 2)
    assert ids[:, :5].tolist() == [[1, 7, 8, 9, 2], [1, 7, 8, 0, 2], [1, 0, 0, 0, 2]]
    assert seen.sum(-1).tolist() == [5, 5, 5]


@pytest.mark.parametrize("model", ["bert", "roberta"])
def test_special_tokens_are_never_written(model: str, tmp_path: Path) -> None:
    write(model, tmp_path)
    loaded = unmask.load(tmp_path, device="cpu", dtype="float32")
    written = loaded.generate(["", "ab"], length=20, policy="random", temperature=50.0, seed=3).texts
    assert all(set(text) <= set(LETTERS) for text in written)
    with torch.no_grad():  # the control: the network itself gives them a probability
        probabilities = loaded.network.logits(
            loaded.network.hidden(torch.full((1, 8), loaded.network.mask_id))
        ).softmax(-1)
    assert float(probabilities[..., [*loaded.denoiser.frame]].sum()) > 1e-3  # type: ignore[attr-defined]


def test_a_folder_of_2018_is_imported(tmp_path: Path) -> None:
    """A pickle with the names gamma and beta, and vocab.txt: the same network as from safetensors."""
    write("bert", tmp_path / "new")
    write("bert", tmp_path / "old", old=True)
    assert TorchFile(tmp_path / "old" / "pytorch_model.bin").keys
    folder = import_model(tmp_path / "old", tmp_path / "out")
    tokens = torch.tensor([[5, 4, 6]])
    networks: list[Any] = [load_denoiser(str(path)).denoiser for path in (tmp_path / "new", folder)]
    with torch.no_grad():
        assert torch.equal(networks[0](tokens), networks[1](tokens))
    assert load_denoiser(str(folder)).tokenizer.encode("b a") == [6, 5]
