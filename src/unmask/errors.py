"""The exceptions of the library; each message is one sentence for the person who made the request.

UnmaskError
├── ConfigError       a setting that does not exist, or a value it cannot have
│   └── FolderHeldError   a folder that another process is writing
├── DataError         a source, a corpus or a tokenizer that cannot be used
├── CheckpointError   a folder or file that is not a whole checkpoint, or is not safe to load
├── RequestError      a request that the model cannot serve (too long, no steps, an unknown policy)
│   └── ArgumentError   an argument of a Python function that does not exist, is missing, or has another type
├── PluginError       a policy or task of another package that breaks its contract
└── RunError          a run that had to stop although the request was right (a full disk, NaN)
    └── SaidElsewhere   another process of the run failed; it says why
"""

__all__ = [
    "ArgumentError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "FolderHeldError",
    "Interrupted",
    "PluginError",
    "RequestError",
    "RunError",
    "SaidElsewhere",
    "UnmaskError",
    "UnmaskWarning",
    "did_you_mean",
    "no_space",
    "plugin_failure",
    "reason_in_words",
]

import errno
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from unmask.output import visible


class UnmaskError(Exception):
    """Base class of the errors of this library. `exit_code` is the exit code of the command line."""

    exit_code = 2

    def __str__(self) -> str:
        """The sentence, on one line: control characters of names and foreign messages in it are escaped."""
        return visible(super().__str__())


class ConfigError(UnmaskError, ValueError):
    """A setting that does not exist, or a value that it cannot have."""


class FolderHeldError(ConfigError):
    """A folder that another process is writing."""


class DataError(UnmaskError, ValueError):
    """A text, a data set or a tokenizer that cannot be used."""


class CheckpointError(UnmaskError, ValueError):
    """A folder or a file that is not a whole checkpoint, or is not safe to load."""


class RequestError(UnmaskError, ValueError):
    """A request that the model cannot serve, for example a text that is too long."""


class ArgumentError(RequestError, TypeError):
    """An argument of a Python function that does not exist, is missing, or has another type."""


class UnmaskWarning(UserWarning):
    """What a request could not keep, although it is served."""


class PluginError(UnmaskError, TypeError):
    """A policy, a task or a constraint of another package that breaks its contract."""


class RunError(UnmaskError, RuntimeError):
    """A run that had to stop although the request was right, for example because the disk is full."""

    exit_code = 1


class SaidElsewhere(RunError):
    """A run that had to stop because another of its processes failed, which says why: nothing is printed here."""

    def __init__(self, exit_code: int = 1) -> None:
        """`exit_code` is that of the other process."""
        super().__init__("Another process of the run failed: its message has the reason.")
        self.exit_code = exit_code


class Interrupted(KeyboardInterrupt):
    """A signal ended the command. The message says what was kept; no handler of ordinary errors catches it."""

    def __init__(self, message: str = "", number: int = 2) -> None:
        """`number` is that of the signal; 2 is SIGINT."""
        super().__init__(message)
        self.number = number

    @property
    def exit_code(self) -> int:
        """128 plus the number of the signal, as shells report it: 130 for Ctrl-C."""
        return 128 + self.number


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """An unknown name and the known ones -> the end of a sentence: the nearest known name, or all of them."""
    from difflib import get_close_matches  # here, for the sake of the start time

    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}."


def reason_in_words(error: BaseException) -> str:
    """An error -> its type and its message on one line, without a full stop."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": .")


def no_space(what: str, error: OSError) -> RunError | None:
    """A path and the error of a write -> the error with its sentence if the disk or the size of a file is at its limit.

    None for every other error.
    """
    if error.errno == errno.EFBIG:
        return RunError(
            f"{what} could not be written because a file may not be that large here: raise the limit of file sizes "
            "('ulimit -f'), or choose another disk."
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(f"{what} could not be written because the disk is full: free some space and try again.")
    return None


@contextmanager
def plugin_failure(what: str, fails: str = "failed") -> Generator[None]:
    """Context in which code that is not ours runs: its name, subject of a sentence, and the predicate if it fails.

    Whatever it raises, SystemExit too, becomes a PluginError that names it with its own type and message; errors of
    this library, KeyboardInterrupt and GeneratorExit pass.
    """
    try:
        yield
    except (UnmaskError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise PluginError(f"{what} {fails}: {reason_in_words(error)}.") from error
