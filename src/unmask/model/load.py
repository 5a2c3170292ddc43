"""Settings -> a network of a named architecture, and a checkpoint -> its network with its tokenizer.

The weights of a checkpoint are read tensor by tensor, each directly to the device and the number format that are
requested: memory never holds more than one copy and one stored tensor.
"""

__all__ = [
    "ARCHITECTURES",
    "STORED_FROM",
    "Architecture",
    "Held",
    "Loaded",
    "build",
    "load_denoiser",
    "model_config",
    "parameter_count",
    "register",
    "require_network",
    "stored_settings",
    "stored_tokenizer",
]

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, cast, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.config import from_dict, to_dict
from unmask.denoiser import Trainable
from unmask.disk.checkpoint import Checkpoint, iterate_tensors
from unmask.disk.folders import reading
from unmask.errors import CheckpointError, ConfigError, RequestError, plugin_failure
from unmask.limits import require_finite, require_memory, sentences
from unmask.model.dit import DiT, freeze_time
from unmask.model.encoder import Encoder
from unmask.model.settings import DiTSettings, EncoderSettings, TransformerSettings, in_int8
from unmask.model.transformer import Transformer
from unmask.model.zoo.read import published_name, read_model
from unmask.process import MaskedDiffusion, make_schedule
from unmask.text.tokenizer import Tokenizer

STORED_FROM = 1_000_000_000
"""Number of parameters from which weights stay in the format they are stored in, unless another is requested."""
_BLOCK_OBJECTS = 32 << 10  # bytes of the Python objects of a block; 46 kB were measured
_STORED_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # of an element, by safetensors' names

Held: TypeAlias = torch.dtype | Literal["stored"] | None
"""In which format weights are held, see `load_denoiser`."""


class Architecture(NamedTuple):
    """A class of networks: the frozen dataclass of its settings, and the function from settings to network."""

    settings: type[Any]
    build: Callable[[Any], Trainable]


ARCHITECTURES: dict[str, Architecture] = {
    "dit": Architecture(DiTSettings, DiT),
    "encoder": Architecture(EncoderSettings, Encoder),
    "transformer": Architecture(TransformerSettings, Transformer),
}
"""Architectures by the name that config.json has under "architecture"; `register` adds to them."""


def register(name: str, settings: type[Any], build: Callable[[Any], Trainable]) -> None:
    """Register an architecture in this process, so that it can be built, saved, loaded, trained and decoded.

    `settings` is a dataclass of plain values that belongs to this architecture alone; `build` turns an instance into an
    nn.Module. Other processes, such as workers, have to register it too. Raises ConfigError if `settings` is no
    dataclass, or if the name or the dataclass belongs to another architecture.
    """
    if not is_dataclass(settings):
        raise ConfigError(f"The settings of the architecture '{name}' are {settings!r}; give a frozen dataclass.")
    for known, architecture in ARCHITECTURES.items():
        if (known == name) != (architecture.settings is settings):
            raise ConfigError(
                f"The architecture '{name}' with {settings.__name__} meets '{known}' with "
                f"{architecture.settings.__name__}; give each a name and a dataclass of its own."
            )
    ARCHITECTURES[name] = Architecture(settings, build)


def _named(settings: Any) -> tuple[str, Architecture]:
    """Settings -> the name and the architecture they belong to. Raises ConfigError if it is not registered."""
    for name, architecture in ARCHITECTURES.items():
        if architecture.settings is type(settings):
            return name, architecture
    raise ConfigError(
        f"{type(settings).__name__} belongs to no architecture that is known here ({', '.join(ARCHITECTURES)}); "
        "make it known with unmask.model.load.register."
    )


