"""A folder laid out as its authors published it -> a Checkpoint, by the table of its family; imported without torch.

Nothing in the folder is run: config.json is read as data, the weights are safetensors, templates of a tokenizer are
ignored. A masked language model of no family is left to the transformers library (`unmask.model.zoo.masked`). A folder
that unmask wrote is read as `unmask.disk.checkpoint` reads it.
"""

__all__ = ["FAMILIES", "Network", "family_of", "network_of", "published_name", "read_model", "tensor_name"]

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from unmask.disk.checkpoint import FORMAT, Checkpoint, read_checkpoint
from unmask.disk.folders import reading
from unmask.disk.json import fact_of, read_json
from unmask.disk.tensors import Part, TensorFacts, read_shards
from unmask.errors import CheckpointError
from unmask.model.zoo.base import Family
from unmask.model.zoo.bert import BERT, ROBERTA
from unmask.model.zoo.causal import LLAMA, QWEN2, QWEN3
from unmask.model.zoo.dream import DREAM
from unmask.model.zoo.llada import ILLADA, LLADA
from unmask.model.zoo.masked import is_masked_lm, masked_checkpoint
from unmask.model.zoo.mdlm import BD3LM, MDLM, SEDD
from unmask.model.zoo.moe import LLADA2, LLADA_MOE
from unmask.model.zoo.qwen import A2D_LLAMA, A2D_QWEN2, A2D_QWEN3, FAST_DLLM, OPEN_DCODER, SDAR
from unmask.text.published import Vocabulary, read_vocabulary

FAMILIES: dict[str, Family] = {
    "a2d-llama": A2D_LLAMA,
    "a2d-qwen2": A2D_QWEN2,
    "a2d-qwen3": A2D_QWEN3,
    "bd3lm": BD3LM,
    "bert": BERT,
    "dream": DREAM,
    "fast-dllm-v2": FAST_DLLM,
    "illada": ILLADA,
    "llada": LLADA,
    "llada-moe": LLADA_MOE,
    "llada2": LLADA2,
    "llama": LLAMA,
    "mdlm": MDLM,
    "open-dcoder": OPEN_DCODER,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "roberta": ROBERTA,
    "sdar": SDAR,
    "sedd": SEDD,
}
"""Families by name, in the order in which they are tried."""
_CONFIG = "config.json"
_ROWS = frozenset({"embedding.weight", "head.weight"})  # with a row for each id
_SUM = re.compile(r"(\S+) ([+-]) (\d+)")


def read_model(path: str | os.PathLike[str], *, grow: bool = False) -> Checkpoint:
    """Checkpoint folder, run folder, or folder of a published model -> everything but the weights.

    With `grow` a causal model of which no id is free gets one more, for MASK: its embedding is to have one more row
    than is stored.
    Raises CheckpointError for anything else, for a family that is not known, and for a config.json in which a key is
    missing or has a value for which the network would be another one.
    """
    return reading(path, lambda folder: _read(folder, grow))


def _read(folder: Path, grow: bool) -> Checkpoint:
    config = read_json(folder / _CONFIG, dict[str, Any], CheckpointError)
    if "format" in config or not {"model_type", "architectures", "graph"} & config.keys():
        return read_checkpoint(folder)
    return _published(folder, config, grow)


def family_of(config: Mapping[str, Any], tokens: Collection[str], folder: Path) -> str:
    """The content of a config.json and the tokens -> the name of the family. Raises CheckpointError without one."""
    for name, family in FAMILIES.items():
        if (not family.token or family.token in tokens) and all(
            _first(_at(config, key)) == value for key, value in family.matches.items()
        ):
            return name
    names = [str(value) for key in ("model_type", "architectures") if (value := _first(config.get(key)))]
    raise CheckpointError(
        f"{folder} holds a model of the transformers library, {', '.join(names)} ({_CONFIG}), of no family that is "
        f"known here: {', '.join(FAMILIES)} (unmask list families)."
    )


def published_name(checkpoint: Checkpoint, ours: str) -> str:
    """Our name of a tensor -> its name in the files of the checkpoint."""
    family = FAMILIES.get(checkpoint.config.get("family", ""))
    return ours if family is None else tensor_name(family, ours)[0]


def tensor_name(family: Family, ours: str) -> tuple[str, int]:
    """Our name of a tensor -> its name in published files, and its place among the tensors that are one there."""
    for name, parts in family.names.items():
        for place, part in enumerate((parts,) if isinstance(parts, str) else parts):
            if match := _pattern(part).fullmatch(ours):
                return name.format(*match.groups()), place
    return ours, 0


def _pattern(name: str) -> re.Pattern[str]:
    """A name with {} for each number -> the expression that finds the numbers."""
    return re.compile(re.escape(name).replace(r"\{\}", r"(\d+)"))


def _first(value: object) -> object:
    return value[0] if isinstance(value, list) and value else value


class Network(NamedTuple):
    """What config.json and the tokens of a published model say about its network."""

    name: str  # of its family
    family: Family
    settings: dict[str, Any]  # of our network
    facts: dict[str, Any]
    tokens: dict[str, int]  # ids by role: mask, eos, pad, bos
    decoding: dict[str, Any]
    stored: int  # rows of the embedding in the files


