"""Pictures on disk, where matplotlib is installed."""

__all__ = ["atomic_figure", "can_draw"]

import io
import os
from importlib.util import find_spec
from typing import Any

from unmask.disk.files import atomic_bytes


def can_draw() -> bool:
    """Whether matplotlib is there."""
    return find_spec("matplotlib") is not None


def atomic_figure(path: str | os.PathLike[str], figure: Any) -> None:
    """Write a matplotlib Figure as PNG, whole or not at all; errors as in `files.atomic_folder`."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=130, format="png")
    atomic_bytes(path, drawn.getvalue())
