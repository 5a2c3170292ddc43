"""A published model, with weights in safetensors or pickles -> a checkpoint in the format of this library.

A pickle is read by `unmask.disk.torch_files`, which runs nothing. What is read becomes a folder as it would have been
published, which is loaded as any other: missing, extra and misshapen tensors are named by that.
"""

__all__ = ["import_model"]

import json
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from unmask.disk.checkpoint import write_checkpoint
from unmask.disk.folders import INDEX, MODEL
from unmask.disk.json import read_json
from unmask.disk.tensors import save_tensors
from unmask.disk.torch_files import TorchFile
from unmask.errors import CheckpointError
from unmask.hf.masked import load_any
from unmask.model.load import model_config

_PICKLES = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
_KEPT = ("decoding", "family")  # of the config of a published model
_BUFFERS = ("backbone.rotary_emb.inv_freq",)
_CLIPPED = "sampling_eps_min"  # of the noise of BD3-LM


def import_model(source: Path, out: Path, tokenizer: Path | None = None, length: int = 1024, raw: bool = False) -> Path:
    """A folder laid out as published, or the .ckpt of a run of MDLM's program -> the checkpoint folder `out`.

    `tokenizer` is a tokenizer.json, or a folder with one, where the model has none. Of a .ckpt: `length` is its window,
    which its tensors do not tell, and `raw` takes the weights of the last step instead of their averages (EMA).
    Raises CheckpointError for what is no such model, or not whole.
    """
    with tempfile.TemporaryDirectory(prefix="unmask-import-") as temporary:
        folder = Path(temporary) / source.stem
        folder.mkdir()
        _lay_out(source, folder, length, raw)
        if tokenizer is not None:
            file = tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer
            (folder / "tokenizer.json").unlink(missing_ok=True)
            (folder / "tokenizer.json").symlink_to(file.resolve())
        try:
            loaded = load_any(str(folder), dtype="stored")
        except CheckpointError as error:  # of the files that the caller knows
            raise CheckpointError(str(error).replace(str(folder), str(source))) from error
        schedule = loaded.checkpoint.fact(str, "config.json", "process", "schedule") or "linear"
        config = model_config(loaded.denoiser.settings, schedule)
        config |= {name: value for name in _KEPT if (value := loaded.checkpoint.config.get(name)) is not None}
        tensors = cast(nn.Module, loaded.denoiser).state_dict(keep_vars=True)
        card = f"Imported from {source}.\n"
        return write_checkpoint(out, tensors, config, tokenizer_json=loaded.tokenizer.to_json(), card=card)


def _lay_out(source: Path, folder: Path, length: int, raw: bool) -> None:
    """A source -> an empty folder as the model is published, by links where the files are right already."""
    if source.is_file():
        tensors = _lightning(TorchFile(source), raw)
        (folder / "config.json").write_text(json.dumps(_mdlm_config(tensors, source, length)), encoding="utf-8")
        save_tensors(folder / MODEL, tensors)
        return
    if not source.is_dir():
        raise CheckpointError(f"{source} does not exist: give a folder, or a .ckpt file.")
    weights = (folder / MODEL, folder / INDEX)
    for file in source.iterdir():
        if file.is_file() and not _PICKLES.fullmatch(file.name):
            (folder / file.name).symlink_to(file.resolve())
    if any(file.exists() for file in weights):
        return
    pickles = sorted(file for file in source.iterdir() if _PICKLES.fullmatch(file.name))
    if not pickles:
        raise CheckpointError(f"{source} has neither {MODEL} nor pytorch_model.bin: give a folder with the weights.")
    _check_index(source, pickles)
    places: dict[str, str] = {}
    for number, file in enumerate(pickles, start=1):
        tensors = _tensors(TorchFile(file).read(), file)
        name = f"model-{number:05}-of-{len(pickles):05}.safetensors"
        save_tensors(folder / name, {key: tensor.clone() for key, tensor in tensors.items()})
        places |= dict.fromkeys(tensors, name)
    (folder / INDEX).write_text(json.dumps({"weight_map": places}), encoding="utf-8")


def _check_index(source: Path, pickles: Sequence[Path]) -> None:
    """Raise CheckpointError where the index of the pickles names a file that is not in the folder."""
    index = source / "pytorch_model.bin.index.json"
    if not index.is_file():
        return
    named = read_json(index, dict[str, Any], CheckpointError).get("weight_map")
    files = set(cast(dict[str, str], named).values()) if isinstance(named, dict) else set[str]()
    if missing := sorted(files - {file.name for file in pickles}):
        raise CheckpointError(f"{index} names {missing[0]}, which is not in the folder: copy or download all files.")


