"""Any class of AutoModelForMaskedLM as a denoiser, against the class itself. Needs the extra hf."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.extras import library
from torch import Tensor

import unmask
from unmask.cli.main import main
from unmask.errors import CheckpointError, RequestError

transformers: Any = library("transformers", "hf")
pytestmark = pytest.mark.extras

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


# ---- trained, saved, loaded, exported --------------------------------------------------------------------------------

TRAIN = (
    "--data.length 24 --train.steps 4 --train.batch 4 --train.threads 1 --train.dtype float32 "
    "--train.eval-every 2 --train.save-every 2 --train.sample-every 0 --train.eval-draws 4 --train.ema 0.5"
)


def commanded(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    """The words of a command with --json -> what it prints."""
    code = main([*map(str, words), "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def parameters_of(folder: Path) -> dict[str, Tensor]:
    network: Any = unmask.load(folder, device="cpu", dtype="float32").network
    return dict(network.named_parameters())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("model_type", CONFIGS)
def test_it_is_fine_tuned_saved_and_loaded(
    model_type: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that stops and goes on has the bits of one that does not; dropout, which the library would draw, is off."""
    monkeypatch.setattr("unmask.run.metrics.can_draw", lambda: False)
    written(model_type, tmp_path / "old")
    (tmp_path / "text.txt").write_text("ACDEFGHIKLMNPQRSTVWY" * 40)
    facts = commanded(capsys, "info", tmp_path / "old")
    assert (facts["architecture"], facts["window"]) == ("masked-lm", 38)
    assert main(["info", str(tmp_path / "old")]) == 0
    assert f"parameters: {model_type}\n" in capsys.readouterr().out
    run = ["train", "--init", tmp_path / "old", "--data.source", tmp_path / "text.txt", *TRAIN.split()]
    whole = commanded(capsys, *run, "--out", tmp_path / "whole")["latest"]
    commanded(capsys, *run, "--out", tmp_path / "part", "--train.patience", 0)
    last = tmp_path / "part" / "checkpoints" / "step-00000004"
    torch.manual_seed(7)
    going = ["--resume", tmp_path / "part" / "checkpoints" / "step-00000002", "--train.threads", 1]
    assert commanded(capsys, "train", *going)["latest"] == str(last)
    tuned, before = parameters_of(Path(whole)), parameters_of(tmp_path / "old")
    assert tuned.keys() == before.keys()  # a tied weight has one name
    resumed = parameters_of(last)
    assert all(torch.equal(value, resumed[name]) for name, value in tuned.items())
    assert sum(not torch.equal(value, before[name]) for name, value in tuned.items()) > len(tuned) // 2
    assert commanded(capsys, "info", whole)["parameters"] < 1.1 * sum(value.numel() for value in before.values())
    assert commanded(capsys, "eval", whole)["nats_per_token"] > 0
    assert commanded(capsys, "generate", whole, "AC", "--length", 6)["texts"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("model_type", CONFIGS)
def test_an_exported_folder_is_the_published_one(
    model_type: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The logits of the class, loaded by the library, and ours; import and export lose nothing."""
    theirs = written(model_type, tmp_path / "old")
    assert main(["import", str(tmp_path / "old"), "--out", str(tmp_path / "ours")]) == 0
    assert main(["export", str(tmp_path / "ours"), "--out", str(tmp_path / "new")]) == 0
    capsys.readouterr()
    back = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "new").eval()
    tokens = torch.tensor([[7, 8, 9, 10, 11]])
    with torch.no_grad():
        assert torch.equal(back(tokens).logits, theirs(tokens).logits)
    models = [unmask.load(tmp_path / name, device="cpu", dtype="float32") for name in ("old", "ours", "new")]
    assert len({model.window for model in models}) == 1
    settings = [
        {name: getattr(model.network.settings, name) for name in ("mask_id", "start_id", "end_id")} for model in models
    ]
    assert settings[0] == settings[1] == settings[2]
    assert (
        models[0].bound("ACDEFG", draws=2) == models[1].bound("ACDEFG", draws=2) == models[2].bound("ACDEFG", draws=2)
    )
