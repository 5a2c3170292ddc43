"""Folders laid out as published, with tiny random weights: config.json, tensors under their names, tokenizer files.

`write` makes one; `SPECS` has for each family what a slow twin needs: the names of its tensors and its numbers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from unmask.text.tokenizer import BYTE_CHARACTERS

ROWS = 288  # ids of embedding and head: 256 bytes, the special tokens, and rows without a token


@dataclass(frozen=True)
class Spec:
    """A family: its config.json, its tensors, its special tokens from id 256 on, and what a twin computes."""

    config: dict[str, Any]
    names: dict[str, str]  # role -> name, {} for the number of a block
    special: tuple[str, ...]
    heads: int = 4
    kv: int = 4
    head: int = 8
    eps: float = 1e-6
    base: float = 1e6
    tied: bool = False
    bias: bool = False
    norms: bool = False  # of queries and keys
    block: int = 0
    shift: bool = False
    files: str = "tokenizer.json"  # or "vocab.json"
    shards: int = 2
    rotary: int = 0  # channels of a head that are turned; 0: all
    experts: int = 0
    dense: int = 0  # first blocks without experts
    fused: bool = False  # queries, keys and values in one tensor


_LLADA = "model.transformer.blocks.{}."
_HF = "model.layers.{}."
LLADA_NAMES = {
    "embed": "model.transformer.wte.weight",
    "norm_1": f"{_LLADA}attn_norm.weight",
    "q": f"{_LLADA}q_proj.weight",
    "k": f"{_LLADA}k_proj.weight",
    "v": f"{_LLADA}v_proj.weight",
    "o": f"{_LLADA}attn_out.weight",
    "norm_2": f"{_LLADA}ff_norm.weight",
    "gate": f"{_LLADA}ff_proj.weight",
    "up": f"{_LLADA}up_proj.weight",
    "down": f"{_LLADA}ff_out.weight",
    "norm": "model.transformer.ln_f.weight",
    "lm_head": "model.transformer.ff_out.weight",
}
HF_NAMES = {
    "embed": "model.embed_tokens.weight",
    "norm_1": f"{_HF}input_layernorm.weight",
    "q": f"{_HF}self_attn.q_proj.weight",
    "k": f"{_HF}self_attn.k_proj.weight",
    "v": f"{_HF}self_attn.v_proj.weight",
    "o": f"{_HF}self_attn.o_proj.weight",
    "norm_2": f"{_HF}post_attention_layernorm.weight",
    "gate": f"{_HF}mlp.gate_proj.weight",
    "up": f"{_HF}mlp.up_proj.weight",
    "down": f"{_HF}mlp.down_proj.weight",
    "norm": "model.norm.weight",
    "lm_head": "lm_head.weight",
}
QWEN2_NAMES = HF_NAMES | {f"{x}_bias": f"{_HF}self_attn.{x}_proj.bias" for x in "qkv"}
QWEN3_NAMES = HF_NAMES | {f"{x}_norm": f"{_HF}self_attn.{x}_norm.weight" for x in "qk"}

_LLADA_CONFIG = {
    "model_type": "llada",
    "architectures": ["LLaDAModelLM"],
    "d_model": 32,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 4,
    "mlp_hidden_size": 64,
    "mlp_ratio": 4,
    "vocab_size": ROWS,
    "embedding_size": ROWS,
    "max_sequence_length": 128,
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
    "mask_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 257,
    "transformers_version": "4.46.3",
}


def hf(model_type: str, **changes: Any) -> dict[str, Any]:
    """A config.json of the classes of Llama and Qwen."""
    return {
        "model_type": model_type,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "vocab_size": ROWS,
        "max_position_embeddings": 128,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "transformers_version": "4.46.2",
    } | changes


_LLADA_TOKENS = (
    "<|mdm_mask|>", "<|endoftext|>", "<|startoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
)  # fmt: skip
_QWEN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_DREAM = hf("Dream", architectures=["DreamModel"], mask_token_id=259, eos_token_id=256, pad_token_id=256)
_QWEN2: dict[str, Any] = {"names": QWEN2_NAMES, "kv": 2, "bias": True}
_QWEN3: dict[str, Any] = {"names": QWEN3_NAMES, "kv": 2, "head": 16, "norms": True}

SPECS: dict[str, Spec] = {
    "llada": Spec(_LLADA_CONFIG, LLADA_NAMES, _LLADA_TOKENS, eps=1e-5, base=5e5),
    "illada": Spec(
        hf("illada", architectures=["ILLaDAForCausalLM"], eos_token_id=2, pad_token_id=1, bos_token_id=0)
        | {"tie_word_embeddings": True},
        HF_NAMES,
        (),
        kv=2,
        tied=True,
    ),
    "dream": Spec(
        _DREAM,
        special=(*_QWEN_TOKENS, "<|mask|>", "<|beginoftext|>"),
        shift=True,
        files="vocab.json",
        **_QWEN2,
    ),
    "a2d-qwen3": Spec(
        hf("a2d-qwen3", head_dim=16, attention_bias=False, tie_word_embeddings=True),
        special=(*_QWEN_TOKENS, "<|mask|>"),
        tied=True,
        shards=1,
        **_QWEN3,
    ),
    "a2d-qwen2": Spec(
        hf("a2d-qwen2", tie_word_embeddings=True),
        special=(*_QWEN_TOKENS, "<|mask|>"),
        tied=True,
        shards=1,
        **_QWEN2,
    ),
    "a2d-llama": Spec(hf("a2d-llama", eos_token_id=256), HF_NAMES, (*_QWEN_TOKENS, "<|mask|>"), kv=2),
    "open-dcoder": Spec(
        hf("qwen2", architectures=["Qwen2ForCausalLM"], tie_word_embeddings=True),
        special=(*_QWEN_TOKENS, "<M>"),
        tied=True,
        shift=True,
        files="vocab.json",
        shards=1,
        **_QWEN2,
    ),
    "fast-dllm-v2": Spec(
        hf("Fast_dLLM_Qwen", architectures=["Fast_dLLM_QwenForCausalLM"], bd_size=8),
        special=(*_QWEN_TOKENS, "|<MASK>|"),
        shift=True,
        block=8,
        **_QWEN2,
    ),
    "sdar": Spec(
        hf("sdar", architectures=["SDARForCausalLM"], head_dim=16, attention_bias=False),
        special=(*_QWEN_TOKENS, "<|mask|>"),
        block=4,
        **_QWEN3,
    ),
    "qwen3": Spec(
        hf("qwen3", architectures=["Qwen3ForCausalLM"], head_dim=16, attention_bias=False),
        special=_QWEN_TOKENS,
        shift=True,
        block=1,
        **_QWEN3,
    ),
    "qwen2": Spec(hf("qwen2", architectures=["Qwen2ForCausalLM"]), special=_QWEN_TOKENS, shift=True, block=1, **_QWEN2),
    "llama": Spec(
        hf("llama", architectures=["LlamaForCausalLM"], eos_token_id=256, bos_token_id=257),
        HF_NAMES,
        _QWEN_TOKENS,
        kv=2,
        shift=True,
        block=1,
    ),
}

_MOE = {f"{part}_expert": f"{_HF}mlp.experts.{{}}.{part}_proj.weight" for part in ("gate", "up", "down")}
_MOE.update({"router": f"{_HF}mlp.gate.weight", "router_bias": f"{_HF}mlp.gate.expert_bias"})
_DENSE = ("gate", "up", "down")
_LLADA2_NAMES = {
    "embed": "model.word_embeddings.weight",
    "norm_1": f"{_HF}input_layernorm.weight",
    "qkv": f"{_HF}attention.query_key_value.weight",
    "q_norm": f"{_HF}attention.query_layernorm.weight",
    "k_norm": f"{_HF}attention.key_layernorm.weight",
    "o": f"{_HF}attention.dense.weight",
    "norm_2": f"{_HF}post_attention_layernorm.weight",
    **{f"{part}_shared": f"{_HF}mlp.shared_experts.{part}_proj.weight" for part in _DENSE},
    **{role: HF_NAMES[role] for role in ("gate", "up", "down", "norm", "lm_head")},
    **_MOE,
}
_MOE_TOKENS = ("<|endoftext|>", "<|mask|>", "<role>", "</role>", "<|role_end|>")
SPECS.update(
    {
        "llada-moe": Spec(
            hf("llada", architectures=["LLaDAMoEModelLM"], num_experts=6, num_experts_per_tok=2, qk_layernorm=True)
            | {"expert_intermediate_size": 24, "dense_intermediate_size": 64, "attention_bias": False, "clip_qkv": None}
            | {"moe_router_enable_expert_bias": False, "num_key_value_heads": 4},
            {name: value for name, value in QWEN3_NAMES.items() if name not in _DENSE}
            | {name: value for name, value in _MOE.items() if name != "router_bias"},
            _MOE_TOKENS,
            norms=True,
            experts=6,
        ),
        "llada2": Spec(
            hf("llada2_moe", head_dim=8, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=24, use_bias=False)
            | {
                "num_shared_experts": 1,
                "first_k_dense_replace": 1,
                "n_group": 2,
                "topk_group": 1,
                "norm_topk_prob": True,
            }
            | {"routed_scaling_factor": 2.5, "partial_rotary_factor": 0.5, "block_size": 8},
            _LLADA2_NAMES,
            _MOE_TOKENS,
            kv=2,
            norms=True,
            block=8,
            rotary=4,
            experts=8,
            dense=1,
            fused=True,
        ),
    }
)


def shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor by its published name; a tied head is not stored."""
    q, kv, blocks = spec.heads * spec.head, spec.kv * spec.head, 2
    sizes = {"embed": (ROWS, 32), "norm": (32,), "lm_head": (ROWS, 32), "norm_1": (32,), "norm_2": (32,)}
    sizes |= {"q": (q, 32), "k": (kv, 32), "v": (kv, 32), "o": (32, q)}
    sizes |= {"gate": (64, 32), "up": (64, 32), "down": (32, 64)}
    sizes |= {"qkv": (q + 2 * kv, 32), "router": (spec.experts, 32), "router_bias": (spec.experts,)}
    for part in ("shared", "expert"):
        sizes |= {f"gate_{part}": (24, 32), f"up_{part}": (24, 32), f"down_{part}": (32, 24)}
    sizes |= {"q_bias": (q,), "k_bias": (kv,), "v_bias": (kv,), "q_norm": (spec.head,), "k_norm": (spec.head,)}
    shapes: dict[str, tuple[int, ...]] = {}
    for role, name in spec.names.items():
        if role == "lm_head" and spec.tied:
            continue
        first = spec.dense if role in _MOE or role.endswith("_shared") else 0
        last = spec.dense if spec.experts and role in _DENSE else blocks
        members = range(spec.experts) if role.endswith("_expert") else range(1)
        for n in range(first, last) if "{}" in name else range(1):
            shapes |= {name.format(n, member): sizes[role] for member in members}
    return shapes


