"""Any class of AutoModelForMaskedLM (ModernBERT, ESM, ...) as an architecture, run by the transformers library.

Its settings are the config.json of the model, so that it is trained, saved and loaded as every other network; what is
published is read by the library. Networks that this library has itself (`unmask.model.zoo`) are preferred. Only
safetensors are read, and no program of a folder is run. Start and end token are put around every text and are never
written, as by `unmask.model.encoder`.
"""

__all__ = ["MaskedLM", "MaskedLMSettings", "load_any", "open_denoiser", "published_parts"]

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from unmask.config import to_dict
from unmask.disk.checkpoint import Checkpoint
from unmask.errors import CheckpointError, RequestError, reason_in_words
from unmask.hf.names import locate
from unmask.limits import require_memory
from unmask.model.encoder import framed
from unmask.model.load import STORED_FROM, Held, Loaded, load_denoiser, register
from unmask.model.zoo.masked import MASKED_LM, window_of
from unmask.model.zoo.read import read_model
from unmask.process import Linear, MaskedDiffusion
from unmask.ranges import Count, Natural, check_numbers
from unmask.text.build import letter_tokenizer
from unmask.text.tokenizer import Tokenizer

_IDLE = ("_name_or_path", "dtype", "torch_dtype", "transformers_version")  # of a config.json: they change no network


@dataclass(frozen=True, slots=True)
class MaskedLMSettings:
    """What makes the network: the config.json of the model, and what the library of its class does not say."""

    config: dict[str, Any]
    """As published; dropout in it has no effect."""
    vocab_size: Count
    mask_id: Natural
    start_id: Natural
    """The id of the token before every text."""
    end_id: Natural
    """The id of the token after every text."""
    max_length: Count
    """Longest text in tokens, without start and end token."""
    width: Count

    def __post_init__(self) -> None:
        check_numbers(self, "model.")


class _Passed(nn.Module):
    """In place of the encoder of a model: its output is its input, so that the model is its head alone."""

    def __init__(self, output: Callable[..., Any]) -> None:
        super().__init__()
        self.output = output

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> Any:
        return self.output(last_hidden_state=inputs_embeds)


class MaskedLM(nn.Module):
    """A Trainable denoiser (see `unmask.denoiser`): encoder and head of a model of the transformers library."""

    def __init__(self, settings: MaskedLMSettings, model: Any = None) -> None:
        """`model` is the model itself where it has been loaded; else one with random weights is made.

        Raises CheckpointError where the library is not installed, or does not have such a model.
        """
        super().__init__()
        self.settings = settings
        self.dropout_keys: Tensor | None = None  # it has no dropout
        model = _new_model(settings.config) if model is None else model
        self.prefix = str(model.base_model_prefix)
        self.own_buffers = {
            f"{name}.{leaf}" for name, module in model.named_modules() for leaf in module._non_persistent_buffers_set
        }
        for module in model.modules():  # buffers that are made with a module are stored as well, as loading needs
            module._non_persistent_buffers_set.clear()
        self.encoder: Any = getattr(model, self.prefix)
        setattr(model, self.prefix, _Passed(_library("transformers.modeling_outputs").BaseModelOutput))
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


register(MASKED_LM, MaskedLMSettings, MaskedLM)


def published_parts(network: MaskedLM) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A network -> its config.json, and its tensors by their published names."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        part, _, inner = name.partition(".")
        tensors[f"{network.prefix}.{inner}" if part == "encoder" else inner] = tensor.detach()
    return dict(network.settings.config), {name: x for name, x in tensors.items() if name not in network.own_buffers}


def open_denoiser(name_or_path: str | os.PathLike[str], device: str, dtype: str) -> Loaded:
    """A name or a path, and the name of an arithmetic -> network, process and tokenizer, as `load_denoiser`.

    With float32 weights are held in it; with int8 the matrices of a transformer's blocks are, and all else in bfloat16.
    """
    held = {"float32": torch.float32, "int8": torch.bfloat16}.get(dtype)
    quantise = None
    if dtype == "int8":
        from unmask.hf.int8 import int8_weights

        quantise = int8_weights()
    return load_any(locate(name_or_path), device, held, quantise)


def load_any(
    path: str, device: str = "cpu", dtype: Held = None, quantise: Callable[[nn.Linear], None] | None = None
) -> Loaded:
    """As `load_denoiser`; also for folders that the transformers library loads."""
    checkpoint = read_model(path)
    if checkpoint.config.get("library") != "transformers":
        return load_denoiser(path, device, dtype, quantise)
    if quantise is not None:
        raise RequestError(f"Weights in int8 are for transformers, and {path} is none: leave out --dtype int8.")
    return _load(checkpoint, device, dtype)


# ---- the library -----------------------------------------------------------------------------------------------------


def _library(name: str = "transformers") -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CheckpointError(
            "This masked language model runs in the transformers library: pip install 'unmask[hf]'."
        ) from error


def _config(config: Mapping[str, Any]) -> Any:
    """The content of a config.json -> the object of the library, without dropout."""
    plain = {name: value for name, value in config.items() if name not in _IDLE}
    facts = _library().AutoConfig.for_model(**plain)
    for name, value in vars(facts).items():
        if "dropout" in name and type(value) is float:  # its random numbers would not be a function of the seed
            setattr(facts, name, 0.0)
    return facts


def _new_model(config: Mapping[str, Any]) -> Any:
    """The content of a config.json -> the model with random weights. Raises CheckpointError where there is none."""
    library = _library()
    try:
        return library.AutoModelForMaskedLM.from_config(_config(config), trust_remote_code=False)
    except Exception as error:  # the library raises many types
        raise CheckpointError(f"transformers cannot build this model ({reason_in_words(error)[:300]}).") from error


def _load(checkpoint: Checkpoint, device: str, dtype: Held) -> Loaded:
    """A published folder -> network, process and tokenizer, as the library loads them."""
    folder, library = checkpoint.folder, _library()
    count = checkpoint.parameters
    held = "auto" if dtype == "stored" or (dtype is None and count >= STORED_FROM) else dtype or torch.float32
    require_memory(
        count * 2, f"{folder} with {count:,} parameters", "use a machine with more memory, or a smaller model"
    )
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    config: dict[str, Any] = checkpoint.config["model"]["config"]
    try:
        words, facts = library.AutoTokenizer.from_pretrained(folder, **options), _config(config)
        model = library.AutoModelForMaskedLM.from_pretrained(
            folder, config=facts, dtype=held, use_safetensors=True, **options
        )
    except Exception as error:  # the library raises many types
        raise CheckpointError(f"{folder} cannot be loaded by transformers ({reason_in_words(error)[:300]}).") from error
    tokenizer, start, end = _tokenizer(words, folder)
    tokenizer = replace(tokenizer, eos_id=None)  # the network ends every text itself
    window = window_of(facts.to_dict(), folder)
    if window is None:
        raise CheckpointError(f"{folder / 'config.json'} does not say how many positions the model has.")
    kept = {name: value for name, value in config.items() if name not in _IDLE}
    settings = MaskedLMSettings(kept, facts.vocab_size, tokenizer.mask_id, start, end, window, facts.hidden_size)
    network = MaskedLM(settings, model).to(device).eval()
    record = checkpoint.config | {
        "model": to_dict(settings),
        "network": {"max_length": window, "vocab_size": settings.vocab_size, "width": settings.width},
    }
    known = replace(checkpoint, config=record, versions={"transformers": library.__version__})
    return Loaded(network, MaskedDiffusion(tokenizer.mask_id, Linear()), tokenizer, known)


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
