"""Cells on disk: cells/NAME.json each, with what it was to be, how far it is and what it found.

All questions of a folder share their cells. States: running, done, stopped, failed, impossible (a request that the
model or the task cannot meet; no later call will change that).
"""

__all__ = ["Record", "log_path", "read", "read_cell", "run_folder", "write"]

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unmask.config import from_dict, to_dict
from unmask.disk.files import atomic_text
from unmask.errors import ConfigError, DataError
from unmask.reproduce.plan import CELLS, Cell, kind_of


@dataclass(frozen=True, slots=True)
class Record:
    """A cell as it is known."""

    state: str = "not run"
    reason: str = ""
    seconds: float = 0.0
    result: Mapping[str, Any] = field(default_factory=dict[str, Any])


def _path(folder: Path, name: str) -> Path:
    return folder / "cells" / f"{name}.json"


def log_path(folder: Path, name: str) -> Path:
    """What the process of a cell has said."""
    return folder / "cells" / f"{name}.log"


def run_folder(folder: Path, training: str) -> Path:
    """Where a training is."""
    return folder / "runs" / training


def write(folder: Path, cell: Cell, record: Record) -> None:
    """Put a cell on disk, whole or not at all."""
    facts = {
        "kind": kind_of(cell),
        "cell": to_dict(cell),
        "state": record.state,
        "reason": record.reason,
        "seconds": record.seconds,
        "result": record.result,
    }
    atomic_text(_path(folder, cell.name), json.dumps(facts) + "\n")


def read(folder: Path, cell: Cell) -> Record:
    """How far a cell of a plan is. Raises ConfigError where the folder has another cell of that name."""
    found = _facts(folder, cell.name)
    if found is None:
        return Record()
    if found["cell"] != to_dict(cell):
        raise ConfigError(
            f"{_path(folder, cell.name)} was made with other settings (rounds, prompts, --quick or a newer recipe); "
            "choose another folder with --out."
        )
    return Record(found["state"], found["reason"], found["seconds"], found["result"])


def read_cell(folder: Path, name: str) -> Cell:
    """The cell of that name, as it was begun."""
    found = _facts(folder, name)
    if found is None:
        raise DataError(f"{folder} has no cell {name}.")
    return from_dict(CELLS[found["kind"]], found["cell"], str(_path(folder, name)))


def _facts(folder: Path, name: str) -> dict[str, Any] | None:
    path = _path(folder, name)
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise DataError(f"{path} cannot be read; delete it to have the cell made again.") from None
