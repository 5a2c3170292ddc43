"""Masked diffusion models that were made from Qwen and Llama."""

__all__ = ["A2D_LLAMA", "A2D_QWEN2", "A2D_QWEN3", "FAST_DLLM", "OPEN_DCODER", "SDAR"]

from dataclasses import replace

from unmask.model.zoo.base import Family
from unmask.model.zoo.dream import QWEN_CHAT
from unmask.model.zoo.llama import (
    LLAMA_FIXED,
    LLAMA_KEYS,
    LLAMA_NAMES,
    LLAMA_SCALING,
    PLAIN,
    QWEN2_NAMES,
    QWEN3_KEYS,
    QWEN3_NAMES,
)

_THOUGHTLESS = replace(QWEN_CHAT, system="", answer=QWEN_CHAT.answer + "<think>\n\n</think>\n\n")

A2D_QWEN3 = Family(
    about="Qwen3 made bidirectional by dllm",
    repositories=("dllm-collection/Qwen3-0.6B-diffusion-mdlm-v0.1",),
    matches={"model_type": "a2d-qwen3"},
    keys=QWEN3_KEYS,
    constants={"qk_norm": True},
    fixed=PLAIN,
    names=QWEN3_NAMES,
    mask="<|mask|>",
    eos="<|im_end|>",
    pad="<|endoftext|>",
    decoding={"policy": "confidence", "temperature": 0.0, "block_size": 32},
    chat=_THOUGHTLESS,
)
A2D_QWEN2 = replace(
    A2D_QWEN3,
    about="Qwen2.5 made bidirectional by dllm",
    repositories=("dllm-collection/Qwen2.5-Coder-0.5B-Instruct-diffusion-mdlm-v0.1",),
    matches={"model_type": "a2d-qwen2"},
    keys=LLAMA_KEYS,
    constants={"qkv_bias": True},
    names=QWEN2_NAMES,
    chat=QWEN_CHAT,
)
A2D_LLAMA = replace(
    A2D_QWEN3,
    about="Llama made bidirectional by dllm",
    repositories=(),
    matches={"model_type": "a2d-llama"},
    keys=LLAMA_KEYS,
    constants={},
    scaling=LLAMA_SCALING,
    fixed=LLAMA_FIXED,
    names=LLAMA_NAMES,
    eos="eos_token_id",
    pad="",
    chat=None,
)
OPEN_DCODER = replace(
    A2D_QWEN2,
    about="Open-dLLM's coder: files of a plain Qwen2, full attention, shifted",
    repositories=("fredzzp/open-dcoder-0.5B",),
    matches={"model_type": "qwen2"},
    token="<M>",
    constants={"qkv_bias": True, "shift": True},
    mask="<M>",
    eos="<|endoftext|>",
    pad="",
    bos="<|endoftext|>",
    decoding={"policy": "entropy", "temperature": 0.5},
    chat=None,
)
FAST_DLLM = replace(
    A2D_QWEN2,
    about="Fast-dLLM v2: block-causal attention, shifted, made from Qwen2.5",
    repositories=("Efficient-Large-Model/Fast_dLLM_v2_1.5B", "Efficient-Large-Model/Fast_dLLM_v2_7B"),
    matches={"model_type": "Fast_dLLM_Qwen"},
    keys=LLAMA_KEYS | {"causal_block": "bd_size"},
    constants={"qkv_bias": True, "shift": True},
    mask="|<MASK>|",
    pad="<|endoftext|>",
    bos="<|endoftext|>",
    decoding={"policy": "threshold:threshold=0.9", "temperature": 0.0, "block_size": 32},
)
SDAR = replace(
    A2D_QWEN3,
    about="SDAR and TraDo: block-causal attention, made from Qwen3",
    repositories=("JetLM/SDAR-1.7B-Chat", "JetLM/SDAR-4B-Chat", "JetLM/SDAR-8B-Chat", "Gen-Verse/TraDo-8B-Instruct"),
    matches={"model_type": "sdar"},
    keys=QWEN3_KEYS | {"causal_block": "block_size | block_length | =4"},
    decoding={"policy": "threshold:threshold=0.85", "temperature": 1.0, "block_size": 4},
)
