"""A network -> the same with its parameters divided among processes: FSDP2 of torch, block by block, then the rest.

A process holds a part of each parameter, of its gradient and of the optimiser's moments, and gathers a block when it
runs. Gradients are sums over the processes and not means: a loss is divided by the number of tokens of the whole step.
In bfloat16 the blocks are gathered in it, so that half of the bytes travel. What is outside of the blocks (embedding,
last norm, head) is gathered in float32, so that the residual stream begins as in one process, and so is each sum.
"""

__all__ = ["Shards", "blocks_of", "divide", "prepare_blocks", "shard_network"]

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.utils.checkpoint import checkpoint

from unmask.errors import ConfigError
from unmask.run.optim import parts_of
from unmask.run.parallel import Group

_METHODS = ("hidden", "logits", "hidden_at")  # what objectives and decoding call on a network; each gathers


def blocks_of(network: Any) -> list[nn.Module]:
    """A network -> its blocks: the modules of its attribute `blocks`, else those of its longest list; perhaps none."""
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    own = getattr(network, "blocks", None)
    return list(own if isinstance(own, nn.ModuleList) else max(lists, key=len, default=()))


def prepare_blocks(network: Any, *, recompute: bool, compiled: bool) -> None:
    """Let each block keep no activations and compute them again in the backward pass, and compile each, in place.

    The order matters: what is compiled is the block that computes again. It comes before `shard_network`, whose hooks
    stay outside of both. Raises ConfigError for a network without blocks.
    """
    blocks = blocks_of(network)
    if not blocks:
        raise ConfigError(
            f"{type(network).__name__} has no list of blocks, which --train.recompute and, with several processes, "
            "--train.compile need; leave them out."
        )
    for block in blocks:
        if recompute:
            block.forward = _recomputed(block.forward)
        if compiled:
            block.forward = torch.compile(block.forward)


def _recomputed(function: Callable[..., Any]) -> Callable[..., Any]:
    """The forward method of a block -> the same, whose activations are computed again. It draws no random numbers."""
    again = partial(checkpoint, function, use_reentrant=False, preserve_rng_state=False)

    def forward(*args: Any, **options: Any) -> Any:
        return again(*args, **options) if torch.is_grad_enabled() else function(*args, **options)

    return forward


def shard_network(
    network: Any,
    group: Group,
    device: torch.device,
    *,
    replicas: int,
    dtype: torch.dtype,
    fill: Callable[[Any], None] | None = None,
) -> "Shards":
    """Divide the parameters of a network, in place, on `device` -> what a training step does with them.

    `replicas` is the number of copies of the network among the processes (HSDP); 1 divides it among all of them.
    `dtype` is the format of matrix products; `fill` gives a network without memory its values.

    Raises ConfigError for a number of replicas that does not divide that of
    the processes, and for a torch that is too old.
    """
    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise ConfigError(f"Training in several processes needs torch 2.13 or newer, and this is {torch.__version__}.")
    # a result that is a view: nothing here writes into what `hidden` and `logits` return while gradients are on
    warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
    divide(network, group.size, device, replicas=replicas, dtype=dtype)
    network.sharded = True
    for name in _METHODS:
        if hasattr(network, name):
            register_fsdp_forward_method(network, name)
    if fill is not None:
        fill(network)
    return Shards(network, group, replicas)


def divide(network: Any, count: int, device: torch.device, *, replicas: int, dtype: torch.dtype) -> None:
    """Divide the parameters of a network, in place, among `count` processes; see `shard_network`."""
    if count % replicas:
        raise ConfigError(
            f"train.replicas is {replicas}, which does not divide the {count} processes of the run; give a divisor."
        )
    sizes, names = (count,), ("shard",)
    if replicas > 1:
        sizes, names = (replicas, count // replicas), ("replicate", "shard")
    mesh = init_device_mesh(device.type, sizes, mesh_dim_names=names)
    low = MixedPrecisionPolicy()
    if dtype != torch.float32:
        low = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    again = count > replicas  # gather a block again for its backward pass; where it is whole, keep it
    for block in blocks_of(network):
        fully_shard(block, mesh=mesh, mp_policy=low, reshard_after_forward=again)
    fully_shard(network, mesh=mesh)


class Shards:
    """The parameters of a network that are divided among the processes of a group, in a training step."""

    def __init__(self, network: Any, group: Group, replicas: int) -> None:
        self.network, self.group, self.replicas = network, group, replicas
        self.modules = [module for module in network.modules() if isinstance(module, FSDPModule)]
        self.params = [param for param in network.parameters() if param.requires_grad]
        for module in self.modules:
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # Gloo has no other reduction with a factor
            module.set_reduce_scatter_unused_params(group.size > 1)  # all reduce the same tensors

    def begin(self, *, last: bool) -> None:
        """Before a micro-batch: gradients are summed over the processes after the `last` one of a step alone."""
        self.modules[0].set_requires_gradient_sync(last)

    def reduce(self, loss: Tensor, most: float) -> tuple[Tensor, Tensor]:
        """The loss of this process -> its sum over all, and the norm of the gradients, which are scaled to `most`.

        There is one sum over the processes for both.
        """
        local = parts_of(param.grad for param in self.params if param.grad is not None)
        square = torch.stack(torch._foreach_norm(local)).double().square().sum()  # pyright: ignore
        own = torch.stack([loss.double(), square / self.replicas])
        total, squares = self.group.sum(own).tolist()
        norm = squares**0.5
        if norm > most:
            torch._foreach_mul_(local, most / (norm + 1e-6))  # pyright: ignore
        return loss.new_tensor(total), loss.new_tensor(norm)

    def reshard(self) -> None:
        """Free what was gathered: after passes without gradients, and before parameters are changed from outside."""
        for module in self.modules:
            module.reshard()
