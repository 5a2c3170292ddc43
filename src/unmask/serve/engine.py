"""Rows of many requests -> passes of the networks: one thread, one pass a turn, rows join and leave at any pass.

A turn drops the rows that were aborted or are late, admits waiting rows, runs one pass for each group of rows, and
tells each row what the pass did. Rows of a group have the same model, policy with its options, block size, cache and
padded length; temperature, top-p, dial, seed and constraint are each row's own. A row gets the tokens,
log-probabilities and passes that it gets alone, whatever joins, leaves or is aborted beside it. There is no HTTP here.
"""

__all__ = ["Counts", "Engine"]

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch

from unmask.api import Model
from unmask.batch import pad_ids, padded_size
from unmask.decode.canvas import Canvas, Running, constraints_of, join, leave
from unmask.decode.loop import Decoder, Step
from unmask.decode.options import RowOptions
from unmask.decode.rows import filled_row
from unmask.errors import RequestError, RunError, UnmaskError
from unmask.limits import failure_of
from unmask.ranges import Count
from unmask.serve.job import Busy, Decoding, Job, Late, Progress, alone

Result = TypeVar("Result")
_DECODERS = 32  # that were asked for last


@dataclass(slots=True)
class Counts:
    """What an engine has done since it began."""

    passes: int = 0
    tokens: int = 0
    finished: int = 0
    failed: int = 0
    aborted: int = 0


@dataclass(slots=True, eq=False)
class _Group:
    """Rows that go through the network together."""

    decoder: Decoder
    model: Model
    jobs: list[Job] = field(default_factory=list[Job])
    """In the order of the rows of `running`."""
    running: Running | None = None


