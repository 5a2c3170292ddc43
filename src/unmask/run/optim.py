"""The optimiser of training: AdamW, the learning rate of each step, clipping, and the state as named tensors."""

__all__ = [
    "Shape",
    "adamw",
    "clip",
    "learning_rate",
    "load_optimizer_tensors",
    "optimizer_tensors",
    "set_learning_rate",
]

import math
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from unmask.errors import CheckpointError, ConfigError

Shape = Literal["constant", "cosine"]
"""The learning rate after the warm-up: constant, or falling to zero as half a cosine."""

_FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})


def adamw(
    params: Iterable[nn.Parameter],
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> torch.optim.AdamW:
    """Parameters -> AdamW over those that need gradients, fused where the device has it.

    Weight decay applies to tensors of two or more dimensions only; biases and scales of norms do not decay.
    """
    trained = [param for param in params if param.requires_grad]
    if weight_decay > 0:
        matrices = [param for param in trained if param.ndim >= 2]
        others = [param for param in trained if param.ndim < 2]
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        groups = [group for group in groups if group["params"]]
    else:
        groups = [{"params": trained, "weight_decay": 0.0}]
    fused = all(param.device.type in _FUSED_DEVICES and param.is_floating_point() for param in trained)
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=fused)


def learning_rate(step: int, *, base: float, warmup: int, steps: int, shape: Shape) -> float:
    """Step 0, 1, ... -> learning rate: linear over `warmup` steps up to `base`, then constant or half a cosine.

    The cosine reaches zero at `steps`. Raises ConfigError for an unknown shape.
    """
    if shape not in get_args(Shape):
        raise ConfigError(f"a learning rate cannot have the shape '{shape}': give constant or cosine.")
    if step < warmup:
        return base * (step + 1) / warmup
    if shape == "constant":
        return base
    done = (step - warmup) / max(1, steps - warmup)
    return base * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip(params: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients to a joint Euclidean norm of at most `max_norm` -> the norm before, a scalar.

    With `max_norm` of infinity nothing is scaled. A NaN norm is returned and not raised: the training loop handles it.
    """
    present = [param for param in params if param.grad is not None]
    foreach = all(param.device.type in ("cpu", "cuda") for param in present)
    return nn.utils.clip_grad_norm_(present, max_norm, foreach=foreach)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Optimiser -> its state as named tensors ("3.exp_avg"), to be stored in a checkpoint."""
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, entry in state.items() for name, tensor in entry.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the output of `optimizer_tensors` into an optimiser over the same parameters.

    Raises CheckpointError if number or shapes of the parameters differ.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    params = [param for group in optimizer.param_groups for param in group["params"]]
    same = all(
        index < len(params) and (tensor.ndim == 0 or tensor.shape == params[index].shape)
        for index, entry in state.items()
        for tensor in entry.values()
    )
    if not same or (state and len(state) != len(params)):
        raise CheckpointError(
            f"the optimiser's stored state is for {len(state)} parameters of other shapes than this model's "
            f"{len(params)}: resume with the settings that the run began with."
        )
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
