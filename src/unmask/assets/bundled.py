"""Name -> folder of the checkpoints and policies inside the library; imported without torch."""

__all__ = ["bundled", "bundled_policies", "locate", "locate_policy"]

from pathlib import Path

from unmask.errors import RequestError, did_you_mean

_MODELS = Path(__file__).resolve().parent / "models"
_POLICIES = _MODELS.with_name("policies")


def bundled() -> dict[str, Path]:
    """Name -> folder of the checkpoints inside the library."""
    return _folders(_MODELS)


def locate(name_or_path: str) -> str:
    """Name of a bundled checkpoint, or a path -> its folder, or the path. Raises RequestError if there is none."""
    known = bundled()
    path = known.get(name_or_path, Path(name_or_path))
    if not path.exists():
        hint = f"or one of the bundled models; {did_you_mean(name_or_path, known)}" if known else "that exists."
        raise RequestError(f"There is no checkpoint at '{name_or_path}'; give a checkpoint or run folder {hint}")
    return str(known.get(name_or_path, name_or_path))


def bundled_policies() -> dict[str, Path]:
    """Name -> folder of the policies inside the library."""
    return _folders(_POLICIES)


def locate_policy(name_or_path: str) -> Path:
    """Name of a bundled policy, policy folder, or run folder of `unmask learn` -> the policy folder.

    Raises RequestError where there is none.
    """
    known = bundled_policies()
    folder = known.get(name_or_path, Path(name_or_path))
    for candidate in (folder / "policy", folder):
        if (candidate / "config.json").is_file():
            return candidate
    hint = f", or a bundled name: {', '.join(sorted(known))}." if known else "."
    raise RequestError(f"There is no policy at '{name_or_path}'; give a folder that unmask learn wrote{hint}")


def _folders(parent: Path) -> dict[str, Path]:
    return {entry.name: entry for entry in sorted(parent.iterdir()) if entry.is_dir()} if parent.is_dir() else {}
