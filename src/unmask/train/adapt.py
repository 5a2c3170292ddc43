"""A checkpoint -> the network to train further: with soft masks, or a causal model as a masked one.

The latter are attention, shift, MASK, low-rank terms, and rows of pairs.

Published conversions differ: DiffuLLaMA (arXiv:2410.17891) and Dream (arXiv:2508.15487) keep the shift of the causal
model, dllm's a2d does not; DiffuLLaMA anneals the attention, the others are bidirectional from the first step.
"""

__all__ = ["Fill", "adapted_corpus", "adapted_objective", "causal_start", "loaded_start"]

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn

from unmask.data.packed import Corpus, Packed
from unmask.data.shards import Filled
from unmask.denoiser import Trainable
from unmask.disk.tensors import iterate_layout
from unmask.errors import CheckpointError, ConfigError
from unmask.hf.masked import load_any
from unmask.model.divided import fill_parts, take_values
from unmask.model.load import Loaded, build, load_denoiser, stored_settings
from unmask.model.lora import add_low_rank
from unmask.model.settings import TransformerSettings
from unmask.model.soft import SoftMask
from unmask.model.zoo.read import read_model
from unmask.noise import generator
from unmask.objective.base import Objective
from unmask.objective.masked import Annealed, Masked, cross_entropy
from unmask.text.tokenizer import Tokenizer
from unmask.train.settings import AdaptSettings, TextRun

_ROW = 9  # of the seed: the noise in MASK's row
_NOISE = 0.1  # of the standard deviation of the rows
_FAMILIES = {"llama": "a2d-llama", "qwen2": "a2d-qwen2", "qwen3": "a2d-qwen3"}
"""Family of a causal model -> that of its conversions, whose template and decoding are the defaults of the result."""


Fill: TypeAlias = Callable[[Any], None]
"""What gives an empty network its values, once it has been divided among processes."""


def loaded_start(path: str, run: TextRun, device: torch.device, *, empty: bool) -> tuple[Loaded, Fill | None]:
    """The folder of the checkpoint to train further -> its network in float32, changed as `run` says.

    An `empty` network has no memory, and comes with what gives it its values; not so one that the transformers library
    runs, and one whose time was frozen, which are loaded whole.

    Raises ConfigError as `causal_start`, and for soft masks where there can be none.
    """
    soft = run.model.soft
    if run.adapt.tuning != "none":
        if soft:
            raise ConfigError(
                f"model.soft is {soft}, and a causal model becomes a masked one here; train that first, and then give "
                "the result to unmask train --init with --model.soft."
            )
        loaded, rows = causal_start(path, run.adapt, run.data.length, run.train.seed, str(device), empty=empty)
        return loaded, _fill(loaded, rows, device) if empty else None
    config = read_model(path).config
    empty = empty and config.get("library") != "transformers" and "time" not in config
    loaded = load_denoiser(path, empty=True) if empty else load_any(path, str(device), torch.float32)
    before = getattr(loaded.denoiser, "soft", 0)
    if before and not soft:
        raise ConfigError(
            f"model.soft is 0, but {path} has soft masks, and they stay; set model.soft to {before}, and decode with "
            "plain masks where you want that: --feedback off."
        )
    if soft != before:
        softened = _softened(loaded.denoiser, soft, path)
        loaded = replace(loaded, denoiser=softened if empty else softened.to(device))
    return loaded, _fill(loaded, {}, device) if empty else None


def _fill(loaded: Loaded, rows: Mapping[str, tuple[int, Tensor]], device: torch.device) -> Fill:
    """An empty network -> what gives it its values. Its new parameters, which have values, become empty too."""
    values = take_values(cast(nn.Module, loaded.denoiser))
    return lambda network: fill_parts(network, loaded.checkpoint, values, rows, device)


