"""The published config.json of models by name, and a tiny random model of the same family, for dry runs."""

__all__ = ["PUBLISHED", "Published", "published_network", "write_tiny"]

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unmask.config import from_dict
from unmask.disk.tensors import save_tensors
from unmask.errors import RequestError
from unmask.model.settings import TransformerSettings
from unmask.model.transformer import Transformer
from unmask.model.zoo.base import Family
from unmask.model.zoo.read import FAMILIES, Network, family_of, network_of, tensor_name
from unmask.text.chat import special_tokens
from unmask.text.published import Vocabulary
from unmask.text.tokenizer import BYTE_CHARACTERS


class Published(NamedTuple):
    """What is published of a model, beside its weights: the content of config.json, and the ids of some tokens."""

    config: Mapping[str, Any]
    tokens: Mapping[str, int]


PUBLISHED = {
    "GSAI-ML/LLaDA-8B-Instruct": Published(
        {
            "model_type": "llada",
            "architectures": ["LLaDAModelLM"],
            "d_model": 4096,
            "n_layers": 32,
            "n_heads": 32,
            "n_kv_heads": 32,
            "mlp_hidden_size": 12288,
            "vocab_size": 126464,
            "embedding_size": 126464,
            "max_sequence_length": 4096,
            "rope": True,
            "rope_full_precision": True,
            "rope_theta": 500000.0,
            "layer_norm_type": "rms",
            "rms_norm_eps": 1e-5,
            "activation_type": "silu",
            "block_type": "llama",
            "block_group_size": 1,
            "include_bias": False,
            "include_qkv_bias": False,
            "bias_for_layer_norm": False,
            "attention_layer_norm": False,
            "weight_tying": False,
            "scale_logits": False,
            "input_emb_norm": False,
            "alibi": False,
            "mask_token_id": 126336,
            "eos_token_id": 126081,
            "pad_token_id": 126081,
        },
        {},
    ),
    "Dream-org/Dream-v0-Instruct-7B": Published(
        {
            "model_type": "Dream",
            "architectures": ["DreamModel"],
            "hidden_size": 3584,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "intermediate_size": 18944,
            "vocab_size": 152064,
            "max_position_embeddings": 131072,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "rope_scaling": None,
            "tie_word_embeddings": False,
            "mask_token_id": 151666,
            "eos_token_id": 151643,
            "pad_token_id": 151643,
        },
        {"<|beginoftext|>": 151665},
    ),
}
"""By the name on the hub. What the numbers of a dry run are computed from where the model itself is not there."""
_SIZES = {"width": 32, "blocks": 2, "heads": 2, "kv_heads": 2, "head": 16, "inner": 64, "max_length": 8192}
"""Settings of a tiny network."""
_ROWS = 8  # ids without a token, as published embeddings have them
_NAMES = {"mask": "<|mask|>", "eos": "<|endoftext|>", "pad": "<|endoftext|>", "bos": "<|beginoftext|>"}
"""Tokens of a tiny tokenizer, by role, where the table of the family has only ids."""


def published_network(published: Published, name: str) -> tuple[TransformerSettings, Network]:
    """What is published of a transformer -> the settings of our network, and what its files say about it."""
    network = network_of(published.config, Vocabulary(None, dict(published.tokens)), Path(name))
    return from_dict(TransformerSettings, network.settings, f"{name}/config.json"), network


def write_tiny(published: Published, folder: Path, seed: int = 0) -> None:
    """Write a folder as the model's authors lay it out: config.json, a tokenizer of bytes, random weights in bfloat16.

    The network has 2 blocks of width 32; all else, the names of tensors and special tokens included, is as in the
    published files. Raises RequestError for a family whose network is no transformer.
    """
    family = FAMILIES[family_of(published.config, published.tokens, folder)]
    if family.architecture != "transformer":
        raise RequestError(f"There is no tiny model of {family.about}: leave out --dry, or name a transformer.")
    tokens = _tokens(family)
    config = dict(published.config) | _small(family, published.config, tokens)
    settings, _ = published_network(Published(config, tokens), str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer(tokens)), encoding="utf-8")
    save_tensors(folder / "model.safetensors", _weights(family, settings, seed))


def _tokens(family: Family) -> dict[str, int]:
    """The special tokens of a family, from id 256 on, by name."""
    roles = {"mask": family.mask, "eos": family.eos, "pad": family.pad, "bos": family.bos}
    names = [_NAMES[role] if str(place).endswith("_id") else str(place) for role, place in roles.items() if place != ""]
    names += [family.token] if family.token else []
    chat = family.chat
    for part in () if chat is None else (chat.start, chat.message, chat.answer):
        names += special_tokens(part)
    return {name: 256 + number for number, name in enumerate(dict.fromkeys(names))}


def _small(family: Family, config: Mapping[str, Any], tokens: Mapping[str, int]) -> dict[str, Any]:
    """The keys of config.json whose values differ in a tiny model."""
    small: dict[str, Any] = {}
    grouped = config.get(family.keys["kv_heads"]) != config.get(family.keys["heads"])
    sizes = _SIZES | {"kv_heads": 1 if grouped else 2, "vocab_size": 256 + len(tokens) + _ROWS}
    for setting, place in family.keys.items():
        key = place.split(" | ")[0]
        if setting in sizes and " " not in key and (key in config or " | " not in place):
            small[key] = sizes[setting]
    for role, place in {"mask": family.mask, "eos": family.eos, "pad": family.pad, "bos": family.bos}.items():
        if str(place).endswith("_id"):
            small[str(place)] = tokens[_NAMES[role]]
    return small


def _tokenizer(tokens: Mapping[str, int]) -> dict[str, Any]:
    """The content of the tokenizer.json of the 256 bytes and the special tokens."""
    flags = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    vocabulary = {character: number for number, character in enumerate(BYTE_CHARACTERS)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": name, **flags} for name, number in tokens.items()],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "unk_token": None},
    }


def _weights(family: Family, settings: TransformerSettings, seed: int) -> dict[str, Tensor]:
    """Random tensors of a network by their published names; norms are near 1."""
    with torch.device("meta"):
        network = Transformer(settings)
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for ours, parameter in network.named_parameters():
        value = 0.3 * torch.randn(parameter.shape, generator=generator)
        value = 1 + value if "norm" in ours else value
        name, place = tensor_name(family, ours)
        parts[name][place] = value.bfloat16()
    return {name: torch.cat([part[place] for place in sorted(part)]) for name, part in parts.items()}
