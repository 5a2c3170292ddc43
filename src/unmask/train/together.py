"""What the processes of a training have in common: shares of a batch, number format, settings, versions and data."""

__all__ = ["common_dtype", "require_parts", "require_same_run"]

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from unmask.config import run_record, to_dict
from unmask.data.packed import Corpus
from unmask.errors import ConfigError
from unmask.run.agree import require_same
from unmask.run.machine import DtypeName, choose_dtype
from unmask.run.parallel import Group
from unmask.train.plan import TrainPlan
from unmask.train.settings import TextRun

if TYPE_CHECKING:
    from unmask.train.budget import Probe

_OWN = frozenset({"device", "threads", "track"})  # settings of the training that may differ between processes


def require_parts(run: TextRun, group: Group) -> None:
    """Raise ConfigError unless the rows of each process can be run in so many parts."""
    batch, parts = run.train.batch, run.train.accumulate
    if batch % (group.size * parts):
        raise ConfigError(
            f"train.batch {batch} cannot be shared by {group.size} processes in {parts} equal parts each; give a "
            f"multiple of {group.size * parts}, or a smaller train.accumulate."
        )


def common_dtype(name: DtypeName, group: Group, device: torch.device) -> torch.dtype:
    """As `choose_dtype`, which may measure: what the first process chose, in all."""
    low = group.decided(choose_dtype(name, device) == torch.bfloat16, device)
    return torch.bfloat16 if low else torch.float32


def require_same_run(run: TextRun, plan: TrainPlan, corpus: Corpus, point: Path | None, probe: "Probe") -> None:
    """Raise ConfigError, in all processes, where they would not do the same training; `point` is what it resumes."""
    settings = {
        f"{part}.{name}": value
        for part, values in to_dict(run).items()
        for name, value in values.items()
        if not (part == "train" and name in _OWN)
    }
    facts = {
        "settings": settings | {"steps": plan.steps, "parameters": plan.parameters},
        "versions": run_record()["versions"],
        "data": {"the text": corpus.fingerprint, "training rows": len(corpus.train)},
        "checkpoints": {"the run goes on from": None if point is None else point.name},
    }
    require_same(probe.group, probe.device, facts)
