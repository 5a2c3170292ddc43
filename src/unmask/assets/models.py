"""The checkpoints that ship inside the library, by name; torch is not needed to find them."""

__all__ = ["bundled", "locate"]

from pathlib import Path

from unmask.errors import RequestError, did_you_mean

FOLDER = Path(__file__).resolve().parent / "models"


def bundled() -> dict[str, Path]:
    """The checkpoints that come with the library, by name."""
    return {entry.name: entry for entry in sorted(FOLDER.iterdir()) if entry.is_dir()} if FOLDER.is_dir() else {}


def locate(name_or_path: str) -> str:
    """The folder of a bundled checkpoint, or the path itself. Raises RequestError where it is neither."""
    known = bundled()
    if name_or_path in known:
        return str(known[name_or_path])
    if not Path(name_or_path).exists():
        hint = f"or one of the bundled models; {did_you_mean(name_or_path, known)}" if known else "that exists."
        raise RequestError(f"There is no checkpoint at '{name_or_path}'; give a checkpoint or run folder {hint}")
    return name_or_path
