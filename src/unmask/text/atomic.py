"""Write a file atomically: a reader sees all of it or nothing."""

__all__ = ["write_file"]

import os
import tempfile
from pathlib import Path

from unmask.errors import RunError


def write_file(path: Path, content: bytes) -> None:
    """Write `content` to `path` through a temporary file in the same folder, which is created if it is missing.

    Raises:
        RunError: if the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # mkstemp creates files that only their owner can read
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise RunError(
            f"{path} could not be written ({error.strerror}): free some space, or choose another folder."
        ) from error
