"""LLaDA (arXiv:2502.09992), LLaDA 1.5 (arXiv:2505.19223) and iLLaDA: tables of their published files."""

__all__ = ["ILLADA", "LLADA"]

from unmask.model.zoo.base import Family
from unmask.model.zoo.llama import LLAMA_KEYS, LLAMA_NAMES, PLAIN
from unmask.text.published import Chat

_CHAT = Chat(
    start="<|startoftext|>",
    message="<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>",
    answer="<|start_header_id|>assistant<|end_header_id|>\n\n",
)
_BLOCK = "model.transformer.blocks.{}."

LLADA = Family(
    about="LLaDA 8B and LLaDA 1.5: full attention, trained from scratch",
    repositories=("GSAI-ML/LLaDA-8B-Base", "GSAI-ML/LLaDA-8B-Instruct", "GSAI-ML/LLaDA-1.5"),
    matches={"architectures": "LLaDAModelLM"},
    keys={
        "vocab_size": "embedding_size",
        "max_length": "max_sequence_length",
        "width": "d_model",
        "blocks": "n_layers",
        "heads": "n_heads",
        "kv_heads": "n_kv_heads",
        "head": "d_model / n_heads",
        "inner": "mlp_hidden_size",
        "eps": "rms_norm_eps",
        "base": "rope_theta",
        "qkv_bias": "include_qkv_bias",
        "tied": "weight_tying",
    },
    constants={"rotation": "float32"},
    fixed={
        "rope": (True,),
        "rope_full_precision": (True,),
        "layer_norm_type": ("rms",),
        "activation_type": ("silu",),
        "block_type": ("llama",),
        "block_group_size": (1,),
        "include_bias": (False,),
        "attention_layer_norm": (False,),
        "scale_logits": (False,),
        "input_emb_norm": (False,),
        "alibi": (False,),
    },
    names={
        "model.transformer.wte.weight": "embedding.weight",
        f"{_BLOCK}attn_norm.weight": "blocks.{}.norm_1.weight",
        f"{_BLOCK}q_proj.weight": "blocks.{}.query.weight",
        f"{_BLOCK}k_proj.weight": "blocks.{}.key.weight",
        f"{_BLOCK}v_proj.weight": "blocks.{}.value.weight",
        f"{_BLOCK}attn_out.weight": "blocks.{}.out.weight",
        f"{_BLOCK}ff_norm.weight": "blocks.{}.norm_2.weight",
        f"{_BLOCK}ff_proj.weight": "blocks.{}.feed.gate.weight",
        f"{_BLOCK}up_proj.weight": "blocks.{}.feed.up.weight",
        f"{_BLOCK}ff_out.weight": "blocks.{}.feed.down.weight",
        "model.transformer.ln_f.weight": "norm.weight",
        "model.transformer.ff_out.weight": "head.weight",  # not that of a block
    },
    mask="mask_token_id",
    eos="eos_token_id",
    pad="pad_token_id",
    decoding={"policy": "confidence:steps=32,pace=front", "temperature": 0.0, "block_size": 32},
    chat=_CHAT,
)

ILLADA = Family(
    about="iLLaDA 8B: full attention, tied weights; its MASK is in neither config nor tokenizer",
    repositories=("GSAI-ML/iLLaDA-8B-Base", "GSAI-ML/iLLaDA-8B-Instruct"),
    matches={"architectures": "ILLaDAForCausalLM"},
    keys=LLAMA_KEYS,
    fixed=PLAIN,
    names=LLAMA_NAMES,
    mask=5,
    eos="eos_token_id",
    pad="pad_token_id",
    bos="bos_token_id",
    decoding={"policy": "confidence:steps=32,pace=front", "temperature": 0.0, "block_size": 32},
)