def network_of(config: Mapping[str, Any], vocabulary: Vocabulary, folder: Path, grow: bool = False) -> Network:
    """The content of a published config.json and the tokens -> the network. `folder` is for error sentences.

    `grow` is that of `read_model`.
    """
    name = family_of(config, vocabulary.ids, folder)
    _check(config, name, folder)
    family = FAMILIES[name]
    keys = dict(family.keys)
    if _at(config, family.scaling.get("scaling.rule", "")) not in (None, "default"):
        keys |= family.scaling
    settings: dict[str, Any] = {key: _required(config, place, folder) for key, place in keys.items()} | dict(
        family.constants
    )
    own = fact_of(config, ["unmask"], _Exported, folder / _CONFIG, CheckpointError) or _Exported({}, {})
    stored = settings["vocab_size"]
    if grow and family.mask == "" and "mask_id" not in own.settings:
        settings["vocab_size"] = max(stored, 1 + _after(vocabulary))
    tokens = _roles(family, config, vocabulary, settings | own.settings, folder)
    settings |= {"mask_id": tokens["mask"]} | own.settings
    if settings.get("modulation") == "none":  # an exported DiT: its modulation has no effect
        idle = {
            name: "" for name, ours in family.names.items() if "modulation" in ours or str(ours).startswith("time.")
        }
        family = replace(family, names=dict(family.names) | idle, time=None)
    network: dict[str, Any] = {key: settings.get(key) for key in ("max_length", "vocab_size", "width")}
    if family.architecture == "encoder":
        settings = {"start_id": tokens.get("bos"), "end_id": tokens["eos"]} | settings
        network["max_length"] = settings["positions"] - settings.get("first", 0) - 2
    if family.architecture == "transformer":
        settings = {"family": name, "start_id": tokens.get("bos")} | settings  # a model that is fine-tuned keeps them
    decoding = own.decoding if own.settings else dict(family.decoding)
    return Network(name, family, _grouped(settings), network, tokens, decoding, stored)


def _published(folder: Path, config: dict[str, Any], grow: bool) -> Checkpoint:
    """Folder and its config.json -> the checkpoint, in the names and settings of our network."""
    vocabulary = read_vocabulary(folder)
    try:
        _check(config, family_of(config, vocabulary.ids, folder), folder)
    except CheckpointError:
        if is_masked_lm(config):  # the transformers library has it
            return masked_checkpoint(folder, config)
        raise
    name, family, settings, facts, tokens, decoding, stored = network_of(config, vocabulary, folder, grow)
    layout, tensors = _layout(family, settings, read_shards(folder), folder)
    for tensor in _ROWS & tensors.keys() if settings["vocab_size"] > stored else ():
        tensors[tensor] = TensorFacts((settings["vocab_size"], *tensors[tensor].shape[1:]), tensors[tensor].dtype)
    record = {
        "family": name,
        "architecture": family.architecture,
        "model": settings,
        "network": facts,
        "process": {"kernel": "absorbing", "schedule": "linear"},
        "decoding": decoding,
        "tokens": tokens,
        "time": family.time,
        "tokenizer": family.tokenizer or None,
    }
    versions = {"transformers": str(config.get("transformers_version", "unknown"))}
    return Checkpoint(folder, FORMAT, versions, record, vocabulary.text, None, None, tensors, layout)


@dataclass(frozen=True, slots=True)
class _Exported:
    """What `unmask export` adds to a config.json: settings that it does not have there, and the default decoding."""

    settings: dict[str, Any]
    decoding: dict[str, Any]


def _roles(
    family: Family, config: Mapping[str, Any], vocabulary: Vocabulary, settings: Mapping[str, Any], folder: Path
) -> dict[str, int]:
    """The ids of MASK, EOS, padding and the token that begins a text, by role."""
    if "mask_id" in settings:  # of an exported model
        pad = _required(config, "pad_token_id", folder)
        return {"mask": settings["mask_id"], "pad": pad, "eos": _at(config, "eos_token_id | pad_token_id")}
    token = partial(_token, config, vocabulary, folder)
    mask = _spare(vocabulary, settings, folder) if family.mask == "" else token("MASK", family.mask)
    tokens = {"mask": mask, "eos": token("EOS", family.eos)}
    tokens["pad"] = tokens["eos"] if family.pad == "" else token("padding", family.pad)
    if family.bos != "":
        tokens["bos"] = token("BOS", family.bos)
    return tokens


