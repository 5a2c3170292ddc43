"""Settings in, network out."""

__all__ = ["build", "freeze_time", "parameter_count"]

from dataclasses import replace

import torch
from torch import nn

from unmask.model.dit import DiT
from unmask.model.settings import DiTSettings


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
