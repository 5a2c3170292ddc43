"""A model of this library -> a folder as it would have been published: config.json, weights and tokenizer.

A transformer becomes one of the class LlamaForCausalLM, Qwen2ForCausalLM or Qwen3ForCausalLM, whose weights it has; an
encoder one of BertForMaskedLM, and a network of the transformers library one of its class; a DiT the layout of
mdlm-owt, with its modulation as biases of adaLN. What these classes
do not say (full attention, no shift, MASK) is in the field "unmask" of config.json, which this library reads again.
"""

__all__ = ["export_model"]

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from unmask.disk.files import atomic_folder
from unmask.disk.folders import MODEL
from unmask.disk.json import parse_json
from unmask.disk.tensors import save_tensors
from unmask.errors import RequestError
from unmask.hf.masked import MaskedLM, MaskedLMSettings, load_any, published_parts
from unmask.model.settings import DiTSettings, EncoderSettings, TransformerSettings
from unmask.model.zoo.bert import BERT
from unmask.model.zoo.llama import LLAMA_NAMES, QWEN2_NAMES, QWEN3_NAMES
from unmask.model.zoo.mdlm import BD3LM, MDLM
from unmask.text.tokenizer import Tokenizer

_OWN = ("mask_id", "start_id", "end_id", "shift", "causal_block", "rotation", "gelu", "modulation", "family")
"""Settings that config.json of these classes does not have."""


def export_model(source: str, out: Path) -> Path:
    """A checkpoint or run folder -> the folder `out`. Raises RequestError for a network that no such class can hold."""
    loaded = load_any(source, dtype="stored")
    settings = loaded.denoiser.settings
    state = cast(nn.Module, loaded.denoiser).state_dict(keep_vars=True)
    convert = next((convert for known, convert in _CONVERTERS.items() if isinstance(settings, known)), None)
    if isinstance(loaded.denoiser, MaskedLM):
        config, tensors = published_parts(loaded.denoiser)
    elif convert is None:
        raise RequestError(f"{source} has a network of {type(settings).__name__}, for which there is no other format.")
    else:
        config, tensors = convert(settings, {name: value.detach() for name, value in state.items()})
        config |= {"pad_token_id": loaded.tokenizer.pad_id, "eos_token_id": loaded.tokenizer.eos_id}
        config |= {"mask_token_id": settings.mask_id}
        config["unmask"] = {"settings": _own(settings), "decoding": loaded.checkpoint.config.get("decoding") or {}}
    with atomic_folder(out) as temporary:
        text = json.dumps(config, indent=2)
        (temporary / "config.json").write_text(text + "\n", encoding="utf-8")
        (temporary / "tokenizer.json").write_text(_tokenizer(loaded.tokenizer, settings), encoding="utf-8")
        (temporary / "tokenizer_config.json").write_text(json.dumps(_names(loaded.tokenizer, settings)) + "\n")
        save_tensors(temporary / MODEL, tensors)
    return out


def _own(settings: Any) -> dict[str, Any]:
    """Settings -> those that config.json of the class does not have. Constant modulation is what loading comes to."""
    values = {name: getattr(settings, name) for name in _OWN if hasattr(settings, name)}
    return {name: value for name, value in values.items() if (name, value) != ("modulation", "constant")}


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors by our names and the table of a family -> the tensors by the published names."""
    published: dict[str, str] = {}
    for name, ours in names.items():
        if ours and not name.endswith(("gamma", "beta")):  # names of old files
            published.setdefault(ours, name)
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        parts = name.split(".")
        plain = ".".join("{}" if part.isdigit() else part for part in parts)
        tensors[published[plain].format(*filter(str.isdigit, parts))] = tensor
    return tensors


def _causal(settings: TransformerSettings, state: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A transformer -> config and tensors of the class of Llama, Qwen2 or Qwen3."""
    scaling = settings.scaling
    if settings.qk_norm and settings.qkv_bias:
        raise RequestError("A transformer with biases and norms of queries is not exported.")
    if scaling is not None and (scaling.rule != "llama3" or settings.qk_norm or settings.qkv_bias):
        raise RequestError("A transformer with scaled positions is exported only if it is that of Llama 3.1 or 3.2.")
    name, names = ("llama", LLAMA_NAMES)
    if settings.qk_norm or settings.qkv_bias:
        name, names = ("qwen3", QWEN3_NAMES) if settings.qk_norm else ("qwen2", QWEN2_NAMES)
    if settings.tied:
        state.pop("head.weight")
    if settings.head * settings.heads != settings.width and name == "qwen2":
        raise RequestError("The class of Qwen2 has no size of a head of its own: this transformer is not exported.")
    config: dict[str, Any] = {
        "architectures": [f"{name.capitalize()}ForCausalLM"],
        "model_type": name,
        "vocab_size": settings.vocab_size,
        "hidden_size": settings.width,
        "intermediate_size": settings.inner,
        "num_hidden_layers": settings.blocks,
        "num_attention_heads": settings.heads,
        "num_key_value_heads": settings.kv_heads,
        "head_dim": settings.head,
        "max_position_embeddings": settings.max_length,
        "rms_norm_eps": settings.eps,
        "rope_theta": settings.base,
        "hidden_act": "silu",
        "attention_bias": False,
        "use_sliding_window": False,
        "tie_word_embeddings": settings.tied,
        "torch_dtype": str(state["embedding.weight"].dtype).removeprefix("torch."),
    }
    if scaling is not None:
        config["rope_scaling"] = {
            "rope_type": scaling.rule,
            "factor": scaling.factor,
            "original_max_position_embeddings": scaling.original,
            "low_freq_factor": scaling.slow,
            "high_freq_factor": scaling.fast,
        }
    return config, _renamed(state, names)


