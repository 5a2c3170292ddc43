"""The learned policies that ship inside the library, by name."""

__all__ = ["bundled_policies", "locate_policy"]

from pathlib import Path

from unmask.errors import RequestError

FOLDER = Path(__file__).resolve().parent / "policies"


def bundled_policies() -> dict[str, Path]:
    """The policies that come with the library, by name."""
    return {entry.name: entry for entry in sorted(FOLDER.iterdir()) if entry.is_dir()} if FOLDER.is_dir() else {}


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
