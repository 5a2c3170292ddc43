"""The progress of a training: its clock, when it is looked at, what is measured of its steps, what a checkpoint keeps.

The values of a step are those of metrics.jsonl; among them is the share of the machine's rate of matrix products in use
(model FLOPs utilization, MFU).
"""

__all__ = ["CURVES_SECONDS", "Clock", "Gauge", "StepReport", "TrainState", "Watch", "flops_per_token", "peak_rate"]

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, NamedTuple

import torch

from unmask.disk.tensors import Shards
from unmask.model.settings import DiTSettings, TransformerSettings
from unmask.objective.bound import Bound
from unmask.ranges import Natural, real
from unmask.run.machine import matmul_rates, peak_bytes
from unmask.run.parallel import Group
from unmask.train.plan import TrainPlan
from unmask.train.sample import Look, Sample

CURVES_SECONDS = 2.0
"""The time of a run after its last checkpoint, in which its curves are drawn."""
_KNOWN = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12, "L40S": 362e12}
"""Part of a GPU's name -> its rate in bfloat16 by the data sheet, without sparsity, in FLOP/s; the first that fits."""
_SIZE, _REPEATS = 4096, 8


@dataclass(frozen=True, slots=True)
class TrainState:
    """The content of a checkpoint's state.json."""

    step: Natural
    best_step: Natural
    stale: Natural
    bound: Bound | None
    averaged: Natural
    """Updates of the averages."""
    shards: Shards
    """The files of the tensors."""
    validated_at: Natural | None = None
    seconds: Annotated[float, real(0)] = 0.0
    skipped: Natural = 0


@dataclass(slots=True)
class Clock:
    """The place of a run in its schedule: its step, or, with a budget, the share of the time that has passed.

    A run with a budget that is resumed continues with the seconds that its checkpoint says were spent. It then takes
    the same rows, maskings and dropout at each step as a run that was not interrupted, but, as its learning rates
    depend on the clock, not the same bits; a run of steps does.
    """

    plan: TrainPlan
    group: Group
    device: torch.device
    began: float = field(default_factory=time.perf_counter)
    """The value of `time.perf_counter` when the command began."""
    before: float = 0.0
    """Seconds that were spent before the command began."""
    validating: float = 0.0
    """Seconds of the last validation; 0 before the first."""
    saving: float = 0.5
    """Seconds until the last checkpoint had its name, a guess before the first; the best checkpoint takes less."""
    expired: bool = False
    """Whether the time for steps was over after the last step."""

    def spent(self) -> float:
        """The seconds of the budget that have passed, in this process."""
        return self.before + time.perf_counter() - self.began

    def place(self, step: int) -> float:
        """The finished steps -> the place in the schedule of the learning rate, from 0 to the steps of the plan.

        With a budget it is that of the first process in all of them, which call this together.
        """
        plan = self.plan
        if plan.seconds is None:
            return step
        ending = (self.validating or plan.ending) + 2 * self.saving + CURVES_SECONDS
        passed = plan.steps * self.spent() / max(plan.seconds - ending, 1.0)
        place = min(max(passed, step if plan.capped else 0), plan.steps)
        if self.group.size == 1:
            return place
        first = torch.tensor(place if self.group.first else 0.0, dtype=torch.float64, device=self.device)
        return self.group.sum(first).item()

    def tick(self, step: int) -> None:
        """Note, after a step, whether the time for steps is over; all processes call it together."""
        self.expired = self.plan.seconds is not None and self.place(step) >= self.plan.steps


_FIRST_LOOK = 15.0
_LOOK_MASKINGS = 32
_SHARE = 0.03


@dataclass(slots=True)
class Watch:
    """When a run is looked at: after 15 s, and whenever its time has doubled without a validation.

    A large network takes minutes from one validation to the next, and its first one comes late.
    """

    every: int | None
    """Steps between samples; 0 for none; None for one at each validation and each look, if they take less than a
    thirtieth of the time (the first is always written)."""
    began: float = field(default_factory=time.perf_counter)
    writing: float = 0.0
    """Seconds that all samples took."""
    count: int = 0
    """Samples."""
    seen: float = 0.0
    """Seconds after `began` of the last validation or look."""

    def sample_due(self, step: int) -> bool:
        """Whether this step is one of every so many."""
        return bool(self.every) and step % (self.every or 1) == 0

    def affordable(self) -> bool:
        """Whether a sample beside a validation is wanted, and cheap enough if it takes as long as those before."""
        if self.every is not None:
            return False
        mean = self.writing / max(self.count, 1)
        return self.writing + mean <= _SHARE * (time.perf_counter() - self.began)

    def look_due(self) -> bool:
        """Whether the time since the last validation or look is too long."""
        return time.perf_counter() - self.began >= max(_FIRST_LOOK, 2 * self.seen)

    def look(
        self,
        step: int,
        validated: bool,
        validate: Callable[[int], Bound],
        write: Callable[[], Sample],
        decided: Callable[[bool], bool] = bool,
    ) -> Look | None:
        """What is due after a step, by the functions that measure and write it; a step that is `validated` anyway has
        no bound of its own. None if nothing is due. `decided` takes what a clock says to what the first process says.
        """
        looked = not validated and decided(self.look_due())
        bound = validate(_LOOK_MASKINGS) if looked else None
        sample = write() if self.sample_due(step) or (looked and decided(self.affordable())) else None
        if looked:
            self.looked()
        return Look(bound, sample) if looked or sample else None

    def looked(self) -> None:
        """Note that the run was validated or looked at."""
        self.seen = time.perf_counter() - self.began

    def wrote(self, seconds: float) -> None:
        """Note a sample that took so long."""
        self.writing, self.count = self.writing + seconds, self.count + 1