def weights(sizes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Random tensors of these shapes; norms are around 1, biases not zero."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, size in sizes.items():
        value = 0.3 * torch.randn(size, generator=generator)
        norm = "norm" in name or name.endswith("ln_f.weight")
        state[name] = (1 + value if norm else value).bfloat16().float()
    return state


def write(family: str, folder: Path, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """Write the folder of a family -> its tensors by their published names, in float32."""
    spec = SPECS[family]
    state = weights(shapes(spec), seed)
    write_folder(folder, spec.config, state, spec.special, spec.shards, spec.files, dtype)
    return state


def write_folder(
    folder: Path,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    special: tuple[str, ...],
    shards: int,
    files: str,
    dtype: torch.dtype,
) -> None:
    """Write config.json, the weights in `shards` files with an index (1: a single file), and the tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = sorted(state)
    stored = {name: state[name].to(dtype).contiguous() for name in names}
    if shards == 1:
        save_file(stored, folder / "model.safetensors", {"format": "pt"})
    else:
        index: dict[str, str] = {}
        for number in range(shards):
            file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
            part = names[number::shards]
            save_file({name: stored[name] for name in part}, folder / file, {"format": "pt"})
            index |= dict.fromkeys(part, file)
        total = sum(value.nbytes for value in stored.values())
        content = {"metadata": {"total_size": total}, "weight_map": index}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    write_tokenizer(folder, special, files)


def write_tokenizer(folder: Path, special: tuple[str, ...], files: str) -> None:
    """The 256 bytes as tokens, then the special ones: tokenizer.json, or vocab.json, merges.txt and added tokens."""
    vocabulary = {character: number for number, character in enumerate(BYTE_CHARACTERS)}
    flags = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": 256 + n, "content": name, **flags} for n, name in enumerate(special)]
    if files == "vocab.json":
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        (folder / "merges.txt").write_text("#version: 0.2\n")
        (folder / "added_tokens.json").write_text(json.dumps({token["content"]: token["id"] for token in added}))
        decoder = {str(token["id"]): {key: token[key] for key in ("content", *flags)} for token in added}
        (folder / "tokenizer_config.json").write_text(
            json.dumps({"added_tokens_decoder": decoder, "chat_template": "{{ 1 / 0 }}"})
        )
        return
    model = {"type": "BPE", "vocab": vocabulary, "merges": [], "dropout": None, "unk_token": None}
    model |= {"continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    record = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None}
    record |= {"pre_tokenizer": level, "post_processor": None, "decoder": level, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(record))


# ---- diffusion transformers -----------------------------------------------------------------------------------------

DIT_ROWS = 258  # 256 bytes, EOS and MASK, the last of which the tokenizer does not have
_SEDD_CONFIG = {
    "tokens": DIT_ROWS - 1,
    "graph": {"type": "absorb", "file": "data"},
    "noise": {"type": "loglinear", "sigma_min": 1e-4, "sigma_max": 20},
    "model": {"name": "tiny", "type": "ddit", "hidden_size": 32, "cond_dim": 16, "length": 64, "n_blocks": 2}
    | {"n_heads": 2, "scale_by_sigma": True, "dropout": 0.1},
}


def dit_config(model_type: str, **changes: Any) -> dict[str, Any]:
    """A config.json of MDLM, BD3-LM or SEDD."""
    if model_type == "sedd":
        return _SEDD_CONFIG
    plain = {"model_type": model_type, "vocab_size": DIT_ROWS, "model_length": 64, "hidden_dim": 32, "cond_dim": 16}
    plain |= {"n_blocks": 2, "n_heads": 2, "dropout": 0.1, "time_conditioning": False, "return_dict": False}
    block = {"block_size": 4, "cross_attn": True, "adaln": True, "attn_backend": "flex", "causal": False}
    return plain | (block if model_type == "bd3lm" else {}) | changes


def dit_shapes(model_type: str) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a diffusion transformer by its published name."""
    width, cond = 32, 16
    sizes: dict[str, tuple[int, ...]] = {
        "vocab_embed.embedding": (DIT_ROWS, width),
        "sigma_map.mlp.0.weight": (cond, 256),
        "sigma_map.mlp.0.bias": (cond,),
        "sigma_map.mlp.2.weight": (cond, cond),
        "sigma_map.mlp.2.bias": (cond,),
        "rotary_emb.inv_freq": (8,),
        "output_layer.norm_final.weight": (width,),
        "output_layer.linear.weight": (DIT_ROWS, width),
        "output_layer.linear.bias": (DIT_ROWS,),
        "output_layer.adaLN_modulation.weight": (2 * width, cond),
        "output_layer.adaLN_modulation.bias": (2 * width,),
    }
    for n in range(2):
        block = f"blocks.{n}."
        sizes |= {f"{block}norm1.weight": (width,), f"{block}norm2.weight": (width,)}
        sizes |= {f"{block}attn_qkv.weight": (3 * width, width), f"{block}attn_out.weight": (width, width)}
        sizes |= {f"{block}mlp.0.weight": (4 * width, width), f"{block}mlp.0.bias": (4 * width,)}
        sizes |= {f"{block}mlp.2.weight": (width, 4 * width), f"{block}mlp.2.bias": (width,)}
        sizes |= {f"{block}adaLN_modulation.weight": (6 * width, cond), f"{block}adaLN_modulation.bias": (6 * width,)}
    if model_type == "sedd":
        return sizes
    return {f"backbone.{name}": size for name, size in sizes.items()}


def write_dit(model_type: str, folder: Path, seed: int = 0) -> dict[str, Tensor]:
    """Write the folder of a diffusion transformer, GPT-2's files beside it -> its tensors by their published names."""
    state = weights(dit_shapes(model_type), seed)
    if model_type == "bd3lm":
        state |= {"sampling_eps_min": torch.tensor(1e-3), "sampling_eps_max": torch.tensor(0.999)}
    write_folder(folder, dit_config(model_type), state, ("<|endoftext|>",), 1, "tokenizer.json", torch.float32)
    return state