class Engine:
    """The rows of all requests, and the models that fill them."""

    def __init__(self, models: Mapping[str, Model], *, queue: Count = 256, positions: Count = 32768) -> None:
        """`queue` rows may wait; rows of `positions` positions in all, padding included, are decoded at once.

        A single longer row is decoded alone. Raises RequestError for numbers that cannot be, and for no model.
        """
        if not models:
            raise RequestError("There is no model to serve; give a checkpoint.")
        self.models, self.most_waiting, self.most_positions = dict(models), queue, positions
        self.counts = Counts()
        self._waiting: deque[Job] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._groups: dict[tuple[Decoding, int], _Group] = {}
        self._decoders: dict[Decoding, Decoder] = {}
        self._change = threading.Condition()
        self._closing, self._cut = False, False
        self._thread: threading.Thread | None = None

    # ---- from any thread ------------------------------------------------------------------------------------------

    def submit(self, jobs: Sequence[Job]) -> None:
        """Let rows wait for their first pass; all of them or, with Busy, none.

        Raises RequestError for a policy, cache or model that cannot be.
        """
        for decoding in {job.decoding for job in jobs}:
            self.decoder(decoding)
        with self._change:
            if self._closing:
                raise Busy("The server is stopping and takes no more requests; send it again in a minute.")
            if len(self._waiting) + len(jobs) > self.most_waiting:
                raise Busy(
                    f"{len(self._waiting)} rows are waiting, and {self.most_waiting} at most may; "
                    "send the request again later."
                )
            self._waiting.extend(jobs)
            self._change.notify()

    def decoder(self, decoding: Decoding) -> Decoder:
        """What rows have in common -> their decoding loop, made once. Raises RequestError for what cannot be."""
        with self._change:
            known = self._decoders.pop(decoding, None)
        if known is None:
            if decoding.model not in self.models:
                raise RequestError(f"There is no model '{decoding.model}' here; give one of {', '.join(self.models)}.")
            model = self.models[decoding.model]
            options: dict[str, Any] = {"block_size": decoding.block_size, "cache": decoding.cache}
            made = model.decoder(decoding.policy, **options, alternatives=decoding.alternatives)
            known = replace(made, end_id=model.tokenizer.eos_id if decoding.ends else None)
        with self._change:
            self._decoders[decoding] = known
            while len(self._decoders) > _DECODERS:
                del self._decoders[next(iter(self._decoders))]
        return known

    def call(self, work: Callable[[], Result]) -> "Future[Result]":
        """Work with a model that is no row -> its result, later: it runs between two passes, in the same thread."""
        future: Future[Result] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)

        with self._change:
            if self._closing:
                raise Busy("The server is stopping and takes no more requests; send it again in a minute.")
            if len(self._calls) >= self.most_waiting:
                raise Busy(f"{len(self._calls)} requests are waiting, as many as may; send the request again later.")
            self._calls.append(run)
            self._change.notify()
        return future

    @property
    def waiting(self) -> int:
        """Number of rows that wait for their first pass."""
        return len(self._waiting)

    @property
    def active(self) -> int:
        """Number of rows that are being written."""
        return sum(len(group.jobs) for group in list(self._groups.values()))

    def start(self) -> None:
        """Begin to take turns, in a thread."""
        self._thread = threading.Thread(target=self._run, name="unmask-engine", daemon=True)
        self._thread.start()

    def stop(self, patience: float = 0.0) -> None:
        """Take no more rows, finish those that were taken for at most `patience` seconds, and end the thread."""
        with self._change:
            self._closing = True
            self._change.notify()
        if self._thread is not None:
            self._thread.join(patience)
            self._cut = True
            self._thread.join()

    # ---- a turn ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Take turns until the engine is stopped and nothing is left."""
        while True:
            with self._change:
                while not (self._waiting or self._calls or self._groups or self._closing):
                    self._change.wait()
                if self._closing and not (self._waiting or self._calls or self._groups):
                    return
            self.turn()

    def turn(self) -> None:
        """Drop, admit, do one call, and one pass for each group; only for the thread of the engine, or without one."""
        self._leave_early()
        self._admit()
        if self._calls:
            self._calls.popleft()()
        for key, group in list(self._groups.items()):
            try:
                self._pass(group)
            except Exception as error:
                self._fail(group, error)
            if not group.jobs:
                del self._groups[key]

    def _leave_early(self) -> None:
        """Drop the rows that were aborted, or are late, the waiting ones too."""
        now = time.monotonic()

        def leaves(job: Job) -> bool:
            late = job.deadline is not None and now > job.deadline
            if late and not job.aborted:
                self._end(job, Late("The time of the request was over before its text was finished."))
            self.counts.aborted += job.aborted
            if self._cut and not (job.aborted or late):
                self._end(job, RunError("The server was stopped before the text was finished."))
            return job.aborted or late or self._cut

        with self._change:
            waiting, self._waiting = self._waiting, deque()
        kept = [job for job in waiting if not leaves(job)]
        with self._change:
            self._waiting.extendleft(reversed(kept))
        for key, group in list(self._groups.items()):
            self._remove(group, [leaves(job) for job in group.jobs])
            if not group.jobs:
                del self._groups[key]

    def _remove(self, group: _Group, gone: Sequence[bool]) -> None:
        """Take rows out of a group."""
        if any(gone) and group.running is not None:
            rows = torch.tensor(gone, device=group.running.canvas.seed.device)
            group.running, _ = leave(group.running, rows)
            group.jobs = [job for job, away in zip(group.jobs, gone, strict=True) if not away]

    def _admit(self) -> None:
        """Let waiting rows begin, in their order, as long as they fit `most_positions`."""
        taken = sum(key[1] * len(group.jobs) for key, group in self._groups.items())
        while True:
            with self._change:
                if not self._waiting:
                    return
                job = self._waiting.popleft()
            try:
                if not job.window.tokens and not job.forward(None):
                    self.counts.finished += 1
                    continue
                size = padded_size(len(job.window.tokens))
                if taken and taken + size > self.most_positions:
                    with self._change:
                        self._waiting.appendleft(job)
                    return
                self._enter(job)
                taken += size
            except Exception as error:
                self._end(job, error)

    def _enter(self, job: Job) -> None:
        """Put a row that has a window into its group."""
        size = padded_size(len(job.window.tokens))
        group = self._groups.get((job.decoding, size))
        if group is None:
            group = _Group(self.decoder(job.decoding), self.models[job.decoding.model])
        device = group.model.device
        tokens, valid = pad_ids([job.window.tokens], group.model.tokenizer.pad_id, device)
        options = RowOptions(
            **{name: [value] for name in ("dial", "temperature", "top_p") if (value := getattr(job, name)) is not None}
        )
        seed = torch.tensor([job.window.seed], device=device)
        row = Running(Canvas.start(tokens, seed, valid, **options.tensors(device)))
        group.running = row if group.running is None or not group.jobs else join(group.running, row)
        group.jobs.append(job)
        self._groups[job.decoding, size] = group

    def _pass(self, group: _Group) -> None:
        """One pass of a group, and what follows for each of its rows."""
        assert group.running is not None
        canvas, state = group.running
        rules, numbers = constraints_of([job.rule for job in group.jobs], len(group.jobs))
        canvas = replace(canvas, constraint=torch.tensor(numbers, device=canvas.seed.device))
        decoder = replace(group.decoder, constraints=rules)
        before = int(canvas.passes.sum())
        canvas, state, step = decoder.step(canvas, state)
        group.running = Running(canvas, state)
        self.counts.passes += 1 if int(canvas.passes.sum()) > before else 0
        self.counts.tokens += int(step.revealed.sum())
        finished = (~decoder.unfinished(canvas)).tolist()
        stopped = self._tell(group, canvas, step)
        ends = [over or away for over, away in zip(finished, stopped, strict=True)]
        leaving = [(line, job) for line, (job, gone) in enumerate(zip(group.jobs, ends, strict=True)) if gone]
        self._remove(group, ends)
        for line, job in leaving:
            filled = filled_row(canvas, line, len(job.window.tokens))
            job.passes += filled.passes
            try:
                if not stopped[line] and job.forward(filled):
                    self._enter(job)
                else:
                    self.counts.finished += 1
            except Exception as error:
                self._end(job, error)

    def _tell(self, group: _Group, canvas: Canvas, step: Step) -> list[bool]:
        """Tell each row of its pass -> which rows are to end here."""
        if all(job.passed is None for job in group.jobs):
            return [False] * len(group.jobs)
        tokens, passes, blocks = canvas.tokens.tolist(), canvas.passes.tolist(), _settled(canvas, group.decoder)
        stopped: list[bool] = []
        for line, job in enumerate(group.jobs):
            if job.passed is None:
                stopped.append(False)
                continue
            window = job.window
            before = job.text.tokens[: window.start]
            progress = Progress(
                [*before, *tokens[line][: len(window.tokens)]],
                len(before) + blocks[line],
                job.passes + passes[line],
                lambda line=line, job=job: alone(canvas, step, line, job),
            )
            try:
                stopped.append(job.passed(progress))
            except Exception as error:
                self._end(job, error)
                job.aborted = True  # it leaves before the next pass
                stopped.append(False)
        return stopped

    def _fail(self, group: _Group, error: Exception) -> None:
        """A pass failed: end all rows of its group."""
        for job in group.jobs:
            self._end(job, error)
        group.jobs, group.running = [], None

    def _end(self, job: Job, error: Exception) -> None:
        """Tell a row that it failed."""
        self.counts.failed += 1
        known = error if isinstance(error, UnmaskError) else failure_of(error)
        job.done(known or RunError(f"The server failed with {type(error).__name__}: {error}"))


def _settled(canvas: Canvas, decoder: Decoder) -> list[int]:
    """A canvas after a pass -> positions of each row from its beginning on before the block that is being filled."""
    length = canvas.tokens.shape[1]
    size = decoder.block_size or length
    first = (canvas.origin + canvas.block * size).clamp(min=0)
    left = canvas.masked(decoder.denoiser.mask_id, decoder.end_id).any(-1) | canvas.open
    return torch.where(left, first, length).tolist()
