"""Names and settings that the classes of Llama and Qwen in the transformers library share, and causal checkpoints."""

__all__ = [
    "LLAMA_FIXED",
    "LLAMA_KEYS",
    "LLAMA_NAMES",
    "LLAMA_SCALING",
    "PLAIN",
    "QWEN2_NAMES",
    "QWEN3_KEYS",
    "QWEN3_NAMES",
]

LLAMA_KEYS = {
    "vocab_size": "vocab_size",
    "max_length": "max_position_embeddings",
    "width": "hidden_size",
    "blocks": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head": "head_dim | hidden_size / num_attention_heads",
    "inner": "intermediate_size",
    "eps": "rms_norm_eps",
    "base": "rope_theta | rope_parameters.rope_theta",
    "tied": "tie_word_embeddings",
}
QWEN3_KEYS = LLAMA_KEYS | {"head": "head_dim"}

LLAMA_SCALING = {
    "scaling.rule": "rope_scaling.rope_type | rope_scaling.type | rope_parameters.rope_type",
} | {
    f"scaling.{name}": f"rope_scaling.{theirs} | rope_parameters.{theirs}"
    for name, theirs in (
        ("factor", "factor"),
        ("original", "original_max_position_embeddings"),
        ("slow", "low_freq_factor"),
        ("fast", "high_freq_factor"),
    )
}
"""Rotary frequencies of Llama 3.1 and 3.2."""
PLAIN = {
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "rope_scaling": (None,),
    "rope_parameters.rope_type": ("default", None),
    "use_sliding_window": (False, None),
}
"""What the network does not have: biases of the output and the feed-forward, sliding windows, scaled positions."""
LLAMA_FIXED = {name: value for name, value in PLAIN.items() if not name.startswith("rope")} | {
    LLAMA_SCALING["scaling.rule"]: ("llama3", "default", None),
}

_BLOCK = "model.layers.{}."
LLAMA_NAMES = {
    "model.embed_tokens.weight": "embedding.weight",
    f"{_BLOCK}input_layernorm.weight": "blocks.{}.norm_1.weight",
    f"{_BLOCK}self_attn.q_proj.weight": "blocks.{}.query.weight",
    f"{_BLOCK}self_attn.k_proj.weight": "blocks.{}.key.weight",
    f"{_BLOCK}self_attn.v_proj.weight": "blocks.{}.value.weight",
    f"{_BLOCK}self_attn.o_proj.weight": "blocks.{}.out.weight",
    f"{_BLOCK}post_attention_layernorm.weight": "blocks.{}.norm_2.weight",
    f"{_BLOCK}mlp.gate_proj.weight": "blocks.{}.feed.gate.weight",
    f"{_BLOCK}mlp.up_proj.weight": "blocks.{}.feed.up.weight",
    f"{_BLOCK}mlp.down_proj.weight": "blocks.{}.feed.down.weight",
    f"{_BLOCK}self_attn.rotary_emb.inv_freq": "",  # stored by old versions
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "head.weight",
}
QWEN2_NAMES = LLAMA_NAMES | {
    f"{_BLOCK}self_attn.{letter}_proj.bias": f"blocks.{{}}.{part}.bias"
    for letter, part in (("q", "query"), ("k", "key"), ("v", "value"))
}
QWEN3_NAMES = LLAMA_NAMES | {
    f"{_BLOCK}self_attn.{letter}_norm.weight": f"blocks.{{}}.{part}_norm.weight"
    for letter, part in (("q", "query"), ("k", "key"))
}
