"""A folder of any class of AutoModelForMaskedLM (ModernBERT, ESM, ...) -> what is known without its library.

`unmask.hf.masked` builds and runs these networks; here are the facts that `unmask info` and training need before that.
"""

__all__ = ["MASKED_LM", "is_masked_lm", "masked_checkpoint", "window_of"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unmask.disk.checkpoint import FORMAT, Checkpoint
from unmask.disk.json import read_json
from unmask.disk.tensors import read_shards
from unmask.errors import CheckpointError
from unmask.ranges import Count, holds
from unmask.text.published import read_vocabulary

MASKED_LM = "masked-lm"
"""The name of the architecture."""
_AFTER_PADDING = frozenset({"roberta", "xlm-roberta", "camembert", "esm", "data2vec-text", "xlm-roberta-xl", "mpnet"})
"""Model types whose learned positions begin after the id of padding."""
_WIDTHS = ("hidden_size", "dim", "d_model", "n_embd")


def is_masked_lm(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a masked language model, of a class of the library itself."""
    classes = config.get("architectures")
    masked = isinstance(classes, list) and any(str(name).endswith("ForMaskedLM") for name in classes)
    return masked and "auto_map" not in config


def masked_checkpoint(folder: Path, config: Mapping[str, Any]) -> Checkpoint:
    """A folder and its config.json -> the checkpoint; its tensors keep their published names."""
    tensors = {name: facts for shard in read_shards(folder).values() for name, facts in shard.items()}
    width = next((config[name] for name in _WIDTHS if name in config), None)
    record = {
        "architecture": MASKED_LM,
        "library": "transformers",
        "model": {"config": dict(config)},
        "network": {"max_length": window_of(config, folder), "vocab_size": config.get("vocab_size"), "width": width},
        "process": {"kernel": "absorbing", "schedule": "linear"},
    }
    words = read_vocabulary(folder).text if (folder / "tokenizer.json").is_file() else None
    versions = {"transformers": str(config.get("transformers_version", "unknown"))}
    return Checkpoint(folder, FORMAT, versions, record, words, None, None, tensors, {})


def window_of(config: Mapping[str, Any], folder: Path) -> int | None:
    """The longest text in tokens, without start and end token; None where config.json does not say."""
    positions: Any = config.get("max_position_embeddings")
    if not holds(Count, positions):
        return None
    if config.get("model_type") in _AFTER_PADDING:
        positions -= (config.get("pad_token_id") or 0) + 1
    file = folder / "tokenizer_config.json"
    most = read_json(file, dict[str, Any], CheckpointError).get("model_max_length") if file.is_file() else None
    return int(min(positions, most if isinstance(most, int | float) else positions)) - 2