class StepReport(NamedTuple):
    """The measurements of a step."""

    step: int
    loss: float  # nats per token, the estimate of this batch
    lr: float
    norm: float
    tokens_per_second: float
    look: Look | None = None
    """What was looked at after this step, in the first process."""
    mfu: float | None = None
    """The share of the machine's rate of matrix products that the steps since the last report used."""
    memory: float | None = None
    """The peak memory of the process with the most, in bytes."""
    rows: int | None = None
    """Place in the data: rows of all steps up to this one."""
    skew: float | None = None
    """Seconds between the fastest and the slowest process in the steps since the last report; None for one process."""
    skipped: int | None = None
    """Steps without an update so far, since their loss or gradient was not finite."""

    def values(self) -> dict[str, float | str | None]:
        """The values for metrics.jsonl."""
        named = {name: value for name, value in self._asdict().items() if name not in ("step", "look")}
        numbers = {name: value for name, value in named.items() if value is not None}
        return numbers if self.look is None else numbers | dict(self.look.values())


@dataclass(slots=True)
class Gauge:
    """The speed between two reports, over all processes."""

    plan: TrainPlan
    group: Group
    device: torch.device
    dtype: torch.dtype
    began: float = field(default_factory=time.perf_counter)
    """When the time since the last report began, a value of `time.perf_counter`."""
    read: int = 0
    """Tokens of all batches so far, without padding."""
    since: int = 0
    """The same when the last report was made."""
    worked: float = 0.0
    """Seconds since the last report in which this process computed and did not wait for the sum of the gradients."""
    rate: float = 0.0
    """FLOP/s of all processes together; 0 before `start`."""

    def start(self) -> None:
        """Find out the rate of the machine; all processes call it together, before the first step."""
        own = torch.tensor(peak_rate(self.device, self.dtype), dtype=torch.float64, device=self.device)
        self.rate = float(self.group.sum(own))

    def restart(self) -> None:
        """Leave out the time up to now, such as that of a validation."""
        self.began, self.since, self.worked = time.perf_counter(), self.read, 0.0

    def measure(self) -> dict[str, Any]:
        """The fields of a `StepReport` about speed and memory; all processes call it together."""
        seconds = max(time.perf_counter() - self.began, 1e-9)
        tokens = (self.read - self.since) / seconds
        extremes = torch.tensor([self.worked, -self.worked, peak_bytes(self.device)], dtype=torch.float64)
        slowest, fastest, memory = self.group.most(extremes.to(self.device)).tolist()
        self.restart()
        return {
            "tokens_per_second": tokens,
            "mfu": tokens * _flops(self.plan) / self.rate if self.rate else None,
            "memory": memory,
            "skew": slowest + fastest if self.group.size > 1 else None,
        }


def flops_per_token(model: DiTSettings) -> float:
    """Settings -> floating-point operations of a training step (forward and backward) for each position.

    6 for each weight of the blocks, the attention's two matmuls, and the head at the half of the positions that are
    masked on average. So is what follows the last attention, 9 of the 12 squares of the width in a block.
    """
    blocks = 12 * model.width**2 * model.blocks - 4.5 * model.width**2
    attention = 12 * model.max_length * model.width * model.blocks
    return 6 * blocks + attention + 3 * model.vocab_size * model.width


def _flops(plan: TrainPlan) -> float:
    """A plan -> the floating-point operations of a training step for each position, forward and backward.

    As `flops_per_token`, for transformers too; of another architecture 6 for each parameter. Frozen weights have no
    gradient of their own: 4. Of experts those count that a position uses.
    """
    model, each = plan.model, 6 if plan.trained is None else 4
    if isinstance(model, DiTSettings):
        return flops_per_token(model)
    if not isinstance(model, TransformerSettings):
        return each * plan.parameters
    head = model.vocab_size * model.width
    body = plan.parameters - head * (1 if model.tied else 2)
    if (experts := model.experts) is not None:
        unused = (experts.count - experts.chosen) * 3 * model.width * experts.inner
        body -= unused * (model.blocks - experts.dense)
    attention = 12 * model.max_length * model.heads * model.head * model.blocks
    return each * body + attention + each / 2 * head


def peak_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of matrix products in `dtype`: by the data sheet for bfloat16 on a GPU that is known, else measured.

    On a processor it is measured with the threads of the process, for about 50 ms, once a process.
    """
    return _rate(device, dtype, torch.get_num_threads())


@cache
def _rate(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    if device.type == "cpu":
        rates = matmul_rates(threads)
        return 1e9 * (rates.bf16 if dtype == torch.bfloat16 and rates.bf16 is not None else rates.fp32)
    if device.type == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        if (known := next((rate for part, rate in _KNOWN.items() if part in name), None)) is not None:
            return known
    ones = torch.ones(_SIZE, _SIZE, dtype=dtype, device=device)
    seconds = [_seconds(ones) for _ in range(2)][-1]  # the first product loads the library
    return 2 * _SIZE**3 * _REPEATS / seconds


def _seconds(ones: torch.Tensor) -> float:
    began = time.perf_counter()
    product = ones
    for _ in range(_REPEATS):
        product = ones @ ones
    product[0, 0].item()  # waits for the device
    return time.perf_counter() - began
