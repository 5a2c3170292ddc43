"""Data parallelism: several processes under torchrun, each with the whole model and its share of the batch."""

__all__ = ["Group", "enter_group", "join_group"]

import os
import re
import socket
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unmask.errors import ConfigError, RunError
from unmask.ranges import Range, number_of, whole
from unmask.run.machine import choose_device

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

        A parameter without a gradient counts as zero where another process has one, so that all reduce the same
        tensors: else they would wait for each other forever. One that has a gradient nowhere keeps none, as in a single
        process, where the optimiser leaves it alone.
        """
        trained = [param for param in params if param.requires_grad]
        if self.size == 1 or not trained:
            return
        present = self.sum(torch.tensor([float(param.grad is not None) for param in trained], device=trained[0].device))
        trained = [param for param, count in zip(trained, present.tolist(), strict=True) if count]
        for param in trained:
            if param.grad is None:
                param.grad = torch.zeros_like(param)
        for bucket in _buckets([param.grad for param in trained if param.grad is not None]):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            with _others():
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
        with _others():
            dist.all_reduce(total)
        return total

    def any(self, wish: bool, device: torch.device) -> bool:
        """Whether `wish` is True on any process, equal on each, so that all leave a loop at the same step."""
        return wish if self.size == 1 else bool(self.sum(torch.tensor(float(wish), device=device)).item() > 0)

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors, in place, with the values of rank 0: after building a model, before training it."""
        if self.size > 1:
            with _others():
                for tensor in tensors:
                    dist.broadcast(tensor.detach(), src=0)

    def barrier(self) -> None:
        """Wait until every process has called this."""
        if self.size > 1:
            with _others():
                dist.barrier()

    def leave(self) -> None:
        """Close the connection, at the end of the run."""
        if self.size > 1:
            dist.destroy_process_group()


def join_group(device: torch.device) -> Group:
    """Environment of torchrun (RANK, WORLD_SIZE, LOCAL_RANK) -> the group of this process; without it, a group of one.

    Connects through NCCL for CUDA and Gloo otherwise; with CUDA each process takes the GPU of its local rank.
    Raises ConfigError for variables that are missing or wrong, RunError where the processes do not reach each other.
    """
    place = _place(os.environ)
    if place is None:
        return Group()
    group, address = place
    _reach(group, *address)
    try:
        if device.type == "cuda":
            torch.cuda.set_device(group.local_rank)
            dist.init_process_group("nccl", device_id=torch.device("cuda", group.local_rank))
        else:
            dist.init_process_group("gloo")
    except (RuntimeError, ValueError) as error:  # the errors of torch.distributed are RuntimeErrors
        raise RunError(
            f"The {group.size} processes of the run could not connect at {address[0]}:{address[1]} ({_reason(error)}): "
            "start the run again with torchrun, with another port where this one is taken (--master-port)."
        ) from error
    return group


def enter_group(held: ExitStack, device: str, rows: int) -> tuple[Group, torch.device]:
    """The name of a device, and the rows of a batch -> the group of this process, and the device that it uses.

    The process leaves the group when `held` is closed. Raises ConfigError and RunError as `choose_device` and
    `join_group` do, and unless all processes get the same number of rows.
    """
    chosen = choose_device(device)
    group = join_group(chosen)
    held.callback(group.leave)
    if chosen.type == "cuda" and group.size > 1:
        chosen = torch.device("cuda", group.local_rank)
    group.share(rows)
    return group, chosen


@contextmanager
def _others() -> Generator[None]:
    """Context of a communication with the other processes. Raises RunError where one of them has ended."""
    try:
        yield
    except RuntimeError as error:  # the errors of torch.distributed are RuntimeErrors
        raise RunError(
            f"Another process of the run has ended ({_reason(error)}): its message has the reason; start all of them "
            "again."
        ) from error


def _reason(error: Exception) -> str:
    """An error of torch.distributed -> its first line, without the place in the program of torch and its advice."""
    first = re.split(r" Exception raised from|\. This is typically", str(error).partition("\n")[0])[0]
    return re.sub(r"^\[\S+\] ", "", first).strip().rstrip(".")


_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_ADVICE = "start the run with torchrun, or unset RANK, WORLD_SIZE and LOCAL_RANK"
_PATIENCE = 60.0  # seconds that the first process may take to open its port


def _place(environment: Mapping[str, str]) -> tuple[Group, tuple[str, int]] | None:
    """Environment -> the group, and host and port of its first process; None outside of a group of several processes.

    Raises ConfigError for variables that are missing, no number, or out of range.
    """
    if not any(environment.get(name) for name in _VARIABLES[:3]):
        return None
    if environment.get("WORLD_SIZE") == "1" and environment.get("RANK", "0") == "0":
        return None
    if missing := [name for name in _VARIABLES if not environment.get(name)]:
        present = next(name for name in _VARIABLES if environment.get(name))
        verb = "is" if len(missing) == 1 else "are"
        raise ConfigError(f"{present} is set and {', '.join(missing)} {verb} not: {_ADVICE}.")
    size = _number(environment, "WORLD_SIZE", whole(1, 10**6, _ADVICE))
    ranks = whole(0, size - 1, f"there are {size} processes; {_ADVICE}")
    group = Group(_number(environment, "RANK", ranks), size, _number(environment, "LOCAL_RANK", ranks))
    return group, (environment["MASTER_ADDR"], _number(environment, "MASTER_PORT", whole(1, 65535)))


def _number(environment: Mapping[str, str], name: str, limits: Range) -> int:
    """Environment and the name of a variable -> its whole number. Raises ConfigError where it is none in the range."""
    return int(number_of(name, environment[name], limits, ConfigError))


def _reach(group: Group, host: str, port: int) -> None:
    """Wait until the port of the first process is open. Raises RunError after a minute, or at once for no such host."""
    end = time.monotonic() + _PATIENCE
    while not group.first:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as error:
            if isinstance(error, socket.gaierror) or time.monotonic() > end:
                reason = (error.strerror or str(error)).lower()
                raise RunError(
                    f"Process {group.rank} of {group.size} cannot reach the first one at {host}:{port} ({reason}): "
                    "check MASTER_ADDR, MASTER_PORT and that the first process runs."
                ) from error
        time.sleep(0.2)


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
