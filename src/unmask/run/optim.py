"""The optimiser of training (AdamW, learning rates, clipping, its state as named tensors) and the average of weights.

The exponential moving average of the parameters is what runs evaluate and save as their best model. A tensor may be
divided among processes (a DTensor): each computes on the part that it holds. A DTensor is known by its methods, since
importing its class takes a second, which a single process need not spend.
"""

__all__ = [
    "Ema",
    "Shape",
    "adamw",
    "clip",
    "copied_tensors",
    "divided",
    "full",
    "learning_rate",
    "load_optimizer_tensors",
    "optimizer_tensors",
    "parts_of",
    "set_learning_rate",
]

import math
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any, Literal, cast, get_args

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


def learning_rate(step: float, *, base: float, warmup: int, steps: int, shape: Shape) -> float:
    """Step 0, 1, ... -> learning rate: linear over `warmup` steps up to `base`, then constant or half a cosine.

    A place between two steps is possible. The cosine reaches zero at `steps`. Raises ConfigError for an unknown shape.
    """
    if shape not in get_args(Shape):
        raise ConfigError(f"a learning rate cannot have the shape '{shape}': give constant or cosine.")
    if step < warmup:
        return base * min(1.0, (step + 1) / warmup)
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
    norm = nn.utils.get_total_norm([param.grad for param in present if param.grad is not None], foreach=foreach)
    if norm.device.type != "cpu" or not float(norm) + 1e-6 <= max_norm:  # a GPU is not waited for
        nn.utils.clip_grads_with_norm_(present, max_norm, norm, foreach=foreach)
    return norm


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Optimiser -> its state as named tensors ("3.exp_avg"), to be stored in a checkpoint.

    A parameter that has had no gradient yet (an expert that was never chosen) has zeros, as the optimiser begins with.
    """
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    first = next(iter(state.values()), {})
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for index, param in enumerate(params if state else []):
        if index not in state:
            sizes = {name: param.shape if tensor.ndim else () for name, tensor in first.items()}
            state[index] = {name: tensor.new_zeros(sizes[name]) for name, tensor in first.items()}
    return {f"{index}.{name}": state[index][name] for index in sorted(state) for name in state[index]}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the output of `optimizer_tensors` into an optimiser over the same parameters.

    Raises CheckpointError if tensors are missing, or if number or shapes of the parameters differ.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index) if index.isdecimal() else -1, {})[name] = tensor
    complete = len({frozenset(entry) for entry in state.values()}) <= 1  # every parameter has the same tensors
    params = [param for group in optimizer.param_groups for param in group["params"]]
    same = all(
        0 <= index < len(params) and (tensor.ndim == 0 or tensor.shape == params[index].shape)
        for index, entry in state.items()
        for tensor in entry.values()
    )
    if not (same and complete) or (state and len(state) != len(params)):
        raise CheckpointError(
            f"the optimiser's stored state is for {len(state)} parameters or of other shapes than this model's "
            f"{len(params)}: resume with the settings that the run began with."
        )
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def divided(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, of which this process holds a part."""
    return hasattr(tensor, "full_tensor")


def parts_of(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Tensors -> of each the part that this process holds, in the same memory: itself where it is not divided.

    What is done element by element needs no communication, and costs less than on DTensors.
    """
    return [cast(Any, tensor).to_local() if divided(tensor) else tensor for tensor in tensors]


def full(tensor: Tensor) -> Tensor:
    """A tensor -> the whole of it, a copy. All processes that hold parts of it call this together."""
    own: Any = tensor.detach()
    if not divided(own):
        return own.clone()
    whole: Tensor = own.full_tensor()  # of a process that holds all of it: the same memory
    return whole.clone() if whole.data_ptr() == own.to_local().data_ptr() else whole


def copied_tensors(model: Any, *, kept: bool = True) -> dict[str, Tensor]:
    """The tensors of a network by name, whole copies on the CPU; one with two names (tied weights) is copied once.

    Where a network is divided, all processes call this, and those that have not `kept` them get nothing: a tensor is
    dropped before the next one is gathered.
    """
    values, copies = model.state_dict(keep_vars=True), dict[int, Tensor]()
    for value in values.values():
        if id(value) not in copies:
            whole = full(value)
            copies[id(value)] = whole.cpu() if kept else whole.new_empty(0)
    return {name: copies[id(value)] for name, value in values.items()} if kept else {}


class Ema:
    """Averages of `params`, with a warm-up: after n updates the decay is min(decay, (1 + n) / (10 + n)).

    Raises ConfigError unless 0 <= decay < 1.
    """

    def __init__(self, params: Iterable[nn.Parameter], decay: float) -> None:
        """Set the averages to the current values of the parameters."""
        if not 0 <= decay < 1:
            raise ConfigError(f"an average cannot have the decay {decay}: give a number from 0 up to, but not, 1.")
        self.decay = decay
        self.updates = 0
        self._params = [param.detach() for param in params]
        self._averages = [param.clone() for param in self._params]

    @property
    def averages(self) -> list[Tensor]:
        """The averages themselves, in the order of the parameters."""
        return self._averages

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the parameters; call it after each step of the optimiser."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        averages, params = parts_of(self._averages), parts_of(self._params)
        torch._foreach_lerp_(averages, params, 1 - decay)  # pyright: ignore[reportPrivateUsage]

    @contextmanager
    def swap(self) -> Generator[None]:
        """Inside the `with` block the model has the averages; after it, exactly its own parameters again."""
        own = [param.clone() for param in self._params]
        self._copy(self._averages)
        try:
            yield
        finally:
            self._copy(own)

    @torch.no_grad()
    def _copy(self, values: list[Tensor]) -> None:
        """Write `values` into the parameters, in place."""
        torch._foreach_copy_(parts_of(self._params), parts_of(values))  # pyright: ignore[reportPrivateUsage]
