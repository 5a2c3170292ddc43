"""Pictures on disk, where matplotlib is installed: the only module that imports it."""

__all__ = ["can_draw", "distinct_colors", "new_figure", "plain_ticks", "save_figure"]

import io
import os
from importlib.util import find_spec
from typing import Any

from unmask.disk.files import atomic_bytes


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def new_figure(width: float, height: float) -> Any:
    """Size in inches -> an empty matplotlib Figure, which belongs to no window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def distinct_colors(count: int) -> list[tuple[float, float, float]]:
    """Number -> so many colours (RGB), each different: hues around the circle in three lightnesses."""
    import colorsys

    lightness, saturation = (0.36, 0.5, 0.62), (0.85, 0.75, 0.75)
    return [colorsys.hls_to_rgb(n / max(count, 1), lightness[n % 3], saturation[n % 3]) for n in range(count)]


def plain_ticks(axis: Any) -> None:
    """The axis of a logarithmic scale (`panel.xaxis`) -> it has plain numbers at 1, 2 and 5 times powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def save_figure(path: str | os.PathLike[str], figure: Any) -> None:
    """Write a figure as PNG, whole or not at all; errors as in `files.atomic_folder`."""
    image = io.BytesIO()
    figure.savefig(image, dpi=130, format="png", metadata={"Software": "unmask"})
    atomic_bytes(path, image.getvalue())
