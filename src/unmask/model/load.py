"""Settings in, network out: architectures by name, and checkpoints read back with their tokenizer.

What training leaves on disk, and how it is read again. The weights of a checkpoint are read tensor by tensor, each onto
the device and into the number format it is wanted in: memory never holds more than one copy and one stored tensor.
"""

__all__ = [
    "ARCHITECTURES",
    "STORED_FROM",
    "Architecture",
    "Loaded",
    "build",
    "freeze_time",
    "load_denoiser",
    "model_config",
    "parameter_count",
    "register",
    "stored_settings",
]

from collections.abc import Callable
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, Literal, NamedTuple, cast, overload

import torch
from torch import Tensor, nn

from unmask.config import from_dict, to_dict
from unmask.denoiser import Trainable
from unmask.disk.checkpoint import Checkpoint, iterate_tensors, read_checkpoint
from unmask.errors import CheckpointError, ConfigError
from unmask.model.dit import DiT
from unmask.model.settings import DiTSettings
from unmask.process import MaskedDiffusion, make_schedule
from unmask.text.tokenizer import Tokenizer

STORED_FROM = 1_000_000_000
"""Parameters from which a checkpoint's weights stay in the format they are stored in, where nothing else is asked."""


class Architecture(NamedTuple):
    """A kind of network: the frozen dataclass of its settings, and what builds it from them."""

    settings: type[Any]
    build: Callable[[Any], Trainable]


ARCHITECTURES: dict[str, Architecture] = {"dit": Architecture(DiTSettings, DiT)}
"""By the name that config.json has under "architecture"; `register` adds to them."""


def register(name: str, settings: type[Any], build: Callable[[Any], Trainable]) -> None:
    """Make an architecture known in this process: from now on it is built, saved, loaded, trained and decoded.

    `settings` is a dataclass of plain values that belongs to this architecture alone; `build` turns one into an
    nn.Module. Registering does not reach other processes: a worker has to call it too. Raises ConfigError for what is
    no dataclass, or where the name or the dataclass belongs to another architecture.
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
    """The architecture that settings belong to. Raises ConfigError where it is not registered."""
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
    """A fresh network whose weights depend on the settings and the seed alone, not on torch's global state.

    Raises ConfigError for settings of no known architecture.
    """
    _, architecture = _named(settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return architecture.build(settings)


def parameter_count(settings: Any) -> int:
    """How many numbers the network of these settings would hold, without allocating them; raises as `build`."""
    _, architecture = _named(settings)
    with torch.device("meta"):
        return sum(p.numel() for p in architecture.build(settings).parameters())


def freeze_time(model: DiT, time: float = 0.0) -> DiT:
    """The same function as `model` at one fixed time, with adaLN folded into constants (modulation "constant").

    Published MDLM checkpoints without time conditioning keep adaLN and feed it sigma = 0: so are they run here.
    """
    if model.time is None:
        return model
    frozen = DiT(replace(model.settings, modulation="constant"))
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("time.")}
    with torch.no_grad():
        cond = model.time(torch.tensor([time]))
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and name.endswith("modulation"):
                state[name] = module(cond)[0]
                del state[f"{name}.weight"], state[f"{name}.bias"]
    frozen.load_state_dict(state)
    return frozen.train(model.training)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint that has been read: the network in eval mode, its process, and its tokenizer."""

    denoiser: Trainable
    process: MaskedDiffusion
    tokenizer: Tokenizer
    checkpoint: Checkpoint


def model_config(settings: Any, schedule: str) -> dict[str, Any]:
    """What config.json says of a network, from its settings; raises as `build`."""
    process = {"kernel": "absorbing", "schedule": schedule}
    return {"architecture": _named(settings)[0], "model": to_dict(settings), "process": process}


def stored_settings(checkpoint: Checkpoint) -> Any:
    """The settings of a checkpoint's network. Raises CheckpointError where its architecture is not known here."""
    name, config = checkpoint.config.get("architecture"), checkpoint.config
    if name not in ARCHITECTURES or "model" not in config:
        raise CheckpointError(
            f"{checkpoint.folder} holds the architecture '{name}', which is not known here; known are "
            f"{', '.join(ARCHITECTURES)}: upgrade unmask, or make it known with unmask.model.load.register."
        )
    return from_dict(ARCHITECTURES[name].settings, config["model"], f"{checkpoint.folder}/config.json")


def load_denoiser(path: str, device: str = "cpu", dtype: torch.dtype | Literal["stored"] | None = None) -> Loaded:
    """A checkpoint or run folder -> its network on `device`, its process and its tokenizer.

    `dtype` is the format that the weights are held in: "stored" as they are on disk; None is float32 below
    `STORED_FROM` parameters and as stored from there on.
    Raises CheckpointError, in one sentence, for what is not a whole checkpoint of a known architecture.
    """
    checkpoint = read_checkpoint(path)
    folder, settings = checkpoint.folder, stored_settings(checkpoint)
    if checkpoint.tokenizer_json is None:
        raise CheckpointError(f"{folder} has no tokenizer.json; copy it from where the checkpoint came from.")
    tokenizer = Tokenizer.from_json(checkpoint.tokenizer_json)
    with torch.device("meta"):
        network = _named(settings)[1].build(settings)
    _match(network, tokenizer, str(folder))
    if dtype is None:
        dtype = torch.float32 if checkpoint.parameters < STORED_FROM else "stored"
    _fill(cast(nn.Module, network), checkpoint, device, None if dtype == "stored" else dtype)
    schedule = make_schedule(checkpoint.config.get("process", {}).get("schedule", "linear"))
    return Loaded(network.eval(), MaskedDiffusion(network.mask_id, schedule), tokenizer, checkpoint)


def _match(network: Trainable, tokenizer: Tokenizer, where: str) -> None:
    """CheckpointError where a network cannot have been trained with this tokenizer."""
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


def _fill(network: nn.Module, checkpoint: Checkpoint, device: str, dtype: torch.dtype | None) -> None:
    """Put the stored tensors into a network of the meta device, floating ones in `dtype` (None: as stored).

    One Parameter that has several names (tied weights) stays one.
    """
    places: dict[str, Tensor] = network.state_dict(keep_vars=True)
    wrong, fresh = set(places), dict[int, Tensor]()
    for name, value in iterate_tensors(checkpoint.folder, device, dtype):
        old = places.get(name)
        if old is None or old.shape != value.shape:
            wrong.add(name)
            continue
        wrong.discard(name)
        new = nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value
        owner, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(owner), leaf, fresh.setdefault(id(old), new))
    if wrong:
        raise CheckpointError(
            f"{checkpoint.folder} does not fit its own config.json: {len(wrong)} tensors differ, the first is "
            f"'{min(wrong)}'; the two files come from different models."
        )
    if left := [name for name, value in network.named_buffers() if value.is_meta]:
        raise CheckpointError(
            f"{checkpoint.folder} does not hold the buffer '{left[0]}' of its network; its architecture has to store "
            "it, or to make it when it is needed."
        )
