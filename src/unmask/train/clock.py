"""The time of a training run: what a checkpoint keeps of it, and when the run is looked at."""

__all__ = ["CURVES_SECONDS", "Clock", "TrainState", "Watch"]

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import torch

from unmask.disk.sharded import Shards
from unmask.objective.bound import Bound
from unmask.ranges import Natural, real
from unmask.run.parallel import Group
from unmask.train.plan import TrainPlan
from unmask.train.sample import Look, Sample

CURVES_SECONDS = 2.0
"""The time of a run after its last checkpoint, in which its curves are drawn."""


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
