"""The information curve and what schedules cost, drawn."""

__all__ = ["check_plot", "plot_schedules"]

from importlib import util
from pathlib import Path
from typing import Any

from unmask.errors import ConfigError
from unmask.eval.schedule import Comparison
from unmask.run.pictures import atomic_figure

_COLORS = {"optimal": "C3", "sqrt": "C1", "cosine": "C2", "uniform": "C0", "tc": "C4", "dtc": "C5"}


def check_plot(path: str) -> None:
    """ConfigError where nothing can be drawn to `path`, to be asked before the work."""
    if util.find_spec("matplotlib") is None:
        raise ConfigError("--plot needs a package that is missing: pip install 'unmask[plots]'.")
    if not path.endswith(".png"):
        raise ConfigError(f"--plot is '{path}'; the name of the file has to end in .png.")


def plot_schedules(found: Comparison, path: Path) -> None:
    """Two panels: the curve with its standard errors and fit; and, for each rule, nats per token against passes, as
    predicted (lines) and as measured (points with standard errors).

    Raises ConfigError or RunError where the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_curve(left, found)
    _draw_costs(right, found)
    atomic_figure(path, figure)


def _draw_curve(axes: Any, found: Comparison) -> None:
    curve = found.curve
    share = [j + 1 for j in curve.counts]  # from 1 on, as the axis is logarithmic
    errors = curve.stderr().tolist()
    axes.errorbar(share, curve.cross_entropy.mean(0).tolist(), errors, fmt=".", color="C0", label="cross-entropy")
    axes.plot(range(1, curve.total + 1), curve.fitted().tolist(), color="C3", label="non-increasing fit")
    axes.plot(share, curve.entropy.mean(0).tolist(), ":", color="0.4", label="predictive entropy")
    axes.set(xscale="log", xlabel="revealed tokens + 1", ylabel="nats per hidden token", title="information curve")
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_costs(axes: Any, found: Comparison) -> None:
    n = found.curve.total
    for place, (rule, color) in enumerate(_COLORS.items()):
        mine = [entry for entry in found.entries if entry.rule == rule]
        passes = [entry.steps for entry in mine]
        axes.plot(passes, [entry.predicted / n for entry in mine], color=color, label=rule)
        beside = [k * 1.03 ** (place - 2.5) for k in passes]
        errors = [entry.measured_stderr / n for entry in mine]
        axes.errorbar(beside, [entry.measured / n for entry in mine], errors, fmt=".", color=color)
    axes.axhline(float(found.curve.fitted().sum()) / n, color="0.5", linestyle="--", label="one a pass")
    passes = sorted({entry.steps for entry in found.entries})
    axes.set(xscale="log", xlabel="passes", ylabel="nats per token", title="bound: predicted (lines) and measured")
    axes.set_xticks(passes, [str(k) for k in passes])
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)
    axes.legend()