def _bert(settings: EncoderSettings, state: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An encoder -> config and tensors of BertForMaskedLM, in which positions begin at 0 and there is a token type."""
    state["places.weight"] = state["places.weight"][settings.first :].clone()
    state.setdefault("types.weight", torch.zeros(1, settings.width, dtype=state["places.weight"].dtype))
    config = {
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "vocab_size": settings.vocab_size,
        "hidden_size": settings.width,
        "intermediate_size": settings.inner,
        "num_hidden_layers": settings.blocks,
        "num_attention_heads": settings.heads,
        "hidden_act": "gelu",
        "layer_norm_eps": settings.eps,
        "max_position_embeddings": settings.positions - settings.first,
        "type_vocab_size": state["types.weight"].shape[0],
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
    }
    tensors = _renamed(state, BERT.names)
    return config, tensors | {"cls.predictions.decoder.bias": tensors["cls.predictions.bias"]}


def _mdlm(settings: DiTSettings, state: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A DiT without time input -> config and tensors in the layout of mdlm-owt, or of BD3-LM if it is block-causal."""
    if settings.modulation == "time" or settings.absolute:
        what = "a time input" if settings.modulation == "time" else "learned positions"
        raise RequestError(f"A DiT with {what} has no published layout: it is not exported.")
    weight = state["norm.weight"]
    for prefix, parts in [(f"blocks.{number}.", 6) for number in range(settings.blocks)] + [("", 2)]:
        constant = state.pop(f"{prefix}modulation", None)
        if constant is None:  # shift, scale, gate (twice), without effect
            constant = weight.new_tensor([0.0, 0.0, 1.0] * 2)[:parts].repeat_interleave(settings.width)
        state[f"{prefix}modulation.bias"] = constant
        state[f"{prefix}modulation.weight"] = weight.new_zeros(parts * settings.width, settings.cond)
    for number, inputs in ((0, 256), (2, settings.cond)):
        state[f"time.mlp.{number}.weight"] = weight.new_zeros(settings.cond, inputs)
        state[f"time.mlp.{number}.bias"] = weight.new_zeros(settings.cond)
    half = settings.width // settings.heads // 2
    rotary = 1.0 / 10_000.0 ** (torch.arange(half, dtype=torch.float32) / half)
    name = "bd3lm" if settings.causal_block else "mdlm"
    config = {
        "architectures": ["BD3LM" if settings.causal_block else "MDLM"],
        "model_type": name,
        "vocab_size": settings.vocab_size,
        "model_length": settings.max_length,
        "hidden_dim": settings.width,
        "cond_dim": settings.cond,
        "n_blocks": settings.blocks,
        "n_heads": settings.heads,
        "dropout": settings.dropout,
        "time_conditioning": False,
    }
    if settings.causal_block:
        config |= {"block_size": settings.causal_block, "cross_attn": True, "adaln": True, "causal": False}
    names = BD3LM.names if settings.causal_block else MDLM.names
    return config, _renamed(state, names) | {"backbone.rotary_emb.inv_freq": rotary}


_CONVERTERS: dict[type, Any] = {TransformerSettings: _causal, EncoderSettings: _bert, DiTSettings: _mdlm}
"""Class of settings: settings and tensors by our names -> config and tensors by published names."""


def _tokenizer(tokenizer: Tokenizer, settings: Any) -> str:
    """A tokenizer -> the content of its tokenizer.json; that of an encoder puts start and end token around a text."""
    text = tokenizer.to_json()
    if not isinstance(settings, EncoderSettings | MaskedLMSettings):
        return text
    record = parse_json(text, dict[str, Any])
    frame = {"start": settings.start_id, "end": settings.end_id}
    names = {role: tokenizer.backend.id_to_token(number) for role, number in frame.items()}
    whole = [{"SpecialToken": {"id": names["start"], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    record["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [*whole, {"SpecialToken": {"id": names["end"], "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            names[role]: {"id": names[role], "ids": [number], "tokens": [names[role]]} for role, number in frame.items()
        },
    }
    return json.dumps(record, ensure_ascii=False, indent=1) + "\n"


def _names(tokenizer: Tokenizer, settings: Any) -> dict[str, Any]:
    """A tokenizer -> the content of its tokenizer_config.json: a class that takes tokenizer.json as it is; roles."""
    roles = {"mask": settings.mask_id, "pad": tokenizer.pad_id, "eos": tokenizer.eos_id, "unk": tokenizer.unknown_id}
    most: dict[str, int] = {}
    if isinstance(settings, EncoderSettings | MaskedLMSettings):
        roles |= {"cls": settings.start_id, "sep": settings.end_id}
        most["model_max_length"] = settings.max_length + 2
    name_of = tokenizer.backend.id_to_token
    names = {f"{role}_token": name_of(number) for role, number in roles.items() if number is not None}
    known = {role: name for role, name in names.items() if name}
    return {"tokenizer_class": "PreTrainedTokenizerFast"} | known | most
