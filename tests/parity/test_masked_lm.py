"""Any class of AutoModelForMaskedLM as a denoiser, against the class itself. Needs the extra hf."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import unmask
from unmask.cli.main import main
from unmask.errors import CheckpointError, RequestError

transformers: Any = pytest.importorskip("transformers")

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
TOKENS = {
    "modernbert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS],
    "esm": ["<cls>", "<pad>", "<eos>", "<unk>", *LETTERS, "<mask>"],
    "distilbert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS],
}
_SHAPE = {
    "vocab_size": 25,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "modernbert": {**_SHAPE, "local_attention": 4, "max_position_embeddings": 40, "pad_token_id": 0, "bos_token_id": 2}
    | {"eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
    "esm": {**_SHAPE, "max_position_embeddings": 42, "pad_token_id": 1, "mask_token_id": 24, "token_dropout": True}
    | {"position_embedding_type": "rotary", "emb_layer_norm_before": False},
    "distilbert": {"vocab_size": 25, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "pad_token_id": 0}
    | {"max_position_embeddings": 40},
}


def written(model_type: str, folder: Path) -> Any:
    """Write a folder as the library publishes it, with random weights -> the model."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **CONFIGS[model_type])
    model = transformers.AutoModelForMaskedLM.from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.randn_like(weight) * 0.3 + (1.0 if "norm" in name.lower() and weight.ndim == 1 else 0.0))
    model.save_pretrained(folder)
    tokens = TOKENS[model_type]
    if model_type == "esm":
        (folder / "vocab.txt").write_text("\n".join(tokens))
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "EsmTokenizer"}))
        return model
    flags = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": number, "content": token, **flags} for number, token in enumerate(tokens) if len(token) > 1]
    split = {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": False}
    record = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None}
    record |= {"pre_tokenizer": split, "post_processor": None, "decoder": {"type": "Fuse"}}
    vocabulary = {token: number for number, token in enumerate(tokens)}
    record |= {"model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}}
    (folder / "tokenizer.json").write_text(json.dumps(record))
    roles = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **roles}))
    return model


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("model_type", CONFIGS)
def test_logits_are_those_of_the_class(model_type: str, tmp_path: Path) -> None:
    """The rows differ in length. The control leaves start and end token out."""
    theirs = written(model_type, tmp_path)
    model = unmask.load(tmp_path, device="cpu", dtype="float32")
    network: Any = model.network
    assert model.window == 38
    start, end = network.frame
    texts = [model.tokenizer.encode("ACDEFGHIKL"), model.tokenizer.encode("YWVTS")]
    assert sorted({len(text) for text in texts}) == [5, 10]
    for text in texts:
        text[2] = network.mask_id
    pad = model.tokenizer.pad_id
    tokens = torch.tensor([texts[0], texts[1] + [pad] * 5])
    with torch.no_grad():
        logits: Tensor = network.logits(network.hidden(tokens, valid=tokens != pad))
        for row, text in enumerate(texts):
            expected = theirs(torch.tensor([[start, *text, end]])).logits[0, 1:-1]
            assert float((logits[row, : len(text)] - expected).abs().max()) < 1e-4
            assert float((logits[row, : len(text)] - theirs(torch.tensor([text])).logits[0]).abs().max()) > 1e-3
        full = network.hidden(torch.full((1, model.window), network.mask_id))
    assert full.shape == (1, 38, 16)
    with pytest.raises(RequestError, match="39 tokens are too many for 38 positions"):
        network.hidden(torch.full((1, 39), network.mask_id))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("model_type", CONFIGS)
def test_it_generates_fills_and_scores(model_type: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(model_type, tmp_path)
    model = unmask.load(tmp_path, device="cpu", dtype="float32")
    text = model.generate("AC", length=30, policy="random", temperature=20.0).texts[0]
    assert set(text) <= set(LETTERS)
    assert model.fill("ACD[4]EFG", policy="confidence:steps=2").texts[0].startswith("ACD")
    assert len(model.score("ACD[?]", ["A", "CD"])) == 2
    assert model.bound("ACDEFG", draws=2).nats_per_token > 0
    assert main(["generate", str(tmp_path), "AC", "--length", "6", "--policy", "confidence", "--cache", "prefix"]) == 2
    assert "keeps no keys and values" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_transformers_is_not_asked_for(tmp_path: Path) -> None:
    """A folder that asks for a program of its own, and one with a pickle alone."""
    written("modernbert", tmp_path / "a")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    changed = config | {"auto_map": {"AutoModelForMaskedLM": "evil.Model"}, "model_type": "unheard"}
    (tmp_path / "a" / "config.json").write_text(json.dumps(changed))
    (tmp_path / "a" / "evil.py").write_text("raise SystemExit('run')")
    with pytest.raises(CheckpointError, match="of no family that is known here"):
        unmask.load(tmp_path / "a")
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))
    (tmp_path / "a" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "a" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="is a pickle, which is never loaded"):
        unmask.load(tmp_path / "a")
