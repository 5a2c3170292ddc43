"""BERT (arXiv:1810.04805) and RoBERTa (arXiv:1907.11692): the classes BertForMaskedLM and RobertaForMaskedLM."""

__all__ = ["BERT", "ROBERTA", "both_leaves"]

from collections.abc import Mapping
from dataclasses import replace

from unmask.model.zoo.base import Family


def both_leaves(parts: Mapping[str, str]) -> dict[str, str]:
    """Names of layers -> names of their weights and biases; those of LayerNorm also as in files of 2018."""
    names: dict[str, str] = {}
    for name, ours in parts.items():
        for leaf, old in (("weight", "gamma"), ("bias", "beta")):
            names[f"{name}.{leaf}"] = ours and f"{ours}.{leaf}"
            if name.endswith("LayerNorm"):
                names[f"{name}.{old}"] = f"{ours}.{leaf}"
    return names


def _encoder(prefix: str) -> dict[str, str]:
    layer = f"{prefix}.encoder.layer.{{}}."
    parts = {
        f"{prefix}.embeddings.LayerNorm": "norm",
        f"{layer}attention.self.query": "blocks.{}.query",
        f"{layer}attention.self.key": "blocks.{}.key",
        f"{layer}attention.self.value": "blocks.{}.value",
        f"{layer}attention.output.dense": "blocks.{}.out",
        f"{layer}attention.output.LayerNorm": "blocks.{}.norm_1",
        f"{layer}intermediate.dense": "blocks.{}.up",
        f"{layer}output.dense": "blocks.{}.down",
        f"{layer}output.LayerNorm": "blocks.{}.norm_2",
        f"{prefix}.pooler.dense": "",  # of classifiers
    }
    tables = {"word_embeddings": "embedding", "position_embeddings": "places", "token_type_embeddings": "types"}
    names = {f"{prefix}.embeddings.{name}.weight": f"{ours}.weight" for name, ours in tables.items()}
    return names | {f"{prefix}.embeddings.position_ids": ""} | both_leaves(parts)


_BERT_HEAD = {
    "cls.predictions.transform.dense": "transform",
    "cls.predictions.transform.LayerNorm": "head_norm",
    "cls.predictions.decoder": "",  # the embedding, and the bias again
    "cls.seq_relationship": "",
}
_ROBERTA_HEAD = {"lm_head.dense": "transform", "lm_head.layer_norm": "head_norm", "lm_head.decoder": ""}
_FIXED = {
    "hidden_act": ("gelu",),
    "position_embedding_type": ("absolute", None),
    "tie_word_embeddings": (True, None),
    "is_decoder": (False, None),
}

BERT = Family(
    about="BERT, a masked language model: start and end token are added to every text",
    repositories=("google-bert/bert-base-uncased", "google-bert/bert-base-multilingual-cased"),
    matches={"model_type": "bert"},
    keys={
        "vocab_size": "vocab_size",
        "positions": "max_position_embeddings",
        "width": "hidden_size",
        "blocks": "num_hidden_layers",
        "heads": "num_attention_heads",
        "inner": "intermediate_size",
        "eps": "layer_norm_eps",
        "types": "type_vocab_size",
    },
    fixed=_FIXED,
    names=_encoder("bert") | both_leaves(_BERT_HEAD) | {"cls.predictions.bias": "head_bias"},
    mask="[MASK]",
    bos="[CLS]",
    eos="[SEP]",
    pad="[PAD]",
    architecture="encoder",
    decoding={"policy": "confidence", "temperature": 0.0},
)
ROBERTA = replace(
    BERT,
    about="RoBERTa, a masked language model: start and end token are added to every text",
    repositories=("FacebookAI/roberta-base",),
    matches={"model_type": "roberta"},
    constants={"first": 2},
    fixed=_FIXED | {"pad_token_id": (1,)},  # positions begin after it
    names=_encoder("roberta") | both_leaves(_ROBERTA_HEAD) | {"lm_head.bias": "head_bias"},
    mask="<mask>",
    bos="bos_token_id",
    eos="eos_token_id",
    pad="pad_token_id",
)