def _softened(network: Trainable, soft: int, path: str) -> Trainable:
    """A network -> the same with soft masks of so many tokens, which are off until they are trained."""
    if not hasattr(network.settings, "soft"):
        raise ConfigError(
            f"{path} is a network of the class {type(network).__name__}, which has no soft masks; they are for a DiT, "
            "which unmask train makes, and for transformers of the kind of Llama and Qwen. Leave model.soft out."
        )
    if next(network.parameters()).is_meta:
        with torch.device("meta"):
            new: Any = build(replace(network.settings, soft=soft))
        new.soft_mask = SoftMask()
        return new
    new = build(replace(network.settings, soft=soft))
    new.load_state_dict(network.state_dict(), strict=False)  # the scalars are new, or there already
    return new.eval()


def causal_start(
    path: str, adapt: AdaptSettings, length: int, seed: int, device: str, *, empty: bool = False
) -> tuple[Loaded, dict[str, tuple[int, Tensor]]]:
    """The folder of a causal checkpoint -> its network with full attention and a row for MASK, in float32.

    With it come the rows that differ from the stored ones, which an `empty` network gets when it is filled.

    Its window becomes `length`, the positions over which it is trained. Raises ConfigError for a checkpoint that is not
    causal, a longer window than its own, and a MASK row of a token that does not exist.
    """
    settings = _causal_settings(path)
    if length > settings.max_length:
        raise ConfigError(
            f"data.length is {length}, but {path} was trained on texts of at most {settings.max_length} tokens; "
            f"set --data.length {settings.max_length} or less."
        )
    loaded = load_denoiser(path, device, torch.float32, grow=True, empty=empty)
    network: Any = loaded.denoiser
    family = _FAMILIES.get(settings.family, "")
    network.settings = replace(settings, causal_block=0, shift=adapt.shift, max_length=length, family=family)
    embedding = _stored_embedding(loaded) if empty else network.embedding
    _set_mask_row(embedding, loaded.tokenizer, adapt.mask_row, seed)
    row = embedding.weight[network.mask_id].detach().clone()
    if adapt.tuning == "lora":
        add_low_rank(network, adapt.rank, adapt.alpha, seed)
        if empty:
            network.embedding.row = nn.Parameter(row.clone())
    return loaded, {"embedding.weight": (network.mask_id, row)}


def _stored_embedding(loaded: Loaded) -> nn.Embedding:
    """The embedding of an empty network, alone and whole, for the mean of its rows."""
    old: nn.Embedding = cast(Any, loaded.denoiser).embedding
    for path, stored in loaded.checkpoint.layout.items():
        for name, parts in stored.items():
            for part in parts:
                if part.name == "embedding.weight":
                    ((_, rows),) = iterate_layout({path: {name: [part]}}, dtype=torch.float32)
                    weight = nn.functional.pad(rows, (0, 0, 0, old.num_embeddings - len(rows)))
                    return nn.Embedding.from_pretrained(weight.clone())
    raise CheckpointError(f"{loaded.checkpoint.folder} has no embedding; copy it again.")


def _causal_settings(path: str) -> TransformerSettings:
    checkpoint = read_model(path, grow=True)
    settings = stored_settings(checkpoint)
    if isinstance(settings, TransformerSettings) and settings.causal_block == 1 and settings.shift:
        return settings
    what = checkpoint.config.get("family") or checkpoint.config.get("architecture")
    raise ConfigError(
        f"{path} is no causal model but a masked one already ({what}): give a checkpoint of Llama, Qwen2, Qwen3 or "
        f"SmolLM, or fine-tune this one with unmask train --init {path}"
    )