def _grouped(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in which "a.b" is the field b of the field a -> the same as nested records."""
    nested: dict[str, Any] = {}
    for name, value in settings.items():
        outer, _, inner = name.rpartition(".")
        (nested.setdefault(outer, {}) if outer else nested)[inner] = value
    return nested


def _check(config: Mapping[str, Any], name: str, folder: Path) -> None:
    """Raise CheckpointError for a config.json of another network than that of the family."""
    for place, values in FAMILIES[name].fixed.items():
        if (value := _at(config, place)) not in values:
            raise CheckpointError(
                f"{folder / _CONFIG} has {place} {value!r}, and the family '{name}' is implemented for "
                f"{' or '.join(map(repr, values))} only: this is another network."
            )
    for place, values in FAMILIES[name].refused.items():
        if (value := _at(config, place)) in values:
            raise CheckpointError(
                f"{folder / _CONFIG} has {place} {value!r}, which is that of another network than those of the family "
                f"'{name}', whose name it has: it is not known here."
            )


def _spare(vocabulary: Vocabulary, settings: Mapping[str, Any], folder: Path) -> int:
    """The first id after the tokenizer's, for MASK of a causal model. Raises CheckpointError where there is none."""
    spare = _after(vocabulary)
    if spare >= settings["vocab_size"]:
        raise CheckpointError(
            f"{folder} has no MASK: it is a causal model, and none of its {settings['vocab_size']:,} ids is free; make "
            "a masked model of it with unmask train adapt."
        )
    return spare


def _after(vocabulary: Vocabulary) -> int:
    """The first id after those of a tokenizer."""
    return 1 + max(vocabulary.ids.values(), default=-1)


def _at(config: Mapping[str, Any], place: str) -> Any:
    """A place in config.json (see `Family`) -> the value there; None without one."""
    for choice in place.split(" | "):
        if choice.startswith("="):
            return int(choice[1:])
        if match := _SUM.fullmatch(choice):
            value = _nested(config, match[1])
            return value if value is None else value + int(match[2] + match[3])
        values = [_nested(config, key) for key in re.split(" [/*] ", choice)]
        if None not in values:
            product = values[0] * values[1] if " * " in choice else values[0] // values[1] if " / " in choice else None
            return values[0] if product is None else int(product)
    return None


def _nested(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = config.get(name) if isinstance(config, Mapping) else None
    return config


def _required(config: Mapping[str, Any], place: str, folder: Path) -> Any:
    if (value := _at(config, place)) is None:
        raise CheckpointError(
            f"{folder / _CONFIG} has no key {place!r}, without which the network is unknown: download the file again."
        )
    return value


def _token(config: Mapping[str, Any], vocabulary: Vocabulary, folder: Path, role: str, place: int | str) -> int:
    """MASK or EOS of a family (see `Family.mask`) -> its id. Raises CheckpointError where the folder does not say."""
    if isinstance(place, int):
        return place
    in_config = place.endswith("_id") or _SUM.fullmatch(place) is not None
    value = _first(_at(config, place)) if in_config else vocabulary.ids.get(place)
    if not isinstance(value, int):
        where = f"{_CONFIG} has no key" if in_config else "the tokenizer has no token"
        raise CheckpointError(f"{folder} does not say which token is {role}: {where} '{place}'.")
    return value


def _layout(
    family: Family, settings: Mapping[str, Any], shards: Mapping[Path, Mapping[str, TensorFacts]], folder: Path
) -> tuple[dict[Path, dict[str, list[Part]]], dict[str, TensorFacts]]:
    """The stored tensors -> the parameters that they become, and their facts by our names.

    Raises CheckpointError for a tensor that the family does not have.
    """
    patterns = [(_pattern(name), ours) for name, ours in family.names.items()]
    layout: dict[Path, dict[str, list[Part]]] = {}
    facts: dict[str, TensorFacts] = {}
    extra: list[str] = []
    for path, stored in shards.items():
        layout[path] = {}
        for name, fact in stored.items():
            match = next(((m, ours) for pattern, ours in patterns if (m := pattern.fullmatch(name))), None)
            if match is None:
                extra.append(name)
                continue
            layout[path][name] = _parts(match[1], match[0].groups(), settings)
            for part in layout[path][name]:
                rows = fact.shape if part.rows is None else (part.rows[1] - part.rows[0], *fact.shape[1:])
                facts.setdefault(part.name, TensorFacts(rows, fact.dtype))
    if extra:
        raise CheckpointError(
            f"{folder} has {len(extra)} tensors that its family does not have, the first is '{min(extra)}': this is "
            "another network, or a quantised or adapted copy."
        )
    if settings.get("tied"):
        facts.pop("head.weight", None)  # counted once, as "embedding.weight"
    return layout, facts


def _parts(ours: str | tuple[str, ...], numbers: Sequence[str], settings: Mapping[str, Any]) -> list[Part]:
    """Our name or names of a stored tensor, and the numbers in its own name -> the parameters that it becomes."""
    if isinstance(ours, str):
        name = ours.format(*numbers)
        tied = bool(settings.get("tied"))
        if tied and name == "embedding.weight":
            return [Part(name), Part("head.weight")]
        return [] if not name or (tied and name == "head.weight") else [Part(name)]
    parts: list[Part] = []
    start = 0
    for name, heads in zip(ours, (settings["heads"], settings["kv_heads"], settings["kv_heads"]), strict=True):
        end = start + heads * settings["head"]
        parts.append(Part(name.format(*numbers), (start, end)))
        start = end
    return parts
