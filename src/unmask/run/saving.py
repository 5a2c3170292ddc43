"""Checkpoints that are written while the run goes on: copies of tensors, a thread that writes, a name at a later step.

Each process writes its own slices of sharded tensors (torch.distributed.checkpoint with Hugging Face storage: plain
safetensors); the first process writes all else. The folder has a temporary name until every process has finished its
part. Writing communicates in a group of its own, so that no thread but the main one uses the group of the training.
Several nodes have to see the same folder.
"""

__all__ = ["Saver"]

import json
import os
import shutil
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from unmask.batch import ceil_div
from unmask.disk.files import explained, remove_leftovers, replace_folder, sync_tree, temporary_name
from unmask.disk.tensors import SHARDS, Shards, TensorFacts, check_shards, mark, shard_file
from unmask.errors import CheckpointError, ConfigError, RunError, SaidElsewhere, UnmaskError
from unmask.run.agree import all_or_none
from unmask.run.parallel import Group

_PART = 1 << 30  # bytes of a file, about; DCP holds a second copy of one file while it writes it
_DTYPES = {"float32": "F32", "float64": "F64", "bfloat16": "BF16", "float16": "F16", "int64": "I64", "bool": "BOOL"}
_LOOK = 0.05  # seconds between looks at what is being written
_PATIENCE = 60.0  # seconds in which a run that failed finishes what it writes


@dataclass(eq=False, slots=True)
class _Job:
    """A checkpoint that is being written."""

    folder: Path
    fill: Callable[[Path], None]
    state: dict[str, Tensor] | None
    facts: Mapping[str, Any]
    after: Callable[[], None]
    temporary: Path | None = None
    done: Future[None] = field(default_factory=Future[None])