@torch.no_grad()
def _set_mask_row(embedding: nn.Embedding, tokenizer: Tokenizer, choice: str, seed: int) -> None:
    """Write the row of MASK: that of a token, or the mean of the others plus noise of a tenth of their deviation."""
    weight, mask = embedding.weight, tokenizer.mask_id
    if choice != "mean":
        token = tokenizer.backend.token_to_id(choice)
        if token is None or token == mask:
            raise ConfigError(
                f"adapt.mask_row is '{choice}', which is no token of the checkpoint; give one, or mean for the mean of "
                "all rows."
            )
        weight[mask] = weight[token]
        return
    present = torch.ones(len(weight), dtype=torch.bool)
    present[[mask, *tokenizer.missing(len(weight))]] = False
    rows = weight[present.to(weight.device)]
    noise = torch.randn(weight.shape[1], generator=generator(seed, _ROW)).to(weight)
    weight[mask] = rows.mean(0) + _NOISE * rows.std(0) * noise


def adapted_corpus(corpus: Corpus, adapt: AdaptSettings) -> Corpus:
    """A corpus -> the same with prompts that are hidden too, or rows that are filled with EOS, where that is wanted."""
    if not (adapt.hide_prompt or adapt.pad_eos):
        return corpus
    train, valid = (_adapted(part, adapt, corpus.tokenizer.eos_id) for part in (corpus.train, corpus.valid))
    facts = replace(
        corpus.facts,
        train=replace(corpus.facts.train, tokens=train.tokens),
        valid=replace(corpus.facts.valid, tokens=valid.tokens),
    )
    return replace(corpus, train=train, valid=valid, facts=facts)


def adapted_objective(objective: Objective, run: TextRun, corpus: Corpus, window: int | None) -> Objective:
    """The objective of plain training and a run -> that with annealed attention, soft masks or mask-agnostic loss.

    `window` is that of a network that is trained further; None for a new one, which has space for the MASKs. Raises
    ConfigError where the mask-agnostic loss does not go with what else is asked for, or rows have no space for a MASK.
    """
    masks, plain = run.agnostic, objective if isinstance(objective, Masked) else None
    if run.model.soft:
        if masks.masks:
            raise ConfigError("agnostic.masks does not go with soft masks: leave agnostic.masks or model.soft out.")
        from unmask.objective.soft import soft_masked

        return soft_masked(objective, run.train.two_pass)
    if not masks.masks:
        return objective if plain is None else Annealed(plain, run.adapt.anneal)
    if plain is None or plain.cost is not cross_entropy or run.adapt.anneal:
        what = "adapt.anneal" if run.adapt.anneal else "another parameterization or discrete time"
        raise ConfigError(f"agnostic.masks is for the bound of masked diffusion, without {what}; leave out either.")
    if window is not None and masks.masks >= window:
        raise ConfigError(
            f"agnostic.masks is {masks.masks}, but the model's window is {window} tokens, in which the row stands too; "
            f"set --agnostic.masks {window // 2} or so."
        )
    if window is not None and window - _mean_last(corpus.train) < 1:
        raise ConfigError(
            f"agnostic.masks appends MASKs to rows, and those of {corpus.train.length} tokens fill the model's window "
            f"of {window}; set --data.length {window // 2} or so."
        )
    from unmask.objective.mask_agnostic import MaskAgnostic

    return MaskAgnostic(plain, masks.masks, masks.rise, masks.cross_entropy, masks.variation, masks.shares)


def _mean_last(rows: Packed) -> float:
    """The mean number of positions that are not PAD."""
    return sum(int(last.sum()) for _, last in rows.spans()) / len(rows)


def _adapted(rows: Packed, adapt: AdaptSettings, eos: int | None) -> Packed:
    """Packed rows and EOS, which every causal family has -> the same; nothing of them is copied.

    The bytes of prompts are not known, so that there are no bits per byte where these are hidden.
    """
    ids, first, last, size = rows.ids, rows.first, rows.last, rows.bytes
    if adapt.hide_prompt:
        size = 0 if any(bool((begin > 0).any()) for begin, _ in rows.spans()) else size
        first = np.broadcast_to(np.int32(0), len(rows))
    if adapt.pad_eos and eos is not None:
        ids, last = Filled(ids, last, eos), np.broadcast_to(np.int32(rows.length), len(rows))
    return Packed(ids, first, last, size, 0).counted()
