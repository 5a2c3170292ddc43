"""The processes of a run under torchrun: how they find each other, share rows, agree on decisions and end together.

How the parameters of a network are divided among them is in `run.shard`.
"""

__all__ = ["LIMIT", "Group", "enter_alone", "enter_group", "join_group", "may_report"]

import os
import re
import socket
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from unmask.errors import ConfigError, RunError, UnmaskError
from unmask.ranges import Range, number_of, whole
from unmask.run.machine import choose_device

LIMIT = 600.0
"""Seconds that a process waits for the others, by default."""
_REST = 0.5  # seconds in which the threads of Gloo free what they hold
_ROLL_CALL = 10.0  # seconds in which a process that still runs answers to its name
_ROLL_LIMIT = 60.0  # seconds in which the group of the roll call connects, and others find that the first is missing


@dataclass(frozen=True, slots=True)
class Group:
    """This process as one of `size`; with a single process no method communicates or changes a value."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    roll: Any = None
    """A group of Gloo for the roll call alone: after a wait without end it tells which process did not come."""

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

    def rows(self, count: int) -> tuple[Tensor, int]:
        """Number of rows -> indices of this process's rows, as many in each process, and how many of them count.

        The others repeat the last row: processes that divide a network have to take the same passes.
        """
        each = -(-count // self.size)
        own = torch.arange(self.rank * each, (self.rank + 1) * each)
        return own.clamp(max=count - 1), int((own < count).sum())

    def sum(self, tensor: Tensor) -> Tensor:
        """Tensor -> its sum over the processes, equal on each; the tensor itself does not change."""
        return self._reduced(tensor, dist.ReduceOp.SUM)

    def most(self, tensor: Tensor) -> Tensor:
        """Tensor -> the largest values over the processes, equal on each; the tensor itself does not change."""
        return self._reduced(tensor, dist.ReduceOp.MAX)

    def any(self, wish: bool, device: torch.device) -> bool:
        """Whether `wish` is True on any process, equal on each, so that all leave a loop at the same step."""
        return wish if self.size == 1 else bool(self.sum(torch.tensor(float(wish), device=device)).item() > 0)

    def decided(self, wish: bool, device: torch.device) -> bool:
        """The `wish` of the first process, in all: for what depends on a clock."""
        return self.any(self.first and wish, device)

    def gather(self, text: str, device: torch.device) -> list[str]:
        """A text of each process -> those of all, by rank, equal on each."""
        return [data.decode() for data in self.gather_bytes(text.encode(), device)]

    def gather_bytes(self, data: bytes, device: torch.device) -> list[bytes]:
        """The bytes of each process -> those of all, by rank, equal on each; they travel as tensors on `device`."""
        if self.size == 1:
            return [data]
        own = torch.frombuffer(bytearray(data or b" "), dtype=torch.uint8)[: len(data)].to(device)
        with self.together():
            lengths = torch.zeros(self.size, dtype=torch.int64, device=device)
            lengths[self.rank] = len(own)
            dist.all_reduce(lengths)
            parts = [own.new_zeros(max(1, int(lengths.max()))) for _ in range(self.size)]
            dist.all_gather(parts, torch.cat([own, own.new_zeros(len(parts[0]) - len(own))]))
        pairs = zip(parts, lengths.tolist(), strict=True)
        return [part[:length].cpu().numpy().tobytes() for part, length in pairs]

    def _reduced(self, tensor: Tensor, operation: Any) -> Tensor:
        if self.size == 1:
            return tensor
        total = tensor.clone()
        with self.together():
            dist.all_reduce(total, op=operation)
        return total

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors, in place, with the values of rank 0: after building a model, before training it."""
        if self.size > 1:
            with self.together():
                for tensor in tensors:
                    dist.broadcast(tensor.detach(), src=0)

    def barrier(self) -> None:
        """Wait until every process has called this."""
        if self.size > 1:
            with self.together():
                dist.barrier()

    @contextmanager
    def together(self) -> Generator[None]:
        """Context of work that communicates.

        Raises RunError where another process has ended, or did not come within the time limit: it is then named. Other
        errors pass.
        """
        try:
            yield
        except RuntimeError as error:  # the errors of torch.distributed are RuntimeErrors
            if self.size == 1 or isinstance(error, UnmaskError) or not _of_communication(error):
                raise
            reason = _reason(error)
            if "imed out" in reason or "timeout" in reason:
                raise RunError(f"{self._missing(reason)} Start all of them again.") from error
            raise RunError(
                f"Another process of the run has ended ({reason}): its message has the reason; start all of them again."
            ) from error

    def _missing(self, reason: str) -> str:
        """After a wait that was too long -> a sentence with the processes that do not answer to their names.

        All that wait come here at about the same time. The first process asks; where it is missing itself, the others
        find out.
        """
        what = f"The run waited for too long ({reason}): "
        if self.roll is None:
            return f"{what}one of its {self.size} processes hangs."
        try:
            dist.monitored_barrier(self.roll, timeout=timedelta(seconds=_ROLL_CALL), wait_all_ranks=True)
        except RuntimeError as error:
            named = re.search(r"Ranks? ([\d, ]+) failed to pass", str(error))
            ranks = named[1].strip() if self.first and named is not None else "0"
            return f"{what}process {ranks} of {self.size} does not answer, as it hangs or computes for too long."
        return f"{what}all {self.size} processes answer now; one was slow, or they do different work."

    def leave(self) -> None:
        """Close the connection, at the end of the run.

        Threads of Gloo free the tensors of a sum after those who waited for it have gone on. One that does so while
        the interpreter ends aborts the process, so there is a moment for them. A signal in this moment changes nothing:
        the run has ended, or the error that ends it is on its way (torchrun sends SIGTERM once a process has failed).
        """
        if self.size > 1 and dist.is_initialized():
            with suppress(KeyboardInterrupt):
                dist.destroy_process_group()
                time.sleep(_REST)


