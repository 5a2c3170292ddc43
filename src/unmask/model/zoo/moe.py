"""Mixtures of experts: LLaDA-MoE and LLaDA2 (mini, flash), in plain torch."""

__all__ = ["LLADA2", "LLADA_MOE"]

from unmask.model.zoo.base import Family
from unmask.model.zoo.llama import LLAMA_KEYS, QWEN3_NAMES
from unmask.text.published import Chat

_ROLES = {"system": "SYSTEM", "user": "HUMAN", "assistant": "ASSISTANT"}
_CHAT = Chat(
    message="<role>{role}</role>{text}<|role_end|>",
    answer="<role>ASSISTANT</role>",
    system="detailed thinking off",
    roles=_ROLES,
)
_BLOCK = "model.layers.{}."
_PARTS = ("gate", "up", "down")
_EXPERTS = {f"{_BLOCK}mlp.gate.weight": "blocks.{}.feed.router.weight"} | {
    f"{_BLOCK}mlp.experts.{{}}.{part}_proj.weight": f"blocks.{{}}.feed.members.{{}}.{part}.weight" for part in _PARTS
}

LLADA_MOE = Family(
    about="LLaDA-MoE 7B with 1B active: full attention, a mixture of experts",
    repositories=("inclusionAI/LLaDA-MoE-7B-A1B-Base", "inclusionAI/LLaDA-MoE-7B-A1B-Instruct"),
    matches={"architectures": "LLaDAMoEModelLM"},
    keys={
        **LLAMA_KEYS,
        "inner": "dense_intermediate_size | expert_intermediate_size",
        "qk_norm": "qk_layernorm",
        "experts.count": "num_experts",
        "experts.chosen": "num_experts_per_tok",
        "experts.inner": "expert_intermediate_size",
        "experts.bias": "moe_router_enable_expert_bias | =0",
    },
    constants={"experts.rule": "softmax"},
    fixed={
        "hidden_act": ("silu",),
        "attention_bias": (False, None),
        "clip_qkv": (None,),
        "rope_scaling": (None,),
        "shared_expert_intermediate_size": (None, 0),
        "moe_router_score_function": ("softmax", None),
    },
    names={**QWEN3_NAMES, **_EXPERTS, f"{_BLOCK}mlp.gate.expert_bias": "blocks.{}.feed.bias"},
    mask="<|mask|>",
    eos="<|endoftext|>",
    decoding={"policy": "confidence:steps=32,pace=front", "temperature": 0.0, "block_size": 32},
    chat=_CHAT,
)
LLADA2 = Family(
    about="LLaDA2 mini and flash: block-causal attention, a mixture of experts",
    repositories=("inclusionAI/LLaDA2.0-mini", "inclusionAI/LLaDA2.0-flash", "inclusionAI/LLaDA2.1-mini"),
    matches={"model_type": "llada2_moe"},
    keys={
        **LLAMA_KEYS,
        "rotary": "head_dim * partial_rotary_factor",
        "causal_block": "block_size | =32",
        "experts.count": "num_experts",
        "experts.chosen": "num_experts_per_tok",
        "experts.inner": "moe_intermediate_size",
        "experts.shared": "moe_intermediate_size * num_shared_experts",
        "experts.dense": "first_k_dense_replace",
        "experts.groups": "n_group",
        "experts.groups_chosen": "topk_group",
        "experts.scale": "routed_scaling_factor",
    },
    constants={"qk_norm": True, "experts.rule": "sigmoid", "experts.bias": True},
    fixed={
        "hidden_act": ("silu",),
        "use_qkv_bias": (False, None),
        "use_bias": (False,),
        "use_qk_norm": (True, None),
        "rope_scaling": (None,),
        "norm_topk_prob": (True,),
        "score_function": ("sigmoid", None),
    },
    names={
        "model.word_embeddings.weight": "embedding.weight",
        f"{_BLOCK}input_layernorm.weight": "blocks.{}.norm_1.weight",
        f"{_BLOCK}attention.query_key_value.weight": (
            "blocks.{}.query.weight",
            "blocks.{}.key.weight",
            "blocks.{}.value.weight",
        ),
        f"{_BLOCK}attention.query_layernorm.weight": "blocks.{}.query_norm.weight",
        f"{_BLOCK}attention.key_layernorm.weight": "blocks.{}.key_norm.weight",
        f"{_BLOCK}attention.dense.weight": "blocks.{}.out.weight",
        f"{_BLOCK}post_attention_layernorm.weight": "blocks.{}.norm_2.weight",
        **{f"{_BLOCK}mlp.{part}_proj.weight": f"blocks.{{}}.feed.{part}.weight" for part in _PARTS},
        **_EXPERTS,
        f"{_BLOCK}mlp.gate.expert_bias": "blocks.{}.feed.bias",
        **{f"{_BLOCK}mlp.shared_experts.{p}_proj.weight": f"blocks.{{}}.feed.shared.{p}.weight" for p in _PARTS},
        "model.norm.weight": "norm.weight",
        "lm_head.weight": "head.weight",
    },
    mask="<|mask|>",
    eos="<|endoftext|>",
    decoding={"policy": "threshold:threshold=0.95", "temperature": 0.0, "block_size": 32},
    chat=_CHAT,
)