class Saver:
    """The checkpoints of a run that are being written, the oldest first. All processes call each method together.

    `written` alone is about this process. `device` is that of the communication of `group`.
    """

    def __init__(self, group: Group, device: torch.device) -> None:
        self.group, self.device = group, device
        self._process_group: Any = dist.new_group(backend="gloo") if group.size > 1 else None
        """Of the threads. Its limit is torch's half an hour: a process that writes is waited for."""
        self._jobs: deque[_Job] = deque()
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def pending(self) -> int:
        """Number of checkpoints that have been begun and not named; it is equal in all processes."""
        return len(self._jobs)

    def begin(
        self,
        folder: Path,
        fill: Callable[[Path], None],
        state: Mapping[str, Tensor] | None = None,
        facts: Mapping[str, Any] | None = None,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin a checkpoint; tensors of `state` are copied to the CPU before this returns.

        In the first process `fill` writes the files of a temporary folder but for the training state, in another
        thread, and `after` is called when the folder has its name. Sharded tensors are written by all processes, others
        by one. `facts` become state.json. Errors are raised by `publish`.
        """
        staged = None
        if state is not None:
            staged = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
        job = _Job(folder, fill, staged, facts or {}, after)
        self._jobs.append(job)
        if self.group.size == 1:  # in the main thread, as filters of warnings belong to all threads
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="unmask-saver", daemon=True)
            self._thread.start()
        self._queue.put(job)

    def written(self) -> bool:
        """Whether this process has finished its part of the oldest checkpoint, or failed; True without one."""
        return not self._jobs or self._jobs[0].done.done()

    def publish(self) -> Path:
        """Wait until the oldest checkpoint is written and give its folder its name -> the folder.

        Raises RunError or ConfigError where a process could not write; one of them has the sentence.
        """
        job = self._jobs[0]
        while self.group.size > 1 and self.group.any(not self.written(), self.device):
            time.sleep(_LOOK)  # each look is short, so that a long write is no wait that is too long
        with all_or_none(self.group, self.device), explained(job.folder):
            failure = job.done.exception()
            if failure is not None and (own := self._own(failure)) is not None:
                raise own
            if failure is None and self.group.first:
                _name(job)
        self._jobs.popleft()
        return job.folder

    def load(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Copy the training state of a checkpoint into `tensors`, in place; each process reads its own slices.

        Any number of processes can have written it. They communicate in the group of the training, in the main thread:
        its time limit holds. Raises CheckpointError where a file is damaged, missing or foreign,
        or where names, shapes or types differ.
        """
        import torch.distributed.checkpoint as dcp  # here and below: it takes a second, which other runs need not wait

        state = folder / "state"
        with all_or_none(self.group, self.device):
            if self.group.first:
                _require_same(state, check_shards(state) or {}, tensors)
        with warnings.catch_warnings(), all_or_none(self.group, self.device):
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            try:
                dcp.load(
                    dict(tensors),
                    storage_reader=dcp.HuggingFaceStorageReader(str(state)),
                    no_dist=self.group.size == 1,
                )
            except dcp.CheckpointException as error:
                reason = self._own(error)
                if reason is not None:
                    raise CheckpointError(f"{state} cannot be read ({reason}): copy or write it again.") from error

    def close(self) -> None:
        """End the thread. Where the run failed, what was begun is finished, unless it takes longer than a minute.

        Then the first process gives a checkpoint its name without the others, which may have ended: its part of a save
        ends after theirs. What could not be written is deleted.
        """
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(_PATIENCE)
            self._thread = None
        while self._jobs:
            job = self._jobs.popleft()
            if not (self.group.first and job.done.done() and job.temporary):
                continue
            with suppress(OSError, UnmaskError):  # the run has an error already
                if job.done.exception() is None:
                    _name(job)
            shutil.rmtree(job.temporary, ignore_errors=True)

    def _own(self, failure: BaseException) -> BaseException | None:
        """The failure of a job -> that of this process; None where only others failed."""
        failures: dict[int, Any] | None = getattr(failure, "failures", None)  # of a CheckpointException of torch
        if failures is None:
            return failure
        return failures[self.group.rank][0] if self.group.rank in failures else None

    # ---- in the thread --------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Write the jobs one after the other."""
        while (job := self._queue.get()) is not None:
            try:
                self._write(job)
            except BaseException as error:  # CheckpointException is no Exception
                job.done.set_exception(error)
            else:
                job.done.set_result(None)
            job.state = None

    def _write(self, job: _Job) -> None:
        """Write the part of this process."""
        import torch.distributed.checkpoint as dcp

        if job.state is None:
            if self.group.first:
                job.temporary = _opened(job.folder)
                job.fill(job.temporary)
                sync_tree(job.temporary)
            return
        temporary, save = self._agreed(job)
        shards, files = _parts(job.state, save, self.group.size)
        places = [(process, part) for process in range(shards.processes) for part in range(shards.parts)]
        files |= {mark(shards, *place): place[1] for place in places}  # of all: the first process tells the others
        own = [mark(shards, *place) for place in places if place[0] == self.group.rank]
        tensors = job.state | {name: torch.zeros(0) for name in own}
        writer = dcp.HuggingFaceStorageWriter(
            str(temporary / "state"),
            {name: part + 1 for name, part in files.items()},
            save_distributed=True,
        )
        with self._reached():
            dcp.save(
                tensors,
                storage_writer=writer,
                process_group=self._process_group,
                no_dist=self._process_group is None,
            )
        if self.group.first:
            text = json.dumps({SHARDS: asdict(shards), **job.facts}, indent=2, ensure_ascii=False, allow_nan=False)
            (temporary / "state" / "state.json").write_text(text + "\n", encoding="utf-8")
            for place in places:
                _set_mode(temporary / "state" / shard_file(shards, *place))
            job.fill(temporary)
            sync_tree(temporary)

    def _agreed(self, job: _Job) -> tuple[Path, str]:
        """A job -> its temporary folder, which the first process makes, and the name of the save, for all."""
        made: list[Any] = [None, ""]
        if self.group.first:
            try:
                job.temporary = _opened(job.folder)
                made = [job.temporary, os.urandom(8).hex()]
            except (OSError, ConfigError, RunError) as error:
                made = [error, ""]
        if self._process_group is not None:
            with self._reached():
                dist.broadcast_object_list(made, src=0, group=self._process_group)
        if isinstance(made[0], Exception):
            raise made[0] if self.group.first else SaidElsewhere(getattr(made[0], "exit_code", 1))
        return made[0], made[1]

    @contextmanager
    def _reached(self) -> Generator[None]:
        """Context of communication. Raises RunError where another process has ended."""
        try:
            yield
        except RuntimeError as error:
            if self._process_group is None or isinstance(error, RunError):
                raise
            raise RunError(
                "Another process of the run has ended while a checkpoint was written: its message has the reason; "
                "start all of them again."
            ) from error


def _opened(folder: Path) -> Path:
    """The folder of a checkpoint -> a new empty folder beside it, with a temporary name."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.parent)
    temporary = temporary_name(folder, "tmp")
    temporary.mkdir()
    return temporary


def _name(job: _Job) -> None:
    """Give the folder of a written checkpoint its name."""
    assert job.temporary is not None
    replace_folder(job.temporary, job.folder)
    shutil.rmtree(job.temporary, ignore_errors=True)  # it is the folder now that had the name before
    job.after()


def _parts(state: Mapping[str, Tensor], save: str, processes: int) -> tuple[Shards, dict[str, int]]:
    """Tensors -> the files of the state, and for each tensor the number of its file, from 0; equal in all processes."""
    total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    most = _PART * processes
    numbers: dict[str, int] = {}
    passed = 0
    for name, tensor in state.items():
        numbers[name] = passed // most
        passed += tensor.numel() * tensor.element_size()
    return Shards(save, processes, max(1, ceil_div(total, most))), numbers


def _require_same(state: Path, stored: Mapping[str, TensorFacts], tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError where names, shapes or types of stored tensors are not those of `tensors`."""
    wanted = {
        name: TensorFacts(tuple(tensor.shape), _DTYPES.get(str(tensor.dtype).removeprefix("torch."), ""))
        for name, tensor in tensors.items()
    }
    if wrong := sorted(name for name in wanted.keys() | stored.keys() if wanted.get(name) != stored.get(name)):
        first = wrong[0]
        has, needs = (_shown(facts.get(first)) for facts in (stored, wanted))
        raise CheckpointError(
            f"{state} is of another network: it has {has} for '{first}' and this run {needs}; resume with the settings "
            "that the run began with."
        )


def _shown(facts: TensorFacts | None) -> str:
    return "nothing" if facts is None else f"{facts.dtype} {list(facts.shape)}"


def _set_mode(path: Path) -> None:
    """Give a file of safetensors the permissions that the umask gives to others beside it."""
    path.chmod(path.parent.stat().st_mode & 0o666)
