"""Settings in, network out.

What training leaves on disk, and how it is read again: a checkpoint folder becomes a network with its tokenizer.
"""

__all__ = ["Loaded", "build", "freeze_time", "load_denoiser", "model_config", "parameter_count"]

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from unmask.config import from_dict, to_dict
from unmask.disk.checkpoint import Checkpoint, load_tensors, read_checkpoint
from unmask.errors import CheckpointError
from unmask.model.dit import DiT
from unmask.model.settings import DiTSettings
from unmask.process import MaskedDiffusion, make_schedule
from unmask.text.tokenizer import Tokenizer


def build(settings: DiTSettings, seed: int = 0) -> DiT:
    """A fresh network whose weights depend on the settings and the seed alone, not on torch's global state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DiT(settings)


def parameter_count(settings: DiTSettings) -> int:
    """How many numbers the network would hold, without allocating them."""
    with torch.device("meta"):
        return sum(p.numel() for p in DiT(settings).parameters())


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

    denoiser: DiT
    process: MaskedDiffusion
    tokenizer: Tokenizer
    checkpoint: Checkpoint


def model_config(model: DiTSettings, schedule: str) -> dict[str, Any]:
    """What config.json says of a network."""
    return {"architecture": "dit", "model": to_dict(model), "process": {"kernel": "absorbing", "schedule": schedule}}


def load_denoiser(path: str, device: str = "cpu") -> Loaded:
    """Read a checkpoint or run folder. Weights are held in float32 whatever they are stored in.

    Raises CheckpointError, in one sentence, for what is not a whole checkpoint of ours.
    """
    checkpoint = read_checkpoint(path)
    folder, config = checkpoint.folder, checkpoint.config
    if config.get("architecture") != "dit" or "model" not in config:
        raise CheckpointError(
            f"{folder} holds the architecture '{config.get('architecture')}', which this version cannot build; "
            "it builds 'dit'."
        )
    if checkpoint.tokenizer_json is None:
        raise CheckpointError(f"{folder} has no tokenizer.json; copy it from where the checkpoint came from.")
    tokenizer = Tokenizer.from_json(checkpoint.tokenizer_json)
    settings = from_dict(DiTSettings, config["model"], f"{folder}/config.json")
    if settings.mask_id != tokenizer.mask_id:
        raise CheckpointError(
            f"{folder} says that MASK is id {settings.mask_id}, but its tokenizer.json says {tokenizer.mask_id}; "
            "put back the tokenizer.json that the model was trained with."
        )
    schedule = config.get("process", {}).get("schedule", "linear")
    with torch.device("meta"):
        network = DiT(settings)
    _fill(network, load_tensors(folder, device), str(folder))
    return Loaded(network.eval(), MaskedDiffusion(settings.mask_id, make_schedule(schedule)), tokenizer, checkpoint)


def _fill(network: DiT, tensors: Mapping[str, torch.Tensor], where: str) -> None:
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in tensors.items()}
    if wanted != given:
        wrong = sorted({name for name in wanted | given if wanted.get(name) != given.get(name)})
        raise CheckpointError(
            f"{where} does not fit its own config.json: {len(wrong)} tensors differ, the first is '{wrong[0]}'; "
            "the two files come from different models."
        )
    network.load_state_dict({name: value.float() for name, value in tensors.items()}, assign=True)