def may_report() -> bool:
    """Whether this process is the one that prints the error which ends a run: of several that fail, the first.

    The processes count their errors in the store of the run. Where it cannot be reached each prints its own.
    """
    place = None
    with suppress(ConfigError):  # which is the error itself
        place = _place(os.environ)
    if place is None:
        return True
    try:
        store = _STORES[-1] if _STORES else _agents_store(place[0])
        return store is None or store.add(f"unmask/errors/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", 1) == 1
    except (RuntimeError, ValueError):
        return True


_STORES: list[Any] = []  # that of the group which this process joined last


def _agents_store(group: Group) -> Any:
    """The store that torchrun holds for its processes, before they join; None where the first of them would hold it."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    return _store(group, 10.0)


def _store(group: Group, seconds: float) -> Any:
    options = {"rank": group.rank, "world_size": group.size, "timeout": timedelta(seconds=seconds)}
    return next(dist.rendezvous("env://", **options))[0]  # pyright: ignore


def join_group(device: torch.device, limit: float = LIMIT) -> Group:
    """Environment of torchrun (RANK, WORLD_SIZE, LOCAL_RANK) -> the group of this process; without it, a group of one.

    Connects through NCCL for CUDA and Gloo otherwise; with CUDA each process takes the GPU of its local rank. A process
    that waits for `limit` seconds for the others ends.
    Raises ConfigError for variables that are missing or wrong, RunError where the processes do not reach each other.
    """
    place = _place(os.environ)
    if place is None:
        return Group()
    group, address = place
    _reach(group, *address)
    options: dict[str, Any] = {"rank": group.rank, "world_size": group.size, "timeout": timedelta(seconds=limit)}
    try:
        store = _store(group, limit)
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            store = _of_this_attempt(store, group.rank, group.size, limit)
        if device.type == "cuda":
            torch.cuda.set_device(group.local_rank)
            at = torch.device("cuda", group.local_rank)
            dist.init_process_group("nccl", store=store, device_id=at, **options)
        else:
            dist.init_process_group("gloo", store=store, **options)
        roll = dist.new_group(backend="gloo", timeout=timedelta(seconds=min(limit, _ROLL_LIMIT)))
    except (RuntimeError, ValueError) as error:  # the errors of torch.distributed are RuntimeErrors
        raise RunError(
            f"The {group.size} processes of the run could not connect at {address[0]}:{address[1]} ({_reason(error)}): "
            "start the run again with torchrun, with another port where this one is taken (--master-port)."
        ) from error
    _STORES.append(store)
    return Group(group.rank, group.size, group.local_rank, roll)


def _of_this_attempt(store: Any, rank: int, size: int, seconds: float) -> Any:
    """The store of an agent, and the place of this process -> a view of it that only processes of this attempt have.

    The agent keeps one store for all attempts. Addresses of processes that have ended stay in it, under the names by
    which those that were started again look for each other, and whoever reads before the new one is written waits for a
    dead process. The number of the attempt does not tell them apart: an agent that joins late begins at 0.

    The first process chooses the prefix. Each other one asks for it under a name that was never used, so that no answer
    is an old one; old questions get answers that nobody reads. Raises RuntimeError after so many seconds.
    """
    own = os.urandom(8).hex()
    if rank:
        store.set(f"unmask/asks/{rank}", own)
        prefix = store.get(f"unmask/told/{own}").decode()
        store.set(f"unmask/knows/{prefix}/{rank}", "")
        return dist.PrefixStore(f"unmask/{prefix}", store)
    waiting, end = set(range(1, size)), time.monotonic() + seconds
    while waiting:
        for other in sorted(waiting):
            if store.check([f"unmask/asks/{other}"]):
                store.set(f"unmask/told/{store.get(f'unmask/asks/{other}').decode()}", own)
        waiting = {other for other in waiting if not store.check([f"unmask/knows/{own}/{other}"])}
        if time.monotonic() > end:
            raise RuntimeError(f"timed out waiting for process {min(waiting)}")
        time.sleep(0.02)
    return dist.PrefixStore(f"unmask/{own}", store)


def enter_group(held: ExitStack, device: str, rows: int, limit: float = LIMIT) -> tuple[Group, torch.device]:
    """The name of a device, and the rows of a batch -> the group of this process, and the device that it uses.

    The process leaves the group when `held` is closed. Raises ConfigError and RunError as `choose_device` and
    `join_group` do, and unless all processes get the same number of rows.
    """
    chosen = choose_device(device)
    group = join_group(chosen, limit)
    held.callback(group.leave)
    if chosen.type == "cuda" and group.size > 1:
        chosen = torch.device("cuda", group.local_rank)
    group.share(rows)
    return group, chosen


def enter_alone(held: ExitStack, group: Group, device: torch.device) -> None:
    """Make a process that is alone a group of torch.distributed until `held` is closed, so that it can divide a network
    as several do. Nothing where there are several."""
    if group.size == 1:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        held.callback(dist.destroy_process_group)


_LOST = "gloo|nccl|Connection (closed|reset)|pair closure"  # the last one: where a wait before was too long


def _of_communication(error: RuntimeError) -> bool:
    """Whether an error is one of torch.distributed."""
    return isinstance(error, dist.DistError) or re.search(_LOST, str(error)) is not None


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
