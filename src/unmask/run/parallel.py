"""Several processes under torchrun, each with the whole model and its share of the batch (data parallel)."""

__all__ = ["Group", "join_group"]

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unmask.errors import ConfigError

_BUCKET = 32 * 1024 * 1024  # elements in one all-reduce: large enough to be fast, small beside a model


@dataclass(frozen=True, slots=True)
class Group:
    """This process among `size` of them; with one process every method is free and changes nothing."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """The part of `count` rows that is this process's own; ConfigError unless all get the same number."""
        if count % self.size:
            raise ConfigError(f"a batch of {count} rows cannot be shared by {self.size} processes: give a multiple.")
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def mean_gradients(self, params: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes; all must call it with the same parameters.

        A parameter without a gradient counts as zero, so that processes cannot wait for one another forever.
        """
        if self.size == 1:
            return
        wanted = [param for param in params if param.requires_grad]
        for param in wanted:
            if param.grad is None:
                param.grad = torch.zeros_like(param)
        for bucket in _buckets([param.grad for param in wanted if param.grad is not None]):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat)
            flat /= self.size
            parts = flat.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, the same on each; the given tensor is left as it was."""
        if self.size == 1:
            return tensor
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def any(self, wish: bool, device: torch.device) -> bool:
        """Whether any process wishes it, the same on each: all must leave a loop at the same step."""
        return wish if self.size == 1 else bool(self.sum(torch.tensor(float(wish), device=device)).item() > 0)

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the first one's values, in place: after building a model, before training it."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)

    def barrier(self) -> None:
        """Wait until every process has come here."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """End the connection, at the end of the run."""
        if self.size > 1:
            dist.destroy_process_group()


def join_group(device: torch.device) -> Group:
    """The group that torchrun has started this process in (RANK, WORLD_SIZE, LOCAL_RANK), or a group of one.

    Connects through NCCL for CUDA and Gloo otherwise; with CUDA each process takes the GPU of its local rank.
    Raises ConfigError if only some of the three variables are set.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    missing = [name for name in names if name not in os.environ]
    if "WORLD_SIZE" in missing or os.environ["WORLD_SIZE"] == "1":
        return Group()
    if missing:
        raise ConfigError(f"WORLD_SIZE is set and {' and '.join(missing)} is not: start the run with torchrun.")
    rank, size, local_rank = (int(os.environ[name]) for name in names)
    if device.type == "cuda":
        torch.cuda.set_device(local_rank)
        dist.init_process_group("nccl", device_id=torch.device("cuda", local_rank))
    else:
        dist.init_process_group("gloo")
    return Group(rank, size, local_rank)


def _buckets(gradients: list[Tensor]) -> list[list[Tensor]]:
    """Gradients of one format and device in runs of about `_BUCKET` elements, in the same order everywhere."""
    buckets: list[list[Tensor]] = []
    filled = 0
    for gradient in gradients:
        last = buckets[-1][-1] if buckets else None
        fits = last is not None and (last.dtype, last.device) == (gradient.dtype, gradient.device)
        if fits and filled + gradient.numel() <= _BUCKET:
            buckets[-1].append(gradient)
            filled += gradient.numel()
        else:
            buckets.append([gradient])
            filled = gradient.numel()
    return buckets
