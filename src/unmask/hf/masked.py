"""A folder of any class of AutoModelForMaskedLM (ModernBERT, ESM, ...) -> a denoiser, run by the transformers library.

Networks that this library has itself (`unmask.model.zoo`) are preferred. Only safetensors are read, and no program of a
folder is run. Start and end token are put around every text and are never written, as by `unmask.model.encoder`.
"""

__all__ = ["MaskedLM", "MaskedLMSettings", "open_denoiser"]

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from unmask.disk.checkpoint import FORMAT, Checkpoint
from unmask.disk.folders import resolve
from unmask.disk.json import read_json
from unmask.disk.tensors import read_shards
from unmask.errors import CheckpointError, RequestError, reason_in_words
from unmask.hf.names import locate
from unmask.limits import require_memory
from unmask.model.encoder import framed
from unmask.model.load import STORED_FROM, Loaded, load_denoiser
from unmask.process import Linear, MaskedDiffusion
from unmask.text.build import letter_tokenizer
from unmask.text.tokenizer import Tokenizer

_AFTER_PADDING = frozenset({"roberta", "xlm-roberta", "camembert", "esm", "data2vec-text", "xlm-roberta-xl", "mpnet"})
"""Model types whose learned positions begin after the id of padding."""


@dataclass(frozen=True, slots=True)
class MaskedLMSettings:
    """What the library has to know of a network that it does not build itself."""

    model_type: str
    """As in config.json."""
    vocab_size: int
    mask_id: int
    start_id: int
    end_id: int
    max_length: int
    """Longest text in tokens, without start and end token."""
    width: int


class _Passed(nn.Module):
    """In place of the encoder of a model: its output is its input, so that the model is its head alone."""

    def __init__(self, output: Callable[..., Any]) -> None:
        super().__init__()
        self.output = output

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> Any:
        return self.output(last_hidden_state=inputs_embeds)


class MaskedLM(nn.Module):
    """A denoiser (see `unmask.denoiser`) around an encoder and a head of the transformers library."""

    def __init__(self, model: nn.Module, settings: MaskedLMSettings) -> None:
        super().__init__()
        library: Any = importlib.import_module("transformers.modeling_outputs")
        prefix = str(model.base_model_prefix)
        self.settings = settings
        self.dropout_keys: Tensor | None = None
        self.encoder: Any = getattr(model, prefix)
        setattr(model, prefix, _Passed(library.BaseModelOutput))
        self.head: Any = model

    @property
    def vocab_size(self) -> int:
        return self.settings.vocab_size

    @property
    def mask_id(self) -> int:
        return self.settings.mask_id

    @property
    def max_length(self) -> int:
        return self.settings.max_length

    @property
    def width(self) -> int:
        return self.settings.width

    @property
    def time_conditioned(self) -> bool:
        return False

    @property
    def frame(self) -> tuple[int, int]:
        """The ids of the start and the end token, which are around every text and never in one."""
        return self.settings.start_id, self.settings.end_id

    def hidden(
        self,
        tokens: Tensor,
        *,
        valid: Tensor | None = None,
        time: Tensor | None = None,
        positions: Tensor | None = None,
        prompt: Tensor | None = None,
    ) -> Tensor:
        """See `unmask.denoiser.Denoiser`. Raises RequestError for `positions`, which these classes number themselves,
        and for tokens after the last position."""
        length, last = tokens.shape[1], self.max_length
        if positions is not None:
            raise RequestError("A model of the transformers library numbers the positions itself; leave them out.")
        if length > last:
            if valid is None or bool(valid[:, last:].any()):
                raise RequestError(f"{length} tokens are too many for {last} positions; cut the sequence.")
            kept = self.hidden(tokens[:, :last], valid=valid[:, :last])
            return nn.functional.pad(kept, (0, 0, 0, length - last))
        ids, seen = framed(tokens, valid, *self.frame)
        ids, seen = ids[:, : last + 2], seen[:, : last + 2]  # there may be no position for the padding
        return self.encoder(input_ids=ids, attention_mask=seen.long())[0][:, 1 : length + 1]

    def logits(self, hidden: Tensor) -> Tensor:
        """See `unmask.denoiser.Denoiser`; in evaluation the head runs in float32."""
        flat = hidden.reshape(1, -1, hidden.shape[-1])
        if not self.training:
            with torch.autocast(hidden.device.type, enabled=False):
                dtype = next(self.head.parameters()).dtype
                return self.head(inputs_embeds=flat.to(dtype)).logits.float().view(*hidden.shape[:-1], -1)
        return self.head(inputs_embeds=flat).logits.view(*hidden.shape[:-1], -1)

    def lowered(self, dtype: torch.dtype) -> Self:
        """The matrices of the encoder in `dtype` -> the network itself."""
        for module in self.encoder.modules():
            if isinstance(module, nn.Linear):
                module.to(dtype)
        return self


