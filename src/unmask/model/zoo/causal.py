"""Causal models, from which masked ones can be made: they write from left to right, each token by those before it."""

__all__ = ["LLAMA", "QWEN2", "QWEN3"]

from dataclasses import replace

from unmask.model.zoo.dream import QWEN_CHAT
from unmask.model.zoo.llama import LLAMA_FIXED, LLAMA_KEYS, LLAMA_NAMES, LLAMA_SCALING, QWEN2_NAMES
from unmask.model.zoo.qwen import A2D_QWEN3

QWEN3 = replace(
    A2D_QWEN3,
    about="Qwen3, a causal model",
    repositories=("Qwen/Qwen3-0.6B",),
    matches={"model_type": "qwen3"},
    constants={"qk_norm": True, "shift": True, "causal_block": 1},
    mask="",
    bos="<|endoftext|>",
    decoding={"policy": "left-to-right", "temperature": 0.0, "block_size": 1},
)
QWEN2 = replace(
    QWEN3,
    about="Qwen2 and Qwen2.5, causal models",
    repositories=("Qwen/Qwen2.5-0.5B-Instruct",),
    matches={"model_type": "qwen2"},
    keys=LLAMA_KEYS,
    constants={"qkv_bias": True, "shift": True, "causal_block": 1},
    names=QWEN2_NAMES,
    chat=QWEN_CHAT,
)
LLAMA = replace(
    QWEN2,
    about="Llama and SmolLM2, causal models",
    repositories=("HuggingFaceTB/SmolLM2-135M-Instruct", "meta-llama/Llama-3.2-1B-Instruct"),
    matches={"model_type": "llama"},
    constants={"shift": True, "causal_block": 1},
    scaling=LLAMA_SCALING,
    fixed=LLAMA_FIXED,
    names=LLAMA_NAMES,
    eos="eos_token_id",
    pad="",
    bos="bos_token_id",
    chat=None,
)
