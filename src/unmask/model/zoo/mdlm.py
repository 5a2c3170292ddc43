"""MDLM (arXiv:2406.07524), BD3-LM (arXiv:2503.09573), SEDD (arXiv:2310.16834): diffusion transformers on GPT-2 ids.

MDLM and BD3-LM have a time input that is always 0; its effect is folded into constants. SEDD's depends on the share of
masked tokens. Its scores are exp(log p) / (exp(sigma) - 1), with the same factor for all tokens, so that the softmax of
its output is p; the published samplers use the scores without it.
"""

__all__ = ["BD3LM", "MDLM", "SEDD"]

from dataclasses import replace

from unmask.model.zoo.base import Family

_BLOCK = "backbone.blocks.{}."
_NAMES = {
    "backbone.vocab_embed.embedding": "embedding.weight",
    "backbone.sigma_map.mlp.{}.weight": "time.mlp.{}.weight",
    "backbone.sigma_map.mlp.{}.bias": "time.mlp.{}.bias",
    "backbone.rotary_emb.inv_freq": "",
    f"{_BLOCK}norm1.weight": "blocks.{}.norm_1.weight",
    f"{_BLOCK}attn_qkv.weight": "blocks.{}.qkv.weight",
    f"{_BLOCK}attn_out.weight": "blocks.{}.out.weight",
    f"{_BLOCK}norm2.weight": "blocks.{}.norm_2.weight",
    f"{_BLOCK}mlp.0.weight": "blocks.{}.up.weight",
    f"{_BLOCK}mlp.0.bias": "blocks.{}.up.bias",
    f"{_BLOCK}mlp.2.weight": "blocks.{}.down.weight",
    f"{_BLOCK}mlp.2.bias": "blocks.{}.down.bias",
    f"{_BLOCK}adaLN_modulation.weight": "blocks.{}.modulation.weight",
    f"{_BLOCK}adaLN_modulation.bias": "blocks.{}.modulation.bias",
    "backbone.output_layer.norm_final.weight": "norm.weight",
    "backbone.output_layer.linear.weight": "head.weight",
    "backbone.output_layer.linear.bias": "head.bias",
    "backbone.output_layer.adaLN_modulation.weight": "modulation.weight",
    "backbone.output_layer.adaLN_modulation.bias": "modulation.bias",
}

MDLM = Family(
    about="MDLM on OpenWebText: a diffusion transformer, full attention",
    repositories=("kuleshov-group/mdlm-owt", "kuleshov-group/mdlm-no_flashattn-fp32-owt"),
    tokenizer="openai-community/gpt2",
    architecture="dit",
    matches={"model_type": "mdlm"},
    keys={
        "vocab_size": "vocab_size",
        "max_length": "model_length",
        "width": "hidden_dim",
        "blocks": "n_blocks",
        "heads": "n_heads",
        "cond": "cond_dim",
        "dropout": "dropout",
    },
    constants={"gelu": "tanh", "modulation": "time"},
    fixed={"time_conditioning": (False,)},
    time=0.0,
    names=_NAMES,
    mask="vocab_size - 1",
    eos="vocab_size - 2",
    decoding={"policy": "ancestral:steps=256", "temperature": 1.0},
)
BD3LM = replace(
    MDLM,
    about="BD3-LM on OpenWebText: a diffusion transformer, block-causal attention",
    repositories=tuple(f"kuleshov-group/bd3lm-owt-block_size{size}" for size in (4, 8, 16)),
    matches={"model_type": "bd3lm"},
    keys={**MDLM.keys, "causal_block": "block_size"},
    fixed={"time_conditioning": (False,), "cross_attn": (True,), "adaln": (True,), "causal": (False,)},
    names=_NAMES | {"sampling_eps_min": "", "sampling_eps_max": ""},
    decoding={"policy": "ancestral:steps=inf", "temperature": 1.0},
)
SEDD = replace(
    MDLM,
    about="SEDD: a diffusion transformer with a time input, full attention",
    repositories=("louaaron/sedd-small", "louaaron/sedd-medium"),
    matches={"graph.type": "absorb"},
    keys={
        "vocab_size": "tokens + 1",
        "max_length": "model.length",
        "width": "model.hidden_size",
        "blocks": "model.n_blocks",
        "heads": "model.n_heads",
        "cond": "model.cond_dim",
        "dropout": "model.dropout",
    },
    fixed={"noise.type": ("loglinear",), "model.scale_by_sigma": (True,)},
    time=None,
    names={name.removeprefix("backbone."): ours for name, ours in _NAMES.items()},
    constants={"gelu": "tanh", "modulation": "time", "parameterization": "sedd"},
    mask="tokens - 0",
    eos="tokens - 1",
)
