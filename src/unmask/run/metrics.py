"""Values of a run by step -> metrics.jsonl (a JSON object a line) and optional trackers; metrics.jsonl -> curves."""

__all__ = ["Metrics", "Tracker", "plot_curves", "read_metrics"]

import json
import math
from collections.abc import Mapping, Sequence
from importlib import import_module, util
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from unmask.batch import ceil_div
from unmask.disk.files import atomic_text, explained
from unmask.disk.json import NotJson, json_lines, read_lines
from unmask.errors import ConfigError, DataError, did_you_mean
from unmask.plots import can_draw, new_figure, save_figure
from unmask.ranges import Natural, holds

Value = float | int | str | bool | None


class Tracker(Protocol):
    """A receiver of the numbers besides the JSONL file."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Store the numbers of a step."""
        ...

    def close(self) -> None:
        """Flush and close."""
        ...


class Metrics:
    """The writer of `folder`/metrics.jsonl; each line is flushed before `log` returns.

    `resumed_at` is the step of the checkpoint from which a run resumes: lines of later steps are dropped, since those
    steps are repeated. None starts an empty file. `track` names trackers ("tensorboard", "wandb") that receive the same
    numbers and show `settings`. Raises ConfigError for an unknown tracker or one that is not installed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        resumed_at: int | None = None,
        track: tuple[str, ...] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Drop the lines that the run will repeat, and open the file."""
        self.path = folder / "metrics.jsonl"
        kept = [] if resumed_at is None or not self.path.exists() else read_metrics(self.path)
        lines = [json.dumps(line) for line in kept if resumed_at is not None and line["step"] <= resumed_at]
        self._trackers = [_tracker(name, folder, settings or {}) for name in track]
        atomic_text(self.path, "".join(f"{line}\n" for line in lines))
        with explained(self.path):
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (open as long as the run)

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Append the values of one step; NaN and infinity, which JSON lacks, are written as null."""
        finite = {name: value if _writable(value) else None for name, value in values.items()}
        with explained(self.path):
            self._file.write(json.dumps({"step": step, **finite}) + "\n")
            self._file.flush()
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        for tracker in self._trackers:
            tracker.add(step, numbers)

    def close(self) -> None:
        """Close the file and the trackers."""
        self._file.close()
        for tracker in self._trackers:
            tracker.close()

    def __enter__(self) -> Self:
        """For `with`: closes at the end."""
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, whether or not the run failed."""
        self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Path of a metrics.jsonl -> its lines, in order; an incomplete last line, as a crash leaves it, is dropped.

    Raises DataError for a file that is missing or has another damaged line.
    """
    try:
        with open(path, "rb") as file:
            lines = list(json_lines(file, dict[str, Any]))
    except OSError as error:
        raise DataError(f"{path} cannot be read: give the metrics.jsonl of a run folder.") from error
    for number, line in lines:
        if (isinstance(line, NotJson) or not holds(Natural, line.get("step"))) and number != lines[-1][0]:
            raise DataError(f"{path} is damaged at line {number}: delete that line.")
    return [line for _, line in lines if not isinstance(line, NotJson) and holds(Natural, line.get("step"))]


def plot_curves(path_jsonl: Path, path_png: Path) -> bool:
    """Draw each number of a metrics.jsonl against the step, in a panel of its own; False where matplotlib is missing.

    Raises DataError as `read_metrics` does and for a file without numbers; ConfigError or RunError as writing does.
    """
    if not can_draw():
        return False
    curves = _curves(read_metrics(path_jsonl))
    if not curves:
        raise DataError(f"{path_jsonl} holds no numbers to draw: let the run log a step first.")
    columns = min(3, len(curves))
    rows = ceil_div(len(curves), columns)
    figure = new_figure(4.5 * columns, 2.8 * rows)
    for index, (name, (steps, values)) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(rows, columns, index)
        axes.plot(steps, values, linewidth=1.2, marker="." if len(steps) < 30 else "")
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.grid(alpha=0.3)
    save_figure(path_png, figure)
    return True


def _curves(lines: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[int], list[float]]]:
    """Name of each number -> its steps and values."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                steps, values = curves.setdefault(name, ([], []))
                steps.append(line["step"])
                values.append(float(value))
    return curves


def _writable(value: Value) -> bool:
    """Whether JSON can represent the value."""
    return not isinstance(value, float) or math.isfinite(value)


def _tracker(name: str, folder: Path, settings: Mapping[str, Any]) -> Tracker:
    """Name -> tracker. Raises ConfigError for an unknown name or a package that is not installed."""
    makers = {"tensorboard": _TensorBoard, "wandb": _WandB}
    if name not in makers:
        raise ConfigError(f"there is no tracker '{name}': {did_you_mean(name, makers)}")
    if util.find_spec(name) is None:
        raise ConfigError(f"tracking with {name} needs a package that is missing: pip install 'unmask[track]'.")
    return makers[name](folder, settings)


class _TensorBoard:
    """Scalars in `folder`/tensorboard."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Open the event file and show the settings as text."""
        self._writer: Any = import_module("torch.utils.tensorboard").SummaryWriter(str(folder / "tensorboard"))
        self._writer.add_text("settings", f"```\n{json.dumps(settings, indent=2, default=str)}\n```")

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add a scalar for each name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class _WandB:
    """A Weights & Biases run with the folder's name; it is resumed with the folder's run."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Start a run, or resume the run whose id is in `folder`/wandb-id."""
        path = folder / "wandb-id"
        run_id = read_lines(path, DataError, "the id of a run of Weights & Biases")[0] if path.exists() else None
        wandb: Any = import_module("wandb")
        self._run = wandb.init(
            dir=str(folder), name=folder.name, project="unmask", id=run_id, resume="allow", config=dict(settings)
        )
        atomic_text(path, str(self._run.id))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Log a record for the step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Flush and close."""
        self._run.finish()