def _tensors(value: object, file: Path) -> dict[str, Tensor]:
    """The value of a file -> its tensors by name. Raises CheckpointError where it has anything else."""
    if not isinstance(value, dict) or not all(isinstance(part, Tensor) for part in value.values()):
        raise CheckpointError(f"{file} is not a dictionary of tensors alone: give the file of the weights.")
    return {str(name): tensor for name, tensor in cast(dict[str, Tensor], value).items()}


# ---- Lightning's files of MDLM and BD3-LM ----------------------------------------------------------------------------


def _lightning(file: TorchFile, raw: bool) -> dict[str, Tensor]:
    """A .ckpt -> its tensors by their published names, those of the moving averages where it has any."""
    if "state_dict" not in file.keys:
        raise CheckpointError(
            f"{file.path} has no state_dict: give the .ckpt of Lightning, or a folder with the weights."
        )
    tensors = _tensors(file.read("state_dict"), file.path)
    if not any(name.startswith("backbone.") for name in tensors):
        raise CheckpointError(f"{file.path} has no tensor 'backbone.*': it is not a run of MDLM's program.")
    if _CLIPPED in tensors or _CLIPPED in file.keys:
        raise CheckpointError(
            f"{file.path} has '{_CLIPPED}': it is a run of BD3-LM, whose block size is not in the file. Give a folder "
            "with the weights and a config.json as of kuleshov-group/bd3lm-owt-block_size4."
        )
    if raw or "ema" not in file.keys:
        return tensors
    shadows: list[Tensor] = file.read("ema", "shadow_params")
    names = [name for name in tensors if name not in _BUFFERS]
    averaged = dict(zip(names, shadows, strict=False))
    wrong = [name for name, tensor in averaged.items() if tensor.shape != tensors[name].shape]
    if len(names) != len(shadows) or wrong:
        what = f"the one of '{wrong[0]}' has another shape" if wrong else f"there are {len(shadows)} for {len(names)}"
        raise CheckpointError(
            f"{file.path} has moving averages that do not fit its parameters ({what}): import it with --raw, which "
            "takes the weights of the last step."
        )
    return tensors | averaged


def _mdlm_config(tensors: Mapping[str, Tensor], file: Path, length: int) -> dict[str, Any]:
    """Tensors by their published names -> the config.json that mdlm-owt would have for them.

    The number of heads follows from the frequencies of the rotary positions, which are half as many as a head is wide.
    """
    names = {
        "vocab": "backbone.vocab_embed.embedding",
        "time": "backbone.sigma_map.mlp.0.weight",
        "cond": "backbone.sigma_map.mlp.2.weight",
        "rotary": "backbone.rotary_emb.inv_freq",
    }
    if missing := [name for name in names.values() if name not in tensors]:
        raise CheckpointError(f"{file} has no tensor '{missing[0]}': it is not a run of MDLM's program with its DiT.")
    _check_time(tensors["backbone.sigma_map.mlp.0.weight"], file)
    vocab, width = tensors[names["vocab"]].shape
    blocks = {match[1] for name in tensors if (match := re.match(r"backbone\.blocks\.(\d+)\.", name))}
    return {
        "model_type": "mdlm",
        "architectures": ["MDLM"],
        "vocab_size": vocab,
        "model_length": length,
        "hidden_dim": width,
        "cond_dim": tensors[names["cond"]].shape[0],
        "n_blocks": len(blocks),
        "n_heads": width // (2 * math.prod(tensors[names["rotary"]].shape)),
        "dropout": 0.1,
        "time_conditioning": False,
    }


def _check_time(weight: Tensor, file: Path) -> None:
    """Raise CheckpointError where the weight (cond, 256) of the time input was trained: with Duo's runs, for example.

    Without time conditioning the time is always 0: the sines, which are the second half of the inputs, are 0, and their
    weights keep the values they began with, which torch draws between -1/16 and 1/16 (1 / sqrt(256)).
    """
    inputs = weight.shape[-1]
    if float(weight[:, inputs // 2 :].abs().max()) > inputs**-0.5 * 1.001:
        raise CheckpointError(
            f"{file} has a time input that was trained: it is a run of Duo, or of MDLM with time conditioning. Only "
            "models without it are imported from a .ckpt."
        )
