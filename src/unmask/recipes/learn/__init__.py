"""Trainings of policies as functions that return frozen dataclasses, one file each; read without torch."""

__all__ = ["names", "read"]

from importlib import import_module

from unmask.config import from_dict, read_toml
from unmask.errors import ConfigError, did_you_mean
from unmask.rl.settings import LearnRun

_NAMES = ("automaton", "automaton_eos", "paper", "sudoku")


def names() -> dict[str, str]:
    """Every recipe's name with its one line."""
    return {name: (import_module(f"{__name__}.{name}").__doc__ or "").splitlines()[0] for name in _NAMES}


def read(name_or_path: str) -> LearnRun:
    """A recipe by name, or from a .toml file with checkpoint, task and the tables policy and learn.

    Raises ConfigError for an unknown name, and for a key or value in the file that cannot be.
    """
    if name_or_path.endswith(".toml"):
        return from_dict(LearnRun, read_toml(name_or_path), name_or_path)
    if name_or_path not in _NAMES:
        raise ConfigError(f"There is no policy recipe named '{name_or_path}'; {did_you_mean(name_or_path, _NAMES)}")
    return import_module(f"{__name__}.{name_or_path}").recipe()
