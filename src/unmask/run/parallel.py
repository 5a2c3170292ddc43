"""Data parallelism: several processes under torchrun, each with the whole model and its share of the batch."""

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
    """This process as one of `size`; with a single process no method communicates or changes a value."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process has rank 0, which writes files and prints."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Number of rows -> the slice of this process. Raises ConfigError unless all slices have the same length."""
        if count % self.size:
            raise ConfigError(f"a batch of {count} rows cannot be shared by {self.size} processes: give a multiple.")
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def mean_gradients(self, params: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes; all must call it with the same parameters.

        A parameter without a gradient counts as zero, so that all processes reduce the same tensors: else they would
        wait for each other forever.
        """
        if self.size == 1:
            return
        trained = [param for param in params if param.requires_grad]
        for param in trained:
            if param.grad is None:
                param.grad = torch.zeros_like(param)
        for bucket in _buckets([param.grad for param in trained if param.grad is not None]):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat)
            flat /= self.size
            parts = flat.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def sum(self, tensor: Tensor) -> Tensor:
        """Tensor -> its sum over the processes, equal on each; the tensor itself does not change."""
        if self.size == 1:
            return tensor
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def any(self, wish: bool, device: torch.device) -> bool:
        """Whether `wish` is True on any process, equal on each, so that all leave a loop at the same step."""
        return wish if self.size == 1 else bool(self.sum(torch.tensor(float(wish), device=device)).item() > 0)

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors, in place, with the values of rank 0: after building a model, before training it."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)

    def barrier(self) -> None:
        """Wait until every process has called this."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """Close the connection, at the end of the run."""
        if self.size > 1:
            dist.destroy_process_group()


def join_group(device: torch.device) -> Group:
    """Environment of torchrun (RANK, WORLD_SIZE, LOCAL_RANK) -> the group of this process; without it, a group of one.

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
    """Gradients -> lists of one dtype and device with about `_BUCKET` elements, in the same order on every process."""
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