@overload
def build(settings: DiTSettings, seed: int = 0) -> DiT: ...
@overload
def build(settings: Any, seed: int = 0) -> Trainable: ...
def build(settings: Any, seed: int = 0) -> Trainable:
    """Settings and a seed -> a new network whose weights depend on these alone, not on torch's global state.

    Raises ConfigError for settings of an architecture that is not registered.
    """
    require_network(settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _constructed(settings)


def _constructed(settings: Any) -> Trainable:
    """Settings -> the network. Raises PluginError, with its own message, where a registered architecture fails."""
    name, architecture = _named(settings)
    foreign = not getattr(architecture.build, "__module__", "").startswith("unmask.")
    with plugin_failure(f"The architecture '{name}'", "cannot be built") if foreign else nullcontext():
        return architecture.build(settings)


def parameter_count(settings: Any) -> int:
    """Settings -> the number of parameters of their network, without allocating them. Raises as `build`."""
    if isinstance(settings, DiTSettings):
        return settings.parameters
    with torch.device("meta"):
        return sum(p.numel() for p in _constructed(settings).parameters())


def require_network(settings: Any, copies: int = 1, more: int = 0, device: object = "cpu") -> None:
    """Settings -> nothing, if there is memory for `copies` of the weights in float32 and `more` bytes.

    Raises RequestError otherwise, before anything is built. Of networks of other architectures nothing is known before.
    """
    if isinstance(settings, DiTSettings):
        objects = settings.blocks * _BLOCK_OBJECTS
        require_memory(
            4 * copies * settings.parameters + objects + more,
            f"A network of {settings.parameters:,} parameters (width {settings.width:,}, {settings.blocks:,} blocks, "
            f"{settings.vocab_size:,} token ids)",
            "choose a smaller width, fewer blocks or a smaller vocabulary",
            device,
        )


@dataclass(frozen=True, slots=True)
class Loaded:
    """The content of a checkpoint: the network in eval mode, its process, and its tokenizer."""

    denoiser: Trainable
    process: MaskedDiffusion
    tokenizer: Tokenizer
    checkpoint: Checkpoint


def model_config(settings: Any, schedule: str) -> dict[str, Any]:
    """Settings and the name of a schedule -> the network's part of config.json. Raises as `build`.

    "network" has what is read without torch, whatever the settings of the architecture call it.
    """
    name, _ = _named(settings)
    with torch.device("meta"):
        network = _constructed(settings)
    facts = {"max_length": network.max_length, "vocab_size": network.vocab_size, "width": network.width}
    process = {"kernel": "absorbing", "schedule": schedule}
    return {"architecture": name, "model": to_dict(settings), "network": facts, "process": process}


def stored_settings(checkpoint: Checkpoint) -> Any:
    """A checkpoint -> the settings of its network. Raises CheckpointError if its architecture is not registered."""
    name = checkpoint.fact(str, "config.json", "architecture")
    settings = checkpoint.fact(dict[str, Any], "config.json", "model")
    if "policy" in checkpoint.config:
        raise CheckpointError(
            f"{checkpoint.folder} holds an unmasking policy, not a model; use it with a model as "
            f"--policy learned:from={checkpoint.folder}"
        )
    if name not in ARCHITECTURES or settings is None:
        raise CheckpointError(
            f"{checkpoint.folder} holds the architecture '{name}', which is not known here; known are "
            f"{', '.join(ARCHITECTURES)}: upgrade unmask, or make it known with unmask.model.load.register."
        )
    return from_dict(ARCHITECTURES[name].settings, settings, f"{checkpoint.folder}/config.json", CheckpointError)


def stored_tokenizer(checkpoint: Checkpoint, settings: Any) -> Tokenizer:
    """A checkpoint and the settings of its network -> its tokenizer. Raises CheckpointError where there is none.

    A network that puts a start and an end token around every text ends it itself: then no token of a text is EOS.
    """
    if checkpoint.tokenizer_json is None:
        source = checkpoint.fact(str, "config.json", "tokenizer") or "where the checkpoint came from"
        raise CheckpointError(f"{checkpoint.folder} has no tokenizer.json; copy it from {source}.")
    roles = checkpoint.fact(dict[str, int], "config.json", "tokens")
    name = f"{checkpoint.folder}/tokenizer.json"
    tokenizer = Tokenizer.from_json(checkpoint.tokenizer_json, name=name, roles=roles)
    return replace(tokenizer, eos_id=None) if hasattr(settings, "end_id") else tokenizer


@sentences()
def load_denoiser(
    path: str,
    device: str = "cpu",
    dtype: Held = None,
    quantise: Callable[[nn.Linear], None] | None = None,
    *,
    grow: bool = False,
    empty: bool = False,
) -> Loaded:
    """A checkpoint or run folder -> its network on `device`, its process and its tokenizer.

    `dtype` is the format that the weights are held in: "stored" is that of the file; None is float32 below
    `STORED_FROM` parameters and that of the file from there on. `quantise` changes the weight of a layer to int8, in
    place, as soon as it was read. With `grow` a causal model without a free id gets a row of zeros for MASK. An `empty`
    network stays on the meta device: `unmask.model.divided` gives it its values.

    Raises CheckpointError if it is not a whole checkpoint of a registered architecture, RequestError for a network that
    is not held in int8.
    """
    return reading(path, lambda folder: _load(folder, device, dtype, quantise, grow, empty))


def _load(
    path: Path, device: str, dtype: Held, quantise: Callable[[nn.Linear], None] | None, grow: bool, empty: bool
) -> Loaded:
    """A checkpoint folder -> what `load_denoiser` returns."""
    checkpoint = read_model(path, grow=grow)
    folder, settings = checkpoint.folder, stored_settings(checkpoint)
    tokenizer = stored_tokenizer(checkpoint, settings)
    if isinstance(settings, DiTSettings) and settings.blocks > len(checkpoint.tensors):
        raise CheckpointError(
            f"{folder} does not fit its own config.json, which says {settings.blocks:,} blocks, and there are "
            f"{len(checkpoint.tensors):,} tensors; the two files come from different models."
        )
    with torch.device("meta"):
        network = _constructed(settings)
    _match(network, tokenizer, str(folder))
    _check_tensors(network, checkpoint)
    if quantise is not None and not isinstance(settings, TransformerSettings):
        raise RequestError(f"Weights in int8 are for transformers, and {folder} is none: leave out --dtype int8.")
    if dtype is None:
        dtype = torch.float32 if checkpoint.parameters < STORED_FROM else "stored"
    kept_as = None if dtype == "stored" else dtype
    schedule = make_schedule(checkpoint.fact(str, "config.json", "process", "schedule") or "linear")
    loaded = Loaded(network, MaskedDiffusion(network.mask_id, schedule), tokenizer, checkpoint)
    if empty:
        return loaded
    require_memory(
        _fresh_bytes(checkpoint, device, kept_as, quantise is not None),
        f"{folder} with {checkpoint.parameters:,} parameters",
        "use a machine or device with more memory, or a smaller model",
        device,
    )
    _fill(cast(nn.Module, network), checkpoint, device, kept_as, quantise)
    if (time := checkpoint.fact(float, "config.json", "time")) is not None:
        network = freeze_time(cast(DiT, network), time)
    return replace(loaded, denoiser=network.eval())


def _fresh_bytes(checkpoint: Checkpoint, device: str, dtype: torch.dtype | None, int8: bool) -> int:
    """The bytes that loading certainly allocates: on the processor a tensor may stay in its file as it is stored."""
    total = 0
    for name, facts in checkpoint.tensors.items():
        own = _STORED_BYTES.get(facts.dtype, 4)
        size = 1 if int8 and in_int8(name, len(facts.shape)) else own if dtype is None else dtype.itemsize
        total += facts.count * size if size != own or not device.startswith("cpu") else 0
    return total


def _match(network: Trainable, tokenizer: Tokenizer, where: str) -> None:
    """Raise CheckpointError if MASK or the number of ids of a network and a tokenizer do not fit together."""
    if network.mask_id != tokenizer.mask_id:
        raise CheckpointError(
            f"{where} says that MASK is id {network.mask_id}, but its tokenizer.json says {tokenizer.mask_id}; "
            "put back the tokenizer.json that the model was trained with."
        )
    if network.vocab_size < tokenizer.vocab_size:
        raise CheckpointError(
            f"{where} says that the network knows {network.vocab_size} ids, but its tokenizer.json has "
            f"{tokenizer.vocab_size}; put back the tokenizer.json that the model was trained with."
        )


def _check_tensors(network: Trainable, checkpoint: Checkpoint) -> None:
    """Raise CheckpointError, before a tensor is read, where these are not those of the network, in name and shape."""
    parameters = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    stored = {
        part.name: (name, checkpoint.tensors.get(part.name))
        for tensors in checkpoint.layout.values()
        for name, parts in tensors.items()
        for part in parts
    }
    faults = {
        "missing": [published_name(checkpoint, name) for name in parameters.keys() - stored.keys()],
        "of no use": [name for ours, (name, _) in stored.items() if ours not in parameters],
        "of another shape": [
            f"{name} {list(fact.shape)} instead of {list(parameters[ours])}"
            for ours, (name, fact) in stored.items()
            if fact is not None and parameters.get(ours, fact.shape) != fact.shape
        ],
    }
    if listed := [f"{len(names)} {fault} ({min(names)})" for fault, names in faults.items() if names]:
        raise CheckpointError(
            f"{checkpoint.folder} does not fit its own config.json: of its tensors {', '.join(listed)}; the files come "
            "from different models, or were changed: download them again."
        )


def _fill(
    network: nn.Module,
    checkpoint: Checkpoint,
    device: str,
    dtype: torch.dtype | None,
    quantise: Callable[[nn.Linear], None] | None,
) -> None:
    """Replace the parameters of a network on the meta device by the stored ones in `dtype` (None: as stored).

    A Parameter that has several names (tied weights) stays a single one.
    """
    parameters: dict[str, Tensor] = network.state_dict(keep_vars=True)
    tied = {key for key, names in Counter(map(id, parameters.values())).items() if names > 1}
    done = dict[int, Tensor]()
    for name, value in iterate_tensors(checkpoint, device, dtype):
        old = parameters[name]  # it exists: see `_check_tensors`
        if (new := done.get(id(old))) is None:
            require_finite(value, name, str(checkpoint.folder))
            if value.ndim and len(value) < len(old):  # see `grow`
                value = F.pad(value, (0, 0, 0, len(old) - len(value)))
            new = nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value
            done |= {id(old): new} if id(old) in tied else {}
        owner, _, leaf = name.rpartition(".")
        layer = network.get_submodule(owner)
        setattr(layer, leaf, new)
        if quantise is not None and in_int8(name, value.ndim) and isinstance(layer, nn.Linear):
            del new  # the weight that was read is not kept
            quantise(layer)
    if left := [name for name, value in network.named_buffers() if value.is_meta]:
        raise CheckpointError(
            f"{checkpoint.folder} does not hold the buffer '{left[0]}' of its network; its architecture has to store "
            "it, or to make it when it is needed."
        )
