"""One process of a machine at a time makes an entry of the cache; the others wait for it, and then read it."""

__all__ = ["turn"]

import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from unmask.config import cache_folder
from unmask.disk.files import run_lock
from unmask.errors import ConfigError, FolderHeldError, RunError

_PATIENCE = 1800.0
"""Seconds that a process waits."""
_POLL = 0.2


@contextmanager
def turn(entry: Path, note: Callable[[str], None]) -> Generator[None]:
    """Context in which no other process makes `entry`, a folder of the cache; look again inside whether it is there.

    The kernel frees the lock when its process ends, however it ends. `note` gets a sentence where this process waits.
    Processes of other machines with the same cache are kept away where their file system has locks; where it has none
    each makes the entry, and the last one replaces those of the others, which are equal.

    Raises:
        RunError: after half an hour of waiting.
    """
    place = cache_folder() / "locks" / f"{entry.parent.name}-{entry.name}"
    until, noted = time.monotonic() + _PATIENCE, False
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(run_lock(place, note))
                break
            except FolderHeldError as error:
                if time.monotonic() > until:
                    raise RunError(
                        f"Another process has been preparing the data for {_PATIENCE / 60:.0f} minutes ({place}): "
                        "prepare large texts before the training, with unmask data prepare SOURCE --out FOLDER."
                    ) from error
            except (ConfigError, RunError) as error:
                if not isinstance(error.__cause__, OSError):
                    raise
                break  # nothing can be written there: making the entry says so
            if not noted:
                note("another process is preparing the same data; waiting for it.")
            noted = True
            time.sleep(_POLL)
        yield
