"""What can go wrong, as one tree; the message of each is one sentence written for the person who typed the request.

UnmaskError
├── ConfigError       a setting that does not exist, or a value it cannot have
├── DataError         a source, a corpus or a tokenizer that cannot be used
├── CheckpointError   a folder or file that is not a checkpoint we can trust
├── RequestError      a question the model cannot answer (too long, no steps, an unknown policy)
├── PluginError       somebody else's policy or task that breaks its contract
└── RunError          a run that had to stop although the request was right (a full disk, NaN)
"""

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "PluginError",
    "RequestError",
    "RunError",
    "UnmaskError",
    "did_you_mean",
]

from collections.abc import Iterable
from difflib import get_close_matches


class UnmaskError(Exception):
    """Anything this library refuses to do. `exit_code` is what the command line returns."""

    exit_code = 2


class ConfigError(UnmaskError, ValueError):
    pass


class DataError(UnmaskError, ValueError):
    pass


class CheckpointError(UnmaskError, ValueError):
    pass


class RequestError(UnmaskError, ValueError):
    pass


class PluginError(UnmaskError, TypeError):
    pass


class RunError(UnmaskError, RuntimeError):
    exit_code = 1


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The second half of a sentence about an unknown name: the nearest one, or all of them."""
    names = sorted(known)
    near = get_close_matches(given, names, n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}."