def open_denoiser(name_or_path: str | os.PathLike[str], device: str, dtype: str) -> Loaded:
    """A name or a path, and the name of an arithmetic -> network, process and tokenizer, as `load_denoiser`.

    With float32 weights are held in it; with int8 the matrices of a transformer's blocks are, and all else in bfloat16.
    What `load_denoiser` refuses is given to the transformers library where config.json says that it is a masked
    language model.
    """
    path = locate(name_or_path)
    held = {"float32": torch.float32, "int8": torch.bfloat16}.get(dtype)
    quantise = None
    if dtype == "int8":
        from unmask.hf.int8 import int8_weights

        quantise = int8_weights()
    try:
        return load_denoiser(path, device, held, quantise)
    except CheckpointError as error:
        config = _masked_config(path)
        if config is None or quantise is not None:
            raise
        return _load(resolve(path), config, device, held, error)


def _masked_config(path: str) -> dict[str, Any] | None:
    """A path -> config.json, if it is that of a masked language model which unmask did not write."""
    file = Path(path) / "config.json"
    if not file.is_file():
        return None
    config = read_json(file, dict[str, Any], CheckpointError)
    classes = config.get("architectures")
    masked = isinstance(classes, list) and any(str(name).endswith("ForMaskedLM") for name in classes)
    return config if masked and "format" not in config and "auto_map" not in config else None


def _load(folder: Path, config: dict[str, Any], device: str, dtype: torch.dtype | None, reason: Exception) -> Loaded:
    try:
        library: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise CheckpointError(f"{reason} The transformers library could run it: pip install 'unmask[hf]'.") from error
    tensors = {name: facts for shard in read_shards(folder).values() for name, facts in shard.items()}
    count = sum(facts.count for facts in tensors.values())
    held = "auto" if dtype is None and count >= STORED_FROM else dtype or torch.float32
    require_memory(
        count * 2, f"{folder} with {count:,} parameters", "use a machine with more memory, or a smaller model"
    )
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        words = library.AutoTokenizer.from_pretrained(folder, **options)
        model = library.AutoModelForMaskedLM.from_pretrained(folder, dtype=held, use_safetensors=True, **options)
    except Exception as error:  # the library raises many types
        raise CheckpointError(f"{folder} cannot be loaded by transformers ({reason_in_words(error)[:300]}).") from error
    tokenizer, start, end = _tokenizer(words, folder)
    tokenizer = replace(tokenizer, eos_id=None)  # the network ends every text itself
    facts = model.config
    positions = int(facts.max_position_embeddings)
    if facts.model_type in _AFTER_PADDING:
        positions -= tokenizer.pad_id + 1
    window = min(positions, int(min(words.model_max_length, 1 << 30))) - 2
    settings = MaskedLMSettings(
        facts.model_type, facts.vocab_size, tokenizer.mask_id, start, end, window, facts.hidden_size
    )
    network = MaskedLM(model, settings).to(device).eval()
    sizes = {"max_length": window, "vocab_size": facts.vocab_size, "width": facts.hidden_size}
    record = {"architecture": config["architectures"][0], "network": sizes, "process": {"schedule": "linear"}}
    versions = {"transformers": library.__version__}
    checkpoint = Checkpoint(folder, FORMAT, versions, record, tokenizer.to_json(), None, None, tensors, {})
    return Loaded(network, MaskedDiffusion(tokenizer.mask_id, Linear()), tokenizer, checkpoint)


def _tokenizer(words: Any, folder: Path) -> tuple[Tokenizer, int, int]:
    """A tokenizer of the transformers library -> ours, and the ids of its start and end token.

    Raises CheckpointError where it has no MASK, or puts no token around a text.
    """
    start = words.cls_token_id if words.cls_token_id is not None else words.bos_token_id
    end = words.sep_token_id if words.sep_token_id is not None else words.eos_token_id
    if words.mask_token_id is None or start is None or end is None or words.pad_token_id is None:
        raise CheckpointError(f"{folder} has a tokenizer without a mask, start, end or padding token.")
    roles = {"mask": words.mask_token_id, "pad": words.pad_token_id, "eos": end}
    backend = getattr(words, "backend_tokenizer", None)
    if backend is not None and folder.joinpath("tokenizer.json").is_file():
        return Tokenizer.from_json(backend.to_str(), name=f"{folder}/tokenizer.json", roles=roles), start, end
    tokens = sorted(words.get_vocab().items(), key=lambda pair: pair[1])
    if backend is not None or any(len(token) > 1 and not token.startswith("<") for token, _ in tokens):
        raise CheckpointError(f"{folder} has no tokenizer.json: make one with transformers, and copy it there.")
    special = [token for token, _ in tokens if len(token) > 1]  # of ESM: letters, and names such as <cls>
    return letter_tokenizer([token for token, _ in tokens], words.unk_token, special), start, end
