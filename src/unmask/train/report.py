"""What a training measures of its steps: the values of metrics.jsonl, and the share of the machine's rate in use."""

__all__ = ["Gauge", "StepReport"]

import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from unmask.model.settings import DiTSettings, TransformerSettings
from unmask.run.machine import peak_bytes
from unmask.run.parallel import Group
from unmask.run.peak import peak_rate
from unmask.train.plan import TrainPlan, flops_per_token
from unmask.train.sample import Look


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
