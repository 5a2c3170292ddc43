"""The checkpoints and policies that ship inside the library, by name; found without torch."""

__all__ = ["bundled", "bundled_policies", "locate", "locate_policy"]

from pathlib import Path

from unmask.errors import RequestError, did_you_mean

_MODELS = Path(__file__).resolve().parent / "models"
_POLICIES = _MODELS.with_name("policies")


def bundled() -> dict[str, Path]:
    """The checkpoints that come with the library, by name."""
    return _folders(_MODELS)


def locate(name_or_path: str) -> str:
    """The folder of a bundled checkpoint, or the path itself. Raises RequestError where it is neither."""
    known = bundled()
    if name_or_path in known:
        return str(known[name_or_path])
    if not Path(name_or_path).exists():
        hint = f"or one of the bundled models; {did_you_mean(name_or_path, known)}" if known else "that exists."
        raise RequestError(f"There is no checkpoint at '{name_or_path}'; give a checkpoint or run folder {hint}")
    return name_or_path


def bundled_policies() -> dict[str, Path]:
    """The policies that come with the library, by name."""
    return _folders(_POLICIES)


def locate_policy(name_or_path: str) -> Path:
    """The folder of a bundled policy, of a policy, or of a run of `unmask learn`. Raises RequestError otherwise."""
    known = bundled_policies()
    if name_or_path in known:
        return known[name_or_path]
    folder = Path(name_or_path)
    for inside in (folder / "policy", folder):
        if (inside / "config.json").is_file():
            return inside
    hint = f", or a bundled name: {', '.join(sorted(known))}." if known else "."
    raise RequestError(f"There is no policy at '{name_or_path}'; give a folder that unmask learn wrote{hint}")


def _folders(parent: Path) -> dict[str, Path]:
    return {entry.name: entry for entry in sorted(parent.iterdir()) if entry.is_dir()} if parent.is_dir() else {}
